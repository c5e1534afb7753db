"""Which terms a cell is told apart from: those in the batch and their near relatives, never what is true of the cell as well."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sclm.knowledge import Ontology


def related(ontology: Ontology, rows: Sequence[str], columns: Sequence[str]) -> np.ndarray:
    """Whether one of two terms stands above the other, (len(rows), len(columns)) bool; a term is related to itself."""
    up_rows, up_columns = ontology.ancestor_matrix(rows), ontology.ancestor_matrix(columns)
    row_at = np.array([ontology.index(t) for t in rows], dtype=np.int64)
    column_at = np.array([ontology.index(t) for t in columns], dtype=np.int64)
    above = up_rows[:, column_at].toarray().astype(bool)  # the column stands above the row
    below = up_columns[:, row_at].toarray().astype(bool).T
    return above | below


def allowed(ontology: Ontology, truths: Sequence[str], candidates: Sequence[str]) -> np.ndarray:
    """Candidates that count in the contrast of each truth: itself and all that is unrelated to it.

    Parameters
    ----------
    ontology
        Whose terms they are.
    truths, candidates
        Ids; every truth is among the candidates.

    Returns
    -------
    (len(truths), len(candidates)) bool.
    """
    same = np.asarray(truths, dtype=object)[:, None] == np.asarray(candidates, dtype=object)[None, :]
    return same | ~related(ontology, truths, candidates)


def relatives(ontology: Ontology, term: str, among: frozenset[str] | None = None) -> list[str]:
    """Siblings of a term (other children of its parents), then cousins (children of its parents' siblings), sorted.

    Parameters
    ----------
    ontology
        Whose term it is.
    term
        Its id.
    among
        Keep only these, by default all.

    Returns
    -------
    Ids without the term, its ancestors and its descendants.
    """
    out = ontology.ancestors(term, include_self=True) | ontology.descendants(term)
    parents = ontology.parents(term)
    siblings = {c for p in parents for c in ontology.children(p)} - out
    uncles = {c for p in parents for g in ontology.parents(p) for c in ontology.children(g)} - out
    cousins = {c for u in uncles for c in ontology.children(u)} - out - siblings
    found = sorted(siblings) + sorted(cousins)
    return found if among is None else [t for t in found if t in among]


def sample_candidates(
    ontology: Ontology,
    truths: Sequence[str],
    generator: np.random.Generator,
    *,
    per_term: int = 16,
    among: frozenset[str] | None = None,
) -> list[str]:
    """Candidates of a batch: its own terms, and up to ``per_term`` siblings or cousins of each.

    Parameters
    ----------
    ontology
        Whose terms they are.
    truths
        Terms of the batch, each named at least once.
    generator
        Draws among the relatives.
    per_term
        Most relatives of one term.
    among
        Terms that may be candidates, by default all.

    Returns
    -------
    Ids: the distinct truths first, sorted, then relatives, sorted.
    """
    own = sorted(set(truths))
    extra: set[str] = set()
    for term in own:
        near = relatives(ontology, term, among)
        chosen = generator.permutation(len(near))[:per_term]
        extra |= {near[i] for i in chosen}
    return own + sorted(extra - set(own))
