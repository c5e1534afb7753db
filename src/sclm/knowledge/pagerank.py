"""Personalised PageRank over the undirected graph of an ontology: exact by elimination, or the top of each row by push.

A walk starts at a term, follows a random parent-or-child edge with probability `alpha` and returns to its start with
probability `1 - alpha`; `pi_i(j)` is the share of time that the walk of `i` spends at `j`:

    pi_i = (1 - alpha) e_i + alpha P^T pi_i,     P = D^-1 A,     S = (1 - alpha) (I - alpha P)^-1

Legend of shapes: n terms · l leaves (terms without children) · m = n - l inner terms · r rows asked for · k entries kept.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import linalg, sparse

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sclm.knowledge.graph import TermGraph

# Rows that are worked on at a time where the whole matrix would not fit: 256 rows of 30,000 terms are 61 MB.
CHUNK = 256

# What forward push leaves unexplained at a term, per edge of it: at most this is missing from an entry, per edge.
TOLERANCE = 1e-7


class ExactPageRank:
    """Rows of the PageRank matrix S, to rounding.

    `N = I - alpha D^-1/2 A D^-1/2` is symmetric and positive definite, and `S = (1 - alpha) D^-1/2 N^-1 D^1/2`. Leaves
    have no edge among themselves, so their block of N is the identity and is eliminated for nothing: only the inner
    terms, a third of the Cell Ontology, are left for a dense inverse, and all other entries follow by sparse products.

    Parameters
    ----------
    graph
        The ontology's graph.
    alpha
        Probability of following an edge, in (0, 1).
    """

    def __init__(self, graph: TermGraph, alpha: float) -> None:
        self.alpha, self.n = alpha, graph.n
        adjacency = graph.undirected
        degree = np.diff(adjacency.indptr).astype(np.float64)
        self.root = np.sqrt(np.maximum(degree, 1.0))  # a term without edges keeps its walk to itself
        inverse_root = sparse.diags_array(1.0 / self.root)
        scaled = (alpha * (inverse_root @ adjacency @ inverse_root)).tocsr()

        is_leaf = np.array([not below for below in graph.children], dtype=bool)
        self.leaves, self.inner = np.flatnonzero(is_leaf), np.flatnonzero(~is_leaf)
        self.across = scaled[self.inner][:, self.leaves].tocsr()  # (m, l): minus the off-diagonal block of N
        # the Schur complement of the leaves, (m, m)
        core = -(scaled[self.inner][:, self.inner] + self.across @ self.across.T).toarray()
        core[np.diag_indices_from(core)] += 1.0
        self.core_inverse = _invert_positive_definite(core)

    def rows(self, rows: np.ndarray) -> np.ndarray:
        """Rows of S, (r, n) float64; each sums to 1."""
        place = np.empty(self.n, dtype=np.int64)  # position of a term among the inner terms, or among the leaves
        place[self.inner] = np.arange(len(self.inner))
        place[self.leaves] = np.arange(len(self.leaves))
        is_leaf = np.zeros(self.n, dtype=bool)
        is_leaf[self.leaves] = True
        at = np.arange(len(rows))
        leaf_row, inner_row = at[is_leaf[rows]], at[~is_leaf[rows]]

        # N x = e_i for every row i, leaves eliminated: right-hand sides (r, m), sparse
        shape = (len(rows), len(self.inner))
        start = sparse.csr_array((np.ones(len(inner_row)), (inner_row, place[rows[inner_row]])), shape=shape)
        shape = (len(rows), len(self.leaves))
        at_leaf = sparse.csr_array((np.ones(len(leaf_row)), (leaf_row, place[rows[leaf_row]])), shape=shape)
        inner = (start + at_leaf @ self.across.T) @ self.core_inverse  # (r, m)
        # (l, m) @ (m, r) → (l, r) → (r, l)
        leaf = (self.across.T @ np.ascontiguousarray(inner.T)).T

        result = np.empty((len(rows), self.n))
        result[:, self.inner] = inner
        result[:, self.leaves] = leaf
        result[leaf_row, rows[leaf_row]] += 1.0
        result *= (1.0 - self.alpha) * self.root[None, :]
        result /= self.root[rows][:, None]
        return result


def _invert_positive_definite(matrix: np.ndarray) -> np.ndarray:
    """Inverse of a symmetric positive definite matrix, (m, m) float64, by LAPACK's Cholesky pair potrf and potri."""
    if not len(matrix):
        return matrix
    # Fortran order lets LAPACK work in place; the transpose of a symmetric matrix is itself
    factor, info = linalg.lapack.dpotrf(matrix.T, lower=True, overwrite_a=True)
    if info == 0:
        factor, info = linalg.lapack.dpotri(factor, lower=True, overwrite_c=True)
    if info != 0:
        raise ValueError(f"the PageRank system is not positive definite (LAPACK info {info}); is alpha below 1?")
    upper = np.triu_indices_from(factor, 1)
    factor[upper] = factor.T[upper]
    return factor


def pushed_rows(graph: TermGraph, rows: np.ndarray, alpha: float, tolerance: float = TOLERANCE) -> np.ndarray:
    """Rows of S by forward push, (r, n) float64: entry j is too small by at most `tolerance * degree(j)`."""
    from sclm.knowledge.push import push

    adjacency = graph.undirected
    return push(adjacency.indptr, adjacency.indices, np.asarray(rows, dtype=np.int64), alpha, tolerance)


def pushed_blocks(graph: TermGraph, rows: np.ndarray, alpha: float, tolerance: float = TOLERANCE) -> Iterator[tuple]:
    """Yield (slice of `rows`, their PageRank rows) a bounded number of rows at a time."""
    for first in range(0, len(rows), CHUNK):
        part = slice(first, min(first + CHUNK, len(rows)))
        yield part, pushed_rows(graph, rows[part], alpha, tolerance)


def top_rows(
    graph: TermGraph, rows: np.ndarray, alpha: float, top: int, tolerance: float = TOLERANCE
) -> sparse.csr_matrix:
    """The `top` largest entries of each row of S, (r, n) float32 CSR with sorted columns, in bounded memory."""
    top = min(top, graph.n)
    columns = np.empty((len(rows), top), dtype=np.int32)
    values = np.empty((len(rows), top), dtype=np.float32)
    for part, block in pushed_blocks(graph, rows, alpha, tolerance):
        largest = np.argpartition(block, graph.n - top, axis=1)[:, graph.n - top :]
        largest.sort(axis=1)
        columns[part] = largest
        values[part] = np.take_along_axis(block, largest, axis=1)
    offsets = np.arange(0, len(rows) * top + 1, top)
    # (r, k) → (r * k,)
    result = sparse.csr_matrix((values.ravel(), columns.ravel(), offsets), shape=(len(rows), graph.n))
    result.eliminate_zeros()
    return result
