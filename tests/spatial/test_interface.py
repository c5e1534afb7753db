"""Borders between tissues against loops over all pairs of spots, known geometry, and infiltrated tissue."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.distance import cdist
from scipy.stats import spearmanr
from sklearn.metrics import average_precision_score

from sclm.spatial import find_interface, neighbour_graph, otsu_threshold, ring_width
from sclm.spatial.interface import _without_islands, on_grid, smooth_field


def lobes(seed: int, n: int = 3000, centres: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Cells of a square of 1000 units, and about their signed distance to the edge of lobed tumours."""
    rng = np.random.default_rng(seed)
    place = rng.uniform(0, 1000, (n, 2))
    distance = np.full(n, np.inf)
    for _ in range(centres):
        v = place - rng.uniform(250, 750, 2)
        angle, phase, amplitude = np.arctan2(v[:, 1], v[:, 0]), rng.uniform(0, 6.28, 3), rng.uniform(0.05, 0.15, 3)
        waves = sum(a * np.cos((k + 2) * angle + p) for k, (a, p) in enumerate(zip(amplitude, phase, strict=True)))
        distance = np.minimum(distance, np.linalg.norm(v, axis=1) - rng.uniform(130, 190) * (1 + waves))
    return place, distance


def infiltrated(distance: np.ndarray, inner: float, outer: float, seed: int = 0) -> np.ndarray:
    u = np.random.default_rng(seed).random(len(distance))
    return np.where(distance < 0, u >= inner, u < outer).astype(float)


def slow_field(place: np.ndarray, share: np.ndarray, weight: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    far = cdist(place, place)
    field, gradient = np.full(len(place), np.nan), np.full(len(place), np.nan)
    for i in range(len(place)):
        last = np.sort(far[i])[k]
        near = far[i] <= last * (1 + 1e-9)
        w = np.exp(-(far[i] ** 2) / (2 * (0.6 * last) ** 2)) * weight * near
        if w.sum() == 0:
            continue
        w /= w.sum()
        field[i] = w @ share
        pull = np.zeros(2)
        for j in np.flatnonzero(near & (far[i] > 0)):
            pull += w[j] * (place[j] - place[i]) / far[i, j] * (share[j] - field[i])
        gradient[i] = np.hypot(*pull)
    return field, gradient


@pytest.mark.parametrize("grid", [False, True])
def test_field_and_gradient_against_a_loop(grid: bool) -> None:
    rng = np.random.default_rng(0)
    place = np.argwhere(np.ones((9, 11))).astype(float) if grid else rng.random((90, 2))
    share, weight = rng.random(len(place)), rng.random(len(place)) * (rng.random(len(place)) > 0.2)
    found = smooth_field(place, share, weight, 12)
    for one, other in zip(found, slow_field(place, share, weight, 12), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-12)


def test_gradient_of_labels_is_mixing_times_one_sidedness() -> None:
    """For 0/1 values: 2 g = 4p(1-p) times the distance between the mean directions of the two kinds, over two."""
    rng = np.random.default_rng(1)
    place, share = rng.random((60, 2)), (rng.random(60) < 0.5).astype(float)
    p, g = smooth_field(place, share, np.ones(60), 15)
    far = cdist(place, place)
    for i in range(60):
        last = np.sort(far[i])[15]
        w = np.exp(-(far[i] ** 2) / (2 * (0.6 * last) ** 2)) * (far[i] <= last * (1 + 1e-9))
        u = (place - place[i]) / np.maximum(far[i], 1e-300)[:, None]
        apart = (w * share) @ u / (w @ share) - (w * (1 - share)) @ u / (w @ (1 - share))
        assert 2 * g[i] == pytest.approx(4 * p[i] * (1 - p[i]) * np.linalg.norm(apart) / 2)


def test_a_straight_border_on_a_grid() -> None:
    place = np.argwhere(np.ones((12, 20))).astype(float) * 100  # rows, columns
    share = (place[:, 1] < 1000).astype(float)
    graph = neighbour_graph(place)
    found = find_interface(place, share, graph)
    np.testing.assert_array_equal(found.inside, share == 1)
    column = place[:, 1] / 100
    np.testing.assert_allclose(found.distance, np.where(column < 10, column - 10, column - 9) * 100)
    assert set(np.unique(column[found.score > 0.5 * found.score.max()])) == {9, 10}
    assert ring_width(place, graph) == pytest.approx(100 * np.sqrt(2))
    assert on_grid(place)
    assert not on_grid(np.random.default_rng(0).random((50, 2)))


def test_islands_and_holes_change_sides() -> None:
    place = np.argwhere(np.ones((20, 20))).astype(float)
    share = (place[:, 0] < 10).astype(float)
    hole, island = (place == [3, 3]).all(axis=1), (np.abs(place - [16, 16]) <= 0.5).all(axis=1)
    share[hole], share[island] = 0.0, 1.0
    graph = neighbour_graph(place)
    kept = find_interface(place, share, graph, n_neighbours=3, threshold=0.3, min_spots=1)
    clean = find_interface(place, share, graph, n_neighbours=3, threshold=0.3, min_spots=6)
    assert kept.removed == 0
    assert kept.inside[island].all()
    assert not clean.inside[island].any()
    assert clean.inside[hole].all()
    assert clean.removed >= 1
    np.testing.assert_array_equal(clean.inside, place[:, 0] < 10)


def test_fragments_that_touch_no_inner_spot_stay_outside() -> None:
    square = np.argwhere(np.ones((30, 30))).astype(float)
    place = np.concatenate([square, [[60.0, 10.0], [61.0, 10.0], [60.0, 11.0]]])  # debris beside the tissue
    share = (place[:, 0] < 12).astype(float)
    graph = neighbour_graph(square).tolil()
    graph.resize((len(place), len(place)))
    for i, k in ((900, 901), (900, 902)):
        graph[i, k] = graph[k, i] = 1
    found = find_interface(place, share, graph.tocsr(), n_neighbours=3)
    np.testing.assert_array_equal(found.inside, share == 1)
    assert found.distance[(place == [29, 15]).all(axis=1)] == pytest.approx(18, abs=0.1)

    hole, island, lone = ((place == spot).all(axis=1) for spot in ([3, 3], [20, 20], [24, 5]))
    at = int(np.flatnonzero(lone)[0])
    graph[at, :] = graph[:, at] = 0  # an inner spot without neighbours
    side, changed = _without_islands((share == 1) & ~hole | island | lone, graph.tocsr(), 5)
    np.testing.assert_array_equal(side, share == 1)
    assert changed == 3


def test_one_side_only_has_no_border() -> None:
    place = np.random.default_rng(0).random((40, 2))
    found = find_interface(place, np.zeros(40), neighbour_graph(place))
    assert not found.inside.any()
    assert np.isnan(found.distance).all()
    assert not found.score.any()


def test_spots_without_weight_take_their_neighbours_field() -> None:
    place = np.argwhere(np.ones((10, 10))).astype(float)
    share = (place[:, 0] < 5).astype(float)
    share[[33, 77]] = np.nan
    found = find_interface(place, share, neighbour_graph(place))
    np.testing.assert_array_equal(found.inside, place[:, 0] < 5)
    nothing = find_interface(place, share, neighbour_graph(place), weight=np.zeros(100))
    assert np.isnan(nothing.field).all()
    assert not nothing.inside.any()


@pytest.mark.parametrize(("inner", "outer", "least"), [(0.0, 0.0, 0.9), (0.25, 0.05, 0.75), (0.25, 0.25, 0.6)])
def test_the_border_holds_under_infiltration(inner: float, outer: float, least: float) -> None:
    found = []
    for seed in range(3):
        place, true = lobes(seed)
        labels = infiltrated(true, inner, outer, seed)
        graph = neighbour_graph(place)
        result = find_interface(place, labels, graph)
        near = np.abs(true) < 25
        mixing = 4 * result.field * (1 - result.field)
        found.append(
            [
                average_precision_score(near, result.score),
                average_precision_score(near, mixing),
                (result.inside == (true < 0)).mean(),
                spearmanr(result.distance, true)[0],
            ]
        )
    score, mixing, same_side, order = np.mean(found, axis=0)
    assert score >= least
    assert score >= mixing - 0.02
    assert same_side > 0.95
    assert order > 0.95


@pytest.mark.parametrize("grid", [False, True])
def test_the_order_of_spots_does_not_matter(grid: bool) -> None:
    rng = np.random.default_rng(0)
    place = np.argwhere(np.ones((15, 15))).astype(float) if grid else lobes(0, 400)[0]
    share = np.clip(rng.normal(place[:, 0] < np.median(place[:, 0]), 0.3), 0, 1)
    order = rng.permutation(len(place))
    one = find_interface(place, share, neighbour_graph(place))
    other = find_interface(place[order], share[order], neighbour_graph(place[order]))
    for name in ("field", "gradient", "inside", "score", "distance"):
        np.testing.assert_allclose(getattr(one, name)[order].astype(float), getattr(other, name), atol=1e-12)


def test_moving_turning_and_scaling_change_the_distance_only() -> None:
    place, true = lobes(3, 600)
    labels = infiltrated(true, 0.1, 0.05)
    turn = np.array([[0.6, -0.8], [0.8, 0.6]])
    moved = 3.0 * place @ turn + [5000, -70]
    one, other = (find_interface(p, labels, neighbour_graph(p)) for p in (place, moved))
    np.testing.assert_allclose(one.score, other.score, atol=1e-9)
    np.testing.assert_allclose(3 * one.distance, other.distance, rtol=1e-9)


def test_otsu_against_every_threshold() -> None:
    rng = np.random.default_rng(0)
    x = np.round(np.concatenate([rng.normal(0, 1, 60), rng.normal(4, 1, 30)]), 2)

    def within(t: float) -> float:
        low, high = x[x <= t], x[x > t]
        return len(low) * low.var() + len(high) * high.var()

    threshold = otsu_threshold(np.append(x, np.nan))
    assert within(threshold) == pytest.approx(min(within(t) for t in np.unique(x)[:-1]))
    assert otsu_threshold([2.0, 2.0]) == 2.0
    assert otsu_threshold([1.0]) == 1.0
    with pytest.raises(ValueError, match="at least one finite number"):
        otsu_threshold([np.nan])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"share": np.zeros(5)}, "must describe the same spots"),
        ({"share": np.full(9, 1.5)}, "must lie within 0 and 1, found 1.5"),
        ({"n_neighbours": 2}, "n_neighbours must be at least 3"),
        ({"min_spots": 0}, "min_spots at least 1"),
    ],
)
def test_what_does_not_fit_is_refused(change: dict[str, object], message: str) -> None:
    place = np.argwhere(np.ones((3, 3))).astype(float)
    options = {"share": np.zeros(9), **change}
    with pytest.raises(ValueError, match=message):
        find_interface(place, graph=neighbour_graph(place), **options)  # type: ignore[arg-type]
