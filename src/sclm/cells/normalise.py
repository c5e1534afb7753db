"""Log-normalised expression, the input of the classical methods."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp


def log_normalise(counts: sp.csr_matrix, target_sum: float = 1e4) -> sp.csr_matrix:
    r"""Scale each cell to the same total and take the logarithm: :math:`\log(1 + t\,c_{ig} / \sum_g c_{ig})`.

    Parameters
    ----------
    counts
        Raw counts, CSR of shape (n_cells, n_genes).
    target_sum
        Total :math:`t` that every cell is scaled to, > 0.

    Returns
    -------
    CSR float32 of the same shape and sparsity, a new matrix; cells without counts stay zero.  Totals are summed and
    divided in float64.

    Examples
    --------
    >>> import numpy as np, scipy.sparse as sp
    >>> log_normalise(sp.csr_matrix([[1.0, 1.0], [0.0, 0.0]]), target_sum=2.0).toarray().round(3)
    array([[0.693, 0.693],
           [0.   , 0.   ]], dtype=float32)
    """
    if not target_sum > 0:
        msg = f"target_sum must be greater than 0, found {target_sum}."
        raise ValueError(msg)
    counts = counts if sp.issparse(counts) and counts.format == "csr" else sp.csr_matrix(counts)
    totals = np.asarray(counts.sum(axis=1, dtype=np.float64)).ravel()  # (n_cells,)
    factor = np.divide(target_sum, totals, out=np.zeros_like(totals), where=totals > 0)
    values = counts.data * np.repeat(factor, np.diff(counts.indptr))  # (nnz,)
    return sp.csr_matrix(
        (np.log1p(values).astype(np.float32), counts.indices.copy(), counts.indptr.copy()), shape=counts.shape
    )
