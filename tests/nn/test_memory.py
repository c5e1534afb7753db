"""Batches that do not fit into memory: halved, with the same rows, results and one line in the log."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from sclm.nn import MemoryLimit

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sclm.nn.memory import Part


def rows_of(parts: Iterator[Part], fits: int) -> list[list[int]]:
    found = []
    for part in parts:
        with part as rows:
            if len(rows) > fits:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            found.append(rows.tolist())
    return found


def test_every_row_once_in_order(caplog: pytest.LogCaptureFixture) -> None:
    limit = MemoryLimit()
    parts = [np.arange(9), np.arange(9, 30), np.arange(30, 31)]
    found = rows_of(limit.fitting(parts), 4)
    assert [row for part in found for row in part] == list(range(31))
    assert max(map(len, found)) <= 4
    assert caplog.text.count("do not fit into the memory") == 1
    assert "9 cells together" in caplog.text
    tries = []
    for part in limit.fitting([np.arange(100)]):  # it has learnt: nothing fails again
        with part as rows:
            tries.append(len(rows))
    assert max(tries) <= 4


def test_long_cells_leave_short_ones_together() -> None:
    limit, lengths, sizes = MemoryLimit(), np.array([1000, 1000, *[10] * 100]), []
    for part in limit.fitting([np.arange(2), np.arange(2, 102)], lambda rows: len(rows) * int(lengths[rows].max())):
        with part as rows:
            if lengths[rows].sum() > 1500:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            sizes.append(len(rows))
    assert sizes == [1, 1, 100]


def test_one_cell_that_does_not_fit_and_other_errors() -> None:
    with pytest.raises(
        torch.OutOfMemoryError, match=r"One cell alone does not fit .* CUDA out of memory. Pass device='cpu'"
    ):
        rows_of(MemoryLimit().fitting([np.arange(4)]), 0)
    for part in MemoryLimit().fitting([np.arange(4)]):
        with pytest.raises(KeyError), part:
            raise KeyError("gene")
        break


class Narrow(torch.nn.Module):
    """A network in whose place memory runs out above some cells."""

    def __init__(self, inner: torch.nn.Module, most: int) -> None:
        super().__init__()
        self.inner, self.most, self.refused = inner, most, 0

    def forward(self, states: torch.Tensor, *args: Any, **options: Any) -> Any:
        if len(states) > self.most:
            self.refused += 1
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return self.inner(states, *args, **options)
