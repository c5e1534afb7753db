"""What is worth saying of a cell or group: its type, markers, genes that set it apart, pathways.

n cells or groups · T types · S sets
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np

from sclm.evidence import back_off

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scipy import sparse

    from sclm.evidence.claims_identity import TermEvidence
    from sclm.evidence.claims_views import View

_CONFIDENCE = {"group": 0.5, "cell": 0.7}  # summed probability of the most special type that is named
_VAGUE = 700  # a type with more types below it says nothing: "eukaryotic cell"
_NAMED = 0.5  # share of a set's raised genes that were named with another set
# Genes whose level tells of the cell's state or its quality, in all types alike.
_HOUSEKEEPING = re.compile(
    r"^(RP[LS]\d|RPLP|RPSA|MT-|MTRNR|MALAT1$|NEAT1$|XIST$|EEF1A1$|FAU$|TPT1$|HSP|LINC|AC\d|AL\d|RP\d+-|CT[ABCD]-)"
)


def choose_identities(view: View, evidence: TermEvidence) -> list[str]:
    """Ontology ids of the types that the markers speak for, ``""`` where they speak for none in particular.

    The most special type whose probability, summed over the types below it, is a half or more, for single cells 0.7; see
    :meth:`~sclm.evidence.claims_identity.TermEvidence.probabilities`.
    """
    ontology = evidence.ontology
    names = [ontology.name_of(term) for term in evidence.terms]
    found = back_off(evidence.probabilities(view.scores, 1.0), names, evidence.terms, ontology, _CONFIDENCE[view.level])
    out = []
    silent = np.abs(view.scores).max(axis=1) < 1e-6  # no counts: nothing speaks for or against any type
    for term, nothing in zip(found.term_id, silent, strict=True):
        known = not nothing and term in ontology and len(ontology.descendants(term)) < _VAGUE
        out.append(str(term) if known else "")
    return out


def telling_genes(genes: Sequence[str]) -> np.ndarray:
    """(G,) bool: genes that may be named as those that set cells apart."""
    return np.array([_HOUSEKEEPING.match(str(g)) is None for g in genes], dtype=bool)


def choose_pathways(view: View, row: int, members: sparse.csc_matrix, q: float, n: int) -> list[int]:
    """Columns of the active sets of a row, most active first, without those whose raised genes were named with another.

    Parameters
    ----------
    view
        With the activity.
    row
        Of the view.
    members
        (G, S) CSC genes of the sets.
    q
        False discovery rate up to which a set is active.
    n
        Sets at most.
    """
    active = np.flatnonzero(view.activity.q[row] <= q)
    active = active[np.lexsort((active, -view.activity.z[row, active], view.activity.p[row, active]))]
    if len(active) < 2:
        return active[:n].tolist()
    raised = np.maximum(view.weights.row(row), 0.0)
    chosen: list[int] = []
    for column in active[: 5 * n]:
        genes = members.indices[members.indptr[column] : members.indptr[column + 1]]
        before = raised[genes].sum()
        named = np.isin(
            genes, np.concatenate([members.indices[members.indptr[c] : members.indptr[c + 1]] for c in chosen] or [[]])
        )
        if before > 0 and raised[genes[named]].sum() <= _NAMED * before:
            chosen.append(int(column))
        if len(chosen) == n:
            break
    return chosen
