"""Personalised PageRank over the undirected graph of an ontology: exact by elimination, or the top of each row by push.

A walk starts at a term, follows a random parent-or-child edge with probability `alpha` and returns to its start with
probability `1 - alpha`; `pi_i(j)` is the share of time that the walk of `i` spends at `j`:

    pi_i = (1 - alpha) e_i + alpha P^T pi_i,     P = D^-1 A,     S = (1 - alpha) (I - alpha P)^-1

Legend of shapes: n terms · l terms of an independent set (no two joined by an edge) · m = n - l others, the core ·
r rows asked for · k entries kept.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import linalg, sparse

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sclm.knowledge.graph import TermGraph

# Rows that are worked on at a time where the whole matrix would not fit: 256 rows of 30,000 terms are 61 MB.
CHUNK = 256

# Terms of the core up to which its dense inverse is made (512 MB); beyond, forward push. UBERON has 4,940, MONDO 6,799.
CORE_LIMIT = 8_000

# What forward push leaves unexplained at a term, per edge of it: at most this is missing from an entry, per edge.
TOLERANCE = 1e-7

# A share that counts as nothing, s0 of the similarity's transform ln(1 + s / s0 + 1e-12) (Cell2Text, scCello).
FLOOR = 1e-4


class ExactPageRank:
    """Rows of the PageRank matrix S, to rounding.

    `N = I - alpha D^-1/2 A D^-1/2` is symmetric and positive definite, and `S = (1 - alpha) D^-1/2 N^-1 D^1/2`. Terms
    that have no edge among themselves, such as the leaves, have the identity as their block of N and are eliminated for
    nothing: only the others, a third of the Cell Ontology, are left for a dense inverse, and all else follows by
    sparse products.

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
        self.alone = degree == 0  # nowhere to go: the walk stays at its start
        self.root = np.sqrt(np.maximum(degree, 1.0))
        inverse_root = sparse.diags_array(1.0 / self.root)
        scaled = (alpha * (inverse_root @ adjacency @ inverse_root)).tocsr()

        apart = independent_set(adjacency)
        self.apart, self.core = np.flatnonzero(apart), np.flatnonzero(~apart)
        self.across = scaled[self.core][:, self.apart].tocsr()  # (m, l): minus the off-diagonal block of N
        # the Schur complement of the independent terms, (m, m)
        core = -(scaled[self.core][:, self.core] + self.across @ self.across.T).toarray()
        core[np.diag_indices_from(core)] += 1.0
        self.core_inverse = _invert_positive_definite(core)

    def rows(self, rows: np.ndarray) -> np.ndarray:
        """Rows of S, (r, n) float64; each sums to 1."""
        is_apart = np.zeros(self.n, dtype=bool)
        is_apart[self.apart] = True
        place = np.empty(self.n, dtype=np.int64)  # position of a term within its part
        place[self.core], place[self.apart] = np.arange(len(self.core)), np.arange(len(self.apart))
        at = np.arange(len(rows))
        apart_row, core_row = at[is_apart[rows]], at[~is_apart[rows]]

        # N x = e_i for every row i: right-hand sides (r, m) and (r, l), sparse, then the second eliminated
        shape = (len(rows), len(self.core))
        start = sparse.csr_array((np.ones(len(core_row)), (core_row, place[rows[core_row]])), shape=shape)
        shape = (len(rows), len(self.apart))
        at_apart = sparse.csr_array((np.ones(len(apart_row)), (apart_row, place[rows[apart_row]])), shape=shape)
        core = (start + at_apart @ self.across.T) @ self.core_inverse  # (r, m)
        # (l, m) @ (m, r) → (l, r) → (r, l)
        apart = (self.across.T @ np.ascontiguousarray(core.T)).T

        result = np.empty((len(rows), self.n))
        result[:, self.core] = core
        result[:, self.apart] = apart
        result[apart_row, rows[apart_row]] += 1.0
        result *= (1.0 - self.alpha) * self.root[None, :]
        result /= self.root[rows][:, None]
        alone = at[self.alone[rows]]
        result[alone, rows[alone]] = 1.0
        return result


def independent_set(adjacency: sparse.csr_matrix) -> np.ndarray:
    """Terms of which no two are joined, those with fewest edges first, (n,) bool: about two thirds of an ontology."""
    degree = np.diff(adjacency.indptr)
    apart = np.zeros(len(degree), dtype=bool)
    free = np.ones(len(degree), dtype=bool)
    for term in np.argsort(degree, kind="stable"):
        if free[term]:
            apart[term] = True
            free[adjacency.indices[adjacency.indptr[term] : adjacency.indptr[term + 1]]] = False
    return apart


def solver(graph: TermGraph, alpha: float) -> ExactPageRank | None:
    """The exact solver, or None where the ontology's core is too large for it."""
    core = graph.n - int(independent_set(graph.undirected).sum())
    return ExactPageRank(graph, alpha) if core <= CORE_LIMIT else None


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
    # potri leaves the upper triangle as it was. Column by column: index arrays would need twice the matrix again
    for column in range(1, len(factor)):
        factor[:column, column] = factor[column, :column]
    return factor.T  # C order, which sparse products take without a copy


def pushed_rows(graph: TermGraph, rows: np.ndarray, alpha: float, tolerance: float = TOLERANCE) -> np.ndarray:
    """Rows of S by forward push, (r, n) float64: entry j is too small by at most `tolerance * degree(j)`."""
    from sclm.knowledge.push import push

    adjacency = graph.undirected
    return push(adjacency.indptr, adjacency.indices, np.asarray(rows, dtype=np.int64), alpha, tolerance)


def blocks(
    graph: TermGraph, walk: ExactPageRank | None, rows: np.ndarray, alpha: float
) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield (slice of `rows`, their PageRank rows), a bounded number of rows at a time; by push where `walk` is None."""
    for first in range(0, len(rows), CHUNK):
        part = slice(first, min(first + CHUNK, len(rows)))
        yield part, pushed_rows(graph, rows[part], alpha) if walk is None else walk.rows(rows[part])


def top_rows(
    graph: TermGraph, walk: ExactPageRank | None, rows: np.ndarray, alpha: float, top: int
) -> sparse.csr_matrix:
    """The `top` largest entries of each row of S, (r, n) float32 CSR with sorted columns, in bounded memory."""
    top = min(top, graph.n)
    columns = np.empty((len(rows), top), dtype=np.int32)
    values = np.empty((len(rows), top), dtype=np.float32)
    for part, block in blocks(graph, walk, rows, alpha):
        largest = np.argpartition(block, graph.n - top, axis=1)[:, graph.n - top :]
        largest.sort(axis=1)
        columns[part] = largest
        values[part] = np.take_along_axis(block, largest, axis=1)
    offsets = np.arange(0, len(rows) * top + 1, top)
    # (r, k) → (r * k,)
    result = sparse.csr_matrix((values.ravel(), columns.ravel(), offsets), shape=(len(rows), graph.n))
    result.eliminate_zeros()
    return result


def _transform(share: Any) -> Any:
    return np.log(1.0 + share / FLOOR + 1e-12)


def scale(graph: TermGraph, walk: ExactPageRank | None) -> tuple[float, float]:
    """Least and largest transformed PageRank over all pairs, the two ends of the similarity's scale.

    In blocks of rows, so that the matrix of a large ontology is never whole. `walk` is None for ontologies too large for
    the exact solver; what push leaves out there (1e-7 an edge) is far below the share of 1e-4 that counts.
    """
    low, high = np.inf, 0.0
    for _, block in blocks(graph, walk, np.arange(graph.n), 0.9):
        low, high = min(low, block.min()), max(high, block.max())
    return float(_transform(low)), float(_transform(high))


def similarity(
    graph: TermGraph,
    walk: ExactPageRank | None,
    ends: tuple[float, float],
    rows: np.ndarray,
    columns: np.ndarray,
    direction: str,
) -> np.ndarray:
    """PageRank similarity of row terms to column terms, (r, c) float64 in [0, 1]; see `Ontology.similarity_matrix`."""
    if direction == "column":
        return similarity(graph, walk, ends, columns, rows, "row").T
    if direction == "mean":
        there = similarity(graph, walk, ends, rows, columns, "row")
        return (there + similarity(graph, walk, ends, columns, rows, "row").T) / 2.0
    if direction != "row":
        raise ValueError(f"expected direction 'row', 'column' or 'mean', found {direction!r}.")
    raw = np.empty((len(rows), len(columns)))
    for part, block in blocks(graph, walk, rows, 0.9):
        raw[part] = block[:, columns]
    low, high = ends
    scaled = (_transform(raw) - low) / (high - low) if high > low else np.zeros_like(raw)
    scaled[rows[:, None] == columns[None, :]] = 1.0
    return np.clip(scaled, 0.0, 1.0)
