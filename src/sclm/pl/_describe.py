"""Cards of described groups: as a figure, and as a page."""

from __future__ import annotations

import re
import textwrap
from typing import TYPE_CHECKING, Any

import numpy as np

from sclm import get, results

if TYPE_CHECKING:
    from collections.abc import Sequence

    import anndata
    import pandas as pd

COLOURS = {"kept": "#2a7f62", "softened": "#c98a1b", "removed": "#b3443c", "not verifiable": "#7b868e", "": "#7b868e"}
WORDS = {
    "kept": "supported",
    "softened": "consistent",
    "removed": "not supported",
    "not verifiable": "not verifiable",
    "": "no type",
}
_GENE, _SET = "#4c78a8", "#8c6bb1"
_MAX_GENES, _MAX_SETS, _MAX_CARDS = 11, 3, 40
_WIDTH = 84  # characters of a line of text on a card


def describe(
    adata: anndata.AnnData, groups: Sequence[str] | None = None, *, key: str = "sclm_description", n_cols: int = 2
) -> np.ndarray:
    """A card for each described group: its text, genes, pathways, and how well the identity is supported.

    Green: the identity was kept; amber: the cells are consistent with it; red: a label that the markers do not support. Bars
    of genes are log2 fold changes over all other cells, those of pathways the activity over random sets of like genes in standard deviations.

    Parameters
    ----------
    adata
        Described by :func:`sclm.tl.describe` with ``groupby=``.
    groups
        Only these, in this order; by default the first 40.
    key
        ``key_added`` of that call.
    n_cols
        Cards side by side.

    Returns
    -------
    (n_groups, 3) :class:`matplotlib.axes.Axes`: text, genes, pathways of each group.

    Raises
    ------
    KeyError
        If there is no such result or group, or no groups were described.
    ValueError
        If ``n_cols`` is below 1.
    """
    import matplotlib.pyplot as plt
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    if n_cols < 1:
        raise ValueError(f"n_cols must be at least 1, found {n_cols}.")
    table, evidence = described_groups(adata, groups, key)
    table = table.iloc[:_MAX_CARDS]
    lines = [_lines(row["text"]) for _, row in table.iterrows()]
    n_rows = -(-len(table) // n_cols)
    # every row of cards is as high as its longest text needs
    heights = [
        2.6 + 0.17 * max(len(lines[i]) for i in range(r * n_cols, min((r + 1) * n_cols, len(table))))
        for r in range(n_rows)
    ]
    layout: Any = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.12)
    figure = plt.figure(figsize=(7.4 * n_cols, sum(heights)), layout=layout)
    cards = figure.subfigures(n_rows, n_cols, height_ratios=heights, squeeze=False)
    axes = np.empty((len(table), 3), dtype=object)
    for i, (name, row) in enumerate(table.iterrows()):
        card = cards[i // n_cols, i % n_cols]
        height = heights[i // n_cols]
        grid = card.add_gridspec(2, 2, height_ratios=[height - 2.2, 2.2], width_ratios=[1, 1])
        text, genes, sets = (card.add_subplot(g) for g in (grid[0, :], grid[1, 0], grid[1, 1]))
        _write(text, str(name), row, lines[i])
        of = evidence[(evidence["cell"] == name).to_numpy() & (evidence["verdict"] == "kept").to_numpy()]
        _bars(
            genes,
            of[(of["kind"] == "gene").to_numpy()].head(_MAX_GENES),
            "log2 fold change",
            _GENE,
            "no gene stands out",
        )
        shown = of[(of["kind"] == "pathway").to_numpy()].head(_MAX_SETS)
        _bars(
            sets,
            shown,
            "activity (z)",
            _SET,
            "no pathway stands out",
            notes=[f"q = {q:.1g}" for q in shown["q"]],
            inside=True,
        )
        axes[i] = text, genes, sets
    return axes


def described_groups(
    adata: anndata.AnnData, groups: Sequence[str] | None, key: str
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Table of the groups, in the order asked for, and all statements."""
    table = get.describe(adata, key=key, groups=True)
    if groups is not None:
        missing = [g for g in groups if g not in table.index]
        if missing:
            known = ", ".join(map(repr, table.index[:10]))
            raise KeyError(f"no described group {missing[0]!r}; there are {known}.")
        table = table.loc[list(groups)]
    return table, results.read(adata, key, "describe")["evidence"]


def _lines(text: str) -> list[str]:
    # q values and HLA-DQB1 stay in one piece: lines break at plain spaces only
    whole = re.sub(r" (?=[=<]|%)|(?<=[=<]) ", "\N{NO-BREAK SPACE}", text)
    return textwrap.wrap(whole, _WIDTH, break_on_hyphens=False)


def _write(axes: Any, name: str, row: pd.Series, lines: list[str]) -> None:
    """Title, verdict and text of a card."""
    axes.set_axis_off()
    colour = COLOURS[str(row["verdict"])]
    axes.add_patch(_rectangle((0, 0), 0.008, 1, colour, axes))
    axes.set_title("\n".join(textwrap.wrap(name, 46)), loc="left", fontsize=12, fontweight="bold", x=0.03)
    support = f" {row['support']:.2f}" if np.isfinite(row["support"]) else ""
    axes.text(
        1.0, 1.02, f"{WORDS[str(row['verdict'])]}{support}", color=colour, ha="right", va="bottom", fontsize=10, fontweight="bold",
        transform=axes.transAxes,
    )  # fmt: skip
    shown = axes.text(
        0.03, 0.98, "\n".join(lines), va="top", ha="left", fontsize=8.8, linespacing=1.35, transform=axes.transAxes
    )
    shown.set_in_layout(False)  # long lines must not narrow the panels


def _rectangle(place: tuple[float, float], width: float, height: float, colour: str, axes: Any) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle(place, width, height, color=colour, transform=axes.transAxes, clip_on=False)


def _bars(
    axes: Any,
    table: pd.DataFrame,
    label: str,
    colour: str,
    nothing: str,
    *,
    notes: Sequence[str] = (),
    inside: bool = False,
) -> None:
    """Horizontal bars, the first statement on top; names beside them, or above each bar where they are long (`inside`)."""
    if not len(table):
        axes.set_axis_off()
        axes.text(0.5, 0.5, nothing, ha="center", va="center", color="#7b868e", fontsize=9)
        return
    places = np.arange(len(table))
    axes.barh(places, table["value"], color=colour, height=0.3 if inside else 0.72)
    axes.set_xlabel(label, fontsize=8)
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    if inside:
        for place, name, note in zip(places, table["claim"], notes, strict=True):
            axes.text(
                0.01 * float(table["value"].max()),
                place - 0.2,
                f"{textwrap.shorten(name, 44, placeholder=' …')} ({note})",
                va="bottom",
                ha="left",
                fontsize=8,
            )
        axes.set_yticks([])
        axes.set_ylim(_MAX_SETS - 0.5, -0.7)
    else:
        axes.set_yticks(places, table["claim"], fontsize=8)
        axes.set_ylim(max(len(table), 6) - 0.4, -0.6)
