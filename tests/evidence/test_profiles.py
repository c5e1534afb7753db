"""Cells moved by a predicted change, and their judgement."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest

from sclm.cells import Cells, log_normalise, read_cells
from sclm.evidence import PlausibilityGuard, judge_profiles, moved_counts

if TYPE_CHECKING:
    from collections.abc import Callable

    import anndata
    from scipy import sparse


def mean_profile(counts: sparse.csr_matrix) -> np.ndarray:
    return np.asarray(log_normalise(counts).mean(axis=0)).ravel()


def test_an_unchanged_profile_leaves_cells_as_they_are(query: anndata.AnnData) -> None:
    counts = read_cells(query).read().counts
    start = mean_profile(counts)
    assert (moved_counts(counts, start, start) != counts).nnz == 0


def test_counts_move_as_the_profile_says(simulate: Callable[..., anndata.AnnData]) -> None:
    counts = read_cells(simulate(3000, seed=4)).read().counts
    start = mean_profile(counts)
    profile = start.copy()
    profile[[3, 50]] = 0.0  # gone
    profile[5] = np.log1p(np.expm1(start[5]) / 2)  # halved
    profile[70] = np.log1p(np.expm1(start[70]) + 300)  # 300 more in 10,000
    moved = moved_counts(counts, start, profile, seed=1)
    assert moved[:, [3, 50]].nnz == 0
    assert moved[:, 5].sum() == pytest.approx(counts[:, 5].sum() / 2, rel=0.05)
    gained = moved[:, 70].sum() - counts[:, 70].sum()
    assert gained == pytest.approx(0.03 * counts.sum(), rel=0.03)
    others = np.setdiff1d(np.arange(120), [3, 5, 50, 70])
    assert (moved[:, others] != counts[:, others]).nnz == 0
    assert (moved.data > 0).all()
    assert (moved.data == np.round(moved.data)).all()
    assert (moved_counts(counts, start, profile, seed=1) != moved).nnz == 0
    with pytest.raises(ValueError, match="one value for each of the 120 genes"):
        moved_counts(counts, start[1:], profile[1:])


def test_a_profile_of_another_kind_of_cell_is_suspect(simulate: Callable[..., anndata.AnnData]) -> None:
    """B cells as control: a small change is plausible, T cell genes switched on beside their own are not."""
    train, new = simulate(800, seed=1), simulate(600, seed=2)
    codes = train.obs["cell_type"].cat.codes.to_numpy().astype(np.int64)
    cells = read_cells(train).read()
    guard = PlausibilityGuard.fit([cells], codes, n_groups=4, genes=cells.genes)
    controls = read_cells(new[new.obs["cell_type"] == "B cell"].copy()).read()
    start = mean_profile(controls.counts)
    small, mixed, vast = start.copy(), start.copy(), start.copy()
    small[100:105] += 0.2
    mixed[10:20] = start[0:10]  # markers of T cells as high as those of B cells
    vast[60:80] += 3
    table = judge_profiles(
        guard, controls, start, np.array([start, small, mixed, vast]), ["none", "small", "mixed", "vast"]
    )
    assert table["perturbation"].tolist() == ["none", "small", "mixed", "vast"]
    assert table["implausible"][0] == table["implausible_control"][0]
    assert not table["suspect"][:2].any()
    assert table["suspect"][2:].all()
    assert table["implausible"][1] < table["implausible_control"][1] + 0.05
    assert table["exclusive_markers"][2] > 0.3
    assert (table["n_cells"] == 150).all()
    assert isinstance(controls, Cells)
    assert isinstance(table, pd.DataFrame)
