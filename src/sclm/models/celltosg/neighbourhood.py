"""The nodes around a cell's genes: the cell types, pathways and other sets that what it expresses points at.

B cells · n genes of a cell · N nodes · m context nodes
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sclm.knowledge import KnowledgeGraph

# Sets of a gene or two would be the nearest of every cell that expresses these: as if a set had this many more genes.
_SHRINKAGE = 10.0


class Neighbourhood:
    """One edge from a cell's genes: which nodes are linked to most of what it expresses.

    A node's score is the cosine between the cell's weights and the node's genes, shrunken for small sets:
    Σ_{g ∈ node} w_g / (‖w‖ √(number of its genes + 10)).

    Parameters
    ----------
    graph
        Nodes and edges; all relations between genes and nodes of `types` count.
    types
        Of the nodes that are looked for. Types that the graph lacks are passed over.
    per_type
        The best of each type that are kept.

    Attributes
    ----------
    size
        m: `per_type` times the types.
    """

    def __init__(
        self, graph: KnowledgeGraph, types: Iterable[str] = ("cell_type", "pathway"), per_type: int = 8
    ) -> None:
        from scipy import sparse

        gene = (graph.nodes["type"] == "gene").to_numpy()
        links = graph.adjacency().astype(np.float32)
        links = (links + links.T).tocsr()
        links.data[:] = 1.0  # linked, by however many relations
        self.per_type = per_type
        self._blocks = []
        for kind in types:
            rows = graph.rows(kind)
            if len(rows):
                to_genes = links[rows] @ sparse.diags(gene.astype(np.float32))
                to_genes.eliminate_zeros()
                sizes = np.diff(to_genes.tocsr().indptr)
                scale = sparse.diags((1.0 / np.sqrt(sizes + _SHRINKAGE)).astype(np.float32))
                self._blocks.append((rows, (scale @ to_genes).T.tocsr()))  # (N, nodes of the type)
        self.size = per_type * len(self._blocks)
        self._n = len(graph)

    def __call__(self, nodes: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The nodes around cells.

        Parameters
        ----------
        nodes
            (B, n) int64 nodes of genes, -1 for none.
        weights
            (B, n) float32, not negative.

        Returns
        -------
        (B, m) int64 nodes, the best of a type first, ties by number, -1 where fewer are linked; and (B, m) float32 scores
        from 0 to 1.
        """
        from scipy import sparse

        there = nodes >= 0
        cells = np.broadcast_to(np.arange(len(nodes))[:, None], nodes.shape)[there]
        norm = np.sqrt(np.where(there, weights, 0.0).astype(np.float64) ** 2 @ np.ones(nodes.shape[1]))
        values = (weights / np.maximum(norm, 1e-12)[:, None])[there].astype(np.float32)
        profile = sparse.csr_matrix((values, (cells, nodes[there])), shape=(len(nodes), self._n))
        found = np.full((len(nodes), self.size), -1, dtype=np.int64)
        scores = np.zeros((len(nodes), self.size), dtype=np.float32)
        for block, (rows, matrix) in enumerate(self._blocks):
            near = (profile @ matrix).tocsr()
            near.sort_indices()
            for cell in range(len(nodes)):
                part = slice(near.indptr[cell], near.indptr[cell + 1])
                value, column = near.data[part], near.indices[part]
                # rounded: the order in which a cell's genes come changes the last digits of a sum, and must not change ties
                best = np.lexsort((column, -np.round(value, 5)))[: self.per_type]
                best = best[value[best] > 0]
                at = slice(block * self.per_type, block * self.per_type + len(best))
                found[cell, at], scores[cell, at] = rows[column[best]], value[best]
        return found, scores
