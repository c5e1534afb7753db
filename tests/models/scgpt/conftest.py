"""Checkpoints in the original layout, made from the stored ones or from random weights."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest
import torch

from sclm.cells import GeneVocabulary
from sclm.models.scgpt.config import ScGPTConfig
from sclm.models.scgpt.model import ScGPT
from sclm.models.scgpt.names import to_theirs
from sclm.nn import seeded

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

GENES = tuple(f"GENE{i}" for i in range(40))
TOKENS = (*GENES, "<pad>", "<cls>", "<eoc>")
SMALL: dict[str, Any] = {"width": 16, "n_heads": 2, "n_layers": 2, "feed_forward": 24}


@pytest.fixture(scope="session")
def stored(golden: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Name of a stored file of weights → a folder in the public layout with it."""

    def make(weights: str) -> Path:
        folder = tmp_path_factory.mktemp("scgpt")
        for name in ("args.json", "vocab.json"):
            shutil.copy(golden / "scgpt" / "checkpoint" / name, folder / name)
        shutil.copy(golden / "scgpt" / weights, folder / "best_model.pt")
        return folder

    return make


def _random_model(seed: int = 0, **settings: Any) -> ScGPT:
    """A small network in which every tensor matters: no bias is zero, no norm is one."""
    vocabulary = GeneVocabulary(TOKENS)
    config = ScGPTConfig(**(SMALL | {"max_length": 30} | settings))
    with seeded(seed):
        network = ScGPT.build(config, vocabulary)
        with torch.no_grad():
            for name, tensor in network.state_dict().items():
                if name == "panel":
                    continue
                noise = torch.randn_like(tensor)
                if name == "norm.variance":
                    tensor.copy_(0.5 + noise.abs())
                elif tensor.ndim == 2:
                    tensor.copy_(1.2 * noise / tensor.shape[1] ** 0.5)
                else:
                    tensor.copy_(0.15 * noise + ("norm" in name and name.endswith("weight")))
    return ScGPT(config, vocabulary, network)


def _write_original(model: ScGPT, folder: Path, **changes: Any) -> dict[str, torch.Tensor]:
    """Write a model of ours as the authors of scGPT publish theirs; returns the tensors that were written."""
    config = model.config
    args = {
        "embsize": config.width, "nheads": config.n_heads, "nlayers": config.n_layers, "d_hid": config.feed_forward,
        "n_layers_cls": config.class_layers, "dropout": 0.2, "pad_token": "<pad>", "pad_value": -2, "mask_value": -1,
        "n_bins": config.n_bins, "max_seq_len": config.max_length, "input_emb_style": "continuous",
        "MVC": config.mvc != "none", "USE_GENERATIVE_TRAINING": bool(config.flags),
    } | changes  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "args.json").write_text(json.dumps(args))
    vocabulary = {token: i for i, token in enumerate(model.vocabulary.tokens)}
    (folder / "vocab.json").write_text(json.dumps(dict(reversed(vocabulary.items()))))
    state = {k: v for k, v in model.network.state_dict().items() if k != "panel"}
    theirs = {k: v.clone() for k, v in to_theirs(state, input_norm=config.input_norm).items()}
    torch.save(theirs, folder / "best_model.pt")
    return theirs


@pytest.fixture(scope="session")
def random_model() -> Callable[..., ScGPT]:
    """Settings → a small network in which every tensor matters."""
    return _random_model


@pytest.fixture(scope="session")
def write_original() -> Callable[..., dict[str, torch.Tensor]]:
    """Model, folder → the tensors that were written there as the authors of scGPT publish theirs."""
    return _write_original
