"""Plots of embeddings of cells."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from sclm import results
from sclm.cells import log_normalise, read_cells
from sclm.metrics import embedding
from sclm.pl._annotate import _colours, _wrap

if TYPE_CHECKING:
    import anndata
    import scipy.sparse as sp
    from matplotlib.axes import Axes

_MAX_CELLS = 4_000  # of a map: a minute's work at most, and dots that can still be told apart
_MAX_LEGEND = 30
_N_COMPONENTS, _N_GENES, _N_NEIGHBORS = 50, 2_000, 15


def embed(
    adata: anndata.AnnData, color: str, *, key: str | None = None, layer: str | None = None, seed: int = 0
) -> np.ndarray:
    """Cells by the vectors of an encoder beside the same cells by principal components, coloured by a column of ``.obs``.

    Both maps are UMAPs of 15 nearest neighbours. The principal components, 50 of the log-normalised 2,000 genes of highest variance, are
    the baseline: an encoder that does not keep types apart better than they do is not worth its time. For a column of names the titles
    give the share of neighbours of the same name, mean over names, measured in the vectors and not in the map.

    Parameters
    ----------
    adata
        Embedded by :func:`sclm.tl.embed`.
    color
        Column of ``.obs``: names or numbers.
    key
        ``key_added`` of that call; the only result of ``embed`` where None.
    layer
        Layer with the raw counts, for the principal components; the one that the tool read where None.
    seed
        Of the choice of cells (at most 4,000 are drawn) and of the maps.

    Returns
    -------
    Two :class:`matplotlib.axes.Axes`: the encoder, principal components.

    Raises
    ------
    KeyError
        If there is no such result or column.
    """
    import matplotlib.pyplot as plt

    key, entry = _record(adata, key)
    if color not in adata.obs:
        there = ", ".join(map(repr, list(adata.obs.columns)[:12])) or "none"
        raise KeyError(f"adata.obs has no column {color!r}; it has: {there}.")
    vectors = np.asarray(adata.obsm[key])
    rows = np.flatnonzero(np.isfinite(vectors).all(axis=1))
    rows = np.sort(np.random.default_rng(seed).permutation(rows)[:_MAX_CELLS])
    if rows.size < 4:
        raise ValueError(f"A map needs at least 4 cells with a vector, found {rows.size}.")
    read = dict(entry["params"])
    source = read_cells(adata, layer=layer or read.get("layer"), invert_log1p=bool(read.get("invert_log1p")))
    components = _principal_components(log_normalise(source.read(rows).counts), seed)
    values = adata.obs[color].iloc[rows]
    figure, axes = plt.subplots(1, 2, figsize=(13.0, 4.8), layout="constrained")
    names = {key: str(entry["model"].get("family", key)), "PCA": "principal components"}
    for ax, (name, points) in zip(axes, {key: vectors[rows], "PCA": components}.items(), strict=True):
        _draw(adata, ax, _umap(points, seed), values, color)
        ax.set_title(names[name] + _purity(points, values))
    handles, labels = axes[1].get_legend_handles_labels()
    if handles:
        axes[1].legend(handles, labels, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=8)
    else:
        figure.colorbar(axes[1].collections[0], ax=axes, label=color, shrink=0.7)
    return axes


def _record(adata: anndata.AnnData, key: str | None) -> tuple[str, dict[str, Any]]:
    if key is None:
        there = [k for k, v in adata.uns.items() if hasattr(v, "get") and v.get("tool") == "embed"]
        if len(there) != 1:
            found = ", ".join(map(repr, there)) or "none"
            raise KeyError(
                f"adata.uns must hold one result of sclm.tl.embed, found {found}. Run the tool, or pass key=."
            )
        key = there[0]
    return key, results.read(adata, key, "embed")


def _principal_components(lognormal: sp.csr_matrix, seed: int) -> np.ndarray:
    from sklearn.decomposition import PCA

    mean = np.asarray(lognormal.mean(axis=0)).ravel()
    variance = np.asarray(lognormal.multiply(lognormal).mean(axis=0)).ravel() - mean**2
    genes = np.sort(np.argsort(-variance, kind="stable")[:_N_GENES])
    n = min(_N_COMPONENTS, genes.size, lognormal.shape[0] - 1)
    return PCA(n, svd_solver="auto", random_state=seed).fit_transform(lognormal[:, genes].toarray())


def _umap(points: np.ndarray, seed: int) -> np.ndarray:
    import anndata as ad
    import scanpy as sc

    data = ad.AnnData(points.astype(np.float32))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # umap: with a seed it uses one thread; spectral start of separate clusters
        sc.pp.neighbors(data, n_neighbors=min(_N_NEIGHBORS, len(points) - 1), use_rep="X", random_state=seed)
        sc.tl.umap(data, random_state=seed)
    return np.asarray(data.obsm["X_umap"])


def _purity(points: np.ndarray, values: pd.Series) -> str:
    if pd.api.types.is_numeric_dtype(values) or len(points) <= _N_NEIGHBORS:
        return ""
    purity = embedding(points, values.to_numpy(dtype=object), n_neighbors=_N_NEIGHBORS)["type_purity"]
    return f" · same {values.name} among neighbours: {purity:.2f}"


def _draw(adata: anndata.AnnData, ax: Axes, points: np.ndarray, values: pd.Series, color: str) -> None:
    size = float(np.clip(40_000 / len(points), 3, 30))
    x, y = points.T
    if pd.api.types.is_numeric_dtype(values):
        order = np.argsort(values.to_numpy(dtype=float), kind="stable")
        ax.scatter(x[order], y[order], s=size, c=values.to_numpy(dtype=float)[order], cmap="viridis", linewidths=0)
    else:
        labels: Any = pd.Categorical(values.astype(str))
        colours = _colours(adata, color, labels)
        order = np.random.default_rng(0).permutation(len(points))  # no name lies on top of the others
        drawn = [colours[code] for code in labels.codes[order]]
        ax.scatter(x[order], y[order], s=size, c=drawn, linewidths=0, rasterized=True)
        for name in pd.Series(labels).value_counts().index[:_MAX_LEGEND]:
            n = int((labels == name).sum())
            ax.scatter(
                [], [], s=40, color=colours[labels.categories.get_loc(name)], label=f"{_wrap(str(name))} ({n:,})"
            )
    ax.set(xticks=[], yticks=[], xlabel="UMAP 1", ylabel="UMAP 2")
    ax.spines[["top", "right"]].set_visible(False)
