"""Move the columns of a count matrix, summing those that meet."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

_INT32 = np.iinfo(np.int32).max


def move_columns(counts: sp.csr_matrix, target: np.ndarray | None, n_columns: int) -> sp.csr_matrix:
    """New canonical CSR float32 with column j of `counts` added to column ``target[j]``.

    Parameters
    ----------
    counts
        CSR of any dtype, in any order, with or without repeated entries and explicit zeros; not changed.
    target
        (n_genes,) int: new column, -1 to leave the column out.  ``None``: columns stay.
    n_columns
        Width of the result.

    Returns
    -------
    CSR float32 (n_cells, n_columns), a copy: sorted, no repeated entries, no explicit zeros.  Values are rounded to
    whole numbers, exact up to 16,777,216.
    """
    data = counts.data.astype(np.float32)
    if counts.data.dtype.kind == "f":
        np.rint(data, out=data)
    indptr, indices = counts.indptr, counts.indices
    if target is not None:
        indices = target[indices]
        kept = indices >= 0
        if not kept.all():
            before = np.concatenate([[0], np.cumsum(kept)])  # kept entries before each entry
            data, indices, indptr = data[kept], indices[kept], before[indptr]
    # scipy wants one index dtype for both
    width = np.int32 if indptr[-1] <= _INT32 else np.int64
    moved = sp.csr_matrix((counts.shape[0], n_columns), dtype=np.float32)
    moved.data, moved.indices, moved.indptr = data, indices.astype(width), indptr.astype(width)
    moved.sum_duplicates()  # sorts too
    if moved.data.size and not moved.data.all():
        moved.eliminate_zeros()
    return moved
