"""Tools on files that stay on disk: what they write is what they write in memory, and the rest of the file is as it was."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import sclm
from sclm.calls import files, run, streaming
from sclm.calls.signatures import tool_names

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.filterwarnings("ignore:Writing zarr v2 data:UserWarning")

SMALLEST = {"preset": "tiny", "max_epochs": 1, "progress_bar": False, "accelerator": "cpu"}


def same(one: Any, other: Any, where: str = "") -> None:
    """Two AnnData, or values of them, hold the same, bit for bit."""
    if isinstance(one, ad.AnnData):
        for slot in ("obs", "var", "uns"):
            same(dict(getattr(one, slot)), dict(getattr(other, slot)), f"{where}.{slot}")
        assert list(one.obs_names) == list(other.obs_names)
        assert list(one.var_names) == list(other.var_names)
        for slot in ("obsm", "varm", "obsp", "layers"):
            same(dict(getattr(one, slot)), dict(getattr(other, slot)), f"{where}.{slot}")
        same(one.X, other.X, f"{where}.X")
        assert (one.raw is None) == (other.raw is None)
        if one.raw is not None:
            same(one.raw.X, other.raw.X, f"{where}.raw")
    elif isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for name in one:
            same(one[name], other[name], f"{where}[{name!r}]")
    elif isinstance(one, pd.DataFrame):
        pd.testing.assert_frame_equal(one, other)
    elif isinstance(one, pd.Series):
        pd.testing.assert_series_equal(one, other)
    elif sparse.issparse(one):
        assert one.format == other.format, where
        assert (one != other).nnz == 0, where
    elif one is None:
        assert other is None
    else:
        one, other = np.asarray(one), np.asarray(other)
        assert one.dtype == other.dtype, where
        assert np.array_equal(one, other, equal_nan=one.dtype.kind == "f"), where


def read(path: Path) -> ad.AnnData:
    return ad.read_zarr(path) if path.suffix == ".zarr" else ad.read_h5ad(path)


@pytest.fixture(scope="module")
def trained(reference: ad.AnnData, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Models and a reference on disk."""
    folder = tmp_path_factory.mktemp("models")
    proteins = reference.copy()
    rate = 5 * proteins[:, proteins.var_names[:2]].X.toarray() + 2
    values = np.random.default_rng(0).poisson(rate)
    proteins.obsm["protein"] = pd.DataFrame(values, proteins.obs_names, ["CD3", "CD19"])
    proteins.write_h5ad(folder / "reference.h5ad")
    network = {"width": 16, "n_heads": 2, "n_layers": 1, "feed_forward": 16, "max_length": 40, "train_length": 16}
    sclm.train("scgpt", reference, **SMALLEST, **network).save(folder / "encoder")
    return {"reference": folder / "reference.h5ad", "encoder": folder / "encoder"}


@pytest.fixture(scope="module")
def cells(reference: ad.AnnData) -> ad.AnnData:
    """Cells with everything that a file can hold besides."""
    made = reference[:90].copy()
    made.obs["niche"] = pd.Categorical(np.where(np.arange(made.n_obs) % 2, "inner", "outer"))
    made.obs["barcode"] = [f"AAC-{i}" for i in range(made.n_obs)]
    made.layers["twice"] = made.X * 2
    made.layers["columns"] = made.X.tocsc()
    made.layers["dense"] = made.X.toarray()
    made.obsm["X_pca"] = np.ones((made.n_obs, 3), np.float32)
    made.obsp["distances"] = sparse.eye(made.n_obs, format="csr")
    made.varm["loadings"] = np.ones((made.n_vars, 2))
    made.uns["note"] = {"about": "cells", "colours": np.array(["red", "blue"], dtype=object)}
    made.raw = made.copy()
    return made


def arguments(tool: str, trained: dict[str, Path], genes: list[str]) -> dict[str, Any]:
    """Of a call of every tool that reads cells."""
    labelled = {"reference": str(trained["reference"]), "label_key": "cell_type"}
    gmt = trained["reference"].with_name("sets.gmt")
    gmt.write_text("".join(f"set {i}\tnone\t" + "\t".join(genes[10 * i : 10 * i + 10]) + "\n" for i in range(4)))
    given: dict[str, dict[str, Any]] = {
        "adopt": {"predictions": "cell_type"},
        "annotate": labelled,
        "describe": {},
        "domains": {"model": "hop-mean", "n_domains": 2},
        "embed": {"model": str(trained["encoder"])},
        "interface": {"inside": "tumour", "groups": "fractions"},
        "ligrec": {"n_permutations": 99},
        "map_spatial": {**labelled, "method": "nnls"},
        "pathways": {"gene_sets": str(gmt), "groupby": "niche"},
        "perturb": {"model": str(trained["encoder"]), "perturbations": genes[:3], "n_cells": 20, "n_null": 20},
        "translate": {"reference": str(trained["reference"]), "protein_key": "protein"},
    }
    return given[tool]


@pytest.mark.parametrize("tool", sorted(set(tool_names()) - {"generate"}))
def test_what_a_tool_writes_is_what_it_writes_in_memory(
    tool: str,
    tmp_path: Path,
    cells: ad.AnnData,
    trained: dict[str, Path],
    pbmc: ad.AnnData,
    query: ad.AnnData,
    tumour_section: Callable[..., ad.AnnData],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = cells
    if tool in ("domains", "interface", "ligrec"):
        data = tumour_section(12)
    elif tool == "map_spatial":
        data = sclm.datasets.simulate_section(query, "cell_type", n_spots=40, cells_per_spot=3, seed=0)
    elif tool == "describe":
        data = pbmc[::20].copy()
    given = arguments(tool, trained, list(cells.var_names))
    suffix = ".zarr" if tool in ("annotate", "pathways", "ligrec") else ".h5ad"
    source, streamed, memory = (tmp_path / f"{name}{suffix}" for name in ("in", "streamed", "memory"))
    (data.write_zarr if suffix == ".zarr" else data.write_h5ad)(source)
    one = run(tool, source, streamed, given)
    monkeypatch.setattr(streaming, "streams", lambda path: False)
    other = run(tool, source, memory, given)
    same(read(streamed), read(memory))
    told = [{k: v for k, v in result.items() if k not in ("seconds", "output")} for result in (one, other)]
    assert told[0] == told[1]
    assert told[0]["written"] or told[0]["records"]


@pytest.mark.parametrize("suffix", [".h5ad", ".zarr"])
def test_a_second_call_replaces_and_removes_what_the_first_wrote(
    suffix: str, tmp_path: Path, cells: ad.AnnData, trained: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    (cells.write_zarr if suffix == ".zarr" else cells.write_h5ad)(tmp_path / f"0{suffix}")
    labelled = {"reference": str(trained["reference"]), "label_key": "cell_type"}
    run("annotate", tmp_path / f"0{suffix}", tmp_path / f"1{suffix}", {**labelled, "groupby": "niche"})
    first = read(tmp_path / f"1{suffix}")
    assert "sclm_cell_type_per_cell" in first.obs
    run("annotate", tmp_path / f"1{suffix}", tmp_path / f"2{suffix}", labelled)
    second = read(tmp_path / f"2{suffix}")
    assert "sclm_cell_type_per_cell" not in second.obs
    assert second.obsm["sclm_cell_type_probabilities"].shape[1] == 4
    assert list(second.obs.columns[: cells.obs.shape[1]]) == list(cells.obs.columns)
    monkeypatch.setattr(streaming, "streams", lambda path: False)
    run("annotate", tmp_path / f"1{suffix}", tmp_path / f"3{suffix}", labelled)
    assert set(second.obs.columns) == set(read(tmp_path / f"3{suffix}").obs.columns)


@pytest.mark.parametrize("suffix", [".h5ad", ".zarr"])
def test_matrices_stay_on_disk(suffix: str, tmp_path: Path, cells: ad.AnnData, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / f"in{suffix}"
    (cells.write_zarr if suffix == ".zarr" else cells.write_h5ad)(path)
    with streaming.opened(path) as adata:
        in_memory = [m for m in (adata.X, *adata.layers.values(), adata.raw._X) if isinstance(m, np.ndarray) or sparse.issparse(m)]  # fmt: skip
        assert in_memory == []
        assert isinstance(adata.obsm["X_pca"], np.ndarray)  # small
    monkeypatch.setattr(streaming, "_SMALL", 10)
    with streaming.opened(path, ["distances"]) as adata:
        assert not isinstance(adata.obsm["X_pca"], np.ndarray)
        assert sparse.issparse(adata.obsp["distances"])  # asked for


@pytest.mark.parametrize(("source", "target"), [("in.h5ad", "out.zarr"), ("in.zarr", "out.h5ad")])
@pytest.mark.parametrize("block", [200, 1 << 20])
def test_the_other_format(
    source: str, target: str, block: int, tmp_path: Path, cells: ad.AnnData, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In blocks of some rows or columns, and as a whole."""
    zarr = target.endswith("zarr")
    (cells.write_h5ad if zarr else cells.write_zarr)(tmp_path / source)
    with monkeypatch.context() as patch:
        patch.setattr("sclm.calls.converting._BLOCK", block)
        patch.setattr(ad.AnnData, "write_zarr" if zarr else "write_h5ad", None)
        run("adopt", tmp_path / source, tmp_path / target, {"predictions": "cell_type"})
    expected = read(tmp_path / source)
    sclm.tl.adopt(expected, "cell_type")
    (expected.write_zarr if zarr else expected.write_h5ad)(tmp_path / f"expected-{target}")
    same(read(tmp_path / target), read(tmp_path / f"expected-{target}"))


def test_what_does_not_stream_is_read_as_a_whole(tmp_path: Path) -> None:
    (tmp_path / "broken.h5ad").write_bytes(b"no HDF5")
    assert not streaming.streams(tmp_path / "broken.h5ad")
    with pytest.raises(ValueError, match="cannot be read as"):
        run("adopt", tmp_path / "broken.h5ad", tmp_path / "o.h5ad", {"predictions": "cell_type"})


def test_a_store_that_marks_what_it_lacks(tmp_path: Path, cells: ad.AnnData) -> None:
    """As ``write_elem`` of an AnnData does: ``.raw`` is there and says that there is none."""
    bare = ad.AnnData(cells.X, obs=cells.obs, var=cells.var)
    with h5py.File(tmp_path / "in.h5ad", "w") as file:
        ad.io.write_elem(file, "/", bare)
    run("adopt", tmp_path / "in.h5ad", tmp_path / "out.h5ad", {"predictions": "cell_type"})
    assert "adopted_cell_type" in read(tmp_path / "out.h5ad").obs


def test_an_output_can_be_written_to_where_the_input_cannot(tmp_path: Path, cells: ad.AnnData) -> None:
    cells.write_h5ad(tmp_path / "in.h5ad")
    (tmp_path / "in.h5ad").chmod(0o444)
    run("adopt", tmp_path / "in.h5ad", tmp_path / "out.h5ad", {"predictions": "cell_type"})
    assert (tmp_path / "out.h5ad").stat().st_mode & 0o200
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.h5ad", "out.h5ad"]
    assert files.existing(tmp_path / "out.h5ad")
