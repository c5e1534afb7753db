"""What an answer is worth: how near it stands to the truth in the ontology."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from sclm.knowledge import Ontology

_NEAR_ROOT = 2  # depth in terms, the root included: "cell" and what stands directly below it say nothing
_VAGUE = 2  # a true answer more than this many steps above the truth is vague


class HierarchyReward:
    r"""Ontology-hierarchy reward of stage III.

    .. math:: r = \mathrm{sim}(\text{truth}, \text{answer}) + 0.5\,[\text{answer} = \text{truth}]

    and -1 for an answer that is no term. The similarity is personalised PageRank over the undirected parent edges, scaled to
    [0, 1], with the walk starting at the truth: a vague true answer is then worth more than a wrong sibling. An answer at or
    directly below the root is worth 0. Where the label is known to be coarse, every descendant of it is right and worth 1, as
    scTab counts.

    Parameters
    ----------
    ontology
        Whose terms are answered.
    similarity
        ``"pagerank"``, ``"lin"`` or ``"wu-palmer"``.
    exact
        Bonus for the truth itself.
    unresolvable
        Reward of an answer that is no term.
    vague_penalty
        Taken off a true answer that stands more than two steps above the truth, 0 or more.
    coarse
        Labels (ids) that annotators used for all of their descendants.
    """

    def __init__(
        self,
        ontology: Ontology,
        *,
        similarity: str = "pagerank",
        exact: float = 0.5,
        unresolvable: float = -1.0,
        vague_penalty: float = 0.0,
        coarse: Collection[str] = (),
    ) -> None:
        if similarity not in ("pagerank", "lin", "wu-palmer"):
            raise ValueError(f"similarity must be 'pagerank', 'lin' or 'wu-palmer', found {similarity!r}.")
        if vague_penalty < 0:
            raise ValueError(f"vague_penalty must be 0 or more, found {vague_penalty}.")
        self.ontology, self.similarity = ontology, similarity
        self.exact, self.unresolvable, self.vague_penalty = exact, unresolvable, vague_penalty
        self.coarse = frozenset(coarse)

    def matrix(self, truths: Sequence[str], answers: Sequence[str]) -> np.ndarray:
        """Reward of every answer for every truth.

        Parameters
        ----------
        truths, answers
            Ids of terms.

        Returns
        -------
        (len(truths), len(answers)) float64.
        """
        ontology = self.ontology
        # the row of PageRank is where the walk starts: at the truth
        reward = ontology.similarity_matrix(list(truths), list(answers), self.similarity, direction="row")
        depth_of = {t: ontology.depth(t) for t in {*truths, *answers}}
        depth = np.array([depth_of[t] for t in answers])
        true_depth = np.array([depth_of[t] for t in truths])
        at = np.array([ontology.index(t) for t in answers], dtype=np.int64)
        true_at = np.array([ontology.index(t) for t in truths], dtype=np.int64)
        same = true_at[:, None] == at[None, :]
        above = ontology.ancestor_matrix(truths)[:, at].toarray().astype(bool) & ~same
        below = ontology.ancestor_matrix(answers)[:, true_at].toarray().astype(bool).T & ~same
        if self.vague_penalty:
            vague = above & (depth[None, :] < true_depth[:, None] - _VAGUE)
            reward = reward - self.vague_penalty * vague
        reward = np.where((depth <= _NEAR_ROOT)[None, :], 0.0, reward)
        if self.coarse:
            coarse = np.array([t in self.coarse for t in truths], dtype=bool)
            reward = np.where(below & coarse[:, None], 1.0, reward)
        return np.where(same, 1.0 + self.exact, reward)

    def __call__(self, answers: Sequence[str | None], truths: Sequence[str]) -> np.ndarray:
        """Reward of each answer (an id, None where there is none) for its truth (an id), (n,) float64."""
        if len(answers) != len(truths):
            raise ValueError(f"answers and truths must be equally many, found {len(answers)} and {len(truths)}.")
        reward = np.full(len(answers), self.unresolvable, dtype=np.float64)
        known = [i for i, a in enumerate(answers) if a is not None and a in self.ontology]
        if not known:
            return reward
        rows = sorted({truths[i] for i in known})
        columns = sorted({str(answers[i]) for i in known})
        table = self.matrix(rows, columns)
        row_of, column_of = {t: i for i, t in enumerate(rows)}, {t: i for i, t in enumerate(columns)}
        for i in known:
            reward[i] = table[row_of[truths[i]], column_of[str(answers[i])]]
        return reward

    def of_texts(self, texts: Sequence[str], truths: Sequence[str]) -> tuple[np.ndarray, list[str | None]]:
        """Rewards (n,) of answers in free text, and the terms that they mean, None where they mean none.

        A text means a term by its name, a synonym or their spelling (:meth:`~sclm.knowledge.Ontology.resolve`); the most
        similar name is no meaning.
        """
        terms = [resolve_answer(self.ontology, text) for text in texts]
        return self(terms, truths), terms


def resolve_answer(ontology: Ontology, text: str) -> str | None:
    """Term that an answer in free text means, None where it means none."""
    text = re.sub(r"\s+", " ", text).strip().strip(".,;:!\"'")
    return ontology.resolve(text, min_score=1.0).term_id if text else None
