"""Quantile bins of a cell's non-zero counts, the value tokens of scGPT."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numba
import numpy as np

from sclm.cells.counts import require_csr
from sclm.cells.kernels import per_cell

if TYPE_CHECKING:
    import scipy.sparse as sp


def bin_values(counts: sp.csr_matrix, n_bins: int = 51) -> np.ndarray:
    r"""Bin each non-zero value by the quantiles of its own cell.

    With the cell's non-zero values :math:`x` (as float32) the edges are :math:`e_j = Q(x, j / (B - 2))`,
    :math:`j = 0 … B - 2`, linearly interpolated, for :math:`B` bins including bin 0 of the zeros.  A value's bin is the
    number of edges at or below it, :math:`|\{j : e_j \le x\}|`, so equal values share their highest possible bin and a
    cell's maximum is always in bin :math:`B - 1`.  The result is deterministic; scGPT's embedding code spreads ties at
    random over the bins that they cover.

    Parameters
    ----------
    counts
        CSR (n_cells, n_genes) without explicit zeros, values >= 0; raw or log-normalised (the bins are the same, up to
        rounding).
    n_bins
        Number of bins :math:`B` with bin 0, at least 3.

    Returns
    -------
    (nnz,) int32 in 1 … `n_bins` - 1, aligned with ``counts.data``.

    References
    ----------
    Cui et al., scGPT: toward building a foundation model for single-cell multi-omics using generative AI,
    Nature Methods 21 (2024), "value binning".
    """
    if n_bins < 3:
        msg = f"n_bins must be at least 3 (bin 0 holds the zeros), found {n_bins}."
        raise ValueError(msg)
    require_csr(counts)
    bins = np.empty(counts.data.size, np.int32)
    shares = np.linspace(0, 1, int(n_bins) - 1)  # numpy's, to its last bit: j / (B - 2) may round otherwise
    _bins(counts.data.astype(np.float32, copy=False), counts.indptr, shares, bins)
    return bins


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


@per_cell
def _bins(data: np.ndarray, bounds: np.ndarray, shares: np.ndarray, bins: np.ndarray) -> Any:
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
                below, above = 0, edges.size
                while below < above:
                    middle = (below + above) // 2
                    if edges[middle] <= values[k]:
                        below = middle + 1
                    else:
                        above = middle
                target[k] = below
