"""Scores of fractions against scipy, scikit-learn and slow versions."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.distance import jensenshannon
from sklearn.metrics import average_precision_score

from sclm.metrics.mapping import aupr, jsd, pearson_by_spot, pearson_by_type, rmse


@pytest.fixture
def pair() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    truth = rng.dirichlet(np.full(6, 0.3), 80)
    truth[truth < 0.02] = 0
    truth /= truth.sum(axis=1, keepdims=True)
    estimate = 0.7 * truth + 0.3 * rng.dirichlet(np.full(6, 0.5), 80)
    estimate[:, 1] = np.where(estimate[:, 1] < 0.1, 0, estimate[:, 1])
    return truth, estimate / estimate.sum(axis=1, keepdims=True)


def test_jsd_is_the_square_of_the_distance_of_scipy(pair: tuple[np.ndarray, np.ndarray]) -> None:
    truth, estimate = pair
    expected = np.mean([jensenshannon(p, q, base=2) ** 2 for p, q in zip(truth, estimate, strict=True)])
    assert jsd(truth, estimate) == pytest.approx(expected)
    assert jsd(truth, estimate) == pytest.approx(jsd(estimate, truth))
    assert jsd(truth, truth) == 0
    assert jsd(np.eye(3), np.eye(3)[[1, 2, 0]]) == 1


def test_rmse(pair: tuple[np.ndarray, np.ndarray]) -> None:
    truth, estimate = pair
    expected = np.mean([np.sqrt(np.mean((p - q) ** 2)) for p, q in zip(truth, estimate, strict=True)])
    assert rmse(truth, estimate) == pytest.approx(expected)
    assert rmse(np.eye(2), np.eye(2)[::-1]) == 1


def test_pearson(pair: tuple[np.ndarray, np.ndarray]) -> None:
    truth, estimate = pair
    by_type = [np.corrcoef(truth[:, k], estimate[:, k])[0, 1] for k in range(6)]
    np.testing.assert_allclose(pearson_by_type(truth, estimate), by_type)
    by_spot = [np.corrcoef(p, q)[0, 1] for p, q in zip(truth, estimate, strict=True)]
    np.testing.assert_allclose(pearson_by_spot(truth, estimate), by_spot)


def test_pearson_where_a_side_does_not_vary() -> None:
    truth = np.array([[0.5, 0.2, 0.3], [0.5, 0.3, 0.2], [0.5, 0.5, 0.0]])
    estimate = np.array([[0.4, 0.3, 0.3], [0.3, 0.3, 0.4], [0.1, 0.3, 0.6]])
    # Nothing to find in the first type; the second is never found; the third is found upside down.
    value = pearson_by_type(truth, estimate)
    assert np.isnan(value[0])
    assert value[1] == 0
    assert value[2] == pytest.approx(np.corrcoef(truth[:, 2], estimate[:, 2])[0, 1])
    even = np.full((2, 3), 1 / 3)
    assert np.isnan(pearson_by_spot(even, truth[:2])).all()
    np.testing.assert_array_equal(pearson_by_spot(truth[:2], even), [0, 0])
    # A share of float32 that is the same everywhere, but not in float64 sums, is still the same everywhere.
    assert (pearson_by_type(truth, np.tile(np.float32([0.1, 0.2, 0.7]), (3, 1)))[1:] == 0).all()


def test_aupr(pair: tuple[np.ndarray, np.ndarray]) -> None:
    truth, estimate = pair
    assert aupr(truth, estimate) == pytest.approx(average_precision_score((truth > 0).ravel(), estimate.ravel()))
    assert aupr(truth, truth) == 1
    # Ties of a map that knows nothing: the share of pairs that are present.
    assert aupr(truth, np.full_like(truth, 1 / 6)) == pytest.approx((truth > 0).mean())


@pytest.mark.parametrize("score", [jsd, rmse, aupr])
def test_missing_spots_are_left_out(score, pair: tuple[np.ndarray, np.ndarray]) -> None:
    truth, estimate = pair
    with_gaps = estimate.copy()
    with_gaps[3] = np.nan
    with_gaps[7, 2] = np.nan
    holes = truth.copy()
    holes[11] = np.nan
    kept = np.delete(np.arange(80), [3, 7, 11])
    assert score(holes, with_gaps) == pytest.approx(score(truth[kept], estimate[kept]))
    assert np.isnan(score(np.full((4, 2), np.nan), np.full((4, 2), 0.5)))


def test_missing_spots_and_correlations(pair: tuple[np.ndarray, np.ndarray]) -> None:
    truth, estimate = pair
    estimate = estimate.copy()
    estimate[3] = np.nan
    by_spot = pearson_by_spot(truth, estimate)
    assert by_spot.shape == (80,)
    assert list(np.flatnonzero(np.isnan(by_spot))) == [3]
    kept = np.delete(np.arange(80), 3)
    np.testing.assert_allclose(pearson_by_type(truth, estimate), pearson_by_type(truth[kept], estimate[kept]))
    assert np.isnan(pearson_by_type(truth[:1], truth[:1])).all()  # one spot


def test_one_cell_type() -> None:
    one = np.ones((5, 1))
    assert (jsd(one, one), rmse(one, one), aupr(one, one)) == (0, 0, 1)
    assert np.isnan(pearson_by_type(one, one)).all()
    assert np.isnan(pearson_by_spot(one, one)).all()


@pytest.mark.parametrize("score", [jsd, rmse, aupr, pearson_by_type, pearson_by_spot])
def test_what_is_refused(score) -> None:
    good = np.array([[0.5, 0.5], [0.2, 0.8]])
    with pytest.raises(ValueError, match=r"of one shape.*found \(2, 2\) and \(1, 2\)"):
        score(good, good[:1])
    with pytest.raises(ValueError, match=r"truth must be of shape \(spots, cell types\), found \(2,\)"):
        score(good[0], good)
    with pytest.raises(ValueError, match=r"estimate must hold fractions that sum to 1 .*found 3 \(1 such spots\)"):
        score(good, np.array([[1, 2], [0.2, 0.8]]))
    with pytest.raises(ValueError, match=r"estimate must hold fractions of at least 0, found -0\.2"):
        score(good, np.array([[1.2, -0.2], [0.2, 0.8]]))
