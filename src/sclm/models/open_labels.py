"""Which names a model may give in an open vocabulary, and the answer made from their scores."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd

from sclm.evidence import softmax
from sclm.evidence.backoff import UNKNOWN
from sclm.models.contract import Annotation

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sclm.knowledge import Ontology

_CELL = "CL:0000000"


class LabelSet(NamedTuple):
    """Names that may be given, and what they stand for.

    Attributes
    ----------
    labels
        Name of each label: the ontology's, or the user's own where it is no term.
    term_ids
        Ontology id of each label, ``"unknown"`` where it is no term.
    texts
        What may be written: the labels, and their synonyms where asked for.
    label_of
        (n_texts,) int64 label of each text.
    """

    labels: tuple[str, ...]
    term_ids: tuple[str, ...]
    texts: tuple[str, ...]
    label_of: np.ndarray

    @property
    def categories(self) -> pd.DataFrame:
        """One row a label: ``label``, ``ontology_term_id``."""
        return pd.DataFrame(
            {"label": np.array(self.labels, dtype=object), "ontology_term_id": np.array(self.term_ids, dtype=object)}
        )

    def codes(self, values: pd.Series, ontology: Ontology) -> np.ndarray:
        """(n,) int64 label of each of some names, ids or synonyms; -1 for those that are not among the labels."""
        place = {pair: i for i, pair in enumerate(zip(self.labels, self.term_ids, strict=True))}
        texts = values.astype(str)
        code = {text: place.get(_resolved(text, ontology), -1) for text in texts.unique()}
        return texts.map(code).to_numpy(dtype=np.int64)

    def scores(self, log_probs: np.ndarray) -> np.ndarray:
        """(n, n_labels) float64 log-probabilities of labels from those of texts (n, n_texts): their probabilities are added up."""
        found = np.full((len(log_probs), len(self.labels)), -np.inf)
        for text, label in enumerate(self.label_of):
            found[:, label] = np.logaddexp(found[:, label], log_probs[:, text])
        return found


def label_set(
    ontology: Ontology,
    candidates: Sequence[str] | None = None,
    under: str | Sequence[str] | None = None,
    *,
    synonyms: bool = False,
) -> LabelSet:
    """The labels of an open vocabulary.

    Parameters
    ----------
    ontology
        The Cell Ontology.
    candidates
        Names, ids or synonyms of the terms that may be given. What is no term stays as it is written. None: every active term
        below "cell".
    under
        One or several terms: only they and what lies below them.
    synonyms
        Let exact synonyms be written too; their probability is that of their term.

    Returns
    -------
    Labels in the order of the candidates, or sorted by id.

    Raises
    ------
    ValueError
        If ``under`` is no term, or nothing is left.

    Examples
    --------
    >>> from sclm.knowledge import Ontology
    >>> label_set(Ontology.load("cl"), ["T cells", "B cell", "my own type"], under="lymphocyte").labels
    ('T cell', 'B cell')
    """
    if isinstance(candidates, str):
        raise TypeError(f"candidates must be a list of names, found the text {candidates!r}. Write [{candidates!r}].")
    if candidates is None:
        terms = sorted(ontology.descendants(_CELL) if _CELL in ontology else ontology.ids)
        pairs = [(ontology.name_of(term), term) for term in terms]
    else:
        pairs = list(dict.fromkeys(_resolved(str(text), ontology) for text in candidates))
    if under is not None:
        allowed: set[str] = set()
        for text in [under] if isinstance(under, str) else under:
            match = ontology.resolve(str(text), min_score=1.0)
            if match.term_id is None:
                raise ValueError(f"under must name terms of the Cell Ontology, found {text!r}, which is none.")
            allowed |= ontology.descendants(match.term_id, include_self=True)
        pairs = [pair for pair in pairs if pair[1] in allowed]
    if not pairs:
        raise ValueError(
            f"expected at least one candidate, found none of {'all terms' if candidates is None else list(candidates)[:5]} "
            f"under {under!r}."
        )
    texts, label_of = [], []
    for i, (label, term) in enumerate(pairs):
        written = [label, *(ontology.synonyms(term) if synonyms and term != UNKNOWN else ())]
        for text in dict.fromkeys(written):
            texts.append(text)
            label_of.append(i)
    labels, ids = zip(*pairs, strict=True)
    return LabelSet(labels, ids, tuple(texts), np.array(label_of, dtype=np.int64))


def _resolved(text: str, ontology: Ontology) -> tuple[str, str]:
    """Name and id of the term that a text means, or the text itself and "unknown"."""
    match = ontology.resolve(text, min_score=1.0)  # a fuzzy match is a suggestion, not an answer
    return (text, UNKNOWN) if match.term_id is None else (str(match.name), match.term_id)


def answer(
    labels: LabelSet,
    scores: np.ndarray,
    filled: np.ndarray,
    index: pd.Index,
    *,
    temperature: float = 1.0,
    novelty: np.ndarray | None = None,
) -> Annotation:
    """An annotation from the scores of labels.

    Parameters
    ----------
    labels
        What was scored.
    scores
        (n_filled, n_labels) log-probabilities of the cells with counts; minus infinity where a label was not scored.
    filled
        (n,) bool: the cells with counts. The others are ``"unknown"`` with confidence 0.
    index
        (n,) names of the cells.
    temperature
        Divisor of the scores: see :func:`sclm.evidence.fit_temperature`.
    novelty
        (n_filled,) 0–1; None: not known, NaN.

    Returns
    -------
    Labels, ids, confidences and probabilities.
    """
    n_labels = len(labels.labels)
    probabilities = np.full((len(filled), n_labels), 1.0 / n_labels, dtype=np.float32)
    if filled.any():
        probabilities[filled] = softmax(scores, temperature)
    best = probabilities.argmax(axis=1)
    new = np.full(len(filled), np.nan)
    if novelty is not None:
        new[~filled] = 1.0
        new[filled] = novelty
    confidence = probabilities[np.arange(len(best)), best].astype(np.float64)
    table = pd.DataFrame(
        {
            "label": np.where(filled, np.array(labels.labels, dtype=object)[best], UNKNOWN),
            "ontology_term_id": np.where(filled, np.array(labels.term_ids, dtype=object)[best], UNKNOWN),
            "confidence": np.where(filled, confidence, 0.0),
            "novelty": new,
        },
        index=index,
    )
    return Annotation(table, probabilities, labels.categories)
