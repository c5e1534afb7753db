"""Many small non-negative least squares against scipy's, one by one."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.optimize

from sclm.models.deconvolution.least_squares import products, solve, triangle


@pytest.mark.parametrize("shared", [False, True])
def test_agrees_with_lawson_and_hanson(shared: bool) -> None:
    rng = np.random.default_rng(0)
    n, k, g = 40, 6, 25
    design = rng.normal(size=(1 if shared else n, g, k))
    y = rng.normal(size=(n, g))
    packed = np.stack([(a.T @ a)[triangle(k)] for a in design])
    linear = np.stack([design[0 if shared else i].T @ y[i] for i in range(n)])
    found = solve(packed, linear, np.zeros((n, k)), 5000, 1e-12)
    expected = np.stack([scipy.optimize.nnls(design[0 if shared else i], y[i])[0] for i in range(n)])
    assert (expected == 0).sum() > n
    np.testing.assert_allclose(found, expected, atol=1e-8)


def test_the_start_does_not_matter_and_is_not_changed() -> None:
    rng = np.random.default_rng(1)
    a = rng.normal(size=(20, 4))
    packed, linear = (a.T @ a)[triangle(4)][None], rng.normal(size=(3, 4))
    start = rng.uniform(0, 5, (3, 4))
    kept = start.copy()
    found = solve(packed, linear, start, 5000, 1e-12)
    np.testing.assert_array_equal(start, kept)
    np.testing.assert_allclose(found, solve(packed, linear, np.zeros((3, 4)), 5000, 1e-12), atol=1e-9)


def test_a_coordinate_without_curvature_stays() -> None:
    packed = np.array([[1.0, 0.0, 0.0]])  # H = [[1, 0], [0, 0]]
    np.testing.assert_array_equal(solve(packed, np.array([[2.0, 3.0]]), np.array([[0.0, 7.0]]), 50, 1e-9), [[2.0, 7.0]])


def test_products_pack_weighted_gram_matrices() -> None:
    rng = np.random.default_rng(2)
    s, w = rng.normal(size=(30, 5)), rng.uniform(size=(4, 30))
    for packed, weight in zip(w @ products(s), w, strict=True):
        np.testing.assert_allclose(packed, (s.T @ np.diag(weight) @ s)[np.triu_indices(5)])
