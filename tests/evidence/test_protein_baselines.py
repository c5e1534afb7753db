"""The baselines of translation against numpy and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse
from sklearn.linear_model import LinearRegression, Ridge, RidgeCV

from sclm.evidence.protein_baselines import MeanFit, OwnGeneFit, RidgeFit


@pytest.fixture
def data() -> tuple[sparse.csr_matrix, np.ndarray]:
    rng = np.random.default_rng(0)
    x = np.log1p(rng.poisson(rng.gamma(2.0, size=(150, 3)) @ rng.gamma(1.0, size=(3, 30))))
    y = x @ rng.normal(size=(30, 4)) * 0.3 + rng.normal(size=(150, 4))
    return sparse.csr_matrix(x.astype(np.float32)), y.astype(np.float32)


def test_the_mean_passes_over_what_was_not_measured(data: tuple[sparse.csr_matrix, np.ndarray]) -> None:
    y = data[1].copy()
    y[::3, 1] = np.nan
    y[:, 3] = np.nan
    found = MeanFit.learn(y)
    np.testing.assert_allclose(found.mean, [y[:, 0].mean(), np.nanmean(y[:, 1]), y[:, 2].mean(), 0.0], atol=1e-6)
    assert found.predict(5).shape == (5, 4)


def test_own_gene_is_a_line(data: tuple[sparse.csr_matrix, np.ndarray]) -> None:
    x, y = data
    y = y.copy()
    y[::4, 0] = np.nan
    fit = OwnGeneFit.learn(x, y, [[3], [5, 7], [], [9]])
    dense = x.toarray().astype(float)
    known = np.isfinite(y[:, 0])
    line = LinearRegression().fit(dense[known][:, [3]], y[known, 0])
    found = fit.predict(x)
    np.testing.assert_allclose(found[:, 0], line.predict(dense[:, [3]]), atol=1e-5)
    pair = dense[:, [5, 7]].mean(axis=1, keepdims=True)
    np.testing.assert_allclose(found[:, 1], LinearRegression().fit(pair, y[:, 1]).predict(pair), atol=1e-5)
    np.testing.assert_allclose(found[:, 2], y[:, 2].mean(), atol=1e-5)  # no gene: the mean
    fill = np.zeros(30, dtype=np.float32)
    fill[9] = 0.5
    np.testing.assert_allclose(fit.predict(x, fill)[:, 3], found[:, 3] + 0.5 * fit.slope[3], atol=1e-5)


def test_ridge_is_that_of_scikit_learn_at_its_penalty(data: tuple[sparse.csr_matrix, np.ndarray]) -> None:
    x, y = data
    fit = RidgeFit.learn(x, y, n_components=6, seed=0)
    z = x[:, fit.genes] @ fit.components
    centred = z - z.mean(axis=0)
    penalties = np.logspace(-4, 1, 16) * (np.linalg.svd(centred, compute_uv=False) ** 2).mean()
    for p in range(4):
        fits = [Ridge(alpha=a).fit(centred, y[:, p]) for a in penalties]
        nearest = min(fits, key=lambda f: np.abs(f.coef_ - fit.weights[:, p]).max())
        np.testing.assert_allclose(nearest.coef_, fit.weights[:, p], atol=1e-4)
        np.testing.assert_allclose(nearest.predict(centred), fit.predict(x)[:, p], atol=1e-3)
        # Leave-one-out, which generalised cross-validation approximates, finds nearly the same error.
        best = RidgeCV(alphas=penalties).fit(centred, y[:, p])
        assert np.abs(best.predict(centred) - fit.predict(x)[:, p]).mean() < 0.1


def test_ridge_with_gaps_learns_from_the_cells_that_were_measured(data: tuple[sparse.csr_matrix, np.ndarray]) -> None:
    x, y = data
    gaps = y.copy()
    gaps[100:, 1] = np.nan
    gaps[:, 2] = np.nan
    fit = RidgeFit.learn(x, gaps, n_components=6, seed=0)
    assert np.isfinite(fit.predict(x)).all()
    assert (fit.predict(x)[:, 2] == 0).all()
    whole = RidgeFit.learn(x, y, n_components=6, seed=0)
    np.testing.assert_allclose(fit.predict(x)[:, 0], whole.predict(x)[:, 0], atol=1e-5)
    assert np.corrcoef(fit.predict(x)[:, 1], whole.predict(x)[:, 1])[0, 1] > 0.8


def test_noise_is_shrunk_to_the_mean() -> None:
    rng = np.random.default_rng(1)
    x = sparse.csr_matrix(rng.gamma(1.0, size=(80, 40)).astype(np.float32))
    y = rng.normal(size=(80, 1)).astype(np.float32)
    fit = RidgeFit.learn(x, y, n_components=20, seed=0)
    assert fit.predict(x).std() < 0.6 * y.std()
