"""Parts that training and use make alike: the writer of prompts, the terms with their trie, the place of the training types."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from sclm.knowledge import GeneIdentifiers, KnowledgeGraph
from sclm.models.celltosg.encoding import Encoder
from sclm.models.celltosg.module import Names
from sclm.models.celltosg.neighbourhood import Neighbourhood
from sclm.models.celltosg.tokens import TASKS, Sentences
from sclm.nn import Trie

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sclm.cells import GeneVocabulary
    from sclm.knowledge import Ontology
    from sclm.models.celltosg.config import CellToSGConfig
    from sclm.nn import PrefixLM

ROOT = "CL:0000000"


def symbols_of(vocabulary: GeneVocabulary) -> list[str]:
    """A word for every gene: its approved symbol, else its name as it is."""
    found = GeneIdentifiers.load("human").to_symbol(vocabulary.tokens)
    return ["".join((s or t).split()) or "gene" for s, t in zip(found, vocabulary.tokens, strict=True)]


def make_encoder(
    config: CellToSGConfig,
    vocabulary: GeneVocabulary,
    lm: PrefixLM,
    graph: KnowledgeGraph,
    scale: np.ndarray,
    *,
    code_of: Mapping[str, int] | None = None,
    label_key: str = "",
    descriptions: Mapping[int, str] | None = None,
) -> Encoder:
    """The writer of prompts."""
    nodes = graph.lookup("gene", vocabulary.tokens)
    around = Neighbourhood(graph) if config.use_graph else None
    sentences = Sentences(
        symbols_of(vocabulary), scale.astype(np.float64), nodes, length=config.sentence_length,
        graph_genes=config.graph_genes, around=around,
    )  # fmt: skip
    return Encoder(
        lm, sentences, config.labels, code_of, label_key, descriptions, config.organism, config.fields
    )  # fmt: skip


def terms_of(ontology: Ontology) -> list[str]:
    """All terms that can be answered: below "cell" in the Cell Ontology, all but the roots of another."""
    if ROOT in ontology:
        return sorted(ontology.descendants(ROOT))
    return [t for t in ontology.ids if t not in ontology.roots]


def make_names(ontology: Ontology, graph: KnowledgeGraph, lm: PrefixLM) -> Names:
    """All terms that can be answered, and the trie of their names as they are written after a prompt."""
    ids = terms_of(ontology)
    sequences = lm.encode_after(TASKS["cell_type"], [f" {ontology.name_of(t)}" for t in ids])
    return Names(ontology, ids, Trie.build(sequences, eos=lm.eos), graph.lookup("cell_type", ids))


def places_of(config: CellToSGConfig, names: Names) -> np.ndarray:
    """(S,) rows of the training types among the terms, -1 for those that are none."""
    return np.array([names.row_of.get(t, -1) for t in config.term_ids], dtype=np.int64)


def load_graph(graph: Any) -> KnowledgeGraph:
    """A graph as an object, from its folder, or the one that comes with the package."""
    if graph is None:
        return KnowledgeGraph.default()
    return graph if isinstance(graph, KnowledgeGraph) else KnowledgeGraph.load(graph)
