"""Small published-style checkpoints made here, and cells with proteins."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from sclm.models.sctranslator.checkpoint import IGNORED, original_name
from sclm.models.sctranslator.network import ScTranslatorConfig, ScTranslatorNetwork
from sclm.nn import seeded

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import anndata

# As small as it can be; every size differs from the others, so that none is taken for another.
SIZES = {
    "gene_ids": 90, "protein_ids": 90, "gene_frame": 30, "protein_frame": 7, "translator_width": 15, "width": 6, "heads": 2,
    "head_width": 4, "features": 5, "feed_forward": 24,
}  # fmt: skip


@pytest.fixture(scope="session")
def published() -> dict[str, torch.Tensor]:
    """A state_dict as the authors' code writes it. Tests must not change it."""
    config = ScTranslatorConfig(**SIZES)
    with seeded(5):
        network = ScTranslatorNetwork(config)
        # Biases and norms at their first values would hide a forgotten one.
        state = {k: v + 0.2 * torch.randn_like(v) for k, v in network.state_dict().items()}
    found = {original_name(name): tensor for name, tensor in state.items()}
    for name in list(found):
        if ".performer.net." in name:
            found[name.replace(".performer.net.", ".performer.proj_updater.instance.")] = found[name]
    shapes = [(1, 6), (1,), (6, 1), (6,), (), ()]
    found |= {name: torch.zeros(shape) for name, shape in zip(IGNORED, shapes, strict=True)}
    return found


@pytest.fixture
def checkpoint(published: dict[str, torch.Tensor], tmp_path: Path) -> Path:
    path = tmp_path / "scTranslator_2M.pt"
    torch.save(published, path)
    return path


@pytest.fixture
def dictionaries(tmp_path: Path) -> Path:
    """ID_dic beside the checkpoint: CD3D is 7, CD3E 8, CD4 9, and CD45RA has an id of its own."""
    folder = tmp_path / "ID_dic"
    folder.mkdir()
    symbols = {
        "CD3D": 915,
        "CD3E": 916,
        "CD4": 920,
        "T4": 920,
        "PTPRC": 5788,
        "CD45RA": 900001,
        "MS4A1": 931,
        "CD19": 930,
    }
    numbers = {915: 7, 916: 8, 920: 9, 5788: 10, 900001: 75, 931: 11, 930: 12}
    (folder / "hgs_to_EntrezID.json").write_text(json.dumps(symbols))
    (folder / "EntrezID_to_myID.json").write_text(json.dumps({str(k): v for k, v in numbers.items()}))
    return folder


@pytest.fixture(scope="session")
def cite(simulate: Callable[..., anndata.AnnData]) -> anndata.AnnData:
    """Cells whose proteins follow marker genes. Tests must not change it."""
    import pandas as pd

    adata = simulate(240, seed=4)
    rng = np.random.default_rng(0)
    x = np.asarray(adata.X.todense())
    names = ["CD3_TotalSeqB", "CD19_TotalSeqB", "CD4_TotalSeqB", "IgG1"]
    rate = np.column_stack([x[:, 10 * i : 10 * (i + 1)].sum(axis=1) for i in range(3)] + [np.full(240, 6.0)])
    adata.obsm["protein"] = pd.DataFrame(rng.poisson(rate + 2).astype(float), index=adata.obs_names, columns=names)
    return adata
