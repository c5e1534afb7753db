"""The parts of the default knowledge graph that come with the package, beside the Cell Ontology."""

from __future__ import annotations

import json
import lzma
from functools import cache
from pathlib import Path

import numpy as np

from sclm.knowledge.graph_parts import Links, Origin, Part, node_table
from sclm.knowledge.graph_sources import Terms

_DATA = Path(__file__).with_name("data")
_GRAPH, _MARKERS = _DATA / "knowledge_graph_human.txt.xz", _DATA / "cell_type_markers.tsv"
_NO_NODES = node_table([], "", [], [])

# What the kinds of statements in the file of markers are, and under which licence.
_KINDS = {
    "axiom": ("cl_axioms", "CC BY 4.0", "axioms of the Cell Ontology"),
    "definition": ("cl_definitions", "CC BY 4.0", "names and definitions of the Cell Ontology"),
    "textbook": ("known_markers", "BSD-3-Clause", "a list of sclm's own"),
}


@cache
def default_parts() -> tuple[Part, ...]:
    """Everything that is bundled: cell types, markers, and the sections of the graph's file."""
    return (Terms("cl", "cell_type").read(), *marker_parts(), *_sections())


def marker_parts() -> list[Part]:
    """Markers of cell types, one part a kind of statement."""
    rows = [line.split("\t") for line in _MARKERS.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    parts = []
    for kind, (name, licence, made_from) in _KINDS.items():
        found = np.array([(gene, term) for term, gene, k in rows if k == kind], dtype=object).reshape(-1, 2)
        links = Links("gene-marks-cell_type", found[:, 0], found[:, 1])
        parts.append(Part(Origin(name, licence, "", "", made_from), _NO_NODES, [links]))
    return parts


def _sections() -> list[Part]:
    """One part a section of the file; numbers in it are differences, genes are places in the section `genes`."""
    parts = []
    genes = np.empty(0, dtype=object)
    for section in lzma.decompress(_GRAPH.read_bytes()).decode().removesuffix("\n").split("\n["):
        header, about, *lines = section.lstrip("[").split("\n")
        kind, _, what = header.rstrip("]").partition(" ")
        told = json.loads(about)
        origin = Origin(told["name"], told["licence"], told.get("version", ""), told["sha256"], told["made_from"])
        if kind == "genes":
            table = [line.split("\t") for line in lines]
            genes = np.array([symbol for symbol, _ in table], dtype=object)
            parts.append(Part(origin, node_table(genes, "gene", genes, [name for _, name in table]), []))
        elif kind == "pairs":
            lengths, places = _numbers(lines)
            parts.append(Part(origin, _NO_NODES, [Links(what, np.repeat(genes, lengths), genes[places])]))
        elif kind == "links":
            pairs = [(end, start) for start, ends in (line.split("\t") for line in lines) for end in ends.split()]
            found = np.array(pairs, dtype=object)
            parts.append(Part(origin, _NO_NODES, [Links(what, found[:, 0], found[:, 1])]))
        elif kind == "genes_of":
            ids = np.array([line.partition("\t")[0] for line in lines], dtype=object)
            lengths, places = _numbers([line.rpartition("\t")[2] for line in lines])
            parts.append(Part(origin, _NO_NODES, [Links(what, genes[places], np.repeat(ids, lengths))]))
        else:
            table = [line.split("\t") for line in lines]
            ids = np.array([row[0] for row in table], dtype=object)
            nodes = node_table(ids, what, [row[1] for row in table], [""] * len(table))
            lengths, places = _numbers([row[2] for row in table])
            if kind == "sets":
                relation = "gene-localises-compartment" if what == "compartment" else f"gene-in-{what}"
                links = Links(relation, genes[places], np.repeat(ids, lengths))
            else:
                links = Links(f"{what}-is_a-{what}", np.repeat(ids, lengths), ids[places])
            parts.append(Part(origin, nodes, [links], only_linked=kind == "sets"))
    return parts


def _numbers(lines: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """How many numbers each line has, and all of them, summed up within a line from their differences."""
    rows = [np.array(line.split(), dtype=np.int64) for line in lines]
    lengths = np.array([len(row) for row in rows], dtype=np.int64)
    return lengths, np.concatenate([np.cumsum(row) for row in rows]) if rows else np.empty(0, dtype=np.int64)
