"""A training run on disk: what was asked for, the state to go on from, the best weights."""

from __future__ import annotations

import hashlib
import json
import time
from typing import TYPE_CHECKING, Any

from lightning.pytorch import Callback

from sclm.training.recorder import owned

if TYPE_CHECKING:
    from pathlib import Path

    import torch
    from lightning.pytorch import LightningModule, Trainer

    from sclm.training.recorder import Recorder

SETTINGS, LAST, BEST = "fit.json", "last.ckpt", "best.safetensors"
_FORMAT = 1


class Resumable(Callback):
    """Writes ``last.ckpt`` after each epoch, and every few minutes between two batches.

    A checkpoint is one of Lightning, with two changes. Its loops say that the epochs before the current one are complete and
    nothing else was begun: where in the epoch to go on is the recorder's and the data's business, which is exact. And it
    holds neither frozen parameters nor hyperparameters, so that it stays small and torch's safe loader reads it.

    Parameters
    ----------
    path
        Of the checkpoint.
    recorder
        Knows the epoch and the batch.
    minutes
        Between two checkpoints within an epoch.
    """

    def __init__(self, path: Path, recorder: Recorder, minutes: float) -> None:
        self.path = path
        self.recorder = recorder
        self.minutes = minutes
        self._written = time.monotonic()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Within an epoch, unless this was its last batch: then the end of the epoch follows."""
        recorder = self.recorder
        if not recorder.within_epochs or batch_idx + 1 >= trainer.num_training_batches:
            return
        due = time.monotonic() - self._written > 60 * self.minutes
        if recorder.partial or recorder.interrupt or recorder.agreed(trainer, due):
            self._write(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The recorder, which comes first, has counted the epoch already."""
        if not self.recorder.partial and self.recorder.stopped != "diverged":
            self._write(trainer)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Change the checkpoint as the class says."""
        for name in ("hyper_parameters", "hparams_name", "datamodule_hyper_parameters", "datamodule_hparams_name"):
            checkpoint.pop(name, None)
        checkpoint["state_dict"] = owned(pl_module, checkpoint["state_dict"])
        loop = checkpoint["loops"]["fit_loop"]
        epochs = dict.fromkeys(("ready", "started", "processed", "completed"), self.recorder.epoch)
        loop["epoch_progress"] = {"total": dict(epochs), "current": dict(epochs)}
        batches = loop["epoch_loop.batch_progress"]
        batches["total"] = dict.fromkeys(batches["total"], batches["total"]["processed"])
        batches["current"] = dict.fromkeys(batches["current"], 0)
        batches["is_last_batch"] = False

    def _write(self, trainer: Trainer) -> None:
        self.recorder.level(trainer)
        new = self.path.with_name(f"{self.path.name}.new")
        trainer.save_checkpoint(new, weights_only=False)  # on all devices; the first one writes
        if trainer.is_global_zero:
            new.replace(self.path)  # the old one or the new one is there, whenever the run is killed
        self._written = time.monotonic()


class Interruptible(Callback):
    """Ends the run after the batch in which Ctrl-C was pressed; the last callback, so that everything is written by then."""

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Between two batches nothing is half done; after the last one the epoch is ended first."""
        if self.recorder.interrupt and batch_idx + 1 < trainer.num_training_batches:
            raise KeyboardInterrupt

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The epoch is validated and written."""
        if self.recorder.interrupt:
            raise KeyboardInterrupt


def check_settings(folder: Path, settings: dict[str, Any], *, write: bool) -> None:
    """Refuse a folder of another run; write ``fit.json`` where there is none."""
    path = folder / SETTINGS
    settings = json.loads(json.dumps({"format": _FORMAT} | settings))  # tuples become lists, as they will be read
    if not path.is_file():
        if (folder / LAST).exists():
            raise ValueError(
                f"{folder} holds {LAST} without {SETTINGS}: it is no folder of fit. Choose another folder."
            )
        if write:
            folder.mkdir(parents=True, exist_ok=True)
            new = path.with_name(f"{path.name}.new")
            new.write_text(json.dumps(settings, indent=2), encoding="utf-8")
            new.replace(path)
        return
    found = json.loads(path.read_text(encoding="utf-8"))
    found, settings = {"devices": 1} | found, {"devices": 1} | settings
    different = [name for name in sorted(found.keys() | settings.keys()) if found.get(name) != settings.get(name)]
    if different:
        name = different[0]
        was, now = found.get(name), settings.get(name)
        if name == "batch_size":
            name = "batch_size (of all devices together)"
        more = f" (and {', '.join(different[1:])})" if different[1:] else ""
        raise ValueError(
            f"{folder} holds another training run: {name} is {was!r} there, found {now!r} now{more}. "
            "Choose another folder, or repeat the settings of that run."
        )


def describe_module(module: torch.nn.Module) -> str:
    """Hash of names, shapes and dtypes of everything that is trained."""
    parts = [f"{name} {tuple(p.shape)} {p.dtype}" for name, p in module.named_parameters() if p.requires_grad]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def write_weights(path: Path, state: dict[str, torch.Tensor]) -> None:
    """Write safetensors; a file of that name is replaced at once, never half."""
    from safetensors.torch import save_file

    new = path.with_name(f"{path.name}.new")
    save_file(copies(state), new)
    new.replace(path)


def copies(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """On the CPU, each with memory of its own."""
    return {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in state.items()}
