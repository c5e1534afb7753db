"""Vectors of spots in their surroundings: what `embed` and `domains` share."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from sclm.models.contract_spots import Spots
from sclm.tl._map_spatial_section import GRAPH, graph_made_from, read_section
from sclm.tl._model import check_device, on_device

if TYPE_CHECKING:
    import anndata
    from scipy import sparse

    from sclm.models.contract_spots import SpotEncoder
    from sclm.tl._map_spatial_section import Section

logger = logging.getLogger(__name__)


class Surroundings(NamedTuple):
    """Sections with their graph, before any work."""

    section: Section
    graph: sparse.csr_matrix  # (n, n) 0/1, symmetric
    origin: str  # "squidpy" or "coordinates"
    made_from: dict[str, str]  # keys of a graph from coordinates

    def written(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """``.obsp`` and ``.uns`` of the graph under squidpy's keys, so that its statistics go on from it; nothing where it was there."""
        if self.origin == "squidpy":
            return {}, {}
        places = self.section.coordinates
        edges = self.graph.tocoo()
        distances = self.graph.astype(np.float64)
        distances.data = np.sqrt(((places[edges.row] - places[edges.col]) ** 2).sum(axis=1))
        entry = {
            "connectivities_key": GRAPH,
            "distances_key": "spatial_distances",
            "params": {"n_neighbors": 6, "coord_type": "generic", "transform": "none", **self.made_from},
        }
        return {GRAPH: self.graph, "spatial_distances": distances}, {"spatial_neighbors": entry}


def surroundings(
    table: anndata.AnnData,
    *,
    spatial_key: str,
    library_key: str | None,
    layer: str | None,
    gene_key: str | None,
    invert_log1p: bool = False,
    counts: bool = True,
) -> Surroundings:
    """Sections and their graph, checked: see :func:`~sclm.tl._map_spatial_section.read_section`."""
    section = read_section(
        table, spatial_key=spatial_key, library_key=library_key, layer=layer, gene_key=gene_key,
        invert_log1p=invert_log1p, counts=counts,
    )  # fmt: skip
    if len(section.coordinates) < 2:
        raise ValueError("Neighbours are needed, found one spot. Pass the whole section.")
    origin = "coordinates" if section.graph is None else "squidpy"
    return Surroundings(section, section.neighbours(), origin, graph_made_from(spatial_key, library_key))


def spot_vectors(
    encoder: SpotEncoder, around: Surroundings, *, batch_size: int | None, device: str | None, seed: int
) -> np.ndarray:
    """Vectors of all spots, NaN for those without counts."""
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, found {batch_size}. Leave it out to choose by memory.")
    check_device(encoder, device)
    spots = Spots(around.section.source, around.graph, around.section.coordinates, around.section.library)
    with on_device(encoder, device):
        return encoder.embed_spots(spots, batch_size=batch_size, seed=seed)
