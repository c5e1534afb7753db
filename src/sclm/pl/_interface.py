"""Borders between tissues: profiles of what changes with the distance from them, and maps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from sclm import get, results
from sclm.pl._panels import MISSING, draw_legend, draw_spots, legend_room, panels
from sclm.pl._sections import libraries_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    import anndata
    from matplotlib.axes import Axes

    from sclm.pl._sections import Library

KINDS = ("profile", "zone", "distance", "score", "share")
_LABELS = {
    "distance": "signed distance from the border",
    "score": "interface score",
    "share": "smoothed share of the inner tissue",
}
_QUANTITIES = {
    "group": "share of the group",
    "column": "value",
    "gene": "log-normalised expression",
    "signal": "mean of ligand × receptor",
}
_MOST_GROUPS = 8  # lines of a panel where none are named
_CYCLE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f6000", "#4d4d4d", "#a05195", "#77ac30")


def interface(
    adata: anndata.AnnData,
    names: str | Sequence[str] | None = None,
    *,
    kind: str = "profile",
    key: str = "sclm_interface",
    signals: str = "sclm_ligrec",
    bin_width: float | None = None,
    max_distance: float | None = None,
    layer: str | None = None,
    library: str | None = None,
    image: bool = True,
    size: float = 1.0,
    n_columns: int | None = None,
) -> np.ndarray:
    """What changes with the distance from a border, or the border on the section.

    Parameters
    ----------
    adata
        With an interface of :func:`sclm.tl.interface`.
    names
        With ``kind="profile"``: groups of the interface, numeric columns of ``.obs``, genes, or pairs of :func:`sclm.tl.ligrec` as
        ``"CXCL12 → CXCR4"``; see :func:`sclm.get.interface_profile`. When None, the groups whose share changes most, up to 8.
    kind
        ``"profile"``: means with their standard errors against the signed distance, a panel for each kind of quantity; the zone of the
        interface is shaded. ``"zone"``, ``"distance"``, ``"score"`` or ``"share"``: a map of it.
    key
        ``key_added`` of the interface.
    signals
        ``key_added`` of the signals that ``names`` may name.
    bin_width, max_distance
        Of the profile, in the units of the coordinates; see :func:`sclm.get.interface_profile`.
    layer
        Layer with the raw counts, for genes of a profile; ``.X`` where None.
    library
        Section to map, where there are several; all, a panel each, when None. Profiles pool the sections.
    image
        Draw the tissue image of ``.uns["spatial"]`` under a map, where there is one.
    size
        Diameter of the spots of a map in units of their true diameter, or of the distance to the next spot.
    n_columns
        Panels of a map in a row; chosen by the shape of the section when None.

    Returns
    -------
    :class:`matplotlib.axes.Axes` of the panels, (n_panels,).

    Raises
    ------
    KeyError
        If there is no such result, section or name, or no coordinates.
    ValueError
        If ``kind`` is unknown, names are given for a map, or there is too much to draw.
    """
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(map(repr, KINDS))}, found {kind!r}.")
    entry = results.read(adata, key, "interface")
    if kind == "profile":
        table = get.interface_profile(
            adata, names, key=key, signals=signals, bin_width=bin_width, max_distance=max_distance, layer=layer
        )
        if names is None:
            table = _most_changing(table)
        widths = entry["sections"]["width"]
        return _profiles(table, float(np.median(widths)), entry)
    if names is not None:
        raise ValueError(f'names are what kind="profile" follows, found kind={kind!r}. Leave names out.')
    libraries = libraries_of(adata, entry, library, image)
    if kind == "zone":
        return _zones(adata, libraries, key, size, n_columns)
    values = adata.obs[f"{key}_{kind}"].to_numpy(dtype=np.float64)
    return value_panels(libraries, values[:, None], [""], _LABELS[kind], size, n_columns, centred=kind == "distance")


# Profiles -----------------------------------------------------------------------------------------------------------


def _most_changing(table: pd.DataFrame) -> pd.DataFrame:
    """The names whose means differ most between bins, in their order."""
    means = table.groupby("name", sort=False)["mean"]
    change = (means.max() - means.min()).sort_values(ascending=False, kind="stable")
    return table[table["name"].isin(change.index[:_MOST_GROUPS])]


def _profiles(table: pd.DataFrame, width: float, entry: dict[str, Any]) -> np.ndarray:
    import matplotlib.pyplot as plt
    from matplotlib.ticker import MaxNLocator

    kinds = [kind for kind in _QUANTITIES if (table["kind"] == kind).any()]
    _, axes = plt.subplots(1, len(kinds), figsize=(4.9 * len(kinds), 3.4), layout="constrained", squeeze=False)
    inside, outside = (" + ".join(map(str, entry[side])) for side in ("inside", "outside"))
    for ax, kind in zip(axes[0], kinds, strict=True):
        ax.axvspan(-width, width, color="#f0b43c", alpha=0.18, linewidth=0)
        ax.axvline(0, color="#555555", linewidth=0.8, linestyle=(0, (4, 3)))
        for i, (name, part) in enumerate(table[table["kind"] == kind].groupby("name", sort=False)):
            x, mean, se = (part[column].to_numpy() for column in ("distance", "mean", "se"))
            colour = _CYCLE[i % len(_CYCLE)]
            style = "-" if i < len(_CYCLE) else "--"
            ax.fill_between(x, mean - se, mean + se, color=colour, alpha=0.2, linewidth=0)
            ax.plot(x, mean, style, color=colour, marker="o", markersize=3, linewidth=1.4, label=str(name))
        ax.set(xlabel=f"distance from the border\n{inside} ←  → {outside}", ylabel=_QUANTITIES[kind])
        ax.set_ylim(bottom=min(0.0, ax.get_ylim()[0]) if kind != "column" else None)
        ax.xaxis.set_major_locator(MaxNLocator(5))
        ax.spines[["top", "right"]].set_visible(False)
        ax.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5), handlelength=1.2)
    return np.array(list(axes[0]), dtype=object)


# Maps ---------------------------------------------------------------------------------------------------------------


def _zones(
    adata: anndata.AnnData, libraries: list[Library], key: str, size: float, n_columns: int | None
) -> np.ndarray:
    """Spots in the colour of their zone."""
    labels = pd.Categorical(adata.obs[key])
    names = [str(name) for name in labels.categories]
    colours = [str(colour) for colour in adata.uns[f"{key}_colors"]]
    shown = np.concatenate([lib.rows for lib in libraries])
    counts = np.bincount(labels.codes[shown], minlength=len(names))
    text = [f"{name} ({int(count):,})" for name, count in zip(names, counts, strict=True)]
    axes = panels(libraries, [""], n_columns, **legend_room(text))
    for ax, lib in zip(axes, libraries, strict=True):
        draw_spots(ax, lib, np.arange(len(lib.rows)), size, facecolors=[colours[c] for c in labels.codes[lib.rows]])
    draw_legend(axes, text, colours)
    return np.array(axes, dtype=object)


def value_panels(
    libraries: list[Library],
    values: np.ndarray,
    titles: list[str],
    label: str,
    size: float,
    n_columns: int | None,
    *,
    centred: bool = False,
    own_scales: bool = False,
) -> np.ndarray:
    """A panel a section and column of values (n_obs, n), with one colour bar, or one a panel; 0 in the middle where centred."""
    axes: list[Axes] = panels(
        libraries, titles, n_columns, side=0.0 if own_scales else 0.9, bar=0.6 if own_scales else 0.0
    )
    figure: Any = axes[0].figure
    shown = values[np.concatenate([lib.rows for lib in libraries])]
    drawn = []
    for i, lib in enumerate(libraries):
        for k in range(len(titles)):
            ax, column = axes[i * len(titles) + k], values[lib.rows, k]
            draw_spots(ax, lib, np.flatnonzero(~np.isfinite(column)), size, facecolors=MISSING)
            order = np.argsort(np.abs(column) if not centred else -np.abs(column), kind="stable")
            order = order[np.isfinite(column[order])]
            circles = draw_spots(ax, lib, order, size, array=column[order], cmap="PuOr" if centred else "magma_r")
            top = _top(np.abs(shown[:, k] if own_scales else shown))
            circles.set_clim(-top if centred else 0, top)
            drawn.append(circles)
            if own_scales:
                bar = figure.colorbar(circles, ax=ax, shrink=0.7, pad=0.02, aspect=15)
                bar.ax.tick_params(labelsize=7)
    if own_scales:
        figure.suptitle(label, fontsize=10)
    else:
        height = float(np.clip(2.2 / figure.get_figheight(), 0.1, 0.8))
        figure.colorbar(drawn[0], ax=axes, label=label, shrink=height, aspect=18, pad=0.02)
    return np.array(axes, dtype=object)


def _top(values: np.ndarray) -> float:
    """Upper end of a colour scale: the 99.5th percentile, so that single spots do not decide."""
    found = values[np.isfinite(values)]
    top = float(np.quantile(found, 0.995)) if len(found) else 0.0
    return top if top > 0 else 1.0
