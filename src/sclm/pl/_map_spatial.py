"""Maps of cell types on tissue."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from sclm import results
from sclm.pl._sections import Library, libraries_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import anndata
    from matplotlib.axes import Axes

KINDS = ("fractions", "dominant", "pies", "uncertainty", "unexplained")
_MISSING = "#d9d9d9"  # spots without counts
_MAX_PANELS = 60
_MAX_PIES = 5000  # spots; above, a pie is smaller than a pixel
_MAX_LEGEND = 40
_ROWS = 20  # of a column of the legend
_MAX_NAME = 30  # characters a line of the legend
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


def _grid(
    libraries: list[Library], titles: list[str], n_columns: int | None, *, side: float = 0.0, bar: float = 0.0, least: float = 0.0
) -> list[Axes]:  # fmt: skip
    """Empty panels, libraries times titles, of the shape of the sections.

    In inches: ``side`` beside all panels and ``bar`` beside each is kept free, ``least`` is the least height.
    """
    import matplotlib.pyplot as plt

    n = len(libraries) * len(titles)
    if n > _MAX_PANELS:
        raise ValueError(
            f"{n} panels ({len(titles)} types, {len(libraries)} sections) are too many for a figure, at most {_MAX_PANELS}. Choose "
            "cell_types= or library=."
        )
    spans = np.array([np.maximum(np.ptp(lib.points, axis=0) + 2 * lib.diameter, 1e-9) for lib in libraries])
    shape = float(np.clip(np.median(spans[:, 1] / spans[:, 0]), 0.3, 3.0))  # height by width
    if n_columns is None and len(libraries) > 1 and 1 < len(titles) <= 8:
        n_columns = len(titles)  # a row a section
    elif n_columns is None:
        n_columns = min(n, max(1, round(np.sqrt(n * shape * 1.5))))  # figures half as wide again as high
    n_columns = max(1, min(int(n_columns), n))
    n_rows = -(-n // n_columns)
    width = 4.6 if n == 1 else 3.4 if n <= 4 else 2.5 if n <= 12 else 2.0
    size, letters = (10, int(12 * width)) if n <= 4 else (8, int(14.5 * width))  # points, characters a line that fit
    text = [_wrap(_title(lib, title), letters) for lib in libraries for title in titles]
    lines = max(len(t.splitlines()) for t in text)
    height = width * shape + 0.1 + 0.16 * lines
    figure = plt.figure(
        figsize=((width + bar) * n_columns + side, max(height * n_rows + 0.1, least)), layout="constrained"
    )
    axes = figure.subplots(n_rows, n_columns, squeeze=False).ravel().tolist()  # (n_rows * n_columns,)
    for ax in axes[n:]:
        ax.remove()
    for i in range(n):
        _empty(axes[i], libraries[i // len(titles)])
        axes[i].set_title(text[i], fontsize=size)
    return axes[:n]


def _title(lib: Library, title: str) -> str:
    return f"{lib.name}: {title}" if lib.name and title else lib.name or title


def _empty(ax: Axes, lib: Library) -> None:
    """The frame of a section: image, limits, y axis downwards as in images."""
    margin = lib.diameter
    low, high = lib.points.min(axis=0) - margin, lib.points.max(axis=0) + margin
    if lib.image is not None:
        ax.imshow(
            lib.image, extent=lib.extent, zorder=0, interpolation="bilinear", cmap="gray"
        )  # colours stay as they are
    ax.set(xlim=(low[0], high[0]), ylim=(high[1], low[1]), xticks=[], yticks=[], aspect="equal")
    ax.spines[:].set_visible(False)


def _spots(ax: Axes, lib: Library, rows: np.ndarray, size: float, **options: Any) -> Any:
    """Circles in the units of the coordinates, so that they keep their size on the tissue at any size of the figure."""
    from matplotlib.collections import EllipseCollection

    width = np.full(len(rows), lib.diameter * size)
    circles = EllipseCollection(
        width, width, np.zeros(len(width)), units="xy", offsets=lib.points[rows], offset_transform=ax.transData,
        linewidths=0, rasterized=True, **options,
    )  # fmt: skip
    return ax.add_collection(circles, autolim=False)


def _continuous(
    libraries: list[Library], values: np.ndarray, titles: list[str], kind: str, scale: str, size: float, n_columns: int | None
) -> np.ndarray:  # fmt: skip
    """A panel a column of values (n_obs, n) and library."""
    own_bars = scale == "type"
    axes = _grid(libraries, titles, n_columns, side=0.0 if own_bars else 0.9, bar=0.5 if own_bars else 0.0)
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
            _spots(ax, lib, np.flatnonzero(~np.isfinite(column)), size, facecolors=_MISSING)
            order = np.argsort(column, kind="stable")  # where spots overlap, high values lie on top
            order = order[np.isfinite(column[order])]
            circles = _spots(ax, lib, order, size, array=column[order], cmap=_COLOUR_MAP[kind])
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
    axes = _grid(libraries, [""], n_columns, **_legend_room(text))
    for ax, lib in zip(axes, libraries, strict=True):
        own = np.asarray(labels[lib.rows], dtype=object)
        known = np.array([name in listed for name in own], dtype=bool)
        _spots(ax, lib, np.flatnonzero(~known), size, facecolors=_MISSING)
        _spots(ax, lib, np.flatnonzero(known), size, facecolors=[colours[name] for name in own[known]])
    _legend(axes, text, [colours[name] for name in listed])
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
    palette = [*(colours[k] for k in chosen), _MISSING]
    names = [*(categories[k] for k in chosen), "other types"]
    rows = np.concatenate([lib.rows for lib in libraries])
    mean = np.nan_to_num(shares[rows]).mean(axis=0)
    seen = [k for k in range(len(names)) if mean[k] > 1e-4 and (k < len(chosen) or len(chosen) < len(categories))]
    text = [f"{names[k]} ({mean[k]:.1%})" for k in seen]
    axes = _grid(libraries, [""], n_columns, **_legend_room(text))
    for ax, lib in zip(axes, libraries, strict=True):
        own = shares[lib.rows]
        there = np.isfinite(own).all(axis=1)
        _spots(ax, lib, np.flatnonzero(~there), size, facecolors=_MISSING)
        slices, which = _slices(lib.points[there], own[there], lib.diameter * size / 2)
        faces = [palette[k] for k in which]
        ax.add_collection(
            PolyCollection(slices, facecolors=faces, edgecolors=faces, linewidths=0.1, rasterized=True), autolim=False
        )
    _legend(axes, text, [palette[k] for k in seen])
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


def _legend_room(names: list[str]) -> dict[str, float]:
    """Inches beside the panels and least height for a legend."""
    wrapped = [_wrap(name, _MAX_NAME) for name in names[:_MAX_LEGEND]]
    columns = [wrapped[i : i + _ROWS] for i in range(0, len(wrapped), _ROWS)]
    longest = max((len(line) for name in wrapped for line in name.splitlines()), default=0)
    lines = max((sum(len(name.splitlines()) for name in column) for column in columns), default=0)
    return {"side": max(len(columns), 1) * (0.45 + 0.065 * longest), "least": 0.4 + 0.175 * lines}


def _legend(axes: list[Axes], names: list[str], colours: list[str]) -> None:
    from matplotlib.lines import Line2D

    hidden = len(names) - _MAX_LEGEND
    names, colours = names[:_MAX_LEGEND], colours[:_MAX_LEGEND]
    if hidden > 0:
        names, colours = [*names, f"… {hidden} more"], [*colours, "#ffffff"]
    handles = [
        Line2D([], [], linestyle="none", marker="o", markersize=7, color=colour, label=_wrap(name, _MAX_NAME))
        for name, colour in zip(names, colours, strict=True)
    ]
    axes[0].figure.legend(
        handles=handles, loc="outside right center", frameon=False, fontsize=8, ncols=max(1, -(-len(names) // _ROWS)),
        handlelength=0.8, handletextpad=0.5,
    )  # fmt: skip


def _wrap(name: str, letters: int) -> str:
    return "\n".join(textwrap.wrap(str(name), letters)) or str(name)
