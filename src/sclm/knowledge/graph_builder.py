"""Builds a knowledge graph from sources: nodes are merged, labels become nodes, links are kept once."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd

from sclm.knowledge.graph_lookup import Labels
from sclm.knowledge.graph_parts import SYMMETRIC, TYPES, Part, ends, write_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from sclm.knowledge.genes import GeneIdentifiers

logger = logging.getLogger(__name__)

NO_SOURCE = -1  # of genes that were asked for and that no source has


class Built(NamedTuple):
    """The fields of a graph."""

    nodes: pd.DataFrame
    edges: dict[str, np.ndarray]  # (2, E) int32
    origins: dict[str, np.ndarray]  # (E,) int16 row of the source
    sources: pd.DataFrame
    derived_from: dict[str, frozenset[str]]


def build(parts: Sequence[Part], genes: Iterable[str] | None, identifiers: GeneIdentifiers | None) -> Built:
    """Merge what sources gave.

    Of nodes that several sources have, the first source's name counts, and the first text that is not empty. Of links that
    several have, the first is kept.

    Parameters
    ----------
    parts
        What the sources gave, in order.
    genes
        The only genes that may be in the graph, each of which then is; None: those that have links.
    identifiers
        Turns labels of genes into symbols; None takes them as they are.
    """
    names = [part.origin.name for part in parts]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"two sources have the name {', '.join(twice)}. Tell them apart with name=.")
    nodes = _sorted(pd.concat([_other_nodes(parts), _gene_nodes(parts, genes, identifiers)], ignore_index=True))
    finder = finders(nodes, identifiers)
    links: dict[str, list[tuple[int, np.ndarray]]] = {}
    unmatched = np.zeros(len(parts), dtype=np.int64)
    linked = np.zeros(len(nodes), dtype=bool)
    for number, part in enumerate(parts):
        for relation, *labels in part.links:
            pair = np.stack([_rows(finder, kind, side) for kind, side in zip(ends(relation), labels, strict=True)])
            there = (pair[0] >= 0) & (pair[1] >= 0)
            unmatched[number] += pair.shape[1] - int(there.sum())
            pair = pair[:, there & (pair[0] != pair[1])]
            linked[pair.ravel()] = True
            links.setdefault(relation, []).append((number, pair))
    nodes, links = _without_loose(nodes, links, linked, parts)
    edges, origins = _merge(links, len(nodes))
    sources = _source_table(parts, nodes, origins, unmatched)
    nodes = nodes.assign(source=["" if i == NO_SOURCE else names[i] for i in nodes["source"]]).astype(object)
    derived = {part.origin.name: part.origin.derived_from for part in parts if part.origin.derived_from}
    for row in sources.itertuples():
        logger.info("%s: %s nodes, %s links; %s not matched.", row.source, row.n_nodes, row.n_edges, row.n_unmatched)
    return Built(nodes, edges, origins, sources, derived)


def finders(nodes: pd.DataFrame, identifiers: GeneIdentifiers | None) -> dict[str, tuple[np.ndarray, Labels]]:
    """For each type the rows of its nodes, and what finds them by label."""
    found = {}
    for kind, part in nodes.groupby("type", sort=False, observed=True):
        labels = Labels(str(kind), part["id"].tolist(), part["name"].tolist(), part["text"].tolist(), identifiers)
        found[str(kind)] = part.index.to_numpy(), labels
    return found


def _rows(finder: Mapping[str, tuple[np.ndarray, Labels]], kind: str, labels: np.ndarray) -> np.ndarray:
    """The node of each label, (n,) int64; -1 where there is none. Every distinct label is looked up once."""
    if kind not in finder:
        return np.full(len(labels), -1)
    rows, known = finder[kind]
    codes, distinct = pd.factorize(labels)
    places = known.find(distinct)
    return np.where(places >= 0, rows[places], -1)[codes] if len(distinct) else np.empty(0, dtype=np.int64)


# -- nodes -------------------------------------------------------------------------------------------------------------


def _tables(parts: Sequence[Part]) -> pd.DataFrame:
    """All nodes that the sources have, with the number of the source."""
    return pd.concat([part.nodes.assign(source=i) for i, part in enumerate(parts)], ignore_index=True)


def _other_nodes(parts: Sequence[Part]) -> pd.DataFrame:
    """The nodes that are no genes, each once."""
    table = _tables(parts)
    return _first_of(table[table["type"] != "gene"])


def _first_of(table: pd.DataFrame) -> pd.DataFrame:
    """One row a node: the first, with the first text of all its rows that is not empty."""
    first = table.drop_duplicates(["type", "id"]).reset_index(drop=True)
    if len(first) < len(table):
        texts = table[table["text"] != ""].drop_duplicates(["type", "id"])
        found = dict(zip(zip(texts["type"], texts["id"], strict=True), texts["text"], strict=True))
        keys = zip(first["type"], first["id"], strict=True)
        first["text"] = [found.get(key, "") for key in keys]
    return first


def _gene_nodes(
    parts: Sequence[Part], genes: Iterable[str] | None, identifiers: GeneIdentifiers | None
) -> pd.DataFrame:
    """The genes that anything names, by symbol: id (Ensembl, where a symbol has one), name, text and source."""
    table = _tables(parts)
    table = table[table["type"] == "gene"]
    owner: dict[str, int] = {}  # label → first source that names it
    for number, part in enumerate(parts):
        for link in part.links:
            for kind, labels in zip(ends(link.relation), (link.sources, link.targets), strict=True):
                if kind == "gene":
                    for label in pd.unique(labels):
                        owner.setdefault(label, number)
    kept: set[str | None] | None = None
    if genes is not None:
        wanted = list(dict.fromkeys(genes))
        kept = set(_symbols(wanted, identifiers))
        owner |= {label: NO_SOURCE for label in wanted if label not in owner}
    source: dict[str, int] = {}
    for symbol, number in zip(_symbols(list(owner), identifiers), owner.values(), strict=True):
        # of several labels of one gene the first that a source has counts
        if symbol is not None and (kept is None or symbol in kept) and source.get(symbol, NO_SOURCE) == NO_SOURCE:
            source[symbol] = number
    described = dict(zip(_symbols(table["id"], identifiers), table["text"], strict=True))
    found = list(source)
    ids = identifiers.to_ensembl(found) if identifiers is not None else found
    return pd.DataFrame(
        {
            "id": [gene or symbol for gene, symbol in zip(ids, found, strict=True)],
            "type": "gene",
            "name": found,
            "text": [
                write_text(described.get(s) or "", identifiers.aliases(s) if identifiers is not None else ())
                for s in found
            ],
            "source": list(source.values()),
        },
        dtype=object,
    )


def _symbols(labels: Iterable[str], identifiers: GeneIdentifiers | None) -> list[str | None]:
    return list(labels) if identifiers is None else identifiers.to_symbol(labels)


def _sorted(nodes: pd.DataFrame) -> pd.DataFrame:
    """By type, then id: the same graph whatever the order in which sources name their nodes."""
    order = {kind: i for i, kind in enumerate([*TYPES, *sorted(set(nodes["type"]) - set(TYPES))])}
    nodes = nodes.assign(order=nodes["type"].map(order)).sort_values(["order", "id"], kind="stable")
    return nodes.drop(columns="order").reset_index(drop=True)


def _without_loose(
    nodes: pd.DataFrame, links: dict[str, list[tuple[int, np.ndarray]]], linked: np.ndarray, parts: Sequence[Part]
) -> tuple[pd.DataFrame, dict[str, list[tuple[int, np.ndarray]]]]:
    """Leave out sets of which no gene is in the graph, and number the nodes anew."""
    bound = {i for i, part in enumerate(parts) if part.only_linked}
    kept = linked | ~nodes["source"].isin(bound).to_numpy() | (nodes["type"] == "gene").to_numpy()
    if kept.all():
        return nodes, links
    row = np.cumsum(kept) - 1
    moved = {relation: [(number, row[pair]) for number, pair in found] for relation, found in links.items()}
    return nodes[kept].reset_index(drop=True), moved


# -- links -------------------------------------------------------------------------------------------------------------


def _merge(
    links: dict[str, list[tuple[int, np.ndarray]]], n: int
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Each link once, sorted by its ends, with the first source that has it."""
    edges, origins = {}, {}
    for relation in sorted(links):
        pair = np.concatenate([found for _, found in links[relation]], axis=1)
        number = np.repeat([i for i, _ in links[relation]], [found.shape[1] for _, found in links[relation]])
        if relation in SYMMETRIC:
            pair = np.sort(pair, axis=0)
        _, first = np.unique(pair[0] * np.int64(n) + pair[1], return_index=True)
        if len(first):
            edges[relation] = pair[:, first].astype(np.int32)
            origins[relation] = number[first].astype(np.int16)
    return edges, origins


def _source_table(
    parts: Sequence[Part], nodes: pd.DataFrame, origins: dict[str, np.ndarray], unmatched: np.ndarray
) -> pd.DataFrame:
    """One row a source: what it is, and what it gave."""
    n_edges = sum(
        (np.bincount(o, minlength=len(parts)) for o in origins.values()), np.zeros(len(parts), dtype=np.int64)
    )
    given = nodes["source"].to_numpy(dtype=np.int64)
    n_nodes = np.bincount(given[given >= 0], minlength=len(parts))
    columns = ("name", "licence", "version", "sha256", "made_from")
    table = pd.DataFrame(
        [[getattr(part.origin, c) for c in columns] for part in parts], columns=list(columns), dtype=object
    )
    return table.rename(columns={"name": "source"}).assign(n_nodes=n_nodes, n_edges=n_edges, n_unmatched=unmatched)
