"""Scores of estimated cell type fractions against the true ones.

Legend of shapes: n spots · K cell types. Spots with a missing value in either of the two are left out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

_SUM_TOLERANCE = 1e-3  # of a row of fractions, which may come from a file with few digits
_CONSTANT = 1e-9  # range of fractions, between 0 and 1, below which they are all the same


def jsd(truth: ArrayLike, estimate: ArrayLike) -> float:
    r"""Jensen-Shannon divergence, base 2, mean over spots.

    With :math:`m = (p + q) / 2` of the true fractions p and the estimated q of a spot,

    .. math:: \mathrm{JSD} = \frac12 \sum_k p_k \log_2 \frac{p_k}{m_k} + \frac12 \sum_k q_k \log_2 \frac{q_k}{m_k}

    It is the divergence in bits, not its square root (the *distance* of scipy and of some benchmarks).

    Parameters
    ----------
    truth, estimate
        (n, K) fractions of the same spots and cell types in the same order; rows sum to 1. Spots with a missing value in
        either are left out.

    Returns
    -------
    float
        Between 0 (equal) and 1 (no cell type in common); NaN without spots.

    Raises
    ------
    ValueError
        If the shapes differ, a value is negative, or rows do not sum to 1.

    Examples
    --------
    >>> jsd([[1.0, 0.0], [0.5, 0.5]], [[0.0, 1.0], [0.5, 0.5]])
    0.5
    """
    p, q = scored(truth, estimate)
    if not len(p):
        return float("nan")
    middle = (p + q) / 2
    bits = np.zeros(len(p))
    for part in (p, q):
        ratio = np.divide(part, middle, out=np.ones_like(part), where=part > 0)
        bits += (part * np.log2(ratio)).sum(axis=1) / 2
    return float(np.clip(bits, 0, 1).mean())


def rmse(truth: ArrayLike, estimate: ArrayLike) -> float:
    r"""Root of the mean squared error of a spot's fractions, :math:`\sqrt{\sum_k (p_k - q_k)^2 / K}`, mean over spots.

    Parameters
    ----------
    truth, estimate
        (n, K) fractions, as in :func:`jsd`.

    Returns
    -------
    float
        At least 0; NaN without spots. It falls with the number of cell types: compare methods on one section only.

    Raises
    ------
    ValueError
        As :func:`jsd`.

    Examples
    --------
    >>> rmse([[1.0, 0.0], [0.5, 0.5]], [[0.0, 1.0], [0.5, 0.5]])
    0.5
    """
    p, q = scored(truth, estimate)
    return float(np.sqrt(((p - q) ** 2).mean(axis=1)).mean()) if len(p) else float("nan")


def pearson_by_type(truth: ArrayLike, estimate: ArrayLike) -> np.ndarray:
    """Pearson correlation of each cell type's fractions over spots.

    Parameters
    ----------
    truth, estimate
        (n, K) fractions, as in :func:`jsd`.

    Returns
    -------
    numpy.ndarray
        (K,) float64. NaN for a type whose true fraction is the same in all spots: there is nothing to find. 0 for one
        whose true fraction varies while the estimate is the same everywhere: a method is not rewarded for a type that it
        never finds. :func:`compare` gives the mean over the types that are not NaN and their number.

    Raises
    ------
    ValueError
        As :func:`jsd`.
    """
    return _correlations(*scored(truth, estimate))


def pearson_by_spot(truth: ArrayLike, estimate: ArrayLike) -> np.ndarray:
    """Pearson correlation of each spot's fractions over cell types.

    Parameters
    ----------
    truth, estimate
        (n, K) fractions, as in :func:`jsd`.

    Returns
    -------
    numpy.ndarray
        (n,) float64. NaN for a spot that is left out, and for one that truly holds all types equally; 0 where only the
        estimate holds all types equally.

    Raises
    ------
    ValueError
        As :func:`jsd`.
    """
    p, q = fraction_pair(truth, estimate)
    here = finite_rows(p) & finite_rows(q)
    result = np.full(len(p), np.nan)
    result[here] = _correlations(p[here].T, q[here].T)
    return result


def aupr(truth: ArrayLike, estimate: ArrayLike) -> float:
    """Area under the precision-recall curve of presence, over all pairs of spot and cell type together (micro).

    A type is present in a spot where its true fraction is above 0; estimated fractions rank the pairs. The area is
    scikit-learn's average precision, as in the Spotless benchmark (Sang-aram et al., eLife 2024).

    Parameters
    ----------
    truth, estimate
        (n, K) fractions, as in :func:`jsd`.

    Returns
    -------
    float
        Between the share of pairs that are present (a random order) and 1; NaN without spots.

    Raises
    ------
    ValueError
        As :func:`jsd`.
    """
    from sklearn.metrics import average_precision_score

    p, q = scored(truth, estimate)
    return float(average_precision_score((p > 0).ravel(), q.ravel())) if len(p) else float("nan")


# -- shared ----------------------------------------------------------------------------------------------------------


def fraction_pair(truth: ArrayLike, estimate: ArrayLike, name: str = "estimate") -> tuple[np.ndarray, np.ndarray]:
    """Both as (n, K) float64 after checks; rows with a missing value stay."""
    p, q = _fractions(truth, "truth"), _fractions(estimate, name)
    if p.shape != q.shape:
        raise ValueError(
            f"truth and {name} must be of one shape, spots in rows and cell types in columns, found {p.shape} and "
            f"{q.shape}. Bring both to the same spots and types."
        )
    return p, q


def scored(truth: ArrayLike, estimate: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Both as (n, K) float64 after checks, without the spots that have a missing value in either."""
    p, q = fraction_pair(truth, estimate)
    here = finite_rows(p) & finite_rows(q)
    return p[here], q[here]


def finite_rows(values: np.ndarray) -> np.ndarray:
    """(n,) bool, rows without missing or infinite values."""
    return np.isfinite(values).all(axis=1)


def _fractions(values: ArrayLike, name: str) -> np.ndarray:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 2 or array.shape[1] == 0:
        raise ValueError(f"{name} must be of shape (spots, cell types), found {array.shape}.")
    known = array[finite_rows(array)]
    if (known < 0).any():
        raise ValueError(f"{name} must hold fractions of at least 0, found {known.min():.4g}.")
    sums = known.sum(axis=1)
    off = np.abs(sums - 1) > _SUM_TOLERANCE
    if off.any():
        raise ValueError(
            f"{name} must hold fractions that sum to 1 in each spot, found {sums[off][0]:.4g} ({off.sum():,} such spots). "
            "Divide each row by its sum; set rows without any to NaN, or to 1 / K where all types are to be as likely."
        )
    return array


def _correlations(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Pearson correlation of each column, as described in :func:`pearson_by_type`."""
    if len(p) < 2:
        return np.full(p.shape[1], np.nan)
    a, b = p - p.mean(axis=0), q - q.mean(axis=0)
    product = np.sqrt((a**2).sum(axis=0)) * np.sqrt((b**2).sum(axis=0))
    varies, found = np.ptp(p, axis=0) > _CONSTANT, np.ptp(q, axis=0) > _CONSTANT
    result = np.where(varies, 0.0, np.nan)
    np.divide((a * b).sum(axis=0), product, out=result, where=varies & found)
    return result
