"""Counts as a few levels on a logarithmic scale."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numba
import numpy as np

from sclm.cells.counts import require_csr
from sclm.cells.kernels import per_cell

if TYPE_CHECKING:
    import scipy.sparse as sp
    from numpy.typing import ArrayLike

_SMALL = 1024  # whole counts below this are looked up

#: Lower ends of the default levels: about 1.46 times the one before, rounded to whole counts.
COUNT_EDGES: tuple[int, ...] = (1, 2, 3, 4, 6, 9, 13, 19, 28, 41, 60, 88, 128, 187, 274, 400, 585, 855, 1250)


def count_levels(counts: sp.csr_matrix, edges: ArrayLike = COUNT_EDGES) -> np.ndarray:
    """Level of each stored count: the number of `edges` that it reaches.

    A count x gets level k where ``edges[k - 1] <= x < edges[k]``, so level 0 lies below the first edge and the last
    level, ``len(edges)``, is open above.  Unlike quantile bins a level means the same in every cell.

    Parameters
    ----------
    counts
        Raw counts, CSR (n_cells, n_genes).
    edges
        Lower ends of the levels 1, 2, …, increasing.

    Returns
    -------
    (nnz,) int32, aligned with ``counts.data``.

    Examples
    --------
    >>> import scipy.sparse as sp
    >>> count_levels(sp.csr_matrix([[1.0, 5.0, 2000.0]]))
    array([ 1,  4, 19], dtype=int32)
    """
    ends = np.asarray(edges, dtype=np.float64)
    if ends.ndim != 1 or ends.size == 0 or not np.isfinite(ends).all() or not (np.diff(ends) > 0).all():
        msg = f"edges must be a non-empty increasing sequence of finite numbers, found {edges!r}."
        raise ValueError(msg)
    require_csr(counts)
    levels = np.empty(counts.data.size, np.int32)
    table = np.searchsorted(ends, np.arange(_SMALL), side="right").astype(np.int32)  # most counts are small
    _levels(counts.data, ends, table, 1 << 14, levels)
    return levels


@per_cell
def _levels(data: np.ndarray, edges: np.ndarray, table: np.ndarray, chunk: int, levels: np.ndarray) -> Any:
    for k in numba.prange((data.size + chunk - 1) // chunk):
        for i in range(k * chunk, min(data.size, (k + 1) * chunk)):
            x = data[i]
            if 0 <= x < table.size and x == np.rint(x):
                levels[i] = table[np.uint32(x)]
                continue
            level = 0
            while level < edges.size and x >= edges[level]:
                level += 1
            levels[i] = level
