"""Training on two devices, here two processes on the CPU, against one process with the doubled batch."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
import torch

from sclm.training import fit

if TYPE_CHECKING:
    from pathlib import Path

OPTIONS: dict[str, Any] = {"max_epochs": 3, "accelerator": "cpu", "progress_bar": False}
TWO: dict[str, Any] = OPTIONS | {"devices": 2}
# Python 3.12 warns of forks where other threads run, as those of torch do
pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
CLOSE = {"rtol": 1e-5, "atol": 1e-6}  # sums of 8 + 8 cells against sums of 16, in float32


@pytest.fixture(scope="module")
def whole(toy: Any) -> Any:
    """One process with batches of 16: its module and report."""
    module = toy.Plain(30)
    return module, fit(module, toy.data(batch_size=16), **OPTIONS)


def close(a: Any, b: Any) -> None:
    a, b = (x.state_dict() if isinstance(x, torch.nn.Module) else x for x in (a, b))
    for name in b:
        torch.testing.assert_close(a[name], b[name], **CLOSE)


def agree(history: pd.DataFrame, whole: Any) -> None:
    pd.testing.assert_frame_equal(history.drop(columns="seconds"), whole[1].history.drop(columns="seconds"), rtol=1e-5)


def test_two_devices_learn_what_one_learns(toy: Any, whole: Any, tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    """The same losses and weights; every cell once an epoch; nothing is printed; the report is whole."""
    module = toy.Plain(30, log=tmp_path / "log")
    report = fit(module, toy.data(batch_size=8), **TWO, strategy="ddp_fork")
    agree(report.history, whole)
    close(module, whole[0])
    assert (report.best_epoch, report.stopped) == (whole[1].best_epoch, "max_epochs")
    assert report.best_score == pytest.approx(whole[1].best_score, rel=1e-5)
    seen: list[list[list[int]]] = []
    for rank in (0, 1):
        lines = [json.loads(line) for line in (tmp_path / f"log.{rank}.names").read_text().splitlines()]
        seen.append([[n for epoch, names in lines if epoch == e for n in names] for e in range(3)])
    for epoch in range(3):
        assert not set(seen[0][epoch]) & set(seen[1][epoch])
        assert sorted(seen[0][epoch] + seen[1][epoch]) == toy.data().training_rows.tolist()
    assert "".join(capfd.readouterr()) == ""
    for rank in (0, 1):  # dropout and noise differ between devices
        path = tmp_path / f"log.{rank}.names"
        path.unlink()


def test_one_device_goes_on_for_two(toy: Any, tmp_path: Path) -> None:
    """Two devices stop inside an epoch; one with the doubled batch goes on, and other batches are refused."""
    whole = toy.Plain(30)
    expected = fit(whole, toy.data(batch_size=4), **OPTIONS)
    folder = tmp_path / "run"
    stopped = fit(toy.Plain(30), toy.data(batch_size=2), **TWO, strategy="ddp_fork", folder=folder, max_minutes=0.0)
    assert stopped.stopped == "max_minutes"
    assert stopped.history["step"].tolist() == [20]  # of 40
    assert sorted(path.name for path in folder.iterdir()) == ["best.safetensors", "fit.json", "last.ckpt"]
    message = r"batch_size \(of all devices together\) is 4 there, found 2 now"
    with pytest.raises(ValueError, match=message):
        fit(toy.Plain(30), toy.data(batch_size=2), **OPTIONS, folder=folder)
    module = toy.Plain(30)
    report = fit(module, toy.data(batch_size=4), **OPTIONS, folder=folder)
    assert len(module.losses) == 100
    agree(report.history, (whole, expected))
    close(module, whole)


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_under_torchrun(toy: Any, whole: Any, tmp_path: Path, strategy: str) -> None:
    """Each process ends with the same report and the whole best weights; one writes; one process can go on."""
    folder = tmp_path / "run"

    def work() -> Any:
        module = toy.Plain(30)
        more = {"strategy": strategy, "folder": folder, "save_minutes": 0, "max_epochs": 2}
        first = fit(module, toy.data(batch_size=8), **TWO | more)
        again = toy.Plain(30)  # goes on after the second epoch
        report = fit(again, toy.data(batch_size=8), **TWO | more | {"max_epochs": 3})
        return first.history, report.history, again.state_dict(), again.losses, report.best_epoch

    results = toy.as_torchrun(work, tmp_path)
    learning_rates_differ = 0.5  # the schedule of the first call ends after two epochs
    for first, history, state, _, best in results:
        assert first["step"].tolist() == [10, 20]
        assert history["step"].tolist() == [10, 20, 30]
        np.testing.assert_allclose(
            history["training_loss"], whole[1].history["training_loss"], rtol=learning_rates_differ
        )
        assert best == 3
        for name, tensor in results[0][2].items():
            assert torch.equal(state[name], tensor)
    module = toy.Plain(30)
    report = fit(module, toy.data(batch_size=16), **OPTIONS, folder=folder)
    assert module.losses == []
    pd.testing.assert_frame_equal(report.history, results[0][1])
    close(module, results[0][2])


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_shards_learn_what_one_device_learns(toy: Any, whole: Any, tmp_path: Path, strategy: str) -> None:
    def work() -> Any:
        module = toy.Plain(30)
        report = fit(module, toy.data(batch_size=8), **TWO, strategy=strategy)
        return report.history, module.state_dict(), type(module).__name__

    for history, state, name in toy.as_torchrun(work, tmp_path):
        agree(history, whole)
        close(state, whole[0])
        assert name == "Plain"


def test_what_cannot_be_sent_is_said(toy: Any) -> None:
    with pytest.raises(TypeError, match=r"strategy='ddp_spawn' sends .* by pickle, which fails: .* under torchrun"):
        fit(toy.Plain(30), toy.data(), **TWO, strategy="ddp_spawn")


def test_what_cannot_be_shared_is_said(toy: Any) -> None:
    from sclm.training.launching import to_shard

    module = toy.Plain(30)
    module.scale = torch.nn.Parameter(torch.tensor(1.0))
    with pytest.raises(ValueError, match=r"strategy='fsdp' .* found 'scale', a single number. Use strategy='ddp'"):
        to_shard(module)
