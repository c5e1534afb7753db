"""Distances against slow versions, SciPy, and what is known of Gaussians."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import linalg, stats

from sclm.metrics import generation


@pytest.fixture
def clouds() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.normal(size=(40, 3)), rng.normal(0.5, 1.3, size=(55, 3))


def slow_kernel_mean(x: np.ndarray, y: np.ndarray, sigmas: list[float], skip_self: bool) -> float:
    values = [
        sum(np.exp(-((a - b) @ (a - b)) / (2 * s * s)) for s in sigmas)
        for i, a in enumerate(x)
        for j, b in enumerate(y)
        if not (skip_self and i == j)
    ]
    return float(np.mean(values))


@pytest.mark.parametrize("unbiased", [True, False])
def test_mmd_is_the_definition(clouds: tuple[np.ndarray, np.ndarray], unbiased: bool) -> None:
    x, y = clouds
    sigmas = [0.1, 1.0, 10.0]
    expected = (
        slow_kernel_mean(x, x, sigmas, unbiased)
        + slow_kernel_mean(y, y, sigmas, unbiased)
        - 2 * slow_kernel_mean(x, y, sigmas, False)
    )
    assert generation.mmd(x, y, sigmas=sigmas, unbiased=unbiased) == pytest.approx(expected, abs=1e-12)


def test_linear_mmd_is_the_distance_of_the_means(clouds: tuple[np.ndarray, np.ndarray]) -> None:
    x, y = clouds
    gap = x.mean(axis=0) - y.mean(axis=0)
    assert generation.mmd(x, y, kernel="linear", unbiased=False) == pytest.approx(gap @ gap)


def test_the_default_width_is_the_median_distance(clouds: tuple[np.ndarray, np.ndarray]) -> None:
    x, y = clouds
    median = np.median([np.linalg.norm(a - b) for a, b in itertools.combinations(x, 2)])
    assert generation.mmd(x, y) == pytest.approx(generation.mmd(x, y, sigmas=float(median)))


def test_unbiased_distances_average_to_zero_for_equal_distributions() -> None:
    rng = np.random.default_rng(1)
    draws = [(rng.normal(size=(30, 2)), rng.normal(size=(30, 2))) for _ in range(200)]
    for distance in (generation.mmd, generation.energy_distance):
        values = np.array([distance(x, y) for x, y in draws])
        assert abs(values.mean()) < 3 * values.std() / np.sqrt(len(values))
        assert generation.mmd(*draws[0], unbiased=False) > 0


def test_energy_distance_is_scipys_on_a_line() -> None:
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=50), rng.normal(0.7, 1, size=70)
    assert generation.energy_distance(x, y, unbiased=False) == pytest.approx(stats.energy_distance(x, y) ** 2)


def test_wasserstein_is_the_best_of_all_assignments() -> None:
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(6, 2)), rng.normal(size=(6, 2))
    for p in (1.0, 2.0):
        best = min(
            np.mean([np.linalg.norm(x[i] - y[j]) ** p for i, j in enumerate(order)]) ** (1 / p)
            for order in itertools.permutations(range(6))
        )
        assert generation.wasserstein(x, y, p=p) == pytest.approx(best)


def test_wasserstein_brings_sides_to_one_size() -> None:
    rng = np.random.default_rng(4)
    x = rng.normal(size=(30, 2))
    assert generation.wasserstein(x, np.r_[x, x], seed=1) == generation.wasserstein(x, np.r_[x, x], seed=1)
    assert generation.wasserstein(x, x) == 0


@pytest.mark.parametrize("m", [50, 37, 75])
def test_sliced_wasserstein_is_scipys_on_a_line(m: int) -> None:
    rng = np.random.default_rng(5)
    x, y = rng.normal(size=50), rng.exponential(size=m)
    assert generation.sliced_wasserstein(x, y, p=1, n_projections=3) == pytest.approx(stats.wasserstein_distance(x, y))


def test_sliced_wasserstein_of_a_shift() -> None:
    """Along each direction a shifted cloud is shifted by its projection: mean square |shift|² / d."""
    x = np.random.default_rng(6).normal(size=(60, 3))
    shift = np.array([3.0, 0.0, 4.0])
    value = generation.sliced_wasserstein(x, x + shift, n_projections=4000)
    assert value == pytest.approx(np.sqrt(25 / 3), rel=0.03)


def test_gene_wasserstein_is_the_mean_of_scipys() -> None:
    from sclm.cells import log_normalise

    rng = np.random.default_rng(7)
    rates = rng.gamma(1, 1, size=25)
    real, made = rng.poisson(rates, size=(40, 25)), rng.poisson(1.5 * rates[::-1], size=(33, 25))
    x, y = (log_normalise(m.astype(np.float64)).toarray() for m in (real, made))
    expected = np.mean(
        [stats.wasserstein_distance(x[:, g], y[:, g]) for g in range(25) if (real[:, g] > 0).mean() > 0.2]
    )
    assert generation.gene_wasserstein(real, made, min_share=0.2) == pytest.approx(expected, rel=1e-5)


def test_frechet_distance_is_the_definition(clouds: tuple[np.ndarray, np.ndarray]) -> None:
    x, y = clouds
    s, t = np.cov(x.T), np.cov(y.T)
    gap = x.mean(axis=0) - y.mean(axis=0)
    expected = gap @ gap + np.trace(s + t - 2 * np.real(linalg.sqrtm(s @ t)))
    assert generation.frechet_distance(x, y, ridge=0) == pytest.approx(expected)
    assert generation.frechet_distance(x, x) == pytest.approx(0, abs=1e-9)
    assert generation.frechet_distance(x[:, 0], x[:, 0] + 2) == pytest.approx(4)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: generation.mmd(x, x[:, :1]), "same number of dimensions, found 2 and 1"),
        (lambda x: generation.mmd(x, x[:1]), "at least 2 cells, found 1"),
        (lambda x: generation.mmd(x, x, sigmas=[1.0, 0.0]), "sigmas must be greater than 0"),
        (lambda x: generation.mmd(x, x, kernel="cubic"), "kernel must be"),
        (lambda x: generation.wasserstein(x, x, p=0.5), "p must be at least 1, found 0.5"),
        (lambda x: generation.sliced_wasserstein(x, x, p=0.5), "p must be at least 1"),
        (lambda x: generation.sliced_wasserstein(x, x, n_projections=0), "n_projections must be at least 1"),
        (lambda x: generation.frechet_distance(x, x, ridge=-1), "ridge must be at least 0"),
        (lambda x: generation.energy_distance(x, np.full_like(x, np.nan)), "20 that are not"),
        (lambda x: generation.energy_distance(x, x[None]), "found shape"),
    ],
)
def test_errors_say_what_was_found(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(np.random.default_rng(0).normal(size=(10, 2)))
