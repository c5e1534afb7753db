"""The graph under an ontology: closure, depth and distances over its parent edges.

Legend of shapes: n terms · E parent edges. A term is its position in the sorted ids.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scipy import sparse


class TermGraph:
    """A directed acyclic graph of terms, children to parents.

    Parameters
    ----------
    parents
        For each term the positions of its parents.
    ids
        The ids of the terms, for messages.

    Raises
    ------
    ValueError
        If following parents leads back to a term: the message names the terms of the cycle.
    """

    def __init__(self, parents: Sequence[Sequence[int]], ids: Sequence[str]) -> None:
        self.parents = tuple(tuple(above) for above in parents)
        self.n = len(self.parents)
        children: list[list[int]] = [[] for _ in range(self.n)]
        for child, above in enumerate(self.parents):
            for parent in above:
                children[parent].append(child)
        self.children = tuple(tuple(below) for below in children)
        self.order = self._parents_first(ids)

    def _parents_first(self, ids: Sequence[str]) -> np.ndarray:
        """An order in which each term comes after all its parents, (n,) int64 (Kahn 1962)."""
        waiting = np.array([len(above) for above in self.parents], dtype=np.int64)
        order = [term for term in range(self.n) if waiting[term] == 0]
        for term in order:  # grows while it is walked
            for child in self.children[term]:
                waiting[child] -= 1
                if waiting[child] == 0:
                    order.append(child)
        if len(order) < self.n:
            # Of the terms that were not reached, some only lie below the cycle: peel those off from below.
            stuck = set(np.flatnonzero(waiting).tolist())
            while loose := {term for term in stuck if not stuck.intersection(self.children[term])}:
                stuck -= loose
            named = ", ".join(ids[term] for term in sorted(stuck)[:5])
            raise ValueError(
                f"the parents of {len(stuck)} terms form a cycle ({named}{', …' if len(stuck) > 5 else ''}); "
                "an ontology has to be acyclic. Correct the is_a lines of these terms."
            )
        return np.array(order, dtype=np.int64)

    @cached_property
    def ancestors(self) -> sparse.csr_matrix:
        """For each term (row) its ancestors and itself, (n, n) bool CSR with sorted columns."""
        from scipy import sparse  # here: it takes longer to import than all else that loading an ontology needs

        above: list[np.ndarray] = [np.empty(0, dtype=np.int32)] * self.n
        for term in self.order:
            own = np.array([term], dtype=np.int32)
            above[term] = np.unique(np.concatenate([own, *(above[parent] for parent in self.parents[term])]))
        offsets = np.concatenate([[0], np.cumsum([len(a) for a in above])])
        columns = np.concatenate(above) if above else np.empty(0, dtype=np.int32)
        return sparse.csr_matrix((np.ones(len(columns), dtype=bool), columns, offsets), shape=(self.n, self.n))

    @cached_property
    def descendants(self) -> sparse.csr_matrix:
        """For each term (row) its descendants and itself, (n, n) bool CSR with sorted columns."""
        turned = self.ancestors.T.tocsr()
        turned.sort_indices()
        return turned

    @cached_property
    def depth(self) -> np.ndarray:
        """Number of terms on the longest path from a root down to each term, (n,) int64; 1 for a root."""
        depth = np.ones(self.n, dtype=np.int64)
        for term in self.order:
            for parent in self.parents[term]:
                depth[term] = max(depth[term], depth[parent] + 1)
        return depth

    @cached_property
    def undirected(self) -> sparse.csr_matrix:
        """The parent edges without direction, (n, n) float64 CSR of ones, symmetric, no diagonal."""
        from scipy import sparse

        child = np.repeat(np.arange(self.n), [len(above) for above in self.parents])
        parent = np.array([p for above in self.parents for p in above], dtype=np.int64)
        ones = np.ones(2 * len(child))
        both = (np.concatenate([child, parent]), np.concatenate([parent, child]))
        matrix = sparse.coo_matrix((ones, both), shape=(self.n, self.n)).tocsr()
        matrix.data[:] = 1.0  # an edge stated twice counts once
        matrix.sort_indices()
        return matrix

    def row(self, matrix: sparse.csr_matrix, term: int) -> np.ndarray:
        """The columns of one row of `ancestors` or `descendants`, (k,) int32."""
        return matrix.indices[matrix.indptr[term] : matrix.indptr[term + 1]]

    def steps_up(self, term: int) -> dict[int, int]:
        """Fewest parent edges from a term to each of its ancestors, itself included with 0."""
        steps = {term: 0}
        queue = [term]
        for current in queue:  # breadth first: the first visit is the shortest
            for parent in self.parents[current]:
                if parent not in steps:
                    steps[parent] = steps[current] + 1
                    queue.append(parent)
        return steps
