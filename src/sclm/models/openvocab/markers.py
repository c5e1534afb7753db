"""Marker lists: cell types whose markers a cell, or a list of genes, shows; needs no reference."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import pandas as pd

from sclm.cells import GeneVocabulary
from sclm.evidence.marker_table import MarkerTable
from sclm.knowledge import KnowledgeGraph, Ontology
from sclm.models.open_labels import answer
from sclm.models.openvocab.annotator import OpenAnnotator

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from scipy import sparse

    from sclm.cells import GeneMatch
    from sclm.models.contract import Annotation
    from sclm.models.openvocab.choice import Choice
    from sclm.models.reference_cells import Reference

_SHARPNESS = 20.0  # from cosines to the scale of logits
_LEAST_GENES = 10  # marker genes that the data must hold


class MarkerLists(OpenAnnotator):
    r"""Marker genes of the knowledge graph: works at once, with no reference; for cells and for lists of genes.

    The score of a term is the cosine of what the cell shows, :math:`w_g \log(1 + 10^4 c_g / \sum c)` over the marker genes of the graph,
    and what the term lets expect: its own markers and, less and less, those of the terms above it, times the same weights
    :math:`w_g`, which are higher for genes that mark few terms. Terms of which more is known are likelier to be meant: a term with n
    markers of its own is :math:`1 + n` times as probable beforehand. With a reference (:func:`sclm.train`) the mean of the reference is taken
    off first, and the temperature is fitted; the names that can be given stay the same.
    """

    family: ClassVar[str] = "marker-lists"
    names_loose: ClassVar[bool] = False
    _absent: np.ndarray | None = None
    _last_expected: tuple[Choice, np.ndarray, np.ndarray] | None = None

    @classmethod
    def ready(
        cls,
        graph: KnowledgeGraph | str | None = None,
        *,
        candidates: Sequence[str] = (),
    ) -> Self:
        """A model that needs no training.

        Parameters
        ----------
        graph
            A graph with ``gene-marks-cell_type`` edges, its folder, or None for the one that comes with the package.
        candidates
            Names or ids that are answered by default; empty: all terms below "cell".

        Returns
        -------
        The model. Its confidences are rough: see the family's page.

        Raises
        ------
        ValueError
            If the graph holds no markers.
        """
        graph = _graph(graph)
        names = tuple(dict.fromkeys(graph.nodes["name"].iloc[graph.rows("gene")].astype(str)))
        table = MarkerTable.of(graph, names)
        if not table.terms:
            raise ValueError(
                "the graph must hold markers, found no gene-marks-cell_type edges. KnowledgeGraph.default() has some."
            )
        ontology = Ontology.load("cl")
        config = cls.Config(candidates=tuple(candidates), ontology=ontology.name, ontology_version=ontology.version)
        card = {
            "data": f"no cells; {table.marks.shape[1]:,} markers of {len(table.terms):,} cell types from the knowledge graph",
            "split": "nothing was trained",
            "limits": "Knows the markers that its graph holds. Confidences are rough: train it on a reference to calibrate them.",
        }
        return cls(config, GeneVocabulary(names), _stored(table), card)

    @classmethod
    def _knowledge(cls, options: dict[str, Any]) -> Any:
        return _graph(options.pop("graph", None))

    @classmethod
    def _learn(
        cls,
        config: Any,
        reference: Reference,
        codes: np.ndarray,
        use: np.ndarray,
        fixed: dict[str, np.ndarray],
        knowledge: Any,
        *,
        seed: int,
    ) -> dict[str, np.ndarray]:
        return _stored(MarkerTable.of(knowledge, reference.vocabulary.tokens))

    def _require(self, genes: pd.Index, match: GeneMatch) -> None:
        if "gene_share" in self._arrays:  # trained: as every model with a reference
            return super()._require(genes, match)
        there = int(np.isin(self._table.genes, match.ids).sum())
        if there < _LEAST_GENES:
            raise ValueError(
                f"the data must hold at least {_LEAST_GENES} marker genes of the graph, found {there} of {len(self._table.genes)}. "
                "Markers are human genes: pass gene_key= if their symbols or Ensembl ids are in a column of .var."
            )
        return None

    # Scores ---------------------------------------------------------------------------------------------------------

    @cached_property
    def _table(self) -> MarkerTable:
        terms = tuple(self._arrays["marked_terms"].tobytes().decode().split())
        return MarkerTable(self._arrays["marker_genes"], terms, self._arrays["marks"])

    def _see(self, absent: np.ndarray) -> None:
        mine = absent[self._table.genes]
        if self._absent is None or not np.array_equal(mine, self._absent):
            self._absent = mine
            self._last_expected = None

    def _expected(self, choice: Choice) -> tuple[np.ndarray, np.ndarray]:
        """(m, V) profiles of length 1 over the marker genes that the data hold, and (m,) logits beforehand."""
        if self._last_expected is None or self._last_expected[0] is not choice:
            profiles, own = self._table.expected(self.ontology, choice.answers.term_ids)
            if self._absent is not None:
                profiles[:, self._absent] = 0.0
            length = np.linalg.norm(profiles, axis=1, keepdims=True)
            self._last_expected = (choice, profiles / np.where(length > 0, length, 1.0), np.log1p(own))
        return self._last_expected[1:]

    def _scores(self, lognormal: sparse.csr_matrix, fill: np.ndarray | None, choice: Choice) -> np.ndarray:
        shown = lognormal[:, self._table.genes].toarray().astype(np.float64)
        if "gene_mean" in self._arrays:
            shown = np.maximum(shown - self._arrays["gene_mean"][self._table.genes], 0.0)
        return self._compare(shown * self._table.weights, choice)

    def _compare(self, shown: np.ndarray, choice: Choice) -> np.ndarray:
        profiles, prior = self._expected(choice)
        length = np.linalg.norm(shown, axis=1, keepdims=True)
        return _SHARPNESS * (shown / np.where(length > 0, length, 1.0)) @ profiles.T + prior

    def annotate_lists(
        self,
        lists: Mapping[str, Sequence[str]],
        *,
        candidates: Sequence[str] | None = None,
        under: str | Sequence[str] | None = None,
    ) -> Annotation:
        """Names for lists of genes, such as the markers of clusters.

        Parameters
        ----------
        lists
            Name of each list → genes by symbol or Ensembl id, in any order.
        candidates, under
            As in :meth:`annotate`.

        Returns
        -------
        One row a list. A list without a marker gene is ``"unknown"`` with confidence 0.

        Examples
        --------
        >>> import sclm
        >>> model = sclm.load("marker-lists")
        >>> model.annotate_lists({"cluster 3": ["KIT", "TPSAB1", "CPA3", "MS4A2"]}).table["label"].iloc[0]
        'mast cell'
        """
        choice = self._choice(candidates, under)
        place = np.full(len(self.vocabulary), -1, dtype=np.int64)
        place[self._table.genes] = np.arange(len(self._table.genes))
        shown = np.zeros((len(lists), len(self._table.genes)))
        for row, genes in enumerate(lists.values()):
            if isinstance(genes, str):
                raise TypeError(f"each list must be a list of genes, found the text {genes[:40]!r}. Split it first.")
            ids = self.vocabulary.match(pd.Index(list(genes), dtype=object)).ids
            known = place[ids[ids >= 0]]
            shown[row, known[known >= 0]] = 1.0
        filled = np.asarray(shown.any(axis=1))
        self._see(np.zeros(len(self.vocabulary), dtype=bool))
        scores = self._compare(shown[filled] * self._table.weights, choice)
        index = pd.Index(list(map(str, lists)), dtype=object)
        return answer(choice.answers, scores, filled, index, temperature=self.config.temperature)


def _graph(graph: Any) -> KnowledgeGraph:
    if graph is None:
        return KnowledgeGraph.default()
    return graph if isinstance(graph, KnowledgeGraph) else KnowledgeGraph.load(graph)


def _stored(table: MarkerTable) -> dict[str, np.ndarray]:
    terms = np.frombuffer((" ".join(table.terms) + " ").encode(), dtype=np.uint8)  # ids hold no spaces
    return {"marker_genes": table.genes, "marks": table.marks, "marked_terms": terms}
