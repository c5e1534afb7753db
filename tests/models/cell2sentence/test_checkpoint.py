"""Folders that are, and are not, cell-sentence models; what a checkpoint of ours holds of them."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest

import sclm
from sclm.models.cell2sentence.checkpoint import hub_name, recognise
from sclm.models.foreign import recognise as family_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def test_a_language_model_with_its_tokenizer_is_recognised(folder: Path, tmp_path: Path) -> None:
    assert family_of(folder) == "cell2sentence"
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    (copy / "tokenizer.json").unlink()
    assert not recognise(copy)
    assert not recognise(folder / "config.json")
    assert not recognise(tmp_path / "nowhere")


def test_an_encoder_is_not(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    config = json.loads((copy / "config.json").read_text())
    for architectures in (["BertForMaskedLM"], ["T5ForConditionalGeneration"], [], None):
        (copy / "config.json").write_text(json.dumps({**config, "architectures": architectures}))
        assert not recognise(copy)
    (copy / "config.json").write_text("no json")
    assert not recognise(copy)
    (copy / "config.json").write_text("[1]")
    assert not recognise(copy)


def test_a_saved_model_holds_settings_and_no_weights(model: Any, folder: Path, tmp_path: Path) -> None:
    saved = model.save(tmp_path / "saved")
    assert (saved / "model.safetensors").stat().st_size < 100
    config = json.loads((saved / "config.json").read_text())
    assert config["base_model"] == {"name": str(folder.resolve()), "revision": None}
    assert config["config"]["fingerprint"] == model.network.fingerprint
    again = sclm.load(saved)
    assert again.config == model.config
    assert again.provenance()["sha256"] == model.provenance()["sha256"]


def test_another_base_is_refused(folder: Path, model: Any, tmp_path: Path, write_lm: Callable[..., Any]) -> None:
    base = tmp_path / "base"
    shutil.copytree(folder, base)
    saved = sclm.load(base).save(tmp_path / "saved")
    kind = json.loads((base / "config.json").read_text())["architectures"][0].removesuffix("ForCausalLM")
    shutil.rmtree(base)
    with pytest.raises(FileNotFoundError, match="No language model"):
        sclm.load(saved)
    write_lm(base, kind, ["other words"], seed=5)
    with pytest.raises(ValueError, match="is not the language model that this checkpoint was trained on"):
        sclm.load(saved)


def test_weights_that_can_run_code_are_refused(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    with pytest.raises(ValueError, match="found pytorch_model\\.bin"):
        sclm.load(copy)


def test_the_hubs_cache_gives_name_and_commit(tmp_path: Path) -> None:
    path = tmp_path / "hub" / "models--vandijklab--C2S-Pythia-410m-cell-type-prediction" / "snapshots" / "abc123"
    assert hub_name(path) == ("hf:vandijklab/C2S-Pythia-410m-cell-type-prediction", "abc123")
    assert hub_name(tmp_path) is None
    assert hub_name(tmp_path / "models--x" / "snapshots" / "abc") is None


def test_a_family_name_alone_says_what_to_pass() -> None:
    with pytest.raises(ValueError, match="hf:organisation/name"):
        sclm.load("cell2sentence")
