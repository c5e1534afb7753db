"""The share of new types, estimated from cells whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize_scalar

from sclm.models.celltosg.mixture import choose, expected_share

WEIGHTS = np.array(
    [-2.0, 4.0, 0.0, 0.0]
)  # log odds of two normals one apart in units of half a deviation, see `features_of`


def features_of(share: float, n: int, seed: int) -> np.ndarray:
    """Cells of known types at N(0, 0.5²), of new ones at N(1, 0.5²): log odds of 4 x - 2 at even odds."""
    rng = np.random.default_rng(seed)
    new = rng.random(n) < share
    x = rng.normal(new.astype(float), 0.5)
    return np.column_stack([np.ones(n), x, np.zeros((n, 2))])


@pytest.mark.parametrize("share", [0.0, 0.1, 0.3, 0.45])
def test_the_share_of_new_cells_is_found(share: float) -> None:
    found = [expected_share(features_of(share, 2_000, seed), WEIGHTS) for seed in range(3)]
    np.testing.assert_allclose(found, share, atol=0.05)


def test_it_is_the_most_likely_share_under_its_prior() -> None:
    features = features_of(0.3, 200, 7)
    ratio = np.exp(features @ WEIGHTS)

    def loss(share: float) -> float:  # a Beta prior worth five cells with three tenths of new ones
        return -np.log1p(share * (ratio - 1)).sum() - 1.5 * np.log(share) - 3.5 * np.log1p(-share)

    best = minimize_scalar(loss, bounds=(1e-6, 1 - 1e-6), method="bounded", options={"xatol": 1e-8}).x
    assert expected_share(features, WEIGHTS) == pytest.approx(best, abs=1e-4)


def test_without_cells_it_is_the_expectation_and_it_never_takes_all() -> None:
    assert expected_share(np.zeros((0, 4)), WEIGHTS) == pytest.approx(0.3)
    everywhere = np.column_stack([np.ones(500), np.full(500, 3.0), np.zeros((500, 2))])
    assert expected_share(everywhere, WEIGHTS) == 0.5


def test_a_doubtful_cell_is_called_what_stands_nearest_to_all() -> None:
    similarity = np.array([[1.0, 0.1, 0.0], [0.1, 1.0, 0.9], [0.0, 0.9, 1.0]])
    p = np.array([[0.4, 0.3, 0.3]])
    assert choose(p, similarity, 0.0)[0] == 0
    assert choose(p, similarity, 2.0)[0] == 1
