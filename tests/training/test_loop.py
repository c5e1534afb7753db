"""Training that is stopped, killed and resumed against training that was left alone."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
import torch

from sclm.training import fit

if TYPE_CHECKING:
    from pathlib import Path

OPTIONS: dict[str, Any] = {"max_epochs": 4, "accelerator": "cpu", "progress_bar": False}


@pytest.fixture(scope="module")
def whole(toy: Any) -> Any:
    """An uninterrupted run: its module and report."""
    module = toy.Toy(30)
    return module, fit(module, toy.data(), **OPTIONS)


def same(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def rows(history: pd.DataFrame) -> pd.DataFrame:
    return history.drop(columns="seconds")


# -- a run ---------------------------------------------------------------------------------------------------------


def test_the_loss_falls_and_the_report_says_so(toy: Any, whole: Any) -> None:
    module, report = whole
    assert list(report.history.columns) == ["epoch", "step", "training_loss", "validation_loss", "seconds"]
    assert report.history["epoch"].tolist() == [1, 2, 3, 4]
    assert report.history["step"].tolist() == [10, 20, 30, 40]
    assert report.stopped == "max_epochs"
    assert report.history["training_loss"].iloc[-1] < 0.6 * report.history["training_loss"].iloc[0]
    means = np.array(module.losses).reshape(4, 10).mean(axis=1)
    np.testing.assert_allclose(report.history["training_loss"], means, rtol=1e-6)
    best = int(report.history["validation_loss"].argmin())
    assert (report.best_epoch, report.best_score) == (best + 1, report.history["validation_loss"][best])
    # the score of the weights that came back, computed by hand
    module.eval()
    data = toy.data()
    batches = [(module.loss(b).item(), len(b.names)) for b in data.val_dataloader()]
    score = np.average([loss for loss, _ in batches], weights=[n for _, n in batches])
    module.train()
    assert score == pytest.approx(report.best_score, rel=1e-6)


def test_nothing_global_changes_and_nothing_is_said(
    toy: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.chdir(tmp_path)
    levels = {n: logging.getLogger(n).level for n in list(logging.root.manager.loggerDict) if n.startswith("lightning")}
    module = toy.Toy(30).eval()
    filters, handler, state = list(warnings.filters), signal.getsignal(signal.SIGINT), torch.get_rng_state()
    with caplog.at_level(logging.INFO):
        fit(module, toy.data(), **OPTIONS)
    assert not list(tmp_path.iterdir())
    out, err = capfd.readouterr()
    assert (out, err) == ("", "")
    assert not caplog.records
    assert torch.equal(torch.get_rng_state(), state)
    assert list(warnings.filters) == filters
    assert signal.getsignal(signal.SIGINT) is handler
    assert {n: logging.getLogger(n).level for n in levels} == levels
    assert not any(part.training for part in module.modules())
    assert module.strict_loading
    assert all(p.grad is None for p in module.parameters())


def test_the_bar_counts_cells(toy: Any, capfd: pytest.CaptureFixture) -> None:
    fit(toy.Toy(30), toy.data(), **OPTIONS | {"progress_bar": True})
    bar = capfd.readouterr().err
    assert "epoch 4/4" in bar
    assert "/160" in bar
    assert "cells/s" in bar
    assert "loss=" in bar


def test_threads_and_the_global_state_change_nothing(toy: Any, whole: Any) -> None:
    torch.rand(7)
    module = toy.Toy(30)
    report = fit(module, toy.data(workers=0), **OPTIONS)
    assert module.losses == whole[0].losses
    pd.testing.assert_frame_equal(rows(report.history), rows(whole[1].history))
    assert same(module, whole[0])
    other = toy.Toy(30)
    fit(other, toy.data(), **OPTIONS | {"seed": 1})
    assert other.losses != module.losses


def test_the_best_weights_come_back(toy: Any, tmp_path: Path) -> None:
    """A learning rate that ruins the network after the first epochs."""

    class Ruined(toy.Toy):
        def on_train_epoch_start(self) -> None:
            if self.trainer.current_epoch == 2:
                for group in self.trainer.optimizers[0].param_groups:
                    group["initial_lr"] = 30.0
                self.lr_schedulers().base_lrs = [30.0, 30.0]

    for folder in (None, tmp_path / "run"):
        module = Ruined(30)
        report = fit(module, toy.data(), **OPTIONS | {"max_epochs": 9, "patience": 2, "folder": folder})
        assert report.best_epoch == 2
        assert report.stopped == "patience"
        assert len(report.history) == 4
        two = toy.Toy(30)
        module.eval()
        scores = [module.loss(b).item() for b in toy.data().val_dataloader()]
        assert np.mean(scores) == pytest.approx(report.best_score, rel=0.1)
        assert report.history["validation_loss"].iloc[-1] > 2 * report.best_score
        del two


def test_time_runs_out(toy: Any, tmp_path: Path, whole: Any) -> None:
    """The epoch is cut short and scored; a later call goes on inside it."""
    module = toy.Toy(30)
    report = fit(module, toy.data(), **OPTIONS | {"max_minutes": 0.0, "folder": tmp_path})
    assert report.stopped == "max_minutes"
    assert report.history["step"].tolist() == [1]
    assert np.isfinite(report.best_score)
    again = toy.Toy(30)
    report = fit(again, toy.data(), **OPTIONS | {"folder": tmp_path})
    assert module.losses + again.losses == whole[0].losses
    pd.testing.assert_frame_equal(rows(report.history), rows(whole[1].history))


def test_without_validation_the_last_weights_count(toy: Any) -> None:
    module = toy.Toy(30)
    report = fit(module, toy.data(validation=0), **OPTIONS)
    assert report.history["validation_loss"].isna().all()
    assert report.best_epoch == 4
    assert np.isnan(report.best_score)
    with pytest.raises(ValueError, match="Hold cells out, or pass patience=None"):
        fit(toy.Toy(30), toy.data(validation=0), **OPTIONS | {"patience": 2})
    report = fit(toy.Toy(30), toy.data(validation=0), **OPTIONS | {"patience": 2, "monitor": "training_loss"})
    assert report.best_score == report.history["training_loss"].min()


def test_a_loss_that_is_not_finite(toy: Any, caplog: pytest.LogCaptureFixture) -> None:
    class Broken(toy.Toy):
        at = 0

        def loss(self, batch: Any) -> torch.Tensor:
            return super().loss(batch) * (
                float("nan") if self.training and self.trainer.current_epoch >= self.at else 1
            )

    with pytest.raises(FloatingPointError, match="not finite in epoch 1"):
        fit(Broken(30), toy.data(), **OPTIONS)
    module = Broken(30)
    module.at = 2
    report = fit(module, toy.data(), **OPTIONS)
    assert (report.stopped, report.best_epoch) == ("diverged", 2)
    assert "the weights of epoch 2 are kept" in caplog.text
    assert all(p.isfinite().all() for p in module.parameters())


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"max_epochs": 0}, ValueError, "max_epochs must be at least 1, found 0"),
        ({"patience": 0}, ValueError, "patience must be at least 1"),
        ({"seed": -1}, ValueError, "seed must be 0 or more"),
        ({"monitor": "accuracy"}, KeyError, "'accuracy' was not logged; there are: 'training_loss', 'validation_loss'"),
    ],
)
def test_bad_arguments(toy: Any, options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        fit(toy.Toy(30), toy.data(), **OPTIONS | options)


# -- interrupted and resumed ---------------------------------------------------------------------------------------


def test_a_killed_run_resumes_exactly(toy: Any, whole: Any, tmp_path: Path) -> None:
    """SIGKILL in the middle of a step."""
    folder = tmp_path / "run"
    command = [sys.executable, toy.__file__, str(folder), "25", "1"]
    env = os.environ | {"PYTHONWARNINGS": "ignore"}
    killed = subprocess.run(command, capture_output=True, text=True, env=env, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    seen = [json.loads(line) for line in folder.with_suffix(".log").read_text().splitlines()]
    assert seen[-1][0] == 25
    module = toy.Toy(30)
    report = fit(module, toy.data(), **OPTIONS | {"folder": folder, "save_minutes": 0})
    # the step that was killed is done again, nothing else
    assert [loss for _, loss in seen[:-1]] + module.losses == whole[0].losses
    pd.testing.assert_frame_equal(rows(report.history), rows(whole[1].history))
    assert same(module, whole[0])
    assert (report.best_epoch, report.best_score) == (whole[1].best_epoch, whole[1].best_score)


@pytest.mark.parametrize("at", [3, 9, 10])
def test_any_step_can_be_the_last(toy: Any, whole: Any, tmp_path: Path, at: int) -> None:
    """Inside the first epoch, the last step of an epoch and the first."""

    class Failing(toy.Toy):
        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            if self.trainer.global_step == at:
                raise MemoryError
            return super().training_step(batch, batch_idx)

    first, module = Failing(30), toy.Toy(30)
    options = OPTIONS | {"folder": tmp_path, "save_minutes": 0}
    with pytest.raises(MemoryError):
        fit(first, toy.data(), **options)
    report = fit(module, toy.data(), **options)
    assert first.losses + module.losses == whole[0].losses
    pd.testing.assert_frame_equal(rows(report.history), rows(whole[1].history))
    assert same(module, whole[0])


def test_steps_since_the_last_checkpoint_are_done_again(toy: Any, whole: Any, tmp_path: Path) -> None:
    """Checkpoints at the ends of epochs only, and an error in the third."""

    class Failing(toy.Toy):
        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            if self.trainer.global_step == 25:
                raise RuntimeError("a full disk")
            return super().training_step(batch, batch_idx)

    first = Failing(30)
    with pytest.raises(RuntimeError, match="a full disk"):
        fit(first, toy.data(), **OPTIONS | {"folder": tmp_path})
    module = toy.Toy(30)
    report = fit(module, toy.data(), **OPTIONS | {"folder": tmp_path})
    assert first.losses[:20] + module.losses == whole[0].losses
    pd.testing.assert_frame_equal(rows(report.history), rows(whole[1].history))


def test_ctrl_c_keeps_what_was_learnt(toy: Any, whole: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Interrupted(toy.Toy):
        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            if self.trainer.global_step == 13:
                signal.raise_signal(signal.SIGINT)
            return super().training_step(batch, batch_idx)

    handler = signal.getsignal(signal.SIGINT)
    first = Interrupted(30)
    report = fit(first, toy.data(), **OPTIONS | {"folder": tmp_path})
    assert report.stopped == "interrupted"
    assert "Call fit again with folder=" in caplog.text
    assert report.best_epoch == 1
    assert len(first.losses) == 14  # the step in which it was pressed is finished
    assert signal.getsignal(signal.SIGINT) is handler
    module = toy.Toy(30)
    report = fit(module, toy.data(), **OPTIONS | {"folder": tmp_path})
    assert first.losses + module.losses == whole[0].losses
    assert same(module, whole[0])


def test_an_interrupt_that_is_raised_at_once(toy: Any, caplog: pytest.LogCaptureFixture) -> None:
    class Interrupted(toy.Toy):
        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            if self.trainer.global_step == 3:
                raise KeyboardInterrupt
            return super().training_step(batch, batch_idx)

    module = Interrupted(30)
    before = module.state_dict()["narrow.weight"].clone()
    report = fit(module, toy.data(), **OPTIONS)
    assert report.stopped == "interrupted"
    assert report.best_epoch == 0
    assert report.history.empty
    assert not torch.equal(module.narrow.weight, before)
    assert "the weights of the last step are kept" in caplog.text


def test_fit_works_in_a_thread(toy: Any) -> None:
    """Where Ctrl-C cannot be heard."""
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(fit(toy.Toy(30), toy.data(), **OPTIONS | {"max_epochs": 1})))
    thread.start()
    thread.join()
    assert found[0].stopped == "max_epochs"


def test_a_finished_run_is_not_repeated(toy: Any, tmp_path: Path) -> None:
    first = toy.Toy(30)
    report = fit(first, toy.data(), **OPTIONS | {"folder": tmp_path})
    module = toy.Toy(30)
    again = fit(module, toy.data(), **OPTIONS | {"folder": tmp_path})
    assert module.losses == []
    assert same(module, first)
    pd.testing.assert_frame_equal(again.history, report.history)
    assert again.best_epoch == report.best_epoch
    assert {p.name for p in tmp_path.iterdir()} == {"fit.json", "last.ckpt", "best.safetensors"}


def test_a_run_that_lost_patience_stays_stopped(toy: Any, tmp_path: Path) -> None:
    options = OPTIONS | {"max_epochs": 50, "patience": 1, "folder": tmp_path}
    first = toy.Toy(30, learning_rate=0.5)
    report = fit(first, toy.data(), **options)
    assert report.stopped == "patience"
    module = toy.Toy(30, learning_rate=0.5)
    again = fit(module, toy.data(), **options)
    assert module.losses == []
    assert again.stopped == "patience"
    assert same(module, first)


def test_the_checkpoint_is_small_and_safe(toy: Any, tmp_path: Path) -> None:
    fit(toy.Toy(30), toy.data(), **OPTIONS | {"folder": tmp_path})
    checkpoint = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert set(checkpoint["state_dict"]) == {"narrow.weight", "narrow.bias", "wide.weight", "wide.bias"}
    assert "hyper_parameters" not in checkpoint


@pytest.mark.parametrize(
    ("change", "data_options", "message"),
    [
        ({"seed": 1}, {}, "seed is 0 there, found 1 now"),
        ({"gradient_clip": 0.5}, {}, "gradient_clip is 1.0 there, found 0.5"),
        ({"configuration": {"width": 8}}, {}, "configuration is {} there, found {'width': 8}"),
        ({}, {"seed": 4}, r"data_seed is 3 there, found 4 now \(and rows\)"),
        ({}, {"batch_size": 8}, r"batch_size \(of all devices together\) is 16 there, found 8"),
    ],
)
def test_another_runs_folder_is_refused(
    toy: Any, tmp_path: Path, change: dict[str, Any], data_options: dict[str, Any], message: str
) -> None:
    options = OPTIONS | {"folder": tmp_path, "max_epochs": 1}
    fit(toy.Toy(30), toy.data(), **options)
    with pytest.raises(ValueError, match=message):
        fit(toy.Toy(30), toy.data(**data_options), **options | change)


def test_another_network_is_refused(toy: Any, tmp_path: Path) -> None:
    options = OPTIONS | {"folder": tmp_path, "max_epochs": 1}
    fit(toy.Toy(30), toy.data(), **options)
    module = toy.Toy(30)
    module.extra = torch.nn.Linear(2, 2)
    with pytest.raises(ValueError, match="parameters is"):
        fit(module, toy.data(), **options)


def test_any_data_module_resumes_at_epochs(toy: Any, tmp_path: Path) -> None:
    from lightning.pytorch import LightningDataModule
    from torch.utils.data import DataLoader

    class Plain(LightningDataModule):
        def __init__(self) -> None:
            super().__init__()
            self.batches = list(toy.data(workers=0).train_dataloader())

        def train_dataloader(self) -> Any:
            return DataLoader(self.batches, batch_size=None)

    whole, first, second = toy.Toy(30), toy.Toy(30), toy.Toy(30)
    fit(whole, Plain(), **OPTIONS)
    assert whole.losses[:10] != whole.losses[10:20]

    def fail(batch: Any, batch_idx: int) -> torch.Tensor:
        if first.trainer.global_step == 25:
            raise KeyboardInterrupt
        return toy.Toy.training_step(first, batch, batch_idx)

    first.training_step = fail
    report = fit(first, Plain(), **OPTIONS | {"folder": tmp_path, "save_minutes": 0})
    assert report.stopped == "interrupted"
    fit(second, Plain(), **OPTIONS | {"folder": tmp_path})
    assert first.losses[:20] + second.losses == whole.losses


def test_too_little_memory_names_the_setting(toy: Any) -> None:
    class Large(toy.Toy):
        def loss(self, batch: Any) -> torch.Tensor:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    with pytest.raises(torch.OutOfMemoryError, match=r"Lower batch_size, now 16; the result will then differ a little"):
        fit(Large(30), toy.data(), **OPTIONS)
    tokens = {"max_tokens": 900, "lengths": np.full(200, 30)}
    with pytest.raises(torch.OutOfMemoryError, match=r"Lower max_tokens, now 900"):
        fit(Large(30), toy.data(**tokens), **OPTIONS)
