"""Purity and mixing on clouds of points whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest

from sclm.metrics import embedding


def clouds(shift_of_batch: float, n: int = 300, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    types, batches = rng.integers(0, 3, n), rng.integers(0, 2, n)
    points = rng.normal(size=(n, 5))
    points[:, 0] += 12 * types
    points[:, 1] += shift_of_batch * batches
    return points, np.array(["a", "b", "c"])[types], np.array(["x", "y"])[batches]


def test_against_a_slow_count() -> None:
    points, types, batches = clouds(1.5)
    scores = embedding(points, types, batches=batches, n_neighbors=10)
    distance = ((points[:, None] - points[None]) ** 2).sum(axis=2)
    np.fill_diagonal(distance, np.inf)
    near = np.argsort(distance, axis=1)[:, :10]
    per_cell = np.array([np.mean(types[near[i]] == types[i]) for i in range(len(types))])
    by_type = [per_cell[types == t].mean() for t in "abc"]
    assert scores["type_purity"] == pytest.approx(np.mean(by_type))


def test_batches_apart_and_mixed() -> None:
    mixed = embedding(*clouds(0.0)[:2], batches=clouds(0.0)[2])
    apart = embedding(*clouds(50.0)[:2], batches=clouds(50.0)[2])
    assert mixed["batch_mixing"] > 0.93
    assert mixed["batch_silhouette"] > 0.95
    assert apart["batch_mixing"] < 0.02
    assert apart["batch_silhouette"] < 0.3
    assert mixed["type_purity"] > 0.99


def test_a_type_of_one_batch_costs_nothing() -> None:
    points, types, batches = clouds(0.0)
    batches[types == "c"] = "x"
    scores = embedding(points, types, batches=batches)
    assert scores["batch_mixing"] > 0.93
    assert np.isnan(embedding(points, types, batches=np.full(300, "x"))["batch_mixing"])


def test_missing_labels_and_vectors_are_left_out() -> None:
    points, types, _ = clouds(0.0)
    labels = types.astype(object)
    labels[:7] = None
    points[10] = np.nan
    assert embedding(points, labels)["n_cells"] == 292
    with pytest.raises(ValueError, match="one a vector"):
        embedding(points, labels[:-1])
    with pytest.raises(ValueError, match="n_neighbors=15 needs"):
        embedding(points[:12], labels[:12])
