"""Make what is written agree with the training cells gene by gene: means of conditions, and dispersions.

Levels drawn from the trained network stand for the spread between cells that the programmes explain; what is left of a
gene's variation is its dispersion. Fitted on levels that were inferred from the same counts it would be too small.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.special import gammaln

from sclm.models.pgl.counts import expected_counts
from sclm.models.pgl.profile import log_shares, refit_profile

if TYPE_CHECKING:
    import scipy.sparse as sp

_GRID = np.array([1e-3, 0.02, 0.05, 0.1, 0.2, 0.35, 0.6, 1.0, 1.8, 3.0, 6.0, 12.0])
_WINDOW = 401  # genes of similar abundance that share strength
_OWN = 0.3  # weight of their mean likelihood beside the gene's own
_SMALL_COUNTS = 8  # counts above which a gene's normalised expression is taken at its mean
_RARE = 2.0  # mean count around which zeros give way to counts
_ABUNDANT = 4.0  # mean count above which zeros and small counts say little about a gene's dispersion
_GENES = 1024  # in a block
_SIZE = 1e4  # counts per 10,000, as scanpy normalises


def fit_means(
    totals: np.ndarray,
    design: sp.csr_matrix,
    log_base: np.ndarray,
    log_factors: np.ndarray,
    condition: np.ndarray,
    depth: np.ndarray,
    levels: np.ndarray,
    loadings: np.ndarray,
    *,
    pseudocount: float,
    n_own: int = 0,
    rounds: int = 3,
) -> None:
    """Move the profile, in place, until cells written with these levels have the mean counts of their conditions.

    ``totals`` (C, G) are the counts of the training cells behind ``condition``, ``depth`` and ``levels`` (n cells).
    """
    for _ in range(rounds):
        profiles = log_shares(design, log_base, log_factors)
        expected = np.zeros(totals.shape)
        for start in range(0, condition.size, 512):
            part = slice(start, start + 512)
            means = expected_counts(profiles, condition[part], depth[part], levels[part], loadings)
            np.add.at(expected, condition[part], means)
        refit_profile(totals, design, log_base, log_factors, expected, n_own=n_own, pseudocount=pseudocount)


def first_dispersion(counts: sp.csc_matrix, inferred: np.ndarray, written: np.ndarray) -> np.ndarray:
    """Most likely dispersion of each gene, sharing strength between genes of like abundance.

    Rare genes are judged by their zeros, with means under levels that the network wrote; abundant ones by all their counts,
    with means under levels inferred from the cells themselves, since the spread of the mean would hide their dispersion.

    Parameters
    ----------
    counts
        CSC (n, G).
    inferred, written
        (n, G) float32 expected counts under the two kinds of levels.

    Returns
    -------
    (G,) float64.
    """
    n, n_genes = counts.shape
    score = np.zeros((_GRID.size, n_genes))
    abundance = np.asarray(counts.mean(axis=0)).ravel()
    expressed = np.diff(counts.indptr)
    weight = 1.0 / (1.0 + np.exp(-3.0 * np.log((abundance + 1e-9) / _RARE)))  # of all counts, against zeros alone
    for start in range(0, n_genes, _GENES):
        part = slice(start, min(n_genes, start + _GENES))
        mean, spread = (m[:, part].astype(np.float64) + 1e-12 for m in (inferred, written))
        block = counts[:, part].toarray()
        cell, gene = np.nonzero(block)
        x, m = block[cell, gene].astype(np.float64), mean[cell, gene]
        for i, phi in enumerate(_GRID):
            size = 1.0 / phi
            odds = m * phi
            of_counts = gammaln(x + size) - gammaln(size) + x * (np.log(odds) - np.log1p(odds))
            all_counts = np.bincount(gene, of_counts, block.shape[1]) - size * np.log1p(mean * phi).sum(axis=0)
            zero = np.clip(np.exp(-size * np.log1p(spread * phi)).mean(axis=0), 1e-6, 1.0 - 1e-6)
            zeros = (n - expressed[part]) * np.log(zero) + expressed[part] * np.log1p(-zero)
            score[i, part] = weight[part] * all_counts + (1.0 - weight[part]) * zeros
    score += _OWN * _moving_average(score, abundance)
    share = np.exp(score - score.max(axis=0))
    return np.exp((share * np.log(_GRID)[:, None]).sum(axis=0) / share.sum(axis=0))


def fit_dispersion(
    dispersion: np.ndarray, counts: sp.csc_matrix, depth: np.ndarray, means: np.ndarray, *, rounds: int = 5
) -> np.ndarray:
    """Move dispersions until written cells have the mean log-normalised expression of the training cells, gene by gene.

    At a given mean count, that mean tells how the counts are divided: many zeros and a few large counts, or ones
    everywhere. Genes whose mean hardly depends on it keep their value.

    Parameters
    ----------
    dispersion
        (G,) to start from.
    counts
        CSC (n, G).
    depth
        (n,) total counts.
    means
        (n, G) expected counts with levels drawn from the network.
    rounds
        Newton steps.

    Returns
    -------
    (G,) float32, within 0.001 and 20.
    """
    n, n_genes = counts.shape
    out = dispersion.astype(np.float64).copy()
    logged = counts.astype(np.float64, copy=True)
    logged.data = np.log1p(_SIZE * logged.data / depth[logged.indices])
    target = np.asarray(logged.mean(axis=0)).ravel()
    noise = np.asarray(logged.multiply(logged).mean(axis=0)).ravel() - target**2
    noise = noise / n + 1e-12
    small = np.asarray(counts.mean(axis=0)).ravel() < _ABUNDANT
    value = np.log1p(_SIZE * np.arange(1, _SMALL_COUNTS + 1)[None, :] / depth[:, None])  # (n, 8)
    for start in range(0, n_genes, _GENES):
        part = slice(start, min(n_genes, start + _GENES))
        mean = means[:, part].astype(np.float64) + 1e-12
        tail = np.log1p(_SIZE * np.maximum(mean, _SMALL_COUNTS + 2.0) / depth[:, None])
        phi = out[part]
        for _ in range(rounds):
            now = _mean_logged(mean, phi, value, tail)
            slope = (_mean_logged(mean, 1.5 * phi, value, tail) - now) / np.log(1.5)
            step = np.clip((target[part] - now) / np.minimum(slope, -1e-9), -0.7, 0.7)
            known = slope**2 / noise[part]
            step *= known / (known + 1.0) * small[part]
            phi = np.clip(phi * np.exp(step), 1e-3, 20.0)
        out[part] = phi
    return out.astype(np.float32)


def _mean_logged(mean: np.ndarray, phi: np.ndarray, value: np.ndarray, tail: np.ndarray) -> np.ndarray:
    """Mean over cells of E log(1 + 10⁴ x / N) for negative binomial x, (genes,)."""
    size = 1.0 / phi
    odds = mean * phi
    ratio = odds / (1.0 + odds)
    p = np.exp(-size * np.log1p(odds))
    left = 1.0 - p
    total = np.zeros_like(mean)
    for x in range(1, _SMALL_COUNTS + 1):
        p = p * ratio * (size + x - 1.0) / x
        total += p * value[:, x - 1, None]
        left -= p
    total += np.maximum(left, 0.0) * tail
    return total.mean(axis=0)


def _moving_average(score: np.ndarray, abundance: np.ndarray) -> np.ndarray:
    """Mean of the scores of genes of similar abundance: (grid, G)."""
    n_genes = score.shape[1]
    window = min(_WINDOW, n_genes)
    order = np.argsort(abundance, kind="stable")
    added = np.concatenate([np.zeros((len(score), 1)), np.cumsum(score[:, order], axis=1)], axis=1)
    first = np.clip(np.arange(n_genes) - window // 2, 0, n_genes - window)
    average = np.empty_like(score)
    average[:, order] = (added[:, first + window] - added[:, first]) / window
    return average
