"""Sequences of different lengths in two flat arrays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True, eq=False)
class Ragged:
    """One sequence a cell, stored one after the other.

    Parameters
    ----------
    values
        (n_values,): all sequences in a row.
    offsets
        (n + 1,) int64: sequence i is ``values[offsets[i]:offsets[i + 1]]``.

    Examples
    --------
    >>> import numpy as np
    >>> sequences = Ragged(np.array([5, 6, 7]), np.array([0, 2, 3]))
    >>> sequences[1]
    array([7])
    >>> sequences.pad()
    array([[5, 6],
           [7, 0]])
    """

    values: np.ndarray
    offsets: np.ndarray

    def __len__(self) -> int:
        return self.offsets.size - 1

    def __getitem__(self, i: int) -> np.ndarray:
        n = len(self)
        if not -n <= i < n:
            msg = f"sequence {i} is asked for, there are {n:,}."
            raise IndexError(msg)
        i %= n
        return self.values[self.offsets[i] : self.offsets[i + 1]]

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[i] for i in range(len(self)))

    @property
    def lengths(self) -> np.ndarray:
        """(n,) int64 length of each sequence."""
        return np.diff(self.offsets)

    def pad(self, length: int | None = None, value: int = 0) -> np.ndarray:
        """Array (n, `length`) of the sequences' beginnings, filled up with `value` on the right.

        Parameters
        ----------
        length
            Width, by default that of the longest sequence; longer sequences are cut.
        value
            What stands behind a sequence's end.
        """
        longest = int(self.lengths.max(initial=0)) if length is None else int(length)
        if longest < 0:
            msg = f"length must be at least 0, found {length}."
            raise ValueError(msg)
        padded = np.full((len(self), longest), value, dtype=self.values.dtype)
        kept = np.minimum(self.lengths, longest)  # (n,)
        rows = np.repeat(np.arange(len(self)), kept)
        columns = np.arange(kept.sum()) - np.repeat(np.cumsum(kept) - kept, kept)
        padded[rows, columns] = self.values[np.repeat(self.offsets[:-1], kept) + columns]
        return padded
