"""Which genes a network reads where zeros are tokens too: those that vary more than others of their abundance."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp

from sclm.cells import log_normalise
from sclm.cells.dispersion import standardised_dispersion

if TYPE_CHECKING:
    from sclm.cells import CellSource

_FEWEST = 3  # cells that must express a gene


def variable_genes(
    source: CellSource,
    columns: np.ndarray,
    n_columns: int,
    n_genes: int,
    *,
    batches: np.ndarray | None = None,
    always: np.ndarray | None = None,
) -> np.ndarray:
    """Choose genes by their variance, relative to genes of similar mean.

    Mean and variance are those of log-normalised counts. Genes are put into up to 20 groups of similar mean; a gene's score is the logarithm
    of its variance over its mean, standardised within its group by median and median absolute deviation. With batches the score is
    the mean over batches, so that a gene that only differs between batches is not chosen for it. One pass over the cells.

    Parameters
    ----------
    source
        Raw counts.
    columns
        (source.n_genes,) column of each gene, -1 for genes that are left out; several may share one.
    n_columns
        Number of columns.
    n_genes
        Genes to choose.
    batches
        (n_cells,) int64 batch of each cell.
    always
        Columns that are chosen in any case, in addition.

    Returns
    -------
    Columns in increasing order, `n_genes` or fewer, and `always`. Where there are no more than `n_genes`, all of them.
    """
    known = np.unique(columns[columns >= 0])
    if known.size <= n_genes:
        return known.astype(np.int64)
    batches = np.zeros(source.n_cells, np.int64) if batches is None else batches
    n_batches = int(batches.max(initial=0)) + 1
    counted, sums, squares = np.zeros(n_batches), np.zeros((n_batches, n_columns)), np.zeros((n_batches, n_columns))
    expressed = np.zeros(n_columns)
    start = 0
    for cells in source.blocks():
        here = batches[start : start + cells.n_cells]
        start += cells.n_cells
        values = move_log(log_normalise(cells.counts), columns, n_columns)
        expressed += np.bincount(values.indices, minlength=n_columns)
        for batch in np.unique(here):
            some = values[here == batch].astype(np.float64)
            counted[batch] += some.shape[0]
            sums[batch] += np.asarray(some.sum(axis=0)).ravel()
            squares[batch] += np.asarray(some.multiply(some).sum(axis=0)).ravel()
    used = counted > 1
    scores = np.mean(
        [
            standardised_dispersion(s / n, q / n)
            for s, q, n in zip(sums[used], squares[used], counted[used], strict=True)
        ],
        axis=0,
    )
    scores[expressed < min(_FEWEST, source.n_cells)] = -np.inf
    order = np.argsort(-scores, kind="stable")
    chosen = order[:n_genes][np.isfinite(scores[order[:n_genes]])]
    return np.union1d(chosen, np.zeros(0, np.int64) if always is None else always).astype(np.int64)


def move_log(values: sp.csr_matrix, columns: np.ndarray, n_columns: int) -> sp.csr_matrix:
    """Move log-normalised values to other columns; those that meet in one are added up as counts are, before the logarithm.

    Parameters
    ----------
    values
        CSR (n_cells, n_genes) of log1p values.
    columns
        (n_genes,) new column, -1 to leave it out.
    n_columns
        Width of the result.

    Returns
    -------
    CSR float32 (n_cells, n_columns).
    """
    kept = columns[values.indices] >= 0
    before = np.concatenate([[0], np.cumsum(kept)])
    moved = sp.csr_matrix(
        (values.data[kept], columns[values.indices[kept]], before[values.indptr]), shape=(values.shape[0], n_columns)
    )
    if not moved.has_canonical_format:
        moved.data = np.expm1(moved.data.astype(np.float64))
        moved.sum_duplicates()
        moved.data = np.log1p(moved.data)
    return moved.astype(np.float32)
