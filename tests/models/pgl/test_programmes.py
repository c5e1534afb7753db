"""Programmes, levels, dispersions and scores against simulated truth and brute force."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from scipy import stats

from sclm.models.pgl.calibrate import first_dispersion, fit_dispersion, fit_means
from sclm.models.pgl.counts import expected_counts, write_counts
from sclm.models.pgl.levels import design_matrix, fit_levels, slot_values, to_bins
from sclm.models.pgl.profile import fit_profile, log_shares
from sclm.models.pgl.programmes import fit_programmes, other_loadings, posterior


@pytest.fixture(scope="module")
def simulated() -> dict[str, np.ndarray]:
    """600 cells of two types, 200 genes, two programmes; counts from the model itself."""
    rng = np.random.default_rng(0)
    n, n_genes = 600, 200
    profiles = np.log(rng.dirichlet(np.full(n_genes, 1.0), size=2)).astype(np.float32)
    loadings = (0.5 * rng.standard_normal((n_genes, 2)) * (rng.random((n_genes, 2)) < 0.4)).astype(np.float32)
    levels = rng.standard_normal((n, 2)).astype(np.float32)
    condition = rng.integers(0, 2, n)
    depth = np.exp(rng.normal(8, 0.4, n)).astype(np.float32)
    dispersion = rng.uniform(0.05, 0.4, n_genes).astype(np.float32)
    counts = write_counts(profiles, condition, depth, levels, loadings, dispersion, seed=1, cells=np.arange(n))
    total = np.asarray(counts.sum(1)).ravel().astype(np.float32)
    return {
        "profiles": profiles, "loadings": loadings, "levels": levels, "condition": condition, "depth": total,
        "dispersion": dispersion, "counts": counts,
    }  # fmt: skip


def fitted(s: dict, k: int = 2, genes: np.ndarray | None = None) -> tuple:
    genes = np.arange(200) if genes is None else genes
    return fit_programmes(
        s["counts"][:, genes].toarray(), s["depth"], s["profiles"][:, genes], s["condition"], genes,
        n_programmes=k, iterations=15, refit=lambda _: s["profiles"][:, genes],
    )  # fmt: skip


def test_programmes_span_the_true_directions(simulated: dict) -> None:
    programmes, levels = fitted(simulated)
    # Any rotation explains the same: regress the true levels on those found.
    found = np.column_stack([np.ones(600), levels.mean])
    rest = simulated["levels"] - found @ np.linalg.lstsq(found, simulated["levels"], rcond=None)[0]
    assert rest.var(0).max() < 0.1
    basis = np.linalg.qr(programmes.loadings)[0]
    truth = simulated["loadings"] - simulated["loadings"].mean(0)
    outside = truth - basis @ (basis.T @ truth)
    assert (outside**2).sum() / (truth**2).sum() < 0.2


def test_levels_have_unit_moment_and_repeat(simulated: dict) -> None:
    programmes, levels = fitted(simulated)
    moment = (levels.mean.T @ levels.mean + levels.covariance.sum(0)) / 600
    np.testing.assert_allclose(np.diag(moment), 1, atol=0.1)
    again, _ = fitted(simulated)
    np.testing.assert_array_equal(programmes.loadings, again.loadings)


def test_noise_gets_hardly_any_loading(simulated: dict) -> None:
    """Six programmes are asked for, two are there: the other four must not vary."""
    programmes, _ = fitted(simulated, k=6)
    size = np.sqrt((programmes.loadings**2).mean(0))
    assert size[2:].max() < 0.35 * size[:2].min()


def test_posterior_is_the_one_found_by_brute_force(simulated: dict) -> None:
    """One programme, one cell: mode and curvature of the log posterior on a grid."""
    programmes, _ = fitted(simulated, k=1)
    programmes = programmes._replace(covariance=np.zeros_like(programmes.covariance))
    cell = 5
    x, depth = simulated["counts"][cell].toarray(), simulated["depth"][[cell]]
    bias = simulated["profiles"][simulated["condition"][cell]].astype(np.float64)
    found = posterior(programmes, x, depth, simulated["profiles"], simulated["condition"][[cell]])
    grid = np.linspace(-4, 4, 4001)
    size = 1 / programmes.dispersion.astype(np.float64)
    scores = bias + grid[:, None] * programmes.loadings[:, 0]
    mean = depth * np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    log_p = stats.nbinom.logpmf(x, size, size / (size + mean)).sum(1) - grid**2 / 2
    mode = grid[log_p.argmax()]
    p = np.exp(log_p - log_p.max())
    p /= p.sum()
    spread = np.sqrt((p * (grid - (p * grid).sum()) ** 2).sum())
    assert abs(found.mean[0, 0] - mode) < 0.25 * spread
    assert 0.8 < np.sqrt(found.covariance[0, 0, 0]) / spread < 1.25


def test_posterior_spread_is_honest(simulated: dict) -> None:
    """True levels lie within the stated spread as often as they should (programmes known, not fitted)."""
    programmes, _ = fitted(simulated)
    programmes = programmes._replace(
        loadings=simulated["loadings"], covariance=np.zeros((200, 2, 2), np.float32), dispersion=simulated["dispersion"]
    )
    found = posterior(
        programmes, simulated["counts"].toarray(), simulated["depth"], simulated["profiles"], simulated["condition"]
    )
    error = simulated["levels"] - found.mean
    distance = np.einsum("ni,nij,nj->n", error, np.linalg.inv(found.covariance), error)
    assert abs((distance < stats.chi2.ppf(0.9, 2)).mean() - 0.9) < 0.05


def test_loadings_of_genes_outside_follow_the_levels(simulated: dict) -> None:
    inside, outside = np.arange(100), np.arange(100, 200)
    programmes, levels = fitted(simulated, genes=inside)
    scores = np.exp(simulated["profiles"][simulated["condition"]][:, inside] + levels.mean @ programmes.loadings.T).sum(
        1
    )
    rest = 1 - np.exp(simulated["profiles"][:, inside]).sum(1)
    found = other_loadings(
        simulated["counts"][:, outside].toarray(), simulated["depth"], simulated["profiles"][:, outside],
        simulated["condition"], levels, np.log(scores + rest[simulated["condition"]]), programmes.prior_variance,
    )  # fmt: skip
    # The same change of the gene for the same cell, whatever the axes.
    explained = levels.mean @ found.T
    truth = simulated["levels"] @ simulated["loadings"][outside].T
    strong = truth.std(0) > 0.4
    similar = [np.corrcoef(explained[:, g], truth[:, g])[0, 1] for g in np.flatnonzero(strong)]
    assert np.median(similar) > 0.85


def test_dispersions_are_recovered(simulated: dict) -> None:
    s = simulated
    means = expected_counts(s["profiles"], s["condition"], s["depth"], s["levels"], s["loadings"])
    counts = s["counts"].tocsc()
    seen = np.asarray(counts.mean(0)).ravel() > 1
    first = first_dispersion(counts, means, means)
    found = fit_dispersion(first, counts, s["depth"], means)
    for estimate in (first, found):
        ratio = np.log(estimate / s["dispersion"])[seen]
        assert abs(np.median(ratio)) < 0.15
        assert np.sqrt((ratio**2).mean()) < 0.6
    assert np.corrcoef(np.log(first[seen]), np.log(s["dispersion"][seen]))[0, 1] > 0.7


def test_calibrated_means_are_those_of_the_cells(simulated: dict) -> None:
    s = simulated
    design = sp.identity(2, format="csr", dtype=np.float32)
    totals = np.vstack([np.asarray(s["counts"][s["condition"] == c].sum(0)).ravel() for c in range(2)])
    base, factors = fit_profile(totals, design)
    fit_means(totals, design, base, factors, s["condition"], s["depth"], s["levels"], s["loadings"], pseudocount=1.0)
    means = expected_counts(log_shares(design, base, factors), s["condition"], s["depth"], s["levels"], s["loadings"])
    written = np.vstack([means[s["condition"] == c].sum(0) for c in range(2)])
    many = totals > 200
    np.testing.assert_allclose(written[many], totals[many], rtol=0.05)


def test_levels_are_quantiles_and_the_guess_is_the_regression() -> None:
    rng = np.random.default_rng(3)
    n = 4000
    kind = rng.integers(0, 2, n)
    nodes = [sp.csr_matrix(np.eye(2, dtype=np.float32)[kind])]
    design = design_matrix(nodes)
    assert design.shape == (n, 4)  # constant, two nodes, "not given"
    log_depth = rng.normal(8, 0.5, n)
    programme = (
        np.where(kind == 1, 1.0, -1.0) + 0.8 * (log_depth - 8) / 0.5 + rng.normal(0, np.where(kind == 1, 0.2, 0.6))
    )
    levels = fit_levels(log_depth, programme[:, None], design, design, 10)
    values = slot_values(levels, np.exp(log_depth), programme[:, None])
    share = np.bincount(to_bins(levels, values)[:, 1], minlength=10) / n
    np.testing.assert_allclose(share, 0.1, atol=0.005)
    mean = design @ levels.mean_weight + values @ levels.previous_weight.T
    for c, expected in ((0, -1.0), (1, 1.0)):
        rest = (programme - mean[:, 1])[kind == c]
        assert abs(rest.mean()) < 0.03
        spread = np.exp((design @ levels.spread_weight)[kind == c, 1]).mean()
        assert abs(np.log(spread / (0.6, 0.2)[c])) < 0.15
        assert abs(mean[kind == c, 1].mean() - expected) < 0.1
    assert abs(levels.previous_weight[1, 0] - 0.8) < 0.05
    assert levels.previous_weight[0].sum() == 0
