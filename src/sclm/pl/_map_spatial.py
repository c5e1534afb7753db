"""Maps of cell types on tissue."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from sclm import results
from sclm.pl._panels import MISSING, draw_legend, draw_spots, legend_room, panels
from sclm.pl._sections import Library, libraries_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import anndata

KINDS = ("fractions", "dominant", "pies", "uncertainty", "unexplained")
_MAX_PIES = 5000  # spots; above, a pie is smaller than a pixel
_SMALLEST_SLICE = 0.01
_COLOUR_MAP = {"fractions": "magma_r", "uncertainty": "viridis", "unexplained": "cividis"}


def map_spatial(
    adata: anndata.AnnData,
    *,
    kind: str = "fractions",
    key: str = "sclm_cell_type_fraction",
    cell_types: Sequence[str] | None = None,
    library: str | None = None,
    scale: str = "shared",
    image: bool = True,
    size: float = 1.0,
    n_columns: int | None = None,
) -> np.ndarray:
    """Cell types over the section: fractions type by type, pies, the dominant type, or how sure the map is.

    Parameters
    ----------
    adata
        Mapped by :func:`sclm.tl.map_spatial`.
    kind
        ``"fractions"``: a panel a type. ``"uncertainty"``: the same for standard errors. ``"dominant"``: the type with the
        largest fraction. ``"pies"``: a pie a spot, of at most 5,000 spots. ``"unexplained"``: the share of counts that no type
        of the reference explains.
    key
        ``key_added`` of that call.
    cell_types
        Types to show, in this order; all when None. In pies, the others are drawn as one grey slice.
    library
        Section to show, where there are several; all, a panel each, when None.
    scale
        ``"shared"``: one colour scale for all panels, so that they can be compared. ``"type"``: one for each type, so that
        rare ones are seen.
    image
        Draw the tissue image of ``.uns["spatial"]`` underneath, where there is one.
    size
        Diameter of the spots in units of their true diameter, or of the distance to the next spot where that is not known.
    n_columns
        Panels in a row; chosen by the shape of the section when None.

    Returns
    -------
    :class:`matplotlib.axes.Axes` of the panels, (n_panels,); types vary faster than sections. Their figure is
    ``axes[0].figure``.

    Raises
    ------
    KeyError
        If there is no such result, section or cell type, or no coordinates.
    ValueError
        If ``kind`` or ``scale`` is unknown, or there is too much to draw.
    """
    for name, value, known in (("kind", kind, KINDS), ("scale", scale, ("shared", "type"))):
        if value not in known:
            raise ValueError(f"{name} must be one of {', '.join(map(repr, known))}, found {value!r}.")
    entry = results.read(adata, key, "map_spatial")
    categories = [str(name) for name in entry["categories"]]
    chosen = _chosen(cell_types, categories)
    libraries = libraries_of(adata, entry, library, image)
    if kind in ("fractions", "uncertainty"):
        values = np.asarray(adata.obsm[key if kind == "fractions" else f"{key}_se"], dtype=np.float64)
        return _continuous(libraries, values[:, chosen], [categories[k] for k in chosen], kind, scale, size, n_columns)
    if kind == "unexplained":
        column = adata.obs[entry["unexplained_key"]].to_numpy(dtype=np.float64)
        return _continuous(libraries, column[:, None], [""], kind, scale, size, n_columns)
    if kind == "pies":
        fraction = np.asarray(adata.obsm[key], dtype=np.float64)
        colours = [str(c) for c in entry["colors"]]
        return _pies(libraries, fraction, chosen, categories, colours, size, n_columns)
    labels = pd.Categorical(adata.obs[entry["dominant_key"]])
    return _dominant(libraries, labels, _colours(adata, entry, labels), chosen, categories, size, n_columns)


# What is drawn ------------------------------------------------------------------------------------------------------


def _chosen(cell_types: Sequence[str] | None, categories: list[str]) -> list[int]:
    """Columns of the types to show."""
    if cell_types is None:
        return list(range(len(categories)))
    asked = [cell_types] if isinstance(cell_types, str) else list(cell_types)
    unknown = [name for name in asked if name not in categories]
    if unknown or not asked:
        raise KeyError(f"no cell type of the map: {unknown}. It has: {', '.join(map(repr, categories))}.")
    return [categories.index(name) for name in asked]


def _colours(adata: anndata.AnnData, entry: Mapping[str, Any], labels: pd.Categorical) -> dict[str, str]:
    """A colour a type: what ``.uns`` holds for those that occur, else the record's."""
    of_all = dict(zip(map(str, entry["categories"]), map(str, entry["colors"]), strict=True))
    stored = adata.uns.get(f"{entry['dominant_key']}_colors")
    if stored is not None and len(stored) == len(labels.categories):
        of_all |= dict(zip(map(str, labels.categories), map(str, stored), strict=True))
    return of_all


# Panels -------------------------------------------------------------------------------------------------------------


def _continuous(
    libraries: list[Library], values: np.ndarray, titles: list[str], kind: str, scale: str, size: float, n_columns: int | None
) -> np.ndarray:  # fmt: skip
    """A panel a column of values (n_obs, n) and library."""
    own_bars = scale == "type"
    axes = panels(libraries, titles, n_columns, side=0.0 if own_bars else 0.9, bar=0.5 if own_bars else 0.0)
    label = {
        "fractions": "fraction of the mRNA",
        "uncertainty": "standard error of the fraction",
        "unexplained": "share of counts unexplained",
    }[kind]
    shown = values[np.concatenate([lib.rows for lib in libraries])]
    shared = _top(shown)
    drawn: list[Any] = []
    for i, lib in enumerate(libraries):
        for k in range(len(titles)):
            ax, column = axes[i * len(titles) + k], values[lib.rows, k]
            draw_spots(ax, lib, np.flatnonzero(~np.isfinite(column)), size, facecolors=MISSING)
            order = np.argsort(column, kind="stable")  # where spots overlap, high values lie on top
            order = order[np.isfinite(column[order])]
            circles = draw_spots(ax, lib, order, size, array=column[order], cmap=_COLOUR_MAP[kind])
            circles.set_clim(0, _top(shown[:, k]) if own_bars else shared)
            drawn.append(circles)
            if own_bars:
                ax.figure.colorbar(circles, ax=ax, shrink=0.7, pad=0.02, aspect=15).ax.tick_params(labelsize=7)
    if not own_bars:
        figure: Any = axes[0].figure
        above = "max" if np.nanmax(shown, initial=0) > shared * 1.001 else "neither"
        height = float(np.clip(2.2 / figure.get_figheight(), 0.1, 0.8))  # a bar of 2.2 inches in any figure
        figure.colorbar(drawn[0], ax=axes, label=label, extend=above, shrink=height, aspect=18, pad=0.02)
    else:
        axes[0].figure.suptitle(label, fontsize=10)
    return np.array(axes, dtype=object)


def _top(values: np.ndarray) -> float:
    """Upper end of a colour scale: the 99.5th percentile, so that single spots do not decide."""
    found = values[np.isfinite(values)]
    top = float(np.quantile(found, 0.995)) if len(found) else 0.0
    return top if top > 0 else 1.0


def _dominant(
    libraries: list[Library],
    labels: pd.Categorical,
    colours: dict[str, str],
    chosen: list[int],
    categories: list[str],
    size: float,
    n_columns: int | None,
) -> np.ndarray:
    """The type with the largest fraction; types that were not chosen are grey."""
    names = [categories[k] for k in chosen]
    there = np.concatenate([lib.rows for lib in libraries])
    counts = pd.Series(labels[there]).value_counts()
    listed = [name for name in names if counts.get(name, 0) > 0]
    text = [f"{name} ({int(counts[name]):,})" for name in listed]
    axes = panels(libraries, [""], n_columns, **legend_room(text))
    for ax, lib in zip(axes, libraries, strict=True):
        own = np.asarray(labels[lib.rows], dtype=object)
        known = np.array([name in listed for name in own], dtype=bool)
        draw_spots(ax, lib, np.flatnonzero(~known), size, facecolors=MISSING)
        draw_spots(ax, lib, np.flatnonzero(known), size, facecolors=[colours[name] for name in own[known]])
    draw_legend(axes, text, [colours[name] for name in listed])
    return np.array(axes, dtype=object)


def _pies(
    libraries: list[Library],
    fraction: np.ndarray,
    chosen: list[int],
    categories: list[str],
    colours: list[str],
    size: float,
    n_columns: int | None,
) -> np.ndarray:
    """A pie a spot; slices below 1 % are left out and the others enlarged to fill the circle."""
    from matplotlib.collections import PolyCollection

    n = sum(len(lib.rows) for lib in libraries)
    if n > _MAX_PIES:
        raise ValueError(
            f'pies are for at most {_MAX_PIES:,} spots, found {n:,}. Choose library=, or kind="fractions".'
        )
    rest = 1 - fraction[:, chosen].sum(axis=1)
    shares = np.column_stack([fraction[:, chosen], rest])  # (n_obs, n_chosen + 1)
    palette = [*(colours[k] for k in chosen), MISSING]
    names = [*(categories[k] for k in chosen), "other types"]
    rows = np.concatenate([lib.rows for lib in libraries])
    mean = np.nan_to_num(shares[rows]).mean(axis=0)
    seen = [k for k in range(len(names)) if mean[k] > 1e-4 and (k < len(chosen) or len(chosen) < len(categories))]
    text = [f"{names[k]} ({mean[k]:.1%})" for k in seen]
    axes = panels(libraries, [""], n_columns, **legend_room(text))
    for ax, lib in zip(axes, libraries, strict=True):
        own = shares[lib.rows]
        there = np.isfinite(own).all(axis=1)
        draw_spots(ax, lib, np.flatnonzero(~there), size, facecolors=MISSING)
        slices, which = _slices(lib.points[there], own[there], lib.diameter * size / 2)
        faces = [palette[k] for k in which]
        ax.add_collection(
            PolyCollection(slices, facecolors=faces, edgecolors=faces, linewidths=0.1, rasterized=True), autolim=False
        )
    draw_legend(axes, text, [palette[k] for k in seen])
    return np.array(axes, dtype=object)


def _slices(points: np.ndarray, shares: np.ndarray, radius: float) -> tuple[list[np.ndarray], np.ndarray]:
    """Polygons of the slices and the column of each, clockwise from the top."""
    shares = np.where(shares >= _SMALLEST_SLICE, shares, 0)
    shares = shares / np.maximum(shares.sum(axis=1, keepdims=True), 1e-12)
    stop = 2 * np.pi * np.cumsum(shares, axis=1)  # (n, K) angles
    spot, which = np.nonzero(shares)
    polygons = []
    for s, k in zip(spot, which, strict=True):
        width = 2 * np.pi * shares[s, k]
        angle = np.linspace(stop[s, k] - width, stop[s, k], max(2, int(np.ceil(width * 4)) + 1))
        arc = np.column_stack([np.sin(angle), -np.cos(angle)])  # the y axis grows downwards
        middle = np.zeros((0, 2)) if shares[s, k] > 0.999 else np.zeros((1, 2))
        polygons.append(points[s] + radius * np.concatenate([middle, arc]))
    return polygons, which
