"""Classifiers, mixing and label agreement on clouds whose overlap is known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from sclm.metrics import generation


def normal(n: int, shift: float = 0.0, seed: int = 0, d: int = 4) -> np.ndarray:
    cells = np.random.default_rng(seed).normal(size=(n, d))
    cells[:, 0] += shift
    return cells


@pytest.mark.parametrize("method", ["logistic", "boosted", "forest", "neighbours"])
def test_auc_of_equal_shifted_and_separate_clouds(method: str) -> None:
    x = normal(150)
    assert abs(generation.classifier_auc(x, normal(150, seed=1), method=method) - 0.5) < 0.12
    assert generation.classifier_auc(x, normal(150, 8.0, seed=1), method=method) > 0.99


def test_logistic_auc_of_a_shift_is_the_known_one() -> None:
    """Two normals a distance apart: AUC = Phi(distance / sqrt 2)."""
    auc = generation.classifier_auc(normal(1500, d=2), normal(1500, 1.0, seed=1, d=2), method="logistic")
    assert auc == pytest.approx(stats.norm.cdf(1 / np.sqrt(2)), abs=0.02)


def test_copies_are_nearer_to_the_other_side() -> None:
    x = normal(200)
    assert generation.classifier_auc(x, x + 1e-6, method="neighbours", k=1) < 0.4


def test_transfer_accuracy() -> None:
    x = np.r_[normal(30), normal(30, 9.0)]
    labels = np.repeat(["a", "b"], 30)
    for method in ("logistic", "neighbours", "boosted", "forest"):
        assert generation.transfer_accuracy(x, labels, x + 0.01, labels, method=method) == 1.0
        assert generation.transfer_accuracy(x, labels, x + 0.01, labels[::-1], method=method) == 0.0
    unseen = np.r_[labels[:30], np.repeat("c", 30)]
    assert generation.transfer_accuracy(x, labels, x, unseen) == 0.5


def test_neighbour_mixing_is_the_definition() -> None:
    x, y = normal(30), normal(25, 0.7, seed=1)
    cells, side = np.r_[x, y], np.repeat([0, 1], [30, 25])
    imbalance, real_share = [], []
    for i, cell in enumerate(cells):
        near = np.argsort(np.linalg.norm(cells - cell, axis=1))[1:11]
        imbalance.append(abs((side[near] == side[i]).mean() - 0.5))
        if side[i] == 1:
            real_share.append((side[near] == 0).mean())
    assert generation.neighbour_mixing(x, y, k=10) == pytest.approx(1 - 2 * np.mean(imbalance))
    assert generation.real_neighbours(x, y, k=10) == pytest.approx(np.mean(real_share) / (30 / 54))


def test_full_mixtures_reach_the_stated_values() -> None:
    x, y = normal(1000), normal(1000, seed=1)
    assert generation.neighbour_mixing(x, y) == pytest.approx(0.86, abs=0.02)  # as the docstring says
    assert generation.real_neighbours(x, y) == pytest.approx(1.0, abs=0.03)
    assert generation.inverse_simpson(x, y) > 0.9


def test_inverse_simpson_is_the_slow_version() -> None:
    from scipy.optimize import brentq

    x, y = normal(60), normal(60, 0.8, seed=1)
    cells, real = np.r_[x, y], np.repeat([1.0, 0.0], 60)
    scores = []
    for cell in cells:
        distance = np.linalg.norm(cells - cell, axis=1)
        near = np.argsort(distance)[1:31]

        def weights(rate: float, d: np.ndarray = distance[near]) -> np.ndarray:
            w = np.exp(-rate * (d - d.min()))
            return w / w.sum()

        rate = brentq(lambda b, w=weights: stats.entropy(w(b)) - np.log(10.0), 1e-6, 1e3)
        p = weights(rate) @ real[near]
        scores.append(1 / (p**2 + (1 - p) ** 2))
    assert generation.inverse_simpson(x, y, perplexity=10) == pytest.approx(np.median(scores) - 1, abs=1e-6)


def test_inverse_simpson_within_labels_sees_swapped_types() -> None:
    """Two types in two places; generated cells are in the right places with the labels swapped."""
    x = np.r_[normal(60), normal(60, 30.0, seed=1)]
    y = np.r_[normal(60, seed=2), normal(60, 30.0, seed=3)]
    labels = np.repeat(["a", "b"], 60)
    assert generation.inverse_simpson(x, y, labels=(labels, labels)) > 0.8
    assert generation.inverse_simpson(x, y, labels=(labels, labels[::-1])) < 0.01
    assert generation.inverse_simpson(x, y) > 0.8
    few = np.repeat(["a", "b", "c"], [4, 112, 4])
    assert np.isfinite(generation.inverse_simpson(x, y, labels=(few, few)))
    assert np.isnan(generation.inverse_simpson(x[:4], y[:4], labels=(labels[:4], labels[:4])))


def test_label_homogeneity() -> None:
    x = np.r_[normal(40), normal(40, 50.0)]
    labels = np.repeat(["a", "b"], 40)
    assert generation.label_homogeneity(x, labels, k=10) == 1.0
    mixed = np.random.default_rng(0).permutation(labels)
    assert generation.label_homogeneity(x, mixed, k=10) == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: generation.classifier_auc(x, x, method="svm"), "method must be one of 'logistic'"),
        (lambda x: generation.classifier_auc(x, x[:3]), "y must hold at least 5 cells, found 3"),
        (lambda x: generation.classifier_auc(x, x, method="forest", n_trees=5), "n_trees must be at least 50"),
        (lambda x: generation.transfer_accuracy(x, ["a"] * 12, x, ["a"] * 12), "2 different labels"),
        (lambda x: generation.transfer_accuracy(x, ["a"], x, ["a"] * 12), "found shape"),
        (lambda x: generation.neighbour_mixing(x, x, k=24), "between 1 and 23 for these cells, found 24"),
        (lambda x: generation.inverse_simpson(x, x, perplexity=1), "perplexity must be greater than 1"),
    ],
)
def test_errors_say_what_was_found(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(normal(12))
