"""What the text of a term says about genes: "CD14-low and CD16-positive", "lacks CD3", "secretes insulin"."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from sclm.knowledge.proteins import antibody

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

# How much of a gene a word means: 1 there, -1 not there, between them relative to near relatives.
_WORDS = {
    "positive": 1.0, "high": 1.0, "bright": 1.0, "hi": 1.0, "intermediate": 0.3,
    "low": -0.5, "dim": -0.5, "lo": -0.5, "negative": -1.0,
}  # fmt: skip
_MENTIONED = 0.7  # a gene that is only named: most often because the cell expresses it
_TOKEN = re.compile(r"[A-Za-z][\w/-]*\+?")
_STATED = re.compile(rf"(.+?)-?({'|'.join(_WORDS)})(?:-\w+)?")
_DENIED = re.compile(
    r"\b(?:negative for|lacks?|lacking|lineage negative|absence of|not express(?:ing)?|do(?:es)? not|without|loss of|devoid)\b",
    re.I,
)
# Words in capitals that are no genes here.
_NOT_GENES = frozenset(
    [
        "DNA",
        "RNA",
        "ATP",
        "MHC",
        "II",
        "III",
        "IV",
        "IL",
        "TH",
        "NK",
        "ILC",
        "HSC",
        "DC",
        "CNS",
        "PNS",
        "GABA",
        "APC",
        "CAMP",
        "AND",
        "OR",
        "NOT",
        "MALE",
        "LARGE",
        "SET",
        "CAT",
        "GC",
        "GO",
        "ON",
        "LT",
        "ST",
        "MAIT",
        "SON",
        "FACS",
        "SLC",
        "REST",
        "WAS",
        "T",
        "B",
        "M",
        "G",
        "S",
    ]
)


def mentions(
    text: str, products: Mapping[str, str] | None = None, among: Collection[str] | None = None
) -> dict[str, float]:
    """Genes that a text speaks of, and whether the cell has them.

    Names of surface proteins and their phenotypes (``CD56-dim``, ``CD25-negative``, ``CCR7+``), gene symbols in capitals with a
    digit, and names of gene products in plain words. After a word of denial ("lacks", "negative for") all that follows in the
    sentence is absent.

    Parameters
    ----------
    text
        A name, a definition.
    products
        Names of gene products in small letters → symbol, for example ``{"insulin": "INS"}``.
    among
        Symbols that count, by default all.

    Returns
    -------
    Symbol → 1 (there) to -1 (not there).

    Examples
    --------
    >>> mentions("A patrolling monocyte that is CD14-low and CD19-negative.")
    {'CD14': -0.5, 'CD19': -1.0}
    """
    found: dict[str, float] = {}

    def note(symbol: str, value: float) -> None:
        if (among is None or symbol in among) and abs(value) > abs(found.get(symbol, 0.0)):
            found[symbol] = value

    for sentence in re.split(r"(?<=[.;])\s+", text):
        denied = _DENIED.search(sentence)
        limit = denied.start() if denied else len(sentence)
        for match in _TOKEN.finditer(sentence):
            token, value = match[0], -1.0 if match.start() > limit else _MENTIONED
            stated = _STATED.fullmatch(token)
            if stated is not None:
                token, value = stated[1], _WORDS[stated[2]]
            elif token.endswith("+"):
                token, value = token[:-1], 1.0
            for symbol in _genes(token.rstrip("-")):
                note(symbol, value)
        if products:
            words = re.findall(r"[a-z][a-z0-9-]+", sentence.lower())
            for i, word in enumerate(words):
                for name in (word, " ".join(words[i : i + 2])):
                    if name in products:
                        note(products[name], -1.0 if denied and sentence.lower().find(name) > limit else _MENTIONED)
    return found


def _genes(token: str) -> tuple[str, ...]:
    """Genes of a protein's name, () for other words; forms of one gene's protein (CD45RA) tell nothing of its transcript."""
    if len(token) < 2 or token.upper() in _NOT_GENES or not re.search(r"[A-Z]", token):
        return ()
    if not (re.search(r"\d", token) or token.isupper()):
        return ()
    found = antibody(token)
    return () if found.isotype or found.target.startswith("CD45R") else found.genes
