"""Which genes every term is expected to show: markers of the graph, handed down the ontology.

C terms · M terms with markers · V marker genes
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy import sparse

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sclm.knowledge import KnowledgeGraph, Ontology

MARKS = "gene-marks-cell_type"
_A_STEP = 0.5  # weight of a parent's markers beside a term's own; that of a grandparent's is its square, and so on


class MarkerTable(NamedTuple):
    """Marker genes and the terms that they mark.

    Attributes
    ----------
    genes
        (V,) int64 places of the marker genes in a vocabulary, ascending.
    terms
        M ids of terms with markers.
    marks
        (2, E) int32: place in `terms`, place in `genes`.
    """

    genes: np.ndarray
    terms: tuple[str, ...]
    marks: np.ndarray

    @classmethod
    def of(cls, graph: KnowledgeGraph, tokens: Sequence[str]) -> MarkerTable:
        """The markers of a graph among the genes of a vocabulary."""
        column = np.full(len(graph), -1, dtype=np.int64)
        nodes = graph.lookup("gene", tokens)
        column[nodes[nodes >= 0]] = np.flatnonzero(nodes >= 0)
        pair = graph.edges.get(MARKS, np.empty((2, 0), dtype=np.int32))
        pair = pair[:, column[pair[0]] >= 0]
        genes, gene = np.unique(column[pair[0]], return_inverse=True)
        term_nodes, term = np.unique(pair[1], return_inverse=True)
        terms = tuple(graph.nodes["id"].iloc[term_nodes].astype(str))
        return cls(genes.astype(np.int64), terms, np.stack([term, gene]).astype(np.int32).reshape(2, -1))

    @property
    def weights(self) -> np.ndarray:
        r"""(V,) float64: genes that mark few terms say most, :math:`\log((1 + M) / (1 + n_g))`."""
        often = np.bincount(self.marks[1], minlength=len(self.genes))
        return np.log((1.0 + len(self.terms)) / (1.0 + often))

    def expected(self, ontology: Ontology, terms: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Profiles of terms, (C, V) float64, and how many markers of their own they have, (C,) int64.

        A term has its own markers in full, those of a term k steps above by half to the power of k; each times its weight.
        """
        place = {term: i for i, term in enumerate(self.terms)}
        index = {ontology.index(term): i for term, i in place.items() if term in ontology}
        rows, columns, values = [], [], []
        own = np.zeros(len(terms), dtype=np.int64)
        many = np.bincount(self.marks[0], minlength=len(self.terms))
        for row, term in enumerate(terms):
            if term not in ontology:
                continue
            own[row] = many[place[term]] if term in place else 0
            for above, steps in ontology.graph.steps_up(ontology.index(term)).items():
                if above in index:
                    rows.append(row)
                    columns.append(index[above])
                    values.append(_A_STEP**steps)
        down = sparse.csr_array((values, (rows, columns)), shape=(len(terms), len(self.terms)), dtype=np.float64)
        marked = sparse.csr_array(
            (np.ones(self.marks.shape[1]), (self.marks[0], self.marks[1])), shape=(len(self.terms), len(self.genes))
        )
        return (down @ marked).toarray() * self.weights, own
