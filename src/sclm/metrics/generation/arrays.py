"""Arrays as the metrics of generated cells take them: checked, normalised, summed up."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import scipy.sparse as sp
    from numpy.typing import ArrayLike


def points(values: ArrayLike, name: str, *, at_least: int = 1) -> np.ndarray:
    """Cells as points, (n, d) float64, finite and at least so many; one-dimensional input is one coordinate a cell."""
    array = np.asarray(values, dtype=np.float64)
    if array.ndim == 1:
        array = array[:, None]  # (n,) -> (n, 1)
    if array.ndim != 2:
        raise ValueError(f"{name} must be an array of shape (cells, dimensions), found shape {array.shape}.")
    if len(array) < at_least:
        raise ValueError(f"{name} must hold at least {at_least} cells, found {len(array)}.")
    if not np.isfinite(array).all():
        raise ValueError(
            f"{name} must hold finite numbers, found {int((~np.isfinite(array)).sum())} that are not. Leave them out."
        )
    return array


def point_pair(x: ArrayLike, y: ArrayLike, *, at_least: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Two sets of points of the same number of dimensions."""
    first, second = points(x, "x", at_least=at_least), points(y, "y", at_least=at_least)
    if first.shape[1] != second.shape[1]:
        raise ValueError(
            f"x and y must have the same number of dimensions, found {first.shape[1]} and {second.shape[1]}. "
            "Bring both into one space."
        )
    return first, second


def count_matrix(counts: Any, name: str) -> sp.csr_matrix:
    """Counts as CSR, (n, G), no negative or missing value, at least one cell."""
    import scipy.sparse as sp

    matrix = counts if sp.issparse(counts) and counts.format == "csr" else sp.csr_matrix(counts)
    if matrix.shape[0] == 0:
        raise ValueError(f"{name} must hold at least one cell, found none.")
    wrong = ~(np.isfinite(matrix.data) & (matrix.data >= 0))
    if wrong.any():
        raise ValueError(f"{name} must hold raw counts, found {matrix.data[wrong][0]}.")
    return matrix


def count_pair(real: Any, generated: Any) -> tuple[sp.csr_matrix, sp.csr_matrix]:
    """Two count matrices with the same genes."""
    first, second = count_matrix(real, "real"), count_matrix(generated, "generated")
    if first.shape[1] != second.shape[1]:
        raise ValueError(
            f"real and generated must have the same genes as columns, found {first.shape[1]:,} and {second.shape[1]:,}."
        )
    return first, second


def labels_of(labels: ArrayLike, n: int, name: str) -> np.ndarray:
    """Labels as (n,) array of str."""
    array = np.asarray(labels, dtype=object)
    if array.shape != (n,):
        raise ValueError(f"{name} must hold one label for each of {n:,} cells, found shape {array.shape}.")
    return array.astype(str)


def neighbour_count(k: int, largest: int) -> int:
    """The number of neighbours asked for, refused where there are not as many cells."""
    if not 1 <= k <= largest:
        raise ValueError(f"the number of neighbours must be between 1 and {largest:,} for these cells, found {k}.")
    return int(k)


def pearson(x: np.ndarray, y: np.ndarray) -> float:
    """Pearson correlation, NaN where one side does not vary or there are fewer than two values."""
    if len(x) < 2:
        return float("nan")
    a, b = x - x.mean(), y - y.mean()
    scale = np.sqrt((a @ a) * (b @ b))
    return float(a @ b / scale) if scale > 0 else float("nan")


def spearman(x: np.ndarray, y: np.ndarray) -> float:
    """Spearman correlation: Pearson of ranks, ties at their mean rank."""
    from scipy.stats import rankdata

    return pearson(rankdata(x), rankdata(y)) if len(x) > 1 else float("nan")


def variance(log: sp.csr_matrix, mean: np.ndarray) -> np.ndarray:
    """Variance of each gene, (G,), divided by n."""
    return np.asarray(log.multiply(log).mean(axis=0)).ravel() - mean**2


def column_means(matrix: sp.csr_matrix) -> np.ndarray:
    """Mean of each gene, (G,) float64."""
    return np.asarray(matrix.mean(axis=0, dtype=np.float64)).ravel()


def scale(counts: sp.csr_matrix) -> sp.csr_matrix:
    """Counts per 10,000 (CP10k), CSR float64; cells without counts stay zero."""
    import scipy.sparse as sp

    totals = np.asarray(counts.sum(axis=1, dtype=np.float64)).ravel()
    factor = np.divide(1e4, totals, out=np.zeros_like(totals), where=totals > 0)
    values = counts.data * np.repeat(factor, np.diff(counts.indptr))  # (nnz,)
    # copies: sorting one of two matrices that share their indices would scramble the other
    return sp.csr_matrix((values, counts.indices.copy(), counts.indptr.copy()), shape=counts.shape)


def log_scale(counts: sp.csr_matrix) -> sp.csr_matrix:
    """log1p CP10k, CSR float64: `sclm.cells.log_normalise` without rounding, which trees would see."""
    return scale(counts).log1p()
