"""A client session of the official SDK, over the standard input and output of a server process."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import anndata as ad
import pytest

import sclm
from sclm.agent import tools

if TYPE_CHECKING:
    from pathlib import Path

SMALLEST = {
    "preset": "tiny", "max_epochs": 1, "width": 16, "layers": 1, "n_programmes": 2, "n_levels": 8, "programme_iterations": 2,
    "progress_bar": False, "accelerator": "cpu",
}  # fmt: skip


@pytest.mark.slow
def test_a_client_annotates_describes_and_generates(tmp_path: Path, query: ad.AnnData, reference: ad.AnnData) -> None:
    pytest.importorskip("mcp")
    import anyio
    from mcp import Client
    from mcp.client.stdio import StdioServerParameters

    query.write_h5ad(tmp_path / "query.h5ad")
    reference.write_h5ad(tmp_path / "reference.h5ad")
    sclm.datasets.pbmc68k()[:150].copy().write_h5ad(tmp_path / "blood.h5ad")
    sclm.train("pgl", reference, obs_keys=["cell_type"], **SMALLEST).save(tmp_path / "writer")
    beats: list[float] = []

    async def heard(progress: float, total: float | None, message: str | None) -> None:
        beats.append(progress)

    async def session() -> dict[str, Any]:
        # A server that prints where it should not: the protocol must not be hurt.
        code = (
            "import sclm.agent.server as s, sclm.agent.calling as c\n"
            "s._BEAT = 0.2\n"
            "real = c.call\n"
            "def call(*a):\n    print('noise on standard output', flush=True)\n    return real(*a)\n"
            "s.call = call\n"
            "s.serve()"
        )
        found: dict[str, Any] = {}
        async with Client(StdioServerParameters(command=sys.executable, args=["-c", code], cwd=tmp_path)) as client:
            found["tools"] = (await client.list_tools()).tools
            calls = {
                "named": ("annotate", {"path": "query.h5ad", "output": "named.h5ad", "reference": "reference.h5ad", "label_key": "cell_type"}),
                "cells": ("generate", {"request": {"fields": {"cell_type": "B cell"}, "n_obs": 3}, "model": "writer", "output": "cells.h5ad"}),
                "wrong": ("annotate", {"path": "no-such-file.h5ad", "output": "out.h5ad"}),
            }  # fmt: skip
            calls["described"] = (
                "describe",
                {"path": "blood.h5ad", "output": "described.h5ad", "groupby": "cell_type"},
            )
            for key, (name, args) in calls.items():
                found[key] = await client.call_tool(name, args, progress_callback=heard)
        return found

    found = anyio.run(session)
    assert [tool.name for tool in found["tools"]] == [tool["name"] for tool in tools()]
    assert found["tools"][0].input_schema == tools()[0]["input_schema"]
    assert not found["named"].is_error, found["named"].content
    assert found["named"].structured_content["n_cells"] == query.n_obs
    assert json.loads(found["named"].content[0].text) == found["named"].structured_content
    assert "sclm_cell_type" in ad.read_h5ad(tmp_path / "named.h5ad").obs
    assert found["cells"].structured_content["n_cells"] == 3
    assert ad.read_h5ad(tmp_path / "cells.h5ad").n_obs == 3
    assert found["wrong"].is_error
    assert found["wrong"].structured_content["error"]["type"] == "FileNotFoundError"
    assert beats, "no sign of life in a call of seconds"
    assert not found["described"].is_error, found["described"].content
    assert len(sclm.get.describe(ad.read_h5ad(tmp_path / "described.h5ad"), groups=True)) == 10


def test_without_the_package_it_says_what_to_install() -> None:
    code = "import sys; sys.modules['mcp'] = None; from sclm.cli import main; sys.exit(main(['mcp']))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.returncode == 1
    assert ran.stdout == ""
    assert "pip install 'sclm[mcp]'" in ran.stderr
