"""The block of cells that every model family is handed."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import pandas as pd
    import scipy.sparse as sp


class Cells(NamedTuple):
    """A block of cells: raw counts, gene names and what is known of each cell.

    Attributes
    ----------
    counts
        Raw counts, CSR float32 of shape (n_cells, n_genes), canonical: column indices sorted within a row, no
        duplicate entries, no explicit zeros.
    genes
        Gene names of the columns, unique, length n_genes.
    obs
        One row a cell; the index holds the cells' names, which may repeat.
    """

    counts: sp.csr_matrix
    genes: pd.Index
    obs: pd.DataFrame

    @property
    def n_cells(self) -> int:
        """Number of cells."""
        return int(self.counts.shape[0])

    @property
    def n_genes(self) -> int:
        """Number of genes."""
        return int(self.counts.shape[1])
