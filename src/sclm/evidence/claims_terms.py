"""The terms that checked statements leave standing, one row a cell or group."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from sclm.evidence.backoff import UNKNOWN
from sclm.evidence.claims import VERDICTS

if TYPE_CHECKING:
    from sclm.knowledge import Ontology

#: Of a field of which nothing was stated.
NOT_STATED = "not stated"
TERM_COLUMNS = (
    "cell_type", "cell_type_ontology_term_id", "cell_type_verdict", "tissue", "tissue_verdict", "disease", "disease_verdict", "pathways",
)  # fmt: skip
_STANDING = ("kept", "softened")
_FIELDS = {"cell_type": "identity", "tissue": "tissue", "disease": "disease"}
_BETWEEN = "; "
_CAREFUL = " (softened)"


def standing_terms(claims: pd.DataFrame, n_rows: int, ontology: Ontology) -> pd.DataFrame:
    """What checked statements leave standing, as columns: cell type, tissue, disease, pathways.

    Parameters
    ----------
    claims
        As a :class:`~sclm.evidence.Checker` gives them.
    n_rows
        Cells or groups of the block.
    ontology
        Whose names cell types get.

    Returns
    -------
    One row a cell or group, all text:

    ``cell_type``, ``cell_type_ontology_term_id``, ``tissue``, ``disease``
        What was kept or softened, ``"unknown"`` where nothing was. Cell types in the words of the ontology where they are a term of it; several
        tissues or diseases of a group are joined with ``"; "`` in the order in which they were stated.
    ``cell_type_verdict``, ``tissue_verdict``, ``disease_verdict``
        ``"kept"``, ``"softened"`` (where several stand: if any of them is), ``"removed"``, ``"not verifiable"`` (where nothing stands), or
        ``"not stated"``.
    ``pathways``
        Names of the sets that were kept, then of those that were softened with ``" (softened)"`` behind, joined with ``"; "``; empty where
        none was.
    """
    table = pd.DataFrame(index=pd.RangeIndex(n_rows))
    for field, kind in _FIELDS.items():
        of = claims[(claims["kind"] == kind).to_numpy()]
        names: list[list[str]] = [[] for _ in range(n_rows)]
        verdicts: list[set[str]] = [set() for _ in range(n_rows)]
        ids = np.full(n_rows, UNKNOWN, dtype=object)
        for row, claim, term, verdict in zip(of["row"], of["claim"], of["id"], of["verdict"], strict=True):
            verdicts[row].add(verdict)
            if verdict in _STANDING:
                known = kind == "identity" and term in ontology
                names[row].append(ontology.name_of(term) if known else str(claim))
                ids[row] = term if known else UNKNOWN
        table[field] = [_BETWEEN.join(dict.fromkeys(found)) or UNKNOWN for found in names]
        if kind == "identity":
            table[f"{field}_ontology_term_id"] = ids
        table[f"{field}_verdict"] = [_verdict(found) for found in verdicts]
    table["pathways"] = _pathways(claims, n_rows)
    return table.astype(object)


def verdict_column(verdicts: object) -> pd.Categorical:
    """Verdicts as a categorical, those that occur, in the order from kept to not stated."""
    values = np.asarray(verdicts, dtype=object)
    return pd.Categorical(values, categories=[v for v in (*VERDICTS, NOT_STATED) if (values == v).any()])


def _verdict(found: set[str]) -> str:
    """One verdict of all statements about a field: that of what stands, else why nothing does."""
    for verdict in ("softened", "kept", "not verifiable", "removed"):
        if verdict in found:
            return verdict
    return NOT_STATED


def _pathways(claims: pd.DataFrame, n_rows: int) -> list[str]:
    found: list[list[str]] = [[] for _ in range(n_rows)]
    of = claims[(claims["kind"] == "pathway").to_numpy()]
    for wanted, mark in (("kept", ""), ("softened", _CAREFUL)):
        for row, claim, verdict in zip(of["row"], of["claim"], of["verdict"], strict=True):
            if verdict == wanted:
                found[row].append(f"{claim}{mark}")
    return [_BETWEEN.join(dict.fromkeys(names)) for names in found]
