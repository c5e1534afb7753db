"""Knowledge that models and tools share: ontologies, a knowledge graph, gene identifiers, names of antibodies, pinned downloads."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sclm.knowledge.downloads import fetch
    from sclm.knowledge.factors import transcription_factors
    from sclm.knowledge.gene_sets import Pathways
    from sclm.knowledge.genes import GeneIdentifiers
    from sclm.knowledge.graph_catalogue import graph_sources_available
    from sclm.knowledge.graph_sources import GeneSets, Pairs, TermLinks, Terms
    from sclm.knowledge.knowledge_graph import KnowledgeGraph
    from sclm.knowledge.ligand_receptor import SignalPairs, ligand_receptor_pairs, ligand_receptor_sources_available
    from sclm.knowledge.ontology import Ontology
    from sclm.knowledge.proteins import Antibody, antibody, match_proteins
    from sclm.knowledge.resolve import Match

__all__ = [
    "Antibody",
    "GeneIdentifiers",
    "GeneSets",
    "KnowledgeGraph",
    "Match",
    "Ontology",
    "Pairs",
    "Pathways",
    "SignalPairs",
    "TermLinks",
    "Terms",
    "antibody",
    "fetch",
    "graph_sources_available",
    "ligand_receptor_pairs",
    "ligand_receptor_sources_available",
    "match_proteins",
    "transcription_factors",
]

_HOMES = {
    "Antibody": "proteins",
    "GeneIdentifiers": "genes",
    "GeneSets": "graph_sources",
    "KnowledgeGraph": "knowledge_graph",
    "Match": "resolve",
    "Ontology": "ontology",
    "Pairs": "graph_sources",
    "SignalPairs": "ligand_receptor",
    "Pathways": "gene_sets",
    "TermLinks": "graph_sources",
    "Terms": "graph_sources",
    "antibody": "proteins",
    "fetch": "downloads",
    "graph_sources_available": "graph_catalogue",
    "ligand_receptor_pairs": "ligand_receptor",
    "ligand_receptor_sources_available": "ligand_receptor",
    "match_proteins": "proteins",
    "transcription_factors": "factors",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"sclm.knowledge.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'sclm.knowledge' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
