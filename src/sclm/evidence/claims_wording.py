"""The evidence template: checked statements as English sentences, and back."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from sclm.evidence.claims import Statement
from sclm.evidence.claims_metadata import is_healthy

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class Said(NamedTuple):
    """What a description may say of one cell or group.

    Attributes
    ----------
    identity
        Name of the cell type, ``""`` where none is supported.
    verdict
        Of the identity: ``"kept"``, ``"softened"``, ``"removed"`` or ``"not verifiable"``.
    instead
        Where a label was removed: the type that the markers support instead, ``""`` for none.
    markers
        Known markers of the type that are raised, best first, as many as are to be named.
    n_raised, n_markers
        How many are raised at all, and how many known markers of the type the data hold; 0 of 0 where the markers are those of the
        types below it.
    genes
        Further genes that set the cell or group apart.
    pathways
        Phrases of the active pathways with their q values.
    metadata
        Field (``"tissue"``, ``"disease"``) → values with their shares of all cells.
    """

    identity: str = ""
    verdict: str = "removed"
    instead: str = ""
    markers: Sequence[str] = ()
    n_raised: int = 0
    n_markers: int = 0
    genes: Sequence[str] = ()
    pathways: Sequence[tuple[str, float]] = ()
    metadata: Mapping[str, Mapping[str, float]] = {}


def describe_group(said: Said, name: str, n_cells: int, share: float) -> str:
    """A group in a few sentences, as for the legend of a figure.

    Parameters
    ----------
    said
        What may be said.
    name
        Of the group.
    n_cells, share
        Its cells, and their share of all (0-1).

    Returns
    -------
    Text that :func:`read_statements` reads back.

    Examples
    --------
    >>> said = Said("B cell", "kept", markers=["MS4A1", "CD79A"], n_raised=2, n_markers=9, pathways=[("B cell receptor signaling", 0.0031)])
    >>> print(describe_group(said, "2", 344, 0.13))
    Group "2" (344 cells, 13 % of all) consists of B cells. Of 9 known markers of this type, 2 stand out: MS4A1 and CD79A. Compared \
with the other cells, B cell receptor signaling is more active (q = 0.003).
    """
    who = f'Group "{name}" ({n_cells:,} {"cell" if n_cells == 1 else "cells"}, {_percent(share)} of all)'
    many = plural(said.identity)
    if said.verdict == "kept":
        first = f"{who} consists of {many}."
    elif said.verdict == "softened":
        first = f"{who} is consistent with {many}."
    elif said.verdict == "not verifiable" and said.identity:
        first = f"{who} is labelled {said.identity}, which is not verifiable from these cells."
    elif said.identity:
        other = f"; its markers are consistent with {plural(said.instead)}" if said.instead else ""
        first = f"{who} is labelled {said.identity}, which its markers do not support{other}."
    else:
        first = f"{who} shows the markers of no single cell type."
    sentences = [first]
    if said.markers and said.verdict in ("kept", "softened"):
        sentences.append(f"{_counted(said, 'stands out', 'stand out')}{_named(said)}.")
    if said.genes:
        opening = "Further genes that set it apart" if len(sentences) > 1 else "Genes that set it apart"
        sentences.append(
            f"{opening} are {join(said.genes)}." if len(said.genes) > 1 else f"It is set apart by {said.genes[0]}."
        )
    if said.pathways:
        sentences.append(f"Compared with the other cells, {_pathways(said.pathways)}.")
    place = _metadata(said.metadata)
    if place:
        come = "cell comes" if n_cells == 1 else "cells come"
        sentences.append(f"According to the metadata, the {come} {place}.")
    return " ".join(sentences)


def describe_cell(said: Said) -> str:
    """A cell in a few sentences; :func:`read_statements` reads them back.

    Parameters
    ----------
    said
        What may be said.

    Returns
    -------
    The text.

    Examples
    --------
    >>> print(
    ...     describe_cell(
    ...         Said(
    ...             "platelet",
    ...             "softened",
    ...             markers=["PPBP"],
    ...             n_raised=1,
    ...             n_markers=8,
    ...             metadata={"tissue": {"blood": 1.0}},
    ...         )
    ...     )
    ... )
    This cell is consistent with a platelet. Of 8 known markers of this type, 1 is on: PPBP. According to the metadata, it comes from blood.
    """
    if said.verdict == "kept":
        first = f"This cell is {article(said.identity)}."
    elif said.verdict == "softened":
        first = f"This cell is consistent with {article(said.identity)}."
    elif said.verdict == "not verifiable" and said.identity:
        first = f"This cell is labelled {said.identity}, which is not verifiable from its counts."
    elif said.identity:
        other = f"; they are consistent with {article(said.instead)}" if said.instead else ""
        first = f"This cell is labelled {said.identity}, which its counts do not support{other}."
    else:
        first = "This cell shows the markers of no single cell type."
    sentences = [first]
    if said.markers and said.verdict in ("kept", "softened"):
        sentences.append(f"{_counted(said, 'is on', 'are on')}{_named(said)}.")
    if said.genes:
        opening = "Also high" if len(sentences) > 1 else "High in this cell"
        sentences.append(f"{opening} {'are' if len(said.genes) > 1 else 'is'} {join(said.genes)}.")
    if said.pathways:
        sentences.append(f"Compared with the other cells, {_pathways(said.pathways)}.")
    place = _metadata(said.metadata)
    if place:
        sentences.append(f"According to the metadata, it comes {place}.")
    return " ".join(sentences)


def join(words: Sequence[str]) -> str:
    """``"A"``, ``"A and B"``, ``"A, B and C"``."""
    words = list(words)
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


# What may stand behind the noun that is counted: "lymphocyte| of B lineage", "natural killer cell|, human", "T cell| stage I".
_BEHIND = re.compile(
    r" (?:of|in|secreting|expressing)\b| (?:stage|type) \w+(?:,|$)| \d+(?:,|$)| \([^()]*\)$"
    r"|, (?:human|mouse|mammalian|terminally differentiated|[\w+]+-(?:positive|negative|high|low|bright|dim))$"
)


def plural(name: str) -> str:
    """More than one of a cell type: ``"B cell"`` → ``"B cells"``, ``"fibroblast of lung"`` → ``"fibroblasts of lung"``."""
    behind = _BEHIND.search(name, 1)
    noun = name[: behind.start()] if behind else name
    if noun.endswith("s"):
        return name
    many = f"{noun[:-1]}ies" if re.search(r"[^aeiou]y$", noun) else f"{noun}s"
    return many + name[len(noun) :]


def article(name: str) -> str:
    """With its article: ``"an alpha-beta T cell"``, ``"a B cell"``, ``"a eukaryotic cell"``, ``"a urothelial cell"``."""
    an = re.match(r"(?i)[aeio]|u(?!ni|r|ti|te|se)", name) and not re.match(r"(?i)eu|one\b", name)
    return f"{'an' if an else 'a'} {name}"


def _counted(said: Said, one: str, many: str) -> str:
    """How many markers are raised: ``"Of 9 known markers of this type, 7 stand out"``."""
    if not said.n_markers:
        return f"Markers of such types {many}"
    if said.n_markers == said.n_raised == 1:
        return f"The one known marker of this type {one}"
    if said.n_raised == said.n_markers > 1:
        return f"All {said.n_markers} known markers of this type {many}"
    return f"Of {said.n_markers} known markers of this type, {said.n_raised} {one if said.n_raised == 1 else many}"


def _named(said: Said) -> str:
    """The markers, behind a colon where they are all."""
    return f"{', among them' if said.n_raised > len(said.markers) else ':'} {join(said.markers)}"


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %" if share < 0.995 else "100 %"


def _q(q: float) -> str:
    return f"q = {q:.1g}" if q >= 1e-4 else "q < 0.0001"


def _pathways(pathways: Sequence[tuple[str, float]]) -> str:
    listed = [f"{phrase} ({_q(q)})" for phrase, q in pathways]
    if len(listed) == 1:
        return f"{pathways[0][0]} is more active ({_q(pathways[0][1])})"
    return f"{join(listed)} are more active"


def _shares(values: Mapping[str, float]) -> str:
    if len(values) == 1 and sum(values.values()) >= 0.995:
        return next(iter(values))
    top = sorted(values.items(), key=lambda pair: -pair[1])[:3]
    return join([f"{value} ({_percent(share)})" for value, share in top])


def _metadata(metadata: Mapping[str, Mapping[str, float]]) -> str:
    tissue, disease = metadata.get("tissue"), metadata.get("disease") or {}
    parts = [f"from {_shares(tissue)}"] if tissue else []
    well = {value: share for value, share in disease.items() if is_healthy(value)}
    ill = {value: share for value, share in disease.items() if value not in well}
    if not ill and well:
        share = sum(well.values())
        named = f" ({_percent(share)})" if share < 0.995 else f" ({next(iter(well))})" if len(well) == 1 else ""
        parts.append(f"from donors without known disease{named}")
    elif not well and ill:
        parts.append(f"from donors with {_shares(ill)}")
    elif disease:
        top = sorted(ill.items(), key=lambda pair: -pair[1])[:3]
        with_ = f"from donors with {join([f'{value} ({_percent(share)})' for value, share in top])}"
        without = f"from donors without known disease ({_percent(sum(well.values()))})"
        parts += [without, with_] if sum(well.values()) >= sum(ill.values()) else [with_, without]
    return " and ".join(parts)


# And back ---------------------------------------------------------------------------------------------------------------

_IDENTITY = [
    re.compile(r"(?:consists of|is consistent with|are consistent with) (?:an? )?(?P<name>.+?)\.(?= [A-Z]|$)"),
    re.compile(r"^This cell is (?:an? )(?P<name>.+?)\.(?= [A-Z]|$)"),
]
_GENES = [
    re.compile(
        r"arkers? of (?:this type|such types)(?:, \d+)? (?:stands? out|is on|are on)(?::|, among them) (?P<list>.+?)\.(?= [A-Z]|$)"
    ),
    re.compile(r"(?:Further genes|Genes) that set it apart are (?P<list>.+?)\.(?= [A-Z]|$)"),
    re.compile(r"It is set apart by (?P<list>\S+?)\.(?= [A-Z]|$)"),
    re.compile(r"(?:Also high|High in this cell) (?:are|is) (?P<list>.+?)\.(?= [A-Z]|$)"),
]
_PATHWAYS = re.compile(r"Compared with the other cells, (?P<list>.+?) (?:is|are) more active")
_PLACE = re.compile(
    r"According to the metadata, (?:the cells come|the cell comes|it comes) (?P<list>.+?)\.(?= [A-Z]|$)"
)
_Q = re.compile(r" \(q [=<] [0-9.e-]+\)(?:, | and |$)")
_SHARE = re.compile(r" \(\d[\d.e+]* %\)(?:, | and |$)")


def read_statements(text: str, row: int = 0) -> list[Statement]:
    """The statements of a text of this template.

    Parameters
    ----------
    text
        As :func:`describe_group` and :func:`describe_cell` write it; names of types may have commas and plurals.
    row
        Place of the cell or group in its block.

    Returns
    -------
    Statements in the order of the text, to be checked. A label that the text itself does not support is none.

    Examples
    --------
    >>> [tuple(s)[1:3] for s in read_statements("This cell is a B cell. Also high are MS4A1 and CD79A.")]
    [('identity', 'B cell'), ('gene', 'MS4A1'), ('gene', 'CD79A')]
    """
    found: list[tuple[int, str, str]] = []
    for pattern in _IDENTITY:
        found += [(match.start(), "identity", match["name"]) for match in pattern.finditer(text)]
    for pattern in _GENES:
        for match in pattern.finditer(text):
            found += [(match.start(), "gene", gene) for gene in re.split(r", | and ", match["list"])]
    for match in _PATHWAYS.finditer(text):
        listed = match["list"]
        several = _Q.search(listed) is not None
        names = [n for n in _Q.split(listed) if n] if several else [listed]
        found += [(match.start(), "pathway", name) for name in names]
    for match in _PLACE.finditer(text):
        for part in re.split(r" and (?=from )", match["list"]):
            if part.startswith("from donors without known disease"):
                found.append((match.start(), "disease", "normal"))
                continue
            kind = "disease" if part.startswith("from donors with ") else "tissue"
            listed = part.removeprefix("from donors with ").removeprefix("from ")
            found += [(match.start(), kind, value) for value in _SHARE.split(listed) if value]
    found.sort(key=lambda entry: entry[0])  # stable: within a sentence the order stays
    return [Statement(row, kind, value) for _, kind, value in found]
