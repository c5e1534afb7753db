"""Genes of diseases, as the names of MONDO state them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sclm.knowledge.genes import GeneIdentifiers
    from sclm.knowledge.ontology import Ontology

# Systematic synonyms ("… caused by mutation in DYSF"), names after genes ("KCNQ2-related epilepsy"), deficiencies.
_PATTERNS = (
    re.compile(r"caused by (?:mutation|variation|mutations|variants?)[a-z /]* in ([A-Za-z0-9-]+)"),
    re.compile(r"\b([A-Z0-9][A-Za-z0-9-]*[A-Z0-9])-related "),
    re.compile(r"due to (?:[A-Z0-9a-z]+ )?([A-Z0-9-]{3,}) (?:mutation|deficiency)"),
)


def disease_genes(diseases: Ontology, identifiers: GeneIdentifiers) -> list[tuple[str, str]]:
    """Gene and disease wherever a name, an exact synonym or a definition states that the one causes the other.

    Parameters
    ----------
    diseases
        MONDO.
    identifiers
        Of genes: what is none is passed over.

    Returns
    -------
    Pairs of approved symbol and disease id, sorted.
    """
    found = set()
    for term in diseases.ids:
        for text in (diseases.name_of(term), *diseases.synonyms(term), diseases.definition(term)):
            names = [name for pattern in _PATTERNS for name in pattern.findall(text)]
            if names:
                found |= {(symbol, term) for symbol in identifiers.to_symbol(names) if symbol}
    return sorted(found)
