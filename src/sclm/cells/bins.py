"""Quantile bins of a cell's non-zero counts, the value tokens of scGPT."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numba
import numpy as np

from sclm.cells.counts import require_csr
from sclm.cells.hashes import cell_hashes, mixed
from sclm.cells.kernels import per_cell

if TYPE_CHECKING:
    import scipy.sparse as sp


def bin_values(
    counts: sp.csr_matrix, n_bins: int = 51, *, ties: Literal["upper", "spread"] = "upper", seed: int = 0
) -> np.ndarray:
    r"""Bin each non-zero value by the quantiles of its own cell.

    With the cell's non-zero values :math:`x` (as float32) the edges are :math:`e_j = Q(x, j / (B - 2))`,
    :math:`j = 0 … B - 2`, linearly interpolated, for :math:`B` bins including bin 0 of the zeros.  A value lies between
    :math:`l = |\{j : e_j < x\}|` and :math:`h = |\{j : e_j \le x\}|`; the two differ by more than one where equal values
    cover several edges, as about nine in ten counts do.  Its bin is :math:`h`; where `ties` are spread, it is uniform on
    :math:`l + 1 … h` where that is not empty.  A cell's maximum reaches bin :math:`B - 1` (spread: if it is alone).

    scGPT's embedding code spreads ties by numbers from a global generator, so that its answer depends on the cells before and
    on the number of worker processes.  Here they are a hash of the seed, the gene's column and the cell's own (column, value)
    pairs: the same cell has the same bins in any company.

    Parameters
    ----------
    counts
        CSR (n_cells, n_genes) without explicit zeros, values >= 0; raw or log-normalised (the bins are the same, up to
        rounding).
    n_bins
        Number of bins :math:`B` with bin 0, at least 3.
    ties
        ``"upper"``: equal values share their highest possible bin.  ``"spread"``: they are spread at random over the bins that
        they cover.
    seed
        Of ``ties="spread"``, 0 or more.

    Returns
    -------
    (nnz,) int32 in 1 … `n_bins` - 1, aligned with ``counts.data``.

    References
    ----------
    Cui et al., scGPT: toward building a foundation model for single-cell multi-omics using generative AI,
    Nature Methods 21 (2024), "value binning".
    """
    if ties not in ("upper", "spread"):
        msg = f"ties must be 'upper' or 'spread', found {ties!r}."
        raise ValueError(msg)
    lower, upper = bin_bounds(counts, n_bins, lower=ties == "spread")
    if ties == "spread":
        keys = cell_hashes(counts, seed)
        _spread(keys, counts.indices.astype(np.int64, copy=False), counts.indptr, lower, upper)
    return upper


def bin_bounds(counts: sp.csr_matrix, n_bins: int = 51, *, lower: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """Edges below each non-zero value, and edges at or below it: a value's ties cover the bins above the first up to the second.

    Parameters
    ----------
    counts, n_bins
        As in :func:`bin_values`.
    lower
        Whether the first are wanted.

    Returns
    -------
    lower
        (nnz,) int32 number of edges strictly below the value; empty where not wanted.
    upper
        (nnz,) int32 number of edges at or below it, 1 … `n_bins` - 1.
    """
    if n_bins < 3:
        msg = f"n_bins must be at least 3 (bin 0 holds the zeros), found {n_bins}."
        raise ValueError(msg)
    require_csr(counts)
    lows, bins = np.empty(counts.data.size if lower else 0, np.int32), np.empty(counts.data.size, np.int32)
    shares = np.linspace(0, 1, int(n_bins) - 1)  # numpy's, to its last bit: j / (B - 2) may round otherwise
    _bins(counts.data.astype(np.float32, copy=False), counts.indptr, shares, lows, bins)
    return lows, bins


_SMALL = 2048  # whole counts below this are binned through a table of their frequencies


@numba.njit(nogil=True, error_model="numpy", inline="never")
def _edges_of(ordered: np.ndarray, shares: np.ndarray, edges: np.ndarray) -> None:
    """Quantiles of sorted values, to numpy's last bit: the difference in float32, the rest in float64."""
    n = ordered.size
    for j in range(shares.size):
        place = np.float64(n - 1) * shares[j]
        low = min(int(np.floor(place)), n - 1)
        high = min(low + 1, n - 1)
        share = place - low
        step = np.float64(np.float32(ordered[high] - ordered[low]))
        if share >= 0.5:
            edges[j] = ordered[high] - step * (1.0 - share)
        else:
            edges[j] = ordered[low] + step * share


@numba.njit(nogil=True)
def _below(edges: np.ndarray, value: float, equal: bool) -> int:
    """Number of edges below `value`, with those equal to it where `equal`."""
    first, last = 0, edges.size
    while first < last:
        middle = (first + last) // 2
        if edges[middle] < value or (equal and edges[middle] == value):
            first = middle + 1
        else:
            last = middle
    return first


@per_cell
def _bins(data: np.ndarray, bounds: np.ndarray, shares: np.ndarray, lows: np.ndarray, bins: np.ndarray) -> Any:
    for i in numba.prange(bounds.size - 1):
        values = data[bounds[i] : bounds[i + 1]]
        target = bins[bounds[i] : bounds[i + 1]]
        n = values.size
        if n == 0:
            continue
        edges = np.empty(shares.size, np.float64)
        others = 0
        for k in range(n):
            others += not (values[k] == np.rint(values[k]) and values[k] >= 0 and values[k] < _SMALL)
        if others == 0:
            # few different counts: their frequencies give the sorted values, and each count is binned once
            frequency = np.zeros(_SMALL, np.int32)
            for k in range(n):
                frequency[np.uint32(values[k])] += 1
            ordered = np.empty(n, np.float32)
            place = 0
            for count in range(_SMALL):
                for _ in range(frequency[count]):
                    ordered[place] = count
                    place += 1
            _edges_of(ordered, shares, edges)
            j = 0
            for count in range(int(ordered[n - 1]) + 1):
                while j < edges.size and edges[j] <= count:
                    j += 1
                frequency[count] = j  # from here on: the bin of this count
            for k in range(n):
                target[k] = frequency[np.uint32(values[k])]
        else:
            _edges_of(np.sort(values), shares, edges)
            for k in range(n):
                target[k] = _below(edges, values[k], True)
        if lows.size:
            below = lows[bounds[i] : bounds[i + 1]]
            for k in range(n):
                below[k] = _below(edges, values[k], False)


@per_cell
def _spread(keys: np.ndarray, columns: np.ndarray, bounds: np.ndarray, lows: np.ndarray, bins: np.ndarray) -> Any:
    for i in numba.prange(bounds.size - 1):
        for k in range(bounds[i], bounds[i + 1]):
            width = bins[k] - lows[k]
            if width > 1:
                share = np.float64(mixed(keys[i], np.uint64(columns[k])) >> np.uint64(11)) * 2.0**-53  # [0, 1)
                bins[k] = lows[k] + 1 + np.int32(share * width)
