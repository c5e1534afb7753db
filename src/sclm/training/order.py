"""Which rows form which batch of an epoch: a function of the seed and the epoch alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

_SHUFFLE, _DRAW = 0, 4  # streams of random numbers: the order of cells, and which cells of a class are drawn


class BatchOrder:
    """Batches of rows, buffer by buffer, for one device or several.

    The rows are cut into chunks of consecutive ones. In each epoch the chunks are shuffled and dealt to buffers; a buffer
    is what is held in memory at once. Inside a buffer the rows are shuffled, sorted by length where lengths are known, cut
    into batches, and the batches are shuffled. Chunks of one row give a perfect shuffle; longer chunks let a file be read
    in stretches.

    With several devices a step is cut as one batch of all of them together and then dealt, so that every row is used once and
    every device has as many batches: the steps of two devices are those of one device with the doubled batch.

    Parameters
    ----------
    rows
        (n,) int64, increasing.
    batch_size
        Cells in a batch of one device; ignored with `max_tokens`. Batches of a buffer have equal sizes, give or take one.
    max_tokens
        Bound on cells x longest cell of a batch.
    lengths
        (all cells,) tokens a cell; needed for `max_tokens`.
    chunk_size
        Rows in a chunk.
    buffer_size
        Cells in a buffer, about.
    shuffle
        Without it the order is that of the rows, or of their lengths.
    seed
        Of the order.
    classes
        (n,) class of each row, from 0; -1: the row is left out. Each epoch then has about as many rows of every class, and as
        many in all as there are rows with a class: those of a large class take turns over the epochs, those of a small one
        come several times. None: every row once.
    """

    def __init__(
        self,
        rows: np.ndarray,
        *,
        batch_size: int,
        max_tokens: int | None = None,
        lengths: np.ndarray | None = None,
        chunk_size: int = 1,
        buffer_size: int = 4096,
        shuffle: bool = True,
        seed: int = 0,
        classes: np.ndarray | None = None,
    ) -> None:
        if batch_size < 1 or chunk_size < 1 or buffer_size < 1:
            raise ValueError(
                "batch_size, chunk_size and buffer_size must be at least 1, found "
                f"{batch_size}, {chunk_size} and {buffer_size}."
            )
        if max_tokens is not None:
            if lengths is None:
                raise ValueError("max_tokens needs lengths=: the number of tokens of each cell.")
            longest = int(lengths[rows].max()) if rows.size else 0
            if longest > max_tokens:
                raise ValueError(f"max_tokens must hold the longest cell, {longest:,} tokens, found {max_tokens:,}.")
        self.rows = rows
        self.batch_size = batch_size
        self.max_tokens = max_tokens
        self.lengths = lengths
        self.chunk_size = chunk_size
        self.buffer_size = max(buffer_size, chunk_size)
        self.shuffle = shuffle
        self.seed = seed
        self._members: list[np.ndarray] | None = None
        if classes is not None:
            self._members = [rows[classes == c] for c in np.unique(classes[classes >= 0])]
        self._counted: dict[tuple[int, int], int] = {}

    @property
    def balanced(self) -> bool:
        """Whether classes are drawn equally."""
        return self._members is not None

    def buffers(self, epoch: int) -> Iterator[list[np.ndarray]]:
        """Lists of batches of a single device, each an array of row numbers; a list is one buffer."""
        for steps in self.steps(epoch):
            yield [batches[0] for batches in steps]

    def steps(self, epoch: int, world: int = 1) -> Iterator[list[list[np.ndarray]]]:
        """Lists of steps, each `world` batches, one a device; a list is one buffer."""
        rows = self.drawn(epoch)
        if not rows.size:
            return
        n_chunks = -(-rows.size // self.chunk_size)
        n_buffers = -(-rows.size // self.buffer_size)
        chunks = np.arange(n_chunks)
        if self.shuffle:
            chunks = np.random.default_rng([self.seed, _SHUFFLE, epoch]).permutation(n_chunks)
        for number, part in enumerate(np.array_split(chunks, min(n_buffers, n_chunks))):
            # (chunks of the buffer, 1) + (1, chunk_size): positions in rows; the last chunk of all may be short
            positions = (part[:, None] * self.chunk_size + np.arange(self.chunk_size)[None, :]).ravel()
            buffer = rows[positions[positions < rows.size]]
            if not self.shuffle:
                yield self._cut(buffer, world)
                continue
            generator = np.random.default_rng([self.seed, _SHUFFLE, epoch, number])
            steps = self._cut(generator.permutation(buffer), world)
            yield [steps[i] for i in generator.permutation(len(steps))]

    def drawn(self, epoch: int) -> np.ndarray:
        """Rows of an epoch, increasing: all, or as many of each class, of which some then come several times."""
        if self._members is None:
            return self.rows
        total, n_classes = sum(part.size for part in self._members), len(self._members)
        found = []
        for number, members in enumerate(self._members):
            quota = total // n_classes + (number < total % n_classes)
            found.append(self._turn(members, number, epoch * quota, (epoch + 1) * quota))
        return np.sort(np.concatenate(found)) if found else self.rows[:0]

    def _turn(self, members: np.ndarray, number: int, start: int, stop: int) -> np.ndarray:
        """Places `start` … `stop` of an endless row of shuffled copies of a class, so that all its rows come equally often."""

        def shuffled(turn: int) -> np.ndarray:
            return np.random.default_rng([self.seed, _DRAW, number, turn]).permutation(members)

        (first, begin), (last, end) = divmod(start, members.size), divmod(stop, members.size)
        if first == last:
            return shuffled(first)[begin:end]
        return np.concatenate([shuffled(first)[begin:], *[members] * (last - first - 1), shuffled(last)[:end]])

    def n_batches(self, epoch: int, world: int = 1) -> int:
        """Number of batches of one device in an epoch; with `max_tokens` it differs a little between epochs."""
        if (epoch, world) not in self._counted:
            self._counted = {(epoch, world): sum(len(steps) for steps in self.steps(epoch, world))}
        return self._counted[epoch, world]

    def padding_share(self, epoch: int) -> float:
        """Share of the tokens of an epoch that would be padding, 0 to 1, if each batch is padded to its longest cell."""
        if self.lengths is None:
            raise ValueError("padding_share needs lengths=: the number of tokens of each cell.")
        tokens = padded = 0
        for batches in self.buffers(epoch):
            for rows in batches:
                lengths = self.lengths[rows]
                tokens += int(lengths.sum())
                padded += int(lengths.max()) * rows.size
        return 1 - tokens / padded if padded else 0.0

    def _cut(self, rows: np.ndarray, world: int) -> list[list[np.ndarray]]:
        """Steps of a buffer; where the cells do not divide, some devices have one cell more."""
        if rows.size < world:
            raise ValueError(
                f"{rows.size} cells that are shuffled together cannot be shared by {world} devices. Train with fewer devices, "
                "or raise buffer_size."
            )
        if self.lengths is not None:
            rows = rows[np.argsort(-self.lengths[rows], kind="stable")]
        if self.max_tokens is None or self.lengths is None:
            parts = np.array_split(rows, min(-(-rows.size // (self.batch_size * world)), rows.size // world))
        else:
            parts = []
            start = 0
            while start < rows.size:  # longest first: the first cell says how many fit
                fit = world * max(1, self.max_tokens // max(1, int(self.lengths[rows[start]])))
                if 0 < rows.size - start - fit < world:  # too few for all devices: these short ones go along
                    fit = rows.size - start
                parts.append(rows[start : start + fit])
                start += fit
        return [[part[device::world] for device in range(world)] for part in parts]
