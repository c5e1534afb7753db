"""Nulls of shuffled labels against exact enumeration, slow references, and simulations in which nothing happens."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats

from sclm.evidence import mean_shift_test, permutation_test


def test_few_arrangements_are_enumerated() -> None:
    """Against a loop over all arrangements of two batches, by hand."""
    rng = np.random.default_rng(9)
    values = rng.normal(size=9)
    strata = np.array(list("aaaabbbbb"))
    treated = np.array([1, 1, 0, 0, 1, 1, 0, 0, 0], dtype=bool)
    answer = permutation_test(
        lambda mask: values[mask].mean(), treated, strata=strata, n_permutations=60, alternative="greater"
    )
    null = [
        values[[*a, *b]].mean()
        for a in itertools.combinations(range(4), 2)
        for b in itertools.combinations(range(4, 9), 2)
    ]
    assert answer.exact
    np.testing.assert_allclose(sorted(answer.null), sorted(null))
    assert answer.p == np.mean(np.array(null) >= values[treated].mean() - 1e-12)
    reference = stats.permutation_test(
        (values[:4][treated[:4]], values[:4][~treated[:4]]), lambda a, b: a.mean() - b.mean(), alternative="greater"
    )
    alone = permutation_test(lambda mask: values[:4][mask].mean(), treated[:4])
    assert alone.p == pytest.approx(reference.pvalue)


def test_random_arrangements_keep_the_number_in_each_batch() -> None:
    rng = np.random.default_rng(10)
    strata = rng.integers(0, 3, size=200)
    treated = rng.random(200) < 0.3
    seen = []
    permutation_test(lambda m: float(seen.append(m.copy()) or 0.0), treated, strata=strata, n_permutations=20)
    for mask in seen:
        np.testing.assert_array_equal(np.bincount(strata[mask]), np.bincount(strata[treated]))
    assert len({mask.tobytes() for mask in seen}) > 15


def test_mean_shift_is_the_stated_statistic() -> None:
    rng = np.random.default_rng(11)
    x, strata, treated = rng.normal(size=(60, 4)), rng.integers(0, 3, size=60), rng.random(60) < 0.4
    treated[strata == 2] = False  # a batch without treated cells says nothing

    def slow(mask: np.ndarray) -> float:
        total, weights = np.zeros(4), 0.0
        for b in (0, 1):
            one, other = x[mask & (strata == b)], x[~mask & (strata == b)]
            weight = len(one) * len(other) / (len(one) + len(other))
            total, weights = total + weight * (one.mean(0) - other.mean(0)), weights + weight
        return float(np.linalg.norm(total / weights))

    answer = mean_shift_test(x, treated, strata=strata, n_permutations=300, seed=4)
    assert answer.statistic == pytest.approx(slow(treated))
    used = strata < 2
    again = permutation_test(
        lambda mask: slow(np.isin(np.arange(60), np.flatnonzero(used)[mask])),
        treated[used],
        strata=strata[used],
        n_permutations=300,
        seed=4,
    )
    np.testing.assert_allclose(answer.null, again.null)
    assert answer.p == again.p


def test_shuffled_labels_give_uniform_p_and_batches_do_not_pass_for_effects() -> None:
    rng = np.random.default_rng(12)
    stratified, plain = [], []
    for i in range(200):
        strata = rng.integers(0, 2, size=80)
        treated = rng.random(80) < np.where(strata == 0, 0.2, 0.7)  # unbalanced
        x = rng.normal(size=(80, 3)) + 1.0 * strata[:, None]  # and a batch effect
        stratified.append(mean_shift_test(x, treated, strata=strata, n_permutations=99, seed=i).p)
        plain.append(mean_shift_test(x, treated, n_permutations=99, seed=i).p)
    assert stats.kstest(np.array(stratified) - rng.random(200) / 100, "uniform").pvalue > 0.05
    assert np.mean(np.array(plain) < 0.05) > 0.5
    moved = mean_shift_test(x + treated[:, None], treated, strata=strata, n_permutations=99)
    assert moved.p == 0.01


def test_bad_labels_are_refused() -> None:
    with pytest.raises(ValueError, match="one bool a cell"):
        mean_shift_test(np.zeros((4, 2)), [0, 1, 1, 0])
    with pytest.raises(ValueError, match="no batch holds both"):
        mean_shift_test(np.zeros((4, 2)), np.array([True, True, False, False]), strata=["a", "a", "b", "b"])
    with pytest.raises(ValueError, match="n_permutations must be at least 1"):
        mean_shift_test(np.zeros((4, 2)), np.array([True, True, False, False]), n_permutations=0)
    with pytest.raises(ValueError, match="one row a cell"):
        mean_shift_test(np.zeros((3, 2)), np.array([True, True, False, False]))
