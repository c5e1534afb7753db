"""Genes whose names speak of a cell type: "natural killer cell granule protein 7", "B cell linker", "platelet factor 4"."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sclm.knowledge import KnowledgeGraph, Ontology

_SYNONYM = 0.5  # of a synonym that speaks of a type, beside the approved name
_LONG = 13  # letters of a synonym that is a name in words
_LETTERS = 6  # fewest letters of a term's synonym, unless it says "cell": abbreviations mean too much
_SHARED = 2  # terms that may share a phrase
# What a type is followed by in names of genes that it does not have for its own: growth factors, tumours, cloning histories.
_OTHERS = frozenset(
    ["growth", "derived", "stimulating", "activating", "translocation", "leukemia", "lymphoma", "migration"]
)


def named_genes(
    graph: KnowledgeGraph, ontology: Ontology, terms: Sequence[str], column: np.ndarray, n_genes: int
) -> sparse.csr_array:
    """Genes whose names hold the name of a term, the longest that fits.

    Parameters
    ----------
    graph
        Texts of the genes: approved name, then synonyms.
    ontology
        Names and synonyms of the terms.
    terms
        R ids.
    column
        (nodes of the graph,) int64 column of each gene, -1 for others.
    n_genes
        G.

    Returns
    -------
    (R, G) float32, 1 by the approved name and 0.5 by a synonym.
    """
    row_of: dict[tuple[str, ...], set[int]] = {}
    for row, term in enumerate(terms):
        name = ontology.name_of(term)
        for text in (name, *ontology.synonyms(term)):
            words = _words(text)
            if words and (text == name or len("".join(words)) >= _LETTERS or "cell" in text):
                row_of.setdefault(words, set()).add(row)
    phrases = {words: rows for words, rows in row_of.items() if len(rows) <= _SHARED}
    found: dict[tuple[int, int], float] = {}
    texts = graph.nodes["text"].to_numpy(dtype=object)
    for node in np.flatnonzero(column >= 0):
        name, _, rest = texts[node].partition(" Synonyms:")
        spoken = [(name, 1.0), *((s, _SYNONYM) for s in rest.split("; ") if len(s.strip()) >= _LONG)]
        for text, weight in spoken:
            for row in _spoken_of(_words(text), phrases):
                place = (row, int(column[node]))
                found[place] = max(found.get(place, 0.0), weight)
    at = np.array(list(found), dtype=np.int64).reshape(-1, 2)
    values = np.array(list(found.values()), dtype=np.float32)
    return sparse.csr_array((values, (at[:, 0], at[:, 1])), shape=(len(terms), n_genes))


def _words(text: str) -> tuple[str, ...]:
    """Words in small letters without hyphens and without the s of a plural."""
    words = re.findall(r"[a-z0-9]+", text.lower())
    return tuple(w[:-1] if len(w) > 4 and w.endswith("s") and not w.endswith("ss") else w for w in words)


def _spoken_of(words: tuple[str, ...], phrases: dict[tuple[str, ...], set[int]]) -> set[int]:
    longest = 7
    found: set[int] = set()
    i = 0
    while i < len(words):
        for n in range(min(longest, len(words) - i), 0, -1):
            if (rows := phrases.get(words[i : i + n])) is not None:
                if not _OTHERS.intersection(words[i + n : i + n + 2]):
                    found |= rows
                i += n - 1
                break
        i += 1
    return found
