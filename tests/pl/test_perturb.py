"""Figures of screens show what was written."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anndata as ad
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

import sclm
from sclm import results
from sclm.pl._perturb import _apart

if TYPE_CHECKING:
    from collections.abc import Iterator


def screen(goal: bool) -> tuple[pd.DataFrame, pd.DataFrame]:
    rng = np.random.default_rng(0)
    n = 60
    table = pd.DataFrame({"perturbation": [f"GENE{i}" for i in range(n)], "n_genes": 1, "n_cells": 100})
    null = pd.DataFrame({"perturbation": [f"NULL{i}" for i in range(80)], "n_genes": 1})
    for prefix, column in (("", "effect"), ("goal_", "goal_shift"))[: 1 + goal]:
        z = rng.normal(size=n)
        z[:5] = [9, 8.9, 8.8, 8.7, -9]
        table[column] = 0.01 + 0.002 * z
        table[f"{prefix}null_mean"], table[f"{prefix}null_sd"], table[f"{prefix}z"] = 0.01, 0.002, z
        table[f"{prefix}p"] = np.where(np.abs(z) > 8, 1e-6, 0.5)
        table[f"{prefix}q"] = np.where(np.abs(z) > 8, 1e-4, 0.9)
        table.loc[n - 1, [column, f"{prefix}z", f"{prefix}p", f"{prefix}q"]] = np.nan
        null[f"{prefix}z"] = rng.normal(size=80)
    return table, null


@pytest.fixture(params=[True, False], ids=["goal", "effect"])
def screened(request: pytest.FixtureRequest) -> Iterator[ad.AnnData]:
    adata = ad.AnnData(np.ones((3, 2), dtype=np.float32))
    effects, null = screen(request.param)
    states = {"start": "exhausted", "goal": "effector"}
    entry = results.record("perturb", model={"family": "toy"}, effects=effects, null=null, states=states)
    results.write(adata, "sclm_perturb", entry)
    yield adata
    plt.close("all")


def test_volcano(screened: ad.AnnData) -> None:
    goal = "goal_shift" in sclm.get.perturb(screened)
    ax = sclm.pl.perturb(screened)
    assert len(ax.collections[0].get_offsets()) == 80
    points = np.asarray(ax.collections[1].get_offsets())
    assert len(points) == 59  # the one without an effect is not drawn
    np.testing.assert_allclose(points[0], [0.018, 6])
    assert {t.get_text() for t in ax.texts} == {f"GENE{i}" for i in range(5)}
    assert ax.get_title() == "5 of 59 perturbations at a false discovery rate of 0.05"
    assert ("exhausted to effector" in ax.get_xlabel()) == goal
    ax.figure.canvas.draw()
    heights = sorted(t.xyann[1] if t.arrow_patch else t.xy[1] for t in ax.texts if t.xy[0] > 0)
    assert min(np.diff(heights)) > 0.2  # four names that would lie on each other
    screened.uns["sclm_perturb"]["effects"]["effect"] *= 1e-3
    screened.uns["sclm_perturb"]["effects"]["null_mean"] *= 1e-3
    other = sclm.pl.perturb(screened, by="effect", ax=plt.subplots()[1])
    assert other.get_xlabel().endswith("(10$^{-5}$)")
    np.testing.assert_allclose(np.asarray(other.collections[1].get_offsets())[0, 0], 1.8)
    assert "cosine" in other.get_xlabel()


def test_ranks(screened: ad.AnnData) -> None:
    ax = sclm.pl.perturb_ranks(screened)
    points = np.asarray(ax.collections[-1].get_offsets())
    assert len(points) == 59
    assert (np.diff(points[:, 1]) <= 0).all()
    names = {t.get_text() for t in ax.texts}
    assert {f"GENE{i}" for i in range(4)} <= names
    assert ("GENE4" in names) == ("goal_shift" in sclm.get.perturb(screened))
    assert len(ax.lines[0].get_xdata()) == 80
    ax.figure.canvas.draw()


def test_what_is_not_there(screened: ad.AnnData) -> None:
    with pytest.raises(ValueError, match="'goal', 'effect' or None"):
        sclm.pl.perturb(screened, by="p")
    with pytest.raises(KeyError, match=r"Run sclm\.tl\.perturb first"):
        sclm.pl.perturb(ad.AnnData(np.ones((3, 2))))
    if "goal_shift" not in sclm.get.perturb(screened):
        with pytest.raises(KeyError, match="has no goal"):
            sclm.pl.perturb_ranks(screened, by="goal")
    with pytest.raises(KeyError, match="without profiles"):
        sclm.pl.perturb_profiles(screened)


def test_profiles_show_the_genes_that_change_most() -> None:
    genes, names = [f"g{i}" for i in range(50)], ["A", "B", "A+B"]
    predicted = np.ones((3, 50), dtype=np.float32)
    predicted[0, 7], predicted[1, 9], predicted[2, [7, 9]] = 3, 0, (3, 0)
    facts = pd.DataFrame({"perturbation": names, "standing": ["seen", "unseen", "partly seen"], "n_cells_measured": 0})
    judged = pd.DataFrame(
        {"implausible": 0.1, "implausible_control": 0.1, "suspect": [False, False, True], "perturbation": names}
    )
    adata = ad.AnnData(np.ones((3, 2), dtype=np.float32))
    entry = results.record(
        "perturb", model={"family": "toy"}, perturbations=names, genes=genes, predicted=predicted, facts=facts,
        plausibility=judged, control=np.ones(50, dtype=np.float32), baselines={"no-change": np.ones((3, 50))},
    )  # fmt: skip
    results.write(adata, "sclm_perturb", entry)
    ax = sclm.pl.perturb_profiles(adata, n_genes=2)
    assert [t.get_text() for t in ax.get_yticklabels()] == ["A", "B (unseen)", "A+B (partly seen) *"]
    shown = [t.get_text() for t in ax.get_xticklabels()]
    assert set(shown) == {"g7", "g9"}
    image = ax.images[0].get_array()
    np.testing.assert_allclose(image[:, shown.index("g7")], [2, 0, 2])
    assert ax.get_title() == "predicted by toy"
    ax.figure.canvas.draw()
    assert np.ptp(sclm.pl.perturb_profiles(adata, method="no-change").images[0].get_array()) == 0
    plt.close("all")


def test_labels_move_as_little_as_it_takes() -> None:
    y = np.array([0.5, 0.1, 0.51, 0.9])
    moved = _apart(y, 0.05)
    np.testing.assert_allclose(moved[[1, 3]], y[[1, 3]])
    assert moved[2] - moved[0] == pytest.approx(0.05)
    assert moved[[0, 2]].mean() == pytest.approx(0.505)
    assert len(_apart(np.zeros(0), 0.1)) == 0
