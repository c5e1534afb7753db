"""The fit of a spot: optimality by formulas written out here, other optimisers, and limits."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.optimize
import scipy.stats
from scipy import sparse

from sclm.models.deconvolution.count_model import block_size, fit_counts, fit_deviance


@pytest.fixture(scope="module")
def profile() -> np.ndarray:
    found = np.random.default_rng(0).gamma(0.4, 1, (6, 150)) + 1e-4
    return found / found.sum(axis=1, keepdims=True)


@pytest.fixture(scope="module")
def counts(profile: np.ndarray) -> np.ndarray:
    rng = np.random.default_rng(1)
    mean = rng.dirichlet(np.full(6, 0.4), 60) @ profile * rng.lognormal(7.5, 0.5, (60, 1))
    return rng.poisson(mean * rng.gamma(5, 1 / 5, mean.shape)).astype(np.float32)


def score(y: np.ndarray, x: np.ndarray, profile: np.ndarray, phi: float) -> np.ndarray:
    """Gradient of the log-likelihood with respect to abundances."""
    mu = x @ profile
    return ((y - mu) / (mu * (1 + phi * mu))) @ profile.T


def deviance(y: np.ndarray, mu: np.ndarray, phi: float) -> float:
    """Twice the distance of the log-likelihood from that of a perfect fit, by scipy."""

    def log_likelihood(at: np.ndarray) -> float:
        at = np.maximum(at, 1e-300)
        return float(scipy.stats.nbinom.logpmf(y, 1 / phi, 1 / (1 + phi * at)).sum())

    return 2 * (log_likelihood(y) - log_likelihood(mu))


@pytest.mark.parametrize("phi", [0.0, 0.1, 0.5])
def test_no_direction_improves_the_likelihood(counts: np.ndarray, profile: np.ndarray, phi: float) -> None:
    """x ≥ 0; the score is 0 where x > 0 and not above 0 where x = 0."""
    x = fit_counts(sparse.csr_matrix(counts), profile, np.full(150, phi)).abundance
    assert (x >= 0).all()
    gradient = score(counts, x, profile, phi)
    total = x.sum(axis=1, keepdims=True)
    # What moving a thousandth of the spot's counts to a type could gain, in nats: less than chance could tell.
    gain = gradient * total * 1e-3
    present = x > 0.005 * total
    assert np.abs(gain[present]).max() < 0.05
    assert gain[~present].max() < 0.05
    assert (~present).sum() > 30


@pytest.mark.parametrize("phi", [1e-3, 0.3])
def test_never_worse_than_a_general_optimiser(counts: np.ndarray, profile: np.ndarray, phi: float) -> None:
    dispersion = np.full(150, phi)
    x = fit_counts(sparse.csr_matrix(counts[:8]), profile, dispersion).abundance
    for y, found in zip(counts[:8], x, strict=True):

        def loss(z: np.ndarray, y: np.ndarray = y) -> tuple[float, np.ndarray]:
            mu = z @ profile + 1e-12
            value = ((y + 1 / phi) * np.log1p(phi * mu) - y * np.log(mu)).sum()
            return value, -score(y, z, profile, phi)

        start = np.full(6, y.sum() / 6)
        best = scipy.optimize.minimize(loss, start, jac=True, bounds=[(0, None)] * 6, method="L-BFGS-B")
        assert loss(found)[0] <= best.fun + 0.01
        np.testing.assert_allclose(found / found.sum(), best.x / best.x.sum(), atol=0.01)


def test_without_dispersion_it_is_the_poisson_mixture_of_expectation_maximisation(
    counts: np.ndarray, profile: np.ndarray
) -> None:
    x = fit_counts(sparse.csr_matrix(counts[:10]), profile, np.zeros(150)).abundance
    for y, found in zip(counts[:10].astype(float), x, strict=True):
        slow = np.full(6, y.sum() / 6)
        for _ in range(5000):
            slow *= (profile @ (y / (slow @ profile))) / profile.sum(axis=1)
        np.testing.assert_allclose(found, slow, atol=0.003 * y.sum())
        np.testing.assert_allclose(found.sum(), y.sum(), rtol=1e-3)  # a Poisson fit keeps the total


@pytest.mark.parametrize("phi", [0.05, 0.3, 2.0])
def test_deviance_agrees_with_scipy(counts: np.ndarray, profile: np.ndarray, phi: float) -> None:
    mu = np.outer(counts.sum(axis=1), profile.mean(axis=0))
    found = fit_deviance(sparse.csr_matrix(counts), mu, np.full(150, phi))
    expected = [deviance(y, m, phi) for y, m in zip(counts, mu, strict=True)]
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_deviance_without_dispersion_is_that_of_poisson(counts: np.ndarray, profile: np.ndarray) -> None:
    mu = np.outer(counts.sum(axis=1), profile.mean(axis=0))
    found = fit_deviance(sparse.csr_matrix(counts), mu, np.zeros(150))
    pmf = scipy.stats.poisson.logpmf
    expected = 2 * (pmf(counts, np.maximum(counts, 1e-300)) - pmf(counts, mu)).sum(axis=1)
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_information_is_that_of_the_formula(counts: np.ndarray, profile: np.ndarray) -> None:
    fit = fit_counts(sparse.csr_matrix(counts), profile, np.full(150, 0.3))
    for x, packed in zip(fit.abundance, fit.information, strict=True):
        mu = x @ profile
        expected = (profile / (mu * (1 + 0.3 * mu))) @ profile.T
        np.testing.assert_allclose(packed, expected[np.triu_indices(6)], rtol=0.15)  # of the last step but one


def test_a_spot_does_not_depend_on_the_others(counts: np.ndarray, profile: np.ndarray) -> None:
    phi = np.full(150, 0.3)
    whole = fit_counts(sparse.csr_matrix(counts), profile, phi).abundance
    alone = fit_counts(sparse.csr_matrix(counts[17:18]), profile, phi).abundance
    np.testing.assert_allclose(alone[0], whole[17], atol=2e-3 * whole[17].sum())


# Prior --------------------------------------------------------------------------------------------------------------


def test_a_prior_of_nothing_changes_nothing(counts: np.ndarray, profile: np.ndarray) -> None:
    y, phi = sparse.csr_matrix(counts), np.full(150, 0.3)
    np.testing.assert_array_equal(
        fit_counts(y, profile, phi, prior=np.zeros((60, 6))).abundance, fit_counts(y, profile, phi).abundance
    )


def test_a_prior_draws_by_its_weight(counts: np.ndarray, profile: np.ndarray) -> None:
    y, phi = sparse.csr_matrix(counts), np.full(150, 0.3)
    total = counts.sum(axis=1, keepdims=True)
    belief = np.array([0.1, 0.5, 0.1, 0.1, 0.1, 0.1])
    distance = []
    for weight in (0.0, 0.1, 1.0, 10.0, 1e5):
        x = fit_counts(y, profile, phi, prior=weight * total * belief).abundance
        distance.append(np.abs(x / x.sum(axis=1, keepdims=True) - belief).mean())
    assert (np.diff(distance) < 0).all()
    assert distance[-1] < 0.01


def test_a_prior_is_worth_counts_of_its_composition(counts: np.ndarray, profile: np.ndarray) -> None:
    """As if w times the spot's counts had been seen besides, just as the prior expects them."""
    phi, y = np.full(150, 0.3), counts.astype(float)
    belief, w = np.random.default_rng(2).dirichlet(np.ones(6), 60), 0.7
    total = y.sum(axis=1, keepdims=True)
    both = (y + w * total * belief @ profile) / (1 + w)
    expected = fit_counts(sparse.csr_matrix(both.astype(np.float32)), profile, phi).abundance
    found = fit_counts(sparse.csr_matrix(counts), profile, phi, prior=w * total * belief).abundance
    np.testing.assert_allclose(found / total, expected / total, atol=2e-3)


def test_blocks_are_bounded() -> None:
    assert block_size(10**9) == 16
    assert block_size(1) == 8192
    assert block_size(2000) * 2000 <= 4_000_000
