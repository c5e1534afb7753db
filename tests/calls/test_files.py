"""Files in and out: whole or not at all, and never the input."""

from __future__ import annotations

import functools
import hashlib
import json
from typing import TYPE_CHECKING, Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import zarr

import sclm
from sclm.calls import brief, files, run
from sclm.calls import train as train_on_files

if TYPE_CHECKING:
    from pathlib import Path

    import anndata


pytestmark = pytest.mark.filterwarnings("ignore:Writing zarr v2 data:UserWarning")


def digest(path: Path) -> str:
    parts = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    return hashlib.sha256(b"".join(part.read_bytes() for part in parts)).hexdigest()


@pytest.fixture
def folder(tmp_path: Path, query: anndata.AnnData, reference: anndata.AnnData) -> Path:
    query.write_h5ad(tmp_path / "query.h5ad")
    query.write_zarr(tmp_path / "query.zarr")
    reference.write_h5ad(tmp_path / "reference.h5ad")
    return tmp_path


def annotate(folder: Path, source: str, out: str, **options: Any) -> dict[str, Any]:
    arguments = {"reference": str(folder / "reference.h5ad"), "label_key": "cell_type"}
    return run("annotate", folder / source, folder / out, arguments, **options)


@pytest.mark.parametrize(
    ("source", "out"), [("query.h5ad", "out.h5ad"), ("query.zarr", "out.zarr"), ("query.h5ad", "out.zarr")]
)
def test_the_same_as_the_call_in_python(
    folder: Path, query: anndata.AnnData, reference: anndata.AnnData, source: str, out: str
) -> None:
    before = digest(folder / source)
    result = annotate(folder, source, out)
    assert digest(folder / source) == before
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    assert len(json.dumps(result)) < 10_000
    found = ad.read_zarr(folder / out) if out.endswith("zarr") else ad.read_h5ad(folder / out)
    sclm.tl.annotate(query, reference=reference, label_key="cell_type")
    pd.testing.assert_frame_equal(sclm.get.annotate(found), sclm.get.annotate(query), check_categorical=False)
    written = {entry["where"]: entry for entry in result["written"]}
    counts = query.obs["sclm_cell_type"].value_counts()
    assert {t["value"]: t["n"] for t in written[".obs['sclm_cell_type']"]["top"]} == counts[counts > 0].to_dict()
    assert written[".obs['sclm_cell_type_confidence']"]["mean"] == pytest.approx(
        query.obs["sclm_cell_type_confidence"].mean(), rel=1e-5
    )
    assert result["records"]["sclm_cell_type"]["genes"] == query.uns["sclm_cell_type"]["genes"]
    assert sorted(p.name for p in folder.iterdir()) == sorted(
        {"query.h5ad", "query.zarr", "reference.h5ad", out}
    )  # nothing beside


@pytest.mark.parametrize("name", ["out.h5ad", "out.zarr"])
def test_what_is_there_is_replaced_on_request_only(folder: Path, name: str) -> None:
    annotate(folder, "query.h5ad", name)
    first = digest(folder / name)
    with pytest.raises(FileExistsError, match="is there already"):
        annotate(folder, "query.h5ad", name)
    assert digest(folder / name) == first
    result = run("pathways", folder / "query.h5ad", folder / name, {"min_genes": 1}, overwrite=True)
    assert result["tool"] == "pathways"
    assert digest(folder / name) != first


@pytest.mark.parametrize("name", ["out.h5ad", "out.zarr"])
def test_a_write_that_fails_leaves_what_was_there(folder: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    annotate(folder, "query.h5ad", name)
    first = digest(folder / name)

    def broken(*args: Any) -> None:
        raise OSError("no space left")

    monkeypatch.setattr("sclm.calls.streaming.put", broken)  # the input is copied by then
    monkeypatch.setattr(ad.AnnData, "write_zarr", broken)
    with pytest.raises(OSError, match="no space left"):
        annotate(folder, "query.h5ad", name, overwrite=True)
    assert digest(folder / name) == first
    assert sorted(p.name for p in folder.iterdir()) == sorted({"query.h5ad", "query.zarr", "reference.h5ad", name})


def test_refusals_come_before_any_work(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sclm.calls.files._reader", lambda *a: pytest.fail("a file was read"))
    cases: list[tuple[type[Exception], str, tuple[Any, ...]]] = [
        (FileNotFoundError, "Near names: query.h5ad", ("annotate", folder / "qeury.h5ad", folder / "o.h5ad", {})),
        (ValueError, "must end in", ("annotate", folder / "query.csv", folder / "o.h5ad", {})),
        (ValueError, "must end in", ("annotate", folder / "query.h5ad", folder / "o.csv", {})),
        (ValueError, "the input is never changed", ("annotate", folder / "query.h5ad", folder / "query.h5ad", {})),
        (FileNotFoundError, "does not exist", ("annotate", folder / "query.h5ad", folder / "no" / "o.h5ad", {})),
        (TypeError, "Did you mean label_key", ("annotate", folder / "query.h5ad", folder / "o.h5ad", {"label_ky": "x"})),
        (TypeError, "seed must be a whole number, found str '1'", ("annotate", folder / "query.h5ad", folder / "o.h5ad", {"seed": "1"})),
        (TypeError, "embed needs model", ("embed", folder / "query.h5ad", folder / "o.h5ad", {})),
        (FileNotFoundError, "ref.h5ad is not there", ("annotate", folder / "query.h5ad", folder / "o.h5ad", {"reference": str(folder / "ref.h5ad")})),
        (ValueError, "there is no tool 'anotate'", ("anotate", folder / "query.h5ad", folder / "o.h5ad", {})),
        (TypeError, "makes its own cells", ("generate", folder / "query.h5ad", folder / "o.h5ad", {"request": {"n_obs": 1}, "model": "x"})),
    ]  # fmt: skip
    for error, message, call in cases:
        with pytest.raises(error, match=message):
            run(*call, overwrite=True)
    for inside in ("in.h5ad", "obs/in.h5ad"):
        with pytest.raises(ValueError, match=r"lies in .*query\.zarr, which is read: the input is never changed"):
            run("annotate", folder / "query.zarr", folder / "query.zarr" / inside, {}, overwrite=True)
    link = folder / "link.h5ad"
    link.symlink_to(folder / "query.h5ad")
    with pytest.raises(ValueError, match="the input is never changed"):
        run("annotate", folder / "query.h5ad", link, {}, overwrite=True)


def test_endings_that_do_not_fit_are_refused_before_any_work(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sclm.calls.files.read", lambda *a: pytest.fail("a file was read"))
    for tool in ("annotate", "generate"):
        ran = functools.wraps(getattr(sclm.tl, tool))(lambda *a, **k: pytest.fail("the tool was run"))
        monkeypatch.setattr(f"sclm.tl.{tool}", ran)
    (folder / "both.h5mu").touch()
    zarr.open_group(str(folder / "space.zarr"), mode="w").attrs["spatialdata_attrs"] = {"version": "0.1"}
    zarr.open_group(str(folder / "both.zarr"), mode="w").attrs["encoding-type"] = "MuData"
    for source, out, message in (
        ("query.h5ad", "o.h5mu", r"an AnnData is written as \.h5ad or \.zarr, found 'o\.h5mu'"),
        ("query.zarr", "o.h5mu", "an AnnData is written as"),
        ("both.h5mu", "o.h5ad", r"a MuData is written as \.h5mu or \.zarr, found 'o\.h5ad'"),
        ("both.zarr", "o.h5ad", "a MuData is written as"),
        ("space.zarr", "o.h5ad", r"a SpatialData is written as \.zarr, found 'o\.h5ad'"),
        ("space.zarr", "o.h5mu", "a SpatialData is written as"),
    ):
        with pytest.raises(ValueError, match=message):
            annotate(folder, source, out)
    with pytest.raises(ValueError, match="an AnnData is written as"):
        run("generate", None, folder / "o.h5mu", {"request": {"n_obs": 1}, "model": "x"})
    assert not list(folder.glob("*o.h5*"))


def test_a_broken_file_is_said_to_be_one(tmp_path: Path) -> None:
    (tmp_path / "a.h5ad").write_bytes(b"not hdf5")
    (tmp_path / "a.zarr").mkdir()
    for name in ("a.h5ad", "a.zarr"):
        with pytest.raises(ValueError, match=r"cannot be read as|is no zarr group"):
            files.read(tmp_path / name)


def test_a_tool_that_fails_writes_nothing(folder: Path) -> None:
    with pytest.raises(KeyError):
        run("annotate", folder / "query.h5ad", folder / "out.h5ad", {"layer": "none"})
    assert not (folder / "out.h5ad").exists()


# As small as it can be: what these tests look at does not depend on how well it learns.
SMALLEST = {
    "preset": "tiny", "max_epochs": 1, "width": 16, "layers": 1, "n_programmes": 2, "n_levels": 8, "programme_iterations": 2,
    "progress_bar": False, "accelerator": "cpu",
}  # fmt: skip


@pytest.fixture(scope="module")
def generator(reference: anndata.AnnData, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What training on a file said; the model lies beside."""
    folder = tmp_path_factory.mktemp("trained")
    reference.write_h5ad(folder / "reference.h5ad")
    return train_on_files(
        "pgl", [folder / "reference.h5ad"], folder / "model", {"obs_keys": ["cell_type"]}, options=SMALLEST
    )


def test_training_on_a_file(generator: dict[str, Any]) -> None:
    assert generator["verbs"][0] == "generate"
    assert generator["n_cells"] == 400
    assert sclm.load(generator["model"]).provenance()["family"] == "pgl"
    with pytest.raises(FileExistsError, match="is there already"):
        train_on_files("pgl", generator["inputs"], generator["model"], {"obs_keys": ["cell_type"]})
    with pytest.raises(TypeError, match="Did you mean obs_keys"):
        train_on_files("pgl", generator["inputs"], "elsewhere", {"obs_key": ["cell_type"]})


def test_cells_from_shares_and_from_a_table(tmp_path: Path, generator: dict[str, Any]) -> None:
    request = {"composition": {"B cell": 12, "monocyte": 4}, "n_counts": 500}
    arguments = {"request": request, "model": generator["model"]}
    result = run("generate", None, tmp_path / "cells.h5ad", arguments)
    cells = ad.read_h5ad(tmp_path / "cells.h5ad")
    assert cells.obs["cell_type"].value_counts().to_dict() == {"B cell": 12, "monocyte": 4}
    assert result["n_cells"] == 16
    pd.DataFrame({"cell_type": ["B cell"], "n_obs": [3]}).to_csv(tmp_path / "want.csv", index=False)
    run("generate", None, tmp_path / "more.zarr", {**arguments, "request": str(tmp_path / "want.csv")})
    assert ad.read_zarr(tmp_path / "more.zarr").n_obs == 3


def test_many_cells_are_written_while_they_are_made(
    tmp_path: Path, generator: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = {"request": {"n_obs": 20, "fields": {"cell_type": "B cell"}}, "model": generator["model"]}
    run("generate", None, tmp_path / "memory.h5ad", arguments)
    monkeypatch.setattr("sclm.calls.running._STREAMED", 10)
    result = run("generate", None, tmp_path / "streamed.h5ad", arguments)
    one, other = ad.read_h5ad(tmp_path / "memory.h5ad"), ad.read_h5ad(tmp_path / "streamed.h5ad")
    assert (one.X != other.X).nnz == 0
    assert result["n_cells"] == 20
    assert not (tmp_path / "streamed.h5ad.parts").exists()


def test_values_in_short() -> None:
    frame = pd.DataFrame({"gene": [f"g{i}" for i in range(30)], "z": np.linspace(0, 1, 30)})
    short = brief.short(
        {"table": frame, "many": list(range(50)), "x": np.float32("nan"), "matrix": np.zeros((4, 5)), "t": "a" * 900}
    )
    assert short["table"]["rows"] == 30
    assert len(short["table"]["first"]) == 10
    assert short["many"] == {"length": 50, "first": [0, 1, 2, 3, 4]}
    assert short["x"] is None
    assert short["matrix"] == {"shape": [4, 5]}
    assert len(short["t"]) == 300
    texts = brief.column(pd.Series([f"text {i}" for i in range(100)]))
    assert texts == {"n_values": 100, "first": ["text 0", "text 1", "text 2"]}
    assert brief.column(pd.Series([True, False, True])) == {"true": 2, "of": 3}
    assert brief.column(pd.Series([1.0, np.nan, 3.0])) == {"mean": 2.0, "min": 1.0, "max": 3.0, "missing": 1}
