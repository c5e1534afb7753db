"""Checkpoints of scGPT: all spellings, nothing read by half, nothing refused without its name."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import sclm
from sclm.models.scgpt import checkpoint

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

TOKENS = (*(f"GENE{i}" for i in range(40)), "<pad>", "<cls>", "<eoc>")
FOUNDATION: dict[str, Any] = {"flags": 2}
KINDS: dict[str, dict[str, Any]] = {
    "foundation": FOUNDATION,
    "old": {"input_norm": "batch", "classes": ("0",), "flags": 2},
    "annotation": {"classes": tuple("0123"), "mvc": "none", "cls_value": 0.0},
    "integration": {
        "classes": ("0",), "input_norm": "domain", "batches": ("0", "1", "2"), "batch_labels": True,
        "zero_probability": True, "adversary": True, "include_zeros": True, "cls_value": 0.0,
    },
    "concat": {"classes": ("0",), "mvc": "concat query"},
    "sum": {"classes": ("0",), "mvc": "sum query"},
    "perturbation": {
        "classes": ("0",), "perturbation_flags": 3, "expression": "affine", "values": "log", "objective": "perturbation",
    },
    "multiomic": {
        "classes": ("0",), "batches": ("0", "1"), "batch_labels": True, "n_modalities": 5, "adversary": True,
        "include_zeros": True, "cls_value": 0.0,
    },
}  # fmt: skip


def same(a: Any, b: Any) -> None:
    assert a.arrays().keys() == b.arrays().keys()
    for name, array in a.arrays().items():
        np.testing.assert_array_equal(array, b.arrays()[name], err_msg=name)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_file_goes_there_and_back(
    kind: str, tmp_path: Path, random_model: Callable[..., Any], write_original: Callable[..., Any]
) -> None:
    model = random_model(3, **KINDS[kind])
    theirs = write_original(model, tmp_path)
    assert checkpoint.recognise(tmp_path)
    assert [file.name for file in checkpoint.sources(tmp_path)] == ["args.json", "vocab.json", "best_model.pt"]
    again = checkpoint.convert(tmp_path)
    assert again.config == model.config
    assert again.vocabulary == model.vocabulary
    same(again, model)
    assert again.card["report"]["used"] == len(model.arrays())
    assert again.card["report"]["missing"] == again.card["report"]["ignored"] == []
    assert set(again.card["sha256"]) == {"args.json", "vocab.json", "best_model.pt"}
    # and from the file itself, which lies beside its settings
    same(checkpoint.convert(tmp_path / "best_model.pt"), model)
    assert not [name for name in theirs if name.startswith(("layers.", "decoders.", "genes."))]


def spelt(theirs: dict[str, torch.Tensor], how: str) -> dict[str, torch.Tensor]:
    found = {}
    for name, tensor in theirs.items():
        if how == "impl":
            found[name.replace("self_attn.", "self_attn._impl.")] = tensor
        elif how == "in_proj":
            found[name.replace("Wqkv.", "in_proj_")] = tensor
        elif how == "module":
            found[f"module.{name}"] = tensor
        elif "Wqkv" in name:
            for part, rows in zip("qkv", tensor.chunk(3), strict=True):
                found[name.replace("Wqkv", {"separate": f"{part}_proj", "W": f"W{part}"}[how])] = rows.clone()
        else:
            found[name] = tensor
    return found


@pytest.mark.parametrize("how", ["impl", "in_proj", "module", "separate", "W"])
def test_spellings(
    how: str, tmp_path: Path, random_model: Callable[..., Any], write_original: Callable[..., Any]
) -> None:
    model = random_model(**FOUNDATION)
    theirs = spelt(write_original(model, tmp_path), how)
    torch.save(theirs, tmp_path / "best_model.pt")
    same(checkpoint.convert(tmp_path), model)
    torch.save(theirs, tmp_path / "best_model.pt", _use_new_zipfile_serialization=False)  # as old torch wrote
    same(checkpoint.convert(tmp_path), model)


DAMAGE: dict[str, tuple[str, Callable[[dict[str, torch.Tensor]], Any], str]] = {
    "renamed": (
        "transformer_encoder.layers.1.norm1.weight",
        lambda t: t.update({"transformer_encoder.layers.1.norm_1.weight": t.pop("transformer_encoder.layers.1.norm1.weight")}),
        r"missing transformer_encoder\.layers\.1\.norm1\.weight; unknown transformer_encoder\.layers\.1\.norm_1\.weight",
    ),
    "missing": ("decoder.fc.4.bias", lambda t: t.pop("decoder.fc.4.bias"), r"missing decoder\.fc\.4\.bias"),
    "missing head": ("flag_encoder.weight", lambda t: t.pop("flag_encoder.weight"), r"missing flag_encoder\.weight"),
    "extra": (
        "impute_mvc_decoder.W.weight",
        lambda t: t.update({"impute_mvc_decoder.W.weight": torch.zeros(16, 16)}),
        r"unknown impute_mvc_decoder\.W\.weight",
    ),
    "extra layer": (
        "transformer_encoder.layers.2.linear1.bias",
        lambda t: t.update({"transformer_encoder.layers.2.linear1.bias": torch.zeros(24)}),
        r"unknown transformer_encoder\.layers\.2\.linear1\.bias",
    ),
    "transposed": (
        "transformer_encoder.layers.0.linear1.weight",
        lambda t: t.update({"transformer_encoder.layers.0.linear1.weight": t["transformer_encoder.layers.0.linear1.weight"].T}),
        r"transformer_encoder\.layers\.0\.linear1\.weight: expected \(24, 16\), found \(16, 24\) \(transposed\)",
    ),
    "transposed embedding": (
        "encoder.embedding.weight",
        lambda t: t.update({"encoder.embedding.weight": t["encoder.embedding.weight"].T}),
        r"encoder\.embedding\.weight .* \(43, 16\) .* found \(16, 43\) \(transposed\)",
    ),
    "no encoder": ("encoder.embedding.weight", lambda t: t.pop("encoder.embedding.weight"), r"a matrix encoder\.embedding"),
    "twice": (
        "self_attn",
        lambda t: t.update({"transformer_encoder.layers.0.self_attn.in_proj_bias": torch.zeros(48)}),
        r"in_proj_bias stands in the file twice|Wqkv\.bias stands in the file twice",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", DAMAGE)
def test_damaged_files_are_refused_by_name(
    kind: str, tmp_path: Path, random_model: Callable[..., Any], write_original: Callable[..., Any]
) -> None:
    _, change, message = DAMAGE[kind]
    theirs = write_original(random_model(**FOUNDATION), tmp_path)
    change(theirs)
    torch.save({k: v.contiguous() for k, v in theirs.items()}, tmp_path / "best_model.pt")
    with pytest.raises(ValueError, match=message):
        checkpoint.convert(tmp_path)


def test_separate_projections_must_be_whole(
    tmp_path: Path, random_model: Callable[..., Any], write_original: Callable[..., Any]
) -> None:
    theirs = spelt(write_original(random_model(**FOUNDATION), tmp_path), "separate")
    broken = {k: v for k, v in theirs.items() if k != "transformer_encoder.layers.0.self_attn.k_proj.weight"}
    torch.save(broken, tmp_path / "best_model.pt")
    with pytest.raises(ValueError, match=r"layers\.0\.self_attn\.Wqkv\.weight needs the parts \['q', 'k', 'v'\]"):
        checkpoint.convert(tmp_path)
    theirs["transformer_encoder.layers.0.self_attn.k_proj.weight"] = torch.zeros(16, 8)
    torch.save(theirs, tmp_path / "best_model.pt")
    with pytest.raises(ValueError, match=r"parts of .*Wqkv\.weight must have one shape"):
        checkpoint.convert(tmp_path)


def test_what_is_left_out_is_listed(
    tmp_path: Path, random_model: Callable[..., Any], write_original: Callable[..., Any]
) -> None:
    model = random_model(**KINDS["integration"])
    theirs = write_original(model, tmp_path)
    theirs |= {f"dsbn.bns.{i}.num_batches_tracked": torch.tensor(5) for i in range(3)}
    theirs["sim.temp"] = torch.zeros(1)
    torch.save(theirs, tmp_path / "best_model.pt")
    again = checkpoint.convert(tmp_path)
    same(again, model)
    assert again.card["report"]["ignored"] == [*(f"dsbn.bns.{i}.num_batches_tracked" for i in range(3)), "sim.temp"]


def test_vocabularies_are_read_by_number_and_must_fit(
    tmp_path: Path, random_model: Callable[..., Any], write_original: Callable[..., Any]
) -> None:
    write_original(random_model(**FOUNDATION), tmp_path)
    table = json.loads((tmp_path / "vocab.json").read_text())
    assert next(iter(table)) == "<eoc>"  # the order in the file means nothing
    assert checkpoint.read_vocabulary(tmp_path / "vocab.json").tokens == TOKENS
    for wrong, message in (
        ({k: v for k, v in table.items() if k != "<cls>"}, "must number 42 tokens 0 to 41, found 42 at place 41"),
        ({k: v for k, v in table.items() if k != "<eoc>"}, "lacks the special tokens <eoc>"),
        (table | {"NEW": 43}, r"must be \(44, 16\) for the 44 tokens"),
        (table | {"NEW": 7}, "must number"),
    ):
        (tmp_path / "vocab.json").write_text(json.dumps(wrong))
        with pytest.raises(ValueError, match=message):
            checkpoint.convert(tmp_path)
    (tmp_path / "vocab.json").unlink()
    assert not checkpoint.recognise(tmp_path)


@pytest.mark.parametrize("change", [{"pre_norm": True}, {"input_emb_style": "category"}])
def test_architectures_of_no_released_model_are_refused(
    change: dict[str, Any], tmp_path: Path, random_model: Callable[..., Any], write_original: Callable[..., Any]
) -> None:
    write_original(random_model(**FOUNDATION), tmp_path, **change)
    with pytest.raises(ValueError, match=next(iter(change))):
        checkpoint.convert(tmp_path)


def test_copies_in_the_layout_of_transformers(
    tmp_path: Path, random_model: Callable[..., Any], write_original: Callable[..., Any]
) -> None:
    model = random_model(mvc="none")
    theirs = spelt(write_original(model, tmp_path), "in_proj")
    (tmp_path / "args.json").unlink()
    (tmp_path / "best_model.pt").unlink()
    save_file(theirs, tmp_path / "model.safetensors")
    config = {
        "model_type": "scgpt", "embsize": 16, "nhead": 2, "d_hid": 24, "nlayers": 2, "norm_scheme": "post", "dropout": 0.0,
        "max_seq_len": 1536, "pad_token_id": 0, "vocab_size": 43,
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert checkpoint.recognise(tmp_path)
    again = checkpoint.convert(tmp_path)
    same(again, model)
    assert again.pad_id == TOKENS.index("<pad>")  # not the config's 0
    assert again.config.max_length == 1536
    (tmp_path / "vocab.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"lacks vocab\.json"):
        checkpoint.convert(tmp_path)


def test_other_folders_are_not_recognised(tmp_path: Path) -> None:
    assert not checkpoint.recognise(tmp_path)
    assert not checkpoint.recognise(tmp_path / "nothing")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    (tmp_path / "model.safetensors").write_bytes(b"")
    assert not checkpoint.recognise(tmp_path)
    (tmp_path / "config.json").write_text("no JSON")
    assert not checkpoint.recognise(tmp_path)
    with pytest.raises(FileNotFoundError, match="holds no weights of scGPT"):
        checkpoint.sources(tmp_path / "nothing")


def test_hostile_and_broken_files_are_not_run(
    tmp_path: Path, random_model: Callable[..., Any], write_original: Callable[..., Any]
) -> None:
    write_original(random_model(**FOUNDATION), tmp_path)
    marker = tmp_path / "ran"
    command = f"touch {marker}".encode()
    evil = b"cos\nsystem\n(S'" + command + b"'\ntR."
    for content in (evil, b"nonsense", b""):
        (tmp_path / "best_model.pt").write_bytes(content)
        with pytest.raises(ValueError, match="could not be read as a dictionary of tensors") as raised:
            checkpoint.convert(tmp_path)
        assert "weights_only" not in str(raised.value)  # torch's own message says how to run it
    assert not marker.exists()
    torch.save({"state": {"a": torch.zeros(1)}}, tmp_path / "best_model.pt")
    with pytest.raises(ValueError, match="must hold a dictionary of tensors, found 'state'"):
        checkpoint.convert(tmp_path)


def test_load_converts_once(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    random_model: Callable[..., Any],
    write_original: Callable[..., Any],
) -> None:
    monkeypatch.setenv("SCLM_DATA_DIR", str(tmp_path / "data"))
    model = random_model(**FOUNDATION)
    write_original(model, tmp_path / "original")
    first = sclm.load(tmp_path / "original")
    same(first, model)
    kept = list((tmp_path / "data" / "converted").iterdir())
    assert [re.match(r"scgpt-[0-9a-f]{16}$", path.name) is not None for path in kept] == [True]
    monkeypatch.setattr(checkpoint, "convert", None)
    again = sclm.load(tmp_path / "original")
    same(again, model)
    assert again.config == model.config
    assert again.card["report"] == first.card["report"]


# Stored checkpoints of the original ---------------------------------------------------------------------------------


@pytest.mark.parity
def test_all_spellings_of_the_original_are_one_model(stored: Callable[[str], Path], golden: Path) -> None:
    model = checkpoint.convert(stored("checkpoint/best_model.pt"))
    shapes = json.loads((golden / "scgpt" / "state_dict_shapes.json").read_text())
    assert model.card["report"] == {"used": len(shapes), "ignored": [], "missing": []}
    for name in ("impl", "plain", "ddp"):
        same(checkpoint.convert(stored(f"best_model_{name}_names.pt")), model)


@pytest.mark.parity
@pytest.mark.parametrize("kind", ["annotation", "integration", "perturb", "multiomic", "perturb_adaptive"])
def test_fine_tuned_checkpoints_of_the_original(kind: str, stored: Callable[[str], Path], golden: Path) -> None:
    if not (golden / "scgpt" / f"{kind}_best_model.pt").exists():
        pytest.skip(f"no stored checkpoint of {kind}")
    model = checkpoint.convert(stored(f"{kind}_best_model.pt"))
    ignored = model.card["report"]["ignored"]
    assert all(name.endswith("num_batches_tracked") for name in ignored)
    theirs = torch.load(golden / "scgpt" / f"{kind}_best_model.pt", weights_only=True)
    sets = sum(name.startswith("dsbn") for name in theirs) // 3
    assert len(theirs) == model.card["report"]["used"] + len(ignored) + 2 * max(0, sets - 1)  # statistics are stacked


def test_sizes_of_the_published_model() -> None:
    """Parameters of whole-human, counted without making them."""
    from sclm.models.scgpt.config import ScGPTConfig
    from sclm.models.scgpt.network import ScGPTNetwork

    with torch.device("meta"):
        network = ScGPTNetwork(ScGPTConfig.preset("whole-human", flags=2), 60_697, 60_694)
    assert sum(parameter.numel() for parameter in network.parameters()) == 51_330_049
    assert len(network.state_dict()) == 163
