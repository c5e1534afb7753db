"""The training system: cells as draws of their levels, and the loss of a batch."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, NamedTuple

import lightning.pytorch as pl
import numpy as np
import torch

from sclm.models.pgl.levels import to_bins
from sclm.models.pgl.network import Batch
from sclm.models.pgl.objectives import negative_log_likelihood
from sclm.training import adamw, planned_steps

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sclm.models.pgl.levels import Levels
    from sclm.models.pgl.network import Memberships, PGLConfig, PGLNetwork

_TRAIN, _VALIDATION = 0, 1


class PGLModule(pl.LightningModule):
    """Loss and optimiser of a :class:`~sclm.models.pgl.network.PGLNetwork`.

    Parameters
    ----------
    network
        What learns.
    memberships
        Nodes of the training values of each field.
    config
        Learning rate and weight decay.
    """

    def __init__(self, network: PGLNetwork, memberships: list[Memberships], config: PGLConfig) -> None:
        super().__init__()
        self.network = network
        self.memberships = memberships
        self.config = config

    def training_step(self, batch: Batch, index: int) -> torch.Tensor:
        """Nats a cell, fields that were left open included."""
        return self.loss(batch)

    def validation_step(self, batch: Batch, index: int) -> None:
        """The same on held-out cells, logged as ``validation_loss``."""
        self.log("validation_loss", self.loss(batch), batch_size=len(batch.bins))

    def configure_optimizers(self) -> Any:
        """AdamW with warm-up and cosine decay."""
        return adamw(
            self,
            learning_rate=self.config.learning_rate,
            weight_decay=self.config.weight_decay,
            total_steps=planned_steps(self.trainer),
        )

    def loss(self, batch: Batch) -> torch.Tensor:
        """Nats a cell."""
        memberships = [type(m)(*(t.to(batch.fields.device) for t in m)) for m in self.memberships]
        levels, fields = self.network(batch, memberships)
        of_levels, of_fields = negative_log_likelihood(levels, batch.bins, fields, batch.asked)
        return of_levels + of_fields


class LevelTable(NamedTuple):
    """What training needs of every cell: the counts themselves are no longer read.

    Attributes
    ----------
    fields
        (n, F) int32 training values, -1 not given.
    first
        (n,) float32 value of the first slot, the depth.
    mean
        (n, K) float32 posterior mean of the programmes.
    root
        (n, K, K) float32 Cholesky factor of their posterior covariance.
    """

    fields: np.ndarray
    first: np.ndarray
    mean: np.ndarray
    root: np.ndarray

    def draw(self, rows: np.ndarray, noise: np.ndarray) -> np.ndarray:
        """Programmes (m, K) of some cells, drawn from their posterior by standard normal noise (m, K)."""
        return self.mean[rows] + np.einsum("nij,nj->ni", self.root[rows], noise)


class LevelData(pl.LightningDataModule):
    """Batches of cells whose programmes are drawn anew from their posterior each time, and whose fields are dropped.

    A batch depends on the seed, the epoch and its number only: a resumed run sees what an uninterrupted one would.

    Parameters
    ----------
    table
        The cells.
    levels
        Edges of the levels.
    validation_rows
        Cells held out. They keep all their fields: the score is that of a full request.
    context
        Fields that a cell keeps when all else is dropped (tissue and disease).
    config
        Dropout of fields, batch size.
    seed
        Of order, draws and dropout.
    """

    def __init__(
        self,
        table: LevelTable,
        levels: Levels,
        validation_rows: np.ndarray,
        context: np.ndarray,
        config: PGLConfig,
        seed: int,
    ) -> None:
        super().__init__()
        self.table, self.levels, self.context, self.config, self.seed = table, levels, context, config, seed
        held_out = np.zeros(len(table.first), bool)
        held_out[validation_rows] = True
        self.training_rows, self.validation_rows = np.flatnonzero(~held_out), np.flatnonzero(held_out)
        self._position = (0, 0)

    def train_dataloader(self) -> _Batches:
        """Batches of the trainer's current epoch, for this device."""
        epoch, rank, world = self._place()
        order = np.random.default_rng([self.seed, _TRAIN, epoch]).permutation(self.training_rows)
        mine = [step[rank] for step in self._cut(order, world)]
        done = self._position[1] if epoch == self._position[0] else 0
        keys = [[self.seed, _TRAIN, epoch, rank, i] for i in range(done, len(mine))]
        return _Batches(self, mine[done:], keys, dropped=True)

    def val_dataloader(self) -> _Batches | list[Any]:
        """The same batches in every epoch; several devices share them, or have all of them where there are too few cells."""
        if not self.validation_rows.size:
            return []
        _, rank, world = self._place()
        if self.validation_rows.size < world:
            rank, world = 0, 1
        mine = [step[rank] for step in self._cut(self.validation_rows, world)]
        keys = [[self.seed, _VALIDATION, i * world + rank] for i in range(len(mine))]
        return _Batches(self, mine, keys, dropped=False)

    def resume_at(self, epoch: int, batch: int) -> None:
        """Begin that epoch after `batch` batches."""
        self._position = (epoch, batch)

    @property
    def n_batches(self) -> int:
        """Training batches of one device in an epoch."""
        return len(self._cut(self.training_rows, self._place()[2]))

    def fingerprint(self, world: int = 1) -> dict[str, Any]:
        """What decides the batches of `world` devices, which go on for one with the doubled batch where they are two."""
        digest = hashlib.sha256(np.ascontiguousarray(self.table.mean).tobytes())
        digest.update(self.validation_rows.astype(np.int64).tobytes())
        return {"cells": digest.hexdigest()[:16], "batch_size": self.config.batch_size * world, "data_seed": self.seed}

    def encode(self, rows: np.ndarray, generator: np.random.Generator, *, dropped: bool) -> Batch:
        """A batch of these cells."""
        noise = generator.standard_normal(self.table.mean[rows].shape, dtype=np.float32)
        programmes = self.table.draw(rows, noise)
        values = np.column_stack([self.table.first[rows], programmes]).astype(np.float32)
        known = self.table.fields[rows].astype(np.int64)
        fields, asked = known.copy(), np.full_like(known, -1)
        if dropped:
            left = left_open(known.shape, generator, self.context, self.config)
            asked = np.where(left, known, -1)
            fields[left] = -1
        arrays = (fields, asked, values, to_bins(self.levels, values))
        return Batch(*(torch.from_numpy(np.ascontiguousarray(a)) for a in arrays))

    def _place(self) -> tuple[int, int, int]:
        """Epoch, rank and number of devices."""
        trainer = self.trainer
        return (trainer.current_epoch, trainer.global_rank, trainer.world_size) if trainer else (0, 0, 1)

    def _cut(self, rows: np.ndarray, world: int) -> list[list[np.ndarray]]:
        """Steps, each with a batch for every device: each row once."""
        if rows.size < world:
            raise ValueError(
                f"{rows.size} training cells cannot be shared by {world} devices. Train with fewer devices."
            )
        n = max(1, min(round(rows.size / (self.config.batch_size * world)), rows.size // world))
        return [[part[device::world] for device in range(world)] for part in np.array_split(rows, n)]


def left_open(
    shape: tuple[int, int], generator: np.random.Generator, context: np.ndarray, config: PGLConfig
) -> np.ndarray:
    """Which fields (n, F) of which cells are dropped, so that any subset of fields is a request seen in training."""
    left = generator.random(shape) < config.field_dropout
    only = generator.random(shape[0]) < config.only_context
    left[only] = ~context[None, :]
    return left


class _Batches:
    """Batches made while they are asked for."""

    def __init__(self, data: LevelData, rows: list[np.ndarray], keys: list[list[int]], *, dropped: bool) -> None:
        self._data, self._rows, self._keys, self._dropped = data, rows, keys, dropped
        self.n_cells = int(sum(part.size for part in rows))

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[Batch]:
        for rows, key in zip(self._rows, self._keys, strict=True):
            yield self._data.encode(rows, np.random.default_rng(key), dropped=self._dropped)
