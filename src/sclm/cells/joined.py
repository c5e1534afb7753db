"""Several sources read as one, in the genes that they share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from sclm.cells.cells import Cells
from sclm.cells.columns import move_columns

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sclm.cells.read import CellSource

_LEAST = 0.2  # of the smallest source's genes, in common


class JoinedSource:
    """Cells of several sources, one after the other, for training on many files.

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

    def blocks(self, block_size: int | None = None) -> Iterator[Cells]:
        """Consecutive blocks of at most `block_size` cells; none spans two sources."""
        start = 0
        for source in self.sources:
            columns = self.genes.get_indexer(source.genes).astype(np.int32)
            for cells in source.blocks(block_size):
                n = cells.counts.shape[0]
                counts = move_columns(cells.counts, columns, self.n_genes)
                yield Cells(counts, self.genes, self.obs.iloc[start : start + n])
                start += n
