"""A model that writes cells, small enough to be trained in seconds, and a section to map."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest

import sclm

if TYPE_CHECKING:
    from collections.abc import Callable

    import anndata

    from sclm.models.family import Family

CD4, CD8 = "CD4-positive, alpha-beta T cell", "CD8-positive, alpha-beta T cell"
# As small as it can be: what these tests look at does not depend on how well it learns.
SMALLEST = {
    "preset": "tiny", "max_epochs": 1, "width": 16, "layers": 1, "n_programmes": 2, "n_levels": 8, "programme_iterations": 2,
    "progress_bar": False, "accelerator": "cpu",
}  # fmt: skip


@pytest.fixture(scope="session")
def cohort(simulate: Callable[..., anndata.AnnData]) -> anndata.AnnData:
    """Four types, three donors, two conditions; no B cell is stimulated. Tests must not change it."""
    adata = simulate(240, 60, types=("B cell", CD4, CD8, "monocyte"), seed=3)
    types = adata.obs["cell_type"].astype(str).to_numpy()
    stimulated = (np.arange(240) // 4 % 2 == 0) & (types != "B cell")
    adata.obs["condition"] = pd.Categorical(np.where(stimulated, "stimulated", "rest"))
    adata.obs["donor_id"] = adata.obs.pop("donor")
    return adata


@pytest.fixture(scope="session")
def pgl(cohort: anndata.AnnData) -> Family:
    """Knows cell_type, condition and donor_id. Tests must not change it."""
    return sclm.train("pgl", cohort, obs_keys=["cell_type", "condition", "donor_id"], seed=0, **SMALLEST)


@pytest.fixture(scope="module")
def whole(simulate: Callable[..., anndata.AnnData]) -> anndata.AnnData:
    """A section mixed from cells that the reference does not hold. Tests must not change it."""
    return sclm.datasets.simulate_section(simulate(400, seed=5), "cell_type", n_spots=90, cells_per_spot=5, seed=1)


@pytest.fixture
def section(whole: anndata.AnnData) -> anndata.AnnData:
    return whole.copy()
