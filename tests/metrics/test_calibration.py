from __future__ import annotations

import numpy as np
import pytest
from sklearn.calibration import calibration_curve
from sklearn.metrics import accuracy_score

from sclm.metrics import coverage_accuracy, expected_calibration_error, reliability


@pytest.fixture
def guesses():
    rng = np.random.default_rng(0)
    confidence = rng.random(2000)
    return rng.random(2000) < confidence**1.5, confidence


def test_reliability_against_sklearn(guesses):
    correct, confidence = guesses
    table = reliability(correct, confidence, n_bins=10)
    accuracy, mean = calibration_curve(correct, confidence, n_bins=10)
    np.testing.assert_allclose(table["accuracy"], accuracy)
    np.testing.assert_allclose(table["confidence"], mean)
    assert table["n"].sum() == 2000
    assert list(table.columns) == ["bin_low", "bin_high", "confidence", "accuracy", "n"]


def test_calibration_error_is_the_weighted_gap(guesses):
    correct, confidence = guesses
    table = reliability(correct, confidence)
    gap = (table["n"] / 2000 * (table["accuracy"] - table["confidence"]).abs()).sum()
    assert expected_calibration_error(correct, confidence) == pytest.approx(gap)


def test_calibration_error_by_hand():
    # two bins: 0.5 said, 1 of 2 right; 0.9 said, 0 of 2 right
    assert expected_calibration_error([1, 0, 0, 0], [0.5, 0.5, 0.9, 0.9]) == pytest.approx(0.45)
    assert expected_calibration_error([True] * 3, [1.0] * 3) == 0.0
    assert np.isnan(expected_calibration_error([], []))


def test_edges_of_bins():
    table = reliability([1, 1, 1], [0.0, 0.5, 1.0], n_bins=2)
    assert table["n"].tolist() == [2, 1]
    assert np.isnan(reliability([1], [0.1], n_bins=2)["accuracy"].iloc[1])


def test_coverage_against_loop(guesses):
    correct, confidence = guesses
    confidence = confidence.round(2)
    table = coverage_accuracy(correct, confidence)
    assert table["coverage"].iloc[-1] == 1.0
    assert table["threshold"].is_monotonic_decreasing
    for row in table.iloc[::10].itertuples():
        kept = confidence >= row.threshold
        assert row.coverage == pytest.approx(kept.mean())
        assert row.accuracy == pytest.approx(accuracy_score(np.ones(kept.sum()), correct[kept]))


def test_bad_confidence():
    with pytest.raises(ValueError, match=r"found 1\.5 at position 1"):
        reliability([1, 0], [0.2, 1.5])
    with pytest.raises(ValueError, match="found nan"):
        coverage_accuracy([1], [np.nan])
    with pytest.raises(ValueError, match=r"\(2,\) and \(3,\)"):
        expected_calibration_error([1, 0], [0.1, 0.2, 0.3])
    with pytest.raises(ValueError, match="n_bins"):
        reliability([1], [0.5], n_bins=0)
