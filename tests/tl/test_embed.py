"""`tl.embed` with an encoder whose answer is known, so that what is tested is the tool."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import sclm
from sclm.cells import GeneVocabulary, require_overlap

if TYPE_CHECKING:
    from pathlib import Path

KEY = "X_sclm_toy"


def weights(gene: str) -> np.ndarray:
    """(4,) numbers that depend on the gene's name alone."""
    return np.frombuffer(hashlib.sha256(gene.encode()).digest()[:16], dtype=np.uint32) / 2**32 - 0.5


class Toy:
    """Vector of a cell: sum of its genes' numbers, weighted by log counts."""

    family = "toy"

    def __init__(self, genes: list[str]) -> None:
        self.vocabulary = GeneVocabulary(tuple(genes))
        self.calls: list[dict[str, Any]] = []

    def match(self, genes: pd.Index) -> Any:
        match = self.vocabulary.match(genes)
        require_overlap(genes, self.vocabulary, match, min_share=0.1, of="data")
        return match

    def embed(self, cells: Any, *, hidden_layer: Any = None, pooling: Any = None, seed: int = 0) -> np.ndarray:
        self.calls.append({"hidden_layer": hidden_layer, "pooling": pooling, "seed": seed, "n": cells.n_cells})
        match = self.vocabulary.match(cells.genes)
        table = np.array([weights(self.vocabulary.tokens[i]) if i >= 0 else np.zeros(4) for i in match.ids])
        known = cells.counts[:, match.ids >= 0]
        out = np.asarray(cells.counts.log1p() @ table, dtype=np.float32)
        out[np.diff(known.indptr) == 0] = np.nan
        return out


@pytest.fixture
def toy(query: ad.AnnData) -> Toy:
    return Toy(list(query.var_names))


def expected(adata: ad.AnnData) -> np.ndarray:
    return np.log1p(adata.X.toarray()) @ np.array([weights(g) for g in adata.var_names])


def test_vectors_in_the_order_of_the_cells(query: ad.AnnData, toy: Toy) -> None:
    before = query.X.copy()
    assert sclm.tl.embed(query, toy, seed=5) is None
    np.testing.assert_allclose(query.obsm[KEY], expected(query), rtol=1e-5)
    assert query.obsm[KEY].dtype == np.float32
    entry = query.uns[KEY]
    assert entry["tool"] == "embed"
    assert entry["seed"] == 5
    assert entry["genes"] == {"matched": 120, "in_model": 120, "in_data": 120}
    assert entry["counts_in_known_genes"] == 1.0
    assert (before != query.X).nnz == 0
    table = sclm.get.embed(query, key=KEY)
    assert table.index.equals(query.obs_names)
    np.testing.assert_array_equal(table.to_numpy(), query.obsm[KEY])


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_blocks_change_nothing(query: ad.AnnData, toy: Toy, size: int) -> None:
    sclm.tl.embed(query, toy, batch_size=size)
    np.testing.assert_allclose(query.obsm[KEY], expected(query), rtol=1e-5)
    assert max(call["n"] for call in toy.calls) <= size


def test_backed_layers_ensembl_and_copies(query: ad.AnnData, toy: Toy, tmp_path: Path) -> None:
    truth = expected(query)
    query.layers["counts"] = query.X.copy()
    query.X = sparse.csr_matrix(query.X.log1p())
    out = sclm.tl.embed(query, toy, layer="counts", key_added="X_mine", copy=True)
    assert "X_mine" not in query.obsm
    np.testing.assert_allclose(out.obsm["X_mine"], truth, rtol=1e-5)
    query.X = query.layers["counts"].copy()
    query.var["ensembl"] = sclm.knowledge.GeneIdentifiers.load("human").to_ensembl(list(query.var_names))
    query.write_h5ad(tmp_path / "cells.h5ad")
    backed = ad.read_h5ad(tmp_path / "cells.h5ad", backed="r")
    sclm.tl.embed(backed, toy, gene_key="ensembl")
    np.testing.assert_allclose(backed.obsm[KEY], truth, rtol=1e-5)
    backed.file.close()


@pytest.mark.filterwarnings("ignore:Writing zarr v2 data:UserWarning")  # anndata 0.12 on its own default
def test_what_is_written_survives_h5ad_and_zarr(query: ad.AnnData, toy: Toy, tmp_path: Path) -> None:
    sclm.tl.embed(query, toy)
    query.write_h5ad(tmp_path / "a.h5ad")
    query.write_zarr(tmp_path / "a.zarr")
    for again in (ad.read_h5ad(tmp_path / "a.h5ad"), ad.read_zarr(tmp_path / "a.zarr")):
        np.testing.assert_array_equal(again.obsm[KEY], query.obsm[KEY])
        assert again.uns[KEY]["model"]["family"] == "Toy"
        assert sclm.get.embed(again, key=KEY).shape == (120, 4)


def test_cells_without_known_genes_stay_in_place(query: ad.AnnData, toy: Toy, caplog: pytest.LogCaptureFixture) -> None:
    counts = query.X.tolil()
    counts[[3, 50]] = 0
    query.X = counts.tocsr()
    with caplog.at_level("WARNING"):
        sclm.tl.embed(query, toy)
    assert np.flatnonzero(np.isnan(query.obsm[KEY]).any(axis=1)).tolist() == [3, 50]
    assert "2 cells express no gene" in caplog.text
    assert query.uns[KEY]["n_cells_without_genes"] == 2


def test_bad_input_is_refused_and_changes_nothing(query: ad.AnnData, toy: Toy) -> None:
    mouse = query.copy()
    mouse.var_names = pd.Index([name.title() for name in mouse.var_names], dtype=object)
    lognormal = query.copy()
    lognormal.X = lognormal.X.log1p()
    for adata, error, text in ((mouse, ValueError, "mouse"), (lognormal, ValueError, "raw integer counts")):
        with pytest.raises(error, match=text):
            sclm.tl.embed(adata, toy)
        assert not adata.obsm
        assert not adata.uns
    for options, error, text in (
        ({"key_added": "a/b"}, ValueError, "'/'"),
        ({"layer": "no"}, KeyError, "layers"),
        ({"device": "cpu"}, TypeError, "no network"),
    ):
        with pytest.raises(error, match=text):
            sclm.tl.embed(query, toy, **options)
    majority = sclm.train("majority", query, label_key="cell_type")
    with pytest.raises(TypeError, match=r"'majority' does not give cells vectors"):
        sclm.tl.embed(query, majority)
    assert not toy.calls


def test_a_failing_encoder_leaves_the_anndata_as_it_was(query: ad.AnnData, toy: Toy) -> None:
    query.obsm[KEY] = np.ones((120, 2))

    def fail(cells: Any, **_: Any) -> np.ndarray:
        raise RuntimeError("out of memory")

    toy.embed = fail  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="memory"):
        sclm.tl.embed(query, toy)
    np.testing.assert_array_equal(query.obsm[KEY], 1)
    assert KEY not in query.uns
