"""The training system: cells with their proteins as batches, and the loss of a batch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
import numpy as np
import torch

from sclm.cells import log_normalise
from sclm.models.sctranslator.tokens import LEAST, TARGET_SUM, Frame, batch_of, min_max
from sclm.training import adamw, planned_steps

if TYPE_CHECKING:
    from collections.abc import Callable

    from sclm.cells import Cells
    from sclm.models.sctranslator.network import ScTranslatorConfig, ScTranslatorNetwork
    from sclm.models.sctranslator.tokens import Batch

ROW = "row"  # column of obs by which a batch finds the proteins of its cells


def masked_mse(predicted: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Mean squared error over the proteins that were measured; 0 for a batch without any."""
    known = torch.isfinite(targets)
    error = torch.where(known, predicted - torch.nan_to_num(targets), 0.0)
    return (error**2).sum() / known.sum().clamp_min(1)


class ScTranslatorModule(pl.LightningModule):
    """Loss and optimiser of a :class:`~sclm.models.sctranslator.network.ScTranslatorNetwork`.

    Parameters
    ----------
    network
        What learns.
    config
        Learning rate and weight decay.
    """

    def __init__(self, network: ScTranslatorNetwork, config: ScTranslatorConfig) -> None:
        super().__init__()
        self.network = network
        self.config = config

    def training_step(self, batch: Batch, index: int) -> torch.Tensor:
        """Mean squared error of the measured proteins."""
        return masked_mse(self.network(batch)[:, : batch.targets.shape[1]], batch.targets)

    def validation_step(self, batch: Batch, index: int) -> None:
        """The same on held-out cells, logged as ``validation_loss``."""
        self.log("validation_loss", self.training_step(batch, index), batch_size=len(batch.values))

    def configure_optimizers(self) -> Any:
        """AdamW with warm-up and cosine decay."""
        return adamw(
            self,
            learning_rate=self.config.learning_rate,
            weight_decay=self.config.weight_decay,
            total_steps=planned_steps(self.trainer),
        )


def encoder(
    config: ScTranslatorConfig,
    gene_ids: np.ndarray,
    here: np.ndarray,
    protein_ids: np.ndarray,
    protein_real: np.ndarray,
    targets: np.ndarray | None = None,
    noisy: np.ndarray | None = None,
) -> Callable[..., Batch]:
    """A function that turns cells with the vocabulary's genes into a batch.

    Parameters
    ----------
    config
        Frame and padding.
    gene_ids
        (L,) embedding row of each gene of the vocabulary.
    here
        (L,) bool: genes that the data hold; the others are padding at their positions.
    protein_ids, protein_real
        (P,) of the decoder's frame.
    targets
        (all cells, P) that training compares with, found by the column ``"row"`` of the cells' obs; None for prediction.
    noisy
        (all cells,) bool: those of whose genes some are dropped at random in each epoch; none where None.
    """
    place = np.flatnonzero(here)
    length = config.gene_frame if config.padding == "original" else len(gene_ids)
    ids, real = np.zeros(length, dtype=np.int64), np.zeros(length, dtype=bool)
    ids[place], real[place] = gene_ids[place], True

    def encode(cells: Cells, generator: np.random.Generator | None = None) -> Batch:
        values = min_max(log_normalise(cells.counts, TARGET_SUM)[:, place])
        if noisy is not None and generator is not None:
            lost = generator.random(values.shape) < config.gene_dropout
            values[lost & noisy[cells.obs[ROW].to_numpy()][:, None]] = LEAST
        spread = np.zeros((cells.n_cells, length), dtype=np.float32)
        spread[:, place] = np.nan_to_num(values)  # cells without counts, whose answer is not used
        rows = None if targets is None else targets[cells.obs[ROW].to_numpy()]
        return batch_of(Frame(spread, ids, real), protein_ids, protein_real, rows)

    return encode
