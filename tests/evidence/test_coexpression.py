"""Co-expression against scipy on dense matrices; edges against a loop."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import stats

from sclm.cells import log_normalise, read_cells
from sclm.evidence import coexpression, strongest_edges


def matrix(edges: pd.DataFrame, genes: pd.Index) -> pd.DataFrame:
    found = pd.DataFrame(np.nan, index=genes, columns=genes)
    for edge in edges.itertuples(index=False):
        found.loc[edge.source, edge.target] = edge.weight
    return found


@pytest.mark.parametrize("method", ["pearson", "spearman"])
def test_all_pairs_agree_with_scipy(reference: ad.AnnData, method: str) -> None:
    varying = reference[:, np.asarray((reference.X > 0).sum(axis=0)).ravel() > 0].copy()
    cells = read_cells(varying).read()
    dense = log_normalise(cells.counts).toarray().astype(float)
    expected = np.corrcoef(dense.T) if method == "pearson" else stats.spearmanr(dense).statistic
    found = matrix(coexpression(cells, method=method, k=None), cells.genes).to_numpy()
    off = ~np.eye(len(found), dtype=bool)
    np.testing.assert_allclose(found[off], expected[off], atol=1e-10)
    assert np.isnan(found[~off]).all()


def test_sources_and_genes_by_name_and_in_blocks(reference: ad.AnnData) -> None:
    source = read_cells(reference)
    some = list(source.genes[5:25])
    edges = coexpression(source, genes=some, sources=some[3:5], k=4)
    assert edges["source"].tolist() == [some[3]] * 4 + [some[4]] * 4
    assert set(edges["target"]) <= set(some)
    strength = edges["weight"].abs().to_numpy().reshape(2, 4)
    assert (np.diff(strength, axis=1) <= 0).all()
    whole = matrix(coexpression(source, k=None), source.genes)
    for edge in edges.itertuples(index=False):  # depth is that of all genes
        assert edge.weight == pytest.approx(whole.loc[edge.source, edge.target])


def test_genes_that_never_vary_have_no_edge(reference: ad.AnnData) -> None:
    adata = reference.copy()
    counts = adata.X.toarray()
    counts[:, 3] = 0
    cells = read_cells(ad.AnnData(counts, var=adata.var)).read()
    edges = coexpression(cells, k=None)
    silent = cells.genes[3]
    assert silent not in set(edges["source"]) | set(edges["target"])
    varies = int((counts > 0).any(axis=0).sum())
    assert len(edges) == varies * (varies - 1)


def test_many_cells_are_sampled(reference: ad.AnnData) -> None:
    source = read_cells(reference)
    drawn = [coexpression(source, k=1, max_cells=100, seed=seed)["weight"].to_numpy() for seed in (0, 0, 1)]
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert not np.array_equal(drawn[0], drawn[2])


def test_edges_of_a_matrix() -> None:
    weight = np.random.default_rng(0).normal(size=(30, 30)).round(1)  # with ties
    weight[4, 5] = np.nan
    names = [f"g{i}" for i in range(30)]
    for absolute in (False, True):
        edges = strongest_edges(lambda rows: weight[rows], names, k=5, absolute=absolute)
        expected = []
        for i in range(30):
            strength = {j: abs(weight[i, j]) if absolute else weight[i, j] for j in range(30) if j != i}
            strength = {j: s for j, s in strength.items() if not np.isnan(s)}
            best = sorted(strength, key=lambda j: (-strength[j], j))[:5]
            expected += [(names[i], names[j], weight[i, j]) for j in best]
        assert list(edges.itertuples(index=False, name=None)) == expected


def test_what_is_wrong_is_named(reference: ad.AnnData) -> None:
    cells = read_cells(reference).read()
    with pytest.raises(ValueError, match="method must be one of 'pearson', 'spearman', found 'kendall'"):
        coexpression(cells, method="kendall")
    with pytest.raises(KeyError, match="1 genes are not among those of the cells: 'no such gene'"):
        coexpression(cells, genes=["no such gene", cells.genes[0]])
    with pytest.raises(KeyError, match="1 sources are none of the genes"):
        coexpression(cells, sources=["no such gene"])
    with pytest.raises(ValueError, match="at least two cells and two genes"):
        coexpression(cells, genes=[cells.genes[0]])
    with pytest.raises(ValueError, match="'a' twice"):
        strongest_edges(lambda rows: np.zeros((len(rows), 2)), ["a", "a"])
