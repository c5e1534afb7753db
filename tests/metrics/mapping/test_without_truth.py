"""Scores without known fractions against scanpy, squidpy, scipy and known truth."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np
import pytest
import scanpy as sc
import scipy.sparse as sp
from scipy.stats import spearmanr

from sclm.datasets import simulate_section
from sclm.metrics.mapping import held_out_genes, marker_agreement, morans_i
from sclm.spatial import neighbour_graph

if TYPE_CHECKING:
    from collections.abc import Callable

    import anndata


@pytest.fixture(scope="module")
def section(simulate: Callable[..., anndata.AnnData]) -> anndata.AnnData:
    return simulate_section(simulate(400, seed=1), "cell_type", n_spots=300, seed=2)


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("symmetric", [True, False])
def test_morans_i_is_that_of_scanpy(symmetric: bool) -> None:
    rng = np.random.default_rng(0)
    place = rng.random((200, 2))
    values = np.column_stack([place[:, 0], rng.random(200), np.sin(9 * place).sum(1) * 1e3 + 1e6, np.zeros(200)])
    graph = neighbour_graph(place)
    if not symmetric:
        graph = sp.csr_matrix(sp.triu(graph).multiply(rng.random((200, 200))))
    found = morans_i(values, graph)
    assert found.shape == (4,)
    expected = sc.metrics.morans_i(graph.astype(np.float64), values[:, :3].T.copy())
    np.testing.assert_allclose(found[:3], expected, rtol=1e-6)
    assert np.isnan(found[3])
    np.testing.assert_allclose(morans_i(values[:, 0], graph), expected[:1], rtol=1e-6)


def test_morans_i_is_that_of_squidpy(section: anndata.AnnData) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        squidpy = pytest.importorskip("squidpy")
        genes = list(section.var_names[:8])
        copy = section[:, genes].copy()
        copy.X = copy.X.astype(np.float64)
        copy.obsp["spatial_connectivities"] = neighbour_graph(section.obsm["spatial"])
        table = squidpy.gr.spatial_autocorr(copy, mode="moran", genes=genes, transformation=False, copy=True)
    found = morans_i(copy.X.toarray(), copy.obsp["spatial_connectivities"])
    np.testing.assert_allclose(found, table.loc[genes, "I"].to_numpy(), rtol=1e-5)


def test_morans_i_of_many_variables_and_gaps(monkeypatch: pytest.MonkeyPatch) -> None:
    from sclm.metrics.mapping import without_truth

    rng = np.random.default_rng(1)
    place, values = rng.random((100, 2)), rng.random((100, 23))
    graph = neighbour_graph(place)
    whole = morans_i(values, graph)
    monkeypatch.setattr(without_truth, "_BLOCK", 500)  # five variables at a time
    np.testing.assert_allclose(morans_i(values, graph), whole)
    values[[4, 9]] = np.nan
    kept = np.delete(np.arange(100), [4, 9])
    np.testing.assert_allclose(morans_i(values, graph), morans_i(values[kept], graph[kept][:, kept]))
    assert np.isnan(morans_i(values[kept], sp.csr_matrix((98, 98)))).all()


def test_morans_i_refuses() -> None:
    graph = neighbour_graph(np.random.default_rng(0).random((10, 2)))
    with pytest.raises(ValueError, match=r"graph must be of shape \(9, 9\).*found \(10, 10\)"):
        morans_i(np.ones((9, 2)), graph)
    with pytest.raises(TypeError, match="must be a scipy sparse matrix, found ndarray"):
        morans_i(np.ones((10, 2)), graph.toarray())
    with pytest.raises(ValueError, match="values must have two dimensions"):
        morans_i(np.ones((10, 2, 2)), graph)


def test_marker_agreement_by_hand(section: anndata.AnnData) -> None:
    types = list(section.uns["simulation"]["categories"])
    genes = list(section.var_names)
    order = ("B cell", "T cell", "natural killer cell", "monocyte")  # of the programmes of the simulated cells
    markers = {t: [*genes[10 * i : 10 * i + 10], "not there"] for i, t in enumerate(order)}
    fraction = section.obsm["fraction"].copy()
    fraction[5] = np.nan
    table = marker_agreement(section.X, genes, fraction, types, markers)
    assert list(table["cell_type"]) == types
    assert (table["n_markers"] == 10).all()
    assert (table["n_spots"] == 299).all()
    normalised = section[np.arange(300) != 5].copy()
    normalised.X = normalised.X.astype(np.float32)
    sc.pp.normalize_total(normalised, target_sum=1e4)
    sc.pp.log1p(normalised)
    for k, name in enumerate(types):
        expression = np.asarray(normalised[:, markers[name][:10]].X.sum(axis=1)).ravel()
        expected = spearmanr(np.delete(fraction[:, k], 5), expression).statistic
        assert table["spearman"][k] == pytest.approx(expected, abs=1e-4)
    assert table["spearman"].min() > 0.6
    # Types in another order: a wrong map.
    wrong = marker_agreement(section.X, genes, section.obsm["fraction"][:, ::-1], types, markers)
    assert wrong["spearman"].mean() < 0 < table["spearman"].mean()


def test_marker_agreement_without_markers_or_counts(section: anndata.AnnData) -> None:
    types, genes = list(section.uns["simulation"]["categories"]), list(section.var_names)
    counts = section.X.tolil()
    counts[:7] = 0
    table = marker_agreement(counts, genes, section.obsm["fraction"], types, {types[0]: genes[:3], types[1]: ["x"]})
    assert (table["n_spots"] == 293).all()
    assert list(table["n_markers"]) == [3, 0, 0, 0]
    assert list(table["spearman"].isna()) == [False, True, True, True]
    twice = marker_agreement(counts, genes, section.obsm["fraction"], types, {types[0]: genes[:3] * 2})
    assert twice["spearman"][0] == table["spearman"][0]


def test_marker_agreement_refuses(section: anndata.AnnData) -> None:
    types, genes = list(section.uns["simulation"]["categories"]), list(section.var_names)
    fraction = section.obsm["fraction"]
    with pytest.raises(KeyError, match="must name types of categories, found 'plasma'"):
        marker_agreement(section.X, genes, fraction, types, {"plasma": genes[:2]})
    with pytest.raises(ValueError, match=r"counts must be of shape \(300, 120\).*found \(299, 120\)"):
        marker_agreement(section.X[1:], genes, fraction, types, {})
    with pytest.raises(ValueError, match="categories must name the 4 columns of fraction, found 3"):
        marker_agreement(section.X, genes, fraction, types[:3], {})
    with pytest.raises(ValueError, match="counts must hold raw counts"):
        marker_agreement(-section.X, genes, fraction, types, {})


def test_held_out_genes(monkeypatch: pytest.MonkeyPatch) -> None:
    from sclm.metrics.mapping import without_truth

    rng = np.random.default_rng(3)
    signatures = rng.gamma(0.5, 1, (4, 30))
    abundance = rng.dirichlet(np.full(4, 0.4), 500) * rng.gamma(5, 20, (500, 1))
    counts = rng.poisson(abundance @ signatures)
    signatures[:, 3] = counts[:, 3] = 0
    abundance[8] = np.nan
    table = held_out_genes(sp.csr_matrix(counts), signatures, abundance, [f"g{i}" for i in range(30)])
    kept = np.delete(np.arange(500), 8)
    predicted = abundance[kept] @ signatures
    for g in (0, 10, 29):
        assert table["pearson"][g] == pytest.approx(np.corrcoef(predicted[:, g], counts[kept, g])[0, 1])
        depth = np.corrcoef(abundance[kept].sum(1), counts[kept, g])[0, 1]
        assert table["pearson_depth"][g] == pytest.approx(depth)
    assert table.loc[3, ["pearson", "pearson_depth"]].isna().all()
    assert table["pearson"].mean() > table["pearson_depth"].mean() + 0.2
    np.testing.assert_array_equal(table["total"], counts[kept].sum(axis=0))
    assert (table["n_spots"] == 499).all()
    monkeypatch.setattr(without_truth, "_BLOCK", 499 * 7)
    again = held_out_genes(counts, signatures, abundance)
    np.testing.assert_allclose(again["pearson"], table["pearson"])
    assert list(again["gene"]) == list(range(30))


def test_held_out_genes_refuses() -> None:
    counts, signatures, abundance = np.ones((5, 3)), np.ones((2, 3)), np.ones((5, 2))
    with pytest.raises(ValueError, match=r"signatures must be of shape \(2, 3\).*found \(3, 2\)"):
        held_out_genes(counts, signatures.T, abundance)
    with pytest.raises(ValueError, match="abundance must have a row for each of 5 spots, found 4"):
        held_out_genes(counts, signatures, abundance[:4])
    with pytest.raises(ValueError, match="genes must name the 3 columns of counts, found 2"):
        held_out_genes(counts, signatures, abundance, ["a", "b"])
