"""Token sequences of different lengths in one array, padded on the right."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence


class Packed(NamedTuple):
    """Sequences padded on the right. A causal network needs no mask for such padding: nothing before it sees it.

    Attributes
    ----------
    ids
        (B, L) int64 token ids; 0 where padded.
    lengths
        (B,) int64 tokens of each sequence.
    """

    ids: torch.Tensor
    lengths: torch.Tensor

    @classmethod
    def of(cls, sequences: Sequence[Sequence[int]], device: str | torch.device = "cpu") -> Packed:
        """Pack lists of token ids; at least one column wide, so that shapes stay plain where all are empty."""
        lengths = torch.tensor([len(s) for s in sequences], dtype=torch.int64)
        width = max(1, int(lengths.max())) if len(sequences) else 1
        ids = torch.zeros(len(sequences), width, dtype=torch.int64)  # (B, L)
        for row, sequence in enumerate(sequences):
            ids[row, : len(sequence)] = torch.as_tensor(sequence, dtype=torch.int64)
        return cls(ids.to(device), lengths.to(device))

    @property
    def real(self) -> torch.Tensor:
        """(B, L) bool, True where a token stands."""
        return torch.arange(self.ids.shape[1], device=self.ids.device)[None] < self.lengths[:, None]

    def rows(self, index: torch.Tensor) -> Packed:
        """Some of the sequences, (n,) int64 or bool; the width stays."""
        return Packed(self.ids[index], self.lengths[index])

    def then(self, after: Packed) -> Packed:
        """Each sequence followed directly by one of `after`, padded on the right again."""
        if len(self.ids) != len(after.ids):
            raise ValueError(f"expected as many answers as prompts, {len(self.ids)}, found {len(after.ids)}.")
        lengths = self.lengths + after.lengths
        width = int(lengths.max()) if len(lengths) else 1
        ids = self.ids.new_zeros(len(self.ids), max(1, width))  # (B, L)
        rows, columns = torch.nonzero(self.real, as_tuple=True)
        ids[rows, columns] = self.ids[rows, columns]
        rows, columns = torch.nonzero(after.real, as_tuple=True)
        ids[rows, self.lengths[rows] + columns] = after.ids[rows, columns]
        return Packed(ids, lengths)
