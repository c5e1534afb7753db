"""Where signals are looked for: edges of the spatial graph, at an interface or everywhere, and groups of their ends."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import scipy.sparse as sp

from sclm import results
from sclm.cells.shares import Shares, read_shares
from sclm.spatial import reading_order, section_graph
from sclm.tl._map_spatial_section import GRAPH

if TYPE_CHECKING:
    from collections.abc import Sequence

    import anndata

    from sclm.tl._map_spatial_section import Section


class Spots(NamedTuple):
    """The spots that are used, ordered by place, and the edges between them."""

    rows: np.ndarray  # (m,) of the AnnData
    library: np.ndarray  # (m,) int64
    whole: sp.csr_matrix  # (m, m) all edges
    edges: sp.csr_matrix  # (m, m) those that are looked at
    zone: np.ndarray  # (m,) int64: 0 off the edges that are looked at, 1 or 2 on them, by side

    def across(self) -> Spots:
        """The same with only those edges whose ends lie on different sides of an interface."""
        ends = sp.coo_matrix(self.edges)
        kept = self.zone[ends.row] != self.zone[ends.col]
        edges = sp.csr_matrix((ends.data[kept], (ends.row[kept], ends.col[kept])), shape=ends.shape)
        return self._replace(edges=edges)


class Edges(NamedTuple):
    """Graph and interface of all spots."""

    whole: sp.csr_matrix  # (n, n) 0/1, symmetric
    edges: sp.csr_matrix  # those that are looked at
    inside: np.ndarray | None  # (n,) bool, of an interface
    coordinates: np.ndarray
    library: np.ndarray | None
    counted: np.ndarray  # (n,) bool: has counts
    origin: str
    warnings: list[str]

    def usable(self, sides: Sides, covariate: Shares | None) -> Spots:
        """Spots with counts and known groups; ValueError where no edge is left between them."""
        known = self.counted & np.isfinite(sides.share).all(axis=1)
        if covariate is not None:
            known &= np.isfinite(covariate.share).all(axis=1)
        library = np.zeros(len(known), dtype=np.int64) if self.library is None else self.library
        order = reading_order(self.coordinates, library)  # results must not depend on the order of the spots
        rows = order[known[order]]
        whole, edges = (sp.csr_matrix(graph[rows][:, rows]) for graph in (self.whole, self.edges))
        if not edges.nnz:
            raise ValueError(
                f"no edge is left between the {len(rows):,} of {len(known):,} spots with counts and known groups"
                + (" at the interface." if self.inside is not None else ".")
            )
        zone = np.asarray(edges.sum(axis=1)).ravel() > 0
        if self.inside is not None:
            zone = np.where(zone, 1 + self.inside[rows], 0)
        return Spots(rows, library[rows], whole, edges, zone.astype(np.int64))


class Sides(NamedTuple):
    """Groups of senders and receivers."""

    share: np.ndarray  # (n, k) float64; NaN where not known
    names: list[str]  # k
    combinations: list[tuple[int, int]]  # of source and target
    covariate: bool  # whether the groups tell spots apart
    kind: str


def edges_of(table: anndata.AnnData, section: Section, connectivity_key: str, interface: str | None) -> Edges:
    """The graph, and with an interface the edges within its zone and across its border."""
    stored, origin = _stored_graph(table, section, connectivity_key)
    whole = section_graph(stored, section.coordinates, section.library)
    counted = _with_counts(section)
    warnings = []
    if not counted.all():
        warnings.append(f"{int((~counted).sum()):,} of {len(counted):,} spots have no counts and are left out.")
    inside, edges = None, whole
    if interface is not None:
        entry = results.read(table, interface, "interface")
        zone = table.obs[interface].astype(str).to_numpy()
        distance = table.obs[f"{interface}_distance"].to_numpy(dtype=np.float64)
        inside = np.where(np.isfinite(distance), distance < 0, zone == "core")
        pairs = sp.coo_matrix(whole)
        near = zone == "interface"
        kept = (inside[pairs.row] != inside[pairs.col]) | (near[pairs.row] & near[pairs.col])
        edges = sp.csr_matrix((pairs.data[kept], (pairs.row[kept], pairs.col[kept])), shape=whole.shape)
        if entry["params"].get("spatial_key") is not None and not edges.nnz:
            raise ValueError(
                f"the interface {interface!r} has no edge of the graph: no two neighbours lie in its zone or on different sides. "
                "Make it again with a larger width=, or pass another graph."
            )
    return Edges(whole, edges, inside, section.coordinates, section.library, counted, origin, warnings)


def _stored_graph(table: anndata.AnnData, section: Section, key: str) -> tuple[Any, str]:
    """Squidpy's graph of that name, or None where the default is not there."""
    for name in (key, f"{key}_connectivities"):
        if name == GRAPH and section.graph is None:
            continue  # not there, or built from other coordinates or sections
        if name in table.obsp:
            return table.obsp[name], name
    if key in (GRAPH, GRAPH.removesuffix("_connectivities")):
        return None, "coordinates"
    there = ", ".join(map(repr, table.obsp)) or "nothing"
    raise KeyError(
        f"connectivity_key={key!r} names no graph: .obsp holds {there}. squidpy.gr.spatial_neighbors_grid and its like with "
        f"key_added={key!r} write one."
    )


def _with_counts(section: Section) -> np.ndarray:
    totals = [np.asarray(block.counts.sum(axis=1)).ravel() > 0 for block in section.source.blocks()]
    return np.concatenate(totals)


def groups_of(
    table: anndata.AnnData,
    groups: str | None,
    interface: str | None,
    source: str | Sequence[str] | None,
    target: str | Sequence[str] | None,
) -> Sides:
    """Shares of the groups, and the combinations that are tested."""
    if groups is None:
        if source is not None or target is not None:
            raise ValueError("source and target name groups, found groups=None. Pass groups= with labels or fractions.")
        if interface is None:
            return Sides(np.ones((table.n_obs, 1)), ["all"], [(0, 0)], False, "labels")
        return _of_interface(table, interface)
    shares = read_shares(table, groups)
    if shares.kind == "number":
        share, name = shares.share, shares.names[0]
        shares = Shares(np.column_stack([share, 1 - share]), [name, f"not {name}"], "fractions")
    senders = range(len(shares.names)) if source is None else shares.columns(source, "source")
    receivers = range(len(shares.names)) if target is None else shares.columns(target, "target")
    return Sides(shares.share, shares.names, [(a, b) for a in senders for b in receivers], True, shares.kind)


def _of_interface(table: anndata.AnnData, interface: str) -> Sides:
    """The two sides of an interface, and the two ways across."""
    entry = results.read(table, interface, "interface")
    distance = table.obs[f"{interface}_distance"].to_numpy(dtype=np.float64)
    inside = np.where(np.isfinite(distance), distance < 0, (table.obs[interface].astype(str) == "core").to_numpy())
    names = [" + ".join(map(str, entry[side])) for side in ("inside", "outside")]
    return Sides(np.column_stack([inside, ~inside]).astype(np.float64), names, [(0, 1), (1, 0)], True, "labels")
