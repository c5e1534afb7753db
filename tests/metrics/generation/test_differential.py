"""Fold changes, differential expression and effects on cells whose true differences are known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from sclm.metrics import generation

G = 150
BASE = np.random.default_rng(0).gamma(1.0, 3.0, size=G) + 0.5
EFFECT = np.zeros(G)
EFFECT[:30] = np.random.default_rng(1).choice([-2.0, 2.0], size=30)


def cells(n: int, strength: float = 1.0, *, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Groups "a" and "b"; genes of "b" changed by 2^(strength x EFFECT); counts (2 n, G)."""
    rng = np.random.default_rng(seed)
    rates = np.r_[np.tile(BASE, (n, 1)), np.tile(BASE * 2 ** (strength * EFFECT), (n, 1))]
    return rng.poisson(rates), np.repeat(["a", "b"], n)


def test_fold_changes_are_the_definition() -> None:
    counts, groups = cells(12, seed=0)
    groups[:4] = "c"
    scaled = counts / counts.sum(axis=1, keepdims=True) * 1e4
    found, names = generation.log_fold_changes(counts, groups, pseudocount=0.5)
    assert list(names) == ["a", "b", "c"]
    for row, name in zip(found, names, strict=True):
        means = scaled[groups == name].mean(axis=0), scaled[groups != name].mean(axis=0)
        np.testing.assert_allclose(row, np.log2((means[0] + 0.5) / (means[1] + 0.5)))


def test_slope_is_scipys_regression() -> None:
    (x, of_x), (y, of_y) = cells(20, seed=1), cells(30, 0.6, seed=2)
    table = generation.fold_change_agreement(x, y, of_x, of_y, min_share=0.0).set_index("group")
    real, made = generation.log_fold_changes(x, of_x)[0], generation.log_fold_changes(y, of_y)[0]
    for i, group in enumerate(("a", "b")):
        fit = stats.linregress(real[i], made[i])
        row = table.loc[group]
        assert (row["slope"], row["r"]) == pytest.approx((fit.slope, fit.rvalue))
        assert row["rho"] == pytest.approx(stats.spearmanr(real[i], made[i]).statistic)
        assert row["spread"] == pytest.approx(made[i].std() / real[i].std())
        assert (row["n_real"], row["n_generated"], row["n_genes"]) == (20, 30, G)


@pytest.mark.parametrize("strength", [1.0, 0.5])
def test_the_corrected_slope_is_free_of_dilution(strength: float) -> None:
    """With few cells noise pulls the plain slope down; the corrected one stays at the true attenuation."""
    rows = []
    for seed in range(10):
        (x, of_x), (y, of_y) = cells(25, seed=100 + seed), cells(100, strength, seed=seed)
        rows.append(generation.fold_change_agreement(x, y, of_x, of_y).set_index("group").loc["b"])
    # what the very deep data say: totals and the pseudocount move the true value a little away from `strength`
    (x, of_x), (y, of_y) = cells(5000, seed=7), cells(5000, strength, seed=8)
    truth = generation.fold_change_agreement(x, y, of_x, of_y).set_index("group").loc["b", "slope"]
    assert truth == pytest.approx(strength, abs=0.06)
    plain, corrected = (np.mean([row[name] for row in rows]) for name in ("slope", "corrected"))
    assert plain < 0.95 * truth
    assert corrected == pytest.approx(truth, rel=0.03)


def test_groups_of_few_cells_are_left_out() -> None:
    x, of_x = cells(10, seed=3)
    of_x[0] = "rare"
    assert list(generation.fold_change_agreement(x, x, of_x, of_x, min_cells=5)["group"]) == ["a", "b"]
    assert generation.fold_change_agreement(x, x, of_x, of_x, min_cells=50).empty
    assert generation.differential_recovery(x, x, of_x, of_x, min_cells=50).empty


def test_recovery_of_true_weak_and_absent_differences() -> None:
    x, of_x = cells(40, seed=4)
    same, of_same = cells(40, seed=5)
    none, of_none = cells(40, 0.0, seed=6)
    found = generation.differential_recovery(x, same, of_x, of_same, k=(5, 100)).set_index(["group", "k"])
    row = found.loc["b", 100]
    # 30 genes differ by a factor of 4; those left out by the cut at a factor of 2 are few
    assert 20 <= row["n_significant_real"] <= 30
    assert row["f1"] > 0.9
    assert row["direction"] == 1.0
    assert found.loc["b", 5]["precision"] == found.loc["b", 5]["recall"]
    row = generation.differential_recovery(x, none, of_x, of_none).set_index(["group", "k"]).loc["b", 100]
    assert (row["precision"], row["recall"], row["n_significant_generated"]) == (0.0, 0.0, 0)
    assert generation.differential_recovery(none, x, of_none, of_x).empty


def test_significance_is_scipys_rank_sum_test() -> None:
    """Without ties: continuous values stand in for counts."""
    from scipy import sparse

    from sclm.metrics.generation.arrays import log_scale, scale
    from sclm.metrics.generation.differential import _tests

    counts, groups = cells(15, seed=7)
    matrix = sparse.csr_matrix(counts + np.random.default_rng(0).uniform(0.1, 0.9, size=counts.shape))
    found = _tests(matrix, groups, ["b"], 1.0)["b"]
    log = log_scale(matrix).toarray()
    tests = [stats.ranksums(log[groups == "b", g], log[groups == "a", g]) for g in range(G)]
    np.testing.assert_allclose(found.score, [t.statistic for t in tests], rtol=1e-5)
    adjusted = stats.false_discovery_control([t.pvalue for t in tests])
    scaled = scale(matrix).toarray()
    change = np.log2((scaled[groups == "b"].mean(axis=0) + 1) / (scaled[groups == "a"].mean(axis=0) + 1))
    np.testing.assert_array_equal(found.significant, (adjusted < 0.05) & (np.abs(change) > 1))


def test_perturbation_correlation() -> None:
    (control, _), (real, _), (made, _) = (
        (c[half], None)
        for c, half in (
            (cells(40, seed=8)[0], slice(0, 40)),
            (cells(40, seed=9)[0], slice(40, 80)),
            (cells(40, seed=10)[0], slice(40, 80)),
        )
    )
    assert generation.perturbation_correlation(real, made, control) > 0.9
    opposite, _ = cells(40, -1.0, seed=11)
    assert generation.perturbation_correlation(real, opposite[40:], control) < -0.5


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x, g: generation.log_fold_changes(x, g[:3]), r"one label for each of 20 cells, found shape \(3,\)"),
        (lambda x, g: generation.log_fold_changes(x, ["a"] * 20), "2 different groups, found only 'a'"),
        (lambda x, g: generation.log_fold_changes(x, g, pseudocount=0), "pseudocount must be greater than 0"),
        (lambda x, g: generation.differential_recovery(x, x, g, g, k=()), "k must hold numbers of genes"),
        (lambda x, g: generation.perturbation_correlation(x, x, x[:, 1:]), "same genes as columns"),
    ],
)
def test_errors_say_what_was_found(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(*cells(10, seed=0))
