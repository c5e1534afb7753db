"""Neighbours of spots from their coordinates, or from a graph that is there already; never a dense (n, n) matrix."""

from __future__ import annotations

import logging
import operator
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import scipy.sparse as sp

if TYPE_CHECKING:
    from numpy.typing import ArrayLike
    from scipy.spatial import cKDTree

logger = logging.getLogger(__name__)

_SAME = 0.05  # distances to the nearest neighbour that differ by less are those of a grid
_ON_GRID = 0.9  # share of the spots that must have that distance
_RING = 1.1  # rings of a grid lie further apart than this factor, up to the third of a square grid


def neighbour_graph(
    coordinates: ArrayLike, *, n_neighbours: int = 6, library: ArrayLike | None = None
) -> sp.csr_matrix:
    """Connect each spot with the nearest spots of its own library.

    On a grid (hexagonal or square, told by nine of ten spots having the same distance to their nearest neighbour, within
    5 %), a spot is connected with all spots up to the distance at which a spot inside the section has its
    `n_neighbours`-th neighbour: 6 are the ring of a hexagonal grid, 4 and 8 those of a square one (which has no 6: 8 are
    taken), and spots at a border or beside a hole have fewer and no long edges. Elsewhere, as with segmented cells, two
    spots are connected where one is among the `n_neighbours` nearest of the other, so that the graph is symmetric and a
    spot may have more.

    Parameters
    ----------
    coordinates
        (n, 2) or (n, 3) finite numbers in any unit, at least two rows. Spots at the same place are neighbours at
        distance 0.
    n_neighbours
        Number of nearest neighbours, at least 1; all others of a library that has fewer.
    library
        (n,) section that each spot lies on, by default all on one. Spots of different libraries are never connected, so
        their coordinates may overlap; the only spot of a library has no neighbours.

    Returns
    -------
    scipy.sparse.csr_matrix
        (n, n) float32, 1 where two spots are neighbours, symmetric, with an empty diagonal and sorted indices.

    Raises
    ------
    TypeError
        `n_neighbours` is no whole number.
    ValueError
        Coordinates are missing, infinite or of another shape, there are fewer than two spots, `n_neighbours` is below 1,
        or `library` is of another length or has missing values.

    Examples
    --------
    >>> neighbour_graph([[0, 0], [0, 1], [1, 0], [1, 1]], n_neighbours=2).toarray()
    array([[0., 1., 1., 0.],
           [1., 0., 0., 1.],
           [1., 0., 0., 1.],
           [0., 1., 1., 0.]], dtype=float32)
    """
    place = _places(coordinates)
    try:
        wanted = operator.index(n_neighbours)
    except TypeError:
        raise TypeError(f"n_neighbours must be a whole number, found {n_neighbours!r}.") from None
    if wanted < 1:
        raise ValueError(f"n_neighbours must be at least 1, found {wanted}.")
    pairs = [
        spots[_edges(place[spots], min(wanted, len(spots) - 1))]
        for spots in _spots_of_libraries(library, len(place))
        if len(spots) > 1
    ]
    edges = np.concatenate(pairs) if pairs else np.zeros((0, 2), dtype=np.int64)  # (n_edges, 2)
    return _symmetric(edges[:, 0], edges[:, 1], len(place))


def section_graph(
    connectivities: Any | None,
    coordinates: ArrayLike,
    library: ArrayLike | None = None,
    *,
    n_neighbours: int = 6,
) -> sp.csr_matrix:
    """Use the spatial graph that is there, or build one.

    Parameters
    ----------
    connectivities
        Sparse (n, n) of which every value other than 0 is an edge, such as ``.obsp["spatial_connectivities"]`` of squidpy,
        whose nearest-neighbour graphs are not symmetric; an edge in one direction counts for both. None builds the graph
        with :func:`neighbour_graph`.
    coordinates
        (n, 2) or (n, 3) finite numbers; they give the number of spots, and the graph where there is none.
    library
        (n,) section that each spot lies on, by default all on one. Edges between libraries are left out, with a warning.
    n_neighbours
        Where the graph is built, see :func:`neighbour_graph`.

    Returns
    -------
    scipy.sparse.csr_matrix
        (n, n) float32, 1 where two spots are neighbours, symmetric, with an empty diagonal and sorted indices.

    Raises
    ------
    TypeError
        `connectivities` is not sparse.
    ValueError
        `connectivities` has another shape or missing values, or as :func:`neighbour_graph` does.
    """
    if connectivities is None:
        return neighbour_graph(coordinates, n_neighbours=n_neighbours, library=library)
    if not sp.issparse(connectivities):
        raise TypeError(
            f"connectivities must be a scipy sparse matrix, found {type(connectivities).__name__}. "
            "Wrap it in scipy.sparse.csr_matrix."
        )
    n = len(_places(coordinates))
    if connectivities.shape != (n, n):
        raise ValueError(
            f"connectivities must be of shape ({n}, {n}), a row and a column a spot, found {connectivities.shape}. "
            "Build the graph anew after spots were left out or added."
        )
    graph = sp.coo_matrix(connectivities)
    missing = int(np.isnan(graph.data).sum()) if graph.data.dtype.kind == "f" else 0
    if missing:
        raise ValueError(f"connectivities must hold numbers, found {missing:,} missing values. Build the graph anew.")
    edge = graph.data != 0
    row, column = graph.row[edge], graph.col[edge]
    if library is not None:
        code = _library_codes(library, n)
        across = code[row] != code[column]
        if across.any():
            logger.warning(
                "%d of %d edges of the spatial graph join spots of different libraries and are left out",
                across.sum(),
                len(row),
            )
            row, column = row[~across], column[~across]
    return _symmetric(row, column, n)


# -- input -----------------------------------------------------------------------------------------------------------


def _places(coordinates: ArrayLike) -> np.ndarray:
    """Coordinates as (n, 2 or 3) float64, after checks."""
    try:
        place = np.asarray(coordinates, dtype=np.float64)
    except (TypeError, ValueError):
        raise ValueError("coordinates must be numbers, found values that are none.") from None
    if place.ndim != 2 or place.shape[1] not in (2, 3):
        raise ValueError(f"coordinates must be of shape (spots, 2) or (spots, 3), found {place.shape}.")
    if len(place) < 2:
        raise ValueError(
            f"coordinates must be those of at least 2 spots, found {len(place)}: one spot has no neighbours."
        )
    wrong = ~np.isfinite(place).all(axis=1)
    if wrong.any():
        raise ValueError(
            f"coordinates must be finite, found {wrong.sum():,} of {len(place):,} spots without, the first in row "
            f"{np.flatnonzero(wrong)[0]}. Leave these spots out."
        )
    return place


def _library_codes(library: ArrayLike, n: int) -> np.ndarray:
    """(n,) number of each spot's library."""
    names = pd.Series(np.asarray(library, dtype=object))
    if len(names) != n:
        raise ValueError(f"library must name the library of each of {n:,} spots, found {len(names):,} values.")
    missing = int(names.isna().sum())
    if missing:
        raise ValueError(f"library must name the library of each spot, found {missing:,} of {n:,} without one.")
    return pd.factorize(names)[0]


def _spots_of_libraries(library: ArrayLike | None, n: int) -> list[np.ndarray]:
    """Numbers of the spots of each library."""
    if library is None:
        return [np.arange(n)]
    code = _library_codes(library, n)
    order = np.argsort(code, kind="stable")
    return np.split(order, np.cumsum(np.bincount(code))[:-1])


# -- edges -----------------------------------------------------------------------------------------------------------


def _edges(place: np.ndarray, k: int) -> np.ndarray:
    """(n_edges, 2) pairs of spots, in one direction or both."""
    from scipy.spatial import cKDTree

    tree = cKDTree(place)
    distance, neighbour = tree.query(place, k=k + 1)  # (n, k + 1), the spot itself among them
    spot = np.arange(len(place))
    itself = neighbour == spot[:, None]
    itself[~itself.any(axis=1), -1] = True  # more than k others at the same place: any of them gives way
    # (n, k + 1) without one a row -> (n, k)
    distance, neighbour = (values[~itself].reshape(len(place), k) for values in (distance, neighbour))
    radius = _grid_radius(tree, distance)
    if radius is not None:
        return tree.query_pairs(radius, output_type="ndarray")
    return np.column_stack([np.repeat(spot, k), neighbour.ravel()])


def _grid_radius(tree: cKDTree, distance: np.ndarray) -> float | None:
    """Distance within which spots of a grid are neighbours; None where they lie on no grid or all others are wanted."""
    nearest, farthest = distance[:, 0], distance[:, -1]
    pitch = float(np.median(nearest))
    if pitch == 0 or tree.n == distance.shape[1] + 1 or (np.abs(nearest - pitch) <= _SAME * pitch).mean() < _ON_GRID:
        return None
    # Spots inside the section have their k-th neighbour nearer than those at its border, so a low quantile is theirs;
    # ties at the same distance are all taken, instead of some that the order of the spots would choose.
    return _RING * float(np.quantile(farthest, 0.05))


def _symmetric(row: np.ndarray, column: np.ndarray, n: int) -> sp.csr_matrix:
    """(n, n) float32, 1 where a pair stands in either direction; a spot is not its own neighbour."""
    other = row != column
    row, column = row[other], column[other]
    pairs = (np.concatenate([row, column]), np.concatenate([column, row]))
    graph = sp.csr_matrix((np.ones(2 * len(row), dtype=np.float32), pairs), shape=(n, n))  # repeats are added up
    graph.sort_indices()
    graph.data = np.ones(graph.nnz, dtype=np.float32)
    return graph
