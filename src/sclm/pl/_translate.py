"""Plots of predicted proteins."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from sclm import results

if TYPE_CHECKING:
    from collections.abc import Sequence

    import anndata
    import pandas as pd
    from matplotlib.axes import Axes

_MODEL, _GREY = "#2a6f97", "#8a8a8a"
_OTHERS = {  # column of the record → name in the legend, colour, marker
    "correlation_ridge": ("ridge on components", "#e07a1f", "D"),
    "correlation_own_gene": ("own gene's RNA", "#4c9f70", "s"),
}
_FULL = 2_000  # cells above which points become small and pale


def translate(
    adata: anndata.AnnData,
    measured_key: str,
    *,
    key: str = "sclm_protein",
    proteins: Sequence[str] | None = None,
    max_panels: int = 9,
) -> np.ndarray:
    """Predicted against measured proteins, one panel a protein.

    Parameters
    ----------
    adata
        Translated by :func:`sclm.tl.translate`, with proteins measured in the same cells.
    measured_key
        Key of ``.obsm`` with the measured proteins, as :func:`sclm.train` reads them. Scales that compare the proteins of a cell
        (``"clr"``, ``"minmax"``) are taken over those of the model's panel that were measured here, whichever were predicted; over
        all measured ones where the model has no panel.
    key
        ``key_added`` of that call.
    proteins
        Which ones to draw, by their names in the prediction; where None, those with the highest correlation.
    max_panels
        At most so many.

    Returns
    -------
    Axes, one a protein. The line is the identity; the band holds nine in ten cells of the reference. Each title has the Pearson
    correlation across cells here, and in brackets the one that was expected from held-out cells of the reference.

    Raises
    ------
    KeyError
        If there is no such result, no such key, or no such protein.
    ValueError
        If no protein was both predicted and measured.
    """
    import matplotlib.pyplot as plt

    from sclm.metrics.translation import pearson

    truth, predicted, names = _pairs(adata, measured_key, key)
    scores = pearson(truth, predicted)
    if proteins is None:
        order = np.argsort(-np.nan_to_num(scores, nan=-2), kind="stable")[:max_panels]
    else:
        lacking = [p for p in proteins if p not in names]
        if lacking:
            raise KeyError(f"{lacking[0]!r} was not both predicted and measured; there are {', '.join(names[:20])}.")
        order = np.array([names.index(p) for p in list(proteins)[:max_panels]])
    entry = results.read(adata, key, "translate")
    expected = entry["expected"].set_index("protein") if "expected" in entry else None

    n_columns = min(len(order), 3 if len(order) != 4 else 2)
    n_rows = -(-len(order) // n_columns)
    figure, axes = plt.subplots(
        n_rows, n_columns, figsize=(3.1 * n_columns + 0.4, 3.0 * n_rows + 0.3), layout="constrained", squeeze=False
    )
    many = len(truth) > _FULL
    for ax, p in zip(axes.ravel(), order, strict=False):
        x, y = truth[:, p], predicted[:, p]
        there = np.isfinite(x) & np.isfinite(y)
        low, high = float(min(x[there].min(), y[there].min())), float(max(x[there].max(), y[there].max()))
        line = np.array([low, high])
        if expected is not None and np.isfinite(expected.loc[names[p], "half_width_90"]):
            half = float(expected.loc[names[p], "half_width_90"])
            ax.fill_between(line, line - half, line + half, color="#e9eef2", linewidth=0, zorder=0)
        ax.plot(line, line, color="#9a9a9a", linewidth=0.9, zorder=1)
        ax.scatter(
            x[there],
            y[there],
            s=4 if many else 11,
            alpha=0.35 if many else 0.6,
            color=_MODEL,
            linewidths=0,
            rasterized=True,
        )
        margin = 0.05 * max(high - low, 1e-6)
        ax.set(xlim=(low - margin, high + margin), ylim=(low - margin, high + margin), aspect="equal")
        before = "" if expected is None else f" ({_number(expected.loc[names[p], 'correlation'])})"
        ax.set_title(f"{names[p]}\nr = {_number(scores[p])}{before}", fontsize=9)
        ax.tick_params(labelsize=7)
        ax.spines[["top", "right"]].set_visible(False)
    for ax in axes.ravel()[len(order) :]:
        ax.remove()
    figure.supxlabel(f"measured ({entry['scale']})", fontsize=9)
    figure.supylabel(f"predicted ({entry['scale']})", fontsize=9)
    return axes.ravel()[: len(order)]


def translate_expected(
    adata: anndata.AnnData, *, key: str = "sclm_protein", max_proteins: int = 40, ax: Axes | None = None
) -> Axes:
    """How well each protein can be expected to be predicted, beside the baselines.

    Parameters
    ----------
    adata
        Translated by :func:`sclm.tl.translate` with a model that was trained on measured proteins.
    key
        ``key_added`` of that call.
    max_proteins
        At most so many, those with the highest correlation.
    ax
        Where to draw; a new figure when None.

    Returns
    -------
    Axes. Bars are the correlation across held-out cells of the reference; marks are those of ridge regression and of the
    protein's own gene on the same cells. The training mean has none: it says the same of every cell.

    Raises
    ------
    KeyError
        If there is no such result, or it comes from published weights, about which nothing is known.
    """
    import matplotlib.pyplot as plt

    entry = results.read(adata, key, "translate")
    if "expected" not in entry:
        raise KeyError(
            f"adata.uns[{key!r}] has no 'expected': the model came without measured proteins to compare with."
        )
    table: pd.DataFrame = entry["expected"].sort_values("correlation", ascending=False, kind="stable")
    if table["correlation"].isna().all():
        raise KeyError(f"adata.uns[{key!r}] has no correlation to draw: this model says the same of every cell.")
    table = table.head(max_proteins)
    n = len(table)
    if ax is None:
        ax = plt.subplots(figsize=(5.6, 0.9 + 0.215 * n), layout="constrained")[1]
    rows = np.arange(n)
    family = str(entry["model"].get("family", "model"))
    ax.barh(rows, table["correlation"], height=0.72, color="#b9d3e3", label=family, zorder=2)
    for column, (label, colour, marker) in _OTHERS.items():
        if family == {"correlation_ridge": "ridge-protein", "correlation_own_gene": "own-gene"}[column]:
            continue  # the bars already say it
        ax.scatter(table[column], rows, s=15, color=colour, marker=marker, label=label, zorder=3, linewidths=0)
    ax.axvline(0, color="#555555", linewidth=0.8, zorder=4)
    names = [f"{p} · {g}" if g and g != p else str(p) for p, g in zip(table["protein"], table["genes"], strict=True)]
    ax.set_yticks(rows, [name if len(name) <= 36 else f"{name[:35]}…" for name in names], fontsize=7)
    ax.set(ylim=(n - 0.4, -0.6), xlim=(min(-0.05, float(table[["correlation", *_OTHERS]].min().min()) - 0.03), 1.0))
    ax.set_xlabel(f"Pearson r across {int(table['n_cells'].max()):,} held-out cells", fontsize=9)
    ax.tick_params(axis="x", labelsize=8)
    ax.grid(axis="x", color="#eeeeee", zorder=0)
    ax.set_axisbelow(True)
    ax.spines[["top", "right", "left"]].set_visible(False)
    ax.tick_params(axis="y", length=0)
    ax.legend(loc="lower right", frameon=False, fontsize=8)
    return ax


def _pairs(adata: anndata.AnnData, measured_key: str, key: str) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Measured and predicted values (n, P) of the proteins that both have, and the predicted names."""
    from sclm.cells.proteins import read_proteins, scale_proteins
    from sclm.knowledge.proteins import match_proteins

    entry: dict[str, Any] = results.read(adata, key, "translate")
    values, panel, _ = read_proteins(adata, measured_key)[1]
    names = [str(name) for name in entry["names"]]
    places = match_proteins(names, panel)
    both = np.flatnonzero(places >= 0)
    if not both.size:
        raise ValueError(
            f"no protein was both predicted and measured: {', '.join(names[:4])} … against {', '.join(panel[:4])} …."
        )
    # A cell's proteins are scaled beside one another: beside those of the whole panel, as the model learnt them.
    known = match_proteins([str(name) for name in entry["panel"]], panel) if "panel" in entry else np.arange(len(panel))
    beside = np.union1d(known[known >= 0], places[both])
    scaled = scale_proteins(values[:, beside], str(entry["scale"]))
    truth = scaled[:, np.searchsorted(beside, places[both])]
    return truth, np.asarray(adata.obsm[key])[:, both], [names[i] for i in both]


def _number(value: float) -> str:
    return f"{value:.2f}" if np.isfinite(value) else "–"
