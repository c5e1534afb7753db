"""A model of the family on small simulated cells."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest

import sclm
from sclm.cells import Cells, read_cells

if TYPE_CHECKING:
    from collections.abc import Callable

    import anndata

    from sclm.models.cell2text.model import Cell2Text
    from sclm.models.geneformer.model import Geneformer

ENCODER: dict[str, Any] = {
    "preset": "tiny", "max_epochs": 1, "width": 16, "layers": 2, "progress_bar": False, "accelerator": "cpu",
}  # fmt: skip
QUICK: dict[str, Any] = {"preset": "tiny", "progress_bar": False, "accelerator": "cpu"}
SETS = ["Interferon Signaling", "Complement cascade", "HALLMARK_HYPOXIA"]


@pytest.fixture(scope="session")
def adata(reference: anndata.AnnData) -> anndata.AnnData:
    """Cells whose sex and tissue can be read off a gene, and whose disease cannot."""
    cells = reference[:240].copy()
    n = np.arange(240)
    cells.obs["tissue"] = np.where(n % 3 == 0, "lymph node", "blood")
    cells.obs["sex"] = np.where(n % 5 == 0, "unknown", "female")
    cells.obs["disease"] = np.where(n % 2, "normal", "COVID-19")
    cells.obs["development_stage"] = "34-year-old stage"
    return cells


@pytest.fixture(scope="session")
def activity(adata: anndata.AnnData) -> pd.DataFrame:
    code = adata.obs["cell_type"].cat.codes.to_numpy()
    scores = np.full((adata.n_obs, 3), 0.1)
    scores[:, 0] += code < 2
    scores[:, 1] += 0.5
    scores[:, 2] += code >= 2
    return pd.DataFrame(scores, columns=SETS, index=adata.obs_names)


@pytest.fixture(scope="session")
def encoder(adata: anndata.AnnData) -> Geneformer:
    return sclm.train("geneformer", adata, seed=0, **ENCODER)


@pytest.fixture(scope="session")
def model(adata: anndata.AnnData, encoder: Geneformer, activity: pd.DataFrame) -> Cell2Text:
    return sclm.train(
        "cell2text", adata, label_key="cell_type", obs_keys=["tissue", "disease", "sex", "development_stage"], encoder=encoder,
        pathways=activity, pathway_texts={"Complement cascade": "Genes that encode components of the complement system."},
        batch_key="donor", class_weight=0.5, seed=0, **QUICK,
    )  # fmt: skip


@pytest.fixture(scope="session")
def cells(simulate: Callable[..., anndata.AnnData]) -> Cells:
    adata = simulate(24, seed=5)
    counts = adata.X.tolil()
    counts[3] = 0
    adata.X = counts.tocsr()
    return read_cells(adata).read()
