"""How well vectors of cells keep cell types apart and batches together."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

_SILHOUETTES = 5_000  # cells that silhouettes, which compare all pairs, are taken of


def embedding(
    vectors: np.ndarray,
    labels: ArrayLike,
    *,
    batches: ArrayLike | None = None,
    n_neighbors: int = 15,
    seed: int = 0,
) -> dict[str, float]:
    r"""Purity of cell types and mixing of batches among the nearest neighbours.

    Parameters
    ----------
    vectors
        (n, D) vectors of cells; rows with NaN are left out and counted.
    labels
        (n,) cell type of each; missing ones are left out.
    batches
        (n,) donor, run or study of each.
    n_neighbors
        k, Euclidean neighbours of each cell, itself not counted.
    seed
        Of the cells that silhouettes are taken of, where there are more than 5,000.

    Returns
    -------
    ``type_purity``
        0–1: share of a cell's neighbours that are of its type, mean over cells of a type, then over types, so that rare types count.
    ``type_silhouette``
        Mean silhouette width of the types, -1 to 1.
    ``batch_mixing``
        With ``batches``: entropy of the batches among a cell's neighbours, divided by that of the batches among the cells of its type
        (so that a batch that lacks a type costs nothing), mean over the cells of types that at least two batches hold. 1 is mixed as by
        chance; 0 every cell among its own batch. NaN where no type is in two batches.
    ``batch_silhouette``
        With ``batches``: mean over types of :math:`1 - |s|`, s the silhouette of the batches within the type (Luecken et al. 2022); 1 is
        mixed.
    ``n_cells``
        Cells that were used.

    Raises
    ------
    ValueError
        If lengths differ, or too few cells are left.

    References
    ----------
    Luecken et al., Benchmarking atlas-level data integration in single-cell genomics, Nature Methods 19 (2022).

    Examples
    --------
    >>> import numpy as np
    >>> points = np.repeat([[0.0, 0.0], [9.0, 9.0]], 10, axis=0) + np.arange(20)[:, None] / 100
    >>> scores = embedding(points, np.repeat(["a", "b"], 10), n_neighbors=3)
    >>> scores["type_purity"]
    1.0
    """
    import pandas as pd
    from sklearn.neighbors import NearestNeighbors

    vectors = np.asarray(vectors)
    of = np.asarray(pd.Series(np.asarray(labels, dtype=object)))
    if vectors.ndim != 2 or len(of) != len(vectors):
        raise ValueError(f"labels must be one a vector, found {len(of):,} for vectors of shape {vectors.shape}.")
    batch = None if batches is None else np.asarray(batches, dtype=object)
    if batch is not None and len(batch) != len(vectors):
        raise ValueError(f"batches must be one a vector, found {len(batch):,} for {len(vectors):,}.")
    use = np.isfinite(vectors).all(axis=1) & pd.notna(of)
    if batch is not None:
        use &= pd.notna(batch)
    if use.sum() <= n_neighbors:
        raise ValueError(
            f"n_neighbors={n_neighbors} needs more than as many cells with a vector and a label, found {use.sum()}."
        )
    vectors, types = vectors[use], pd.factorize(of[use])[0]
    search = NearestNeighbors(n_neighbors=n_neighbors).fit(vectors)
    near = search.kneighbors(return_distance=False)  # (n, k), a cell is no neighbour of itself
    same = (types[near] == types[:, None]).mean(axis=1)
    out = {"type_purity": float(_mean_by(same, types).mean())}
    some = np.random.default_rng(seed).permutation(len(types))[:_SILHOUETTES]
    out["type_silhouette"] = (
        _silhouette(vectors[some], types[some]).mean() if np.unique(types[some]).size > 1 else np.nan
    )
    if batch is not None:
        codes = pd.factorize(batch[use])[0]
        out["batch_mixing"] = _mixing(codes, types, near)
        widths = []
        for t in range(types.max() + 1):
            here = some[types[some] == t]
            if 1 < np.unique(codes[here]).size < here.size:
                widths.append(float((1 - np.abs(_silhouette(vectors[here], codes[here]))).mean()))
        out["batch_silhouette"] = float(np.mean(widths)) if widths else np.nan
    out["n_cells"] = float(len(types))
    return {name: float(value) for name, value in out.items()}


def _mixing(codes: np.ndarray, types: np.ndarray, near: np.ndarray) -> float:
    n_batches = int(codes.max()) + 1
    counts = np.zeros((len(codes), n_batches))
    np.add.at(counts, (np.arange(len(codes))[:, None], codes[near]), 1.0)
    table = np.zeros((int(types.max()) + 1, n_batches))
    np.add.at(table, (types, codes), 1.0)
    usual = _entropy(table)[types]
    shared = usual > 0
    if not shared.any():
        return float("nan")
    # of k neighbours the expected entropy is a little below that of the type: the first-order bias (m - 1) / 2k is put back
    k = near.shape[1]
    present = (table > 0).sum(axis=1)[types]
    expected = np.maximum(usual - (present - 1) / (2 * k), 1e-9)
    return float(np.mean(np.minimum(_entropy(counts)[shared] / expected[shared], 1.0)))


def _entropy(counts: np.ndarray) -> np.ndarray:
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1.0)
    return -(share * np.log(np.where(share > 0, share, 1.0))).sum(axis=1)


def _mean_by(values: np.ndarray, groups: np.ndarray) -> np.ndarray:
    return np.bincount(groups, weights=values) / np.bincount(groups)


def _silhouette(vectors: np.ndarray, groups: np.ndarray) -> np.ndarray:
    from sklearn.metrics import silhouette_samples

    return silhouette_samples(vectors, groups)
