"""Folders of language models that are damaged or made to harm: refused by name, through the front door."""

from __future__ import annotations

import json
import struct
from typing import TYPE_CHECKING, Any

import pytest

import sclm

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def truncated(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-4])


def huge_header(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", 2**50) + b"{}")


def no_safetensors(folder: Path) -> None:
    """A pickle in the place of the weights, which would run."""
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'touch " + str(folder / "ran").encode() + b"'\ntR.")


def code_of_its_own(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config |= {"auto_map": {"AutoModelForCausalLM": "own.Model", "AutoConfig": "own.Config"}, "model_type": "own"}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "own.py").write_text(f"open({str(folder / 'ran')!r}, 'w')")


def outside(folder: Path) -> None:
    """Shards by a path out of the folder."""
    (folder / "model.safetensors").unlink()
    index = {"metadata": {}, "weight_map": {"a": "../../../../etc/passwd"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def deep_settings(folder: Path) -> None:
    (folder / "config.json").write_text('{"a":' * 200_000)


@pytest.mark.parametrize(
    "damage",
    [truncated, huge_header, no_safetensors, code_of_its_own, outside, deep_settings],
    ids=lambda damage: damage.__name__,
)
def test_damaged_folders_are_refused_by_name(damage: Callable[[Path], None], tmp_path: Path, write_lm: Any) -> None:
    folder = tmp_path / "model"
    write_lm(folder, "GPTNeoX", ["Cell type: B cell."])
    damage(folder)
    with pytest.raises((ValueError, FileNotFoundError)) as error:
        sclm.load(folder)
    assert str(folder) in str(error.value)
    assert "root:" not in str(error.value)
    assert not (folder / "ran").exists()
