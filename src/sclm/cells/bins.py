"""Quantile bins of a cell's non-zero counts, the value tokens of scGPT."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numba
import numpy as np

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
    bins = np.empty(counts.data.size, np.int32)
    shares = np.linspace(0, 1, int(n_bins) - 1)  # numpy's, to its last bit: j / (B - 2) may round otherwise
    _bins(counts.data.astype(np.float32, copy=False), counts.indptr, shares, bins)
    return bins


@per_cell
def _bins(data: np.ndarray, indptr: np.ndarray, shares: np.ndarray, bins: np.ndarray) -> Any:
    n_edges = shares.size
    for i in numba.prange(indptr.size - 1):
        start, stop = indptr[i], indptr[i + 1]
        n = stop - start
        if n == 0:
            continue
        ordered = np.sort(data[start:stop])
        edges = np.empty(n_edges, np.float64)
        for j in range(n_edges):
            # numpy's linear interpolation: the difference in float32, the rest in float64
            place = np.float64(n - 1) * shares[j]
            low = min(int(np.floor(place)), n - 1)
            high = min(low + 1, n - 1)
            share = place - low
            step = np.float64(np.float32(ordered[high] - ordered[low]))
            if share >= 0.5:
                edges[j] = ordered[high] - step * (1.0 - share)
            else:
                edges[j] = ordered[low] + step * share
        for k in range(start, stop):
            below, above = 0, n_edges
            while below < above:
                middle = (below + above) // 2
                if edges[middle] <= data[k]:
                    below = middle + 1
                else:
                    above = middle
            bins[k] = below
