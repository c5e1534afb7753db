r"""How well the markers of each cell type fit a cell or group, and whether a stated type stands.

n cells or groups · T terms · V marker genes · M cells of the sample
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from sclm.cells import GeneVocabulary
from sclm.evidence.calibration import softmax
from sclm.evidence.marker_table import MarkerTable

if TYPE_CHECKING:
    import pandas as pd
    from scipy import sparse

    from sclm.evidence.gene_states import GeneStates
    from sclm.knowledge import KnowledgeGraph, Ontology

_SHOWN = 0.8  # share of the cells of a type in which a marker of it is on
_NEAR = 0.6  # Lin similarity from which on another type is a relative
_SPREAD = 0.3  # nats added to the spread of scores, for types that are all alike in the data
_MIN_RIVAL = 3  # markers of its own that a type needs to be named, or held against another
_BLOCK = 2_000  # cells at a time: n x V is dense
MIN_MARKERS = 10  # marker genes that the data must hold, for names to be judged


class Fit(NamedTuple):
    """How a stated type compares, for n cells or groups.

    Attributes
    ----------
    score
        (n,) log likelihood ratio of the type's markers against those of any cell, nats.
    z
        (n,) the score against that of all cells of the data, in standard deviations; that of the best type below, where it is higher.
    far
        (n,) the score minus that of the best type that is no relative.
    near
        (n,) the score minus that of the best relative (neither above nor below); infinite where there is none.
    rival
        (n,) places of the best other type, relative or not.
    """

    score: np.ndarray
    z: np.ndarray
    far: np.ndarray
    near: np.ndarray
    rival: np.ndarray


class _Rule(NamedTuple):
    own: np.ndarray  # places of the type and the types below it; those above where neither has markers
    far: np.ndarray
    near: np.ndarray
    mean: float
    sd: float


class TermEvidence:
    r"""Evidence for cell types from their markers, gene by gene.

    A marker is on in 80 % of the cells of its type, and elsewhere as often as in all cells of the data (:math:`\pi_g`). With
    :math:`\ell = P(c \mid \mathrm{on}) / P(c \mid \mathrm{off})` of :class:`~sclm.evidence.gene_states.GeneStates`, the score of type t is

    .. math:: L_t = \sum_g w_{tg} \log \frac{0.8\,\ell_g + 0.2}{\pi_g\,\ell_g + 1 - \pi_g},

    with weight 1 for its own markers and a half, a quarter … for those of the types one, two … steps above. A gene that a shallow cell
    does not show says little, one that a deep cell does not show speaks against. The score of a group is the mean of its cells'.

    Attributes
    ----------
    terms
        T ids of cell types with markers in the data, their own or those of types above.
    markers
        (V,) marker genes, as the data name them.
    """

    terms: tuple[str, ...]
    markers: pd.Index

    def __init__(
        self,
        ontology: Ontology,
        terms: tuple[str, ...],
        weights: np.ndarray,
        own: np.ndarray,
        columns: np.ndarray,
        genes: pd.Index,
    ) -> None:
        self.ontology, self.terms, self.weights, self.own, self.columns = ontology, terms, weights, own, columns
        self.markers = genes[columns]
        self._place = {term: i for i, term in enumerate(terms)}
        self._rules: dict[str, _Rule | None] = {}
        self._sample = np.zeros((0, len(terms)))
        self._mean, self._sd = np.zeros(len(terms)), np.ones(len(terms))
        self._states: GeneStates | None = None

    @classmethod
    def of(cls, graph: KnowledgeGraph, ontology: Ontology, genes: pd.Index) -> TermEvidence:
        """The markers of a graph among the genes of the data.

        Raises
        ------
        ValueError
            If fewer than 10 marker genes are there.
        """
        names = tuple(dict.fromkeys(graph.nodes["name"].iloc[graph.rows("gene")].astype(str)))
        table = MarkerTable.of(graph, names)
        column = np.full(len(names), -1, dtype=np.int64)
        ids = GeneVocabulary(names).match(genes).ids
        for j in np.flatnonzero(ids >= 0)[::-1]:  # the first of several columns of one gene stays
            column[ids[j]] = j
        there = column[table.genes] >= 0
        if there.sum() < MIN_MARKERS:
            raise ValueError(
                f"the data must hold at least {MIN_MARKERS} marker genes of the graph, found {int(there.sum())} of {len(there)}. Markers are "
                "human genes: pass gene_key= if their symbols or Ensembl ids are in a column of .var."
            )
        terms = tuple(term for term in table.terms if term in ontology)
        expected, _ = table.expected(ontology, terms)
        weights = np.minimum(expected / np.maximum(table.weights, 1e-9), 1.0)[:, there]
        marked = np.zeros((len(table.terms), len(table.genes)), dtype=bool)
        marked[table.marks[0], table.marks[1]] = True
        row = {term: i for i, term in enumerate(table.terms)}
        own = marked[[row[term] for term in terms]][:, there]
        some = weights.any(axis=1)
        kept = tuple(t for t, s in zip(terms, some, strict=True) if s)
        return cls(ontology, kept, weights[some], own[some], column[table.genes][there], genes)

    def learn(self, counts: sparse.csr_matrix, states: GeneStates) -> None:
        """Remember states of genes, and how cells of a sample score; (M, G) raw counts."""
        self._states, self._rules = states, {}
        self._sample = self.scores(counts)
        self._mean, self._sd = self._sample.mean(axis=0), self._sample.std(axis=0)

    def scores(self, counts: sparse.csr_matrix) -> np.ndarray:
        """(n, T) float64 scores of cells, from (n, G) raw counts."""
        if self._states is None:
            raise ValueError("TermEvidence has not seen the data. Call learn() first.")
        depth = np.asarray(counts.sum(axis=1, dtype=np.float64)).ravel()
        pi = np.where(self._states.told, self._states.share, 0.5)[self.columns]
        out = np.empty((counts.shape[0], len(self.terms)))
        for start in range(0, counts.shape[0], _BLOCK):
            rows = slice(start, start + _BLOCK)
            ratio = np.exp(self._states.log_ratio(counts[rows][:, self.columns].toarray(), depth[rows], self.columns))
            of_gene = np.log((_SHOWN * ratio + 1 - _SHOWN) / (pi * ratio + 1 - pi))
            of_gene[:, ~self._states.told[self.columns]] = 0.0
            out[rows] = of_gene @ self.weights.T
        return out

    def _rule(self, term: str) -> _Rule | None:
        """Places of a term's own types and of its rivals; None where nothing is known of it."""
        if term not in self._rules:
            self._rules[term] = self._make_rule(term)
        return self._rules[term]

    def _able(self) -> np.ndarray:
        """(T,) bool: types with enough markers that the data show, to stand against others; one gene alone fits many."""
        told = self._states.told[self.columns] if self._states is not None else np.ones(len(self.columns), dtype=bool)
        return (self.own & told).sum(axis=1) >= _MIN_RIVAL

    def _make_rule(self, term: str) -> _Rule | None:
        below, above = self.ontology.descendants(term, include_self=True), self.ontology.ancestors(term)
        own = [self._place[t] for t in sorted(below) if t in self._place]
        if not own:
            own = [self._place[t] for t in sorted(above) if t in self._place]
        if not own:
            return None
        able = self._able()
        rivals = np.array(
            [i for t, i in self._place.items() if t not in below and t not in above and able[i]], dtype=np.int64
        )
        if not len(rivals):
            return None
        alike = self.ontology.similarity_matrix([term], [self.terms[i] for i in rivals])[0] >= _NEAR
        mine = self._place.get(term)
        scored = self._sample[:, mine] if mine is not None else self._sample[:, own].max(axis=1)
        return _Rule(np.array(own), rivals[~alike], rivals[alike], float(scored.mean()), float(scored.std()))

    def fit(self, scores: np.ndarray, term: str) -> Fit | None:
        """Compare a type with all others, from :meth:`scores` of cells or their means over groups; None where it has no markers."""
        rule = self._rule(term)
        if rule is None:
            return None
        best = scores[:, rule.own].max(axis=1)
        mine = self._place.get(term)
        # its own markers tell whether it is more than in other cells; the best type below it, whether another fits better
        own = scores[:, mine] if mine is not None else best
        everyone = np.concatenate([rule.far, rule.near])
        near = best - scores[:, rule.near].max(axis=1) if len(rule.near) else np.full(len(scores), np.inf)
        far = best - scores[:, rule.far].max(axis=1) if len(rule.far) else np.full(len(scores), np.inf)
        z = (own - rule.mean) / (rule.sd + _SPREAD)
        lead = rule.own[scores[:, rule.own].argmax(axis=1)]  # a broad type holds where one of the types below it does
        of_lead = (best - self._mean[lead]) / (self._sd[lead] + _SPREAD)
        return Fit(own, np.maximum(z, of_lead), far, near, everyone[scores[:, everyone].argmax(axis=1)])

    def probabilities(self, scores: np.ndarray, sharpness: float) -> np.ndarray:
        """(n, T) float64 share of each type among all, if each with as many markers were as common; rows sum to 1."""
        prior = np.where(self._able(), np.log1p(self.own.sum(axis=1)), -np.inf)
        if not np.isfinite(prior).any():
            prior = np.zeros(len(prior))
        return softmax(sharpness * scores + prior)
