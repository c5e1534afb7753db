"""Sections of tissue: table, coordinates, libraries and spatial graph, checked before any work."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from sclm.cells import read_cells

if TYPE_CHECKING:
    import anndata
    import scipy.sparse as sp

    from sclm.cells import CellSource

logger = logging.getLogger(__name__)

GRAPH = "spatial_connectivities"  # squidpy's key
_LIBRARY_COLUMNS = ("library_id", "library", "region", "section", "slice", "fov", "sample")


class Section(NamedTuple):
    """Spots to map."""

    source: CellSource
    coordinates: np.ndarray  # (n, 2 or 3) float64
    library: np.ndarray | None  # (n,) int64 code of each spot's library; None: one section
    graph: Any  # squidpy's matrix (n, n), or None where it is to be built
    warnings: list[str]

    def neighbours(self) -> sp.csr_matrix:
        """(n, n) float32 symmetric 0/1: squidpy's graph where it is there, else the nearest neighbours."""
        from sclm.spatial import section_graph

        return section_graph(self.graph, self.coordinates, self.library)


def read_section(
    adata: anndata.AnnData,
    *,
    spatial_key: str,
    library_key: str | None,
    layer: str | None,
    gene_key: str | None,
    invert_log1p: bool = False,
    counts: bool = True,
) -> Section:
    """Counts (None unless asked for), coordinates and libraries of an AnnData.

    Raises
    ------
    KeyError
        If there are no coordinates, or a layer or column is missing.
    ValueError
        If coordinates or libraries are missing, have another form, or several sections come without ``library_key``.
    """
    keys = [library_key] if library_key is not None else []
    source: Any = None
    if counts:  # says first what is no AnnData
        source = read_cells(adata, layer=layer, gene_key=gene_key, obs_keys=keys, invert_log1p=invert_log1p)
    elif library_key is not None and library_key not in adata.obs:
        there = ", ".join(map(repr, adata.obs.columns)) or "none"
        raise KeyError(f"library_key={library_key!r} is not in .obs, which has the columns {there}.")
    coordinates = _coordinates(adata, spatial_key)
    if library_key is None:
        _refuse_several(adata)
        library = None
    else:
        column = adata.obs[library_key]
        missing = np.flatnonzero(column.isna().to_numpy())
        if len(missing):
            raise ValueError(
                f".obs[{library_key!r}] must name the section of every spot, found {len(missing):,} of {len(column):,} "
                f"missing, first in row {missing[0]}. Fill them in, or leave these spots out."
            )
        library = np.unique(column.astype(str).to_numpy(dtype=str), return_inverse=True)[1].astype(np.int64)
    warnings = _doubtful(coordinates, library)
    for warning in warnings:
        logger.warning("%s", warning)
    return Section(source, coordinates, library, _stored_graph(adata, spatial_key, library_key), warnings)


def graph_made_from(spatial_key: str, library_key: str | None) -> dict[str, str]:
    """What is written beside a graph that sclm built, so that it is not taken for one of other coordinates or sections."""
    return {"made_by": "sclm", "spatial_key": spatial_key, "library_key": library_key or ""}


def _stored_graph(adata: anndata.AnnData, spatial_key: str, library_key: str | None) -> Any:
    """Squidpy's matrix; None where there is none, or one that sclm built from other keys."""
    beside = adata.uns.get("spatial_neighbors")
    params = beside.get("params") if isinstance(beside, Mapping) else None
    if isinstance(params, Mapping) and params.get("made_by") == "sclm":
        wanted = graph_made_from(spatial_key, library_key)
        if any(str(params.get(name, "")) != value for name, value in wanted.items()):
            return None
    return adata.obsp.get(GRAPH)


def _coordinates(adata: anndata.AnnData, spatial_key: str) -> np.ndarray:
    """(n, 2 or 3) float64, finite."""
    place = f".obsm[{spatial_key!r}]"
    if spatial_key not in adata.obsm:
        there = ", ".join(map(repr, adata.obsm)) or "nothing"
        raise KeyError(
            f"adata{place} must hold the coordinates of the spots, found no such key; .obsm holds {there}. Put an array "
            f"(n_spots, 2) there, or pass spatial_key=. Of a SpatialData, sq.gr.spatial_neighbors with table_key= writes it."
        )
    values = adata.obsm[spatial_key]
    if hasattr(values, "toarray"):
        values = values.toarray()
    try:
        found = np.array(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{place} must hold numbers, found {type(values).__name__} with others ({error}).") from error
    if found.ndim != 2 or found.shape[1] not in (2, 3):
        raise ValueError(
            f"{place} must have shape ({adata.n_obs}, 2), x and y of each spot, found {found.shape}. Pass spatial_key= naming "
            "other coordinates."
        )
    bad = np.flatnonzero(~np.isfinite(found).all(axis=1))
    if len(bad):
        raise ValueError(
            f"{place} must hold the place of every spot, found {len(bad):,} of {len(found):,} with missing or infinite "
            f"coordinates, first {adata.obs_names[bad[0]]!r} in row {bad[0]}. Leave these spots out: "
            f'adata[np.isfinite(adata.obsm["{spatial_key}"]).all(axis=1)].copy().'
        )
    return found


def _doubtful(coordinates: np.ndarray, library: np.ndarray | None) -> list[str]:
    """What is unusual about coordinates and yet can be mapped; ValueError where they say nothing."""
    n = len(coordinates)
    if n == 1:
        return ["There is one spot: its platform cannot be told from its cells, and it has no neighbours."]
    places = coordinates if library is None else np.column_stack([coordinates, library])
    counted = pd.DataFrame(places).groupby(list(range(places.shape[1])), sort=False).size().to_numpy()
    if len(np.unique(coordinates, axis=0)) == 1 and library is None:
        raise ValueError(
            f"The coordinates of all {n:,} spots are the same ({', '.join(f'{v:g}' for v in coordinates[0])}): they say nothing "
            "about where the spots lie. Pass spatial_key= naming the right ones."
        )
    shared = int(counted[counted > 1].sum())
    if not shared:
        return []
    return [
        f"{shared:,} of {n:,} spots share their coordinates with another one, as cells do that were put into one spot, or "
        "sections that were joined without library_key=. Each has a result of its own; graphs of neighbours suffer."
    ]


def _refuse_several(adata: anndata.AnnData) -> None:
    """ValueError where an AnnData visibly holds several sections."""
    obs = adata.obs
    attributes = adata.uns.get("spatialdata_attrs")
    named = attributes.get("region_key") if isinstance(attributes, Mapping) else None
    for column in dict.fromkeys([*([named] if named in obs else []), "library_id"]):
        if column in obs and len(found := _distinct(obs[column])) > 1:
            raise ValueError(
                f"adata holds {len(found)} sections (.obs[{column!r}]: {_short(found)}), and spots are compared section "
                f"by section. Pass library_key={column!r}, or take one of them."
            )
    images = adata.uns.get("spatial")
    if not isinstance(images, Mapping) or len(images) < 2:
        return
    names = sorted(map(str, images))
    # A subset of several sections keeps the images of all of them: one of them is named by a column.
    if any(c in obs and len(found := _distinct(obs[c])) == 1 and found[0] in names for c in (*_LIBRARY_COLUMNS, named)):
        return
    fitting = [c for c in obs.columns if len(found := _distinct(obs[c])) > 1 and set(found) <= set(names)]
    likely = fitting or [c for c in _LIBRARY_COLUMNS if c in obs]
    advice = f"library_key={likely[0]!r}" if likely else "library_key= naming the column of .obs that tells them apart"
    raise ValueError(
        f'adata holds {len(names)} sections (.uns["spatial"]: {_short(names)}), and spots are compared section by '
        f"section. Pass {advice}, or drop the images of other sections."
    )


def _distinct(column: pd.Series) -> list[str]:
    return sorted(map(str, column.dropna().unique()))


def _short(names: list[str]) -> str:
    return ", ".join(map(repr, names[:4])) + (", …" if len(names) > 4 else "")
