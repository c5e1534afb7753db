"""Log-normalised blocks of a reference, cached where they fit, read again where they do not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

from sclm.cells import GeneVocabulary, align, log_normalise, require_overlap

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import pandas as pd

    from sclm.cells import CellSource

_CACHED_ENTRIES = 75_000_000  # non-zeros of log-normalised counts kept in memory, by rows and by columns: 1.2 GB
_BLOCK = 2048  # cells a block: small enough to share among threads, large enough to read from disk
TARGET_SUM = 1e4  # counts a cell before the logarithm, scanpy's and celltypist's convention


class Reference:
    """Labelled rows of a source in the model's gene space.

    Parameters
    ----------
    source
        Where the counts come from.
    rows
        (n,) ascending rows of the source that are used.
    genes
        Genes of the other data, when the model is trained for one data set: the vocabulary is then what both share.

    Raises
    ------
    ValueError
        If the genes of the two hardly overlap.
    """

    def __init__(self, source: CellSource, rows: np.ndarray, genes: pd.Index | None = None) -> None:
        self.source, self.rows = source, rows
        self.vocabulary = GeneVocabulary(tuple(map(str, source.genes)))
        if genes is not None:
            match = self.vocabulary.match(genes)
            shared = np.unique(match.ids[match.ids >= 0])
            # Refused against the smaller side: a panel of 300 genes may be all that the data has.
            if len(shared) < 0.2 * min(len(self.vocabulary.tokens), len(genes)):
                require_overlap(genes, self.vocabulary, match, owner="reference")
            self.vocabulary = GeneVocabulary(tuple(self.vocabulary.tokens[i] for i in shared))
        self._match = self.vocabulary.match(source.genes)
        self._blocks: list[sparse.csr_matrix] | None = None
        self._measure()

    def _measure(self) -> None:
        """One pass: share of each gene in all counts, mean log-normalised value; keeps the blocks if they fit."""
        total = np.zeros(len(self.vocabulary.tokens))
        mean = np.zeros_like(total)
        blocks: list[sparse.csr_matrix] | None = []
        entries = 0
        filled = []
        for counts in self._counts():
            filled.append(np.diff(counts.indptr) > 0)
            total += np.asarray(counts.sum(axis=0)).ravel()
            block = log_normalise(counts, TARGET_SUM)
            mean += np.asarray(block.sum(axis=0)).ravel()
            entries += block.nnz
            if blocks is not None:
                blocks.append(block)
                if entries > _CACHED_ENTRIES:
                    blocks = None
        if total.sum() == 0:
            raise ValueError(
                "The reference has no counts in the genes that are used, found 0 in all cells. Check its counts and genes."
            )
        self.filled = np.concatenate(filled)  # (n,) bool: cells with counts in these genes
        self.gene_share = total / total.sum()  # (G,) sums to 1
        self.gene_mean = (mean / len(self.rows)).astype(np.float32)  # (G,)
        self._blocks = blocks

    def _counts(self) -> Iterator[sparse.csr_matrix]:
        # All rows in order are read as they lie: picking rows costs a pass over the file a block where it lies by columns.
        whole = len(self.rows) == self.source.n_cells
        for cells in self.source.blocks(_BLOCK, rows=None if whole else self.rows):
            yield align(cells, self.vocabulary, match=self._match)[0]

    @property
    def cached(self) -> bool:
        """Whether the blocks are kept in memory."""
        return self._blocks is not None

    def blocks(self) -> Iterator[tuple[slice, sparse.csr_matrix]]:
        """Consecutive blocks: positions among the labelled cells, log-normalised counts (n_block, G) float32."""
        start = 0
        for block in (
            self._blocks if self._blocks is not None else (log_normalise(c, TARGET_SUM) for c in self._counts())
        ):
            yield slice(start, start + block.shape[0]), block
            start += block.shape[0]

    def take(self, mask: np.ndarray) -> sparse.csr_matrix:
        """Log-normalised counts of the cells under a mask, (mask.sum(), G), in memory."""
        parts = [block[mask[where]] for where, block in self.blocks()]
        return sparse.vstack(parts, format="csr")

    def over(self, function: Callable[[sparse.csr_matrix], np.ndarray], mask: np.ndarray) -> np.ndarray:
        """``function`` of the cells under a mask, block by block, results stacked."""
        return np.concatenate([function(block[mask[where]]) for where, block in self.blocks() if mask[where].any()])
