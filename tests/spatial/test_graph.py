"""Spatial graphs against dense distances, scikit-learn and squidpy."""

from __future__ import annotations

import logging
import tracemalloc
import warnings

import numpy as np
import pytest
import scipy.sparse as sp
from scipy.spatial.distance import cdist

from sclm.spatial import neighbour_graph, section_graph


def hexagonal(rows: int = 12, columns: int = 10, pitch: float = 100.0) -> np.ndarray:
    row, column = np.divmod(np.arange(rows * columns), columns)
    return np.column_stack([(column + row % 2 / 2) * pitch, row * np.sqrt(3) / 2 * pitch])


def square(rows: int = 9, columns: int = 11) -> np.ndarray:
    return np.column_stack(np.divmod(np.arange(rows * columns), columns)).astype(float)


def within(place: np.ndarray, radius: float) -> np.ndarray:
    near = cdist(place, place) <= radius
    np.fill_diagonal(near, False)
    return near.astype(np.float32)


def check_form(graph: sp.csr_matrix, n: int) -> None:
    assert isinstance(graph, sp.csr_matrix)
    assert graph.shape == (n, n)
    assert graph.dtype == np.float32
    assert graph.has_canonical_format
    assert set(np.unique(graph.data)) <= {1.0}
    assert (graph != graph.T).nnz == 0
    assert graph.diagonal().sum() == 0


@pytest.mark.parametrize(
    ("place", "k", "radius", "inside"),
    [
        (hexagonal(), 6, 101, 6),
        (hexagonal(), 18, 201, 18),
        (square(), 4, 1.01, 4),
        (square(), 8, 1.5, 8),
        (square(), 6, 1.5, 8),
        (square(), 12, 2.01, 12),
    ],
)
def test_grids_have_their_rings(place: np.ndarray, k: int, radius: float, inside: int) -> None:
    graph = neighbour_graph(place, n_neighbours=k)
    check_form(graph, len(place))
    np.testing.assert_array_equal(graph.toarray(), within(place, radius))
    assert graph.sum(axis=1).max() == inside


def test_a_turned_grid_with_holes_and_rounded_coordinates() -> None:
    rng = np.random.default_rng(0)
    place = hexagonal(30, 30)
    kept = np.sort(rng.permutation(900)[:700])
    turn = np.array([[np.cos(0.3), -np.sin(0.3)], [np.sin(0.3), np.cos(0.3)]])
    turned = np.rint(place @ turn) + 5000  # whole pixels
    np.testing.assert_array_equal(neighbour_graph(turned[kept]).toarray(), within(place, 101)[np.ix_(kept, kept)])


def test_a_grid_is_the_grid_of_squidpy() -> None:
    import anndata

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        squidpy = pytest.importorskip("squidpy")
        adata = anndata.AnnData(np.ones((120, 1), np.float32), obsm={"spatial": hexagonal()})
        squidpy.gr.spatial_neighbors(adata, coord_type="grid", n_neighs=6)
    assert (adata.obsp["spatial_connectivities"] != neighbour_graph(adata.obsm["spatial"])).nnz == 0


@pytest.mark.parametrize("dimensions", [2, 3])
def test_irregular_spots_are_the_union_of_nearest_neighbours(dimensions: int) -> None:
    from sklearn.neighbors import kneighbors_graph

    place = np.random.default_rng(1).random((300, dimensions))
    directed = kneighbors_graph(place, 5, include_self=False)
    graph = neighbour_graph(place, n_neighbours=5)
    check_form(graph, 300)
    np.testing.assert_array_equal(graph.toarray(), directed.maximum(directed.T).toarray())
    assert graph.getnnz(axis=1).min() >= 5


def test_libraries_are_blocks() -> None:
    rng = np.random.default_rng(2)
    grid, cells = hexagonal(), rng.random((80, 2))
    place = np.concatenate([grid, cells])  # they overlap
    library = np.array(["a/b"] * len(grid) + ["c"] * len(cells), dtype=object)
    mixed = rng.permutation(len(place))
    graph = neighbour_graph(place[mixed], library=library[mixed])
    check_form(graph, len(place))
    back = np.argsort(mixed)
    expected = sp.block_diag([neighbour_graph(grid), neighbour_graph(cells)], format="csr")
    assert (graph[back][:, back] != expected).nnz == 0


def test_small_libraries() -> None:
    place = np.array([[0.0, 0], [5, 5], [0, 0], [1, 1], [2, 2], [9, 7]])
    library = np.array([0, 1, 2, 2, 2, 3])
    graph = neighbour_graph(place, library=library, n_neighbours=6).toarray()
    expected = np.zeros((6, 6))
    expected[2:5, 2:5] = 1 - np.eye(3)
    np.testing.assert_array_equal(graph, expected)
    np.testing.assert_array_equal(neighbour_graph(place[:2]).toarray(), [[0, 1], [1, 0]])
    assert neighbour_graph(place[:2], library=["a", "b"]).nnz == 0


def test_spots_at_the_same_place() -> None:
    place = np.random.default_rng(3).random((40, 2))
    twice = np.concatenate([place, place[:3]])
    graph = neighbour_graph(twice, n_neighbours=4)
    check_form(graph, 43)
    assert all(graph[i, 40 + i] == 1 for i in range(3))
    # More at one place than neighbours are asked for: the tree may not even name the spot itself.
    heap = np.concatenate([np.zeros((30, 2)), place + 5])
    graph = neighbour_graph(heap, n_neighbours=4)
    check_form(graph, 70)
    assert graph.getnnz(axis=1).min() >= 4
    everywhere = neighbour_graph(np.zeros((10, 2)), n_neighbours=3)
    check_form(everywhere, 10)
    assert everywhere.getnnz(axis=1).min() >= 3


def test_memory_and_order_of_many_spots() -> None:
    place = np.random.default_rng(4).random((50_000, 2))
    tracemalloc.start()
    graph = neighbour_graph(place)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert graph.nnz < 50_000 * 12
    assert peak < 100e6  # a dense float32 matrix has 10 GB


@pytest.mark.parametrize(
    ("place", "message"),
    [
        (np.zeros((1, 2)), "at least 2 spots, found 1"),
        (np.zeros((0, 2)), "at least 2 spots, found 0"),
        (np.zeros(6), r"\(spots, 2\) or \(spots, 3\), found \(6,\)"),
        (np.zeros((6, 1)), r"found \(6, 1\)"),
        (np.array([[0, 1], [np.nan, 0], [1, 1], [np.inf, 0]]), "found 2 of 4 spots without, the first in row 1"),
        ([["a", "b"], ["c", "d"]], "coordinates must be numbers"),
    ],
)
def test_bad_coordinates(place: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        neighbour_graph(place)
    with pytest.raises(ValueError, match=message):
        section_graph(None, place)


def test_other_bad_input() -> None:
    place = square()
    with pytest.raises(ValueError, match="n_neighbours must be at least 1, found 0"):
        neighbour_graph(place, n_neighbours=0)
    with pytest.raises(TypeError, match=r"n_neighbours must be a whole number, found 2\.5"):
        neighbour_graph(place, n_neighbours=2.5)
    with pytest.raises(ValueError, match="of each of 99 spots, found 2 values"):
        neighbour_graph(place, library=["a", "b"])
    with pytest.raises(ValueError, match="found 1 of 99 without one"):
        neighbour_graph(place, library=["a"] * 98 + [None])


def test_a_graph_that_is_there_is_used() -> None:
    rng = np.random.default_rng(5)
    place = rng.random((30, 2))
    there = sp.random_array((30, 30), density=0.1, rng=rng, format="csr")
    there.data[::9] = 0  # a stored zero is no edge
    there = sp.csr_matrix(there + sp.diags_array(rng.random(30)))
    before = there.copy()
    graph = section_graph(there, place)
    check_form(graph, 30)
    expected = (there.toarray() != 0) | (there.toarray().T != 0)
    np.fill_diagonal(expected, False)
    np.testing.assert_array_equal(graph.toarray(), expected)
    assert (there != before).nnz == 0
    assert (section_graph(None, place, n_neighbours=3) != neighbour_graph(place, n_neighbours=3)).nnz == 0


def test_edges_between_libraries_are_left_out(caplog: pytest.LogCaptureFixture) -> None:
    there = sp.csr_matrix(1 - np.eye(4))
    with caplog.at_level(logging.WARNING, logger="sclm"):
        graph = section_graph(there, np.arange(8.0).reshape(4, 2), ["a", "a", "b", "b"])
    assert "8 of 12 edges of the spatial graph join spots of different libraries" in caplog.text
    np.testing.assert_array_equal(graph.toarray(), np.kron(np.eye(2), [[0, 1], [1, 0]]))


def test_a_graph_of_other_spots_is_refused() -> None:
    place = square()
    with pytest.raises(ValueError, match=r"must be of shape \(99, 99\).*found \(98, 98\)"):
        section_graph(sp.eye_array(98, format="csr"), place)
    with pytest.raises(TypeError, match="must be a scipy sparse matrix, found ndarray"):
        section_graph(np.eye(99), place)
    wrong = sp.csr_matrix(np.diag(np.full(99, np.nan)))
    with pytest.raises(ValueError, match="found 99 missing values"):
        section_graph(wrong, place)
