"""Precision, recall, density, coverage by slow loops; memorisation of copies and of fresh cells."""

from __future__ import annotations

import numpy as np
import pytest

from sclm.metrics import generation


def test_prdc_is_the_definition() -> None:
    rng = np.random.default_rng(0)
    real, made, k = rng.normal(size=(25, 2)), rng.normal(0.8, 0.7, size=(30, 2)), 3

    def radius(cells: np.ndarray, i: int) -> float:
        return sorted(np.linalg.norm(c - cells[i]) for j, c in enumerate(cells) if j != i)[k - 1]

    r, g = ([radius(c, i) for i in range(len(c))] for c in (real, made))
    inside = np.array([[np.linalg.norm(m - c) < r[i] for m in made] for i, c in enumerate(real)])
    recall = np.mean([any(np.linalg.norm(m - c) < g[j] for j, m in enumerate(made)) for c in real])
    assert generation.prdc(real, made, k=k) == pytest.approx(
        {
            "precision": inside.any(axis=0).mean(),
            "recall": recall,
            "density": inside.sum() / k / len(made),
            "coverage": inside.any(axis=1).mean(),
        }
    )


def test_prdc_of_one_mode_out_of_two() -> None:
    rng = np.random.default_rng(1)
    real = np.r_[rng.normal(size=(100, 2)), rng.normal(40, 1, size=(100, 2))]
    scores = generation.prdc(real, rng.normal(size=(200, 2)))
    assert scores["precision"] > 0.9
    assert scores["recall"] < 0.55
    assert scores["coverage"] < 0.55


def test_memorisation_of_fresh_cells_copies_and_half_copies() -> None:
    rng = np.random.default_rng(2)
    train, held_out, fresh = (rng.normal(size=(600, 5)) for _ in range(3))
    assert generation.memorisation(fresh, held_out, train) == pytest.approx((1.0, 0.01, 1.0), abs=0.06)
    assert generation.memorisation(train, held_out, train)[:2] == (0.0, 1.0)
    half = np.r_[train[:300] + 1e-6, fresh[:300]]
    assert generation.memorisation(half, held_out, train).copied_share == pytest.approx(0.5, abs=0.02)
    assert generation.memorisation(train + 0.1, held_out, train).train_heldout_ratio < 0.6
    assert np.isnan(generation.memorisation(fresh, train, train).nn_ratio)


def test_errors_say_what_was_found() -> None:
    x = np.zeros((5, 2))
    with pytest.raises(ValueError, match="between 1 and 4 for these cells, found 5"):
        generation.prdc(x, x)
    with pytest.raises(ValueError, match="same number of dimensions, found 2 and 1"):
        generation.memorisation(x, x, x[:, :1])
    with pytest.raises(ValueError, match="train must hold at least 1 cells, found 0"):
        generation.memorisation(x, x, x[:0])
