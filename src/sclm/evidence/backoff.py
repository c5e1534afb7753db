"""Ontology back-off: a true "T cell" instead of a wrong subtype."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sclm.knowledge import Ontology

UNKNOWN = "unknown"


class BackOff(NamedTuple):
    """Labels after back-off, one a cell (or one a group of cells)."""

    label: np.ndarray  # (n,) object: term name, label of the reference, or "unknown"
    term_id: np.ndarray  # (n,) object: ontology term id, or "unknown"
    confidence: np.ndarray  # (n,) float64: summed probability of the term and all that lies below it


def back_off(
    probabilities: np.ndarray,
    labels: Sequence[str],
    term_ids: Sequence[str],
    ontology: Ontology,
    min_confidence: float,
) -> BackOff:
    r"""Most specific ontology term whose summed probability reaches a threshold.

    For every term :math:`v`, :math:`P(v) = \sum_{u \in \mathrm{desc}(v)} p(u)` over the label set (a term counts among its
    own descendants). The answer is the term with :math:`P(v) \ge t` that has the highest information content (Sánchez'
    intrinsic measure); ties go to the more probable term. Roots are never an answer: where not even a child of the root
    reaches the threshold, the cell is ``"unknown"`` with the highest probability that any of them reached.

    Parameters
    ----------
    probabilities
        (n, n_types), rows sum to 1.
    labels, term_ids
        n_types names and ontology ids. A label without a term (id ``"unknown"``) has no ancestors: it can only answer
        itself.
    ontology
        Where the ids come from.
    min_confidence
        Threshold in (0, 1].

    Returns
    -------
    Labels, ids and summed probabilities.

    Raises
    ------
    ValueError
        If the threshold lies outside (0, 1].
    """
    if not 0 < min_confidence <= 1:
        raise ValueError(
            f"min_confidence must lie in (0, 1], found {min_confidence}. Use e.g. 0.8, or None for no back-off."
        )
    known = np.array([t in ontology for t in term_ids], dtype=bool)
    # (n_known, n_terms), each term among its own ancestors
    below = ontology.ancestor_matrix([t for t, k in zip(term_ids, known, strict=True) if k]).tocsc()
    candidates = np.flatnonzero(np.diff(below.indptr) > 0)
    roots = {ontology.index(r) for r in ontology.roots}
    candidates = np.array([c for c in candidates if c not in roots], dtype=np.int64)

    summed = probabilities[:, known] @ below[:, candidates].toarray().astype(np.float64)  # (n, n_candidates)
    content = ontology.information_content()[candidates]
    # Labels that are no ontology term stand beside the terms with a higher content than any of them: they are as specific
    # as the reference gets.
    summed = np.hstack([summed, probabilities[:, ~known]])
    content = np.concatenate([content, np.full((~known).sum(), content.max(initial=0.0) + 1.0)])
    names = np.array(
        [ontology.names[c] for c in candidates] + list(np.asarray(labels, dtype=object)[~known]), dtype=object
    )
    ids = np.array([ontology.ids[c] for c in candidates] + [UNKNOWN] * int((~known).sum()), dtype=object)

    # 1e-6: sums of float probabilities that should be 1 must pass a threshold of 1. The small last term breaks ties.
    reached = summed >= min_confidence - 1e-6
    rank = np.where(reached, content[None, :] + 1e-3 * summed, -np.inf)
    best = rank.argmax(axis=1)
    rows = np.arange(len(summed))
    found = reached[rows, best]
    return BackOff(
        label=np.where(found, names[best], UNKNOWN),
        term_id=np.where(found, ids[best], UNKNOWN),
        confidence=np.clip(np.where(found, summed[rows, best], summed.max(axis=1, initial=0.0)), 0.0, 1.0),
    )
