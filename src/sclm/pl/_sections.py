"""The sections of a map as they are drawn: spots, their diameter, the tissue image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    import anndata


class Library(NamedTuple):
    """What is drawn of one section."""

    name: str  # "" where there is one
    rows: np.ndarray  # spots, (n,) int64
    points: np.ndarray  # (n, 2) in the coordinates of .obsm
    diameter: float  # of a spot, in the same units
    image: np.ndarray | None
    extent: tuple[float, float, float, float] | None  # of the image


def libraries_of(adata: anndata.AnnData, entry: Mapping[str, Any], library: str | None, image: bool) -> list[Library]:
    """The sections of a map, or the one of that name; KeyError where there is none."""
    params = entry["params"]
    spatial_key, library_key = params["spatial_key"], params.get("library_key")
    if spatial_key not in adata.obsm:
        raise KeyError(f"adata.obsm has no {spatial_key!r} any more, the coordinates of this map. Put them back.")
    points = np.asarray(adata.obsm[spatial_key], dtype=np.float64)[:, :2]
    if library_key is None:
        if library is not None:
            raise KeyError(f"library={library!r} was asked for, and this map was made without library_key=.")
        names, codes = [""], np.zeros(adata.n_obs, dtype=np.int64)
    else:
        column = adata.obs[library_key].astype(str).to_numpy(dtype=str)
        unique, codes = np.unique(column, return_inverse=True)
        names = [str(name) for name in unique]
        if library is not None and library not in names:
            raise KeyError(f"library={library!r} is no section of this map; it has: {', '.join(map(repr, names))}.")
    found = []
    for i, name in enumerate(names):
        if library is None or name == library:
            rows = np.flatnonzero(codes == i)
            found.append(_library(adata, name, rows, points[rows], image))
    return found


def _library(adata: anndata.AnnData, name: str, rows: np.ndarray, points: np.ndarray, image: bool) -> Library:
    """A section with the diameter of its spots and its image, in the layout of 10x Visium and squidpy."""
    stored = adata.uns.get("spatial")
    stored = stored if isinstance(stored, Mapping) else {}
    known = stored.get(name) or (next(iter(stored.values())) if len(stored) == 1 and not name else {})
    known = known if isinstance(known, Mapping) else {}
    factors = known.get("scalefactors", {})
    diameter = float(factors.get("spot_diameter_fullres", 0) or _spacing(points))
    for resolution in ("hires", "lowres") if image else ():
        picture = known.get("images", {}).get(resolution)
        scale = factors.get(f"tissue_{resolution}_scalef")
        if picture is not None and scale:
            picture = np.asarray(picture)
            height, width = picture.shape[:2]
            return Library(name, rows, points, diameter, picture, (0, width / scale, height / scale, 0))
    return Library(name, rows, points, diameter, None, None)


def _spacing(points: np.ndarray) -> float:
    """Nine tenths of the median distance to the next spot; more where spots lie irregularly and the next is often near."""
    from scipy.spatial import KDTree

    places = np.unique(points, axis=0)
    if len(places) < 2:
        return 1.0
    k = min(7, len(places))
    distance = np.median(KDTree(places).query(places, k=k)[0], axis=0)  # (k,), the first is the spot itself
    return float(max(0.9 * distance[1], 0.5 * distance[-1]))  # on grids the first is the larger one
