"""PageRank voting: the term whose place in the ontology looks like the cell's place among the training types."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from scipy import stats

from sclm.evidence.backoff import UNKNOWN
from sclm.models.openvocab.annotator import OpenAnnotator

if TYPE_CHECKING:
    from scipy import sparse

    from sclm.models.openvocab.choice import Choice
    from sclm.models.reference_cells import Reference

# Rank correlations of neighbouring terms differ by hundredths; this brings them to the scale of logits, and calibration does the rest.
_SHARPNESS = 50.0


class PageRankVoting(OpenAnnotator):
    r"""Votes of the training types by personalised PageRank, as scCello names cells of types that it has not seen.

    After Yuan et al. (2024): a cell's cosine to the prototype of every training type, in 50 principal components of log-normalised
    counts, is compared with the personalised PageRank of every term at these types,

    .. math:: \mathrm{score}(t) = \mathrm{Spearman}_c\big(\cos(x, \bar{x}_c),\; \mathrm{PPR}(t, c)\big) .

    The original compares vectors of its own encoder. Scores become probabilities by a temperature fitted on held-out cells.
    """

    family: ClassVar[str] = "pagerank-voting"

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
        genes, components = fixed["space_genes"], fixed["space_components"]
        total = np.zeros((len(config.labels), components.shape[1]))
        for where, block in reference.blocks():
            mine = use[where]
            np.add.at(total, codes[where][mine], (block[mine][:, genes] @ components).astype(np.float64))
        count = np.bincount(codes[use], minlength=len(config.labels))
        prototypes = total / np.maximum(count, 1)[:, None]
        centre = prototypes.mean(axis=0)
        return {"prototypes": (prototypes - centre).astype(np.float32), "centre": centre.astype(np.float32)}

    def _scores(self, lognormal: sparse.csr_matrix, fill: np.ndarray | None, choice: Choice) -> np.ndarray:
        if self._space is None:
            raise ValueError("the checkpoint is broken: it has no components.")
        points = self._space.project(lognormal, fill) - self._arrays["centre"]
        # The length of a cell does not change the order of its cosines.
        prototypes = self._arrays["prototypes"]
        length = np.maximum(np.linalg.norm(prototypes, axis=1), 1e-9)
        places = _ranks((points @ prototypes.T / length).astype(np.float64))
        return _SHARPNESS * places @ self._profiles(choice).T

    def _profiles(self, choice: Choice) -> np.ndarray:
        """(m, S) standardised ranks of the PageRank of each answer at the training types."""
        ontology, labels, ids = self.ontology, self.config.labels, self.config.term_ids
        profiles = np.zeros((len(choice.answers.labels), len(labels)))
        named = [s for s, term in enumerate(ids) if term != UNKNOWN and ontology.current_id(term) is not None]
        answers = [i for i, term in enumerate(choice.answers.term_ids) if term != UNKNOWN]
        at = [ontology.index(choice.answers.term_ids[i]) for i in answers]
        if named:
            known = [str(ontology.current_id(ids[s])) for s in named]
            # Walks are reversible, degree(t) PPR(t, c) = degree(c) PPR(c, t), and a factor of t leaves its ranks as they are.
            degree = np.maximum(np.diff(ontology.graph.undirected.indptr), 1)[[ontology.index(t) for t in known]]
            walks = np.asarray(ontology.pagerank(known)) * degree[:, None]
            profiles[np.ix_(answers, named)] = walks[:, at].T
        for i, (label, term) in enumerate(zip(choice.answers.labels, choice.answers.term_ids, strict=True)):
            if term == UNKNOWN:
                profiles[i, labels.index(label)] = 1.0
        return _ranks(profiles)


def _ranks(values: np.ndarray) -> np.ndarray:
    """Ranks within each row, ties averaged, centred and of length 1: the product of two such rows is their Spearman correlation."""
    ranks = stats.rankdata(values, axis=1)
    ranks -= ranks.mean(axis=1, keepdims=True)
    length = np.linalg.norm(ranks, axis=1, keepdims=True)
    return ranks / np.where(length > 0, length, 1.0)
