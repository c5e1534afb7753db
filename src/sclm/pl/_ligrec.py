"""Ligands and receptors that lie side by side: pairs as dots, and one pair on the section."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from sclm import get, results
from sclm.get._signals import pair_names
from sclm.pl._interface import value_panels
from sclm.pl._sections import libraries_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    import anndata
    import pandas as pd
    from matplotlib.axes import Axes

_MOST_EDGES = 400  # of a section that are drawn: the strongest
_LARGEST = 130.0  # area of a dot, in square points


def ligrec(
    adata: anndata.AnnData,
    pair: Sequence[str] | None = None,
    *,
    key: str = "sclm_ligrec",
    n_pairs: int = 20,
    alpha: float = 0.05,
    source: str | Sequence[str] | None = None,
    target: str | Sequence[str] | None = None,
    library: str | None = None,
    image: bool = True,
    size: float = 1.0,
    n_columns: int | None = None,
) -> np.ndarray:
    """The pairs with the smallest p as dots; or one pair on the section: ligand, receptor, and where they lie side by side.

    Parameters
    ----------
    adata
        Tested by :func:`sclm.tl.ligrec`.
    pair
        Ligand and receptor, such as ``("CXCL12", "CXCR4")``, to map; None draws the dots.
    key
        ``key_added`` of that call.
    n_pairs
        Pairs to draw as dots, those with the smallest p in any combination of groups.
    alpha
        False discovery rate below which a dot has a black rim.
    source, target
        Groups to draw as dots; all when None.
    library
        Section to map, where there are several; all, a row each, when None.
    image
        Draw the tissue image of ``.uns["spatial"]`` under a map, where there is one.
    size
        Diameter of the spots of a map in units of their true diameter, or of the distance to the next spot.
    n_columns
        Panels of a map in a row; three when None.

    Returns
    -------
    :class:`matplotlib.axes.Axes`, (n_panels,). Of dots one panel: rows are pairs, columns source → target, the area is minus log10 of p,
    the colour z; combinations that were not tested are left empty. Of a pair three panels a section: ligand, receptor, score, with
    the strongest 400 edges as lines.

    Raises
    ------
    KeyError
        If there is no such result, pair, group or section.
    ValueError
        If there is nothing to draw, or ``pair`` is not two names.
    """
    entry = results.read(adata, key, "ligrec")
    if pair is None:
        table = get.ligrec(adata, key=key)
        return np.array([_dots(_chosen(table, source, target, n_pairs), alpha)], dtype=object)
    if isinstance(pair, str) or len(pair) != 2:
        raise ValueError(f"pair must be the ligand and the receptor, found {pair!r}.")
    get.ligrec_edges(adata, pair[0], pair[1], key=key)  # says what there is where the pair is not
    pairs = entry["pairs"]
    column = int(np.flatnonzero(((pairs["ligand"] == pair[0]) & (pairs["receptor"] == pair[1])).to_numpy())[0])
    libraries = libraries_of(adata, entry, library, image)
    parts = (f"{key}_ligand", f"{key}_receptor", key)
    values = np.column_stack([sparse.csc_matrix(adata.obsm[name])[:, [column]].toarray().ravel() for name in parts])
    titles = [pair[0], pair[1], "side by side"]
    label = "log-normalised expression, and the mean of their product over edges"
    axes = value_panels(libraries, values.astype(np.float64), titles, label, size, n_columns or 3, own_scales=True)
    edges = sparse.coo_matrix(adata.obsp[f"{key}_connectivities"])
    strength = values[edges.row, 0] * values[edges.col, 1]
    place = np.asarray(adata.obsm[entry["params"]["spatial_key"]], dtype=np.float64)[:, :2]
    for i, lib in enumerate(libraries):
        own = np.isin(edges.row, lib.rows) & (strength > 0)
        _lines(axes[3 * i + 2], place, edges.row[own], edges.col[own], strength[own])
    return axes


def _chosen(
    table: pd.DataFrame, source: str | Sequence[str] | None, target: str | Sequence[str] | None, n_pairs: int
) -> pd.DataFrame:
    """Rows of the groups and of the pairs to draw, pairs in the order of their smallest p."""
    for side, asked in (("source", source), ("target", target)):
        if asked is None:
            continue
        wanted = [asked] if isinstance(asked, str) else list(asked)
        there = sorted(table[side].unique())
        unknown = [name for name in wanted if name not in there]
        if unknown:
            raise KeyError(f"{unknown[0]!r} is no {side} of this result; it has {', '.join(map(repr, there))}.")
        table = table[table[side].isin(wanted)]
    tested = table[table["pval"].notna()]
    names = tested[["ligand", "receptor"]].drop_duplicates().iloc[: max(int(n_pairs), 0)]
    if not len(names):
        raise ValueError("there is no tested pair to draw. Pass a larger n_pairs=, or other groups.")
    order = {pair: i for i, pair in enumerate(zip(names["ligand"], names["receptor"], strict=True))}
    rank = [order.get(pair, -1) for pair in zip(tested["ligand"], tested["receptor"], strict=True)]
    return tested.assign(rank=rank)[np.array(rank) >= 0]


def _dots(table: pd.DataFrame, alpha: float) -> Axes:
    import matplotlib.pyplot as plt

    heads = list(dict.fromkeys(zip(table["source"], table["target"], strict=True)))
    heads.sort()
    column = {head: i for i, head in enumerate(heads)}
    x = np.array([column[head] for head in zip(table["source"], table["target"], strict=True)])
    y = table["rank"].to_numpy()
    labels = table.sort_values("rank", kind="stable").drop_duplicates("rank")
    z = table["z"].to_numpy()
    level = -np.log10(table["pval"].to_numpy())
    top = max(float(level.max()), 2.0)
    figure, ax = plt.subplots(
        figsize=(2.9 + 0.34 * len(heads) + 1.3, 1.5 + 0.21 * len(labels) + 0.6), layout="constrained"
    )
    limit = max(float(np.quantile(np.abs(z), 0.98)), 1.0)
    passed = (table["padj"] < alpha).to_numpy()
    dots = ax.scatter(
        x, y, s=_LARGEST * level / top, c=z, cmap="RdBu_r", vmin=-limit, vmax=limit, linewidths=np.where(passed, 1.1, 0.3).tolist(),
        edgecolors=["#000000" if v else "#999999" for v in passed],
    )  # fmt: skip
    ax.set_yticks(range(len(labels)), pair_names(labels))
    ax.set_xticks(range(len(heads)), [f"{a} → {b}" for a, b in heads], rotation=40, ha="right", rotation_mode="anchor")
    ax.tick_params(labelsize=8, length=0)
    ax.set(xlim=(-0.7, len(heads) - 0.3), ylim=(len(labels) - 0.3, -0.7))
    ax.set_axisbelow(True)
    ax.grid(color="#eeeeee", linewidth=0.8)
    ax.spines[:].set_visible(False)
    bar = figure.colorbar(
        dots, ax=ax, shrink=min(0.8, 1.6 / figure.get_figheight() + 0.1), aspect=12, pad=0.03, anchor=(0, 1)
    )
    bar.set_label("z", fontsize=8)
    bar.ax.tick_params(labelsize=7)
    steps = [v for v in (1, 2, 3, 4) if v <= top]
    handles = [
        ax.scatter(
            [], [], s=_LARGEST * v / top, color="#bbbbbb", edgecolors="#999999", linewidths=0.3, label=f"{10.0**-v:g}"
        )
        for v in steps
    ]
    handles.append(
        ax.scatter([], [], s=40, facecolors="none", edgecolors="#000000", linewidths=1.1, label=f"FDR < {alpha:g}")
    )
    ax.legend(
        handles=handles,
        title="p",
        frameon=False,
        fontsize=7,
        title_fontsize=8,
        loc="lower left",
        bbox_to_anchor=(1.02, 0.0),
    )
    return ax


def _lines(ax: Any, place: np.ndarray, senders: np.ndarray, receivers: np.ndarray, strength: np.ndarray) -> None:
    """The strongest edges, wider where stronger."""
    from matplotlib.collections import LineCollection

    if not len(strength):
        return
    best = np.argsort(-strength, kind="stable")[:_MOST_EDGES]
    share = strength[best] / strength[best[0]]
    segments = np.stack([place[senders[best]], place[receivers[best]]], axis=1)  # (m, 2, 2)
    colours = np.column_stack([np.tile([0.05, 0.35, 0.55], (len(best), 1)), 0.15 + 0.85 * share])
    ax.add_collection(
        LineCollection(list(segments), linewidths=(0.3 + 2.2 * share).tolist(), colors=colours.tolist()), autolim=False
    )
