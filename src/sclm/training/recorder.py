"""What a training run has done so far: losses, the best weights, when to stop. It is saved and resumed with the run."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from lightning.pytorch import Callback

if TYPE_CHECKING:
    from collections.abc import Callable

    from lightning.pytorch import LightningModule, Trainer

_BATCH, _VALIDATION, _EPOCH = 0, 1, 2  # streams of random numbers
_EVERY = 20  # with several devices: training steps between two questions whether any of them wants to stop


class Recorder(Callback):
    """Keeps the history and the best weights, stops the run, and seeds torch before each batch.

    Dropout and other random numbers of a batch are drawn from ``(seed, epoch, batch, device)``, so that a resumed run needs no
    state of a random generator. Validation batches have the same seeds in every epoch, which makes epochs comparable.

    Parameters
    ----------
    seed
        Of torch's random numbers.
    monitor
        Name of the score that is watched; lower is better.
    patience
        Epochs without a better score until the run stops; None: never.
    max_minutes
        Time of this call; None: no bound.
    keep
        Is handed the weights whenever they are the best so far, and whether this is the first device.
    """

    def __init__(
        self,
        *,
        seed: int,
        monitor: str,
        patience: int | None,
        max_minutes: float | None,
        keep: Callable[..., None],
    ) -> None:
        self.seed = seed
        self.monitor = monitor
        self.patience = patience
        self.max_minutes = max_minutes
        self._keep = keep
        self.epoch = 0  # the one that runs, or comes next, from 0
        self.batch = 0  # batches of that epoch that are done
        self.history: list[dict[str, float]] = []
        self.best_epoch = 0  # from 1; 0: none yet
        self.best_score = math.inf
        self.waited = 0
        self.stopped = "max_epochs"
        self.partial = False  # the epoch was cut short by max_minutes
        self.interrupt = False  # Ctrl-C was pressed: stop after this batch
        self.alone = True  # one device
        self._loss_sum: Any = 0.0
        self._validated = 0  # held-out cells that this device has read in this epoch
        self._before = 0.0  # seconds of earlier calls
        self._started = time.monotonic()
        self._resume_at: Callable[[int, int], None] | None = None

    @property
    def seconds(self) -> float:
        """Of this run, earlier calls with the same folder included."""
        return self._before + time.monotonic() - self._started

    # ------------------------------------------------------------------ resume

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers and lists, as torch's safe loader wants them."""
        return {
            "epoch": self.epoch,
            "batch": self.batch,
            "loss_sum": float(self._loss_sum),
            "history": self.history,
            "best_epoch": self.best_epoch,
            "best_score": self.best_score,
            "waited": self.waited,
            "seconds": self.seconds,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up where :meth:`state_dict` was taken, and tell the data to do so."""
        for name in ("epoch", "batch", "history", "best_epoch", "best_score", "waited"):
            setattr(self, name, state_dict[name])
        self._loss_sum = state_dict["loss_sum"]
        self._before = state_dict["seconds"]
        if self._resume_at is not None:
            self._resume_at(self.epoch, self.batch)

    def level(self, trainer: Trainer) -> None:
        """The losses so far as their mean over all devices, so that the checkpoint, which one writes, holds those of all."""
        if trainer.world_size > 1:
            found = trainer.strategy.reduce(_on_device(trainer, [float(self._loss_sum)]), reduce_op="mean")
            self._loss_sum = float(found)

    def attach(self, data: Any) -> None:
        """Data that can begin in the middle of an epoch have a method ``resume_at``; others are resumed at epochs."""
        self._resume_at = getattr(data, "resume_at", None)
        if self._resume_at is not None:
            self._resume_at(self.epoch, self.batch)

    @property
    def within_epochs(self) -> bool:
        """Whether the run can be resumed between two batches."""
        return self._resume_at is not None

    # ------------------------------------------------------------------ hooks

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse what cannot be watched, and do not go on with a run that had stopped."""
        self.alone = trainer.world_size == 1
        watches = sum(trainer.num_val_batches) > 0 or self.monitor == "training_loss"
        if self.patience is not None and not watches:
            raise ValueError(
                f"patience={self.patience} watches {self.monitor!r}, found no validation cells or no validation_step. "
                "Hold cells out, or pass patience=None."
            )
        if self.patience is not None and self.waited >= self.patience:
            self.stopped = "patience"
            trainer.should_stop = True

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Seed what is shuffled by torch."""
        self._seed(pl_module, _EPOCH, self.epoch)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Seed the batch."""
        self._seed(pl_module, _BATCH, self.epoch, self.batch, trainer.global_rank)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count, and look at the clock."""
        loss = outputs["loss"] if isinstance(outputs, dict) else outputs
        # Summed where it is: fetching it from a GPU would wait for the step. MPS has no float64.
        self._loss_sum = self._loss_sum + loss.detach().to(
            torch.float32 if loss.device.type == "mps" else torch.float64
        )
        self.batch += 1
        late = self.max_minutes is not None and time.monotonic() - self._started > 60 * self.max_minutes
        if self.agreed(trainer, late):
            self.stopped = "max_minutes"
            self.partial = self.batch < self._planned(trainer)
            trainer.should_stop = True

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Seed the batch, without the epoch."""
        self._seed(pl_module, _VALIDATION, dataloader_idx, batch_idx, trainer.global_rank)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Count its cells: scores of several devices are averaged over all held-out cells."""
        self._validated += cells_in(batch)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the row of this epoch; keep the weights where they are the best so far."""
        mean = float(self._loss_sum) / self.batch
        if trainer.world_size > 1:  # the group of several GPUs reduces what is on them
            mean = float(trainer.strategy.reduce(_on_device(trainer, [mean]), reduce_op="mean"))
        scores = {name: float(value) for name, value in trainer.callback_metrics.items()} | {"training_loss": mean}
        row = {"epoch": self.epoch + 1, "step": trainer.global_step, "training_loss": mean}
        row["validation_loss"] = self._reduced(trainer, scores.get("validation_loss", math.nan))
        self.history.append(row | {"seconds": self.seconds})
        if not math.isfinite(mean):
            self.stopped = "diverged"
            trainer.should_stop = True
        else:
            self._judge(trainer, pl_module, scores)
        self._loss_sum, self._validated = 0.0, 0
        self.epoch, self.batch = self.epoch + 1, 0

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Remember that the user stopped the run."""
        if isinstance(exception, KeyboardInterrupt):
            self.stopped = "interrupted"

    # ------------------------------------------------------------------ parts

    def agreed(self, trainer: Trainer, wanted: bool) -> bool:
        """Whether any device wants it; all devices hear the same answer, now and then and at ends of epochs."""
        if trainer.world_size == 1:
            return wanted
        if self.batch % _EVERY and self.batch < self._planned(trainer):
            return False
        return bool(trainer.strategy.reduce_boolean_decision(wanted, all=False))

    def _judge(self, trainer: Trainer, module: LightningModule, scores: dict[str, float]) -> None:
        if self.monitor not in scores:
            if sum(trainer.num_val_batches) == 0 and self.monitor == "validation_loss":
                return  # nothing was held out: the last weights are the result
            names = ", ".join(map(repr, sorted(scores)))
            raise KeyError(
                f"monitor={self.monitor!r} was not logged; there are: {names}. Call self.log in validation_step."
            )
        score = self._reduced(trainer, scores[self.monitor])
        if score < self.best_score:
            self.best_score, self.best_epoch, self.waited = score, self.epoch + 1, 0
            state = owned(module, trainer.strategy.lightning_module_state_dict())
            self._keep(state, first=trainer.is_global_zero)
            return
        self.waited += 1
        if self.patience is not None and self.waited >= self.patience and self.stopped == "max_epochs":
            self.stopped = "patience"
            trainer.should_stop = True

    def _reduced(self, trainer: Trainer, value: float) -> float:
        """A mean over the held-out cells of this device as the mean over those of all."""
        if trainer.world_size == 1:
            return value
        n = float(max(self._validated, 1))
        total, cells = trainer.strategy.reduce(_on_device(trainer, [value * n, n]), reduce_op="sum").tolist()
        return float(total / cells)

    def _planned(self, trainer: Trainer) -> int:
        """Batches of this epoch, those of an earlier call included."""
        done = self.batch - (trainer.fit_loop.batch_idx + 1)
        return int(trainer.num_training_batches) + done

    def _seed(self, module: LightningModule, *key: int) -> None:
        """Seed the generators that fit borrowed: of the CPU, and of the module's device."""
        seed = int(np.random.SeedSequence([self.seed, *key]).generate_state(1, np.uint64)[0])
        torch.default_generator.manual_seed(seed)
        device = module.device
        if device.type == "cuda":
            torch.cuda.default_generators[
                torch.cuda.current_device() if device.index is None else device.index
            ].manual_seed(seed)
        elif device.type == "mps":
            torch.mps.set_rng_state(torch.Generator("mps").manual_seed(seed).get_state())


def _on_device(trainer: Trainer, values: list[float]) -> torch.Tensor:
    device = trainer.strategy.root_device
    return torch.tensor(values, dtype=torch.float32 if device.type == "mps" else torch.float64, device=device)


def cells_in(batch: Any) -> int:
    """Cells of a batch: the first dimension of its first tensor, 0 where it has none."""
    tensors = batch if isinstance(batch, tuple | list) else (batch,)
    return next((int(x.shape[0]) for x in tensors if isinstance(x, torch.Tensor) and x.ndim), 0)


def owned(module: torch.nn.Module, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """`state` without the frozen parameters: training does not change them, and they can be gigabytes."""
    frozen = {name for name, p in module.named_parameters(remove_duplicate=False) if not p.requires_grad}
    return {name: tensor for name, tensor in state.items() if name not in frozen}
