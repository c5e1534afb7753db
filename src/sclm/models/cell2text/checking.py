"""What a description states, and how it is said once the statements were checked."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from sclm.evidence import Statement
from sclm.evidence.claims_metadata import plain
from sclm.texts import CellFacts, disease_phrase, pathway_text, tissue_phrase
from sclm.texts.template import FIRST, HEAD, ORIGIN, SECOND, UNNAMED, origin_text, with_article

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_CAREFUL = "This sample is consistent with "
_CAREFUL_ORIGIN = " It is consistent with an origin from "
_CAREFUL_SET = " It is consistent with activity of "
_OPEN = " Not verifiable from these cells: "


def statements_of(facts: Sequence[CellFacts], term_ids: Mapping[str, str]) -> list[Statement]:
    """The statements of descriptions that can be looked up: identity, tissue, disease, pathways.

    Parameters
    ----------
    facts
        One a cell; what is empty or unknown is not stated.
    term_ids
        Name of a cell type → its term, where it has one.

    Returns
    -------
    The statements, cell by cell.
    """
    found = []
    for row, of in enumerate(facts):
        said = [("identity", of.cell_type), ("tissue", of.tissue), ("disease", of.disease)]
        said += [("pathway", name) for name in of.pathways]
        for kind, value in said:
            if value and value != "unknown":
                term = term_ids.get(value, "") if kind == "identity" else value if kind == "pathway" else ""
                found.append(Statement(row, kind, value, "" if term == "unknown" else term))
    return found


def as_stated(obs: pd.DataFrame, facts: Sequence[CellFacts]) -> pd.DataFrame:
    """Metadata in the words of the descriptions, which shorten them: "upper lobe of lung, left" is the "upper lobe of lung" that is stated.

    Parameters
    ----------
    obs
        Of the cells.
    facts
        One a cell.

    Returns
    -------
    A copy in which a tissue or disease that was stated is written as it was stated.
    """
    out = obs.copy()
    for field, phrase in (("tissue", tissue_phrase), ("disease", disease_phrase)):
        if field in out:
            said = [getattr(of, field) for of in facts]
            known = out[field].astype(object)
            same = [bool(s) and plain(phrase(k)) == plain(s) for s, k in zip(said, known, strict=True)]
            worded = [s if alike else k for s, k, alike in zip(said, known, same, strict=True)]
            out[field] = pd.Series(worded, index=out.index, dtype=object)
    return out


def checked_texts(facts: Sequence[CellFacts], claims: pd.DataFrame, pathway_texts: Mapping[str, str]) -> list[str]:
    """Descriptions as they are shown: without what was removed, with care where little speaks for it.

    Sex and age cannot be looked up in expression that no reference explains; they stand with all else that is not verifiable.

    Parameters
    ----------
    facts
        What was first said of each cell.
    claims
        The checked statements of :func:`statements_of`, in their order.
    pathway_texts
        Name of a gene set → its description.

    Returns
    -------
    One text a cell.
    """
    verdicts: list[dict[tuple[str, str], str]] = [{} for _ in facts]
    for row, kind, value, verdict in zip(
        claims["row"], claims["kind"], claims["claim"], claims["verdict"], strict=True
    ):
        verdicts[row][kind, value] = verdict
    return [_worded(of, found, pathway_texts) for of, found in zip(facts, verdicts, strict=True)]


def _worded(of: CellFacts, verdicts: Mapping[tuple[str, str], str], texts: Mapping[str, str]) -> str:
    identity = verdicts.get(("identity", of.cell_type), "removed")
    open_: list[str] = []
    if of.cell_type and identity == "not verifiable":
        open_.append(f"cell type ({of.cell_type})")
    if of.cell_type and identity in ("kept", "softened"):
        head = HEAD if identity == "kept" else _CAREFUL
        parts = [f"{head}{with_article(of.cell_type)}{f', {of.definition}' if of.definition else ''}."]
    else:
        parts = [f"{HEAD}{UNNAMED}."]
    for said in ("kept", "softened"):
        fields = {f: v for f in ("tissue", "disease") if (v := getattr(of, f)) and verdicts.get((f, v)) == said}
        if origin := origin_text(CellFacts(**fields)):
            parts.append(f"{ORIGIN if said == 'kept' else _CAREFUL_ORIGIN}{origin}.")
    for field in ("tissue", "sex", "disease", "age"):
        value = getattr(of, field)
        if value and value != "unknown" and verdicts.get((field, value), "not verifiable") == "not verifiable":
            open_.append(f"{field} ({value})")
    kept = 0
    for name in of.pathways:
        verdict = verdicts.get(("pathway", name), "removed")
        if verdict == "kept":
            parts.append((FIRST, SECOND)[min(kept, 1)] + texts.get(name, pathway_text(name)))
            kept += 1
        elif verdict == "softened":
            parts.append(_CAREFUL_SET + texts.get(name, pathway_text(name)))
        elif verdict == "not verifiable":
            open_.append(f"pathway ({name})")
    if open_:
        parts.append(f"{_OPEN}{', '.join(open_)}.")
    return "".join(parts)
