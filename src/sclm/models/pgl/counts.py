r"""The count head: raw counts of all genes at once, given the levels of a cell's programmes.

Given its levels z, depth N and condition c, a cell's counts are independent negative binomials,

.. math:: x_g \sim \mathrm{NB}\bigl(\mu_g, \phi_g\bigr), \quad
   \mu = N\,\mathrm{softmax}(b_c + L z), \quad \operatorname{Var} x_g = \mu_g + \phi_g \mu_g^2.

The dependence between genes is in the levels, which the transformer writes one after the other before.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numba
import numpy as np
import scipy.sparse as sp

from sclm.cells.kernels import per_cell

if TYPE_CHECKING:
    from collections.abc import Iterator

_LARGE = 32.0  # mean above which the search for a count starts at its mode instead of zero
_CELLS = 256  # cells whose counts stand in memory as a dense block


def expected_counts(
    profiles: np.ndarray, condition: np.ndarray, depth: np.ndarray, levels: np.ndarray, loadings: np.ndarray
) -> np.ndarray:
    """Mean counts (n, G) float32 of cells: ``profiles`` (C, G) log shares, ``levels`` (n, K), ``loadings`` (G, K)."""
    means = np.empty((condition.size, loadings.shape[0]), np.float32)
    _means(profiles, condition, depth.astype(np.float32), levels, loadings, means)
    return means


def write_counts(
    profiles: np.ndarray,
    condition: np.ndarray,
    depth: np.ndarray,
    levels: np.ndarray,
    loadings: np.ndarray,
    dispersion: np.ndarray,
    *,
    seed: int,
    cells: np.ndarray,
) -> sp.csr_matrix:
    """Draw the counts of cells.

    The random number of a gene in a cell is a function of the seed, the cell's number and the gene's, so the counts
    depend neither on the company of a cell nor on the number of threads.

    Parameters
    ----------
    profiles
        (C, G) float32 log shares.
    condition
        (n,) int64 row of ``profiles``.
    depth
        (n,) float32 expected total counts.
    levels
        (n, K) float32.
    loadings
        (G, K) float32.
    dispersion
        (G,) float32, positive.
    seed
        From 0 to 2⁶⁴ - 1.
    cells
        (n,) numbers of the cells in the request.

    Returns
    -------
    CSR (n, G) float32 of whole numbers, zeros not stored.
    """
    parts = []
    key = np.uint64(seed)
    for part in _chunks(condition.size):
        means = expected_counts(profiles, condition[part], depth[part], levels[part], loadings)
        drawn = np.empty(means.shape, np.float32)
        _draw(means, dispersion, key, cells[part].astype(np.uint64), drawn)
        parts.append(sp.csr_matrix(drawn))
    return sp.vstack(parts, format="csr")


def log_likelihood(
    counts: sp.csr_matrix,
    profiles: np.ndarray,
    condition: np.ndarray,
    depth: np.ndarray,
    levels: np.ndarray,
    loadings: np.ndarray,
    dispersion: np.ndarray,
) -> np.ndarray:
    """Log probability of each cell's counts given its levels, summed over all genes, nats: (n,) float64."""
    out = np.empty(condition.size, np.float64)
    for part in _chunks(condition.size):
        means = expected_counts(profiles, condition[part], depth[part], levels[part], loadings)
        block = counts[part].toarray()
        _log_probability(block, means, dispersion, out[part])
    return out


def _chunks(n: int) -> Iterator[slice]:
    return (slice(i, min(n, i + _CELLS)) for i in range(0, n, _CELLS))


@per_cell
def _means(
    profiles: np.ndarray,
    condition: np.ndarray,
    depth: np.ndarray,
    levels: np.ndarray,
    loadings: np.ndarray,
    means: np.ndarray,
) -> Any:
    n_genes, k = loadings.shape
    for i in numba.prange(condition.size):
        profile = profiles[condition[i]]
        total = 0.0
        for g in range(n_genes):
            score = profile[g]
            for j in range(k):
                score += loadings[g, j] * levels[i, j]
            share = math.exp(min(score, np.float32(30.0)))
            means[i, g] = share
            total += share
        scale = depth[i] / total
        for g in range(n_genes):
            means[i, g] *= scale


@numba.njit(inline="always")
def _mix(x: np.uint64) -> np.uint64:
    """Finaliser of SplitMix64 (Steele et al. 2014): a bijection of 64-bit words that passes statistical tests."""
    x ^= x >> np.uint64(30)
    x *= np.uint64(0xBF58476D1CE4E5B9)
    x ^= x >> np.uint64(27)
    x *= np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@numba.njit(inline="always")
def _count(mean: float, dispersion: float, u: float) -> float:
    """Negative binomial count at the uniform number u, by adding up probabilities."""
    if u < 1.0 - mean:  # P(0) is never below 1 - mean: most genes of most cells end here
        return 0.0
    size = 1.0 / dispersion
    odds = mean * dispersion
    ratio = odds / (1.0 + odds)
    if mean < _LARGE:
        x = 0.0
        p = math.exp(-size * math.log1p(odds))
        reached = p
        while u > reached and x < 10_000.0:
            x += 1.0
            p *= ratio * (size + x - 1.0) / x
            reached += p
        return x
    # Any order of the counts gives the right distribution: outwards from the mode, where probabilities do not vanish.
    mode = math.floor(max(0.0, (mean - odds) / 1.0)) if dispersion < 1.0 else 0.0
    top = math.exp(
        math.lgamma(mode + size) - math.lgamma(size) - math.lgamma(mode + 1.0)
        - size * math.log1p(odds) + (mode * math.log(ratio) if mode > 0.0 else 0.0)
    )  # fmt: skip
    up, down, p_up, p_down = mode, mode, top, top
    reached = top
    if u <= reached:
        return mode
    for _ in range(2_000_000):
        up += 1.0
        p_up *= ratio * (size + up - 1.0) / up
        reached += p_up
        if u <= reached:
            return up
        if down > 0.0:
            p_down *= down / (ratio * (size + down - 1.0))
            down -= 1.0
            reached += p_down
            if u <= reached:
                return down
        elif p_up < 1e-18:
            return up
    return up


@per_cell
def _draw(means: np.ndarray, dispersion: np.ndarray, key: Any, cells: np.ndarray, drawn: np.ndarray) -> Any:
    golden = np.uint64(0x9E3779B97F4A7C15)
    for i in numba.prange(means.shape[0]):
        start = _mix(_mix(key + golden) ^ (cells[i] + golden))
        for g in range(means.shape[1]):
            word = _mix(start + golden * np.uint64(g + 1))
            u = np.float64(word >> np.uint64(11)) * (1.0 / 9007199254740992.0)
            drawn[i, g] = _count(np.float64(means[i, g]), np.float64(dispersion[g]), u)


@per_cell
def _log_probability(counts: np.ndarray, means: np.ndarray, dispersion: np.ndarray, out: np.ndarray) -> Any:
    for i in numba.prange(means.shape[0]):
        total = 0.0
        for g in range(means.shape[1]):
            mean, x = np.float64(means[i, g]), np.float64(counts[i, g])
            size = 1.0 / np.float64(dispersion[g])
            odds = mean / size
            total -= size * math.log1p(odds)
            if x > 0.0:
                total += math.lgamma(x + size) - math.lgamma(size) - math.lgamma(x + 1.0)
                total += x * math.log(odds / (1.0 + odds))
        out[i] = total
