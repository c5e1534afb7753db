"""Knowledge that models and tools share: ontologies, gene identifiers, pinned downloads."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sclm.knowledge.downloads import fetch
    from sclm.knowledge.factors import transcription_factors
    from sclm.knowledge.genes import GeneIdentifiers
    from sclm.knowledge.ontology import Ontology
    from sclm.knowledge.resolve import Match

__all__ = ["GeneIdentifiers", "Match", "Ontology", "fetch", "transcription_factors"]

_HOMES = {
    "GeneIdentifiers": "genes",
    "Match": "resolve",
    "Ontology": "ontology",
    "fetch": "downloads",
    "transcription_factors": "factors",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"sclm.knowledge.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'sclm.knowledge' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
