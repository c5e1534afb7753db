"""How real and generated cells mix among nearest neighbours, and whether neighbours share a label."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from sclm.metrics.generation.arrays import labels_of, neighbour_count, point_pair, points

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


def _nearest(cells: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Distances and places of the k nearest others of each cell, both (n, k).

    The first column of the answer, which is the cell itself unless it has an exact copy, is left out.
    """
    from sklearn.neighbors import NearestNeighbors

    k = neighbour_count(k, len(cells) - 1)
    distance, place = NearestNeighbors(n_neighbors=k + 1).fit(cells).kneighbors(cells)
    return distance[:, 1:], place[:, 1:]


def neighbour_mixing(x: ArrayLike, y: ArrayLike, *, k: int = 30) -> float:
    r"""How evenly real and generated cells mix: one minus the mean imbalance of each cell's nearest neighbours.

    :math:`1 - 2\,\overline{|s_i - 1/2|}`, :math:`s_i` the share of the neighbours of cell i that come from its own side.

    Parameters
    ----------
    x, y
        Real and generated cells as points, (n, d) and (m, d); take as many of both.
    k
        Neighbours of a cell, less than n + m.

    Returns
    -------
    float
        In [0, 1]. 0: apart. Even perfect mixtures stay below 1, as neighbours are few: 0.86 expected for k = 30.

    Raises
    ------
    ValueError
        If the dimensions differ or there are not enough cells.
    """
    a, b = point_pair(x, y)
    side = np.r_[np.zeros(len(a)), np.ones(len(b))]
    _, place = _nearest(np.r_[a, b], k)
    own = (side[place] == side[:, None]).mean(axis=1)
    return float(1.0 - 2.0 * np.abs(own - 0.5).mean())


def real_neighbours(real: ArrayLike, generated: ArrayLike, *, k: int = 30) -> float:
    """Share of real cells among the nearest neighbours of generated cells, over the share expected in a full mixture.

    Parameters
    ----------
    real, generated
        Cells as points, (n, d) and (m, d).
    k
        Neighbours of a cell, less than n + m.

    Returns
    -------
    float
        1: as many as expected, n / (n + m - 1). 0: generated cells see only each other. Above 1: they lie nearer to real
        cells than to each other.

    Raises
    ------
    ValueError
        If the dimensions differ or there are not enough cells.
    """
    a, b = point_pair(real, generated)
    _, place = _nearest(np.r_[a, b], k)
    share = (place[len(a) :] < len(a)).mean()
    return float(share * (len(a) + len(b) - 1) / len(a))


def inverse_simpson(
    x: ArrayLike,
    y: ArrayLike,
    *,
    labels: tuple[ArrayLike, ArrayLike] | None = None,
    perplexity: float = 30.0,
) -> float:
    r"""Local inverse Simpson index of real against generated (iLISI), scaled to 0–1.

    Around each cell, its :math:`3 \times` `perplexity` nearest neighbours get Gaussian weights of that perplexity; with
    :math:`p` the weight of the real ones, the index is :math:`1 / (p^2 + (1 - p)^2)`, between 1 and 2 (Korsunsky et al.
    2019). The result is the median over cells minus 1, as scIB scales it.

    Parameters
    ----------
    x, y
        Real and generated cells as points, (n, d) and (m, d); take as many of both.
    labels
        Labels of both sides, (n,) and (m,): neighbours are then searched among cells of the same label, so that a cell of
        the right place and the wrong type is not taken for mixed. Labels with fewer than 10 cells in all are left out.
    perplexity
        Effective number of neighbours, > 1; a third of the cells at hand where there are not enough of them.

    Returns
    -------
    float
        In [0, 1]; 1 where every neighbourhood is half real, 0 where the sides lie apart; NaN where no label has enough cells.

    Raises
    ------
    ValueError
        If shapes do not fit or the perplexity is not above 1.
    """
    a, b = point_pair(x, y)
    if not perplexity > 1:
        raise ValueError(f"perplexity must be greater than 1, found {perplexity}.")
    cells = np.r_[a, b]
    real = np.r_[np.ones(len(a)), np.zeros(len(b))]
    if labels is None:
        group = np.zeros(len(cells), dtype=np.int64)
    else:
        both = np.r_[labels_of(labels[0], len(a), "labels[0]"), labels_of(labels[1], len(b), "labels[1]")]
        group = np.unique(both, return_inverse=True)[1]
    scores = []
    for g in range(int(group.max()) + 1):
        members = np.flatnonzero(group == g)
        if len(members) < 10:
            continue
        wide = min(perplexity, (len(members) - 1) / 3.0)
        distance, place = _nearest(cells[members], min(round(3 * perplexity), len(members) - 1))
        share = (_weights(distance, wide) * real[members][place]).sum(axis=1)  # (members,)
        scores.append(1.0 / (share**2 + (1.0 - share) ** 2))
    return float(np.median(np.concatenate(scores)) - 1.0) if scores else float("nan")


def _weights(distance: np.ndarray, perplexity: float) -> np.ndarray:
    """Weights exp(-b d) of each row, (n, k), that sum to 1 and have this perplexity; b found by bisection, row by row."""
    shifted = distance - distance[:, :1]  # the nearest gets weight 1 before scaling: nothing underflows
    low = np.zeros(len(distance))
    high = np.full(len(distance), np.inf)
    rate = np.ones(len(distance))
    target = np.log(perplexity)
    for _ in range(60):
        weight = np.exp(-rate[:, None] * shifted)
        total = weight.sum(axis=1)
        entropy = np.log(total) + rate * (weight * shifted).sum(axis=1) / total
        flat = entropy > target
        low, high = np.where(flat, rate, low), np.where(flat, high, rate)
        rate = np.where(np.isinf(high), rate * 2.0, (low + high) / 2.0)
        rate = np.minimum(rate, 1e12)  # neighbours at one distance keep their entropy whatever the rate
    weight = np.exp(-rate[:, None] * shifted)
    return weight / weight.sum(axis=1, keepdims=True)


def label_homogeneity(cells: ArrayLike, labels: ArrayLike, *, k: int = 15) -> float:
    """Share of a cell's nearest neighbours that have its label, averaged over cells.

    Parameters
    ----------
    cells
        Cells of one side as points, (n, d).
    labels
        Their labels, (n,).
    k
        Neighbours of a cell, less than n.

    Returns
    -------
    float
        In [0, 1]. There is no right value: it should be that of real cells, with as many cells of each label.

    Raises
    ------
    ValueError
        If shapes do not fit or there are not enough cells.
    """
    array = points(cells, "cells")
    names = labels_of(labels, len(array), "labels")
    _, place = _nearest(array, k)
    return float((names[place] == names[:, None]).mean())
