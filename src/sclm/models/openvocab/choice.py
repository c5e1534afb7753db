"""Which terms may be answered, and where the probability of a training type goes among them."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from sclm.evidence.backoff import UNKNOWN
from sclm.models.open_labels import LabelSet, label_set

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sclm.knowledge import Ontology


class Choice(NamedTuple):
    """Answers that are allowed, and how the known labels stand to them.

    Attributes
    ----------
    answers
        m labels with their ids.
    rolled
        (L, m) float64: shares of a known label's probability that go to each answer: all to itself where it is one, else in equal
        parts to the nearest answers above it, else to all answers below it; a row of zeros where there is none.
    fresh
        (m,) bool: answers that are no known label.
    """

    answers: LabelSet
    rolled: np.ndarray
    fresh: np.ndarray


def make_choice(
    ontology: Ontology,
    labels: Sequence[str],
    term_ids: Sequence[str],
    candidates: Sequence[str] | None,
    under: str | Sequence[str] | None,
    *,
    loose: bool = True,
) -> Choice:
    """The answers for a call.

    Parameters
    ----------
    ontology
        The Cell Ontology.
    labels, term_ids
        Of the L labels that a model knows; id ``"unknown"`` for those that are no term.
    candidates, under
        As in :func:`~sclm.models.open_labels.label_set`.
    loose
        Whether known labels that are no term may be answered, which is so without candidates.

    Raises
    ------
    ValueError
        If a candidate is neither a term nor a known label, or none is left.
    """
    answers = label_set(ontology, candidates, under)
    own = [label for label, term in zip(labels, term_ids, strict=True) if term == UNKNOWN and loose]
    if candidates is None and under is None and own:
        n = len(answers.labels)
        answers = LabelSet(
            (*answers.labels, *own), (*answers.term_ids, *[UNKNOWN] * len(own)), (*answers.texts, *own),
            np.concatenate([answers.label_of, np.arange(n, n + len(own))]),
        )  # fmt: skip
    pairs = zip(answers.labels, answers.term_ids, strict=True)
    if strange := [label for label, term in pairs if term == UNKNOWN and label not in own]:
        raise ValueError(
            f"candidates must be terms of the Cell Ontology or labels of the training cells, found {strange[0]!r}. "
            "Ontology.resolve shows what a name means."
        )
    rolled = roll_up(ontology, labels, term_ids, answers)
    known = set(zip(labels, term_ids, strict=True)) | {(None, term) for term in term_ids if term != UNKNOWN}
    fresh = [
        (label, term) not in known and (None, term) not in known
        for label, term in zip(answers.labels, answers.term_ids, strict=True)
    ]
    return Choice(answers, rolled, np.array(fresh, dtype=bool))


def roll_up(ontology: Ontology, labels: Sequence[str], term_ids: Sequence[str], answers: LabelSet) -> np.ndarray:
    """(L, m) float64 shares of labels' probabilities that go to answers; see :class:`Choice`."""
    column = {pair: i for i, pair in enumerate(zip(answers.labels, answers.term_ids, strict=True))}
    column_of_term = {term: i for i, term in enumerate(answers.term_ids) if term != UNKNOWN}
    rolled = np.zeros((len(labels), len(answers.labels)))
    for row, (label, term) in enumerate(zip(labels, term_ids, strict=True)):
        if term == UNKNOWN:
            if (label, term) in column:
                rolled[row, column[label, term]] = 1.0
            continue
        now = ontology.current_id(term)
        if now is None:
            continue
        above = [a for a in ontology.ancestors(now, include_self=True) if a in column_of_term]
        further = {b for a in above for b in ontology.ancestors(a)}
        nearest = [column_of_term[a] for a in above if a not in further]
        if not nearest:
            nearest = [column_of_term[d] for d in ontology.descendants(now) if d in column_of_term]
        rolled[row, nearest] = 1.0 / max(len(nearest), 1)
    return rolled
