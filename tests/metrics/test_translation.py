"""Scores of predicted proteins against numpy and scipy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import pearsonr

from sclm.metrics.translation import compare, coverage, flat_scores, pearson, rmse


@pytest.fixture
def pair() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(40, 3))
    predicted = truth + rng.normal(size=(40, 3))
    truth[::5, 1] = np.nan
    return truth, predicted


def test_correlation_and_error_by_protein(pair: tuple[np.ndarray, np.ndarray]) -> None:
    truth, predicted = pair
    known = np.isfinite(truth[:, 1])
    found = pearson(truth, predicted)
    assert found[0] == pytest.approx(pearsonr(truth[:, 0], predicted[:, 0])[0])
    assert found[1] == pytest.approx(pearsonr(truth[known, 1], predicted[known, 1])[0])
    assert rmse(truth, predicted)[1] == pytest.approx(np.sqrt(((truth - predicted)[known, 1] ** 2).mean()))
    flat = np.tile(predicted.mean(axis=0), (40, 1))
    assert np.isnan(pearson(truth, flat)).all()  # the training mean says the same of every cell
    assert np.isnan(pearson(truth[:2], predicted[:2])).all()
    truth[:, 2] = np.nan
    assert np.isnan(rmse(truth, predicted)[2])
    assert np.isnan(coverage(truth, predicted, np.ones(3))[2])


def test_the_scores_of_the_paper_are_means_over_batches(pair: tuple[np.ndarray, np.ndarray]) -> None:
    truth, predicted = pair
    errors, cosines = [], []
    for start in range(0, 40, 7):
        a, b = truth[start : start + 7].ravel(), predicted[start : start + 7].ravel()
        a, b = a[np.isfinite(a)], b[np.isfinite(a)]
        errors.append(((a - b) ** 2).mean())
        cosines.append(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
    assert flat_scores(truth, predicted, batch_size=7) == pytest.approx((np.mean(errors), np.mean(cosines)))
    with pytest.raises(ValueError, match="batch_size must be at least 1, found 0"):
        flat_scores(truth, predicted, batch_size=0)
    with pytest.raises(ValueError, match="found none"):
        flat_scores(np.full((2, 2), np.nan), np.zeros((2, 2)))


def test_coverage_counts_cells_within_the_interval(pair: tuple[np.ndarray, np.ndarray]) -> None:
    truth, predicted = pair
    found = coverage(truth, predicted, [0.5, 1.0, 2.0])
    assert found[0] == (np.abs(truth - predicted)[:, 0] <= 0.5).mean()
    assert found[1] == (np.abs(truth - predicted)[np.isfinite(truth[:, 1]), 1] <= 1.0).mean()


def test_compare_has_a_row_a_method_and_the_mean(pair: tuple[np.ndarray, np.ndarray]) -> None:
    truth, predicted = pair
    table = compare(truth, {"model": predicted}, ["a", "b", "c"], training_mean=np.nanmean(truth, axis=0))
    assert table["method"].tolist() == ["model", "mean-protein"]
    assert table["n_proteins"].tolist() == [3, 3]
    assert table.loc[0, "pearson"] == pytest.approx(pearson(truth, predicted).mean())
    assert table.loc[0, "pearson: b"] == pytest.approx(pearson(truth, predicted)[1])
    assert table.loc[1, "pearson"] == 0  # the same of every cell
    truth[:, 2] = 1.0  # does not vary: nothing to predict
    assert compare(truth, {"model": predicted}, ["a", "b", "c"]).loc[0, "n_proteins"] == 2
    with pytest.raises(ValueError, match="found 2 names"):
        compare(truth, {"model": predicted}, ["a", "b"])
    with pytest.raises(ValueError, match="one shape"):
        pearson(truth, predicted[:, :2])
