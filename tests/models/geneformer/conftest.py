"""Small Geneformers: dictionaries, files in the layout of the original, cells."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from sclm.models.geneformer.dictionaries import SPECIAL

if TYPE_CHECKING:
    from collections.abc import Callable

GENES = [f"ENSG{i:011d}" for i in range(1000, 1030)]


@pytest.fixture(scope="session")
def genes() -> list[str]:
    """Ensembl ids of the small dictionaries."""
    return GENES


@pytest.fixture(scope="session")
def vocab() -> Path:
    """Folder with JSON copies of the published V1 dictionaries."""
    folder = Path(os.environ.get("SCLM_REAL_DATA", Path(__file__).parents[4] / "shared" / "data")) / "vocab"
    if not (folder / "geneformer_token_dictionary.json").is_file():
        pytest.skip("SCLM_REAL_DATA holds no vocab/geneformer_token_dictionary.json")
    return folder


@pytest.fixture
def write_dictionaries() -> Callable[..., dict[str, Any]]:
    """Writes JSON dictionaries of 30 genes; keywords replace one of them, None leaves it out."""

    def write(folder: Path, version: str = "V2", ending: str = "", **changed: Any) -> dict[str, Any]:
        folder.mkdir(parents=True, exist_ok=True)
        content: dict[str, Any] = {
            "token_dictionary": {name: i for i, name in enumerate([*SPECIAL[version], *GENES])},
            "gene_median_dictionary": {gene: 0.5 + 0.1 * i for i, gene in enumerate(GENES)},
            "gene_name_id_dict": {f"GENE{i}": gene for i, gene in enumerate(GENES)},
            "ensembl_mapping_dict": {gene: gene for gene in GENES}
            | {"ENSG09000000001": GENES[3], "ENSG09000000002": "ENSG09900000000", GENES[29]: "ENSG09900000001"},
        }
        content |= changed
        for name, values in content.items():
            if values is not None:
                (folder / f"{name}{ending}.json").write_text(json.dumps(values))
        return content

    return write


@pytest.fixture
def values() -> np.ndarray:
    """(6, 30) counts per gene, one cell empty."""
    counts = np.random.default_rng(0).poisson(1.5, size=(6, 30)).astype(np.float32)
    counts[2] = 0
    return counts


@pytest.fixture
def write_checkpoint(write_dictionaries: Callable) -> Callable[..., Path]:
    """Writes a small network in the original layout, with noise in every tensor, and its dictionaries; gives the folder."""
    import torch
    from safetensors.torch import save_file

    from sclm.models.geneformer.network import HEADS, GeneformerConfig, bert_config

    def write(folder: Path, version: str = "V2", head: str = "masked", n_classes: int = 3, **settings: Any) -> Path:
        write_dictionaries(folder, version)
        classes = () if head == "masked" else tuple(f"class {i}" for i in range(n_classes))
        sizes = {"layers": 3, "width": 16, "heads": 2, "feed_forward": 24, "max_length": 16} | settings
        config = bert_config(GeneformerConfig(**sizes, head=head, classes=classes), {"V1": 32, "V2": 34}[version])
        network = HEADS[head](config)
        generator = torch.Generator().manual_seed(7)
        with torch.no_grad():
            for name, parameter in network.named_parameters():
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.copy_(1 + 0.3 * noise if "LayerNorm.weight" in name else 0.4 * noise)
        tensors = {n: t.clone() for n, t in network.state_dict().items() if "predictions.decoder" not in n}
        save_file(tensors, folder / "model.safetensors")
        written = config.to_dict() | {"architectures": [HEADS[head].__name__], "model_type": "bert"}
        (folder / "config.json").write_text(json.dumps(written))
        return folder

    return write
