"""Which terms stand beside the training types: from the same organs, as special as they are, neither above nor below them.

C terms · S training types · T tissues
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sclm.knowledge import KnowledgeGraph, Ontology

_PART, _KIND = "cell_type-part_of-tissue", "tissue-is_a-tissue"
_SPECIAL = 3.0  # log rarity from which a tissue says where a cell comes from: "blood" does, "organ" does not
# Weights in log odds: of the cosine of the tissues, of tissues that no training type has, of standing above a training type or
# below one, and of a difference of a tenth of a level in depth. Fitted by conditional logistic regression on leave-types-out
# splits of five data sets of blood and pancreas: see the family's page.
COMPANY_WEIGHTS = np.array([3.2, -1.7, -1.9, -0.7, -0.2])


class Company:
    """Log odds of terms as types beside some training types, from the ontology and the tissues of the graph.

    Annotators choose terms for one data set together: of one tissue, and as an antichain, so that a cell that is none of
    the known types is hardly called what all of them are.

    Parameters
    ----------
    graph
        Its ``cell_type-part_of-tissue`` and ``tissue-is_a-tissue`` edges; without the first, tissues say nothing.
    ontology
        Of the terms.
    terms
        C ids.
    """

    def __init__(self, graph: KnowledgeGraph, ontology: Ontology, terms: Sequence[str]) -> None:
        rows = np.array([ontology.index(t) for t in terms], dtype=np.int64)
        above = ontology.ancestor_matrix().astype(np.float32).tocsr()
        self._above = above[rows][:, rows] > 0  # (C, C): the second is the first, or above it
        self._depth = np.array([ontology.depth(t) for t in terms], dtype=np.float64)
        here = sparse.csr_array((above @ _tissues(graph, list(ontology.ids))).tocsr()[rows])
        here.data[:] = 1.0
        placed = max(int((np.diff(here.indptr) > 0).sum()), 1)
        rarity = np.log((1.0 + placed) / (1.0 + np.asarray(here.sum(axis=0)).ravel()))
        self._tissues = sparse.csr_array(here @ sparse.diags_array(rarity))  # (C, T)
        special = sparse.csr_array(here @ sparse.diags_array((rarity > _SPECIAL).astype(np.float64)))
        special.eliminate_zeros()
        self._special = special

    def features(self, places: np.ndarray) -> np.ndarray:
        """What is known of terms beside training types.

        Parameters
        ----------
        places
            (S,) rows of the training types among the terms, -1 for types that are none.

        Returns
        -------
        (C, 5) float64: cosine of the tissues, weighed by rarity, with the mean of the training types; 1 where a term has special tissues and
        shares none; 1 above a training type; 1 below one; levels between its depth and their mean.
        """
        own = np.unique(places[places >= 0])
        found = np.zeros((len(self._depth), 5))
        if not len(own):
            return found
        mean = np.asarray(self._tissues[own].mean(axis=0)).ravel()
        length = np.sqrt(np.asarray(self._tissues.multiply(self._tissues).sum(axis=1)).ravel())
        found[:, 0] = (self._tissues @ mean) / np.maximum(length * np.linalg.norm(mean), 1e-9)
        shared = self._special @ (np.asarray(self._special[own].sum(axis=0)).ravel() > 0)
        found[:, 1] = (np.diff(self._special.indptr) > 0) & (shared == 0)
        found[:, 2] = np.asarray(self._above[own].sum(axis=0)).ravel() > 0
        found[:, 3] = np.asarray(self._above[:, own].sum(axis=1)).ravel() > 0
        found[:, 4] = np.abs(self._depth - self._depth[own].mean())
        return found

    def __call__(self, places: np.ndarray) -> np.ndarray:
        """(C,) float64 log odds beside the training types at `places` (S,)."""
        return self.features(places) @ COMPANY_WEIGHTS


def _tissues(graph: KnowledgeGraph, terms: Sequence[str]) -> sparse.csr_array:
    """(len(terms), T) float32: the tissues that a term is part of, and what these are kinds or parts of."""
    rows, n = graph.rows("tissue"), len(graph)
    column = np.full(n, -1, dtype=np.int64)
    column[rows] = np.arange(len(rows))
    nodes = graph.lookup("cell_type", terms)
    start = np.full(n, -1, dtype=np.int64)
    start[nodes[nodes >= 0]] = np.flatnonzero(nodes >= 0)
    pair, up = (graph.edges.get(name, np.empty((2, 0), dtype=np.int32)) for name in (_PART, _KIND))
    kept = (start[pair[0]] >= 0) & (column[pair[1]] >= 0)
    shape = (len(terms), len(rows))
    found = sparse.csr_array(
        (np.ones(int(kept.sum()), np.float32), (start[pair[0][kept]], column[pair[1][kept]])), shape=shape
    )
    step = sparse.csr_array(
        (np.ones(up.shape[1], np.float32), (column[up[0]], column[up[1]])), shape=(len(rows), len(rows))
    )
    reached = found
    while reached.nnz:
        further = sparse.csr_array(reached @ step)
        further = sparse.csr_array(
            (further > 0).astype(np.float32) - (further > 0).multiply(found > 0).astype(np.float32)
        )
        further.eliminate_zeros()
        found = sparse.csr_array(found + further)
        found.data[:] = 1.0
        reached = further
    return found
