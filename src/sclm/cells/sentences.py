"""A cell as a sentence of gene symbols."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from sclm.cells.ranks import rank_values

if TYPE_CHECKING:
    from sclm.cells.cells import Cells


def cell_sentences(cells: Cells, n_genes: int | None = None) -> list[str]:
    """Gene symbols of each cell by decreasing count, joined by spaces.

    Genes of equal count stand in the order of the columns, so the same cells give the same sentences every time.

    Parameters
    ----------
    cells
        Block of cells, raw counts.
    n_genes
        Longest sentence in genes, by default all expressed genes.

    Returns
    -------
    One sentence a cell; the empty string for a cell without counts.

    References
    ----------
    Levine et al., Cell2Sentence: teaching large language models the language of biology, ICML 2024.
    """
    symbols = np.asarray(cells.genes, dtype=object)
    return [" ".join(symbols[row]) for row in rank_values(cells.counts, max_length=n_genes)]
