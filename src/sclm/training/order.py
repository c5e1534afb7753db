"""Which rows form which batch of an epoch: a function of the seed and the epoch alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

_SHUFFLE = 0  # the stream of random numbers that orders cells


class BatchOrder:
    """Batches of rows, buffer by buffer.

    The rows are cut into chunks of consecutive ones. In each epoch the chunks are shuffled and dealt to buffers; a buffer
    is what is held in memory at once. Inside a buffer the rows are shuffled, sorted by length where lengths are known, cut
    into batches, and the batches are shuffled. Chunks of one row give a perfect shuffle; longer chunks let a file be read
    in stretches.

    Parameters
    ----------
    rows
        (n,) int64, increasing.
    batch_size
        Cells in a batch; ignored with `max_tokens`. Batches of a buffer have equal sizes, give or take one.
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
        self._counted: dict[int, int] = {}

    def buffers(self, epoch: int) -> Iterator[list[np.ndarray]]:
        """Lists of batches, each an array of row numbers; a list is one buffer."""
        if not self.rows.size:
            return
        n_chunks = -(-self.rows.size // self.chunk_size)
        n_buffers = -(-self.rows.size // self.buffer_size)
        chunks = np.arange(n_chunks)
        if self.shuffle:
            chunks = np.random.default_rng([self.seed, _SHUFFLE, epoch]).permutation(n_chunks)
        for number, part in enumerate(np.array_split(chunks, min(n_buffers, n_chunks))):
            # (chunks of the buffer, 1) + (1, chunk_size): positions in rows; the last chunk of all may be short
            positions = (part[:, None] * self.chunk_size + np.arange(self.chunk_size)[None, :]).ravel()
            rows = self.rows[positions[positions < self.rows.size]]
            if not self.shuffle:
                yield self._cut(rows)
                continue
            generator = np.random.default_rng([self.seed, _SHUFFLE, epoch, number])
            batches = self._cut(generator.permutation(rows))
            yield [batches[i] for i in generator.permutation(len(batches))]

    def n_batches(self, epoch: int) -> int:
        """Number of batches of an epoch; with `max_tokens` it differs a little between epochs."""
        if epoch not in self._counted:
            self._counted = {epoch: sum(len(batches) for batches in self.buffers(epoch))}
        return self._counted[epoch]

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

    def _cut(self, rows: np.ndarray) -> list[np.ndarray]:
        if self.lengths is not None:
            rows = rows[np.argsort(-self.lengths[rows], kind="stable")]
        if self.max_tokens is None or self.lengths is None:
            return np.array_split(rows, -(-rows.size // self.batch_size))
        batches = []
        start = 0
        while start < rows.size:  # longest first: the first cell says how many fit
            fit = max(1, self.max_tokens // max(1, int(self.lengths[rows[start]])))
            batches.append(rows[start : start + fit])
            start += fit
        return batches
