"""Checkpoints of other layouts: recognised, converted once, refused with what was found."""

from __future__ import annotations

import sys
import types
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import sclm
from sclm.models import foreign

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import anndata as ad


@pytest.fixture
def layout(reference: ad.AnnData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A layout of one file, "toy.bin", which becomes a model of mean profiles; counts its conversions."""
    monkeypatch.setenv("SCLM_DATA_DIR", str(tmp_path / "data"))
    model = sclm.train("mean", reference, label_key="cell_type")
    module: Any = types.ModuleType("toy_layout")
    module.LAYOUT = "a folder with toy.bin"
    module.conversions = 0
    module.recognise = lambda path: (path / "toy.bin").is_file()
    module.sources = lambda path: [path / "toy.bin"]

    def convert(path: Path) -> Any:
        module.conversions += 1
        fresh = type(model).from_arrays(model.config, model.vocabulary, model.arrays(), {"toy": "yes"})
        assert fresh.path is None
        return fresh

    module.convert = convert
    module.model = model
    monkeypatch.setitem(sys.modules, "toy_layout", module)
    monkeypatch.setattr(foreign, "FOREIGN", {"mean": "toy_layout"})
    return module


def test_a_foreign_checkpoint_is_converted_once_for_its_bytes(layout: Any, tmp_path: Path, query: ad.AnnData) -> None:
    folder = tmp_path / "original"
    folder.mkdir()
    (folder / "toy.bin").write_bytes(b"first")
    first = sclm.load(folder)
    again = sclm.load(str(folder))
    assert layout.conversions == 1
    assert first.path == again.path
    assert first.path.parent == tmp_path / "data" / "converted"
    assert first.card["toy"] == "yes"
    cells = sclm.cells.read_cells(query).read()
    expected = layout.model.annotate(cells).probabilities
    np.testing.assert_array_equal(again.annotate(cells).probabilities, expected)
    (folder / "toy.bin").write_bytes(b"second")
    other = sclm.load(folder)
    assert layout.conversions == 2
    assert other.path != first.path
    assert not [p for p in first.path.parent.iterdir() if p.name.startswith(".")], "no half-written copy stays"


def test_a_cache_that_cannot_be_written_costs_time_only(
    layout: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "original"
    folder.mkdir()
    (folder / "toy.bin").write_bytes(b"first")
    (tmp_path / "data").write_text("a file where the folder should be")
    with caplog.at_level("WARNING"):
        model = sclm.load(folder)
    assert model.path == folder
    assert "could not be kept" in caplog.text


def test_what_is_unknown_is_refused_with_what_is_there(layout: Any, tmp_path: Path) -> None:
    folder = tmp_path / "other"
    folder.mkdir()
    with pytest.raises(
        FileNotFoundError, match=r"no checkpoint that sclm reads. Found nothing.*mean: a folder with toy.bin"
    ):
        sclm.load(folder)
    (folder / "weights.onnx").write_bytes(b"1")
    (folder / "config.json").write_text('{"model_type": "other"}')
    with pytest.raises(ValueError, match=r"Found config.json, weights.onnx\."):
        sclm.load(folder)
    (folder / "config.json").write_text("not json")
    with pytest.raises(ValueError, match=r"Found config.json, weights.onnx\."):
        sclm.load(folder)
    with pytest.raises(ValueError, match="Found a file of 1 bytes"):
        sclm.load(folder / "weights.onnx")


def test_every_tensor_is_accounted_for() -> None:
    expected = {"a": (2, 3), "b": (4,), "c": (5, 6)}
    found = {"a": np.zeros((2, 3)), "b": np.zeros(4), "c": np.zeros((5, 6)), "mean": np.zeros(1)}
    foreign.refuse_unmatched(expected, found, "x.pt", ignored={"mean"})
    with pytest.raises(ValueError, match="unknown mean"):
        foreign.refuse_unmatched(expected, found, "x.pt")
    with pytest.raises(ValueError, match=r"x.pt .* missing b; unknown d"):
        foreign.refuse_unmatched(expected, {"a": found["a"], "c": found["c"], "d": found["b"]}, "x.pt")
    with pytest.raises(ValueError, match=r"c: expected \(5, 6\), found \(6, 5\) \(transposed\)"):
        foreign.refuse_unmatched(expected, found | {"c": np.zeros((6, 5))}, "x.pt", ignored={"mean"})


def test_published_names_are_bound_by_hashes() -> None:
    names = sclm.models.available()
    assert {"scgpt-whole-human", "geneformer-v1-10m", "geneformer-v2-104m", "geneformer-v2-316m"} <= set(names.index)
    for entry in sclm.models.PUBLISHED.values():
        weights = [file for file in entry.sha256 if file.endswith((".safetensors", ".pt", ".pkl"))]
        assert weights
        assert all(len(entry.sha256[file]) == 64 for file in weights), entry.name
