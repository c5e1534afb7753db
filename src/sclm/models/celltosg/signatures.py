"""What the graph lets expect of every cell type's genes: what its text says, its markers, and those of its relatives.

C terms · G genes of the vocabulary · M terms with markers
"""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy import sparse

from sclm.models.celltosg.mentions import mentions
from sclm.models.celltosg.named_genes import named_genes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sclm.knowledge import KnowledgeGraph, Ontology

_MARKS = "gene-marks-cell_type"
_NEAR = 0.5  # Lin similarity below which another term's markers tell nothing
_SHARP = 20.0  # power of the similarity: markers of parents and siblings count, those of cousins hardly
_BELOW = 0.5  # weight of what is said of a term's descendants, beside what is said of itself and above it
_PRODUCT = re.compile(r"[a-z][a-z-]{5,}(?: [a-z]{3,})?")  # names of gene products in plain words


class Signatures(NamedTuple):
    """Expected genes of terms, rows of length 1 or zero.

    Attributes
    ----------
    text
        (C, G) float32, signed: what the texts of the term, its ancestors and its descendants say.
    markers
        (C, G) float32, not negative: markers of the term and of near relatives, rare markers loudest.
    named
        (C, G) float32, not negative: genes whose own names speak of the term, its ancestors or its descendants.
    """

    text: np.ndarray
    markers: np.ndarray
    named: sparse.csr_array


class SignatureTable:
    r"""Expected genes of terms, also without what is known of some of them.

    A term without markers of its own (held out, or simply without) has those of its relatives in the ontology,
    :math:`\sum_d \mathrm{lin}(c, d)^{20} M_d / \sum_d \mathrm{lin}(c, d)^{20}`, and what the texts say: a text speaks for all below it
    in full, and for all above it in part.

    Parameters
    ----------
    graph
        Cell types with their texts, and ``gene-marks-cell_type`` edges.
    ontology
        Of the terms.
    terms
        C ids.
    gene_nodes
        (G,) int64 nodes of the vocabulary's genes, -1 none.
    """

    def __init__(self, graph: KnowledgeGraph, ontology: Ontology, terms: Sequence[str], gene_nodes: np.ndarray) -> None:
        column = np.full(len(graph), -1, dtype=np.int64)
        column[gene_nodes[gene_nodes >= 0]] = np.flatnonzero(gene_nodes >= 0)
        said = _said(graph, list(ontology.ids), column, len(gene_nodes))  # (all terms, G)
        above = ontology.ancestor_matrix().astype(np.float32)
        rows = np.array([ontology.index(t) for t in terms], dtype=np.int64)
        text = _spread(said, above)[rows].toarray().astype(np.float32)
        named = _spread(named_genes(graph, ontology, list(ontology.ids), column, len(gene_nodes)), above)[rows]
        length = np.sqrt(np.asarray(named.multiply(named).sum(axis=1)).ravel())
        named = sparse.csr_array(sparse.diags_array(1.0 / np.where(length > 0, length, 1.0)) @ named).astype(np.float32)
        marked, matrix = _markers(graph, column, len(gene_nodes))
        known = [i for i, t in enumerate(marked) if t in ontology]
        self._marked = [marked[i] for i in known]
        common = (matrix[known] > 0).sum(axis=0)
        self._matrix = _unit(matrix[known] * np.log((1.0 + len(known)) / (1.0 + common))).astype(np.float32)
        kernel = ontology.similarity_matrix(list(terms), self._marked, "lin")
        self._kernel = np.where(kernel > _NEAR, kernel**_SHARP, 0.0).astype(np.float32)  # (C, M)
        self._ontology = ontology
        self.all = Signatures(_unit(text), self._smoothed(self._kernel), named)

    def _smoothed(self, kernel: np.ndarray) -> np.ndarray:
        return _unit((kernel / np.maximum(kernel.sum(axis=1, keepdims=True), 1e-12)) @ self._matrix)

    def without(self, term: str) -> Signatures:
        """The same with the markers of a term and of all below it withheld."""
        held = self._ontology.descendants(term, include_self=True)
        gone = np.array([t in held for t in self._marked], dtype=bool)
        touched = self._kernel[:, gone].any(axis=1) if gone.any() else np.zeros(len(self._kernel), dtype=bool)
        if not touched.any():
            return self.all
        markers = self.all.markers.copy()
        markers[touched] = self._smoothed(np.where(gone[None, :], 0.0, self._kernel[touched]))
        return self.all._replace(markers=markers)


def _spread(said: sparse.csr_array, above: sparse.csr_array) -> sparse.csr_array:
    """What is said of terms, (R, G), and of all above each in full, of all below it in part; between -1 and 1 of the former."""
    own_and_above = sparse.csr_array(above @ said)
    own_and_above.data = np.clip(own_and_above.data, -1.0, 1.0)
    below = above.T.tocsr()
    mean_below = sparse.diags_array(1.0 / np.asarray(below.sum(axis=1)).ravel()) @ (below @ said)
    return sparse.csr_array(own_and_above + _BELOW * mean_below)


def _said(graph: KnowledgeGraph, terms: Sequence[str], column: np.ndarray, n_genes: int) -> sparse.csr_array:
    """(len(terms), G) what the text of each term says of genes."""
    genes = graph.nodes.iloc[graph.rows("gene")]
    names = genes["name"].to_numpy(dtype=object)
    at = dict(zip(names, column[genes.index.to_numpy()], strict=True))
    full = [text.partition(" Synonyms:")[0].strip().lower() for text in genes["text"]]
    often = Counter(full)
    products = {f: n for f, n in zip(full, names, strict=True) if often[f] == 1 and _PRODUCT.fullmatch(f)}
    nodes = graph.lookup("cell_type", terms)
    rows, columns, values = [], [], []
    for row, node in enumerate(nodes):
        if node < 0:
            continue
        text = f"{graph.nodes['name'].iat[node]}. {graph.nodes['text'].iat[node]}"
        for symbol, value in mentions(text, products).items():
            if at.get(symbol, -1) >= 0:
                rows.append(row)
                columns.append(at[symbol])
                values.append(value)
    return sparse.csr_array((np.array(values, dtype=np.float32), (rows, columns)), shape=(len(terms), n_genes))


def _markers(graph: KnowledgeGraph, column: np.ndarray, n_genes: int) -> tuple[list[str], np.ndarray]:
    """Terms with markers among the genes, and (M, G) float64 0 or 1."""
    pair = graph.edges.get(_MARKS, np.empty((2, 0), dtype=np.int32))
    kept = column[pair[0]] >= 0
    genes, nodes = column[pair[0][kept]], pair[1][kept]
    terms, rows = np.unique(nodes, return_inverse=True)
    matrix = np.zeros((len(terms), n_genes))
    matrix[rows, genes] = 1.0
    return graph.nodes["id"].iloc[terms].tolist(), matrix


def _unit(rows: np.ndarray) -> np.ndarray:
    """Rows of length 1; zero rows stay."""
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(length > 0, length, 1.0)
