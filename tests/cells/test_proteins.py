"""Proteins out of .obsm and out of modalities, and their scales."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace
from typing import TYPE_CHECKING

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from sclm.cells import read_proteins, scale_proteins
from sclm.cells.proteins import usual_scale

if TYPE_CHECKING:
    from pathlib import Path

VALUES = np.array([[0.0, 3.0], [5.0, 1.0], [2.0, 2.0]])


@pytest.fixture
def adata() -> ad.AnnData:
    made = ad.AnnData(np.ones((3, 2), dtype=np.float32), obs=pd.DataFrame(index=["a", "b", "c"]))
    made.obsm["table"] = pd.DataFrame(VALUES, index=made.obs_names, columns=["CD3", "CD4"])
    made.obsm["array"] = VALUES.copy()
    made.obsm["sparse"] = sparse.csr_matrix(VALUES)
    return made


@pytest.mark.parametrize("key", ["table", "array", "sparse"])
@pytest.mark.parametrize("names", ["_names", "record", "list", "protein_names"])
def test_tables_arrays_and_sparse_matrices(adata: ad.AnnData, key: str, names: str) -> None:
    where = {"_names": f"{key}_names", "record": key, "list": key, "protein_names": "protein_names"}[names]
    adata.uns[where] = {"names": ["CD3", "CD4"]} if names == "record" else np.array(["CD3", "CD4"], dtype=object)
    back, proteins = read_proteins(adata, key)
    assert back is adata
    assert proteins.names == ("CD3", "CD4")
    np.testing.assert_array_equal(proteins.values, VALUES.astype(np.float32), strict=True)


def test_a_file_on_disk(adata: ad.AnnData, tmp_path: Path) -> None:
    del adata.obsm["sparse"]
    adata.write_h5ad(tmp_path / "a.h5ad")
    backed = ad.read_h5ad(tmp_path / "a.h5ad", backed="r")
    np.testing.assert_array_equal(read_proteins(backed, "table")[1].values, VALUES)
    view = adata[["c", "a"]]
    np.testing.assert_array_equal(read_proteins(view, "table")[1].values, VALUES[[2, 0]])


def modalities(adata: ad.AnnData, rows: list[int], rna: str = "rna") -> SimpleNamespace:
    """As MuData looks to a reader."""
    table = adata.obsm["table"].iloc[rows]
    prot = ad.AnnData(
        sparse.csr_matrix(table.to_numpy()), obs=table[[]].copy(), var=pd.DataFrame(index=list(table.columns))
    )
    return SimpleNamespace(mod={rna: adata, "prot": prot})


@pytest.mark.parametrize("rna", ["rna", "Gene Expression", "anything"])
def test_modalities_meet_by_the_names_of_cells(adata: ad.AnnData, rna: str) -> None:
    back, proteins = read_proteins(modalities(adata, [2, 0], rna), "prot")
    assert back is adata
    np.testing.assert_array_equal(proteins.values, [VALUES[0], [np.nan, np.nan], VALUES[2]])


@pytest.mark.filterwarnings("ignore:The inplace keyword")  # of mudata itself, with pandas 3
def test_real_mudata(adata: ad.AnnData) -> None:
    mudata = pytest.importorskip("mudata")
    parts = modalities(adata, [2, 0])
    older = hasattr(mudata, "set_options")  # from 0.4 on nothing is pulled up by itself
    with mudata.set_options(pull_on_update=False) if older else nullcontext():
        back, proteins = read_proteins(mudata.MuData(parts.mod), "prot")
    assert list(back.obs_names) == ["a", "b", "c"]
    np.testing.assert_array_equal(proteins.values, [VALUES[0], [np.nan, np.nan], VALUES[2]])


def test_errors_say_what_to_do(adata: ad.AnnData) -> None:
    with pytest.raises(KeyError, match=r"protein_key='tabel' is not in adata\.obsm; .*'table'"):
        read_proteins(adata, "tabel")
    with pytest.raises(ValueError, match="without names of its 2 proteins"):
        read_proteins(adata, "array")
    adata.uns["array_names"] = ["CD3"]
    with pytest.raises(ValueError, match="2 columns, found 1 names"):
        read_proteins(adata, "array")
    adata.uns["array_names"] = ["CD3", "CD3"]
    with pytest.raises(ValueError, match="'CD3' again"):
        read_proteins(adata, "array")
    adata.uns["array_names"] = ["CD3", "CD4"]
    adata.obsm["array"][1, 1] = np.inf
    with pytest.raises(ValueError, match="row 1, 'CD4'"):
        read_proteins(adata, "array")
    adata.obsm["text"] = pd.DataFrame([["a", "b"]] * 3, index=adata.obs_names, columns=["x", "y"])
    with pytest.raises(TypeError, match="must hold numbers"):
        read_proteins(adata, "text")
    with pytest.raises(TypeError, match=r"AnnData or MuData, found builtins\.list"):
        read_proteins([adata], "table")
    parts = modalities(adata, [0])
    with pytest.raises(KeyError, match="the modalities"):
        read_proteins(parts, "protein")
    parts.mod["prot"].obs_names = ["z"]
    with pytest.raises(ValueError, match="no cell of the RNA"):
        read_proteins(parts, "prot")
    parts.mod |= {"x": adata, "y": adata}
    del parts.mod["rna"]
    with pytest.raises(ValueError, match="must hold the RNA, found 'x', 'y'"):
        read_proteins(parts, "prot")


def test_scales_against_their_formulas() -> None:
    values = np.array([[0.0, 3.0, 10.0], [2.0, np.nan, 7.0], [np.nan, np.nan, np.nan], [4.0, 4.0, 4.0]])
    clr = scale_proteins(values, "clr")
    logs = np.log1p(values[0])
    np.testing.assert_allclose(clr[0], logs - logs.mean(), atol=1e-6)
    np.testing.assert_allclose(clr[1], [np.log(3) - np.log(24) / 2, np.nan, np.log(8) - np.log(24) / 2], atol=1e-6)
    assert np.isnan(clr[2]).all()
    np.testing.assert_allclose(scale_proteins(values, "log1p")[0], logs, atol=1e-6)
    np.testing.assert_allclose(scale_proteins(values, "minmax")[:2], [[1e-8, 0.3, 1.0], [1e-8, np.nan, 1.0]], atol=1e-7)
    assert np.isnan(scale_proteins(values, "minmax")[3]).all()
    np.testing.assert_array_equal(scale_proteins(values, "given"), values.astype(np.float32))
    assert scale_proteins(np.zeros((0, 3)), "minmax").shape == (0, 3)
    with pytest.raises(ValueError, match="counts of 0 or more, found -1"):
        scale_proteins(values - 1, "clr")
    with pytest.raises(ValueError, match="'clr', 'minmax'"):
        scale_proteins(values, "CLR")


def test_the_usual_scale() -> None:
    assert usual_scale(np.array([[0.0, 5.0], [np.nan, 1.0]])) == "clr"
    assert usual_scale(np.array([[0.5, 5.0]])) == "given"
    assert usual_scale(np.array([[-1.0, 5.0]])) == "given"
    assert usual_scale(np.array([[np.nan]])) == "given"
