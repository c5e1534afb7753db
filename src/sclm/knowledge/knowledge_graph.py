"""`KnowledgeGraph`: genes, cell types, tissues, diseases and gene sets, and what is known between them."""

from __future__ import annotations

import dataclasses
from functools import cache, cached_property
from typing import TYPE_CHECKING, Self

import numpy as np
import pandas as pd

from sclm.knowledge import graph_builder, graph_storage
from sclm.knowledge.genes import GeneIdentifiers
from sclm.knowledge.graph_parts import ends

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from scipy import sparse

    from sclm.knowledge.graph_parts import GraphSource

INVERSE = "inverse:"
_NODE_COLUMNS = ["id", "type", "name", "text", "source"]
# Where leaving a node behind leads upwards: what a term is a kind or a part of.
_UPWARDS = ("is_a", "part_of", "child_of")


@dataclasses.dataclass(frozen=True, eq=False)
class KnowledgeGraph:
    """A graph of typed nodes and typed, directed edges; each edge knows the source that states it.

    Made by :meth:`default`, :meth:`build` or :meth:`load`. Nothing in it changes: every method that leaves something out
    gives another graph.

    Attributes
    ----------
    nodes
        One row a node, whose number is the row's: `id` (Ensembl gene ids, ``CL:``, ``UBERON:`` and ``MONDO:`` ids, names of
        gene sets), `type` (``"gene"``, ``"cell_type"``, ``"tissue"``, ``"disease"``, ``"pathway"``, ``"compartment"``,
        ``"function"``), `name`, `text` (definition and synonyms, may be empty) and `source`.
    edges
        Relation → (2, E) int32: numbers of the nodes at its starts (row 0) and its ends (row 1), sorted. A relation is named
        ``type-verb-type``; of ``"gene-interacts-gene"`` each pair is kept once.
    origins
        Relation → (E,) int16: the row of `sources` that states the edge.
    sources
        One row a source: `source`, `licence`, `version`, `sha256`, `made_from`, `n_nodes` and `n_edges` that it was the
        first to give, `n_unmatched` links with an end that is not in the graph.
    derived_from
        Source → cells or donors whose counts it was worked out from, for sources that are no outside knowledge.
    species
        Whose gene identifiers :meth:`lookup` understands, or None.

    Examples
    --------
    >>> from sclm.knowledge import KnowledgeGraph
    >>> graph = KnowledgeGraph.default()
    >>> int(graph.lookup("cell_type", ["B cells"])[0]) == int(graph.lookup("cell_type", ["CL:0000236"])[0])
    True
    >>> graph.nodes.loc[graph.lookup("gene", ["CD20"])[0], "name"]
    'MS4A1'
    """

    nodes: pd.DataFrame
    edges: Mapping[str, np.ndarray]
    origins: Mapping[str, np.ndarray]
    sources: pd.DataFrame
    derived_from: Mapping[str, frozenset[str]] = dataclasses.field(default_factory=dict)
    species: str | None = "human"

    def __post_init__(self) -> None:
        if list(self.nodes.columns) != _NODE_COLUMNS:
            raise ValueError(f"nodes must have the columns {_NODE_COLUMNS}, found {list(self.nodes.columns)}.")
        for relation, pair in self.edges.items():
            if pair.ndim != 2 or pair.shape[0] != 2 or pair.dtype != np.int32:
                raise ValueError(f"edges[{relation!r}] must be (2, E) int32, found {pair.shape} {pair.dtype}.")
            if pair.size and (pair.min() < 0 or pair.max() >= len(self.nodes)):
                raise ValueError(f"edges[{relation!r}] must lie in 0 to {len(self.nodes) - 1}, found {pair.max()}.")
            if self.origins[relation].shape != (pair.shape[1],):
                raise ValueError(f"origins[{relation!r}] must have {pair.shape[1]} entries, one an edge.")

    # -- making ----------------------------------------------------------------------------------------------------------

    @classmethod
    def build(
        cls, *sources: str | GraphSource, genes: Iterable[str] | None = None, species: str | None = "human"
    ) -> Self:
        """Build a graph.

        Parameters
        ----------
        *sources
            Names of the catalogue (``"default"``, ``"cl"``, ``"uberon"``, ``"mondo"``, ``"imex"``, ``"reactome"``, …: see
            :func:`~sclm.knowledge.graph_sources_available`), which are read from the package, from `$SCLM_DATA_DIR` or
            downloaded once; or :class:`~sclm.knowledge.Terms`, :class:`~sclm.knowledge.TermLinks`,
            :class:`~sclm.knowledge.GeneSets` and :class:`~sclm.knowledge.Pairs` for files and tables of yours.
        genes
            The genes that the graph may hold, by any identifier, for example those of a data set; each that is known then
            is a node. By default all that a source links.
        species
            Whose gene identifiers are reconciled: ``"human"``; None takes the names of genes as they are.

        Returns
        -------
        The graph. The same sources give the same graph, bit by bit.

        Raises
        ------
        ValueError
            If a name is unknown, two sources have the same name, or a file is not what it should be.
        ConnectionError
            If a file has to be downloaded and cannot be; the message says what to put where.
        """
        from sclm.knowledge.graph_catalogue import named

        if not sources:
            raise ValueError("build needs at least one source, for example KnowledgeGraph.build('default').")
        parts = [part for source in sources for part in (named(source) if isinstance(source, str) else [source.read()])]
        identifiers = GeneIdentifiers.load(species) if species is not None else None
        return cls(**graph_builder.build(parts, genes, identifiers)._asdict(), species=species)

    @classmethod
    def default(cls) -> KnowledgeGraph:
        """The graph that comes with the package: human, no network needed; the same object on every call."""
        return _default()

    # -- files -----------------------------------------------------------------------------------------------------------

    def save(self, folder: str | Path, *, overwrite: bool = False) -> Path:
        """Write `nodes.csv`, `sources.csv`, `edges.npz` and `graph.json` into a folder; no pickle.

        Raises FileExistsError if the folder holds a graph and `overwrite` is False.
        """
        return graph_storage.save(self, folder, overwrite=overwrite)

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Read what :meth:`save` wrote; ValueError if it is another format or its content has changed."""
        return cls(**graph_storage.load(folder))

    def to_arrays(self) -> dict[str, np.ndarray]:
        """All of it as named arrays (texts as bytes), for a checkpoint."""
        return graph_storage.to_arrays(self)

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Self:
        """The inverse of :meth:`to_arrays`."""
        return cls(**graph_storage.from_arrays(arrays))

    @cached_property
    def sha256(self) -> str:
        """Hash of nodes and edges: two graphs with the same hash say the same."""
        return graph_storage.fingerprint(self)

    # -- looking ---------------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self.nodes)

    def __repr__(self) -> str:
        return f"KnowledgeGraph({len(self):,} nodes, {self.n_edges:,} edges, {len(self.edges)} relations)"

    @property
    def n_edges(self) -> int:
        """Number of edges of all relations."""
        return sum(pair.shape[1] for pair in self.edges.values())

    @cached_property
    def types(self) -> tuple[str, ...]:
        """The types of nodes, in the order in which they come."""
        return tuple(dict.fromkeys(self.nodes["type"]))

    def rows(self, type: str) -> np.ndarray:
        """Numbers of the nodes of a type, (n,) int64."""
        return np.flatnonzero((self.nodes["type"] == type).to_numpy())

    @cached_property
    def _finders(self) -> dict:
        identifiers = GeneIdentifiers.load(self.species) if self.species is not None else None
        return graph_builder.finders(self.nodes, identifiers)

    def lookup(self, type: str, labels: Iterable[str]) -> np.ndarray:
        """Numbers of the nodes that labels mean.

        Parameters
        ----------
        type
            Of the nodes.
        labels
            Ids, names or synonyms; of genes also earlier symbols and Ensembl ids with versions; of cell types also labels
            as studies write them ("CD4+ T") and retired ids.

        Returns
        -------
        (n,) int64, -1 where there is no such node or a label means several.

        Raises
        ------
        ValueError
            If the graph has no nodes of this type.
        """
        if isinstance(labels, str):
            raise TypeError(f"expected a list of labels, found the text {labels!r}. Write [{labels!r}].")
        if type not in self._finders:
            raise ValueError(f"the graph has nodes of the types {', '.join(map(repr, self.types))}, found {type!r}.")
        rows, finder = self._finders[type]
        places = finder.find(labels)
        return np.where(places >= 0, rows[places], -1)

    def adjacency(self, *relations: str) -> sparse.csr_matrix:
        """Which nodes (rows) lead to which (columns) by any of these relations (all by default), (n, n) bool CSR."""
        from scipy import sparse

        for relation in relations:
            if relation not in self.edges:
                raise ValueError(f"the graph has the relations {', '.join(map(repr, self.edges))}, found {relation!r}.")
        pairs = [self.edges[relation] for relation in relations or self.edges] or [np.empty((2, 0), dtype=np.int32)]
        start, end = np.concatenate(pairs, axis=1)
        shape = (len(self), len(self))
        return sparse.coo_matrix((np.ones(len(start), dtype=bool), (start, end)), shape=shape).tocsr()

    def summary(self) -> pd.DataFrame:
        """What is in it: one row a type of node and a relation, with `count`, `sources` and `licences`."""
        licence = dict(zip(self.sources["source"], self.sources["licence"], strict=True))
        rows = []
        for kind in self.types:
            part = self.nodes.loc[self.nodes["type"] == kind, "source"]
            rows.append(("node", kind, len(part), [s for s in dict.fromkeys(part) if s]))
        for relation, origin in self.origins.items():
            rows.append(("edge", relation, len(origin), [self.sources["source"].iloc[i] for i in np.unique(origin)]))
        table = pd.DataFrame(rows, columns=["what", "name", "count", "sources"])
        # sources whose terms are the same are not repeated
        table["licences"] = [
            "; ".join(dict.fromkeys(licence[s] or "not stated" for s in found)) for found in table["sources"]
        ]
        table["sources"] = table["sources"].map(", ".join)
        return table

    # -- other graphs ----------------------------------------------------------------------------------------------------

    def with_inverses(self) -> Self:
        """The same graph with the inverse of every relation, ``"inverse:<relation>"``; those that it has are kept."""
        edges, origins = dict(self.edges), dict(self.origins)
        for relation, pair in self.edges.items():
            if not relation.startswith(INVERSE):
                edges[INVERSE + relation] = np.ascontiguousarray(pair[::-1])
                origins[INVERSE + relation] = self.origins[relation]
        return dataclasses.replace(self, edges=edges, origins=origins)

    def subgraph(self, genes: Iterable[str], *, keep: Iterable[str] = ("cell_type",)) -> Self:
        """The graph around some genes.

        Kept are these genes, all nodes that one of them leads to, what those are kinds or parts of, all nodes of the types
        in `keep` (cell types, so that every answer stays possible) with what these are kinds or parts of, and all edges
        between kept nodes.

        Parameters
        ----------
        genes
            By any identifier; those that the graph lacks are passed over.
        keep
            Types of which all nodes stay.
        """
        kept = np.zeros(len(self), dtype=bool)
        found = self.lookup("gene", genes)
        kept[found[found >= 0]] = True
        beside = kept.copy()
        for relation, (start, end) in self.edges.items():
            if ends(relation.removeprefix(INVERSE)) != ("gene", "gene"):
                beside[end[kept[start]]] = True
        # a relation and its inverse lead from a gene to terms and back: other genes are not kept
        beside[self.rows("gene")] &= kept[self.rows("gene")]
        beside |= self.nodes["type"].isin(list(keep)).to_numpy()
        upwards = [
            pair
            for name, pair in self.edges.items()
            if name.partition("-")[2].startswith(_UPWARDS) and INVERSE not in name
        ]
        while True:
            before = int(beside.sum())
            for start, end in upwards:
                beside[end[beside[start]]] = True
            if int(beside.sum()) == before:
                return self._restricted(beside)

    def _restricted(self, kept: np.ndarray) -> Self:
        """The graph of the nodes that are kept, numbered anew."""
        row = (np.cumsum(kept) - 1).astype(np.int32)
        edges, origins = {}, {}
        for relation, pair in self.edges.items():
            both = kept[pair].all(axis=0)
            if both.any():
                edges[relation], origins[relation] = row[pair[:, both]], self.origins[relation][both]
        return dataclasses.replace(self, nodes=self.nodes[kept].reset_index(drop=True), edges=edges, origins=origins)

    # -- leakage ---------------------------------------------------------------------------------------------------------

    def without_markers_of(self, terms: Iterable[str], *, descendants: bool = True) -> Self:
        """The graph in which nothing links genes to these cell types: they keep their edges to other terms only.

        For tests with held-out cell types: what is known of them is their name, their definition and their place in the
        ontology.

        Parameters
        ----------
        terms
            Cell types, by id or name.
        descendants
            Take the links of all that is below them as well: a marker of a kind of them tells of them.

        Raises
        ------
        ValueError
            If a term is not in the graph.
        """
        terms = list(terms)
        rows = self.lookup("cell_type", terms)
        if (rows < 0).any():
            raise ValueError(
                f"the graph has no cell type {terms[int(np.argmin(rows))]!r}. Give ids or names of its nodes."
            )
        held = np.zeros(len(self), dtype=bool)
        held[rows] = True
        below = self.edges.get("cell_type-is_a-cell_type", np.empty((2, 0), dtype=np.int32))
        while descendants:
            before = int(held.sum())
            held[below[0][held[below[1]]]] = True
            descendants = int(held.sum()) > before
        gene = (self.nodes["type"] == "gene").to_numpy()
        edges, origins = {}, {}
        for relation, pair in self.edges.items():
            stays = ~(gene[pair].any(axis=0) & held[pair].any(axis=0))
            edges[relation], origins[relation] = pair[:, stays], self.origins[relation][stays]
        return dataclasses.replace(self, edges=edges, origins=origins)

    def refuse_if_derived_from(self, names: Iterable[str]) -> None:
        """Raise where an edge was worked out from any of these cells or donors, such as those of a test.

        Raises
        ------
        ValueError
            If a source of the graph is derived from one of them.
        """
        if isinstance(names, str):
            raise TypeError(f"expected a list of cells or donors, found the text {names!r}. Write [{names!r}].")
        asked = set(map(str, names))
        for source, derived in self.derived_from.items():
            if shared := sorted(asked & derived):
                raise ValueError(
                    f"the edges of {source!r} were worked out from {len(shared)} of these cells or donors ({', '.join(shared[:3])}"
                    f"{', …' if len(shared) > 3 else ''}): the graph would tell what is to be predicted. Build it without them."
                )


@cache
def _default() -> KnowledgeGraph:
    return KnowledgeGraph.build("default")
