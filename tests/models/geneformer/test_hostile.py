"""Original checkpoints that are damaged or made to harm: refused by name, through the front door."""

from __future__ import annotations

import json
import struct
from typing import TYPE_CHECKING

import pytest
from safetensors.torch import load_file, save_file

import sclm

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def truncated(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-4])


def huge_header(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", 2**50) + b"{}")


def huge_tensor(folder: Path) -> None:
    header = json.dumps({"a": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)


def not_numbers(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    name = next(n for n in tensors if n.endswith("intermediate.dense.weight"))
    tensors[name][0, 0] = float("nan")
    save_file(tensors, folder / "model.safetensors")


def deep_settings(folder: Path) -> None:
    (folder / "config.json").write_text('{"a":' * 200_000)


def huge_settings(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"intermediate_size": 2**34, "num_hidden_layers": 2**20}))


@pytest.mark.parametrize(
    "damage",
    [truncated, huge_header, huge_tensor, not_numbers, deep_settings, huge_settings],
    ids=lambda damage: damage.__name__,
)
def test_damaged_folders_are_refused_by_name(
    damage: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write_checkpoint: Callable
) -> None:
    monkeypatch.setenv("SCLM_DATA_DIR", str(tmp_path / "data"))
    folder = tmp_path / "original"
    folder.mkdir()
    write_checkpoint(folder)
    damage(folder)
    with pytest.raises((ValueError, FileNotFoundError)) as error:
        sclm.load(folder)
    assert str(folder) in str(error.value)
