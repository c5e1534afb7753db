"""What an agent sees and what it is answered."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import anndata as ad
import pytest

import sclm
from sclm.agent import call, tools
from sclm.agent.calling import ARGUMENTS
from sclm.agent.schemas import GROUPS, MAX_TOOLS, NOT_FOR_AGENTS, OWN, members
from sclm.calls import signature, tool_names

if TYPE_CHECKING:
    from pathlib import Path

SMALLEST = {
    "preset": "tiny", "max_epochs": 1, "width": 16, "layers": 1, "n_programmes": 2, "n_levels": 8, "programme_iterations": 2,
    "progress_bar": False, "accelerator": "cpu",
}  # fmt: skip
BY_NAME = {tool["name"]: tool for tool in tools()}


def answered(name: str, args: dict[str, Any]) -> dict[str, Any]:
    """An answer, checked to be small JSON that its schema describes."""
    answer = call(name, args)
    text = json.dumps(answer, allow_nan=False)
    assert json.loads(text) == answer
    assert len(text) < 16_000
    jsonschema = pytest.importorskip("jsonschema")
    jsonschema.validate(answer, BY_NAME[name]["output_schema"] if name in BY_NAME else {})
    return answer


@pytest.fixture
def folder(tmp_path: Path, query: ad.AnnData, reference: ad.AnnData) -> Path:
    query.write_h5ad(tmp_path / "query.h5ad")
    reference.write_h5ad(tmp_path / "reference.h5ad")
    return tmp_path


def test_at_most_twelve_tools_and_every_tool_is_in_one() -> None:
    assert len(BY_NAME) == len(tools()) <= MAX_TOOLS, "put new tools into a group of sclm.agent.schemas.GROUPS"
    reached = [tool for name in BY_NAME for tool in members(name)]
    assert sorted([*reached, *NOT_FOR_AGENTS]) == tool_names()
    assert set(BY_NAME) >= set(OWN)


@pytest.mark.parametrize("name", list(BY_NAME))
def test_schemas_are_valid_and_plain(name: str) -> None:
    tool = BY_NAME[name]
    jsonschema = pytest.importorskip("jsonschema")
    for which in ("input_schema", "output_schema"):
        jsonschema.Draft202012Validator.check_schema(tool[which])
        text = json.dumps(tool[which])
        assert "$ref" not in text
        assert not {"oneOf", "anyOf", "allOf"} & set(tool[which])  # providers refuse these at the top
    assert 20 < len(tool["description"]) <= 700
    for key, value in tool["input_schema"]["properties"].items():
        assert value.get("description"), f"{name}.{key}"
    assert set(tool["input_schema"]["required"]) <= set(tool["input_schema"]["properties"])
    assert json.dumps(tool)  # no types of Python are left


def test_schemas_follow_the_signatures() -> None:
    for tool in set(tool_names()) - NOT_FOR_AGENTS:
        name = next(n for n in BY_NAME if tool in members(n))
        properties = BY_NAME[name]["input_schema"]["properties"]
        for parameter in signature(tool).parameters:
            assert parameter.name in properties or parameter.name == "batch_size"
            if name == tool and parameter.required:
                assert parameter.name in BY_NAME[name]["input_schema"]["required"]
    for group, (_, names) in GROUPS.items():
        assert BY_NAME[group]["input_schema"]["properties"]["analysis"]["enum"] == [
            n for n in names if n in tool_names()
        ]
    for name in OWN:
        assert set(ARGUMENTS[name]) == set(BY_NAME[name]["input_schema"]["properties"])


def test_the_whole_list_fits_into_a_prompt() -> None:
    assert len(json.dumps([{k: v for k, v in t.items() if k != "output_schema"} for t in tools()])) < 48_000


def test_a_session(folder: Path) -> None:
    """Check, train, annotate, read, generate: each answer has what the next call needs."""
    looked = answered("check", {"path": str(folder / "query.h5ad")})
    assert looked["problems"] == []
    trained = answered(
        "train",
        {"family": "logistic", "paths": [str(folder / "reference.h5ad")], "output": str(folder / "model"), "arguments": {"label_key": "cell_type"}},
    )  # fmt: skip
    assert trained["verbs"] == ["annotate"]
    named = answered(
        "annotate",
        {"path": str(folder / "query.h5ad"), "output": str(folder / "named.h5ad"), "model": trained["model"]},
    )
    top = next(entry["top"] for entry in named["written"] if entry["where"] == ".obs['sclm_cell_type']")
    table = answered(
        "read", {"path": named["output"], "result": "annotate", "sort_by": "confidence", "ascending": True, "rows": 5}
    )
    truth = sclm.get.annotate(ad.read_h5ad(folder / "named.h5ad"))
    assert sum(entry["n"] for entry in top) == len(truth)
    assert [row["confidence"] for row in table["first"]] == pytest.approx(
        truth["confidence"].sort_values()[:5].tolist(), rel=1e-5
    )
    only = answered(
        "read", {"path": named["output"], "result": "annotate", "where": {"cell_type": "B cell"}, "rows": 50}
    )
    assert only["rows"] == int((truth["cell_type"] == "B cell").sum())
    active = answered(
        "measure",
        {
            "analysis": "pathways",
            "path": named["output"],
            "output": str(folder / "p.h5ad"),
            "groupby": "sclm_cell_type",
            "min_genes": 1,
        },
    )
    assert active["ok"]
    groups = answered(
        "read",
        {
            "path": active["output"],
            "result": "pathways",
            "options": {"groups": True},
            "sort_by": "p",
            "ascending": True,
        },
    )
    assert {"group", "name", "p"} <= set(groups["columns"])
    trained = answered(
        "train",
        {"family": "pgl", "paths": [str(folder / "reference.h5ad")], "output": str(folder / "writer"), "arguments": {"obs_keys": ["cell_type"]}, "options": SMALLEST},
    )  # fmt: skip
    request = {"fields": {"cell_type": "B cell"}, "n_obs": 4}
    cells = answered("generate", {"request": request, "model": trained["model"], "output": str(folder / "cells.h5ad")})
    assert cells["n_cells"] == 4


def test_errors_are_answers_and_nothing_is_written(folder: Path) -> None:
    before = sorted(folder.iterdir())
    path, output = str(folder / "query.h5ad"), str(folder / "out.h5ad")
    cases = [
        ("no-such-tool", {}, "ValueError", "there is no tool 'no-such-tool'. There are check"),
        ("annotate", {"path": path}, "TypeError", "annotate needs output"),
        ("annotate", {"path": 3, "output": output}, "TypeError", "path must be the path of a file"),
        ("annotate", {"path": path, "output": output, "mode": "x"}, "TypeError", "Did you mean model"),
        ("annotate", {"path": path, "output": output, "layer": "none"}, "KeyError", "layer='none' is not in adata.layers"),
        ("annotate", {"path": path, "output": path}, "ValueError", "the input is never changed"),
        ("annotate", {"path": path, "output": output, "overwrite": "yes"}, "TypeError", "overwrite must be true or false"),
        ("measure", {"path": path, "output": output}, "ValueError", "analysis must be one of embed, pathways, translate"),
        ("measure", {"analysis": "embed", "path": path, "output": output}, "TypeError", "embed needs model"),
        ("generate", {"output": output, "model": "m"}, "TypeError", "generate needs request"),
        ("generate", {"output": output, "model": "m", "request": {"n_obs": "five"}}, "TypeError", "n_obs must be a whole number"),
        ("train", {"family": "logistic", "paths": path, "output": output}, "TypeError", "paths must be of type array"),
        ("train", {"family": "logistik", "paths": [path], "output": output}, "ValueError", "Did you mean 'logistic'"),
        ("check", {}, "TypeError", "check needs path"),
        ("check", {"path": str(folder / "reference.h5a")}, "ValueError", "must end in"),
        ("models", {"verb": "dance"}, "ValueError", "no model can 'dance'"),
        ("read", {"path": path, "result": "annotate"}, "KeyError", "Run sclm.tl.annotate first"),
        ("read", {"path": path, "result": "anotate"}, "ValueError", "there is no table 'anotate'"),
        ("read", {"path": path, "result": "annotate", "options": {"group": 1}}, "TypeError", "takes no 'group'; it takes key"),
        ("read", {"path": path, "result": "annotate", "rows": 5000}, "ValueError", "rows must be a whole number from 1 to 50"),
    ]  # fmt: skip
    for name, args, kind, message in cases:
        answer = answered(name, args)
        assert (answer["ok"], answer["error"]["type"]) == (False, kind), answer
        assert message in answer["error"]["message"]
    assert sorted(folder.iterdir()) == before


def test_a_matrix_is_not_read_out(folder: Path) -> None:
    wide = sclm.datasets.pbmc68k()[:60].copy()
    wide.write_h5ad(folder / "wide.h5ad")
    out = str(folder / "out.h5ad")
    assert call("annotate", {"path": str(folder / "wide.h5ad"), "output": out, "model": "marker-lists"})["ok"]
    answer = call("read", {"path": out, "result": "probabilities"})
    assert ("is a matrix of 60 x" in answer.get("error", {}).get("message", "")) or len(answer["columns"]) <= 40


def test_models_by_verb() -> None:
    rows = answered("models", {"verb": "generate"})["models"]
    assert "pgl" in {row["name"] for row in rows}
    assert all("generate" in row["verbs"] for row in rows)


def test_listing_the_tools_loads_no_network() -> None:
    code = "import sclm.agent, sys; sclm.agent.tools(); print('torch' in sys.modules, 'anndata' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == ["False", "False"]
