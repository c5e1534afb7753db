"""Several sources read as one, in the genes that they share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import scipy.sparse as sp

from sclm.cells.cells import Cells
from sclm.cells.columns import move_columns
from sclm.cells.read import row_numbers

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sclm.cells.read import CellSource

_LEAST = 0.2  # of the smallest source's genes, in common


class JoinedSource:
    """Cells of several sources, one after the other, for training on many files; it is read as a CellSource is.

    Parameters
    ----------
    sources
        At least one :class:`~sclm.cells.CellSource`, with the same columns of ``obs``.

    Attributes
    ----------
    n_cells
        Of all sources.
    genes
        Names that every source has, in the order of the first.
    obs
        Metadata of all cells, with plain values: categories of one source mean nothing in another.

    Raises
    ------
    ValueError
        If there is no source, or they share fewer than a fifth of the smallest one's genes.
    """

    def __init__(self, sources: Sequence[CellSource]) -> None:
        if not sources:
            raise ValueError("expected at least one AnnData to train on, found none.")
        self.sources = list(sources)
        shared = self.sources[0].genes
        for source in self.sources[1:]:
            shared = shared[shared.isin(source.genes)]
        smallest = min(source.n_genes for source in self.sources)
        if len(shared) < _LEAST * smallest:
            raise ValueError(
                f"the {len(self.sources)} AnnData must share genes, found {len(shared):,} names in all of them, and "
                f"{smallest:,} in the smallest. Pass gene_key= naming a column of .var with the same kind of name in each."
            )
        self.genes = shared
        self.n_genes = len(shared)
        self.n_cells = sum(source.n_cells for source in self.sources)
        self.obs = pd.concat([source.obs.astype(object) for source in self.sources])

        self._starts = np.cumsum([0, *(source.n_cells for source in self.sources)])
        self._columns = [self.genes.get_indexer(source.genes).astype(np.int32) for source in self.sources]

    @property
    def in_memory(self) -> bool:
        """Whether the counts of all sources are in memory."""
        return all(source.in_memory for source in self.sources)

    @property
    def block_size(self) -> int:
        """Cells in a block by default: the least of the sources'."""
        return min(source.block_size for source in self.sources)

    def blocks(self, block_size: int | None = None, rows: Any = None) -> Iterator[Cells]:
        """Consecutive blocks of at most `block_size` cells, none of which spans two sources; or cells by `rows`, in their order."""
        if rows is None:
            for number, source in enumerate(self.sources):
                start = int(self._starts[number])
                for cells in source.blocks(block_size):
                    yield self._shared(cells, number, slice(start, start := start + cells.n_cells))
            return
        picked, size = row_numbers(rows, self.n_cells), self.block_size if block_size is None else int(block_size)
        for first in range(0, picked.size, size):
            part = picked[first : first + size]
            where = np.searchsorted(self._starts, part, side="right") - 1  # source of each
            found, places = [], []
            for number in np.unique(where):
                mine = np.flatnonzero(where == number)
                cells = self.sources[number].read(part[mine] - self._starts[number])
                found.append(self._shared(cells, int(number), part[mine]).counts)
                places.append(mine)
            counts = found[0] if len(found) == 1 else sp.vstack(found, format="csr")[np.argsort(np.concatenate(places))]
            yield Cells(counts, self.genes, self.obs.iloc[part])

    def read(self, rows: Any = None) -> Cells:
        """All cells, or those named by `rows` (row numbers in any order, or a boolean mask), as one block."""
        blocks = list(self.blocks(rows=rows))
        if len(blocks) == 1:
            return blocks[0]
        if not blocks:
            return Cells(sp.csr_matrix((0, self.n_genes), dtype=np.float32), self.genes, self.obs.iloc[:0])
        obs = self.obs.copy() if rows is None else self.obs.iloc[row_numbers(rows, self.n_cells)]
        return Cells(sp.vstack([block.counts for block in blocks], format="csr"), self.genes, obs)

    def _shared(self, cells: Cells, number: int, rows: Any) -> Cells:
        """Cells of a source in the genes of all, with the plain values of their metadata."""
        return Cells(move_columns(cells.counts, self._columns[number], self.n_genes), self.genes, self.obs.iloc[rows])
