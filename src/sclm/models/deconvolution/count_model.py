"""Counts of a spot as a negative-binomial sum of the types' profiles, by Fisher scoring."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numba
import numpy as np

from sclm.cells.kernels import per_cell
from sclm.models.deconvolution.least_squares import products, solve, triangle

if TYPE_CHECKING:
    from scipy import sparse

_DENSE = 4_000_000  # values of a block made dense: 16 MB
STEPS = 40  # of Fisher scoring
HALVED_AFTER = 3  # steps, from which on the way to the new point is halved: identity links swing otherwise
TOL = 1e-3


class Fit(NamedTuple):
    """Abundances of a block of spots, and how sure they are."""

    abundance: np.ndarray  # (n, K) float64 expected counts from each type
    information: np.ndarray  # (n, K(K+1)/2) float64 packed Fisher information at the end


def block_size(n_genes: int) -> int:
    """Spots that are made dense at a time."""
    return int(np.clip(_DENSE // max(n_genes, 1), 16, 8192))


def fit_counts(
    counts: sparse.csr_matrix,
    profile: np.ndarray,
    dispersion: np.ndarray,
    *,
    start: np.ndarray | None = None,
    prior: np.ndarray | None = None,
    steps: int = STEPS,
) -> Fit:
    """Maximum likelihood of each spot's abundances x ≥ 0.

    y_g ~ NB(μ_g, φ_g), variance μ + φμ², μ = Σ_k S_kg x_k. Each step solves the weighted least squares
    ½ xᵀSᵀWSx - xᵀSᵀWy with W = 1/(μ + φμ²) at the last point.

    Parameters
    ----------
    counts
        (n, G) CSR of at most :func:`block_size` spots.
    profile
        (K, G) expected share of each gene in counts of each type, platform factors included.
    dispersion
        (G,) φ ≥ 0.
    start
        (n, K) where to begin.
    prior
        (n, K) counts expected of each type beforehand, such as a share w of the neighbours' abundances. They weigh as if w times
        the spot's own counts had been seen besides, with exactly this composition: w is the sum of a row over the spot's
        counts. None, or a row of zeros: none.
    steps
        Bound on steps.

    Returns
    -------
    :class:`Fit`.
    """
    n, k = counts.shape[0], profile.shape[0]
    signature = np.ascontiguousarray(profile.T, dtype=np.float32)  # (G, K)
    pairs = products(signature)  # (G, K(K+1)/2)
    phi = np.ascontiguousarray(dispersion, dtype=np.float32)
    observed = counts.toarray().astype(np.float32, copy=False)  # (n, G)
    totals = observed.sum(axis=1, dtype=np.float64)
    x = np.repeat((totals / k)[:, None], k, axis=1) if start is None else start.astype(np.float64)
    information = np.empty((n, pairs.shape[1]))
    share, mean = prior_terms(prior, totals, k)
    rows, columns = triangle(k)
    active = np.arange(n)
    for step in range(steps):
        y = observed if len(active) == n else observed[active]
        weight, weighted = _weights(y, x[active].astype(np.float32) @ signature.T, phi)
        packed = (weight @ pairs).astype(np.float64)  # (a, K(K+1)/2)
        information[active] = packed  # of the spot's own counts: a prior is no observation
        linear = (weighted @ signature).astype(np.float64)  # (a, K)
        if prior is not None:
            whole = np.zeros((len(active), k, k))  # (a, K, K)
            whole[:, rows, columns] = whole[:, columns, rows] = packed
            linear += share[active, None] * np.einsum("ski,si->sk", whole, mean[active])
            packed *= 1 + share[active, None]
        new = solve(packed, linear, x[active], 200, 1e-5)
        if step >= HALVED_AFTER:
            new = (new + x[active]) / 2
        moved = np.abs(new - x[active]).max(axis=1) / np.maximum(new.max(axis=1), 1e-12)
        x[active] = new
        active = active[moved > TOL]
        if len(active) == 0:
            break
    return Fit(x, information)


def prior_terms(prior: np.ndarray | None, totals: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Weight w of each spot's prior (n,), and its composition on the scale of the spot's counts (n, K)."""
    if prior is None:
        return np.zeros(len(totals)), np.zeros((len(totals), k))
    share = prior.sum(axis=1) / np.maximum(totals, 1e-12)
    return share, prior / np.maximum(share, 1e-12)[:, None]


def fit_deviance(counts: sparse.csr_matrix, expected: np.ndarray, dispersion: np.ndarray) -> np.ndarray:
    """(n,) float64 deviance of spots from their expectation (n, G)."""
    phi = np.ascontiguousarray(dispersion, dtype=np.float32)
    return _deviance(counts.toarray().astype(np.float32), np.ascontiguousarray(expected, dtype=np.float32), phi)


@per_cell
def _weights(y: np.ndarray, mu: np.ndarray, phi: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """W = 1/(μ + φμ²) and Wy, (n, G) float32 each."""
    n, g = y.shape
    weight, weighted = np.empty_like(y), np.empty_like(y)
    for s in numba.prange(n):
        for j in range(g):
            m = max(mu[s, j], np.float32(1e-9))
            w = np.float32(1.0) / (m + phi[j] * m * m)
            weight[s, j] = w
            weighted[s, j] = w * y[s, j]
    return weight, weighted


@per_cell
def _deviance(y: np.ndarray, mu: np.ndarray, phi: np.ndarray) -> np.ndarray:
    """(n,) float64 negative-binomial deviance of each row."""
    n, g = y.shape
    out = np.empty(n)
    one = np.float32(1)
    for s in numba.prange(n):
        total = 0.0
        for j in range(g):
            m, p, c = max(mu[s, j], np.float32(1e-9)), phi[j], y[s, j]
            # float32 logarithms: their error of 1e-7 a gene is far below what deviances are compared for
            if p > 1e-6:
                total -= 2 * (c + one / p) * np.log((one + p * c) / (one + p * m))
            else:
                total -= 2 * (c - m)
            if c > 0:
                total += 2 * c * np.log(c / m)
        out[s] = total
    return out
