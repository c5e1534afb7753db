"""Plots of generated cells beside real ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from sclm import results
from sclm.pl._annotate import _colours, _wrap
from sclm.pl._pairs import ALL, MarkerTable, Pair, binned_median, gene_moments, joint_umap, marker_table, pair_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import anndata
    from matplotlib.axes import Axes

_REAL, _GENERATED = "#6b7a8f", "#e8710a"
_REAL_LINE, _GENERATED_LINE = "#22303f", "#a84a00"
_MAX_LEGEND = 40  # labels in the legend, those with the most cells


def generate(
    adata: anndata.AnnData,
    real: anndata.AnnData,
    *,
    label_key: str | None = None,
    key: str = "sclm_generate",
    layer: str | None = None,
    markers: Mapping[str, Sequence[str]] | None = None,
    n_markers: int = 3,
    seed: int = 0,
) -> np.ndarray:
    """Generated cells beside real ones: joint UMAP, mean and variance of genes, dropout, markers.

    Parameters
    ----------
    adata
        Written by :func:`sclm.tl.generate`.
    real
        Real cells to compare with, raw counts of the same kind of genes; best cells that the model was not trained on.
    label_key
        Column of both ``.obs`` that colours cells and makes the rows of the marker plot. ``"cell_type"`` when None and both
        have it; all cells as one group when they do not.
    key
        Where the record of the tool is in ``.uns``.
    layer
        Layer with raw counts in ``real``; ``.X`` when None. Generated cells have theirs in ``.X``.
    markers
        Label → names of genes to show; found in the real cells when None.
    n_markers
        How many of each label when they are found.
    seed
        Of the choice of cells (at most 4,000 of each are drawn) and of the UMAP.

    Returns
    -------
    Five :class:`matplotlib.axes.Axes`: UMAP by origin, UMAP by label, mean–variance, dropout, markers.

    Raises
    ------
    KeyError
        If there is no such result, or no such column.
    ValueError
        If real and generated cells share hardly any gene or no label, or hold no raw counts.
    """
    import matplotlib.pyplot as plt

    pair = _read(adata, real, label_key, key, layer)
    found = marker_table(pair, markers, n_markers)
    n_rows, n_genes = 2 * len(found.labels), len(found.genes)
    height = 1.6 + 0.23 * n_rows
    figure = plt.figure(figsize=(max(11.5, 4.5 + 0.24 * n_genes), 4.4 + 3.7 + height), layout="constrained")
    # Rows of their own: a legend or a long name in one must not squeeze the others.
    rows: Any = figure.subfigures(3, 1, height_ratios=[4.4, 3.7, height])
    axes = [*rows[0].subplots(1, 2), *rows[1].subplots(1, 2), rows[2].subplots()]
    _draw_umap(pair, axes[:2], seed)
    _draw_mean_variance(pair, axes[2])
    _draw_dropout(pair, axes[3])
    _draw_markers(found, axes[4])
    return np.array(axes, dtype=object)


def generate_umap(
    adata: anndata.AnnData,
    real: anndata.AnnData,
    *,
    label_key: str | None = None,
    key: str = "sclm_generate",
    layer: str | None = None,
    seed: int = 0,
    axes: Sequence[Axes] | None = None,
) -> np.ndarray:
    """Real and generated cells in one UMAP, by origin and by label.

    Both are log-normalised (10,000 counts a cell); the 2,000 genes of highest variance, 30 principal components, 15
    neighbours and the UMAP are of both together. Cells that lie apart are unlike the real ones; cells that mix may still
    differ in what a UMAP does not show.

    Parameters
    ----------
    adata, real, label_key, key, layer, seed
        As in :func:`generate`.
    axes
        Two axes to draw on; a new figure when None.

    Returns
    -------
    Two Axes: by origin, by label.
    """
    import matplotlib.pyplot as plt

    pair = _read(adata, real, label_key, key, layer)
    if axes is None:
        axes = plt.subplots(1, 2, figsize=(11.5, 4.4), layout="constrained")[1]
    elif len(axes) != 2:
        raise ValueError(f"axes must be two, by origin and by label; found {len(axes)}.")
    _draw_umap(pair, axes, seed)
    return np.array(list(axes), dtype=object)


def generate_mean_variance(
    adata: anndata.AnnData,
    real: anndata.AnnData,
    *,
    key: str = "sclm_generate",
    layer: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Variance of each gene's counts against their mean, real and generated.

    Parameters
    ----------
    adata, real, key, layer
        As in :func:`generate`.
    ax
        Where to draw; a new figure when None.

    Returns
    -------
    Axes, both logarithmic; one dot a gene, lines are running medians. The dashed line is a Poisson distribution: real cells
    lie above it.
    """
    ax = _new(ax)
    _draw_mean_variance(_read(adata, real, None, key, layer), ax)
    return ax


def generate_dropout(
    adata: anndata.AnnData,
    real: anndata.AnnData,
    *,
    key: str = "sclm_generate",
    layer: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Share of cells without a gene against the gene's mean count, real and generated.

    Parameters
    ----------
    adata, real, key, layer
        As in :func:`generate`.
    ax
        Where to draw; a new figure when None.

    Returns
    -------
    Axes; one dot a gene, lines are running medians. The dashed line is a Poisson distribution.
    """
    ax = _new(ax)
    _draw_dropout(_read(adata, real, None, key, layer), ax)
    return ax


def generate_markers(
    adata: anndata.AnnData,
    real: anndata.AnnData,
    *,
    label_key: str | None = None,
    key: str = "sclm_generate",
    layer: str | None = None,
    markers: Mapping[str, Sequence[str]] | None = None,
    n_markers: int = 3,
    ax: Axes | None = None,
) -> Axes:
    """Dot plot of marker genes: for each label a row of real and a row of generated cells.

    Parameters
    ----------
    adata, real, label_key, key, layer, markers, n_markers
        As in :func:`generate`. Markers are found by :func:`scanpy.tl.rank_genes_groups` (t test on log-normalised counts of
        the real cells; those first that have twice the mean of the other cells and that fewer than half of these express);
        where there is one label only, the genes of highest variance stand in for them.
    ax
        Where to draw; a new figure when None.

    Returns
    -------
    Axes. A dot's area is the share of cells that express the gene, its colour their mean log-normalised expression. Human
    Ensembl ids are written as symbols.
    """
    import matplotlib.pyplot as plt

    pair = _read(adata, real, label_key, key, layer)
    found = marker_table(pair, markers, n_markers)
    if ax is None:
        width, height = max(6.0, 4.5 + 0.24 * len(found.genes)), 1.6 + 0.23 * 2 * len(found.labels)
        ax = plt.subplots(figsize=(width, height), layout="constrained")[1]
    _draw_markers(found, ax)
    return ax


def _read(adata: anndata.AnnData, real: anndata.AnnData, label_key: str | None, key: str, layer: str | None) -> Pair:
    results.read(adata, key, "generate")
    return pair_of(adata, real, label_key, layer)


def _new(ax: Axes | None) -> Axes:
    import matplotlib.pyplot as plt

    return plt.subplots(figsize=(5.4, 4.0), layout="constrained")[1] if ax is None else ax


def _draw_umap(pair: Pair, axes: Sequence[Axes], seed: int) -> None:
    points, generated, names = joint_umap(pair, seed)
    order = np.random.default_rng(seed).permutation(len(points))  # neither lies on top
    x, y = points[order, 0], points[order, 1]
    size = float(np.clip(30_000 / len(points), 1.5, 14))
    style: dict[str, Any] = {"s": size, "linewidths": 0, "rasterized": True}
    colour = np.where(generated, _GENERATED, _REAL)
    axes[0].scatter(x, y, c=colour[order], alpha=0.75, **style)
    for name, fill, n in (("real", _REAL, (~generated).sum()), ("generated", _GENERATED, generated.sum())):
        axes[0].scatter([], [], s=40, c=fill, label=f"{name} ({n:,})")
    axes[0].legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, frameon=False, handletextpad=0.2)

    labels = pd.Categorical(names)
    stored = pair.colours if list(labels.categories) == list(pair.colours) else None
    colours = list(stored.values()) if stored else _colours(pair.adata, "", labels)
    axes[1].scatter(x, y, c=np.array(colours, dtype=object)[labels.codes[order]].tolist(), **style)
    listed = pd.Series(names).value_counts().index[:_MAX_LEGEND]
    for category, fill in zip(labels.categories, colours, strict=True):
        if category in listed:
            axes[1].scatter([], [], s=40, c=[fill], label=_wrap(category))
    n_columns = 1 + (len(listed) - 1) // 14
    axes[1].legend(
        loc="center left",
        bbox_to_anchor=(1.0, 0.5),
        ncols=n_columns,
        frameon=False,
        fontsize=9 if len(listed) <= 14 else 8,
        handletextpad=0.2,
    )
    axes[1].set_title(pair.label_key or "", fontsize=11)
    for ax in axes:
        ax.set(xticks=[], yticks=[], xlabel="UMAP 1", ylabel="UMAP 2")
        ax.spines[["top", "right"]].set_visible(False)


def _draw_mean_variance(pair: Pair, ax: Axes) -> None:
    ends = _draw_genes(pair, ax, "variance")
    ax.plot(ends, ends, color="#888888", linestyle="--", linewidth=1, label="Poisson")
    ax.set(yscale="log", ylabel="variance of counts", title="mean and variance of genes")
    ax.legend(frameon=False, fontsize=9, loc="upper left")


def _draw_dropout(pair: Pair, ax: Axes) -> None:
    ends = _draw_genes(pair, ax, "zeros")
    mean = np.geomspace(*ends, 200)
    ax.plot(mean, np.exp(-mean), color="#888888", linestyle="--", linewidth=1, label="Poisson")
    ax.set(ylim=(-0.03, 1.03), ylabel="share of cells without the gene", title="dropout")
    ax.legend(frameon=False, fontsize=9, loc="lower left")


def _draw_genes(pair: Pair, ax: Axes, column: str) -> tuple[float, float]:
    """Dots and running medians of both; the range of means."""
    from matplotlib import patheffects

    tables = [gene_moments(cells.counts) for cells in (pair.real, pair.generated)]
    looks = (("real", _REAL, _REAL_LINE), ("generated", _GENERATED, _GENERATED_LINE))
    halo = [patheffects.withStroke(linewidth=4, foreground="white")]
    for table, (_, fill, _line) in zip(tables, looks, strict=True):
        ax.scatter(table["mean"], table[column], s=6, c=fill, alpha=0.3, linewidths=0, rasterized=True)
    for table, (name, _fill, line) in zip(tables, looks, strict=True):
        ax.plot(*binned_median(table["mean"], table[column]), color=line, linewidth=2, label=name, path_effects=halo)
    means = np.concatenate([table["mean"].to_numpy() for table in tables])
    ax.set(xscale="log", xlabel="mean count")
    ax.spines[["top", "right"]].set_visible(False)
    return (float(means.min()), float(means.max())) if len(means) else (0.1, 1.0)


def _draw_markers(found: MarkerTable, ax: Axes) -> None:
    from sclm.knowledge import GeneIdentifiers

    n_genes, n_rows = len(found.genes), 2 * len(found.labels)
    columns, rows = np.meshgrid(np.arange(n_genes), np.arange(n_rows))
    dots = ax.scatter(
        columns.ravel(),
        rows.ravel(),
        s=115 * found.share.ravel(),
        c=found.mean.ravel(),
        cmap="viridis_r",
        vmin=0,
        edgecolors="#555555",
        linewidths=0.3,
        zorder=2,
    )
    names: list[str] = []
    for i, label in enumerate(found.labels):
        text = label if len(label) <= 52 else label[:50] + "…"
        names += ["real" if label == ALL else f"{text}   real", "generated"]
        if i % 2 == 0:
            ax.axhspan(2 * i - 0.5, 2 * i + 1.5, color="#f1f3f5", zorder=0, linewidth=0)
    for edge in np.flatnonzero(np.diff(found.owner)) + 0.5:
        ax.axvline(edge, color="#c9ced4", linewidth=0.8, zorder=1)
    ax.set_yticks(range(n_rows), names, fontsize=8.5)
    for i, tick in enumerate(ax.get_yticklabels()):
        tick.set_color(_GENERATED_LINE if i % 2 else "black")
    symbols = GeneIdentifiers.load("human").to_symbol(found.genes)
    shown = [(s if g.startswith("ENSG") else None) or g for g, s in zip(found.genes, symbols, strict=True)]
    ax.set_xticks(range(n_genes), shown, rotation=90, fontsize=8.5)
    ax.tick_params(length=0)
    ax.set(xlim=(-0.7, n_genes - 0.3), ylim=(n_rows - 0.4, -0.6))
    ax.spines[:].set_visible(False)
    ax.figure.colorbar(dots, ax=ax, label="mean of log1p(CP10k)", shrink=0.8, aspect=25, pad=0.01)
    for level in (0.1, 0.5, 1.0):
        ax.scatter([], [], s=115 * level, c="#999999", label=f"{level:.0%}")
    ax.legend(
        title="cells that express the gene",
        loc="lower left",
        bbox_to_anchor=(0.0, 1.0),
        ncols=3,
        frameon=False,
        fontsize=8.5,
        title_fontsize=8.5,
    )
