"""Cells moved by a predicted change, and their judgement."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from sclm.cells import Cells, log_normalise, read_cells
from sclm.evidence import PlausibilityGuard, judge_profiles, moved_counts

if TYPE_CHECKING:
    from collections.abc import Callable

    import anndata


def mean_profile(counts: sparse.csr_matrix) -> np.ndarray:
    return np.asarray(log_normalise(counts).mean(axis=0)).ravel()


def test_an_unchanged_profile_leaves_cells_as_they_are(query: anndata.AnnData) -> None:
    counts = read_cells(query).read().counts
    start = mean_profile(counts)
    assert (moved_counts(counts, start, start) != counts).nnz == 0


def test_counts_move_as_the_profile_says(simulate: Callable[..., anndata.AnnData]) -> None:
    """The profile of cells whose counts were changed in a known way: moved there, cells have the shares of these."""
    rng = np.random.default_rng(0)
    counts = read_cells(simulate(3000, types=("B cell",), seed=4)).read().counts
    changed = counts.toarray()
    changed[:, [3, 50]] = 0  # gone
    changed[:, 5] = rng.binomial(changed[:, 5].astype(int), 0.5)  # halved
    changed[:, 20] += rng.poisson(3 * counts[:, 20].mean(), size=3000)  # four-fold, a gene with about one count
    changed[:, 6] *= 2
    start, profile = mean_profile(counts), mean_profile(sparse.csr_matrix(changed))
    moved = moved_counts(counts, start, profile, seed=1)
    assert moved[:, [3, 50]].nnz == 0
    assert moved.sum() == pytest.approx(counts.sum(), rel=0.02)  # depth stays
    share, wanted = (np.asarray(x.sum(axis=0)).ravel() / x.sum() for x in (moved, changed))
    np.testing.assert_allclose(share[[5, 6, 20]], wanted[[5, 6, 20]], rtol=0.15)
    rest = np.setdiff1d(np.arange(120), [3, 5, 6, 20, 50])
    np.testing.assert_allclose(share[rest].sum(), wanted[rest].sum(), rtol=0.05)
    np.testing.assert_allclose(mean_profile(moved)[[5, 6, 20]], profile[[5, 6, 20]], rtol=0.05)
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
