"""Pickles are read without being run."""

from __future__ import annotations

import collections
import io
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sclm.models.restricted_pickle import load_module_tensors, load_restricted


class Runs:
    """An object whose pickle calls a function when it is read."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_plain_values_come_back_as_python_values(tmp_path: Path, protocol: int) -> None:
    content = {
        "ids": {"ENSG00000000003": np.int16(-7), "<pad>": 0},
        "medians": [np.float64(1 / 3), np.float32(2.5), np.uint8(200), np.bool_(True)],
        "ordered": collections.OrderedDict(b=1, a=2),
        "bytes": b"\x00\xff",
        "set": {1, 2},
    }
    path = tmp_path / "d.pkl"
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    found = load_restricted(path)
    assert found["ids"] == {"ENSG00000000003": -7, "<pad>": 0}
    assert type(found["ids"]["ENSG00000000003"]) is int
    assert found["medians"] == [1 / 3, 2.5, 200, True]
    assert type(found["medians"][0]) is float
    assert list(found["ordered"]) == ["b", "a"]
    assert found["bytes"] == b"\x00\xff"
    assert found["set"] == {1, 2}


def test_numpy_1_spelling_and_byte_order(tmp_path: Path) -> None:
    path = tmp_path / "d.pkl"
    new = pickle.dumps(np.dtype(">i4").type(5), protocol=2)
    path.write_bytes(new.replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
    assert load_restricted(path) == 5


@pytest.mark.parametrize(
    "hostile",
    [
        Runs(os.system, "touch TOUCHED"),
        Runs(eval, "open('TOUCHED', 'w')"),
        Runs(getattr, os.path.join, "__globals__"),
        Runs(pickle.loads, b"N."),
        Runs(np.load, "TOUCHED"),
        {"deep": [({"ids": Runs(os.system, "touch TOUCHED")},)]},
        np.arange(3),  # arrays are not needed, and their reconstruction is another door
    ],
)
def test_a_hostile_pickle_is_refused_by_name_and_runs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hostile: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("evil.pkl").write_bytes(pickle.dumps(hostile))
    with pytest.raises(ValueError, match=r"the name \S+\.\S+, which is not on the list"):
        load_restricted("evil.pkl")
    assert not Path("TOUCHED").exists()


def test_object_scalars_and_broken_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "d.pkl"
    scalar = pickle.dumps(np.int64(3), protocol=2)
    for broken in (scalar.replace(b"i8", b"O8"), scalar[:-4], b"", b"\x80\x05garbage"):
        path.write_bytes(broken)
        with pytest.raises(ValueError, match="Nothing of it was run"):
            load_restricted(path)


class Inner(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(3, 2)
        self.register_buffer("steps", torch.tensor(4))
        self.register_buffer("scratch", torch.zeros(2), persistent=False)
        self.function = torch.nn.functional.relu  # a global in the pickle that is no class


class Outer(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.ModuleList([Inner(), torch.nn.LayerNorm(2)])
        self.short = torch.nn.Parameter(torch.randn(4, 3, generator=torch.Generator().manual_seed(0)).half().t())


@pytest.mark.parametrize("wrapped", [False, True])
def test_tensors_of_a_whole_module_are_those_of_its_state(tmp_path: Path, wrapped: bool) -> None:
    module: torch.nn.Module = Outer()
    state = module.state_dict()
    if wrapped:
        module = torch.nn.Sequential(collections.OrderedDict([("module", module)]))
    path = tmp_path / "whole.pt"
    torch.save(module, path)
    found = load_module_tensors(path)
    assert found.keys() == state.keys()
    for name, tensor in state.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor), name


def test_a_hostile_module_is_held_and_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    module = Inner()
    module.trap = Runs(os.system, "touch TOUCHED")  # type: ignore[assignment]
    torch.save(module, "whole.pt")
    assert load_module_tensors("whole.pt").keys() == Inner().state_dict().keys()
    assert not Path("TOUCHED").exists()


def test_what_is_no_module_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    with pytest.raises(FileNotFoundError):
        load_module_tensors(path)
    path.write_bytes(b"plain")
    with pytest.raises(ValueError, match="no archive"):
        load_module_tensors(path)
    torch.save({"a": torch.zeros(2)}, path)
    with pytest.raises(ValueError, match="no module"):
        load_module_tensors(path)


def test_a_tensor_beyond_its_storage_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    torch.save(Inner(), path)
    with zipfile.ZipFile(path) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    largest = max((n for n in files if "/data/" in n), key=lambda n: len(files[n]))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content[:-4] if name == largest else content)
    path.write_bytes(buffer.getvalue())
    with pytest.raises(ValueError, match="storage"):
        load_module_tensors(path)


@pytest.mark.parity
def test_the_published_kind_of_whole_module_is_recovered_bit_by_bit(golden: Path) -> None:
    expected = torch.load(golden / "sctranslator" / "state_dict.pt", weights_only=True)
    found = load_module_tensors(golden / "sctranslator" / "whole_module_pickle.pt")
    assert len(expected) == 152
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
