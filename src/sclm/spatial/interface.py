"""Where two tissues meet: a smoothed field, its gradient, its two sides, and the signed distance to the border."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import scipy.sparse as sp

from sclm.spatial.graph import _ON_GRID, _SAME

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

_BANDWIDTH = 0.6  # of the kernel, in units of the distance to the farthest of the neighbours
_FLOOR = 0.2  # of the score away from a change of sides
_TIES = 16  # more neighbours to look at, since spots of a grid lie equally far: no ring of a usual grid has more
_BLOCK = 65_536  # spots whose neighbours are held at a time


class Interface(NamedTuple):
    """The border between an inner and an outer tissue on one section.

    Attributes
    ----------
    field
        (n,) float64, share of the inner tissue smoothed over the neighbours, 0–1; NaN without any weight nearby.
    gradient
        (n,) float64, length of its gradient, 0–1: 0 where all neighbours are alike.
    inside
        (n,) bool, the inner side: the field above the threshold, islands removed.
    score
        (n,) float64, the gradient where the border is near, a fifth of it far away.
    distance
        (n,) float64, distance to the nearest spot of the other side in the units of the coordinates, negative inside; NaN
        where a section has one side only.
    removed
        Number of spots that changed sides because their island was too small.
    threshold
        Of the field, as it was given or chosen.
    """

    field: np.ndarray
    gradient: np.ndarray
    inside: np.ndarray
    score: np.ndarray
    distance: np.ndarray
    removed: int
    threshold: float


def find_interface(
    coordinates: ArrayLike,
    share: ArrayLike,
    graph: sp.csr_matrix,
    *,
    weight: ArrayLike | None = None,
    threshold: float | None = 0.5,
    n_neighbours: int | None = None,
    min_spots: int | None = None,
) -> Interface:
    r"""Find the border of a tissue on one section from the share of it in each spot.

    With the :math:`K` nearest neighbours of a spot at distance :math:`d_{ij}` in direction :math:`u_{ij}`, and kernel weights
    :math:`w_{ij} \propto m_j \exp(-d_{ij}^2 / 2 h_i^2)`, where :math:`h_i = 0.6\,d_{iK}`:

    .. math:: p_i = \sum_j w_{ij} t_j, \qquad g_i = \Big\| \sum_j w_{ij} u_{ij} (t_j - p_i) \Big\|, \qquad
              s_i = g_i \, \big(0.2 + e^{-b_i^2 / 2 \rho^2}\big).

    :math:`p` is the field, with the spot itself among the neighbours, and :math:`g` its gradient. Spots with a field above the
    threshold are inside, after regions that are too small went over to the other side; :math:`b` is the distance to the
    nearest spot of the other side and :math:`\rho` the width of a ring of the graph (:func:`ring_width`). For labels the
    gradient is the product of mixing, :math:`4p(1-p)`, and one-sidedness, so that cells of the other tissue strewn in at random
    (infiltration) count little, and the distance to a border without islands makes them count less.

    Parameters
    ----------
    coordinates
        (n, 2) or (n, 3) finite numbers, of one section.
    share
        (n,) share of the inner tissue in each spot, 0–1; NaN where it is not known, which then counts for nothing.
    graph
        (n, n) symmetric, which spots lie side by side, as :func:`neighbour_graph` gives it.
    weight
        (n,) how much each spot counts in the field, 0 or more; all the same when None.
    threshold
        Of the field: above it is inside. None: where it divides the field into two groups of least variance within
        (:func:`otsu_threshold`).
    n_neighbours
        Nearest neighbours :math:`K`, at least 3; fewer on a section of fewer spots. None: 12 on a grid, whose spots are means
        over several cells already, 30 elsewhere.
    min_spots
        Connected regions of one side with fewer spots than this go over to the other side, inner ones first. None: 5 on a
        grid, 10 elsewhere. Outer ones without an inner neighbour, such as debris beside the tissue, stay.

    Returns
    -------
    An :class:`Interface`.

    Raises
    ------
    ValueError
        If lengths do not fit, a share is not within 0 and 1, or a number is out of range.
    """
    place = np.asarray(coordinates, dtype=np.float64)
    t = np.asarray(share, dtype=np.float64)
    m = np.ones(len(t)) if weight is None else np.asarray(weight, dtype=np.float64)
    if place.ndim != 2 or t.shape != (len(place),) or m.shape != t.shape or graph.shape != (len(t), len(t)):
        raise ValueError(
            f"coordinates (n, 2), share (n,), weight (n,) and graph (n, n) must describe the same spots, found "
            f"{place.shape}, {t.shape}, {m.shape} and {graph.shape}."
        )
    known = np.isfinite(t) & (m > 0)
    if known.any() and (t[known].min() < -1e-6 or t[known].max() > 1 + 1e-6):
        raise ValueError(f"share must lie within 0 and 1, found {t[known].min():g} to {t[known].max():g}.")
    grid = on_grid(place) if n_neighbours is None or min_spots is None else False
    n_neighbours = (12 if grid else 30) if n_neighbours is None else n_neighbours
    min_spots = (5 if grid else 10) if min_spots is None else min_spots
    if n_neighbours < 3 or min_spots < 1:
        raise ValueError(
            f"n_neighbours must be at least 3 and min_spots at least 1, found {n_neighbours} and {min_spots}."
        )
    field, gradient = smooth_field(place, np.where(known, t, 0.0), np.where(known, m, 0.0), n_neighbours)
    if threshold is None:
        threshold = otsu_threshold(field) if np.isfinite(field).any() else 0.5
    raw = np.nan_to_num(field, nan=-1.0) > threshold
    inside, removed = _without_islands(raw, graph, min_spots)
    distance = signed_distance(place, inside)
    rings = np.nan_to_num(distance, nan=np.inf) / (ring_width(place, graph) or 1.0)
    score = np.nan_to_num(gradient) * (_FLOOR + np.exp(-0.5 * rings**2))
    return Interface(field, gradient, inside, score, distance, removed, float(threshold))


def on_grid(coordinates: ArrayLike) -> bool:
    """Whether nine of ten spots are equally far, within 5 %, from the nearest other one: then they lie on a grid.

    Parameters
    ----------
    coordinates
        (n, 2) or (n, 3) finite numbers, of one section.

    Returns
    -------
    False for fewer than three spots.
    """
    from scipy.spatial import cKDTree

    place = np.asarray(coordinates, dtype=np.float64)
    if len(place) < 3:
        return False
    nearest = cKDTree(place).query(place, k=2)[0][:, 1]
    pitch = float(np.median(nearest))
    return bool(pitch > 0 and (np.abs(nearest - pitch) <= _SAME * pitch).mean() >= _ON_GRID)


def smooth_field(
    place: np.ndarray, share: np.ndarray, weight: np.ndarray, n_neighbours: int
) -> tuple[np.ndarray, np.ndarray]:
    """The field and the length of its gradient: see :func:`find_interface`.

    Parameters
    ----------
    place
        (n, 2) or (n, 3) coordinates.
    share
        (n,) values, finite.
    weight
        (n,) weights, 0 or more; a spot of weight 0 counts for nothing, and still gets a value of its neighbours.
    n_neighbours
        Nearest neighbours besides the spot itself.

    Returns
    -------
    Two (n,) float64; NaN where no neighbour has weight.
    """
    from scipy.spatial import cKDTree

    n = len(place)
    k = min(n_neighbours, n - 1)
    field, gradient = np.full(n, np.nan), np.full(n, np.nan)
    if k < 1:
        return np.where(weight > 0, share, np.nan), np.where(weight > 0, 0.0, np.nan)
    tree = cKDTree(place)
    for first in range(0, n, _BLOCK):
        rows = slice(first, min(first + _BLOCK, n))
        distance, near = tree.query(place[rows], k=min(k + 1 + _TIES, n))  # (b, c), the spot itself among them
        last = distance[:, k : k + 1]
        # On a grid many spots are as far as the last one: all of them count, whatever the order of the spots.
        w = np.exp(-0.5 * (distance / np.maximum(_BANDWIDTH * last, 1e-300)) ** 2) * weight[near]
        w[distance > last * (1 + 1e-9)] = 0.0
        total = w.sum(axis=1)
        there = total > 0
        w = w[there] / total[there, None]  # (b, c)
        values = share[near[there]]
        p = (w * values).sum(axis=1)
        apart = place[near[there]] - place[rows][there][:, None]  # (b, c, dimensions)
        length = np.maximum(distance[there], 1e-300)[..., None]
        pull = (w * (values - p[:, None]))[..., None] * apart / length
        field[np.arange(n)[rows][there]] = p
        gradient[np.arange(n)[rows][there]] = np.linalg.norm(pull.sum(axis=1), axis=1)
    return field, gradient


def signed_distance(place: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Distance of each spot to the nearest one of the other side, negative inside.

    Parameters
    ----------
    place
        (n, 2) or (n, 3) coordinates.
    inside
        (n,) bool.

    Returns
    -------
    (n,) float64; NaN where there is one side only.
    """
    from scipy.spatial import cKDTree

    distance = np.full(len(place), np.nan)
    if inside.any() and not inside.all():
        distance[inside] = -cKDTree(place[~inside]).query(place[inside])[0]
        distance[~inside] = cKDTree(place[inside]).query(place[~inside])[0]
    return distance


def otsu_threshold(values: ArrayLike) -> float:
    """The value that divides numbers into two groups of least variance within (Otsu 1979), exactly, without a histogram.

    Parameters
    ----------
    values
        (n,) numbers; those that are not finite are left out.

    Returns
    -------
    Midway between the two groups; the value itself where all are the same.

    Raises
    ------
    ValueError
        If no number is finite.

    Examples
    --------
    >>> otsu_threshold([0.0, 0.1, 0.2, 0.8, 0.9])
    0.5
    """
    x = np.sort(np.asarray(values, dtype=np.float64)[np.isfinite(values)])
    if not len(x):
        raise ValueError("a threshold needs at least one finite number, found none.")
    below = np.arange(1, len(x))  # number of values in the lower group
    if not len(below):
        return float(x[0])
    sums = np.cumsum(x)
    between = (sums[:-1] * len(x) - sums[-1] * below) ** 2 / (below * (len(x) - below))
    between[x[1:] == x[:-1]] = -1.0  # equal values stay together
    best = int(between.argmax())
    return float((x[best] + x[best + 1]) / 2)


def ring_width(place: np.ndarray, graph: sp.csr_matrix) -> float:
    """Median distance of a spot to the farthest of its neighbours on the graph: the width of a ring.

    Parameters
    ----------
    place
        (n, 2) or (n, 3) coordinates.
    graph
        (n, n) symmetric.

    Returns
    -------
    In the units of the coordinates; 0 where there are no edges.
    """
    edges = sp.coo_matrix(graph)
    if not edges.nnz:
        return 0.0
    length = np.linalg.norm(place[edges.row] - place[edges.col], axis=1)
    farthest = np.full(len(place), -1.0)
    np.maximum.at(farthest, edges.row, length)
    return float(np.median(farthest[farthest >= 0]))


def _without_islands(inside: np.ndarray, graph: sp.csr_matrix, min_spots: int) -> tuple[np.ndarray, int]:
    """Sides without regions of fewer spots than that: inner islands first, then outer ones."""
    from scipy.sparse.csgraph import connected_components

    side = inside.copy()
    for value in (True, False):
        rows = np.flatnonzero(side == value)
        # the last region of a side stays, however small: without it there is no border left to speak of
        if not len(rows):
            continue
        code = connected_components(graph[rows][:, rows], directed=False)[1]
        size = np.bincount(code)
        small = size < min_spots
        if not value:  # a fragment that touches no inner spot is no hole
            touches = np.asarray(graph[rows] @ side.astype(np.float64)).ravel() > 0
            small &= np.bincount(code, weights=touches) > 0
        small[size.argmax()] = False
        side[rows[small[code]]] = not value
    return side, int((side != inside).sum())
