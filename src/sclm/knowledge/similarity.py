"""How alike two terms are by what they share above: information content, Lin, Resnik, Wu-Palmer.

Legend of shapes: n terms · r row terms · c column terms.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from sclm.knowledge.graph import TermGraph


def information_content(graph: TermGraph, kind: str) -> np.ndarray:
    """Intrinsic information content of every term, (n,) float64 in nats; see `Ontology.information_content`."""
    ancestors, descendants = graph.ancestors, graph.descendants
    if kind == "descendants":
        below = np.diff(descendants.indptr)
        return np.log(graph.n) - np.log(below)
    if kind != "sanchez":
        raise ValueError(f"expected information content 'sanchez' or 'descendants', found {kind!r}.")
    is_leaf = np.array([not below for below in graph.children], dtype=bool)
    # leaves strictly below: a leaf has none, so every leaf that stands under equally many terms is equally specific
    leaves = descendants.astype(np.int64) @ is_leaf.astype(np.int64) - is_leaf
    subsumers = np.diff(ancestors.indptr)
    return -np.log((leaves / subsumers + 1.0) / (is_leaf.sum() + 1.0))


def highest_common(graph: TermGraph, values: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """The highest value among the common ancestors of each pair, (r, c) float64; `-inf` where there are none.

    Walks the terms from the lowest value up and writes each into the block of pairs that it stands above, so that the
    highest is written last: no pair is looked at one by one.
    """
    result = np.full((len(rows), len(columns)), -np.inf)
    above_rows, above_columns = graph.ancestors[rows].tocsc(), graph.ancestors[columns].tocsc()
    shared = np.flatnonzero((np.diff(above_rows.indptr) > 0) & (np.diff(above_columns.indptr) > 0))
    for term in shared[np.argsort(values[shared], kind="stable")]:
        r = above_rows.indices[above_rows.indptr[term] : above_rows.indptr[term + 1]]
        c = above_columns.indices[above_columns.indptr[term] : above_columns.indptr[term + 1]]
        result[r[:, None], c[None, :]] = values[term]
    return result


def resnik(graph: TermGraph, content: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Resnik (1995): information content of the most informative common ancestor, (r, c) float64 ≥ 0."""
    return np.maximum(highest_common(graph, content, rows, columns), 0.0)


def lin(graph: TermGraph, content: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Lin (1998): `2 IC(MICA) / (IC(a) + IC(b))`, (r, c) float64 in [0, 1]; 1 for equal terms, roots included."""
    shared = resnik(graph, content, rows, columns)
    total = content[rows][:, None] + content[columns][None, :]
    result = np.divide(2.0 * shared, total, out=np.zeros_like(shared), where=total > 0)
    result[rows[:, None] == columns[None, :]] = 1.0
    return np.clip(result, 0.0, 1.0)


def wu_palmer(graph: TermGraph, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Wu and Palmer (1994) with longest depths: `2 d(LCA) / (d(a) + d(b))`, (r, c) float64 in [0, 1]."""
    depth = graph.depth.astype(np.float64)
    shared = np.maximum(highest_common(graph, depth, rows, columns), 0.0)
    return 2.0 * shared / (depth[rows][:, None] + depth[columns][None, :])
