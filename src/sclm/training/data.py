"""Cells of one or many sources as shuffled batches of tokens, for training."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from lightning.pytorch import LightningDataModule

from sclm.cells import Cells, CellSource, JoinedSource, align
from sclm.training.loader import CellLoader, Planned
from sclm.training.order import BatchOrder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from sclm.cells import GeneVocabulary

_SPLIT, _TRAIN, _VALIDATION = 1, 2, 3  # streams of random numbers; 0 is the order's


class CellDataModule(LightningDataModule):
    """Batches of cells for :func:`~sclm.training.fit`, from memory, from files, or from many files.

    The order of the cells and everything random in `encode` depend on the seed, the epoch and the batch's number only:
    a resumed run sees the batches that it would have seen, and the number of threads changes nothing. Cells on disk are
    read in stretches of `chunk_size` rows, shuffled within a buffer of `buffer_size` cells; memory is bounded by two buffers.

    Parameters
    ----------
    sources
        What :func:`sclm.cells.read_cells` returned, one or many. With many, give a `vocabulary`; or read them as one
        :class:`sclm.cells.JoinedSource`, in the genes that all share.
    encode
        Turns a block of cells into the family's batch, a NamedTuple of tensors whose first dimension is that of the
        cells, ``encode(cells, generator)``. It may run in a thread, and may take random numbers from `generator` only.
    vocabulary
        Genes that the model reads: `encode` is then handed counts with one column a token, whatever the source's genes
        are. By default the source's own genes.
    batch_size
        Cells in a batch of one device, at most; batches of a buffer have equal sizes, give or take one cell. Several devices
        share the cells of each step: every cell is used once an epoch, and all devices have as many batches.
    max_tokens
        Instead of `batch_size`: bound on the number of cells times the longest cell of a batch. Needs `lengths`.
    lengths
        (n_cells,) tokens of each cell, all sources in a row (:func:`expressed_genes` plus the family's own). Cells of similar
        length then share a batch.
    validation
        Cells held out: a share from 0 to less than 1, or row numbers or a boolean mask over all sources in a row.
    validation_key
        Column of ``.obs``, for a share: hold out whole groups, for example donors, of about that share of the cells.
    chunk_size
        Consecutive rows that are read together; by default 1 in memory and 128 from disk.
    buffer_size
        Cells that are shuffled among one another, by default 4096.
    rows
        Row numbers or a boolean mask, over all sources in a row: only these cells are trained on and validated with.
    balance_key
        Column of ``.obs``, for example with cell types: each epoch draws as many cells of every value, and as many in all as
        there are training cells. Cells of a common value take turns over the epochs, those of a rare one come several times in
        one; cells without a value are not trained on. Held-out cells stay as they are.
    workers
        Threads that encode batches ahead of the training step; 0 for none.
    min_share
        Least share of the vocabulary's genes that each source must hold, 0 to 1.
    seed
        Of the split, the order and the encoding.

    Raises
    ------
    ValueError
        If there are no cells to train on, a source hardly shares genes with the vocabulary, or a parameter is out of range.
    KeyError
        If the sources lack the column `validation_key` or `balance_key`.
    """

    def __init__(
        self,
        sources: CellSource | JoinedSource | Sequence[CellSource],
        encode: Callable[[Cells, np.random.Generator], Any],
        *,
        vocabulary: GeneVocabulary | None = None,
        batch_size: int = 64,
        max_tokens: int | None = None,
        lengths: np.ndarray | None = None,
        validation: float | np.ndarray | Sequence[int] = 0.1,
        validation_key: str | None = None,
        rows: np.ndarray | None = None,
        balance_key: str | None = None,
        chunk_size: int | None = None,
        buffer_size: int = 4096,
        workers: int = 1,
        min_share: float = 0.2,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.sources = [sources] if isinstance(sources, CellSource | JoinedSource) else list(sources)
        if not self.sources:
            raise ValueError("sources must hold at least one CellSource, found none.")
        if workers < 0:
            raise ValueError(f"workers must be 0 or more, found {workers}.")
        self.vocabulary = vocabulary
        self.encode = encode
        self.workers = workers
        self.seed = seed
        self._min_share = min_share
        self._genes = self._common_genes()
        self._starts = np.cumsum([0, *(source.n_cells for source in self.sources)])
        self.n_cells = int(self._starts[-1])
        if lengths is not None:
            lengths = np.asarray(lengths)
            if lengths.shape != (self.n_cells,) or lengths.dtype.kind not in "iu":
                found = f"{lengths.dtype} of shape {lengths.shape}"
                raise ValueError(f"lengths must be {self.n_cells:,} whole numbers, one a cell, found {found}.")
        held_out = self._held_out(validation, validation_key)
        used = np.ones(self.n_cells, dtype=bool) if rows is None else self._mask(rows, "rows")
        self.training_rows, self.validation_rows = np.flatnonzero(used & ~held_out), np.flatnonzero(used & held_out)
        if not self.training_rows.size:
            raise ValueError(f"No cells are left for training: all {int(used.sum()):,} are held out for validation.")
        if chunk_size is None:
            chunk_size = 1 if all(source.in_memory for source in self.sources) else 128
        options: dict[str, Any] = {"batch_size": batch_size, "max_tokens": max_tokens, "lengths": lengths, "seed": seed}
        classes = None if balance_key is None else self._classes(balance_key)
        self._order = BatchOrder(
            self.training_rows, chunk_size=chunk_size, buffer_size=buffer_size, classes=classes, **options
        )
        self._validation_order = BatchOrder(self.validation_rows, shuffle=False, buffer_size=buffer_size, **options)
        self._matches = [None if vocabulary is None else vocabulary.match(source.genes) for source in self.sources]
        self._position = (0, 0)
        for number, source in enumerate(self.sources):  # refuse foreign genes now, with an empty block
            empty = sp.csr_matrix((0, source.n_genes), dtype=np.float32)
            self._aligned(Cells(empty, source.genes, source.obs.iloc[:0]), number)

    # ------------------------------------------------------------------ what Lightning asks for

    def train_dataloader(self) -> CellLoader:
        """Batches of the trainer's current epoch for this device, from where :meth:`resume_at` says."""
        epoch, rank, world, pin = self._place()
        start = self._position[1] if epoch == self._position[0] else 0
        n = self._order.n_batches(epoch, world)
        return CellLoader(
            lambda: _dealt(self._order.steps(epoch, world), rank, world, start),
            n_batches=n - start,
            n_cells=round(self.training_rows.size / world * (n - start) / n),
            read=self.read,
            encode=self.encode,
            key=(self.seed, _TRAIN, epoch),
            workers=self.workers,
            pin=pin,
        )

    def val_dataloader(self) -> CellLoader | list[Any]:
        """The same batches in every epoch; several devices share them, or have all of them where there are too few cells."""
        if not self.validation_rows.size:
            return []
        _, rank, world, pin = self._place()
        if self.validation_rows.size < world:
            rank, world = 0, 1
        order = self._validation_order
        return CellLoader(
            lambda: _dealt(order.steps(0, world), rank, world, 0),
            n_batches=order.n_batches(0, world),
            n_cells=self.validation_rows.size // world,
            read=self.read,
            encode=self.encode,
            key=(self.seed, _VALIDATION),
            workers=self.workers,
            pin=pin,
        )

    # ------------------------------------------------------------------ what fit asks for

    @property
    def n_batches(self) -> int:
        """Training batches of one device in the first epoch; with `max_tokens` later ones may differ a little."""
        return self._order.n_batches(0, self._place()[2])

    def resume_at(self, epoch: int, batch: int) -> None:
        """Begin that epoch, from 0, after `batch` batches of each device; other epochs are whole."""
        self._position = (epoch, batch)

    def fingerprint(self, world: int = 1) -> dict[str, Any]:
        """What decides the batches of `world` devices, as JSON scalars: a resumed run must have the same.

        Two devices may go on for one with the doubled `batch_size`: their steps are the same.
        """
        order, digest = self._order, hashlib.sha256()
        for array in (self.training_rows, self.validation_rows, order.lengths):
            digest.update(b"" if array is None else np.ascontiguousarray(array, dtype=np.int64).tobytes())
        genes = hashlib.sha256("\n".join(map(str, self._genes)).encode()).hexdigest()
        found = {
            "n_cells": self.n_cells,
            "rows": digest.hexdigest()[:16],
            "genes": genes[:16],
            "batch_size": order.batch_size * world,
            "max_tokens": order.max_tokens,
            "chunk_size": order.chunk_size,
            "buffer_size": order.buffer_size,
            "data_seed": self.seed,
        }
        if order.max_tokens is not None:  # steps of two devices are not quite those of one with twice the tokens
            found |= {"batch_size": order.batch_size, "devices": world}
        if order.balanced:
            found["balance"] = hashlib.sha256(order.drawn(0).tobytes()).hexdigest()[:16]
        return found

    # ------------------------------------------------------------------ cells

    def padding_share(self, epoch: int = 0) -> float:
        """Share of an epoch's tokens that is padding, 0 to 1, when each batch is padded to its longest cell; needs `lengths`."""
        return self._order.padding_share(epoch)

    def read(self, rows: np.ndarray) -> Cells:
        """Cells by increasing row number over all sources, with the vocabulary's genes.

        With several sources the columns of ``obs`` hold plain objects: categories of one source mean nothing in another.
        """
        parts = []
        for number, source in enumerate(self.sources):
            first, last = np.searchsorted(rows, self._starts[number : number + 2])
            if first < last:
                parts.append(self._aligned(source.read(rows[first:last] - self._starts[number]), number))
        if len(self.sources) == 1:
            return parts[0]
        columns = [c for c in self.sources[0].obs.columns if all(c in source.obs.columns for source in self.sources)]
        obs = pd.DataFrame(
            {c: np.concatenate([part.obs[c].to_numpy(dtype=object) for part in parts]) for c in columns},
            index=np.concatenate([part.obs.index.to_numpy(dtype=object) for part in parts]),
            columns=columns,
            dtype=object,
        )
        return Cells(sp.vstack([part.counts for part in parts], format="csr"), self._genes, obs)

    def _aligned(self, cells: Cells, number: int) -> Cells:
        if self.vocabulary is None:
            return cells
        counts, _ = align(cells, self.vocabulary, min_share=self._min_share, match=self._matches[number])
        return Cells(counts, self._genes, cells.obs)

    def _common_genes(self) -> pd.Index:
        if self.vocabulary is not None:
            return pd.Index(self.vocabulary.tokens)
        first = self.sources[0].genes
        for number, source in enumerate(self.sources[1:], 1):
            if not source.genes.equals(first):
                raise ValueError(
                    f"Sources 0 and {number} have different genes ({len(first):,} and {source.n_genes:,}). "
                    "Pass vocabulary=: the genes that the model reads."
                )
        return first

    # ------------------------------------------------------------------ the split

    def _held_out(self, validation: Any, key: str | None) -> np.ndarray:
        """(n_cells,) bool."""
        held_out = np.zeros(self.n_cells, dtype=bool)
        if isinstance(validation, int | float | np.floating) and not isinstance(validation, bool):
            if not 0 <= validation < 1:
                raise ValueError(f"validation must be a share in [0, 1) or row numbers, found {validation}.")
            generator = np.random.default_rng([self.seed, _SPLIT])
            if validation and key is None:
                n = min(max(1, round(validation * self.n_cells)), self.n_cells - 1)
                held_out[generator.permutation(self.n_cells)[:n]] = True
            elif validation:
                held_out = self._held_out_groups(float(validation), str(key), generator)
            return held_out
        if key is not None:
            raise ValueError("validation_key goes with a share in validation=, found row numbers.")
        return self._mask(validation, "validation", "a share, ")

    def _mask(self, named: Any, of: str, other: str = "") -> np.ndarray:
        """(n_cells,) bool, from row numbers or a mask."""
        rows = np.asarray(named)
        mask = np.zeros(self.n_cells, dtype=bool)
        if rows.dtype == bool and rows.shape == mask.shape:
            return rows.copy()
        if rows.ndim != 1 or (rows.size and rows.dtype.kind not in "iu"):
            raise ValueError(
                f"{of} must be {other}row numbers or a mask of {self.n_cells:,} cells, found {rows.dtype} of shape {rows.shape}."
            )
        if rows.size and not 0 <= rows.min() <= rows.max() < self.n_cells:
            wrong = rows.min() if rows.min() < 0 else rows.max()
            raise IndexError(f"{of} must name rows from 0 to {self.n_cells - 1:,}, found {wrong}.")
        mask[rows.astype(np.int64)] = True
        return mask

    def _held_out_groups(self, share: float, key: str, generator: np.random.Generator) -> np.ndarray:
        """Whole groups in random order, as long as they bring the share nearer; at least one, never all."""
        codes, groups = pd.factorize(self._column("validation_key", key))  # -1, no group: such cells are trained on
        if len(groups) < 2:
            raise ValueError(
                f"validation_key={key!r} must have at least 2 groups to hold one out, found {len(groups)}."
            )
        sizes = np.bincount(codes[codes >= 0], minlength=len(groups))
        wanted, taken = share * self.n_cells, 0
        chosen: list[int] = []
        for group in generator.permutation(len(groups)):
            if len(chosen) < len(groups) - 1 and abs(taken + sizes[group] - wanted) < abs(taken - wanted):
                chosen.append(group)
                taken += sizes[group]
        return np.isin(codes, chosen or [int(np.argmin(sizes))])

    def _classes(self, key: str) -> np.ndarray:
        """Class of each training row, -1 where it has none."""
        codes, _ = pd.factorize(self._column("balance_key", key)[self.training_rows])
        if (codes < 0).all():
            raise ValueError(f"balance_key={key!r} must have a value for training cells, found none in {codes.size:,}.")
        return codes

    def _column(self, argument: str, key: str) -> np.ndarray:
        """A column of ``obs`` over all sources in a row."""
        for number, source in enumerate(self.sources):
            if key not in source.obs.columns:
                there = ", ".join(map(repr, source.obs.columns)) or "none"
                raise KeyError(
                    f"{argument}={key!r} is no column of source {number}; read were: {there}. Name it in read_cells(obs_keys=)."
                )
        return np.concatenate([source.obs[key].to_numpy(dtype=object) for source in self.sources])

    # ------------------------------------------------------------------ devices

    def _place(self) -> tuple[int, int, int, bool]:
        """Epoch, rank, number of devices, and whether these are GPUs; without a trainer those of a single CPU."""
        trainer = self.trainer
        if trainer is None:
            return 0, 0, 1, False
        return (
            trainer.current_epoch,
            trainer.global_rank,
            trainer.world_size,
            trainer.strategy.root_device.type == "cuda",
        )


def _dealt(buffers: Iterable[list[list[np.ndarray]]], rank: int, world: int, start: int) -> Iterator[list[Planned]]:
    """Batches of this device, one a step, from step `start` on; empty buffers are left out."""
    number = 0
    for steps in buffers:
        mine = [Planned((number + i) * world + rank, step[rank]) for i, step in enumerate(steps) if number + i >= start]
        number += len(steps)
        if mine:
            yield mine


def expressed_genes(
    sources: CellSource | JoinedSource | Sequence[CellSource],
    vocabulary: GeneVocabulary | None = None,
    *,
    min_share: float = 0.2,
) -> np.ndarray:
    """Number of expressed genes of each cell, counted in one pass over the sources.

    Parameters
    ----------
    sources
        One or many.
    vocabulary
        Count only genes that the model reads.
    min_share
        Least share of the vocabulary's genes that each source must hold, 0 to 1.

    Returns
    -------
    (n_cells,) int64, all sources in a row: the lengths that :class:`CellDataModule` sorts by, before what a family adds.
    """
    found = []
    for source in [sources] if isinstance(sources, CellSource | JoinedSource) else sources:
        match = None if vocabulary is None else vocabulary.match(source.genes)
        for block in source.blocks():
            counts = (
                block.counts if vocabulary is None else align(block, vocabulary, min_share=min_share, match=match)[0]
            )
            found.append(np.diff(counts.indptr).astype(np.int64))
    return np.concatenate(found) if found else np.zeros(0, dtype=np.int64)
