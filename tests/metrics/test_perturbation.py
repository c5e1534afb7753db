"""Metrics of predicted responses against loops, scipy and scikit-learn."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import sparse, stats

from sclm.metrics import perturbation


@pytest.fixture
def profiles() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Predicted, observed (6, 50), control (50,), scores (6, 50)."""
    rng = np.random.default_rng(0)
    control = rng.gamma(1, 1, size=50)
    observed = control + rng.normal(size=(6, 50)) * 0.5
    predicted = observed + rng.normal(size=(6, 50)) * 0.5
    return predicted, observed, control, rng.normal(size=(6, 50))


def test_correlations_and_distances_by_a_loop(profiles) -> None:
    predicted, observed, control, scores = profiles
    r = perturbation.delta_pearson(predicted, observed, control)
    l2 = perturbation.profile_l2(predicted, observed, control, n_top=10)
    top = perturbation.top_delta_pearson(predicted, observed, control, scores, n_top=12)
    overlap = perturbation.overlap_of_top(predicted, control, scores, n_top=12)
    expressed = sorted(range(50), key=lambda g: -control[g])[:10]
    for p in range(6):
        assert r[p] == pytest.approx(stats.pearsonr(predicted[p] - control, observed[p] - control).statistic)
        assert l2[p] == pytest.approx(sum((predicted[p, g] - observed[p, g]) ** 2 for g in expressed) ** 0.5)
        de = sorted(range(50), key=lambda g: -abs(scores[p, g]))[:12]
        assert top[p] == pytest.approx(stats.pearsonr((predicted[p] - control)[de], (observed[p] - control)[de])[0])
        called = sorted(range(50), key=lambda g: -abs(predicted[p, g] - control[g]))[:12]
        assert overlap[p] == len(set(called) & set(de)) / 12


def test_discrimination_by_a_loop(profiles) -> None:
    predicted, observed, _, _ = profiles
    found = perturbation.discrimination(predicted, observed)
    for p in range(6):
        d = [np.linalg.norm(predicted[p] - observed[q]) for q in range(6)]
        assert found[p] == pytest.approx(1 - sum(d[q] < d[p] for q in range(6)) / 5)
    assert (perturbation.discrimination(observed, observed) == 1).all()
    same = np.tile(observed.mean(axis=0), (6, 1))
    assert perturbation.discrimination(same, observed).mean() == pytest.approx(0.5)
    twice = np.vstack([observed[:1], observed[:1]])
    np.testing.assert_allclose(perturbation.discrimination(twice, twice), 0.5)  # two that nobody can tell apart
    assert np.isnan(perturbation.discrimination(observed[:1], observed[:1])).all()


def test_no_change_has_no_direction(profiles) -> None:
    _, observed, control, scores = profiles
    nothing = np.tile(control, (6, 1))
    assert np.isnan(perturbation.delta_pearson(nothing, observed, control)).all()
    assert np.isnan(perturbation.overlap_of_top(nothing, control, scores)).all()
    assert np.isnan(perturbation.top_delta_pearson(nothing, observed, control, scores)).all()
    assert (perturbation.profile_l2(nothing, observed, control) > 0).all()
    rounded = nothing.astype(np.float32)  # nor has what rounding leaves of it
    assert np.isnan(perturbation.delta_pearson(rounded, observed, control)).all()
    assert np.isnan(perturbation.overlap_of_top(rounded, control, scores)).all()


def test_differential_scores_are_welch() -> None:
    rng = np.random.default_rng(1)
    x = rng.gamma(1, 1, size=(90, 8)) * (rng.random((90, 8)) < 0.6)
    codes = np.array([-1] * 40 + [0] * 25 + [1] * 20 + [-2] * 5)
    found = perturbation.differential_scores(sparse.csr_matrix(x), codes)
    for p in (0, 1):
        expected = stats.ttest_ind(x[codes == p], x[codes == -1], equal_var=False).statistic
        np.testing.assert_allclose(found[p], expected, rtol=1e-6)
    with pytest.raises(ValueError, match="found 1 of perturbation 0"):
        perturbation.differential_scores(sparse.csr_matrix(x[:41]), codes[:41])


def test_compare_brings_tables_into_order(profiles) -> None:
    predicted, observed, control, scores = profiles
    names, genes = [f"p{i}" for i in range(6)], [f"g{i}" for i in range(50)]
    truth = pd.DataFrame(observed, index=names, columns=genes)
    turned = pd.DataFrame(predicted, index=names, columns=genes).iloc[::-1, ::-1].assign(more=1.0)
    table = perturbation.compare({"table": turned, "array": predicted}, truth, control, scores=scores)
    assert list(table.columns) == [
        "method", "perturbation", "delta_pearson", "l2", "discrimination", "top_delta_pearson", "top_overlap",
    ]  # fmt: skip
    a, b = (table[table["method"] == m].drop(columns="method").reset_index(drop=True) for m in ("table", "array"))
    pd.testing.assert_frame_equal(a, b)
    np.testing.assert_allclose(a["delta_pearson"], perturbation.delta_pearson(predicted, observed, control))
    assert "top_overlap" not in perturbation.compare({"array": predicted}, truth, control)
    with pytest.raises(KeyError, match="lacks 1 genes of observed: g0"):
        perturbation.compare({"table": turned.drop(columns="g0")}, truth, control)
    with pytest.raises(ValueError, match="found none"):
        perturbation.compare({}, truth, control)
    with pytest.raises(ValueError, match=r"found \(6, 50\), \(6, 50\) and \(49,\)"):
        perturbation.compare({"array": predicted}, truth, control[1:])
    with pytest.raises(ValueError, match="at least 1, found 0"):
        perturbation.profile_l2(predicted, observed, control, n_top=0)
    with pytest.raises(ValueError, match="scores must have the shape"):
        perturbation.overlap_of_top(predicted, control, scores[1:])
