"""Plots of cell-type annotations."""

from __future__ import annotations

import colorsys
import textwrap
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from sclm import results

if TYPE_CHECKING:
    import anndata
    from matplotlib.axes import Axes

_UNKNOWN_COLOUR = "#c8c8c8"
_MAX_LEGEND = 44  # types in the legend, the most frequent ones
_MAX_NAME = 34  # characters of a name on a tick; longer ones break into lines


def annotate(
    adata: anndata.AnnData, *, key: str = "sclm_cell_type", basis: str | None = None, size: float | None = None
) -> np.ndarray:
    """Cells on an embedding or on the tissue, coloured by cell type and by confidence.

    Parameters
    ----------
    adata
        Annotated by :func:`sclm.tl.annotate`.
    key
        ``key_added`` of that call.
    basis
        Coordinates in ``.obsm``: ``"spatial"``, ``"umap"`` (or ``"X_umap"``) …; the first of these that is there when None.
    size
        Area of a point in square points; chosen by the number of cells when None.

    Returns
    -------
    Two :class:`matplotlib.axes.Axes`: cell type, confidence.

    Raises
    ------
    KeyError
        If there is no such result, or no such coordinates.
    """
    import matplotlib.pyplot as plt

    record = results.read(adata, key, "annotate")
    name, points = _coordinates(adata, basis)
    size = float(np.clip(60_000 / adata.n_obs, 1, 40)) if size is None else size
    labels = pd.Categorical(adata.obs[key])
    colours = _colours(adata, key, labels)

    listed = adata.obs[key].value_counts().index[:_MAX_LEGEND]
    n_columns = 1 + (len(listed) - 1) // 22
    figure, axes = plt.subplots(1, 2, figsize=(10.5 + 3.0 * n_columns, 4.6), layout="constrained")
    order = np.argsort(labels.codes == _code(labels, "unknown"), kind="stable")[::-1]  # unknown cells lie underneath
    axes[0].scatter(
        *points[order].T,
        s=size,
        c=np.array([*colours, _UNKNOWN_COLOUR])[labels.codes[order]],
        linewidths=0,
        rasterized=True,
    )
    for category, colour in zip(labels.categories, colours, strict=True):
        if category not in listed:
            continue
        n = int((labels == category).sum())
        axes[0].scatter([], [], s=40, c=[colour], label=f"{_wrap(category)} ({n:,})")
    axes[0].legend(
        loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=8, ncols=n_columns, handletextpad=0.2
    )
    axes[0].set_title("cell type")

    confidence = adata.obs[f"{key}_confidence"].to_numpy(dtype=float)
    drawn = np.argsort(-confidence, kind="stable")  # doubtful cells on top: they are what the panel is for
    dots = axes[1].scatter(
        *points[drawn].T, s=size, c=confidence[drawn], cmap="viridis", vmin=0, vmax=1, linewidths=0, rasterized=True
    )
    said = (
        "calibrated confidence" if record.get("calibrated", True) else "confidence, not calibrated"
    )  # of another method
    figure.colorbar(dots, ax=axes[1], label=said, shrink=0.7)
    axes[1].set_title("confidence")
    for ax in axes:
        ax.set(
            xticks=[],
            yticks=[],
            xlabel=f"{name} 1",
            ylabel=f"{name} 2",
            aspect="equal" if name == "spatial" else "auto",
        )
        ax.spines[["top", "right"]].set_visible(False)
        if name == "spatial":
            ax.invert_yaxis()  # image coordinates grow downwards
            ax.set(xlabel="", ylabel="")
    return axes


def annotate_agreement(
    adata: anndata.AnnData, reference_key: str, *, key: str = "sclm_cell_type", ax: Axes | None = None
) -> Axes:
    """Dot plot of reference labels against predictions.

    Parameters
    ----------
    adata
        Annotated by :func:`sclm.tl.annotate`.
    reference_key
        Column of ``.obs`` with the labels to compare with; cells without one are left out.
    key
        ``key_added`` of that call.
    ax
        Where to draw; a new figure when None.

    Returns
    -------
    Axes. A dot's area is the share of the reference label's cells that got the prediction, its colour their mean
    confidence; shares below 0.5 % are not drawn.

    Raises
    ------
    KeyError
        If there is no such result, or no such column.
    ValueError
        If no cell has a label.
    """
    import matplotlib.pyplot as plt

    results.read(adata, key, "annotate")
    _require_column(adata, reference_key)
    table = pd.DataFrame(
        {
            "truth": adata.obs[reference_key].astype(str).to_numpy(dtype=object),
            "predicted": adata.obs[key].astype(str).to_numpy(dtype=object),
            "confidence": adata.obs[f"{key}_confidence"].to_numpy(dtype=float),
        }
    )[adata.obs[reference_key].notna().to_numpy()]
    if table.empty:
        raise ValueError(f".obs[{reference_key!r}] has no labels to compare with: all {adata.n_obs} are missing.")
    counts = pd.crosstab(table["truth"], table["predicted"])
    share = counts.div(counts.sum(axis=1), axis=0)
    confidence = table.pivot_table(
        index="truth", columns="predicted", values="confidence", aggfunc="mean"
    ).reindex_like(share)
    # Columns follow the rows that they belong to, so that agreement lies on the diagonal; "unknown" comes last.
    place = {
        c: (c == "unknown", c not in share.index, list(share.index).index(c) if c in share.index else share[c].argmax())
        for c in share
    }
    columns = sorted(share.columns, key=lambda c: place[c])
    share, confidence = share[columns], confidence[columns]

    if ax is None:
        width, height = 4.2 + 0.42 * len(columns), 3.2 + 0.36 * len(share)
        ax = plt.subplots(figsize=(width, height), layout="constrained")[1]
    rows, cols = np.nonzero(share.to_numpy() >= 0.005)
    values = share.to_numpy()[rows, cols]
    dots = ax.scatter(
        cols,
        rows,
        s=180 * values,
        c=confidence.to_numpy()[rows, cols],
        cmap="viridis",
        vmin=0,
        vmax=1,
        edgecolors="#555555",
        linewidths=0.4,
    )
    ax.set_xticks(
        range(len(columns)), [_wrap(c) for c in columns], rotation=50, ha="right", rotation_mode="anchor", fontsize=8
    )
    names = [f"{_wrap(r)} ({n:,})" for r, n in zip(share.index, counts.sum(axis=1), strict=True)]
    ax.set_yticks(range(len(share)), names, fontsize=8)
    ax.set(xlabel="predicted", ylabel=reference_key, xlim=(-0.7, len(columns) - 0.3), ylim=(len(share) - 0.4, -0.6))
    ax.grid(color="#eeeeee", zorder=0)
    ax.set_axisbelow(True)
    ax.figure.colorbar(dots, ax=ax, label="mean confidence", shrink=0.6)
    for level in (0.1, 0.5, 1.0):
        ax.scatter([], [], s=180 * level, c="#999999", label=f"{level:.0%}")
    ax.legend(
        title="share of row",
        loc="lower left",
        bbox_to_anchor=(0.0, 1.0),
        ncols=3,
        frameon=False,
        fontsize=8,
        title_fontsize=8,
    )
    return ax


def annotate_reliability(
    adata: anndata.AnnData,
    truth_key: str,
    *,
    key: str = "sclm_cell_type",
    n_bins: int = 15,
    ax: Axes | None = None,
) -> Axes:
    """Reliability diagram: how often the annotation is right at each confidence.

    An answer is right when it is the true type or, after back-off, a kind that the true type belongs to.

    Parameters
    ----------
    adata
        Annotated by :func:`sclm.tl.annotate`.
    truth_key
        Column of ``.obs`` with true labels: ontology ids, names or free labels, which are resolved. Cells without one, and
        cells named ``"unknown"``, are left out.
    key
        ``key_added`` of that call.
    n_bins
        Number of equal bins between 0 and 1.
    ax
        Where to draw; a new figure when None.

    Returns
    -------
    Axes. On the diagonal, confidence is what it says; below it, the annotation promises too much.

    Raises
    ------
    KeyError
        If there is no such result, or no such column.
    ValueError
        If no cell has both a true label and a name.
    """
    import matplotlib.pyplot as plt

    from sclm.knowledge import Ontology
    from sclm.metrics import expected_calibration_error, match_kind, reliability

    results.read(adata, key, "annotate")
    _require_column(adata, truth_key)
    names = adata.obs[key].astype(str).to_numpy(dtype=object)
    ids = adata.obs[f"{key}_ontology_term_id"].astype(str).to_numpy(dtype=object)
    judged = adata.obs[truth_key].notna().to_numpy() & (names != "unknown")
    if not judged.any():
        raise ValueError(
            f"No cell has a true label in .obs[{truth_key!r}] and a name in .obs[{key!r}]: found 0 to compare."
        )
    truth = adata.obs[truth_key].astype(str).to_numpy(dtype=object)[judged]
    answer = np.where(ids == "unknown", names, ids)[judged]  # labels that are no term stand for themselves
    correct = np.isin(match_kind(truth, answer, Ontology.load("cl")), ["exact", "ancestor"])
    confidence = adata.obs[f"{key}_confidence"].to_numpy(dtype=float)[judged]
    table = reliability(correct, confidence, n_bins=n_bins)
    table = table[table["n"] > 0]

    if ax is None:
        ax = plt.subplots(figsize=(4.4, 4.2), layout="constrained")[1]
    ax.plot([0, 1], [0, 1], color="#999999", linestyle="--", linewidth=1, label="perfect calibration")
    ax.plot(table["confidence"], table["accuracy"], color="#2a6f97", linewidth=1.2)
    ax.scatter(
        table["confidence"],
        table["accuracy"],
        s=np.clip(300 * table["n"] / table["n"].sum(), 12, 300),
        color="#2a6f97",
        label="bins (area: number of cells)",
        zorder=3,
    )
    error = expected_calibration_error(correct, confidence, n_bins=n_bins)
    ax.set(xlim=(0, 1.03), ylim=(0, 1.03), xlabel="confidence", ylabel="share right", aspect="equal")
    ax.set_title(f"{correct.mean():.1%} right, calibration error {error:.3f}", fontsize=10)
    ax.legend(frameon=False, fontsize=8, loc="lower right", scatterpoints=1)
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def _coordinates(adata: anndata.AnnData, basis: str | None) -> tuple[str, np.ndarray]:
    """Name and (n_obs, 2) coordinates."""
    wanted = [basis, f"X_{basis}"] if basis is not None else ["spatial", "X_umap", "X_tsne", "X_pca"]
    for name in wanted:
        if name in adata.obsm:
            short = name.removeprefix("X_")
            return {"umap": "UMAP", "tsne": "t-SNE", "pca": "PC"}.get(short, short), np.asarray(adata.obsm[name])[
                :, :2
            ].astype(float)
    there = ", ".join(map(repr, adata.obsm)) or "none"
    raise KeyError(
        f"adata.obsm has none of {', '.join(map(repr, wanted))}; it has: {there}. Run sc.pp.neighbors and sc.tl.umap first, or pass basis=."
    )


def _require_column(adata: anndata.AnnData, name: str) -> None:
    if name not in adata.obs:
        there = ", ".join(map(repr, list(adata.obs.columns)[:20]))
        raise KeyError(f"adata.obs has no column {name!r}; it has: {there}.")


def _code(labels: pd.Categorical, name: str) -> int:
    return list(labels.categories).index(name) if name in labels.categories else -2


def _colours(adata: anndata.AnnData, key: str, labels: pd.Categorical) -> list[Any]:
    """A colour a category: scanpy's ``.uns[f"{key}_colors"]`` where it fits, else a palette; unknown is grey."""
    import matplotlib as mpl

    stored = adata.uns.get(f"{key}_colors")
    if stored is not None and len(stored) == len(labels.categories):
        return list(stored)
    # tab10 without its grey, which is kept for unknown cells; then two quieter sets for the eleventh type and on.
    bright = [mpl.colors.to_hex(mpl.colormaps["tab10"](i)) for i in range(10) if i != 7]
    dark = [mpl.colors.to_hex(mpl.colormaps[name](i)) for name in ("tab20b", "tab20c") for i in range(16)]
    named = [c for c in labels.categories if c != "unknown"]
    palette = bright + dark
    if len(named) > len(palette):  # hues at the golden angle: neighbours in the list differ most
        palette = [
            mpl.colors.to_hex(colorsys.hsv_to_rgb(i * 0.618 % 1, 0.55 + 0.4 * (i % 2), 0.85)) for i in range(len(named))
        ]
    colour_of = {c: palette[i % len(palette)] for i, c in enumerate(named)} | {"unknown": _UNKNOWN_COLOUR}
    return [colour_of[c] for c in labels.categories]


def _wrap(name: str) -> str:
    return "\n".join(textwrap.wrap(str(name), _MAX_NAME)) or str(name)
