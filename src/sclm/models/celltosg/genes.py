"""Genes that the model reads, and what is usual of them in the training cells: one pass over the data."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy import sparse

from sclm.cells import GeneVocabulary, align, log_normalise

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sclm.cells import CellSource
    from sclm.knowledge import KnowledgeGraph

TARGET_SUM = 1e4


class GeneTable(NamedTuple):
    """Genes of the model.

    Attributes
    ----------
    vocabulary
        The genes.
    scale
        (G,) float32 mean share of a cell's counts where the gene is expressed, times 10,000.
    share
        (G,) float32 share of all counts of these genes.
    """

    vocabulary: GeneVocabulary
    scale: np.ndarray
    share: np.ndarray


def choose_genes(
    source: CellSource, rows: np.ndarray, graph: KnowledgeGraph, max_genes: int, among: np.ndarray | None = None
) -> GeneTable:
    """Genes that vary most in log-normalised counts, and those that mark a cell type in the graph.

    Parameters
    ----------
    source, rows
        The training cells.
    graph
        Whose markers are kept wherever cells express them.
    max_genes
        Most genes; markers beyond come on top.
    among
        (n_genes,) bool of the source's genes that may be chosen, by default all.

    Returns
    -------
    The table, genes in the order of the source.
    """
    n_genes = source.n_genes
    total, square, expressed, scaled, sums = (np.zeros(n_genes) for _ in range(5))
    for cells in source.blocks(rows=rows):
        counts = cells.counts
        normal = log_normalise(counts, TARGET_SUM)
        total += np.asarray(normal.sum(axis=0)).ravel()
        square += np.asarray(normal.multiply(normal).sum(axis=0)).ravel()
        expressed += np.bincount(counts.indices, minlength=n_genes)
        depth = np.maximum(np.asarray(counts.sum(axis=1)).ravel(), 1.0)
        relative = sparse.diags_array(TARGET_SUM / depth) @ counts
        scaled += np.asarray(relative.sum(axis=0)).ravel()
        sums += np.asarray(counts.sum(axis=0)).ravel()
    n = len(rows)
    variance = square / n - (total / n) ** 2
    usable = expressed >= (2 if n >= 20 else 1)
    if among is not None:
        usable &= among
    order = np.argsort(-np.where(usable, variance, -1.0), kind="stable")[:max_genes]
    chosen = np.zeros(n_genes, dtype=bool)
    chosen[order] = True
    nodes = graph.lookup("gene", [str(g) for g in source.genes])
    marks = np.zeros(len(graph), dtype=bool)
    marks[graph.edges.get("gene-marks-cell_type", np.empty((2, 0), dtype=np.int32))[0]] = True
    chosen |= (nodes >= 0) & marks[np.maximum(nodes, 0)]
    at = np.flatnonzero(chosen & usable)
    if len(at) < 3:
        raise ValueError(f"celltosg needs at least 3 genes that cells express, found {len(at)}.")
    scale = scaled[at] / np.maximum(expressed[at], 1.0)
    return GeneTable(
        GeneVocabulary(tuple(str(source.genes[i]) for i in at)),
        np.maximum(scale, 1e-3).astype(np.float32),
        (sums[at] / max(sums.sum(), 1.0)).astype(np.float32),
    )


def aligned(source: CellSource, rows: np.ndarray, vocabulary: GeneVocabulary) -> Iterator[sparse.csr_matrix]:
    """Counts of the model's genes, block by block."""
    match = vocabulary.match(source.genes)
    for cells in source.blocks(rows=rows):
        yield align(cells, vocabulary, match=match)[0]
