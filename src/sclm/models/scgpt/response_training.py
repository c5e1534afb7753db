"""Pairs of control and perturbed cells, and the loss of predicting one from the other."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, NamedTuple

import lightning.pytorch as pl
import numpy as np
import scipy.sparse as sp
import torch

from sclm.cells import log_normalise
from sclm.models.scgpt.panel import move_log
from sclm.training import adamw, planned_steps

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sclm.cells import CellSource
    from sclm.models.perturbations import Perturbed
    from sclm.models.scgpt.config import ScGPTConfig
    from sclm.models.scgpt.network import ScGPTNetwork

_TRAIN, _VALIDATION, _SPLIT = 0, 1, 2
_ENOUGH = 10  # perturbations, of which some can be held out as a whole
_VALIDATED = 64  # pairs of a perturbation that is held out


class Pairs(NamedTuple):
    """Control cells and perturbed cells."""

    ids: torch.Tensor  # (B, L) int64, the same genes in every cell
    values: torch.Tensor  # (B, L) float32 of the control cell
    target: torch.Tensor  # (B, L) float32 of the perturbed cell
    flags: torch.Tensor  # (B, L) int64, 1 at perturbed genes
    measured: torch.Tensor  # (L,) bool, False at perturbed genes that the data lack


class PairData(pl.LightningDataModule):
    """Batches of pairs. A batch depends on the seed, the epoch and its number only.

    Parameters
    ----------
    source
        Raw counts.
    perturbed
        Perturbation of each cell.
    batches
        (n_cells,) int64: pairs are made within a batch.
    panel
        (G,) token ids of the genes that are predicted.
    place_of
        (n_data_genes,) place of each gene of the data in the panel, -1 outside.
    flags
        Name of a perturbation → token ids of its genes.
    config
        Batch size, length, share of perturbations held out.
    seed
        Of everything random.
    """

    def __init__(
        self,
        source: CellSource,
        perturbed: Perturbed,
        batches: np.ndarray,
        *,
        panel: np.ndarray,
        place_of: np.ndarray,
        flags: dict[str, np.ndarray],
        config: ScGPTConfig,
        seed: int,
    ) -> None:
        super().__init__()
        self.panel, self.config, self.seed = panel, config, seed
        self.flags = [flags[name] for name in perturbed.names]
        blocks = [move_log(log_normalise(block.counts), place_of, panel.size) for block in source.blocks()]
        self.log = sp.vstack(blocks, format="csr")  # (n_cells, G)
        filled = np.diff(self.log.indptr) > 0
        self.codes = np.where(filled, perturbed.codes, -2)
        self.batches = batches
        controls = np.flatnonzero(self.codes == -1)
        self.controls = {int(b): controls[batches[controls] == b] for b in np.unique(batches[controls])}
        paired = np.isin(batches, list(self.controls)) & (self.codes >= 0)
        self.rows = np.flatnonzero(paired)
        if not self.rows.size or not controls.size:
            raise ValueError("There are no perturbed cells with counts in a batch that holds control cells.")
        self.n_perturbed, self.n_controls = int(self.rows.size), int(controls.size)
        self._hold_out(np.random.default_rng([seed, _SPLIT]))
        self._position = (0, 0)

    def _hold_out(self, generator: np.random.Generator) -> None:
        """Whole perturbations where there are enough of them, else cells of each."""
        codes, share = self.codes[self.rows], self.config.validation_share
        there = np.unique(codes)
        self.validation: list[tuple[int, np.ndarray]] = []
        held = np.zeros(self.rows.size, bool)
        if share and there.size >= _ENOUGH:
            chosen = generator.permutation(there)[: max(1, round(share * there.size))]
            held = np.isin(codes, chosen)
            self.split = f"{chosen.size} of {there.size} perturbations held out"
        elif share:
            held = generator.random(codes.size) < share
            self.split = f"{int(held.sum()):,} of {codes.size:,} perturbed cells held out"
        else:
            self.split = "none held out"
        if held.all():
            held[:] = False
        for code in np.unique(codes[held]):
            self.validation.append((int(code), self.rows[held & (codes == code)][:_VALIDATED]))
        self.training = self.rows[~held]
        sizes = np.bincount(self.codes[self.training])
        self.n_nothing = int(np.median(sizes[sizes > 0]))  # control pairs in an epoch: as many as a perturbation has

    # ------------------------------------------------------------------ what Lightning and fit ask for

    def train_dataloader(self) -> _Loader:
        """Batches of the trainer's current epoch for this device."""
        trainer = self.trainer
        epoch, rank, world = (trainer.current_epoch, trainer.global_rank, trainer.world_size) if trainer else (0, 0, 1)
        generator = np.random.default_rng([self.seed, _TRAIN, epoch])
        controls = np.concatenate(list(self.controls.values()))
        order = generator.permutation(np.concatenate([self.training, generator.choice(controls, self.n_nothing)]))
        batches = np.array_split(order, self.n_batches * world)
        mine = list(enumerate(batches))[rank::world][: self.n_batches]
        done = self._position[1] if epoch == self._position[0] else 0
        return _Loader(self, [(rows, [self.seed, _TRAIN, epoch, number]) for number, rows in mine[done:]])

    def val_dataloader(self) -> _Loader | list[Any]:
        """One batch for each perturbation that is held out."""
        if not self.validation:
            return []
        return _Loader(self, [(rows, [self.seed, _VALIDATION, code]) for code, rows in self.validation])

    def resume_at(self, epoch: int, batch: int) -> None:
        """Begin that epoch after `batch` batches."""
        self._position = (epoch, batch)

    @property
    def n_batches(self) -> int:
        """Training batches of an epoch on one device."""
        world = self.trainer.world_size if self.trainer else 1
        return max(1, -(-(self.training.size + self.n_nothing) // (self.config.batch_size * world)))

    def fingerprint(self) -> dict[str, Any]:
        """What decides the batches."""
        digest = hashlib.sha256()
        for array in (self.training, self.codes, self.panel, self.log.indices, self.log.data):
            digest.update(np.ascontiguousarray(array).tobytes())
        return {"cells": digest.hexdigest()[:16], "batch_size": self.config.batch_size, "data_seed": self.seed}

    def encode(self, rows: np.ndarray, generator: np.random.Generator) -> Pairs:
        """Pair cells with control cells of their batch, on a random subset of genes that holds the perturbed ones."""
        flagged = [self.flags[code] if code >= 0 else np.zeros(0, np.int64) for code in self.codes[rows]]
        control = np.array([generator.choice(self.controls[int(b)]) for b in self.batches[rows]])
        asked = np.unique(np.concatenate(flagged))
        known = np.flatnonzero(np.isin(self.panel, asked))
        room = max(0, self.config.max_length - asked.size)
        others = np.setdiff1d(np.arange(self.panel.size), known)
        if others.size > room:
            others = generator.choice(others, room, replace=False)
        places = np.sort(np.concatenate([known, others]))
        lacking = np.setdiff1d(asked, self.panel)
        ids = np.concatenate([self.panel[places], lacking])  # (L,)
        n, length = rows.size, ids.size
        values, target = np.zeros((n, length), np.float32), np.zeros((n, length), np.float32)
        values[:, : places.size] = self.log[control][:, places].toarray()
        target[:, : places.size] = self.log[rows][:, places].toarray()
        flags = np.stack([np.isin(ids, own) for own in flagged]).astype(np.int64)
        measured = np.arange(length) < places.size
        arrays = (np.tile(ids, (n, 1)), values, target, flags, measured)
        return Pairs(*(torch.from_numpy(np.ascontiguousarray(array)) for array in arrays))


class _Loader:
    """Batches made while they are asked for."""

    def __init__(self, data: PairData, batches: list[tuple[np.ndarray, list[int]]]) -> None:
        self._data, self._batches = data, batches
        self.n_cells = int(sum(rows.size for rows, _ in batches))

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[Pairs]:
        for rows, key in self._batches:
            yield self._data.encode(rows, np.random.default_rng(key))


class ResponseModule(pl.LightningModule):
    """Loss and optimiser of a perturbation model.

    Parameters
    ----------
    network
        With flags of perturbation and the affine decoder.
    config
        Learning rate.
    """

    def __init__(self, network: ScGPTNetwork, config: ScGPTConfig) -> None:
        super().__init__()
        self.network = network
        self.config = config

    def predict(self, batch: Pairs) -> torch.Tensor:
        """(B, L) predicted values."""
        real = torch.ones_like(batch.ids, dtype=torch.bool)
        found = self.network(batch.ids, batch.values, real, flags=batch.flags).expression
        return found

    def training_step(self, batch: Pairs, index: int) -> torch.Tensor:
        """Squared error over all genes of the subset, against a cell that was perturbed."""
        return (self.predict(batch) - batch.target).square()[:, batch.measured].mean()

    def validation_step(self, batch: Pairs, index: int) -> None:
        """Squared distance of the mean profiles, predicted and observed, of one perturbation; logged as ``validation_loss``."""
        error = (self.predict(batch).mean(dim=0) - batch.target.mean(dim=0)).square()[batch.measured].mean()
        self.log("validation_loss", error, batch_size=1)

    def configure_optimizers(self) -> Any:
        """AdamW with warm-up and cosine decay."""
        return adamw(
            self,
            learning_rate=self.config.learning_rate,
            weight_decay=self.config.weight_decay,
            total_steps=planned_steps(self.trainer),
        )
