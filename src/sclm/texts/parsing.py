"""Descriptions back into terms: the name that matches longest, and the ontology's id for it."""

from __future__ import annotations

import difflib
import re
from typing import TYPE_CHECKING

from sclm.texts.template import FIRST, HEAD, ORIGIN, SECOND, UNNAMED, CellFacts, pathway_text
from sclm.texts.wording import AGES, disease_phrase, tissue_phrase

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pandas as pd

    from sclm.knowledge import Ontology

UNKNOWN = "unknown"
_ALIKE = 0.97  # of two descriptions of a gene set that mean the same: the threshold of the original's last script
_HEAD = re.compile(r"consists of an? ", re.IGNORECASE)
_ORIGIN = re.compile(r"originates from ", re.IGNORECASE)
_DONOR = re.compile(r"(?:^|(?<= of ))an? (normal )?(female|male|individual)\b(?: with (.+))?$")
_FIELDS = ("cell_type", "tissue", "disease")


def parse_template(
    text: str,
    *,
    cell_types: Sequence[str] = (),
    tissues: Sequence[str] = (),
    diseases: Sequence[str] = (),
    pathways: Sequence[str] = (),
    pathway_texts: Mapping[str, str] | None = None,
) -> CellFacts:
    """Read a description that follows the template; the inverse of :func:`~sclm.texts.describe_template`.

    Names are found by the longest-candidate rule: of all candidates that stand literally at the place of the name, the longest, so that
    "CD4-positive, alpha-beta T cell" survives its comma. Without candidates a name ends at the next comma or full stop.

    Parameters
    ----------
    text
        Written by a template or a model.
    cell_types, tissues, diseases
        Names that may stand there. Where some are given and none stands there, the field is ``"unknown"``.
    pathways
        Gene sets that may be named.
    pathway_texts
        Their descriptions, as in :func:`~sclm.texts.describe_template`. A description counts where it equals the text, or is at least
        0.97 alike by :class:`difflib.SequenceMatcher`.

    Returns
    -------
    What the text says; empty where it says nothing.

    Examples
    --------
    >>> parse_template(
    ...     "This sample consists of a CD4-positive, alpha-beta T cell. It originates from a normal male.",
    ...     cell_types=["CD4-positive, alpha-beta T cell", "T cell"],
    ... ).cell_type
    'CD4-positive, alpha-beta T cell'
    """
    body, rest = _split_pathways(text)
    head, origin = _split_origin(body)
    cell_type, definition = _cell_type(head, cell_types)
    tissue, sex, disease, age = _origin(origin, tissues, diseases)
    found = [_pathway(part, pathways, pathway_texts or {}) for part in rest]
    return CellFacts(cell_type, definition, tissue, sex, disease, age, tuple(name for name in found if name))


def _split_pathways(text: str) -> tuple[str, list[str]]:
    """What stands before the pathways, and their descriptions."""
    at = text.find(FIRST)
    if at < 0:
        return text, []
    first, _, second = text[at + len(FIRST) :].partition(SECOND)
    return text[:at], [part.strip() for part in (first, second) if part.strip()]


def _split_origin(body: str) -> tuple[str, str]:
    """The first sentence, and what the second says behind "It originates from"."""
    at = body.rfind(f".{ORIGIN}")
    if at >= 0:
        return body[:at], body[at + 1 + len(ORIGIN) :].strip().removesuffix(".")
    found = _ORIGIN.search(body)  # freely written
    if found is None:
        return body, ""
    return body[: found.start()], body[found.end() :].strip().removesuffix(".")


def _longest(text: str, candidates: Sequence[str], ends: str) -> str:
    """The longest candidate at the beginning of a text, followed by one of the ends or by nothing."""
    fits = [c for c in candidates if c and text.startswith(c) and (len(text) == len(c) or text[len(c)] in ends)]
    return max(fits, key=len, default="")


def _cell_type(head: str, candidates: Sequence[str]) -> tuple[str, str]:
    if HEAD + UNNAMED in head:
        return "", ""
    found = _HEAD.search(head)
    if found is None:
        return (UNKNOWN if candidates else ""), ""
    text = head[found.end() :].strip()
    name = _longest(text, candidates, ",.")
    if not name and not candidates:
        name = re.split(r"[,.]", text, maxsplit=1)[0].strip()
    if not name:
        return UNKNOWN, ""
    definition = text[len(name) :].removeprefix(",").strip()
    return name, definition.removesuffix(".")


def _origin(text: str, tissues: Sequence[str], diseases: Sequence[str]) -> tuple[str, str, str, str]:
    """Tissue, sex, disease and age."""
    if not text:
        return "", "", "", ""
    age = next((phrase for phrase in AGES[::-1] if text.endswith(f" during {phrase}")), "")
    text = text.removesuffix(f" during {age}") if age else text
    donor = None
    for found in re.finditer(r"(?:^| of )(?=an? (?:normal )?(?:female|male|individual)\b)", text):
        donor = found  # the last: tissues hold "of" too
    place = text[: donor.start()] if donor else text
    tissue = ""
    if place.startswith("the "):
        tissue = place.removeprefix("the ").strip()
        if tissues:
            tissue = _longest(tissue, [tissue_phrase(t) for t in tissues], " ,.") or UNKNOWN
    if donor is None:
        return tissue, "", "", age
    match = _DONOR.search(text)
    if match is None:
        return tissue, "", "", age
    sex = "" if match.group(2) == "individual" else match.group(2)
    if match.group(1):
        return tissue, sex, "normal", age
    disease = match.group(3) or ""
    if disease and diseases:
        disease = _longest(disease, [disease_phrase(d) for d in diseases], " ,.") or UNKNOWN
    return tissue, sex, disease, age


def _pathway(text: str, names: Sequence[str], texts: Mapping[str, str]) -> str:
    known = {name: texts.get(name, pathway_text(name)).strip() for name in names}
    exact = next((name for name, words in known.items() if words == text), "")
    if exact or not known:
        return exact or text.removesuffix(".")
    ratios = {name: difflib.SequenceMatcher(None, words, text, autojunk=False).ratio() for name, words in known.items()}
    best = max(ratios, key=ratios.__getitem__)
    return best if ratios[best] >= _ALIKE else ""


def parse_many(
    texts: Sequence[str],
    *,
    cell_types: Sequence[str] = (),
    tissues: Sequence[str] = (),
    diseases: Sequence[str] = (),
    pathways: Sequence[str] = (),
    pathway_texts: Mapping[str, str] | None = None,
    ontologies: Mapping[str, Ontology] | None = None,
    min_score: float = 0.85,
) -> pd.DataFrame:
    """Read many descriptions, and bring their names to ontology ids.

    Parameters
    ----------
    texts
        n descriptions.
    cell_types, tissues, diseases, pathways, pathway_texts
        As in :func:`parse_template`.
    ontologies
        ``"cell_type"``, ``"tissue"``, ``"disease"`` → the ontology of its names. A name is looked up exactly, as a synonym, without regard to
        spelling, and at last by likeness: :meth:`~sclm.knowledge.Ontology.resolve`.
    min_score
        Least likeness of the last kind, 0 to 1.

    Returns
    -------
    One row a text: ``cell_type``, ``definition``, ``tissue``, ``sex``, ``disease``, ``age``, ``pathways`` (tuple of names), and for each
    ontology ``<field>_ontology_term_id`` (``"unknown"`` where nothing was found) and ``<field>_match`` (``"exact"``, ``"fuzzy"``, ``"none"`` …).

    Raises
    ------
    ValueError
        If an ontology is given for another field.

    Examples
    --------
    >>> parse_many(["This sample consists of a B cell."])["cell_type"].tolist()
    ['B cell']
    """
    import pandas as pd

    if wrong := sorted(set(ontologies or {}) - set(_FIELDS)):
        raise ValueError(f"ontologies must be of {', '.join(map(repr, _FIELDS))}, found {wrong[0]!r}.")
    options = {"cell_types": cell_types, "tissues": tissues, "diseases": diseases, "pathways": pathways}
    seen: dict[str, CellFacts] = {}
    rows = []
    for text in texts:
        if text not in seen:
            seen[text] = parse_template(text, pathway_texts=pathway_texts, **options)
        rows.append(seen[text])
    table = pd.DataFrame(rows, columns=list(CellFacts._fields))
    for field, ontology in (ontologies or {}).items():
        found = ontology.resolve_many(table[field], min_score=min_score)
        table[f"{field}_ontology_term_id"] = found["term_id"].fillna(UNKNOWN).astype(object)
        table[f"{field}_match"] = found["kind"]
    return table
