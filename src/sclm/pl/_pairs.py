"""What figures of generated cells beside real ones draw: counts of shared genes, moments, markers, a joint UMAP."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
import scipy.sparse as sp

from sclm.cells import Cells, log_normalise, read_cells

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import anndata

ALL = "all cells"
_MAX_CELLS = 4000  # of each kind in a UMAP: a minute's work at most, and dots that can still be told apart
_MIN_GENES = 10
_MIN_CELLS = 3  # of a label, for a t test


class Pair(NamedTuple):
    """Generated and real cells with the genes that both have."""

    adata: anndata.AnnData
    generated: Cells
    real: Cells
    generated_labels: np.ndarray  # (n_generated,) text
    real_labels: np.ndarray  # (n_real,) text
    label_key: str | None
    colours: dict[str, Any]  # of the labels, as stored in the real AnnData; empty where none are


class MarkerTable(NamedTuple):
    """What the dot plot shows: rows are label 1 real, label 1 generated, label 2 real …"""

    labels: list[str]
    genes: list[str]
    owner: np.ndarray  # (n_genes,) position of the label that a gene marks
    share: np.ndarray  # (2 * n_labels, n_genes) cells that express it
    mean: np.ndarray  # (2 * n_labels, n_genes) of log-normalised counts


def pair_of(adata: anndata.AnnData, real: anndata.AnnData, label_key: str | None, layer: str | None) -> Pair:
    """Read both; see :func:`sclm.pl.generate` for the arguments and errors."""
    if label_key is None and "cell_type" in adata.obs and "cell_type" in real.obs:
        label_key = "cell_type"
    for name, data in (("generated", adata), ("real", real)):
        if label_key is not None and label_key not in data.obs:
            there = ", ".join(map(repr, list(data.obs.columns)[:20]))
            raise KeyError(f"the {name} cells have no column .obs[{label_key!r}]; they have: {there}.")
        if data.n_obs == 0:
            raise ValueError(f"There are no {name} cells to draw, found 0.")
    generated, other = read_cells(adata).read(), read_cells(real, layer=layer).read()
    genes = generated.genes[generated.genes.isin(other.genes)]
    if len(genes) < min(_MIN_GENES, generated.n_genes):
        raise ValueError(
            f"Real and generated cells must share at least {_MIN_GENES} genes, found {len(genes)} of {generated.n_genes} "
            f"and {other.n_genes} (such as {list(generated.genes[:2])} and {list(other.genes[:2])}). Give both the same "
            "kind of gene names."
        )
    colours: dict[str, Any] = {}
    if label_key is not None and isinstance(real.obs[label_key].dtype, pd.CategoricalDtype):
        categories = [str(c) for c in real.obs[label_key].cat.categories]
        stored = real.uns.get(f"{label_key}_colors", ())
        colours = dict(zip(categories, stored, strict=True)) if len(stored) == len(categories) else {}
    generated, other = (
        Cells(cells.counts[:, cells.genes.get_indexer(genes)].sorted_indices(), genes, cells.obs)
        for cells in (generated, other)
    )
    return Pair(adata, generated, other, _labels(adata, label_key), _labels(real, label_key), label_key, colours)


def _labels(data: anndata.AnnData, label_key: str | None) -> np.ndarray:
    if label_key is None:
        return np.full(data.n_obs, ALL, dtype=object)
    column = data.obs[label_key]
    return np.where(column.isna(), "unknown", column.astype(str)).astype(object)


def gene_moments(counts: sp.csr_matrix) -> pd.DataFrame:
    """``mean``, ``variance`` and ``zeros`` (share of cells) of the genes that any cell has."""
    mean = np.asarray(counts.mean(axis=0, dtype=np.float64)).ravel()
    squares = np.asarray(counts.multiply(counts).mean(axis=0, dtype=np.float64)).ravel()
    zeros = 1 - np.bincount(counts.indices, minlength=counts.shape[1]) / counts.shape[0]
    table = pd.DataFrame({"mean": mean, "variance": squares - mean**2, "zeros": zeros})
    return table[(table["mean"] > 0) & (table["variance"] > 0)]


def binned_median(x: pd.Series, y: pd.Series, n_bins: int = 40) -> tuple[np.ndarray, np.ndarray]:
    """Medians of ``x`` and ``y`` in bins of log ``x`` of equal width, where a bin has five genes."""
    if len(x) == 0:
        return np.zeros(0), np.zeros(0)
    logs = np.log(x.to_numpy())
    code = pd.Series(np.digitize(logs, np.linspace(logs.min(), logs.max(), n_bins + 1)[1:-1]), index=x.index)
    table = pd.DataFrame({"x": x, "y": y}).groupby(code).agg(["median", "size"])
    table = table[table["x", "size"] >= 5]
    return table["x", "median"].to_numpy(), table["y", "median"].to_numpy()


def marker_table(pair: Pair, markers: Mapping[str, Sequence[str]] | None, n_markers: int) -> MarkerTable:
    """Share and mean of marker genes in each label that both have."""
    both = sorted(set(pair.real_labels) & set(pair.generated_labels))
    if not both:
        raise ValueError(
            f"Real and generated cells must share a label in .obs[{pair.label_key!r}], found none: real has "
            f"{sorted(set(pair.real_labels))[:5]}, generated {sorted(set(pair.generated_labels))[:5]}."
        )
    level = {"real": log_normalise(pair.real.counts), "generated": log_normalise(pair.generated.counts)}
    chosen = _given(pair, markers, both) if markers is not None else _found(pair, level["real"], both, n_markers)
    genes = [gene for label in both for gene in chosen.get(label, ())]
    owner = np.array([i for i, label in enumerate(both) for _ in chosen.get(label, ())])
    columns = pair.real.genes.get_indexer(pd.Index(genes))
    share, mean = np.zeros((2 * len(both), len(genes))), np.zeros((2 * len(both), len(genes)))
    for i, label in enumerate(both):
        for j, (name, labels) in enumerate((("real", pair.real_labels), ("generated", pair.generated_labels))):
            block = level[name][labels == label][:, columns]
            share[2 * i + j] = np.asarray((block > 0).mean(axis=0)).ravel()
            mean[2 * i + j] = np.asarray(block.mean(axis=0)).ravel()
    return MarkerTable(both, genes, owner, share, mean)


def _given(pair: Pair, markers: Mapping[str, Sequence[str]], both: list[str]) -> dict[str, list[str]]:
    chosen = {str(label): [g for g in genes if g in pair.real.genes] for label, genes in markers.items()}
    chosen = {label: genes for label, genes in chosen.items() if label in both and genes}
    if not chosen:
        raise ValueError(
            f"markers must map labels that both have to genes that both have, found labels {list(markers)[:5]} where both "
            f"have {both[:5]}, or no shared gene among theirs."
        )
    return chosen


def _found(pair: Pair, level: sp.csr_matrix, both: list[str], n_markers: int) -> dict[str, list[str]]:
    """The best markers of each label in the real cells, no gene twice."""
    if n_markers < 1:
        raise ValueError(f"n_markers must be at least 1, found {n_markers}.")
    able = [label for label in both if (pair.real_labels == label).sum() >= _MIN_CELLS]
    if len(able) < 2:
        order = pair.real.genes[np.argsort(-_variance(level), kind="stable")]
        return {both[0]: list(order[: max(n_markers, 15)])}
    import anndata
    import scanpy as sc

    mine = np.isin(pair.real_labels, able)
    data = anndata.AnnData(level[mine], obs=_obs(int(mine.sum()), label=pd.Categorical(pair.real_labels[mine])))
    data.var_names = pd.Index(pair.real.genes.astype(str))
    data.uns["log1p"] = {"base": None}
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")  # of genes without counts in one of the groups
        sc.tl.rank_genes_groups(data, "label", method="t-test", pts=True)
    found = data.uns["rank_genes_groups"]
    taken: set[str] = set()
    chosen: dict[str, list[str]] = {}
    for label in able:
        names = pd.Index(found["names"][label])
        inside, outside = (found[part][label].reindex(names).to_numpy() for part in ("pts", "pts_rest"))
        clear = (found["logfoldchanges"][label] > 1) & (inside > 0.25)
        # Genes that most other cells express too say little as dots: they come last, in the order of the test.
        rank = np.lexsort((np.arange(len(names)), ~(clear & (outside < 0.5)), ~clear))
        ranked = [g for g in names[rank[: len(taken) + n_markers]] if g not in taken]
        chosen[label] = ranked[:n_markers]
        taken.update(chosen[label])
    return chosen


def joint_umap(pair: Pair, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(n, 2) coordinates, whether each cell is generated, its label; at most 4,000 cells of each kind."""
    import anndata
    import scanpy as sc

    rng = np.random.default_rng(seed)
    parts, labels = [], []
    for cells, names in ((pair.real, pair.real_labels), (pair.generated, pair.generated_labels)):
        picked = np.sort(rng.choice(cells.n_cells, min(cells.n_cells, _MAX_CELLS), replace=False))
        parts.append(cells.counts[picked])
        labels.append(names[picked])
    generated = np.repeat([False, True], [part.shape[0] for part in parts])
    level = log_normalise(sp.vstack(parts, format="csr"))
    variable = np.sort(np.argsort(-_variance(level), kind="stable")[:2000])
    data = anndata.AnnData(level[:, variable], obs=_obs(level.shape[0]))
    smallest = min(data.shape) - 1
    if smallest < 3:
        raise ValueError(f"A UMAP needs at least 4 cells and genes, found {data.n_obs} and {data.n_vars}.")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # umap: with a seed it uses one thread; spectral start of separate clusters
        sc.pp.pca(data, n_comps=min(30, smallest), random_state=seed)
        sc.pp.neighbors(data, n_neighbors=min(15, smallest), random_state=seed)
        sc.tl.umap(data, random_state=seed)
    return np.asarray(data.obsm["X_umap"]), generated, np.concatenate(labels)


def _variance(level: sp.csr_matrix) -> np.ndarray:
    mean = np.asarray(level.mean(axis=0, dtype=np.float64)).ravel()
    return np.asarray(level.multiply(level).mean(axis=0, dtype=np.float64)).ravel() - mean**2


def _obs(n: int, **columns: Any) -> pd.DataFrame:
    """A table with text names, which anndata asks for."""
    return pd.DataFrame(columns, index=pd.Index(np.arange(n).astype(str).astype(object)))
