"""Naive generators (floors) and cheats, against which a generator has to prove itself.

All take raw counts of training cells with their labels and the labels of the cells to write, and keep the depths of real
cells. Legend of shapes: t training cells · n cells to write · G genes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from sclm.metrics.generation.arrays import count_matrix, labels_of, log_scale, neighbour_count

if TYPE_CHECKING:
    from collections.abc import Callable

    import scipy.sparse as sp
    from numpy.typing import ArrayLike


def independent_poisson(counts: Any, labels: ArrayLike, wanted: ArrayLike, *, seed: int = 0) -> sp.csr_matrix:
    """Cells whose genes are independent Poisson draws around the profile of their label (a floor).

    Each cell takes its expected depth from a training cell of its label.

    Parameters
    ----------
    counts
        Raw counts of training cells, (t, G), CSR or dense.
    labels
        Their labels, (t,).
    wanted
        Labels of the cells to write, (n,), all found among `labels`.
    seed
        Of all draws.

    Returns
    -------
    scipy.sparse.csr_matrix
        (n, G) float32, raw counts, rows in the order of `wanted`.

    Raises
    ------
    ValueError
        If shapes do not fit, a value is no count, or a wanted label has no training cell.
    """
    matrix, names, asked = _checked(counts, labels, wanted)
    rng = np.random.default_rng(seed)
    source = _sources(names, asked, rng)
    depth = _totals(matrix)[source]
    rows: list[tuple[np.ndarray, np.ndarray]] = [(np.zeros(0, np.int32), np.zeros(0))] * len(asked)
    for label in np.unique(asked):
        pool = np.asarray(matrix[np.flatnonzero(names == label)].sum(axis=0, dtype=np.float64)).ravel()
        genes = np.flatnonzero(pool)
        share = pool[genes] / max(pool.sum(), 1.0)
        for i in np.flatnonzero(asked == label):
            rows[i] = (genes, rng.poisson(depth[i] * share))
    return _stack(rows, matrix.shape[1])


def mean_of_five(
    counts: Any, labels: ArrayLike, wanted: ArrayLike, *, n_cells: int = 5, seed: int = 0
) -> sp.csr_matrix:
    """Cells drawn from the mean of a few random cells of their label, as a multinomial (a floor).

    The depth is that of one of the few.

    Parameters
    ----------
    counts
        Raw counts of training cells, (t, G), CSR or dense.
    labels
        Their labels, (t,).
    wanted
        Labels of the cells to write, (n,), all found among `labels`.
    n_cells
        How many cells are averaged, all there are of a label with fewer.
    seed
        Of all draws.

    Returns
    -------
    scipy.sparse.csr_matrix
        (n, G) float32, raw counts, rows in the order of `wanted`.

    Raises
    ------
    ValueError
        If shapes do not fit, a value is no count, a wanted label has no training cell or `n_cells` is below 1.
    """
    matrix, names, asked = _checked(counts, labels, wanted)
    if n_cells < 1:
        raise ValueError(f"n_cells must be at least 1, found {n_cells}.")
    rng = np.random.default_rng(seed)
    members = {label: np.flatnonzero(names == label) for label in np.unique(asked)}
    few = [rng.choice(members[a], min(n_cells, len(members[a])), replace=False) for a in asked]
    return _around(matrix, few, rng)


def resampled(counts: Any, labels: ArrayLike, wanted: ArrayLike, *, seed: int = 0) -> sp.csr_matrix:
    """Copies of training cells (a cheat): perfect by every metric but those of memorisation.

    Each training cell of a label is used once before any is used again.

    Parameters
    ----------
    counts
        Raw counts of training cells, (t, G), CSR or dense.
    labels
        Their labels, (t,).
    wanted
        Labels of the cells to write, (n,), all found among `labels`.
    seed
        Of all draws.

    Returns
    -------
    scipy.sparse.csr_matrix
        (n, G) float32, raw counts, rows in the order of `wanted`.

    Raises
    ------
    ValueError
        If shapes do not fit, a value is no count, or a wanted label has no training cell.
    """
    matrix, names, asked = _checked(counts, labels, wanted)
    return matrix[_sources(names, asked, np.random.default_rng(seed))].astype(np.float32)


def multinomial_around_one(counts: Any, labels: ArrayLike, wanted: ArrayLike, *, seed: int = 0) -> sp.csr_matrix:
    """Cells drawn from the counts of one training cell of their label, as a multinomial of its depth (a cheat).

    Parameters
    ----------
    counts
        Raw counts of training cells, (t, G), CSR or dense.
    labels
        Their labels, (t,).
    wanted
        Labels of the cells to write, (n,), all found among `labels`.
    seed
        Of all draws.

    Returns
    -------
    scipy.sparse.csr_matrix
        (n, G) float32, raw counts, rows in the order of `wanted`.

    Raises
    ------
    ValueError
        If shapes do not fit, a value is no count, or a wanted label has no training cell.
    """
    matrix, names, asked = _checked(counts, labels, wanted)
    rng = np.random.default_rng(seed)
    return _around(matrix, list(_sources(names, asked, rng)[:, None]), rng)  # (n,) -> (n, 1)


def multinomial_around_neighbours(
    counts: Any,
    labels: ArrayLike,
    wanted: ArrayLike,
    *,
    k: int = 5,
    n_components: int = 50,
    seed: int = 0,
) -> sp.csr_matrix:
    """Cells drawn from the mean of a training cell and its nearest ones, as a multinomial of its depth (a cheat).

    Neighbours are searched among all training cells, in principal components (not centred) of log1p CP10k, 2,000 genes of
    highest variance.

    Parameters
    ----------
    counts
        Raw counts of training cells, (t, G), CSR or dense.
    labels
        Their labels, (t,).
    wanted
        Labels of the cells to write, (n,), all found among `labels`.
    k
        Neighbours of the training cell that are averaged with it, less than t.
    n_components
        Principal components, fewer where cells or genes do not allow as many.
    seed
        Of all draws.

    Returns
    -------
    scipy.sparse.csr_matrix
        (n, G) float32, raw counts, rows in the order of `wanted`.

    Raises
    ------
    ValueError
        If shapes do not fit, a value is no count, a wanted label has no training cell or there are not more than `k`.
    """
    from sklearn.neighbors import NearestNeighbors

    from sclm.metrics.generation.agreement import variable_genes
    from sclm.metrics.generation.spaces import N_GENES, Space

    matrix, names, asked = _checked(counts, labels, wanted)
    k = neighbour_count(k, matrix.shape[0] - 1)
    log = log_scale(matrix)
    cells = Space.fit(log, variable_genes(log, N_GENES), n_components=n_components, seed=seed).transform(log)
    rng = np.random.default_rng(seed)
    source = _sources(names, asked, rng)
    near = NearestNeighbors(n_neighbors=k + 1).fit(cells).kneighbors(cells[source], return_distance=False)  # (n, k + 1)
    # an exact copy may stand in the cell's place: the others, without the cell, the nearest k of them
    few = [np.r_[s, row[row != s][:k]] for s, row in zip(source, near, strict=True)]
    return _around(matrix, few, rng)


FLOORS: dict[str, Callable[..., Any]] = {
    "poisson": independent_poisson,
    "mean_of_5": mean_of_five,
    "copies": resampled,
}


def _checked(counts: Any, labels: ArrayLike, wanted: ArrayLike) -> tuple[sp.csr_matrix, np.ndarray, np.ndarray]:
    matrix = count_matrix(counts, "counts")
    names = labels_of(labels, matrix.shape[0], "labels")
    asked = np.asarray(wanted, dtype=object).astype(str)
    if asked.ndim != 1 or not len(asked):
        raise ValueError(f"wanted must hold the label of at least one cell to write, found shape {asked.shape}.")
    unseen = sorted(set(asked) - set(names))
    if unseen:
        raise ValueError(
            f"wanted must name labels of training cells, found {len(unseen)} that have none (first: {str(unseen[0])!r})."
        )
    return matrix, names, asked


def _totals(matrix: sp.csr_matrix) -> np.ndarray:
    return np.asarray(matrix.sum(axis=1, dtype=np.float64)).ravel()


def _sources(names: np.ndarray, asked: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A training cell of the right label for each cell to write, (n,); each is used once before any is used again."""
    source = np.empty(len(asked), dtype=np.int64)
    for label in np.unique(asked):
        members, places = np.flatnonzero(names == label), np.flatnonzero(asked == label)
        rounds = -(-len(places) // len(members))
        source[places] = np.concatenate([rng.permutation(members) for _ in range(rounds)])[: len(places)]
    return source


def _around(matrix: sp.csr_matrix, sources: list[np.ndarray], rng: np.random.Generator) -> sp.csr_matrix:
    """One multinomial cell around the mean of each group of training cells, of the depth of the first of the group."""
    totals = _totals(matrix)
    rows = []
    for group in sources:
        pool = matrix[group].sum(axis=0, dtype=np.float64)
        pool = np.asarray(pool).ravel()  # (1, G) -> (G,)
        genes = np.flatnonzero(pool)
        weight = pool[genes]
        rows.append((genes, rng.multinomial(round(totals[group[0]]), weight / weight.sum()) if len(genes) else weight))
    return _stack(rows, matrix.shape[1])


def _stack(rows: list[tuple[np.ndarray, np.ndarray]], n_genes: int) -> sp.csr_matrix:
    """Rows of (genes, counts) as one CSR without explicit zeros."""
    import scipy.sparse as sp

    kept = [(genes[values > 0], values[values > 0]) for genes, values in rows]
    indptr = np.r_[0, np.cumsum([len(genes) for genes, _ in kept])]
    data = np.concatenate([values for _, values in kept]).astype(np.float32)
    return sp.csr_matrix((data, np.concatenate([g for g, _ in kept]), indptr), shape=(len(rows), n_genes))
