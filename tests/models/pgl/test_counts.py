"""Draws and probabilities of the count head against SciPy's negative binomial."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from scipy import stats

from sclm.models.pgl.counts import expected_counts, log_likelihood, write_counts
from sclm.models.pgl.sampling import uniforms


def head(n_genes: int = 40, k: int = 3, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    shares = rng.dirichlet(np.full(n_genes, 0.3), size=2)
    return {
        "profiles": np.log(shares + 1e-12).astype(np.float32),
        "loadings": (0.4 * rng.standard_normal((n_genes, k))).astype(np.float32),
        "dispersion": rng.uniform(0.01, 3.0, n_genes).astype(np.float32),
    }


def test_means_are_the_softmax_times_depth() -> None:
    parts = head()
    rng = np.random.default_rng(1)
    levels = rng.standard_normal((5, 3)).astype(np.float32)
    condition, depth = np.array([0, 1, 0, 1, 1]), np.array([100, 2000, 5000, 10, 900], np.float32)
    means = expected_counts(parts["profiles"], condition, depth, levels, parts["loadings"])
    scores = parts["profiles"][condition] + levels @ parts["loadings"].T
    shares = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    np.testing.assert_allclose(means, depth[:, None] * shares, rtol=1e-4, atol=1e-5)


# Small means are searched from zero, large ones outwards from the mode; both with little and much dispersion.
@pytest.mark.parametrize("mean", [0.02, 0.7, 5.0, 31.0, 40.0, 900.0])
@pytest.mark.parametrize("dispersion", [0.002, 0.3, 2.5])
def test_draws_follow_the_negative_binomial(mean: float, dispersion: float) -> None:
    n = 4000
    profiles = np.log(np.array([[0.25, 0.75]], np.float32))
    drawn = write_counts(
        profiles, np.zeros(n, np.int64), np.full(n, 4 * mean, np.float32), np.zeros((n, 1), np.float32),
        np.zeros((2, 1), np.float32), np.full(2, dispersion, np.float32), seed=3, cells=np.arange(n),
    ).toarray()[:, 0]  # fmt: skip
    size = 1 / dispersion
    truth = stats.nbinom(size, size / (size + mean))
    # Ten groups of about equal probability, fewer where single counts are larger than a tenth.
    edges = np.unique(truth.ppf(np.linspace(0.1, 0.9, 9)))
    expected = n * np.diff([0.0, *truth.cdf(edges), 1.0])
    found = np.bincount(np.searchsorted(edges, drawn), minlength=len(expected))
    keep = expected > 5
    statistic = ((found - expected)[keep] ** 2 / expected[keep]).sum()
    assert statistic < stats.chi2.ppf(1 - 1e-4, max(1, keep.sum() - 1))
    assert abs(drawn.mean() - mean) < 5 * truth.std() / np.sqrt(n)


def test_a_cell_does_not_depend_on_its_company() -> None:
    parts = head(300)
    rng = np.random.default_rng(1)
    n = 600  # more than one chunk
    levels = rng.standard_normal((n, 3)).astype(np.float32)
    condition, depth = rng.integers(0, 2, n), rng.uniform(100, 3000, n).astype(np.float32)
    options = {"loadings": parts["loadings"], "dispersion": parts["dispersion"], "seed": 5}
    whole = write_counts(parts["profiles"], condition, depth, levels, cells=np.arange(n), **options)
    some = np.array([599, 3, 300])
    alone = write_counts(parts["profiles"], condition[some], depth[some], levels[some], cells=some, **options)
    np.testing.assert_array_equal(alone.toarray(), whole[some].toarray())
    other = write_counts(parts["profiles"], condition, depth, levels, cells=np.arange(n), **{**options, "seed": 6})
    assert (whole != other).nnz > 0
    assert (whole.data == np.rint(whole.data)).all()
    assert whole.data.min() >= 1


def test_genes_of_a_cell_are_independent_given_its_levels() -> None:
    n = 3000
    drawn = write_counts(
        np.log(np.full((1, 4), 0.25, np.float32)), np.zeros(n, np.int64), np.full(n, 20, np.float32),
        np.zeros((n, 1), np.float32), np.zeros((4, 1), np.float32), np.full(4, 0.5, np.float32), seed=0,
        cells=np.arange(n),
    ).toarray()  # fmt: skip
    off = np.corrcoef(drawn.T)[np.triu_indices(4, 1)]
    assert np.abs(off).max() < 4 / np.sqrt(n)
    neighbours = np.corrcoef(drawn[:-1, 0], drawn[1:, 0])[0, 1]
    assert abs(neighbours) < 4 / np.sqrt(n)


def test_log_likelihood_is_scipys() -> None:
    parts = head(60)
    rng = np.random.default_rng(2)
    n = 7
    levels, depth = rng.standard_normal((n, 3)).astype(np.float32), rng.uniform(50, 3000, n).astype(np.float32)
    condition = rng.integers(0, 2, n)
    counts = sp.csr_matrix(rng.poisson(3, (n, 60)).astype(np.float32))
    found = log_likelihood(counts, parts["profiles"], condition, depth, levels, parts["loadings"], parts["dispersion"])
    mean = expected_counts(parts["profiles"], condition, depth, levels, parts["loadings"]).astype(np.float64)
    size = 1 / parts["dispersion"].astype(np.float64)
    truth = stats.nbinom.logpmf(counts.toarray(), size, size / (size + mean)).sum(1)
    np.testing.assert_allclose(found, truth, rtol=1e-5)


def test_uniforms_are_uniform_and_of_their_cell() -> None:
    u = uniforms(9, np.arange(2000), 100, 8)
    assert u.shape == (2000, 8)
    assert stats.kstest(u.ravel(), "uniform").pvalue > 1e-4
    np.testing.assert_array_equal(uniforms(9, np.array([17]), 102, 3)[0], u[17, 2:5])
    assert np.abs(np.corrcoef(u.T)[np.triu_indices(8, 1)]).max() < 0.1
