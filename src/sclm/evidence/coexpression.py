"""Co-expression of genes: what any network of genes has to beat."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import scipy.sparse as sp

from sclm.cells import Cells, log_normalise
from sclm.evidence.edges import strongest_edges

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sclm.cells import CellSource

_METHODS = ("pearson", "spearman")


def coexpression(
    cells: Cells | CellSource,
    *,
    method: str = "pearson",
    genes: Sequence[str] | None = None,
    sources: Sequence[str] | None = None,
    k: int | None = 20,
    max_cells: int = 20_000,
    seed: int = 0,
) -> pd.DataFrame:
    r"""Edges between genes by the correlation of their log-normalised counts over cells, the strongest of each gene.

    Counts are scaled to 10,000 a cell over all genes that were measured; then :math:`\log(1 + x)`. Memory is that of the cells that are
    used, sparse, and of the correlations of 512 genes with all others.

    Parameters
    ----------
    cells
        Raw counts, or a source of them.
    method
        ``"pearson"``, or ``"spearman"``: Pearson's correlation of ranks, cells of equal value sharing their average.
    genes
        Genes of the network, as they are named in the cells; None: all.
    sources
        Genes from which edges start, for example transcription factors; None: all of `genes`.
    k
        Edges that are kept of each source, the largest absolute correlations; None for all.
    max_cells
        Of more cells, that many are drawn: the standard error of a correlation is then below 0.01.
    seed
        Of that draw.

    Returns
    -------
    One row an edge, strongest first within each source: ``source``, ``target``, ``weight`` (-1 to 1). Genes that never vary have
    none.

    Raises
    ------
    KeyError
        If a gene is not among those of the cells.
    ValueError
        If there is no such method, or fewer than two cells or genes.

    Examples
    --------
    >>> import sclm
    >>> from sclm.cells import read_cells
    >>> blood = read_cells(sclm.datasets.pbmc68k())
    >>> edges = coexpression(blood, sources=["CD79A"], k=1)
    >>> edges["target"].tolist()
    ['MS4A1']
    """
    if method not in _METHODS:
        raise ValueError(f"method must be one of {', '.join(map(repr, _METHODS))}, found {method!r}.")
    values, names = _values(cells, genes, max_cells, seed)
    if method == "spearman":
        values = _ranks(values)
    mean = np.asarray(values.mean(axis=0)).ravel()  # (G,)
    variance = np.asarray(values.multiply(values).mean(axis=0)).ravel() - mean**2
    scale = np.sqrt(np.where(variance > 1e-12 * np.maximum(mean**2, 1e-12), variance, np.nan))  # NaN: never varies
    rows = values.T.tocsr()  # (G, n_cells)

    def correlations(some: np.ndarray) -> np.ndarray:
        products = (rows[some] @ values).toarray() / values.shape[0]  # (m, G)
        return (products - np.outer(mean[some], mean)) / np.outer(scale[some], scale)

    return strongest_edges(correlations, names, k=k, sources=sources, absolute=True)


def _values(
    cells: Cells | CellSource, genes: Sequence[str] | None, max_cells: int, seed: int
) -> tuple[sp.csr_matrix, pd.Index]:
    """Log-normalised counts (n_cells, G) float64 of the cells and genes that are used, and the genes."""
    names = cells.genes if genes is None else pd.Index(list(dict.fromkeys(genes)))
    columns = cells.genes.get_indexer(names)
    if (columns < 0).any():
        lost = [repr(name) for name in names[columns < 0]]
        raise KeyError(f"{len(lost)} genes are not among those of the cells: {', '.join(lost[:5])}. Leave them out.")
    n = cells.n_cells
    if n < 2 or len(names) < 2:
        raise ValueError(
            f"A correlation needs at least two cells and two genes, found {n:,} cells and {len(names):,} genes."
        )
    rows = None if n <= max_cells else np.sort(np.random.default_rng(seed).choice(n, max_cells, replace=False))
    if isinstance(cells, Cells):
        blocks = [cells.counts if rows is None else cells.counts[rows]]
    else:
        blocks = [block.counts for block in cells.blocks(rows=rows)]
    parts = [log_normalise(counts)[:, columns] for counts in blocks]
    return sp.vstack(parts, format="csr").astype(np.float64), names


def _ranks(values: sp.csr_matrix) -> sp.csr_matrix:
    """Ranks of each gene's values over cells, less the rank that its zeros share: as sparse as the values, and as correlated."""
    from scipy.stats import rankdata

    columns = values.tocsc(copy=True)
    columns.eliminate_zeros()
    n = columns.shape[0]
    for gene in range(columns.shape[1]):
        where = slice(columns.indptr[gene], columns.indptr[gene + 1])
        zeros = n - (where.stop - where.start)  # the zeros' ranks are 1 to this, (zeros + 1) / 2 on average
        columns.data[where] = zeros + rankdata(columns.data[where]) - (zeros + 1) / 2
    return columns.tocsr()
