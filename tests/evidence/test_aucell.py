"""AUCell against a slow reference and decoupler; its null against sets that are really drawn."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from sclm.evidence import aucell, match_sets
from sclm.evidence.aucell import top_ranks
from sclm.evidence.set_activity import SetBackground, upper_tail
from sclm.knowledge import Pathways


def slow_aucell(values: np.ndarray, members: np.ndarray, n_top: int) -> np.ndarray:
    """By drawing the curve: how many genes of the set are among the first 1, 2, … c - 1."""
    out = np.zeros((len(values), members.shape[1]))
    for i, row in enumerate(values):
        order = np.argsort(-row, kind="stable")
        for s in range(members.shape[1]):
            curve = np.cumsum(members[order, s])[: n_top - 1]
            best = np.minimum(np.arange(1, n_top), members[:, s].sum())
            out[i, s] = curve.sum() / best.sum()
    return out


@pytest.fixture
def without_ties() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.gamma(1.0, size=(6, 80)).astype(np.float32), (rng.random((80, 5)) < 0.15).astype(np.float32)


def test_the_area_is_that_under_the_recovery_curve(without_ties: tuple[np.ndarray, np.ndarray]) -> None:
    values, members = without_ties
    found = aucell(sparse.csr_matrix(values), sparse.csr_matrix(members), n_top=12)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, slow_aucell(values, members, 12), atol=1e-6)


def test_the_area_is_decouplers(without_ties: tuple[np.ndarray, np.ndarray]) -> None:
    dc = pytest.importorskip("decoupler")
    values, members = without_ties
    genes, names = [f"g{i}" for i in range(80)], [f"s{i}" for i in range(5)]
    net = pd.DataFrame([(names[s], genes[g], 1.0) for g, s in zip(*np.nonzero(members), strict=True)])
    net.columns = ["source", "target", "weight"]
    theirs, _ = dc.mt.aucell(pd.DataFrame(values, columns=genes), net, tmin=1, n_up=12)
    found = aucell(sparse.csr_matrix(values), sparse.csr_matrix(members), n_top=12)
    np.testing.assert_allclose(found, theirs[names].to_numpy(), atol=1e-6)


def test_a_set_at_the_top_has_area_one_and_the_facts_example_holds() -> None:
    values = sparse.csr_matrix(np.arange(2000, 0, -1, dtype=np.float32)[None, :])
    members = np.zeros((2000, 2), np.float32)
    members[:50, 0] = 1
    members[500:550, 1] = 1
    np.testing.assert_allclose(aucell(values, sparse.csr_matrix(members)), [[1.0, 0.0]])


def test_equal_values_are_ordered_by_the_seed_and_the_cell_alone() -> None:
    rng = np.random.default_rng(1)
    counts = sparse.csr_matrix(rng.poisson(1.0, size=(4, 60)).astype(np.float32))
    first = top_ranks(counts, 10, seed=0)
    assert (top_ranks(counts, 10, seed=1) != first).nnz
    assert (top_ranks(counts[[2]], 10, seed=0) != first[[2]]).nnz == 0
    for row in range(4):  # the nine weights, each once, on the nine highest values
        w = first[row]
        assert sorted(w.data) == list(range(1, 10))
        chosen = counts[row].toarray().ravel()[w.indices]
        assert chosen.min() >= np.sort(counts[row].toarray().ravel())[-9]
    # over many seeds, equal values share the weights evenly
    equal = sparse.csr_matrix(np.ones((1, 12), np.float32))
    mean = np.mean([top_ranks(equal, 7, seed=s).toarray() for s in range(3000)], axis=0)
    np.testing.assert_allclose(mean, 21 / 12, atol=0.15)


def test_cells_with_few_genes_and_without_any_are_scored() -> None:
    counts = sparse.csr_matrix(np.array([[3.0, 0, 0, 0], [0, 0, 0, 0]]))
    members = sparse.csr_matrix(np.array([[1.0], [1], [0], [0]]))
    np.testing.assert_allclose(aucell(counts, members, n_top=3), [[2 / 3], [0.0]])


@pytest.mark.parametrize(
    ("change", "message"),
    [({"n_top": 1}, "between 2 and"), ({"n_top": 99}, "between 2 and")],
)
def test_bad_arguments_are_refused(change: dict, message: str) -> None:
    counts, members = sparse.csr_matrix(np.ones((1, 4))), sparse.csr_matrix(np.ones((4, 1)))
    with pytest.raises(ValueError, match=message):
        aucell(counts, members, **change)
    with pytest.raises(ValueError, match="not be negative"):
        aucell(-counts, members, n_top=2)


def test_sets_are_found_by_symbol_and_ensembl_id() -> None:
    sets = Pathways.load({"t": ["CD3D", "CD3E", "no such gene"], "b": ["MS4A1"]})
    ensembl = pd.Index(["ENSG00000198851", "ENSG00000167286", "ENSG00000156738"])  # CD3E, CD3D, MS4A1
    for genes in (pd.Index(["CD3E", "CD3D", "MS4A1"]), ensembl):
        found = match_sets(sets, genes, min_genes=1)
        np.testing.assert_array_equal(found.members.toarray(), [[1, 0], [1, 0], [0, 1]])
    assert list(match_sets(sets, ensembl, min_genes=2).kept) == [0]
    with pytest.raises(ValueError, match="found 2 of 3 in the best"):
        match_sets(sets, ensembl, min_genes=3)


def test_moments_and_tail_are_those_of_sets_that_are_drawn() -> None:
    rng = np.random.default_rng(3)
    counts = sparse.csr_matrix(rng.poisson(rng.gamma(0.4, 2.0, size=400)[None, :], size=(30, 400)).astype(np.float32))
    members = np.zeros((400, 1), np.float32)
    members[rng.choice(400, 25, replace=False)] = 1
    ranks = top_ranks(counts, 40)
    mean = np.asarray(ranks.mean(axis=0)).ravel()
    background = SetBackground(mean, sparse.csr_matrix(members), 40)
    found = background.cells(ranks[:3])
    v = ranks[:3].toarray() - mean
    bins = background.bins.toarray().argmax(axis=1)
    drawn = np.zeros((20000, 400), np.float32)
    for b in range(background.bins.shape[1]):
        here = np.flatnonzero(bins == b)
        m = int(members[here].sum())
        for row in range(len(drawn)):
            drawn[row, rng.choice(here, m, replace=False)] = 1
    null = drawn @ v.T  # (20000, 3)
    z = (v @ members[:, 0] - null.mean(axis=0)) / null.std(axis=0)
    np.testing.assert_allclose(found.z[:, 0], z, atol=0.05)
    p = (null >= (v @ members[:, 0])[None, :]).mean(axis=0)
    np.testing.assert_allclose(found.p[:, 0], p, atol=0.02)


def test_random_sets_give_uniform_p_values() -> None:
    rng = np.random.default_rng(5)
    counts = sparse.csr_matrix(rng.poisson(rng.gamma(0.4, 2.0, size=1000)[None, :], size=(60, 1000)).astype(np.float32))
    members = np.zeros((1000, 100), np.float32)
    for s in range(100):
        members[rng.choice(1000, 30, replace=False), s] = 1
    ranks = top_ranks(counts, 50)
    found = SetBackground(np.asarray(ranks.mean(axis=0)).ravel(), sparse.csr_matrix(members), 50).cells(ranks)
    for level in (0.5, 0.1, 0.01):
        assert (found.p <= level).mean() == pytest.approx(level, rel=0.25)
    assert (found.q.min(axis=1) <= 0.05).mean() < 0.1


def test_the_tail_is_scipys() -> None:
    from scipy.stats import pearson3

    z = np.linspace(-3, 6, 19)
    for skew in (-0.8, -0.1, 0.0, 0.3, 1.5):
        np.testing.assert_allclose(upper_tail(z, np.full_like(z, skew)), pearson3(skew).sf(z), atol=1e-7)
