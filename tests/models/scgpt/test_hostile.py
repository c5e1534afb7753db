"""Original checkpoints that are damaged or made to harm: refused by name, through the front door."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import torch

import sclm

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def truncated(folder: Path) -> None:
    file = folder / "best_model.pt"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def not_numbers(folder: Path) -> None:
    tensors = torch.load(folder / "best_model.pt", weights_only=True)
    tensors["transformer_encoder.layers.0.linear1.weight"][0, 0] = float("nan")
    torch.save(tensors, folder / "best_model.pt")


def deep_vocabulary(folder: Path) -> None:
    (folder / "vocab.json").write_text("[" * 200_000)


def vocabulary_of_lists(folder: Path) -> None:
    (folder / "vocab.json").write_text(json.dumps({"A": [0], "../../etc/passwd": 1}))


def settings_of_a_list(folder: Path) -> None:
    (folder / "args.json").write_text("[1, 2]")


def deep_settings(folder: Path) -> None:
    (folder / "args.json").write_text('{"a":' * 200_000)


def huge_settings(folder: Path) -> None:
    args = json.loads((folder / "args.json").read_text())
    (folder / "args.json").write_text(json.dumps(args | {"d_hid": 2**40, "embsize": 2**40, "nlayers": 2**30}))


def link_out(folder: Path) -> None:
    (folder / "vocab.json").unlink()
    (folder / "vocab.json").symlink_to("/etc/passwd")


DAMAGE = (
    truncated, not_numbers, deep_vocabulary, vocabulary_of_lists, settings_of_a_list, deep_settings, huge_settings, link_out,
)  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda damage: damage.__name__)
def test_damaged_folders_are_refused_by_name(
    damage: Callable[[Path], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    random_model: Any,
    write_original: Any,
) -> None:
    monkeypatch.setenv("SCLM_DATA_DIR", str(tmp_path / "data"))
    folder = tmp_path / "original"
    write_original(random_model(), folder)
    sclm.load(folder)
    damage(folder)
    with pytest.raises((ValueError, FileNotFoundError)) as error:
        sclm.load(folder)
    assert str(folder) in str(error.value)
    assert "root:" not in str(error.value)  # what lies elsewhere is not told
