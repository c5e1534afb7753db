"""The command line: what it prints where, and how it ends."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import anndata as ad
import pytest
from typer.testing import CliRunner

import sclm
from sclm.calls import signature, tool_names
from sclm.cli import main
from sclm.cli.app import app

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def folder(tmp_path: Path, query: ad.AnnData, reference: ad.AnnData) -> Path:
    query.write_h5ad(tmp_path / "query.h5ad")
    reference.write_h5ad(tmp_path / "reference.h5ad")
    return tmp_path


def test_help_lists_every_command_and_every_option() -> None:
    runner = CliRunner()
    listed = runner.invoke(app, ["--help"])
    assert listed.exit_code == 0
    for name in [*tool_names(), "demo", "check", "train", "models", "mcp"]:
        assert name.replace("_", "-") in listed.output
    for tool in tool_names():
        shown = runner.invoke(app, [tool.replace("_", "-"), "--help"])
        assert shown.exit_code == 0, shown.output
        for parameter in signature(tool).parameters:
            assert f"--{parameter.name.replace('_', '-')}" in shown.output
    assert runner.invoke(app, ["--version"]).output.strip() == f"sclm {sclm.__version__}"


def test_annotate_prints_text_or_json(folder: Path) -> None:
    words = ["annotate", str(folder / "query.h5ad"), "-o", str(folder / "out.h5ad")]
    words += ["--reference", str(folder / "reference.h5ad"), "--label-key", "cell_type", "--min-confidence", "0.5"]
    runner = CliRunner()
    shown = runner.invoke(app, words)
    assert shown.exit_code == 0, shown.stderr
    assert ".obs['sclm_cell_type']" in shown.stdout
    again = runner.invoke(app, [*words, "--json"])
    assert again.exit_code == 1
    assert json.loads(again.stdout)["error"]["type"] == "FileExistsError"
    assert again.stderr.startswith("sclm: ")
    assert "Traceback" not in again.stderr
    result = json.loads(runner.invoke(app, [*words, "--json", "--overwrite"]).stdout)
    assert result["output"] == str(folder / "out.h5ad")
    assert "sclm_cell_type" in ad.read_h5ad(folder / "out.h5ad").obs


def test_shares_of_a_file(folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sclm.calls.shards.SHARD_CELLS", 50)
    words = ["annotate", str(folder / "query.h5ad"), "-o", str(folder / "out.h5ad"), "--batch-size", "50"]
    words += ["--reference", str(folder / "reference.h5ad"), "--label-key", "cell_type"]
    assert main([*words, "--shard", "2/2"]) == 0
    assert "out.h5ad.parts: 1 of 3 shards are done" in capsys.readouterr().out
    assert not (folder / "out.h5ad").exists()
    assert main([*words, "--shard", "1/2"]) == 0
    assert "out.h5ad: 120 cells" in capsys.readouterr().out
    assert "sclm_cell_type" in ad.read_h5ad(folder / "out.h5ad").obs
    assert (
        main(["adopt", str(folder / "query.h5ad"), "-o", "o.h5ad", "--predictions", "cell_type", "--shard", "1/2"]) == 2
    )


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["--version"], 0),
        (["annotate", "--help"], 0),
        (["anotate"], 2),
        (["annotate"], 2),
        (["annotate", "a.h5ad"], 2),
        (["annotate", "a.h5ad", "-o", "b.h5ad", "--seed", "x"], 2),
        (["annotate", "a.h5ad", "-o", "b.h5ad", "--sead", "1"], 2),
        (["generate", "--model", "m", "-o", "b.h5ad", "--field", "tissue"], 2),
        (["generate", "--model", "m", "-o", "b.h5ad", "--request", "t.csv", "--n-obs", "3"], 2),
        (["annotate", "no-such-file.h5ad", "-o", "b.h5ad"], 1),
        (["check", "no-such-file.h5ad"], 1),
        (["train", "no-such-family", "no-such-file.h5ad", "-o", "m"], 1),
    ],
)
def test_exit_codes(words: list[str], code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(words) == code
    assert list(tmp_path.iterdir()) == []


def test_train_and_generate(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["preset=tiny", "max_epochs=1", "progress_bar=false", "accelerator=cpu", "width=16", "layers=1"]
    options += ["n_programmes=2", "n_levels=8", "programme_iterations=2"]
    words = ["train", "pgl", str(folder / "reference.h5ad"), "-o", str(folder / "model"), "--obs-keys", "cell_type"]
    assert main([*words, *(w for option in options for w in ("--option", option))]) == 0
    assert "it can generate" in capsys.readouterr().out
    words = ["generate", "--model", str(folder / "model"), "-o", str(folder / "cells.h5ad")]
    assert (
        main([*words, "--composition", "B cell=6", "--composition", "monocyte=2", "--n-counts", "300", "--json"]) == 0
    )
    assert json.loads(capsys.readouterr().out)["n_cells"] == 8
    assert ad.read_h5ad(folder / "cells.h5ad").obs["cell_type"].value_counts().to_dict() == {"B cell": 6, "monocyte": 2}
    like = ["--like", str(folder / "query.h5ad"), "--like-keys", "cell_type", "--n-obs", "5", "--overwrite"]
    assert main([*words, *like]) == 0
    assert ad.read_h5ad(folder / "cells.h5ad").n_obs == 5


def test_a_reference_that_is_written(folder: Path, query: ad.AnnData, capsys: pytest.CaptureFixture[str]) -> None:
    section = sclm.datasets.simulate_section(query, "cell_type", n_spots=30, cells_per_spot=3, seed=0)
    section.write_h5ad(folder / "section.h5ad")
    words = ["map-spatial", str(folder / "section.h5ad"), "-o", str(folder / "mapped.h5ad"), "--label-key", "cell_type"]
    assert main([*words, "--reference", str(folder / "reference.h5ad"), "--method", "nnls", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert {"where": ".obsm['sclm_cell_type_fraction']", "shape": [30, 4]} in result["written"]


def test_check_says_what_is_wrong(folder: Path, query: ad.AnnData, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(folder / "query.h5ad")]) == 0
    text = capsys.readouterr().out
    assert "no problems found" in text
    assert "yes annotate" in text
    assert "no  map_spatial  needs coordinates" in text
    query.X = query.X * 0.3
    query.write_h5ad(folder / "bad.h5ad")
    assert main(["check", str(folder / "bad.h5ad"), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["problems"]


def test_models(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "--json"]) == 0
    assert {"name", "kind", "verbs", "licence", "description"} == set(json.loads(capsys.readouterr().out)["models"][0])


def test_as_a_process(folder: Path) -> None:
    """Progress and messages on standard error, JSON alone on standard output, and completion of commands and options."""
    command = [sys.executable, "-m", "sclm"]
    words = ["pathways", "query.h5ad", "-o", "out.zarr", "--min-genes", "1", "--json", "-v"]
    ran = subprocess.run([*command, *words], cwd=folder, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout)["tool"] == "pathways"
    assert "pathways wrote" in ran.stderr
    env = {**os.environ, "_SCLM_COMPLETE": "complete_bash", "COMP_WORDS": "sclm ann", "COMP_CWORD": "1"}
    shown = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)
    assert shown.stdout.split() == ["annotate"]
    env |= {"COMP_WORDS": "sclm annotate --lab", "COMP_CWORD": "2"}
    shown = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)
    assert shown.stdout.split() == ["--label-key"]
