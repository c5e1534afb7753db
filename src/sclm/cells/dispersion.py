"""Which genes vary more than others of their abundance."""

from __future__ import annotations

import numpy as np

_LEVELS = 20  # groups of genes of similar abundance, at most
_OF_A_LEVEL = 40  # genes in one, at least


def standardised_dispersion(mean: np.ndarray, square: np.ndarray) -> np.ndarray:
    """Log of each gene's variance over its mean, standardised among genes of similar mean.

    Genes are put into up to 20 groups of similar mean; within a group, the median is taken off and the median absolute deviation divided
    by.

    Parameters
    ----------
    mean, square
        (n_genes,) mean of the values and of their squares; log-normalised counts in most uses.

    Returns
    -------
    (n_genes,) float64; -5 for genes that do not vary.
    """
    variance = np.maximum(square - mean**2, 0.0)
    there = (mean > 0) & (variance > 0)
    out = np.full(mean.size, -5.0)
    if not there.any():
        return out
    dispersion = np.log(variance[there] / mean[there])
    n = int(there.sum())
    levels = max(1, min(_LEVELS, n // _OF_A_LEVEL))
    level = np.argsort(np.argsort(mean[there], kind="stable"), kind="stable") * levels // n
    found = np.zeros(dispersion.size)
    for k in np.unique(level):
        some = dispersion[level == k]
        middle = np.median(some)
        spread = np.median(np.abs(some - middle))
        found[level == k] = (some - middle) / max(spread, 1e-6)
    out[there] = found
    return out
