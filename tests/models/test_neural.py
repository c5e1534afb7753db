"""The base of neural families, on a family of one layer."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pytest
import torch

from sclm.cells import GeneVocabulary
from sclm.models.neural import NeuralConfig, NeuralFamily, resolve_device
from sclm.nn import CausalLM, seeded

if TYPE_CHECKING:
    from pathlib import Path

GENES = GeneVocabulary(("GENE1", "GENE2", "GENE3"))


@dataclasses.dataclass(frozen=True, kw_only=True)
class ToyConfig(NeuralConfig):
    width: int = 8
    dropout: float = 0.5
    body: str | None = None
    PRESETS: ClassVar[dict[str, dict[str, Any]]] = {"tiny": {"width": 4}, "small": {}}


class Network(torch.nn.Module):
    def __init__(self, config: ToyConfig, n_genes: int) -> None:
        super().__init__()
        self.embed = torch.nn.Linear(n_genes, config.width)
        self.dropout = torch.nn.Dropout(config.dropout)
        self.register_buffer("steps", torch.tensor(3))
        if config.body is not None:
            self.body = CausalLM.pretrained(config.body, lora_rank=2)

    def forward(self, counts: torch.Tensor) -> torch.Tensor:
        return self.dropout(self.embed(counts))


class Toy(NeuralFamily):
    family = "toy"
    Config = ToyConfig

    @classmethod
    def build(cls, config: ToyConfig, vocabulary: GeneVocabulary) -> Network:
        return Network(config, len(vocabulary))

    def embed(self, counts: np.ndarray) -> np.ndarray:
        with self.inference() as network:
            found = network(torch.from_numpy(counts).to(self.device, next(network.parameters()).dtype))
            assert found.is_inference()
        return found.float().cpu().numpy()


@pytest.fixture
def model() -> Toy:
    config = ToyConfig.preset("tiny")
    with seeded(0):
        return Toy(config, GENES, Toy.build(config, GENES), {"data": "none"})


COUNTS = np.random.default_rng(0).poisson(2, (5, 3)).astype(np.float32)


def test_presets() -> None:
    assert ToyConfig.preset("tiny") == ToyConfig(width=4)
    assert ToyConfig.preset("small", width=16) == ToyConfig(width=16)
    with pytest.raises(ValueError, match="one of 'tiny', 'small', found 'huge'"):
        ToyConfig.preset("huge")
    with pytest.raises(TypeError, match="no setting 'widht'; did you mean 'width'"):
        ToyConfig.preset("tiny", widht=3)
    with pytest.raises(TypeError, match="there are width, dropout, body"):
        ToyConfig.preset("tiny", zzz=3)


def test_save_and_load_give_bitwise_equal_answers(model: Toy, tmp_path: Path) -> None:
    folder = model.save(tmp_path / "toy")
    assert {p.name for p in folder.iterdir()} == {"config.json", "model.safetensors", "vocabulary.json", "README.md"}
    assert json.loads((folder / "config.json").read_text())["base_model"] is None
    again = Toy.load(folder)
    assert again.config == model.config
    np.testing.assert_array_equal(again.embed(COUNTS), model.embed(COUNTS))
    assert again.provenance()["sha256"] == model.provenance()["sha256"]
    assert int(again.network.steps) == 3
    assert {name: (a.dtype, a.shape) for name, a in model.arrays().items()} == {
        "embed.weight": (np.float32, (4, 3)),
        "embed.bias": (np.float32, (4,)),
        "steps": (np.int64, ()),
    }


def test_half_precision_is_kept_exactly(model: Toy) -> None:
    model.network.bfloat16()
    arrays = model.arrays()
    assert arrays["embed.weight"].dtype == np.float32
    again = Toy.from_arrays(model.config, GENES, arrays, {})
    again.network.bfloat16()
    np.testing.assert_array_equal(again.embed(COUNTS), model.embed(COUNTS))


def test_inference_puts_the_mode_back(model: Toy) -> None:
    assert not model.network.training
    np.testing.assert_array_equal(model.embed(COUNTS), model.embed(COUNTS))  # no dropout
    model.network.train()
    np.testing.assert_array_equal(model.embed(COUNTS), model.embed(COUNTS))
    assert model.network.training
    with pytest.raises(ZeroDivisionError), model.inference():
        _ = 1 / 0
    assert model.network.training
    assert torch.is_grad_enabled()


def test_a_pretrained_base_is_named_and_not_saved(tmp_path: Path) -> None:
    import transformers
    from transformers.utils import logging

    base = tmp_path / "base"
    settings = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    logging.disable_progress_bar()
    transformers.LlamaForCausalLM(transformers.LlamaConfig(vocab_size=9, **settings)).save_pretrained(base)
    logging.enable_progress_bar()
    config = ToyConfig(body=str(base))
    model = Toy(config, GENES, Toy.build(config, GENES))
    folder = model.save(tmp_path / "toy")
    written = json.loads((folder / "config.json").read_text())
    assert written["base_model"] == model.base_model == {"name": str(base), "revision": None}
    assert all("lora_" in name for name in model.arrays() if name.startswith("body."))
    again = Toy.load(folder)
    assert {n: a.tobytes() for n, a in again.arrays().items()} == {n: a.tobytes() for n, a in model.arrays().items()}

    again.network.body.base_model["revision"] = "abc"
    again.save(folder, overwrite=True)
    assert Toy.load(folder).base_model == {"name": str(base), "revision": None}  # a folder has no revision to compare


def test_another_revision_of_the_base_is_refused(model: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    revisions = iter(["abc", "def"])
    monkeypatch.setattr(Toy, "base_model", property(lambda self: {"name": "hf:a/b", "revision": next(revisions)}))
    folder = model.save(tmp_path / "toy")
    with pytest.raises(ValueError, match="revision abc of hf:a/b, found def"):
        Toy.load(folder)


def test_devices(model: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    assert model.to("cpu") is model
    assert model.device == torch.device("cpu")
    with pytest.raises(ValueError, match="found 'gpu0'"):
        resolve_device("gpu0")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert resolve_device("cuda") == torch.device("cuda")
    with pytest.raises(ValueError, match=r"sees 1 CUDA devices\. Pass device='auto'"):
        resolve_device("cuda:1")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(ValueError, match="needs a Mac"):
        resolve_device("mps")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_device("auto") == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert resolve_device("auto") == torch.device("cuda")


def test_a_family_has_to_say_how_it_is_built() -> None:
    class Empty(NeuralFamily):
        family = "empty"
        Config = ToyConfig

    with pytest.raises(TypeError, match="'empty' does not say"):
        Empty.from_arrays(ToyConfig(), GENES, {}, {})
