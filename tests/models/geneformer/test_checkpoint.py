"""Geneformer's original layout: recognised, read strictly, the numbers of parameters that were published."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import sclm
from sclm.models.geneformer import checkpoint, published
from sclm.models.geneformer.network import HEADS, GeneformerConfig, bert_config

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.mark.parametrize("head", ["masked", "cell", "gene"])
@pytest.mark.parametrize("version", ["V1", "V2"])
def test_a_folder_is_recognised_converted_and_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write_checkpoint: Callable, version: str, head: str
) -> None:
    monkeypatch.setenv("SCLM_DATA_DIR", str(tmp_path / "cache"))
    folder = write_checkpoint(tmp_path / "original", version, head)
    model: Any = sclm.load(folder)
    assert (model.family, model.version, model.config.head) == ("geneformer", version, head)
    tensors = load_file(folder / "model.safetensors")
    for name, array in model.arrays().items():
        if name.startswith("bert_model."):
            np.testing.assert_array_equal(array, tensors.pop(name.removeprefix("bert_model.")).numpy())
    assert not tensors
    # the second time from our own format, without the original's reader
    monkeypatch.setattr(checkpoint, "convert", None)
    again: Any = sclm.load(folder)
    assert again.provenance()["sha256"] == model.provenance()["sha256"]
    saved = sclm.load(model.save(tmp_path / "ours"))
    assert saved.provenance()["sha256"] == model.provenance()["sha256"]
    assert saved.dictionaries.symbols == model.dictionaries.symbols
    assert "split" in (tmp_path / "ours" / "README.md").read_text()


def test_files_of_torch_and_of_a_data_parallel_network_are_read(tmp_path: Path, write_checkpoint: Callable) -> None:
    folder = write_checkpoint(tmp_path)
    expected = checkpoint.convert(folder).arrays()
    tensors = load_file(folder / "model.safetensors")
    tensors["bert.embeddings.position_ids"] = torch.arange(16)[None]  # as old versions of transformers wrote it
    tensors["cls.predictions.decoder.weight"] = tensors["bert.embeddings.word_embeddings.weight"].clone()
    torch.save({f"module.{name}": tensor for name, tensor in tensors.items()}, folder / "pytorch_model.bin")
    found = checkpoint.convert(folder / "pytorch_model.bin")
    for name, array in found.arrays().items():
        np.testing.assert_array_equal(array, expected[name])
    (folder / "model.safetensors").unlink()
    assert checkpoint.recognise(folder)
    assert checkpoint.sources(folder)[1].name == "pytorch_model.bin"


NAME = "bert.encoder.layer.1.attention.self.key.weight"
SHORT = "bert.encoder.layer.1.intermediate.dense.weight"


def changed(tensors: dict[str, torch.Tensor], how: str) -> dict[str, torch.Tensor]:
    if how == "missing":
        del tensors[NAME]
    elif how == "extra":
        tensors["bert.encoder.layer.3.attention.self.key.weight"] = tensors[NAME].clone()
    elif how == "renamed":
        tensors["bert.encoder.layer.1.attention.self.Key.weight"] = tensors.pop(NAME)
    elif how == "transposed":
        tensors[SHORT] = tensors[SHORT].T.contiguous()
    elif how == "untied":
        tensors["cls.predictions.decoder.weight"] = tensors["bert.embeddings.word_embeddings.weight"] + 1
    elif how == "pooler":
        tensors["bert.pooler.dense.bias"] = torch.zeros(16)
    elif how == "many tasks":
        tensors["classification_heads.0.weight"] = torch.zeros(2, 16)
        tensors["attention_pool.attention_weights"] = torch.zeros(16, 1)
    return tensors


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("missing", f"missing {NAME}"),
        ("extra", r"unknown bert.encoder.layer.3.attention.self.key.weight"),
        ("renamed", f"missing {NAME}; unknown bert.encoder.layer.1.attention.self.Key.weight"),
        ("transposed", rf"{SHORT}: expected \(24, 16\), found \(16, 24\) \(transposed\)"),
        ("untied", r"cls.predictions.decoder.weight with other values than bert.embeddings.word_embeddings.weight"),
        ("pooler", r"unknown bert.pooler.dense.bias"),
        ("many tasks", r"multi-task model with 1 heads \(classification_heads.0\).*starts its encoder from random"),
    ],
)
def test_every_tensor_is_accounted_for(tmp_path: Path, write_checkpoint: Callable, how: str, message: str) -> None:
    folder = write_checkpoint(tmp_path)
    save_file(changed(load_file(folder / "model.safetensors"), how), folder / "model.safetensors")
    with pytest.raises(ValueError, match=message):
        checkpoint.convert(folder)


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("position_embedding_type", "relative_key", "position_embedding_type 'relative_key'"),
        ("is_decoder", True, "is_decoder True"),
        ("architectures", ["BertForQuestionAnswering"], "'BertForQuestionAnswering'; known are BertForMaskedLM"),
        ("vocab_size", 40, "vocab_size 40, found token dictionaries of other sizes: token_dictionary.json with 34"),
        ("num_hidden_layers", 2, "unknown bert.encoder.layer.2"),
        ("hidden_size", None, "must name hidden_size"),
    ],
)
def test_settings_that_do_not_fit_are_refused(
    tmp_path: Path, write_checkpoint: Callable, setting: str, value: Any, message: str
) -> None:
    folder = write_checkpoint(tmp_path)
    config = json.loads((folder / "config.json").read_text()) | {setting: value}
    if value is None:
        del config[setting]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=message):
        checkpoint.convert(folder)


def test_classes_have_their_names_or_numbers(tmp_path: Path, write_checkpoint: Callable) -> None:
    folder = write_checkpoint(tmp_path, head="cell")
    assert checkpoint.convert(folder).config.classes == ("class 0", "class 1", "class 2")
    config = json.loads((folder / "config.json").read_text())
    del config["id2label"], config["architectures"]
    (folder / "config.json").write_text(json.dumps(config))
    found = checkpoint.convert(folder).config
    assert (found.head, found.classes) == ("cell", ("LABEL_0", "LABEL_1", "LABEL_2"))


def test_what_is_no_geneformer_is_not_recognised(tmp_path: Path, write_checkpoint: Callable) -> None:
    folder = write_checkpoint(tmp_path / "a")
    (folder / "vocab.txt").write_text("[PAD]")  # a BERT of words
    assert not checkpoint.recognise(folder)
    (tmp_path / "b").mkdir()
    assert not checkpoint.recognise(tmp_path / "b")
    (tmp_path / "b" / "config.json").write_text("[")
    assert not checkpoint.recognise(tmp_path / "b")
    (tmp_path / "b" / "config.json").write_text('{"model_type": "gpt2"}')
    assert not checkpoint.recognise(tmp_path / "b")


def test_what_was_not_fetched_is_named(tmp_path: Path, write_checkpoint: Callable) -> None:
    folder = write_checkpoint(tmp_path)
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\n"
    (folder / "token_dictionary.pkl").write_text(pointer)
    with pytest.raises(ValueError, match=r"token_dictionary.pkl is a pointer of git-lfs"):
        checkpoint.convert(folder)
    (folder / "token_dictionary.pkl").unlink()
    (folder / "model.safetensors").write_text(pointer)
    with pytest.raises(ValueError, match=r"model.safetensors is a pointer of git-lfs"):
        sclm.load(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"no weights: expected model.safetensors or pytorch_model.bin"):
        sclm.load(folder)


def test_a_hostile_weights_file_is_refused(tmp_path: Path, write_checkpoint: Callable) -> None:
    folder = write_checkpoint(tmp_path)
    (folder / "model.safetensors").unlink()
    torch.save({"a": Hostile(tmp_path / "x")}, folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match="no file of tensors alone"):
        checkpoint.convert(folder)
    assert not (tmp_path / "x").exists()


class Hostile:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        import os

        return os.mkdir, (str(self.path),)


def test_published_weights_beside_other_dictionaries_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write_checkpoint: Callable
) -> None:
    folder = write_checkpoint(tmp_path)
    weights = checkpoint.sha256(folder / "model.safetensors")
    monkeypatch.setitem(published.WEIGHTS, weights, ("Geneformer-V2-104M", "V2"))
    with pytest.raises(ValueError, match=r"weights of Geneformer-V2-104M beside other dictionaries .*hf download"):
        checkpoint.convert(folder)


@pytest.mark.parametrize(
    ("preset", "n_tokens", "total"),
    [("V1-10M", 25_426, 10_288_722), ("V2-104M", 20_275, 104_386_867), ("V2-316M", 20_275, 316_354_867)],
)
def test_the_published_numbers_of_parameters(preset: str, n_tokens: int, total: int) -> None:
    config = bert_config(GeneformerConfig.preset(preset), n_tokens)
    with torch.device("meta"):
        network = HEADS["masked"](config)
    network.tie_weights()
    assert sum(parameter.numel() for parameter in network.parameters()) == total
    names = {
        "V1-10M": ("embeddings", 7_034_368),
        "V2-104M": ("embeddings", 18_720_000),
        "V2-316M": ("embeddings", 28_080_000),
    }
    part, expected = names[preset]
    assert sum(p.numel() for p in getattr(network.bert, part).parameters()) == expected
    layer = {"V1-10M": 527_104, "V2-104M": 7_087_872, "V2-316M": 15_940_224}[preset]
    assert {sum(p.numel() for p in block.parameters()) for block in network.bert.encoder.layer} == {layer}
