"""Knowledge graphs as files and as arrays: CSV, npz and JSON, no pickle."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sclm.knowledge.knowledge_graph import KnowledgeGraph

FORMAT = 1
_NODES, _SOURCES, _EDGES, _ABOUT = "nodes.csv", "sources.csv", "edges.npz", "graph.json"


def fingerprint(graph: KnowledgeGraph) -> str:
    """sha256 of what a graph says: nodes without their sources, and edges."""
    digest = hashlib.sha256()
    for column in ("id", "type", "name", "text"):
        digest.update("\x1f".join(graph.nodes[column]).encode())
    for relation in sorted(graph.edges):
        digest.update(f"\n{relation} {graph.edges[relation].shape[1]}\n".encode())
        digest.update(np.ascontiguousarray(graph.edges[relation], dtype="<i4").tobytes())
    return digest.hexdigest()


def _about(graph: KnowledgeGraph) -> str:
    about = {
        "format": FORMAT,
        "species": graph.species,
        "relations": list(graph.edges),
        "derived_from": {source: sorted(names) for source, names in graph.derived_from.items()},
        "sha256": graph.sha256,
    }
    return json.dumps(about, indent=1, ensure_ascii=False)


def _csv(table: pd.DataFrame) -> str:
    return table.to_csv(index=False, lineterminator="\n")


def _table(text: str) -> pd.DataFrame:
    """All cells as text: a gene may be called NA."""
    return pd.read_csv(io.StringIO(text), dtype=str, keep_default_na=False, na_filter=False)


def _edge_arrays(graph: KnowledgeGraph) -> dict[str, np.ndarray]:
    """Numbered, since names of relations hold a colon: (2, E) `edges_0`, (E,) `origins_0`, …."""
    arrays = {}
    for i, relation in enumerate(graph.edges):
        arrays[f"edges_{i}"], arrays[f"origins_{i}"] = graph.edges[relation], graph.origins[relation]
    return arrays


def _fields(nodes: str, sources: str, about: str, arrays: Mapping[str, np.ndarray], where: str) -> dict[str, Any]:
    """What the constructor takes."""
    told = json.loads(about)
    if told.get("format") != FORMAT:
        raise ValueError(f"{where} has format {told.get('format')}, this version of sclm reads {FORMAT}. Update sclm.")
    table = _table(sources)
    for column in ("n_nodes", "n_edges", "n_unmatched"):
        table[column] = table[column].astype(np.int64)
    return {
        "nodes": _table(nodes).astype(object),
        "edges": {r: np.asarray(arrays[f"edges_{i}"], dtype=np.int32) for i, r in enumerate(told["relations"])},
        "origins": {r: np.asarray(arrays[f"origins_{i}"], dtype=np.int16) for i, r in enumerate(told["relations"])},
        "sources": table,
        "derived_from": {source: frozenset(names) for source, names in told["derived_from"].items()},
        "species": told["species"],
    }


def save(graph: KnowledgeGraph, folder: str | Path, *, overwrite: bool) -> Path:
    """Write the four files; `graph.json` last, so that an interrupted save is never loaded."""
    folder = Path(folder)
    if (folder / _ABOUT).exists() and not overwrite:
        raise FileExistsError(f"{folder} already holds a graph. Choose another folder or pass overwrite=True.")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _ABOUT).unlink(missing_ok=True)
    (folder / _NODES).write_text(_csv(graph.nodes), encoding="utf-8")
    (folder / _SOURCES).write_text(_csv(graph.sources), encoding="utf-8")
    arrays: dict[str, Any] = _edge_arrays(graph)
    np.savez_compressed(folder / _EDGES, **arrays)
    (folder / _ABOUT).write_text(_about(graph), encoding="utf-8")
    return folder


def load(folder: str | Path) -> dict[str, Any]:
    """Read the four files; the hash is checked."""
    folder = Path(folder)
    if not (folder / _ABOUT).is_file():
        raise FileNotFoundError(f"{folder} is no knowledge graph: it has no {_ABOUT}. Pass a folder that save() wrote.")
    nodes, sources, about = ((folder / name).read_text(encoding="utf-8") for name in (_NODES, _SOURCES, _ABOUT))
    with np.load(folder / _EDGES, allow_pickle=False) as stored:
        fields = _fields(nodes, sources, about, dict(stored), str(folder))
    return _checked(fields, about, str(folder))


def to_arrays(graph: KnowledgeGraph) -> dict[str, np.ndarray]:
    """Texts as uint8, edges as int32, origins as int16."""
    texts = {"nodes": _csv(graph.nodes), "sources": _csv(graph.sources), "about": _about(graph)}
    return {n: np.frombuffer(t.encode(), dtype=np.uint8).copy() for n, t in texts.items()} | _edge_arrays(graph)


def from_arrays(arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The inverse of :func:`to_arrays`; the hash is checked."""
    nodes, sources, about = (
        np.asarray(arrays[name], dtype=np.uint8).tobytes().decode() for name in ("nodes", "sources", "about")
    )
    return _checked(_fields(nodes, sources, about, arrays, "the checkpoint's graph"), about, "the checkpoint's graph")


def _checked(fields: dict[str, Any], about: str, where: str) -> dict[str, Any]:
    from sclm.knowledge.knowledge_graph import KnowledgeGraph

    expected, found = json.loads(about)["sha256"], fingerprint(KnowledgeGraph(**fields))
    if found != expected:
        raise ValueError(
            f"{where} must have the content with sha256 {expected[:12]}…, found {found[:12]}…: it was changed."
        )
    return fields
