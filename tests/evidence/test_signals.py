"""Receiver permutation against a loop over permutations and edges, and against all permutations."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import scipy.sparse as sp
from scipy.stats import kstest

from sclm.evidence import SignalTest, adjusted_scores, receiver_permutation_test
from sclm.spatial import neighbour_graph


def slow_statistic(w: np.ndarray, x: np.ndarray, y: np.ndarray, a: np.ndarray, b: np.ndarray) -> float:
    total = 0.0
    for i, j in itertools.product(range(len(w)), repeat=2):
        total += w[i, j] * a[i] * x[i] * b[j] * y[j]
    return total


def arrangements(strata: np.ndarray) -> list[np.ndarray]:
    """Every order that moves spots within their stratum only."""
    rows = [np.flatnonzero(strata == s) for s in np.unique(strata)]
    found = []
    for choice in itertools.product(*(itertools.permutations(r) for r in rows)):
        order = np.empty(len(strata), dtype=int)
        for r, to in zip(rows, choice, strict=True):
            order[r] = to
        found.append(order)
    return found


def test_against_all_permutations_of_a_few_spots() -> None:
    rng = np.random.default_rng(0)
    n = 8
    w = rng.random((n, n)) * (rng.random((n, n)) < 0.5)
    strata = np.array([0, 0, 0, 0, 1, 1, 1, 1])
    x, y = rng.normal(size=(n, 2)), rng.normal(size=(n, 3))
    a, b = rng.random((n, 2)), rng.random((n, 2))
    pairs = np.array([[0, 0], [1, 2], [0, 1]])
    groups = np.array([[0, 1], [1, 1], [1, 0]])
    result = receiver_permutation_test(
        sp.csr_matrix(w), x, y, pairs, source=a, target=b, groups=groups, strata=strata, n_permutations=4000, seed=1
    )
    assert isinstance(result, SignalTest)
    for t, ((i, j), (s, g)) in enumerate(zip(pairs, groups, strict=True)):
        observed = slow_statistic(w, x[:, i], y[:, j], a[:, s], b[:, g])
        null = np.array(
            [slow_statistic(w, x[:, i], y[order, j], a[:, s], b[:, g]) for order in arrangements(strata)]
        )  # (576,)
        np.testing.assert_allclose(result.statistic[t], observed, rtol=1e-10)
        np.testing.assert_allclose(result.z[t], (observed - null.mean()) / null.std(), rtol=1e-8)
        share = (null >= observed - 1e-9).mean()
        assert abs(result.p[t] - share) < 4 * np.sqrt(share * (1 - share) / 4000) + 1 / 4001


def test_against_a_loop_with_the_same_permutations() -> None:
    rng = np.random.default_rng(1)
    n, m = 40, 60
    graph = neighbour_graph(rng.random((n, 2)))
    strata = rng.integers(0, 3, n)
    x, y = rng.normal(size=(n, 37)), rng.normal(size=(n, 37))
    pairs = np.column_stack([np.arange(37), rng.permutation(37)])
    result = receiver_permutation_test(graph, x, y, pairs, strata=strata, n_permutations=m, seed=5)
    # the same generator, asked in the same way
    again = np.random.default_rng(5)
    order = np.empty((m, n), dtype=int)
    for s in range(3):
        rows = np.flatnonzero(strata == s)
        order[:, rows] = again.permuted(np.tile(rows.astype(np.int32), (m, 1)), axis=1)
    dense = graph.toarray()
    for t, (i, j) in enumerate(pairs):
        observed = x[:, i] @ dense @ y[:, j]
        null = [x[:, i] @ dense @ y[o, j] for o in order]
        assert result.p[t] == (1 + sum(v >= observed - 1e-9 for v in null)) / (1 + m)


def test_every_permutation_counts_once_and_progress_adds_up() -> None:
    rng = np.random.default_rng(2)
    graph = neighbour_graph(rng.random((30, 2)))
    x = rng.normal(size=(30, 5))
    done: list[int] = []
    result = receiver_permutation_test(
        graph, x, x, np.column_stack([np.arange(5)] * 2), n_permutations=600, progress=done.append
    )
    assert sum(done) == 600 * 5
    assert len(done) > 1
    assert result.p.min() >= 1 / 601


def test_a_receptor_without_spread_says_nothing() -> None:
    graph = neighbour_graph(np.random.default_rng(0).random((20, 2)))
    x = np.random.default_rng(1).normal(size=(20, 1))
    result = receiver_permutation_test(graph, x, np.zeros((20, 1)), [[0, 0]], n_permutations=9)
    assert np.isnan(result.z[0])
    assert result.p[0] == 1.0


def test_a_target_that_nothing_reaches_says_nothing() -> None:
    graph = sp.csr_matrix(([1.0, 1.0], ([0, 1], [1, 0])), shape=(4, 4))
    x = np.arange(4.0)[:, None]
    target = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    result = receiver_permutation_test(graph, x, x, [[0, 0]], target=target, groups=[[0, 1]], n_permutations=9)
    strata = receiver_permutation_test(
        graph, x, x, [[0, 0]] * 2, target=target, groups=[[0, 0], [0, 1]], strata=[0, 0, 1, 1], n_permutations=9
    )
    assert np.isnan(result.z[0])
    assert np.isnan(strata.z[1])
    assert result.p[0] == strata.p[1] == 1.0
    assert strata.statistic.tolist() == [0.0, 0.0]


def test_inflation_draws_statistics_to_the_middle_of_their_null() -> None:
    rng = np.random.default_rng(4)
    graph = neighbour_graph(rng.random((60, 2)))
    x, y = rng.normal(size=(60, 20)), rng.normal(size=(60, 20))
    pairs = np.column_stack([np.arange(20)] * 2)
    plain = receiver_permutation_test(graph, x, y, pairs, n_permutations=999)
    by = np.linspace(1, 3, 20)
    drawn = receiver_permutation_test(graph, x, y, pairs, inflation=by, n_permutations=999)
    np.testing.assert_allclose(drawn.z, plain.z / by)
    np.testing.assert_array_equal(drawn.statistic, plain.statistic)
    assert drawn.p[0] == plain.p[0]
    assert (np.abs(drawn.p - 0.5) <= np.abs(plain.p - 0.5) + 0.05).all()
    none = receiver_permutation_test(graph, x, y, pairs, n_permutations=0)
    assert np.isnan(none.p).all()
    np.testing.assert_array_equal(none.z, plain.z)


def test_many_tests_are_done_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    from sclm.evidence import signals

    rng = np.random.default_rng(3)
    graph = neighbour_graph(rng.random((50, 2)))
    x, y = rng.normal(size=(50, 80)), rng.normal(size=(50, 80))
    pairs = np.column_stack([np.arange(80)] * 2)
    whole = receiver_permutation_test(graph, x, y, pairs, n_permutations=99, seed=4)
    monkeypatch.setattr(signals, "_VALUES", 50 * 32)
    parts = receiver_permutation_test(graph, x, y, pairs, n_permutations=99, seed=4)
    for one, other in zip(whole, parts, strict=True):
        np.testing.assert_array_equal(one, other)


def test_residuals_against_least_squares() -> None:
    rng = np.random.default_rng(0)
    n = 60
    library = np.repeat(["one", "two"], 30)
    design = np.column_stack([rng.normal(size=n), np.tile([1.0, 0.0], 30), np.tile([0.0, 1.0], 30)])  # one too many
    values = rng.normal(size=(n, 4)) + design @ rng.normal(size=(3, 4))
    values[:, 3] = 2.0 + 3 * design[:, 0]  # nothing is left of it
    scores = adjusted_scores(values, design, library)
    assert scores.dtype == np.float32
    for name in ("one", "two"):
        rows = library == name
        x = np.column_stack([np.ones(30), design[rows]])
        left = values[rows] - x @ np.linalg.lstsq(x, values[rows], rcond=None)[0]
        np.testing.assert_allclose(scores[rows, :3], (left / left.std(axis=0))[:, :3], atol=1e-5)
        assert not scores[rows, 3].any()


def test_sparse_and_many_genes_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    from sclm.evidence import signals

    rng = np.random.default_rng(0)
    values = rng.poisson(0.5, (40, 11)).astype(np.float32)
    design = rng.normal(size=(40, 2))
    library = rng.integers(0, 2, 40)
    whole = adjusted_scores(values, design, library)
    monkeypatch.setattr(signals, "_GENES", 4)
    np.testing.assert_allclose(adjusted_scores(sp.csr_matrix(values), design, library), whole, atol=1e-6)


def shared_structure(seed: int) -> tuple[sp.csr_matrix, np.ndarray, np.ndarray, np.ndarray]:
    """Genes that follow domains and depth, and otherwise nothing: graph, log expression, domain, log depth."""
    rng = np.random.default_rng(seed)
    side = 22
    place = np.argwhere(np.ones((side, side))).astype(float)
    domain = (place[:, 0] > 10).astype(int) + 2 * (place[:, 1] > 13)
    depth = 0.5 * np.sin(place[:, 0] / 4) + 0.4 * rng.normal(size=len(place)) + 0.3 * (domain == 2)
    mean = rng.gamma(2.0, 1.0, 200)[None, :] * np.exp(0.6 * rng.normal(size=(4, 200)))[domain]
    counts = rng.poisson(mean * np.exp(depth)[:, None])
    return neighbour_graph(place, n_neighbours=4), np.log1p(counts), domain, depth


def test_the_null_holds_where_genes_share_domains_and_depth() -> None:
    p, plain = [], []
    for seed in range(3):
        graph, y, domain, depth = shared_structure(seed)
        rng = np.random.default_rng(seed)
        pairs = np.array([rng.choice(200, 2, replace=False) for _ in range(400)])
        adjusted = adjusted_scores(y, np.column_stack([np.eye(4)[domain], depth]))
        p.append(receiver_permutation_test(graph, adjusted, adjusted, pairs, n_permutations=199, seed=1).p)
        raw = adjusted_scores(y, np.zeros((len(y), 0)))
        plain.append(receiver_permutation_test(graph, raw, raw, pairs, n_permutations=199, seed=1).p)
    found, without = np.concatenate(p), np.concatenate(plain)
    assert 0.03 < (found < 0.05).mean() < 0.07
    assert kstest(found, "uniform").statistic < 0.05
    assert (without < 0.05).mean() > 0.3  # what the adjustment is for


@pytest.mark.parametrize("strength", [0.8])
def test_planted_signals_are_found(strength: float) -> None:
    graph, y, domain, depth = shared_structure(7)
    rng = np.random.default_rng(0)
    y = y.astype(float)
    sent = rng.normal(size=(len(y), 10))
    y[:, :10] += sent  # ligands that vary from spot to spot …
    y[:, 10:20] += strength * (graph @ sent) / np.sqrt(4)  # … and receptors that follow their neighbours' ligands
    scores = adjusted_scores(y, np.column_stack([np.eye(4)[domain], depth]))
    pairs = np.column_stack([np.arange(10), np.arange(10, 20)])
    result = receiver_permutation_test(graph, scores, scores, pairs, n_permutations=999)
    assert (result.p < 0.01).mean() >= 0.9
    assert (result.z > 3).mean() >= 0.9


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_permutations": -1}, "n_permutations must be at least 0 and inflation at least 1, found -1"),
        ({"inflation": 0.5}, "found 999 and 0.5"),
        ({"groups": [[0, 0], [0, 0]]}, "must describe the same spots"),
        ({"source": np.ones((4, 1))}, "must describe the same spots"),
    ],
)
def test_what_does_not_fit_is_refused(change: dict[str, object], message: str) -> None:
    graph = neighbour_graph(np.random.default_rng(0).random((6, 2)))
    x = np.zeros((6, 1))
    with pytest.raises(ValueError, match=message):
        receiver_permutation_test(graph, x, x, [[0, 0]], **change)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="must describe the same spots"):
        adjusted_scores(x, np.zeros((5, 1)))
