"""Checkpoints that are damaged or made to harm: refused by the name of the file, before anything runs or much is allocated."""

from __future__ import annotations

import json
import pickle
import shutil
import struct
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest

import sclm
from sclm.models import FAMILIES, family_class

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import anndata as ad

FOUR = ("B cell", "T cell", "natural killer cell", "monocyte")
QUIET = {"progress_bar": False, "accelerator": "cpu"}
TINY: dict[str, dict[str, Any]] = {
    "scgpt": {"preset": "tiny", "max_epochs": 1, "width": 16, "n_layers": 1, "n_heads": 2, **QUIET},
    "geneformer": {"preset": "tiny", "max_epochs": 1, "width": 16, "layers": 1, **QUIET},
    "celltosg": {"preset": "tiny", "align_epochs": 1, "reinforce_steps": 1, "candidates": FOUR, **QUIET},
    "cell2text": {
        "preset": "tiny", "epochs": 1, **QUIET, "encoder_options": {"max_epochs": 1, "width": 16, "layers": 1, **QUIET},
    },
    "sctranslator": {"preset": "tiny", "max_epochs": 1, **QUIET},
    "tangram": {"n_epochs": 5},
    "onclass": {"candidates": FOUR}, "pagerank-voting": {"candidates": FOUR}, "hierarchical": {"candidates": FOUR},
}  # fmt: skip
# Made from the data at hand, or read where others published them: there is no checkpoint of ours.
WITHOUT = {"marker-lists", "evidence", "hop-mean", "graphst", "cell2sentence", "pgl"}
NETWORKS = ("scgpt", "geneformer", "sctranslator", "pgl")
SAVED = tuple(name for name in FAMILIES if name not in WITHOUT or name == "pgl")


@pytest.fixture(scope="module")
def checkpoints(
    tmp_path_factory: pytest.TempPathFactory, reference: ad.AnnData, trained: dict[str, Any]
) -> Callable[[str], Path]:
    """Folder of a small model of a family, made once."""
    folder = tmp_path_factory.mktemp("checkpoints")
    few = reference[:120].copy()
    few.obsm["protein"] = pd.DataFrame(few.X[:, :3].toarray(), few.obs_names, ["CD3D", "CD19", "CD14"])
    few.obs["gene"] = np.where(np.arange(120) % 2, "control", few.var_names[5])

    def of(name: str) -> Path:
        if not (folder / name).exists():
            if name in trained:
                trained[name].save(folder / name)
                return folder / name
            verbs = sclm.models.available().loc[name, "verbs"].split(", ")
            keys: dict[str, Any] = {"label_key": "cell_type"}
            if "respond" in verbs and "annotate" not in verbs:
                keys = {"perturbation_key": "gene", "control": "control"}
            elif "translate" in verbs:
                keys = {"protein_key": "protein"}
            cells = few[:24].copy() if name in TINY else few
            sclm.train(name, cells, **keys, **TINY.get(name, {})).save(folder / name)
        return folder / name

    return of


def weights(path: Path) -> dict[str, np.ndarray]:
    from safetensors.numpy import load_file

    return load_file(path / "model.safetensors")


def store(path: Path, arrays: dict[str, np.ndarray]) -> None:
    from safetensors.numpy import save_file

    save_file({name: np.asarray(array, order="C") for name, array in arrays.items()}, path / "model.safetensors")


def settings(path: Path, **changed: Any) -> None:
    config = json.loads((path / "config.json").read_text())
    config["config"] |= changed
    (path / "config.json").write_text(json.dumps(config))


def truncated(path: Path) -> None:
    file = path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])


def no_weights(path: Path) -> None:
    (path / "model.safetensors").unlink()


def huge_header(path: Path) -> None:
    (path / "model.safetensors").write_bytes(struct.pack("<Q", 2**40) + b"{}")


def huge_tensor(path: Path) -> None:
    """A terabyte by its header, no byte of it in the file."""
    header = json.dumps({"a": {"dtype": "F32", "shape": [2**38], "data_offsets": [0, 2**40]}}).encode()
    (path / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)


def overlapping(path: Path) -> None:
    tensor = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
    header = json.dumps({"a": tensor, "b": tensor}).encode()
    (path / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(8))


def pickled(path: Path) -> None:
    (path / "model.safetensors").write_bytes(pickle.dumps(Payload(path / "ran")))


def one_missing(path: Path) -> None:
    arrays = weights(path)
    arrays.pop(max(arrays, key=lambda name: arrays[name].size))
    store(path, arrays)


def another_shape(path: Path) -> None:
    arrays = weights(path)
    name = max(arrays, key=lambda name: arrays[name].size)
    arrays[name] = np.concatenate([arrays[name], arrays[name][:1]])
    store(path, arrays)


def not_numbers(path: Path) -> None:
    arrays = weights(path)
    name = max((n for n in arrays if arrays[n].dtype.kind == "f"), key=lambda name: arrays[name].size)
    arrays[name] = np.full_like(arrays[name], np.nan)
    store(path, arrays)


def deep_vocabulary(path: Path) -> None:
    (path / "vocabulary.json").write_text("[" * 200_000 + "]" * 200_000)


def vocabulary_of_numbers(path: Path) -> None:
    (path / "vocabulary.json").write_text(json.dumps({"format": 1, "tokens": [1, {"a": 2}]}))


def no_text(path: Path) -> None:
    (path / "vocabulary.json").write_bytes(b"\xff\xfe\x00")


def settings_that_are_none(path: Path) -> None:
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | {"config": ["../../etc/passwd"]}))


def unknown_setting(path: Path) -> None:
    settings(path, file="../../../../etc/passwd")


class Payload:
    """What a pickle would run if it were read."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple:
        return (open, (str(self.marker), "w"))


DAMAGE = (
    truncated, no_weights, huge_header, huge_tensor, overlapping, pickled, one_missing, another_shape, not_numbers, deep_vocabulary,
    vocabulary_of_numbers, no_text, settings_that_are_none, unknown_setting,
)  # fmt: skip


@pytest.mark.parametrize("name", SAVED)
def test_damaged_checkpoints_are_refused_by_name(name: str, checkpoints: Callable, tmp_path: Path) -> None:
    whole = checkpoints(name)
    wrong = []
    for damage in DAMAGE:
        path = tmp_path / damage.__name__
        shutil.copytree(whole, path)
        damage(path)
        try:
            family_class(name).load(path)
            wrong.append(f"{damage.__name__}: loaded")
        except (ValueError, FileNotFoundError) as error:
            if str(path) not in str(error):
                wrong.append(f"{damage.__name__}: {type(error).__name__}: {error}")
        except Exception as error:  # noqa: BLE001
            wrong.append(f"{damage.__name__}: {type(error).__name__}: {error}")
        assert not (path / "ran").exists()
    assert wrong == []


def test_the_list_of_families_is_complete() -> None:
    for name in set(FAMILIES) - set(SAVED):
        cls = family_class(name)
        assert hasattr(cls, "ready") or name in WITHOUT


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_larger_than_its_file_is_not_made(name: str, checkpoints: Callable, tmp_path: Path) -> None:
    shutil.copytree(checkpoints(name), tmp_path / "m")
    settings(tmp_path / "m", width=2**17)
    with pytest.raises(ValueError, match=r"asks for a network|damaged"):
        sclm.load(tmp_path / "m")
