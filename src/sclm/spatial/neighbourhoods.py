"""What surrounds a spot: means over its neighbours, hop by hop, and an order of spots that no file decides."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


def reading_order(coordinates: ArrayLike, library: ArrayLike | None = None) -> np.ndarray:
    """Order spots by library and place, so that a result need not depend on the order in which a file holds them.

    Parameters
    ----------
    coordinates
        (n, 2) or (n, 3) numbers.
    library
        (n,) number of the section that each spot lies on; all on one where None.

    Returns
    -------
    numpy.ndarray
        (n,) int64 rows by library, then by the first coordinate, the second and so on. Spots of one library at the same
        place stay in the order in which they came.

    Examples
    --------
    >>> reading_order([[1.0, 0.0], [0.0, 5.0], [0.0, 2.0]]).tolist()
    [2, 1, 0]
    """
    places = np.asarray(coordinates, dtype=np.float64)
    keys = [places[:, i] for i in range(places.shape[1] - 1, -1, -1)]
    if library is not None:
        keys.append(np.asarray(library))
    return np.lexsort(keys).astype(np.int64)


def neighbour_means(graph: sp.spmatrix, *, itself: bool = True) -> sp.csr_matrix:
    """The matrix that takes the mean of each spot's neighbours.

    Parameters
    ----------
    graph
        Sparse (n, n), not 0 where two spots are neighbours, with an empty diagonal, as :func:`section_graph` gives it.
    itself
        Count the spot among its neighbours.

    Returns
    -------
    scipy.sparse.csr_matrix
        (n, n) float32, rows sum to 1. A spot without neighbours keeps its own value either way.

    Examples
    --------
    >>> import scipy.sparse as sp
    >>> neighbour_means(sp.csr_matrix([[0.0, 1.0], [1.0, 0.0]])).toarray().tolist()
    [[0.5, 0.5], [0.5, 0.5]]
    """
    n = graph.shape[0]
    edges = sp.csr_matrix((graph != 0).astype(np.float32))
    alone = np.diff(edges.indptr) == 0
    own = np.ones(n, dtype=np.float32) if itself else alone.astype(np.float32)
    edges = sp.csr_matrix(edges + sp.diags(own, format="csr"))
    edges.eliminate_zeros()
    edges.sort_indices()
    edges.data = np.repeat(1 / np.diff(edges.indptr), np.diff(edges.indptr)).astype(np.float32)
    return edges


def hop_means(values: np.ndarray, graph: sp.spmatrix, n_hops: int) -> np.ndarray:
    r"""Values of each spot beside the means of what surrounds it, nearer and farther.

    With :math:`W` the mean over a spot and its neighbours, the columns are :math:`[P, WP, W^2P, \dots]`: hop *h* is a mean over
    all spots within *h* steps in which near ones weigh more. CellCharter (Varrone et al., Nature Genetics 56, 2024) concatenates
    hops in this way.

    Parameters
    ----------
    values
        (n, k) numbers, such as principal components.
    graph
        Sparse (n, n) of neighbours.
    n_hops
        How far to go, 0 or more.

    Returns
    -------
    numpy.ndarray
        (n, k · (n_hops + 1)) float32. Memory is that of the result.

    Raises
    ------
    ValueError
        `n_hops` is below 0.

    Examples
    --------
    >>> import numpy as np, scipy.sparse as sp
    >>> hop_means(np.array([[0.0], [4.0]]), sp.csr_matrix([[0, 1], [1, 0]]), 1).tolist()
    [[0.0, 2.0], [4.0, 2.0]]
    """
    if n_hops < 0:
        raise ValueError(f"n_hops must be 0 or more, found {n_hops}.")
    means = neighbour_means(graph)
    n, width = values.shape
    out = np.empty((n, width * (n_hops + 1)), dtype=np.float32)
    out[:, :width] = values
    for hop in range(1, n_hops + 1):
        out[:, hop * width : (hop + 1) * width] = means @ out[:, (hop - 1) * width : hop * width]
    return out
