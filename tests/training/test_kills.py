"""Training that is killed at random points and called again, against training that was left alone."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
import torch

from sclm.training import fit

if TYPE_CHECKING:
    from pathlib import Path

KILLS = 20
OPTIONS: dict[str, Any] = {"max_epochs": 3, "accelerator": "cpu", "progress_bar": False, "save_minutes": 0}
pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")


def work(toy: Any, folder: Path, die_at: int) -> None:
    """The call that is killed and repeated; what it learnt and how it went, once it ends."""
    torch.set_num_threads(1)  # a fork has none of its parent's threads
    module = toy.Toy(30, die_at=die_at)
    report = fit(module, toy.data(batch_size=32), **OPTIONS, folder=folder / "run")
    torch.save(module.state_dict(), folder / "weights.pt")
    (folder / "steps.json").write_text(json.dumps(len(module.losses)))  # of this call
    (folder / "report.json").write_text(json.dumps([report.history.to_dict("list"), report.best_epoch, report.stopped]))


def run(toy: Any, folder: Path, seconds: float | None, die_at: int = -1) -> float:
    """One call in a process of its own, forked so that nothing is imported again, killed after that time; how long it ran."""
    process = multiprocessing.get_context("fork").Process(target=work, args=(toy, folder, die_at))
    start = time.monotonic()
    process.start()
    process.join(seconds)
    if process.is_alive():
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join()
    else:
        assert process.exitcode == (0 if die_at < 0 else -signal.SIGKILL)
    return time.monotonic() - start


def test_a_run_that_is_killed_again_and_again_ends_the_same(toy: Any, tmp_path: Path) -> None:
    """Twenty kills at random moments, most of them in runs that had been killed before, some while a checkpoint is written."""
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    whole = run(toy, tmp_path / "whole", None)
    expected = torch.load(tmp_path / "whole" / "weights.pt")
    told = json.loads((tmp_path / "whole" / "report.json").read_text())
    rng = np.random.default_rng(0)
    kills = finished = 0
    seen: list[Path] = []
    while kills < KILLS:
        folder = tmp_path / f"killed{finished}"
        folder.mkdir(exist_ok=True)
        run(toy, folder, float(rng.uniform(0.05, 0.9) * whole))
        if (folder / "report.json").is_file():  # it was done before the kill: another one begins
            seen.append(folder)
            finished += 1
        else:
            kills += 1
    if not (folder / "report.json").is_file():
        run(toy, folder, None)
        seen.append(folder)
    for folder in seen:
        weights = torch.load(folder / "weights.pt")
        for name, tensor in expected.items():
            assert torch.equal(weights[name], tensor), (folder.name, name)
        history, *rest = json.loads((folder / "report.json").read_text())
        pd.testing.assert_frame_equal(
            pd.DataFrame(history).drop(columns="seconds"), pd.DataFrame(told[0]).drop(columns="seconds")
        )
        assert rest == told[1:]
    assert seen


def test_what_was_done_before_a_kill_is_not_done_again(toy: Any, tmp_path: Path) -> None:
    """Killed in the second of three epochs: the next call takes fewer steps than a whole run."""
    for name, die_at in (("whole", -1), ("killed", 8), ("killed", -1)):
        (tmp_path / name).mkdir(exist_ok=True)
        run(toy, tmp_path / name, None, die_at)
    whole, rest = (json.loads((tmp_path / name / "steps.json").read_text()) for name in ("whole", "killed"))
    assert 0 < rest < whole


@pytest.mark.parametrize("left", ["last.ckpt.new", "best.safetensors.new", "fit.json.new"])
def test_a_file_that_was_half_written_is_not_read(toy: Any, tmp_path: Path, left: str) -> None:
    """What a kill inside a write leaves behind: the part under another name."""
    whole = toy.Toy(30)
    fit(whole, toy.data(), **OPTIONS)
    options = OPTIONS | {"folder": tmp_path, "max_minutes": 0.0}
    fit(toy.Toy(30), toy.data(), **options)
    (tmp_path / left).write_bytes(b"PK\x03\x04 half of it")
    module = toy.Toy(30)
    fit(module, toy.data(), **options | {"max_minutes": None})
    assert all(
        torch.equal(a, b) for a, b in zip(module.state_dict().values(), whole.state_dict().values(), strict=True)
    )
