"""One progress bar for a training run: epoch, loss, cells a second."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from lightning.pytorch import Callback
from tqdm import tqdm

from sclm.training.recorder import cells_in

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer

    from sclm.training.recorder import Recorder

_SECONDS = 0.5  # between two readings of the loss, which wait for a GPU


class ProgressBar(Callback):
    """A bar of tqdm on the first device, counting the cells of all devices."""

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder
        self._bar: tqdm[Any] | None = None
        self._read = 0.0
        self._shown: dict[str, str] = {}

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin again at zero."""
        if not trainer.is_global_zero:
            return
        loader = trainer.train_dataloader
        cells = getattr(loader, "n_cells", None)
        total = None if cells is None else cells * trainer.world_size
        if self._bar is None:
            self._bar = tqdm(total=total, unit=" cells", leave=False, dynamic_ncols=True)
        else:
            self._bar.reset(total)
        self._bar.set_description(f"epoch {self.recorder.epoch + 1}/{trainer.max_epochs}")

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Advance by the cells of the batch."""
        if self._bar is None:
            return
        if time.monotonic() - self._read > _SECONDS:
            loss = outputs["loss"] if isinstance(outputs, dict) else outputs
            self._shown["loss"] = f"{float(loss):.4g}"
            self._bar.set_postfix(self._shown, refresh=False)
            self._read = time.monotonic()
        self._bar.update(cells_in(batch) * trainer.world_size)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show the score."""
        score = trainer.callback_metrics.get("validation_loss")
        if score is not None:
            self._shown["validation"] = f"{float(score):.4g}"

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
