"""Files, stores and collections of cells, opened with their counts on disk."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr
from anndata.io import write_elem

from sclm.cells import JoinedSource, is_stored, open_cells, read_cells

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import anndata as ad


pytestmark = pytest.mark.filterwarnings("ignore:Writing zarr v2 data")  # anndata 0.12


@pytest.fixture
def cells(simulate: Callable[..., ad.AnnData]) -> ad.AnnData:
    adata = simulate(90, 40, seed=4)
    adata.layers["raw"] = adata.X.copy()
    return adata


def write_collection(path: Path, parts: list[ad.AnnData]) -> None:
    """A store as annbatch lays it out: the parts as groups, here written out of order."""
    root = zarr.open_group(path, mode="w", zarr_format=2)
    root.attrs.update({"encoding-type": "annbatch-preshuffled", "encoding-version": "0.1.0"})
    for number in reversed(range(len(parts))):
        group = root.require_group(f"dataset_{number}")
        for name in ("X", "obs", "var"):
            write_elem(group, name, getattr(parts[number], name))


@pytest.mark.parametrize("kind", ["h5ad", "zarr", "dense.zarr"])
def test_counts_stay_on_disk(cells: ad.AnnData, tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"cells.{kind}"
    stored = cells.copy()
    if kind == "dense.zarr":
        stored.X = cells.X.toarray()
    (stored.write_h5ad if kind == "h5ad" else stored.write_zarr)(path)
    assert is_stored(path)
    assert is_stored(str(path))
    (found,) = open_cells(str(path))
    source = read_cells(found, obs_keys=["donor"])
    assert not source.in_memory
    block = source.read([7, 3, 80])
    np.testing.assert_array_equal(block.counts.toarray(), cells.X[[7, 3, 80]].toarray())
    assert block.obs["donor"].tolist() == cells.obs["donor"].iloc[[7, 3, 80]].tolist()
    assert not read_cells(found, layer="raw").in_memory


def test_parts_of_a_collection_in_order(cells: ad.AnnData, tmp_path: Path) -> None:
    parts = [cells[8 * i : 8 * i + 8].copy() for i in range(11)]  # "dataset_10" comes after "dataset_9"
    write_collection(tmp_path / "c.zarr", parts)
    joined = JoinedSource([read_cells(part, obs_keys=["donor"]) for part in open_cells(tmp_path / "c.zarr")])
    assert list(joined.obs.index) == list(cells.obs_names[:88])
    np.testing.assert_array_equal(joined.read().counts.toarray(), cells.X[:88].toarray())


def test_a_collection_of_annbatch(cells: ad.AnnData, tmp_path: Path) -> None:
    """The real package: every cell once, by path and as its own object."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        annbatch = pytest.importorskip("annbatch", reason="annbatch needs Python 3.12")
        for number, part in enumerate((cells[:50], cells[50:])):
            part.copy().write_h5ad(tmp_path / f"{number}.h5ad")
        collection = annbatch.DatasetCollection(tmp_path / "c.zarr")
        files = [tmp_path / "0.h5ad", tmp_path / "1.h5ad"]
        collection.add_adatas(files, shuffle=True, n_obs_per_chunk=16, rng=np.random.default_rng(0))
    assert is_stored(collection)
    for stored in (collection, tmp_path / "c.zarr"):
        sources = [read_cells(part, obs_keys=["cell_type"]) for part in open_cells(stored)]
        assert not any(source.in_memory for source in sources)
        block = JoinedSource(sources).read()
        expected = cells[block.obs.index.astype(str)]
        assert sorted(block.obs.index) == sorted(cells.obs_names)
        np.testing.assert_array_equal(block.counts.toarray(), expected[:, list(block.genes)].X.toarray())
        assert block.obs["cell_type"].tolist() == expected.obs["cell_type"].tolist()


def test_what_is_no_file_of_cells(tmp_path: Path, cells: Any) -> None:
    assert not is_stored(cells)
    assert not is_stored([cells])
    with pytest.raises(FileNotFoundError, match=r"none\.h5ad is not there"):
        open_cells(tmp_path / "none.h5ad")
    (tmp_path / "cells.h5ad").write_text("no HDF5")
    zarr.open_group(tmp_path / "empty.zarr", mode="w", zarr_format=2)
    (tmp_path / "cells.csv").write_text("a,b")
    for name in ("cells.h5ad", "empty.zarr", "cells.csv"):
        with pytest.raises(ValueError, match=f"{name} cannot be opened as cells"):
            open_cells(tmp_path / name)
