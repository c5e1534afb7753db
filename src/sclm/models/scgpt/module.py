"""Training: cells whose values are hidden in part, and the loss of guessing them.

B cells · L tokens · D width
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import lightning.pytorch as pl
import numpy as np
import torch
from torch.nn import functional

from sclm.models.scgpt.generative import generate
from sclm.models.scgpt.objectives import elastic_similarity, expressed_nll, masked_mse
from sclm.training import adamw, planned_steps

if TYPE_CHECKING:
    import scipy.sparse as sp

    from sclm.models.encoder import Tokens
    from sclm.models.scgpt.config import ScGPTConfig
    from sclm.models.scgpt.network import Outputs, ScGPTNetwork

_SIMILARITY = 0.8  # of the authors' script for integration: cells more alike are drawn together


class Batch(NamedTuple):
    """Cells to learn from."""

    ids: torch.Tensor  # (B, L) int64, <cls> first
    values: torch.Tensor  # (B, L) float32 as they are
    shown: torch.Tensor  # (B, L) float32, hidden ones replaced by the mask value
    real: torch.Tensor  # (B, L) bool, False at padding
    hidden: torch.Tensor  # (B, L) bool
    batches: torch.Tensor  # (B,) int64 batch of each cell, 0 where there are none
    absent: torch.Tensor  # (B, M) int64 genes that the cells lack, <pad> where fewer were drawn


def hide(
    tokens: Tokens,
    batches: np.ndarray,
    config: ScGPTConfig,
    *,
    pad_id: int,
    generator: np.random.Generator,
    absent: np.ndarray | None = None,
) -> Batch:
    """Tokens of cells as a batch in which some genes' values are hidden; ``<cls>`` always shows its own.

    Of m genes of a cell ``floor(mask_ratio m)``, at least one, are hidden, chosen uniformly.

    Parameters
    ----------
    tokens
        Of the cells.
    batches
        (n_cells,) int64.
    config
        Mask ratio and values.
    pad_id
        Token id of padding.
    generator
        Source of all random numbers.
    absent
        (n_cells, M) int64 genes that the cells lack, `pad_id` in empty places.

    Returns
    -------
    The batch.
    """
    ids = tokens.ids.pad(value=pad_id)
    values = tokens.values.pad(value=config.pad_value)  # type: ignore[union-attr]
    lengths = tokens.ids.lengths
    real = np.arange(ids.shape[1])[None, :] < lengths[:, None]  # (1, L) < (B, 1)
    order = np.where(real, generator.random(ids.shape), 2.0)
    order[:, 0] = 3.0  # <cls>
    n_genes = np.maximum(lengths - 1, 0)
    n_hidden = np.where(n_genes > 0, np.maximum(1, np.floor(config.mask_ratio * n_genes)), 0)
    hidden = order.argsort(axis=1, kind="stable").argsort(axis=1) < n_hidden[:, None]
    shown = np.where(hidden, config.mask_value, values)
    lacked = np.zeros((len(lengths), 0), np.int64) if absent is None else absent
    whole = (ids.astype(np.int64), values.astype(np.float32), shown.astype(np.float32))
    arrays = (*whole, real, hidden, batches.astype(np.int64), lacked)
    return Batch(*(torch.from_numpy(np.ascontiguousarray(array)) for array in arrays))


class ScGPTModule(pl.LightningModule):
    """Loss and optimiser.

    Parameters
    ----------
    network
        What learns.
    config
        Objective, learning rate.
    """

    def __init__(self, network: ScGPTNetwork, config: ScGPTConfig) -> None:
        super().__init__()
        self.network = network
        self.config = config

    def training_step(self, batch: Batch, index: int) -> torch.Tensor:
        """The loss of a batch."""
        return self.loss(batch)

    def validation_step(self, batch: Batch, index: int) -> None:
        """The same on held-out cells, logged as ``validation_loss``."""
        self.log("validation_loss", self.loss(batch), batch_size=len(batch.ids))

    def configure_optimizers(self) -> Any:
        """AdamW with warm-up and cosine decay."""
        return adamw(
            self,
            learning_rate=self.config.learning_rate,
            weight_decay=self.config.weight_decay,
            total_steps=planned_steps(self.trainer),
        )

    def loss(self, batch: Batch) -> torch.Tensor:
        """That of the configuration's objective."""
        batches = batch.batches if self.config.batches else None
        found = self.network(batch.ids, batch.shown, batch.real, batches=batches)
        if self.config.objective == "integration":
            return integration_loss(self.network, found, batch, self.config)
        unit = uniform_variance(self.config)
        loss = masking_loss(self.network, found, batch) / unit
        if self.config.generative:
            loss = loss + self.config.generative * generative_loss(self.network, batch) / unit
        return loss


def masking_loss(network: ScGPTNetwork, found: Outputs, batch: Batch) -> torch.Tensor:
    """Squared error of hidden values from the gene's state (GEP), and from the cell's vector (GEPC) with those of genes it lacks."""
    loss = masked_mse(_there(found.expression), batch.values, batch.hidden)
    if found.mvc is None:
        return loss
    predicted, _, target, mask = told_by_cells(network, found, batch)
    return loss + masked_mse(predicted, target, mask)


def told_by_cells(
    network: ScGPTNetwork, found: Outputs, batch: Batch
) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor, torch.Tensor]:
    """What cells' vectors have to tell: predicted values, probabilities of being expressed, true values, and which count.

    All (B, L + M): the tokens, of which the hidden ones count, and then genes that the cells lack, whose value is 0.
    """
    predicted, expressed, target, mask = _there(found.mvc), found.mvc_expressed, batch.values, batch.hidden
    if batch.absent.shape[1]:
        lacked, lacked_expressed = network.from_cells(found.cell, network.genes(batch.absent), batch.batches)
        predicted, target = torch.cat([predicted, lacked], dim=1), torch.cat([target, torch.zeros_like(lacked)], dim=1)
        mask = torch.cat([mask, batch.absent.ne(network.pad_id)], dim=1)
        if expressed is not None and lacked_expressed is not None:
            expressed = torch.cat([expressed, lacked_expressed], dim=1)
    return predicted, expressed, target, mask


def draw_absent(
    counts: sp.csr_matrix, ids: np.ndarray, n: int, pad_id: int, generator: np.random.Generator
) -> np.ndarray:
    """Genes that cells do not express, drawn uniformly with repeats.

    Parameters
    ----------
    counts
        CSR (n_cells, n_genes).
    ids
        (n_genes,) token id of each column.
    n
        Draws for each cell; a draw that meets an expressed gene is lost.
    pad_id
        What stands for a lost draw.
    generator
        Source of randomness.

    Returns
    -------
    (n_cells, n) int64 token ids.
    """
    n_cells, n_genes = counts.shape
    expressed = np.zeros((n_cells, n_genes), bool)
    expressed[np.repeat(np.arange(n_cells), np.diff(counts.indptr)), counts.indices] = True
    drawn = generator.integers(n_genes, size=(n_cells, n))
    return np.where(np.take_along_axis(expressed, drawn, axis=1), pad_id, ids[drawn]).astype(np.int64)


def integration_loss(network: ScGPTNetwork, found: Outputs, batch: Batch, config: ScGPTConfig) -> torch.Tensor:
    """Errors and likelihoods of hidden values from states (GEP) and vectors (GEPC), elastic similarity, guess of the batch (DAB)."""
    predicted, expressed, target, mask = told_by_cells(network, found, batch)
    errors = masked_mse(_there(found.expression), batch.values, batch.hidden) + masked_mse(predicted, target, mask)
    unlikely = expressed_nll(_there(expressed), target, mask)
    unlikely = unlikely + expressed_nll(_there(found.expressed), batch.values, batch.hidden)
    loss = errors / uniform_variance(config) + config.zero_weight * unlikely
    if len(found.cell) > 1:
        loss = loss + config.similarity_weight * elastic_similarity(found.cell, _SIMILARITY)
    return loss + config.adversary_weight * functional.cross_entropy(_there(found.batches), batch.batches)


def uniform_variance(config: ScGPTConfig) -> float:
    """Variance of values that are any bin alike: a squared error of that size is one of knowing nothing."""
    return config.n_bins**2 / 12


def generative_loss(network: ScGPTNetwork, batch: Batch) -> torch.Tensor:
    """Squared error of the hidden genes' values, written from the others alone: as pre-trained, with the second pass.

    The hidden genes leave the sequence and are asked for; in the second pass the cell's vector stands at position 0.
    """
    ids, values, real = _gathered(batch, batch.real & ~batch.hidden)
    asked, target, wanted = _gathered(batch, batch.hidden)
    first = generate(network, ids, values, real, asked)
    second = generate(network, ids, values, real, asked, cell=first.cell)
    loss = masked_mse(first.generated_values, target, wanted) + masked_mse(second.generated_values, target, wanted)
    if first.mvc is None:
        return loss
    return loss + masked_mse(first.mvc[:, ids.shape[1] :], target, wanted)


def _gathered(batch: Batch, chosen: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Ids, values and reality (B, M) of the chosen tokens (B, L) of each cell, moved to the left."""
    order = (~chosen).to(torch.int8).argsort(dim=1, stable=True)[:, : max(1, int(chosen.sum(dim=1).max()))]
    return batch.ids.gather(1, order), batch.values.gather(1, order), chosen.gather(1, order)


def _there(head: torch.Tensor | None) -> torch.Tensor:
    if head is None:
        raise ValueError("The network lacks a head that this objective trains: build it with the objective's settings.")
    return head
