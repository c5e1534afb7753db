"""Neighbour means, mixtures, stability and refinement against slow versions and known truths."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from scipy.stats import entropy

from sclm.spatial import (
    domain_stability,
    gaussian_domains,
    hop_means,
    label_entropy,
    label_votes,
    leading_components,
    neighbour_graph,
    neighbour_means,
    reading_order,
    refine_labels,
    stable_number,
)


@pytest.fixture(scope="module")
def places() -> np.ndarray:
    return np.random.default_rng(0).random((60, 2))


@pytest.fixture(scope="module")
def graph(places: np.ndarray) -> sparse.csr_matrix:
    graph = neighbour_graph(places).tolil()
    graph[7, :] = 0
    graph[:, 7] = 0  # alone
    return graph.tocsr()


@pytest.mark.parametrize("itself", [True, False])
def test_neighbour_means_are_means(graph: sparse.csr_matrix, itself: bool) -> None:
    values = np.random.default_rng(1).normal(size=(60, 3))
    found = neighbour_means(graph, itself=itself) @ values
    dense = graph.toarray()
    for i in range(60):
        around = np.flatnonzero(dense[i])
        members = np.append(around, i) if itself or not len(around) else around
        np.testing.assert_allclose(found[i], values[members].mean(axis=0), atol=1e-6)


def test_explicit_zeros_and_weights_are_no_matter(graph: sparse.csr_matrix) -> None:
    other = graph.copy()
    other.data[:] = np.random.default_rng(0).uniform(0.1, 5, other.nnz)
    stored = sparse.csr_matrix(
        (np.append(other.data, 0.0), (np.append(other.tocoo().row, 7), np.append(other.tocoo().col, 3)))
    )
    stored.resize(60, 60)
    for each in (other, stored):
        np.testing.assert_array_equal(neighbour_means(each).toarray(), neighbour_means(graph).toarray())


def test_hops_are_repeated_means(graph: sparse.csr_matrix) -> None:
    values = np.random.default_rng(1).normal(size=(60, 4)).astype(np.float32)
    found = hop_means(values, graph, 3)
    step = neighbour_means(graph).toarray()
    expected = np.hstack([np.linalg.matrix_power(step, h) @ values for h in range(4)])
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_array_equal(hop_means(values, graph, 0), values)
    with pytest.raises(ValueError, match="0 or more, found -1"):
        hop_means(values, graph, -1)


def test_reading_order_is_that_of_places_not_of_rows(places: np.ndarray) -> None:
    library = np.arange(60) % 3
    order = reading_order(places, library)
    keys = [(library[i], *places[i]) for i in order]
    assert keys == sorted(keys)
    turned = np.random.default_rng(0).permutation(60)
    np.testing.assert_array_equal(turned[reading_order(places[turned], library[turned])], order)


def clusters(n: int = 300, k: int = 4, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    truth = rng.choice(k, n, p=np.arange(k, 0, -1) / np.arange(1, k + 1).sum())
    stretch = rng.normal(size=(3, 3))
    centres = 8 * np.eye(3)[np.arange(k) % 3] * np.where(np.arange(k) < 3, 1, -1)[:, None]
    return centres[truth] + rng.normal(size=(n, 3)) @ stretch * 0.5, truth


def test_a_mixture_finds_separate_groups_and_numbers_them_by_size() -> None:
    points, truth = clusters()
    found = gaussian_domains(points, 4, seed=1)
    table = pd.crosstab(found.codes, truth).to_numpy()
    assert (table > 0).sum() == 4  # one truth each
    sizes = np.bincount(found.codes)
    assert (np.diff(sizes) <= 0).all()
    assert found.probability.min() > 0.5
    np.testing.assert_array_equal(gaussian_domains(points, 4, seed=1).codes, found.codes)
    for k in (0, 301):
        with pytest.raises(ValueError, match=f"between 1 and the number of spots \\(300\\), found {k}"):
            gaussian_domains(points, k)
    points[3] = np.nan
    with pytest.raises(ValueError, match="found 1 of 300"):
        gaussian_domains(points, 4)


def test_more_columns_than_spots() -> None:
    points = np.random.default_rng(0).normal(size=(12, 40))
    assert len(np.unique(gaussian_domains(points, 2).codes)) <= 2


def test_a_sample_is_fitted_and_all_are_assigned(monkeypatch: pytest.MonkeyPatch) -> None:
    points, truth = clusters(2000)
    monkeypatch.setattr("sclm.spatial.domains._MOST_FITTED", 300)
    found = gaussian_domains(points, 4, seed=0)
    assert (pd.crosstab(found.codes, truth).to_numpy() > 0).sum() == 4


@pytest.mark.parametrize("k", [2, 3, 4])
def test_the_stable_number_is_the_true_one(k: int) -> None:
    points, _ = clusters(200, k, seed=k)
    table = domain_stability(points, range(2, 7), seed=0, progress_bar=False)
    assert list(table.columns) == ["n_domains", "agreement", "spread"]
    assert stable_number(table) == k
    with pytest.raises(ValueError, match="between 1 and 160, found 161"):
        domain_stability(points, [161], progress_bar=False)


def test_a_number_is_chosen_where_no_division_agrees() -> None:
    table = pd.DataFrame({"n_domains": [2, 3, 4], "agreement": [-0.1, -0.0101, -0.01]})
    assert stable_number(table) == 4


def test_leading_components_are_those_of_a_decomposition() -> None:
    points = np.random.default_rng(0).normal(size=(80, 30)) @ np.random.default_rng(1).normal(size=(30, 30))
    found = leading_components(points, 5)
    u, s, _ = np.linalg.svd(points - points.mean(axis=0), full_matrices=False)
    np.testing.assert_allclose(np.abs(found), np.abs(u[:, :5] * s[:5]), rtol=1e-6)
    np.testing.assert_allclose(leading_components(points[:, :4], 5), points[:, :4] - points[:, :4].mean(axis=0))


def test_votes_and_entropy_are_those_of_a_walk(graph: sparse.csr_matrix) -> None:
    codes = np.random.default_rng(0).integers(0, 3, 60)
    codes[[5, 9]] = -1
    votes = label_votes(codes, graph, n_hops=2)
    step = np.linalg.matrix_power(neighbour_means(graph).toarray().astype(float), 2)
    expected = np.column_stack([step @ (codes == k) for k in range(3)])
    expected /= expected.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(votes, expected, atol=1e-5)
    np.testing.assert_allclose(label_entropy(votes), entropy(expected.T) / np.log(3), atol=1e-5)
    np.testing.assert_array_equal(label_entropy(np.ones((3, 1))), 0)


def test_refinement_mends_noise_and_leaves_quiet_places(places: np.ndarray) -> None:
    grid = np.array([[x, y] for x in range(20) for y in range(20)], dtype=float)
    graph = neighbour_graph(grid, n_neighbours=4)
    truth = (grid[:, 0] >= 10).astype(np.int64)
    noisy = truth.copy()
    wrong = np.array([25, 87, 133, 250, 311, 366])
    noisy[wrong] = 1 - noisy[wrong]
    np.testing.assert_array_equal(refine_labels(noisy, graph, 0.3)[wrong], truth[wrong])
    assert (refine_labels(noisy, graph, 0.3) != truth).sum() <= 4
    np.testing.assert_array_equal(refine_labels(noisy, graph, 2.0), noisy)
    noisy[3] = -1
    assert refine_labels(noisy, graph, 0.0)[3] == -1
