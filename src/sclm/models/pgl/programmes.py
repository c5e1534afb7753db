r"""Gene programmes: what varies between cells of one condition, as a few directions found in the training cells.

A count is :math:`x_{ig} \sim \mathrm{NB}(N_i\,p_{ig}, \phi_g)` with :math:`\log p_{ig} = b_{c(i)g} + l_g^\top z_i -
\text{const}`, where b is the condition's profile, z the levels of the programmes and l their loadings: generalised
principal components of counts (Townes et al. 2019, `doi:10.1186/s13059-019-1861-6`), fitted by variational expectation and
maximisation with a Gaussian around both z and l. The uncertainty of the loadings matters: with a thousand cells most of a
weak component is noise, and a point estimate would write cells that vary in directions in which no cell varies.

Legend of shapes: ``n`` cells · ``G`` programme genes · ``K`` programmes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Callable

_MAX_STEP = 1.0  # of one Newton step in a level, whose prior has standard deviation 1
_FARTHEST = 6.0  # level of any cell, in prior standard deviations: single odd cells must not carry a programme away
_LARGEST = 6.0  # log change of a gene's share by all programmes, a factor of 400: exponentials stay finite
_NEWTON_STEPS = 6


class Programmes(NamedTuple):
    """Loadings on the genes that carry most counts, and what the posterior of a cell needs.

    Attributes
    ----------
    genes
        (G,) int64 columns of the gene vocabulary.
    loadings
        (G, K) float32, change of log share for one unit of level.
    covariance
        (G, K, K) float32 posterior covariance of the loadings.
    dispersion
        (G,) float32, of the negative binomial around the programme's mean.
    prior_variance
        (K,) float32 variance of the loadings.
    """

    genes: np.ndarray
    loadings: np.ndarray
    covariance: np.ndarray
    dispersion: np.ndarray
    prior_variance: np.ndarray


class Posterior(NamedTuple):
    """Levels of cells: mean (n, K) and covariance (n, K, K), float32."""

    mean: np.ndarray
    covariance: np.ndarray


def fit_programmes(
    counts: np.ndarray,
    depth: np.ndarray,
    profiles: np.ndarray,
    condition: np.ndarray,
    genes: np.ndarray,
    *,
    n_programmes: int,
    iterations: int,
    refit: Callable[[np.ndarray], np.ndarray],
    seed: int = 0,
) -> tuple[Programmes, Posterior]:
    """Fit loadings and levels to a sample of the training cells.

    Parameters
    ----------
    counts
        (n, G) float32 counts of the programme genes.
    depth
        (n,) float32 total counts of the cells, all genes.
    profiles
        (C, G) float32 log shares of the programme genes in each condition.
    condition
        (n,) int64 row of ``profiles``.
    genes
        (G,) int64, kept for the result.
    n_programmes
        K, at most n - 1 and G - 1.
    iterations
        Of expectation and maximisation.
    refit
        Takes the counts (C, G) that are expected of all these cells of each condition, gives new ``profiles``: without
        it, part of the difference between conditions would end in the levels.
    seed
        Of the starting components.

    Returns
    -------
    The programmes, and the posterior of these cells.
    """
    x, total = (torch.from_numpy(np.ascontiguousarray(a, np.float32)) for a in (counts, depth))
    bias, row = torch.from_numpy(profiles.astype(np.float32)), torch.from_numpy(condition.astype(np.int64))
    k = min(n_programmes, x.shape[0] - 1, x.shape[1] - 1)
    start = torch.Generator().manual_seed(seed)
    state = _start(x, total, bias, row, k, start)
    for iteration in range(iterations):
        _expectation(x, total, bias, row, state, steps=3 if iteration < 2 else 2)
        _principal_axes(x, total, bias, row, state)
        _maximisation(x, total, bias, row, state)
        expected = torch.zeros(bias.shape).index_add_(0, row, _mean(total, bias, row, state))
        bias = torch.from_numpy(refit(expected.numpy()).astype(np.float32))
        if iteration >= 2 and iteration % 3 == 0:
            mean = _mean(total, bias, row, state)
            # Moments, with the weight of a common dispersion: (x - m)² - m has expectation phi m².
            excess, square = ((x - mean) ** 2 - mean).sum(0), (mean**2).sum(0)
            state.dispersion = ((excess + 10.0) / (square + 100.0)).clamp(0.01, 3.0)
    _expectation(x, total, bias, row, state, steps=2)
    numpy = {name: value.numpy() for name, value in vars(state).items()}
    programmes = Programmes(genes, numpy["loadings"], numpy["covariance"], numpy["dispersion"], numpy["prior_variance"])
    return programmes, Posterior(numpy["level"], numpy["level_covariance"])


def posterior(
    programmes: Programmes, counts: np.ndarray, depth: np.ndarray, profiles: np.ndarray, condition: np.ndarray
) -> Posterior:
    """Levels of other cells, by Newton steps to the mode and the curvature there (a Laplace approximation).

    Parameters are those of :func:`fit_programmes`; the levels have a standard normal prior.
    """
    x, total = (torch.from_numpy(np.ascontiguousarray(a, np.float32)) for a in (counts, depth))
    state = _State()
    state.loadings = torch.from_numpy(programmes.loadings)
    state.covariance = torch.from_numpy(programmes.covariance)
    state.dispersion = torch.from_numpy(programmes.dispersion)
    k = state.loadings.shape[1]
    state.level = torch.zeros(len(x), k)
    state.level_covariance = torch.zeros(len(x), k, k)
    bias, row = torch.from_numpy(profiles.astype(np.float32)), torch.from_numpy(condition.astype(np.int64))
    _expectation(x, total, bias, row, state, steps=_NEWTON_STEPS)
    return Posterior(state.level.numpy(), state.level_covariance.numpy())


def other_loadings(
    counts: np.ndarray,
    depth: np.ndarray,
    profiles: np.ndarray,
    condition: np.ndarray,
    levels: Posterior,
    normaliser: np.ndarray,
    prior_variance: np.ndarray,
) -> np.ndarray:
    """Loadings of genes outside the programme genes, given the levels: three Newton steps a gene.

    ``counts`` (n, H) and ``profiles`` (C, H) are of the H other genes, ``normaliser`` (n,) is the log sum of unnormalised
    shares. Returns (H, K) float32.
    """
    x, total, z, cov, norm, tau = (
        torch.from_numpy(np.ascontiguousarray(a, np.float32))
        for a in (counts, depth, levels.mean, levels.covariance, normaliser, prior_variance)
    )
    bias, row = torch.from_numpy(profiles.astype(np.float32)), torch.from_numpy(condition.astype(np.int64))
    n, k = z.shape
    second = (z[:, :, None] * z[:, None, :] + cov).reshape(n, k * k)  # E[z zᵀ], (n, K, K) → (n, K²)
    loadings = torch.zeros(x.shape[1], k)
    offset = torch.log(total)[:, None] + bias[row] - norm[:, None]  # (n, H)
    precision = (1.0 / tau).expand(len(loadings), k)
    for _ in range(3):
        mean = torch.exp(offset + z @ loadings.T)
        weight = 1.0 / (1.0 + 0.5 * mean)
        curved = mean * weight
        gradient = ((x - mean) * weight).T @ z - loadings * precision
        blocks = (curved.T @ cov.reshape(n, k * k)).reshape(-1, k, k)  # (H, K²) → (H, K, K)
        gradient -= torch.einsum("hij,hj->hi", blocks, loadings)
        hessian = (curved.T @ second).reshape(-1, k, k) + torch.diag_embed(precision)  # (H, K²) → (H, K, K)
        loadings = loadings + torch.linalg.solve(hessian, gradient).clamp(-0.3, 0.3)
    return loadings.numpy()


class _State:
    """Tensors of the fit."""

    loadings: torch.Tensor  # (G, K)
    covariance: torch.Tensor  # (G, K, K)
    dispersion: torch.Tensor  # (G,)
    prior_variance: torch.Tensor  # (K,)
    gene_scale: torch.Tensor  # (G,)
    level: torch.Tensor  # (n, K)
    level_covariance: torch.Tensor  # (n, K, K)


def _start(
    x: torch.Tensor, total: torch.Tensor, bias: torch.Tensor, row: torch.Tensor, k: int, generator: torch.Generator
) -> _State:
    """Principal components of Pearson residuals, on the log scale."""
    n, n_genes = x.shape
    state = _State()
    state.dispersion = torch.full((n_genes,), 0.15)
    mean = total[:, None] * torch.exp(bias)[row]
    residual = ((x - mean) / torch.sqrt(mean + mean**2 * state.dispersion)).clamp(-8, 8)
    # Subspace iteration from a seeded start: torch.svd_lowrank would draw from the global generator.
    width = min(k + 10, n, n_genes)
    basis = torch.randn(n, width, generator=generator)
    for _ in range(5):
        basis = torch.linalg.qr(residual @ (residual.T @ basis)).Q
    _, values, vectors = torch.linalg.svd(basis.T @ residual, full_matrices=False)
    floor = values[min(k + 5, width - 1)]
    size = torch.sqrt((values[:k] ** 2 - floor**2).clamp_min(1e-3)) / n**0.5
    average = mean.mean(0).clamp_min(1e-6)
    state.loadings = (0.7 * vectors[:k].T * size / torch.sqrt(average)[:, None]).clamp(-1, 1)
    state.covariance = torch.zeros(n_genes, k, k)
    state.prior_variance = torch.full((k,), 0.02)
    state.gene_scale = torch.ones(n_genes)
    state.level = torch.zeros(n, k)
    state.level_covariance = torch.eye(k).repeat(n, 1, 1)
    return state


def _mean(total: torch.Tensor, bias: torch.Tensor, row: torch.Tensor, state: _State) -> torch.Tensor:
    """Expected counts (n, G); genes outside the programme genes keep their share of the profile."""
    share = torch.exp(bias[row] + (state.level @ state.loadings.T).clamp(-_LARGEST, _LARGEST))
    outside = (1.0 - torch.exp(bias).sum(1)).clamp_min(0.0)[row]
    return total[:, None] * share / (share.sum(1) + outside)[:, None]


def _expectation(
    x: torch.Tensor, total: torch.Tensor, bias: torch.Tensor, row: torch.Tensor, state: _State, steps: int
) -> None:
    """Newton steps to the mode of each cell's levels."""
    n_genes, k = state.loadings.shape
    spread = state.covariance.reshape(n_genes, k * k)  # (G, K, K) → (G, K²)
    second = (state.loadings[:, :, None] * state.loadings[:, None, :]).reshape(n_genes, k * k) + spread
    eye = torch.eye(k)
    hessian = eye.repeat(len(x), 1, 1)
    for _ in range(steps):
        mean = _mean(total, bias, row, state)
        weight = 1.0 / (1.0 + mean * state.dispersion)
        curved = mean * weight
        gradient = ((x - mean) * weight) @ state.loadings - state.level
        gradient -= torch.einsum("nij,nj->ni", (curved @ spread).reshape(-1, k, k), state.level)  # (n, K²) → (n, K, K)
        drift = curved @ state.loadings  # the normaliser moves with the levels
        hessian = (curved @ second).reshape(-1, k, k) + eye  # (n, K²) → (n, K, K)
        hessian = hessian - drift[:, :, None] * drift[:, None, :] / total[:, None, None]
        step = torch.linalg.solve(hessian, gradient)
        state.level = (state.level + step.clamp(-_MAX_STEP, _MAX_STEP)).clamp(-_FARTHEST, _FARTHEST)
    state.level_covariance = torch.linalg.inv(hessian)


def _principal_axes(x: torch.Tensor, total: torch.Tensor, bias: torch.Tensor, row: torch.Tensor, state: _State) -> None:
    """Unit variance of each level over all cells, programmes in the order of what they explain."""
    moment = (state.level.T @ state.level + state.level_covariance.sum(0)) / len(x)
    root = torch.linalg.cholesky(moment)
    inverse = torch.linalg.inv(root)
    loadings = state.loadings @ root
    curved = _mean(total, bias, row, state).mean(0)
    _, axes = torch.linalg.eigh((loadings * curved[:, None]).T @ loadings)
    axes = axes.flip(1)
    # The sign of an axis is arbitrary; the largest loading is positive.
    largest = (loadings @ axes).gather(0, (loadings @ axes).abs().argmax(0, keepdim=True))[0]
    axes = axes * torch.where(largest < 0, -1.0, 1.0)
    state.loadings = loadings @ axes
    turn = axes.T @ inverse
    state.level = state.level @ turn.T
    state.level_covariance = turn @ state.level_covariance @ turn.T


def _maximisation(x: torch.Tensor, total: torch.Tensor, bias: torch.Tensor, row: torch.Tensor, state: _State) -> None:
    """Newton steps of each gene's loadings, and the variance of their prior."""
    n, k = state.level.shape
    spread = state.level_covariance.reshape(n, k * k)  # (n, K, K) → (n, K²)
    second = (state.level[:, :, None] * state.level[:, None, :]).reshape(n, k * k) + spread
    precision = 1.0 / (state.prior_variance[None, :] * state.gene_scale[:, None])
    hessian = torch.diag_embed(precision)
    for _ in range(2):
        mean = _mean(total, bias, row, state)
        weight = 1.0 / (1.0 + mean * state.dispersion)
        curved = mean * weight
        gradient = ((x - mean) * weight).T @ state.level - state.loadings * precision
        blocks = (curved.T @ spread).reshape(-1, k, k)  # (G, K²) → (G, K, K)
        gradient -= torch.einsum("gij,gj->gi", blocks, state.loadings)
        hessian = (curved.T @ second).reshape(-1, k, k) + torch.diag_embed(precision)  # (G, K²) → (G, K, K)
        state.loadings = state.loadings + torch.linalg.solve(hessian, gradient).clamp(-0.3, 0.3)
    state.covariance = torch.linalg.inv(hessian)
    square = state.loadings**2 + torch.diagonal(state.covariance, dim1=1, dim2=2)
    state.prior_variance = (square / state.gene_scale[:, None]).mean(0)
    # A gene's own scale, so that markers may load strongly while most genes hardly do.
    scale = (2.0 + (square / state.prior_variance).sum(1)) / (2.0 + k)
    state.gene_scale = scale / scale.mean()
