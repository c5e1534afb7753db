"""What the parts of a trained model say of cells, and how they become one answer.

n cells · C terms · S training types · U training types that are no term · G genes
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from sclm.evidence import softmax
from sclm.models.celltosg.company import Company
from sclm.models.celltosg.evidence import Fit, Keys, Prototypes, fit_terms, lognormal_of, predict_keys
from sclm.models.celltosg.mixture import (
    SeenWeights,
    fit_novelty,
    novelty,
    novelty_features,
    open_scores,
)
from sclm.models.celltosg.prior import usage_prior
from sclm.models.celltosg.signatures import SignatureTable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scipy import sparse

    from sclm.knowledge import KnowledgeGraph, Ontology

_KIN = 6.0  # power of Lin similarity by which training types speak for a term without cells
_NEAR = (
    3.0  # power of Lin similarity by which an answer near the truth is worth something; chosen on the development data
)
_VIEW = 0.05  # of the profile's fit, for the probabilities that novelty is judged by, in rehearsal and in use alike
_REHEARSED = 30  # cells of a type that plays the new one, and as many others


class Weights(NamedTuple):
    """What was fitted on held-out cells."""

    seen: SeenWeights
    novelty: np.ndarray  # (4,)


class Judge:
    """Probabilities of terms from prototypes, signatures and what the network says.

    Parameters
    ----------
    graph, ontology
        Knowledge.
    terms
        (C,) ids of all terms that can be answered.
    gene_nodes
        (G,) int64 nodes of the vocabulary's genes.
    prototypes
        Of the S training types.
    places
        (S,) int64 rows of the training types among the terms, -1 for types that are none.
    share
        (G,) float32 usual share of counts of each gene.
    """

    def __init__(
        self,
        graph: KnowledgeGraph,
        ontology: Ontology,
        terms: Sequence[str],
        gene_nodes: np.ndarray,
        prototypes: Prototypes,
        places: np.ndarray,
        share: np.ndarray,
    ) -> None:
        self.graph, self.ontology, self.terms = graph, ontology, tuple(terms)
        self.gene_nodes, self.prototypes, self.places, self.share = gene_nodes, prototypes, places, share

    @cached_property
    def table(self) -> SignatureTable:
        """Expected genes of all terms."""
        return SignatureTable(self.graph, self.ontology, self.terms, self.gene_nodes)

    @cached_property
    def prior(self) -> np.ndarray:
        """(C,) usage of the terms."""
        return usage_prior(self.graph, self.ontology, self.terms)

    @cached_property
    def company(self) -> np.ndarray:
        """(C,) log odds of the terms beside the training types."""
        return Company(self.graph, self.ontology, self.terms)(self.places)

    @cached_property
    def lin(self) -> np.ndarray:
        """(C, S) Lin similarity of terms to training types, 0 for those that are no term."""
        found = np.zeros((len(self.terms), len(self.places)))
        own = np.flatnonzero(self.places >= 0)
        found[:, own] = self.ontology.similarity_matrix(
            list(self.terms), [self.terms[p] for p in self.places[own]], "lin"
        )
        return found

    @cached_property
    def _kin(self) -> np.ndarray:
        ids = list(self.terms)
        return (self.ontology.similarity_matrix(ids, ids, "lin") ** _NEAR).astype(np.float32)

    def kinship(self, columns: np.ndarray, n_loose: int) -> np.ndarray:
        """(m + U, m + U) float32 kinship of the answers: terms (m,) by row, then labels that are no term, alike to none."""
        whole = np.eye(len(columns) + n_loose, dtype=np.float32)
        whole[: len(columns), : len(columns)] = self._kin[np.ix_(columns, columns)]
        return whole

    @cached_property
    def _keys(self) -> Keys:
        return predict_keys(self.prototypes, self.lin, self.places, self.table.all)

    def own(self, counts: sparse.csr_matrix, absent: np.ndarray | None = None) -> np.ndarray:
        """(n, S) float64 fit of cells to the prototypes of the training types."""
        return self._own(self.prototypes.standardise(lognormal_of(counts, self.share, absent), absent), absent)

    def _own(self, z: np.ndarray, absent: np.ndarray | None) -> np.ndarray:
        means = self.prototypes.means if absent is None else np.where(absent[None, :], 0.0, self.prototypes.means)
        return (z @ means.T - 0.5 * np.einsum("sg,sg->s", means, means)[None, :]).astype(np.float64)

    def look(self, counts: sparse.csr_matrix, absent: np.ndarray | None) -> tuple[Fit, np.ndarray]:
        """Fit of cells to all terms, and to the prototypes of the training types as :meth:`own` gives it."""
        z = self.prototypes.standardise(lognormal_of(counts, self.share, absent), absent)
        return fit_terms(z, self._keys, self.table.all), self._own(z, absent)

    def probabilities(
        self,
        fit: Fit,
        parts: Sequence[np.ndarray],
        weights: Weights,
        columns: np.ndarray,
        loose: Sequence[int],
        share: float,
    ) -> np.ndarray:
        """Probabilities of some answers: while all new terms stay, those of all under the condition that it is one of these.

        A training type that may not be answered leaves its probability to the terms below it that may: a cell that was sure to be a
        T cell is one of the kinds of T cell. Without such terms it leaves it to the others and to the new types in the ratio that
        they have: the cell does not become the best-liked of what is left of the training types.
        Where new terms may not be answered, those that may share the whole novel part, which is judged anew against them.

        Parameters
        ----------
        fit
            From :meth:`look`.
        parts
            (n, S) what language model, contrast, profiles and discriminant say of the training types.
        weights
            Fitted.
        columns
            (m,) rows of the terms that may be answered.
        loose
            (u,) training types that are no term and may be answered.
        share
            Of new types among the cells, 0 to 1. Where none of the answers has training cells it does not matter.

        Returns
        -------
        (n, m + u) float64, rows sum to 1.
        """
        seen = softmax(weights.seen.scores(*parts))
        own = parts[2]
        known = np.isin(columns, self.places)
        result = np.zeros((len(own), len(columns) + len(loose)))
        at = np.full(len(self.terms), -1, dtype=np.int64)
        at[columns] = np.arange(len(columns))
        for s, place in enumerate(self.places):
            if place >= 0 and at[place] >= 0:
                result[:, at[place]] += seen[:, s]
        result[:, len(columns) :] = seen[:, list(loose)]
        kinds, nothing_known = self._kinds(columns), not known.any() and not len(loose)
        opens = (share > 0 or nothing_known) and not known.all()
        if (
            kinds or opens
        ):  # of every term by itself: kinds of a type are of one company with it, which says nothing of them
            alone = open_scores(fit, self.prior, np.zeros(len(self.terms)), seen, self.lin**_KIN)
        handed = np.zeros(len(own))  # what is said of types that may not be answered and is handed on to their kinds
        for s, below in kinds:
            if known[below].all():
                shares = np.maximum(result[:, below], 1e-12)
                shares = shares / shares.sum(axis=1, keepdims=True)
            else:
                shares = softmax(alone[:, columns[below]])
            result[:, below] += seen[:, [s]] * shares
            handed += seen[:, s]
        if opens:
            fresh = columns[~known]
            scores = alone[:, fresh] + self.company[fresh]
            chance = np.ones(len(own))
            if not nothing_known:
                chance = novelty(self.novelty_features(fit, own, columns), weights.novelty, share)
            chance = chance * np.maximum(1.0 - handed, 0.0)  # kinds of what a cell is known to be are not new
            result *= 1.0 - chance[:, None]
            result[:, np.flatnonzero(~known)] += chance[:, None] * softmax(scores)
        total = result.sum(axis=1, keepdims=True)
        return np.where(total > 0, result / np.maximum(total, 1e-300), 1.0 / result.shape[1])

    def _kinds(self, columns: np.ndarray) -> list[tuple[int, np.ndarray]]:
        """Training types that may not be answered, with the columns (k,) of what may be of the terms below each."""
        found = []
        for s, place in enumerate(self.places):
            if place >= 0 and place not in columns:
                below = self.ontology.descendants(self.terms[place])
                if kept := [i for i, c in enumerate(columns) if self.terms[c] in below]:
                    found.append((s, np.array(kept)))
        return found

    def novelty_features(self, fit: Fit, own: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """(n, 4) what tells cells of new types, where these rows of the terms may be answered: fits as :meth:`look` gives them."""
        free = np.zeros(len(self.terms), dtype=bool)
        free[columns[~np.isin(columns, self.places)]] = True
        return novelty_features(fit, self.prior, free, self.places, self._view(own, self.places))

    @staticmethod
    def _view(fits: np.ndarray, places: np.ndarray) -> np.ndarray:
        """(n, S) probabilities that novelty is judged by: of the training types that are terms, of all where none is one."""
        return softmax(_VIEW * (np.where(places >= 0, fits, -np.inf) if (places >= 0).any() else fits))

    def rehearse(self, lognormal: sparse.csr_matrix, codes: np.ndarray, seed: int) -> np.ndarray:
        """Weights of novelty: each training type in turn plays the new one, its cells, its markers and its prototype withheld.

        Parameters
        ----------
        lognormal, codes
            (n, G) training cells and (n,) their types.
        seed
            Of the cells that are looked at.

        Returns
        -------
        (4,) float64.
        """
        rng = np.random.default_rng([seed, 5])
        n_types = len(self.places)
        features, new = [], []
        for code in range(n_types):
            own = np.flatnonzero(codes == code)
            if self.places[code] < 0 or (self.places >= 0).sum() < 3 or len(own) < 2:
                continue
            others = rng.permutation(np.flatnonzero(codes != code))
            shown, kept = others[:_REHEARSED], others[_REHEARSED:]
            if len(np.unique(codes[kept])) < 2:
                continue
            prototypes = Prototypes.fit(lognormal[kept], codes[kept], n_types)
            places = self.places.copy()
            places[code] = -1
            missing = np.bincount(codes[kept], minlength=n_types) == 0
            places[missing] = -1
            signatures = self.table.without(self.terms[self.places[code]])
            keys = predict_keys(prototypes, self.lin, places, signatures)
            rows = np.concatenate([rng.permutation(own)[:_REHEARSED], shown])
            z = prototypes.standardise(lognormal[rows])
            fit = fit_terms(z, keys, signatures)
            fits = z @ prototypes.means.T - 0.5 * np.einsum("sg,sg->s", prototypes.means, prototypes.means)[None, :]
            view = self._view(fits, places)
            free = np.ones(len(self.terms), dtype=bool)
            free[places[places >= 0]] = False
            features.append(novelty_features(fit, self.prior, free, places, view))
            new.append(np.arange(len(rows)) < len(rows) - len(shown))
        if not features:
            return fit_novelty(np.zeros((0, 4)), np.zeros(0, dtype=bool))
        return fit_novelty(np.concatenate(features), np.concatenate(new))
