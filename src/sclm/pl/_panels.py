"""Panels of sections: an empty one a section and title, spots as circles, a legend of names beside them."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from sclm.pl._sections import Library

MISSING = "#d9d9d9"  # spots about which nothing is known
_MAX_PANELS = 60
_MAX_LEGEND = 40
_ROWS = 20  # of a column of the legend
_MAX_NAME = 30  # characters a line of the legend


def panels(
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


def draw_spots(ax: Axes, lib: Library, rows: np.ndarray, size: float, **options: Any) -> Any:
    """Circles in the units of the coordinates, so that they keep their size on the tissue at any size of the figure."""
    from matplotlib.collections import EllipseCollection

    width = np.full(len(rows), lib.diameter * size)
    circles = EllipseCollection(
        width, width, np.zeros(len(width)), units="xy", offsets=lib.points[rows], offset_transform=ax.transData,
        linewidths=0, rasterized=True, **options,
    )  # fmt: skip
    return ax.add_collection(circles, autolim=False)


def legend_room(names: list[str]) -> dict[str, float]:
    """Inches beside the panels and least height for a legend."""
    wrapped = [_wrap(name, _MAX_NAME) for name in names[:_MAX_LEGEND]]
    columns = [wrapped[i : i + _ROWS] for i in range(0, len(wrapped), _ROWS)]
    longest = max((len(line) for name in wrapped for line in name.splitlines()), default=0)
    lines = max((sum(len(name.splitlines()) for name in column) for column in columns), default=0)
    return {"side": max(len(columns), 1) * (0.45 + 0.065 * longest), "least": 0.4 + 0.175 * lines}


def draw_legend(axes: list[Axes], names: list[str], colours: list[str]) -> None:
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
