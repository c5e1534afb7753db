"""Tools shard by shard: interrupted, killed, shared between processes, and always the result of one call in memory."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import sclm
from sclm.calls import run, shards

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = [
    pytest.mark.filterwarnings("ignore:Writing zarr v2 data:UserWarning"),
]

BLOCK, SHARD = 8, 16  # 120 cells are 8 shards


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "SHARD_CELLS", SHARD)


@pytest.fixture(scope="module")
def folder(
    simulate: Callable[..., ad.AnnData], reference: ad.AnnData, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Cells, a reference with proteins, an encoder."""
    folder = tmp_path_factory.mktemp("shards")
    query = simulate(120, seed=2)
    query.obs["niche"] = pd.Categorical(np.where(np.arange(query.n_obs) % 2, "inner", "outer"))
    query.X.data[: query.X.indptr[3]] = 0  # cells without counts
    query.X.eliminate_zeros()
    query.write_h5ad(folder / "query.h5ad")
    query.write_zarr(folder / "query.zarr")
    both = reference.copy()
    values = np.random.default_rng(0).poisson(5 * both[:, both.var_names[:2]].X.toarray() + 2)
    both.obsm["protein"] = pd.DataFrame(values, both.obs_names, ["CD3", "CD19"])
    both.write_h5ad(folder / "reference.h5ad")
    network = {"width": 16, "n_heads": 2, "n_layers": 1, "feed_forward": 16, "max_length": 40, "train_length": 16}
    options: dict[str, Any] = {"preset": "tiny", "max_epochs": 1, "progress_bar": False, "accelerator": "cpu"}
    sclm.train("scgpt", reference, **options, **network).save(folder / "encoder")
    sets = "".join(f"set {i}\tnone\t" + "\t".join(query.var_names[10 * i : 10 * i + 10]) + "\n" for i in range(4))
    (folder / "sets.gmt").write_text(sets)
    return folder


def arguments(tool: str, folder: Path) -> dict[str, Any]:
    reference = {"reference": str(folder / "reference.h5ad")}
    return {
        "annotate": {**reference, "label_key": "cell_type", "min_confidence": 0.7},
        "embed": {"model": str(folder / "encoder")},
        "pathways": {"gene_sets": str(folder / "sets.gmt"), "groupby": "niche"},
        "translate": {**reference, "protein_key": "protein"},
    }[tool] | {"batch_size": BLOCK}


def read(path: Path) -> ad.AnnData:
    return ad.read_zarr(path) if path.suffix == ".zarr" else ad.read_h5ad(path)


def content(path: Path) -> dict[str, Any]:
    """Everything in a file, flat: name → plain values."""
    adata, found = read(path), {}

    def add(name: str, value: Any) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                add(f"{name}/{key}", inner)
        elif isinstance(value, pd.DataFrame):
            for key in value:
                add(f"{name}/{key}", value[key].to_numpy())
        elif isinstance(value, pd.Series) and isinstance(value.dtype, pd.CategoricalDtype):
            add(f"{name}/categories", value.cat.categories.to_numpy())
            add(f"{name}/codes", value.cat.codes.to_numpy())
        else:
            found[name] = np.asarray(value)

    for slot in ("obs", "uns", "obsm"):
        for name, value in dict(getattr(adata, slot)).items():
            add(f"{slot}/{name}", value)
    found["names"], found["X"] = np.asarray(adata.obs_names), adata.X.toarray()
    return found


def assert_same(one: Path, other: Path) -> None:
    """Bit for bit."""
    a, b = content(one), content(other)
    assert a.keys() == b.keys()
    for name, value in a.items():
        assert value.dtype == b[name].dtype, name
        assert np.array_equal(value, b[name], equal_nan=value.dtype.kind == "f"), name


@pytest.fixture
def memory(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """The same call on cells in memory, in one go."""

    def make(tool: str, given: dict[str, Any], target: Path) -> Path:
        with monkeypatch.context() as patch:
            patch.setattr("sclm.calls.streaming.streams", lambda path: False)
            run(tool, folder / f"query{target.suffix}", target, given)
        return target

    return make


@pytest.mark.parametrize(
    ("tool", "suffix"),
    [("annotate", ".h5ad"), ("annotate", ".zarr"), ("embed", ".h5ad"), ("pathways", ".h5ad"), ("translate", ".zarr")],
)  # fmt: skip
def test_shards_give_what_one_call_gives(
    tool: str, suffix: str, folder: Path, tmp_path: Path, memory: Callable[..., Path]
) -> None:
    given, out = arguments(tool, folder), tmp_path / f"out{suffix}"
    result = run(tool, folder / f"query{suffix}", out, given)
    assert result["shards"] == {"of": 8, "done": 8, "cells": SHARD}
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    assert_same(out, memory(tool, given, tmp_path / f"memory{suffix}"))
    assert not (tmp_path / f"out{suffix}.parts").exists()
    if tool == "annotate":
        other = ".zarr" if suffix == ".h5ad" else ".h5ad"  # converted on the way
        again = run(tool, folder / f"query{suffix}", tmp_path / f"other{other}", given)
        assert again["written"] == result["written"]
        assert_same(tmp_path / f"other{other}", memory(tool, given, tmp_path / f"memory{other}"))


def test_types_that_differ_between_shards(tmp_path: Path, pbmc: ad.AnnData, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of thousands of types each shard has its own; which get a column is known at the end only."""
    given = {"model": "marker-lists", "batch_size": BLOCK}
    pbmc[::14].copy().write_h5ad(tmp_path / "query.h5ad")
    run("annotate", tmp_path / "query.h5ad", tmp_path / "out.h5ad", given)
    record = read(tmp_path / "out.h5ad").uns["sclm_cell_type"]
    assert record["left_out"]["types"] > 256
    monkeypatch.setattr("sclm.calls.streaming.streams", lambda path: False)
    run("annotate", tmp_path / "query.h5ad", tmp_path / "memory.h5ad", given)
    assert_same(tmp_path / "out.h5ad", tmp_path / "memory.h5ad")


def test_shares_one_after_the_other(folder: Path, tmp_path: Path, memory: Callable[..., Path]) -> None:
    given, out = arguments("annotate", folder), tmp_path / "out.h5ad"
    done = []
    for i in (2, 3, 1):
        result = run("annotate", folder / "query.h5ad", out, given, shard=f"{i}/3")
        done.append(result["shards"]["done"])
        assert (result["output"] is None) == (i != 1) == (not out.exists())
    assert done == [3, 5, 8]
    assert_same(out, memory("annotate", given, tmp_path / "memory.h5ad"))


def test_shares_at_the_same_time(folder: Path, tmp_path: Path, memory: Callable[..., Path]) -> None:
    """Threads race for everything that processes race for: the folder, the trained model, the merge."""
    given, out = arguments("translate", folder), tmp_path / "out.h5ad"

    def one(i: int) -> Any:
        return run("translate", folder / "query.h5ad", out, given, shard=f"{i}/4")

    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(one, range(1, 5)))
    assert any(result["output"] for result in results)
    assert_same(out, memory("translate", given, tmp_path / "memory.h5ad"))
    assert [path.name for path in tmp_path.iterdir() if "out" in path.name] == ["out.h5ad"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked to save their imports")
def test_shares_of_two_processes_at_the_same_time(folder: Path, tmp_path: Path, memory: Callable[..., Path]) -> None:
    given, out = {**arguments("annotate", folder), "model": "mean"}, tmp_path / "out.h5ad"
    words = [sys.executable, "-c", IMPORTS + TWINS, str(SHARD), str(folder / "query.h5ad"), str(out), json.dumps(given)]
    subprocess.run(words, check=True, timeout=300)
    assert_same(out, memory("annotate", given, tmp_path / "memory.h5ad"))
    assert {path.name for path in tmp_path.iterdir()} == {"out.h5ad", "memory.h5ad"}


def test_shares_on_dask(folder: Path, tmp_path: Path, memory: Callable[..., Path]) -> None:
    dask = pytest.importorskip("dask")
    given, out = arguments("embed", folder), tmp_path / "out.zarr"
    jobs = [dask.delayed(run)("embed", folder / "query.zarr", out, given, shard=f"{i}/4") for i in range(1, 5)]
    results = dask.compute(*jobs, scheduler="synchronous")
    assert [result["output"] for result in results if result["output"]] == [str(out)]
    assert_same(out, memory("embed", given, tmp_path / "memory.zarr"))


# Interrupted and killed -----------------------------------------------------------------------------------------------


def test_an_interrupt_keeps_the_shards_and_writes_no_output(
    folder: Path, tmp_path: Path, memory: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    given, out = arguments("annotate", folder), tmp_path / "out.h5ad"
    real, written = shards.write, []

    def interrupted(path: Path, values: Any) -> None:
        if path.name.startswith("cells") and len(written) == 3:
            raise KeyboardInterrupt
        real(path, values)
        written.extend([path] if path.name.startswith("cells") else [])

    with monkeypatch.context() as patch:
        patch.setattr(shards, "write", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run("annotate", folder / "query.h5ad", out, given)
    assert not out.exists()
    parts = tmp_path / "out.h5ad.parts"
    assert sorted(p.name for p in parts.iterdir() if not p.name.startswith("cells")) == [
        "call.json",
        "model",
        "model.json",
    ]
    assert len(list(parts.glob("cells-*"))) == 3
    before = {p: p.stat().st_mtime_ns for p in parts.glob("cells-*")}
    monkeypatch.setattr("sclm.models.baselines.logistic.Logistic.fit", lambda *a, **k: pytest.fail("trained again"))
    with monkeypatch.context() as patch:
        patch.setattr(shards.Shards, "remove", lambda self: None)
        run("annotate", folder / "query.h5ad", out, given)
    assert {p: p.stat().st_mtime_ns for p in before} == before
    monkeypatch.undo()
    monkeypatch.setattr(shards, "SHARD_CELLS", SHARD)
    assert_same(out, memory("annotate", given, tmp_path / "memory.h5ad"))


# Starts a fork for each of two shares and ends well when both do.
TWINS = """
children = []
for i in (1, 2):
    child = os.fork()
    if child == 0:
        run("annotate", source, out, given, shard=f"{i}/2")
        os._exit(0)
    children.append(child)
sys.exit(any([os.waitpid(child, 0)[1] for child in children]))
"""

# Reads a line with the step at which to die, forks, and says how the child ended. The parent computes nothing itself: forks of a process
# with running threads are unsafe, and twenty fresh interpreters would import for minutes.
IMPORTS = """
import json, os, signal, sys, threading, time
import anndata.io, sklearn.decomposition, sklearn.neighbors, zarr
import sclm.tl._annotate_stages, sclm.models.baselines.mean
from sclm.calls import merging, run, shards
shards.SHARD_CELLS = int(sys.argv[1])
source, out, given = sys.argv[2], sys.argv[3], json.loads(sys.argv[4])
"""
NURSERY = """
EVENTS = ("open", "os.rename", "os.remove", "os.mkdir", "shutil.copyfile", "shutil.rmtree")

def die_at(step):
    seen = [0]
    def hook(event, args):
        if event in EVENTS and out in str(args):
            seen[0] += 1
            if seen[0] == step:
                threading.Timer(step % 4 / 500, lambda: os.kill(os.getpid(), signal.SIGKILL)).start()
    sys.addaudithook(hook)

for line in sys.stdin:
    child = os.fork()
    if child == 0:
        sys.stdout = sys.stderr
        die_at(int(line))
        run("annotate", source, out, given)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked to save their imports")
@pytest.mark.parametrize("suffix", [".h5ad", ".zarr"])
def test_killed_at_random_points(suffix: str, folder: Path, tmp_path: Path, memory: Callable[..., Path]) -> None:
    given, out = {**arguments("annotate", folder), "model": "mean"}, tmp_path / f"out{suffix}"
    expected = memory("annotate", given, tmp_path / f"memory{suffix}")
    rng = random.Random(7)
    words = [
        sys.executable,
        "-c",
        IMPORTS + NURSERY,
        str(SHARD),
        str(folder / f"query{suffix}"),
        str(out),
        json.dumps(given),
    ]
    kills = whole = 0
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as nursery:
        assert nursery.stdin is not None
        assert nursery.stdout is not None
        while kills < 10:
            nursery.stdin.write(f"{rng.randint(1, 25)}\n")
            nursery.stdin.flush()
            code = int(nursery.stdout.readline())
            assert code in (0, -signal.SIGKILL)
            kills += code != 0
            if out.exists():  # then whole, also where the process was killed right after
                whole += 1
                assert_same(out, expected)
                assert code or not out.with_name(f"{out.name}.parts").exists()
                for path in tmp_path.glob(f"out{suffix}*"):
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
        nursery.stdin.close()
    run("annotate", folder / f"query{suffix}", out, given)
    assert_same(out, expected)
    assert whole < 10
    assert {path.name for path in tmp_path.iterdir()} == {out.name, expected.name}


# Refusals -------------------------------------------------------------------------------------------------------------


def test_shards_of_another_call_are_refused(folder: Path, tmp_path: Path) -> None:
    given, out = arguments("embed", folder), tmp_path / "out.h5ad"
    query = tmp_path / "query.h5ad"
    query.write_bytes((folder / "query.h5ad").read_bytes())
    run("embed", query, out, given, shard="1/2")
    before = sorted(p.name for p in tmp_path.joinpath("out.h5ad.parts").iterdir())
    with pytest.raises(FileExistsError, match="arguments, seed was None and is 3"):
        run("embed", query, out, {**given, "seed": 3}, shard="2/2")
    with pytest.raises(FileExistsError, match="tool was 'embed' and is 'pathways'"):
        run("pathways", query, out, arguments("pathways", folder))
    changed = ad.read_h5ad(query)
    changed.obs_names = [f"other{i}" for i in range(changed.n_obs)]
    changed.write_h5ad(query)
    with pytest.raises(FileExistsError, match="input, names was"):
        run("embed", query, out, given)
    assert sorted(p.name for p in tmp_path.joinpath("out.h5ad.parts").iterdir()) == before
    assert not out.exists()


def test_another_model_under_the_same_name_is_refused(folder: Path, tmp_path: Path, reference: ad.AnnData) -> None:
    model = tmp_path / "model"
    sclm.train("mean", reference, label_key="cell_type").save(model)
    given = {"model": str(model), "batch_size": BLOCK}
    run("annotate", folder / "query.h5ad", tmp_path / "out.h5ad", given, shard="1/2")
    sclm.train("mean", reference[::2].copy(), label_key="cell_type").save(model, overwrite=True)
    with pytest.raises(FileExistsError, match="model was"):
        run("annotate", folder / "query.h5ad", tmp_path / "out.h5ad", given, shard="2/2")


def test_what_cannot_be_shared(folder: Path, tmp_path: Path) -> None:
    query, out = folder / "query.h5ad", tmp_path / "out.h5ad"
    cases: list[tuple[str, str, dict[str, Any]]] = [
        ("annotate with groupby='niche' needs all cells", "1/2", {**arguments("annotate", folder), "groupby": "niche"}),
        ("annotate with majority_voting=True needs all", "1/2", {**arguments("annotate", folder), "majority_voting": True}),
        ("must be written i/n", "3/2", arguments("annotate", folder)),
        ("must be written i/n", "half", arguments("annotate", folder)),
        ("must be written i/n", "0/2", arguments("annotate", folder)),
    ]  # fmt: skip
    for message, shard, given in cases:
        with pytest.raises(ValueError, match=message):
            run("annotate", query, out, given, shard=shard)
    with pytest.raises(ValueError, match=r"adopt needs all cells at once \(by shards: annotate, embed"):
        run("adopt", query, out, {"predictions": "cell_type"}, shard="1/2")
    with pytest.raises(ValueError, match="embed with model='hop-mean' needs all cells"):
        run("embed", query, out, {"model": "hop-mean"}, shard="1/2")
    with pytest.raises(ValueError, match="an output as one of the two"):
        run("annotate", query, tmp_path / "out.h5mu", arguments("annotate", folder), shard="1/2")
    columns = ad.read_h5ad(query)
    columns.X = columns.X.tocsc()
    columns.write_h5ad(tmp_path / "csc.h5ad")
    with pytest.raises(ValueError, match="lie by genes"):
        run("annotate", tmp_path / "csc.h5ad", out, arguments("annotate", folder), shard="1/2")
    assert run("annotate", tmp_path / "csc.h5ad", out, arguments("annotate", folder))["output"] == str(out)
    (tmp_path / "o.h5ad.parts").mkdir()
    (tmp_path / "o.h5ad.parts" / "diary.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="holds something else"):
        run("annotate", query, tmp_path / "o.h5ad", arguments("annotate", folder))


def test_a_failing_call_leaves_no_folder(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(KeyError):
        run(
            "annotate",
            folder / "query.h5ad",
            tmp_path / "out.h5ad",
            {**arguments("annotate", folder), "label_key": "x"},
        )
    assert list(tmp_path.iterdir()) == []
