"""Read buffers of cells and encode their batches in threads, ahead of the training step, in a fixed order."""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from sclm.cells import Cells

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator


class Planned(NamedTuple):
    """A batch to be made: its number in the epoch over all devices, and its rows."""

    number: int
    rows: np.ndarray


class CellLoader:
    """Batches of one device in one epoch; Lightning reads it as a data loader.

    Threads, not processes: the counts are not copied, files stay open once, and the kernels that encode cells run without
    the interpreter's lock. A batch depends on its rows and its number only, so the number of threads changes nothing.

    Parameters
    ----------
    buffers
        Makes, on each call, the planned batches of this device, a list for each buffer.
    n_batches, n_cells
        Batches to come, and cells in them, about.
    read
        Rows, increasing, to cells.
    encode
        Cells and a generator to a NamedTuple of tensors.
    key
        First numbers of each batch's seed.
    workers
        Threads that encode; 0: in the calling thread.
    pin
        Copy batches into page-locked memory, from which a GPU can fetch while it computes.
    """

    def __init__(
        self,
        buffers: Callable[[], Iterable[list[Planned]]],
        *,
        n_batches: int,
        n_cells: int,
        read: Callable[[np.ndarray], Cells],
        encode: Callable[[Cells, np.random.Generator], Any],
        key: tuple[int, ...],
        workers: int,
        pin: bool,
    ) -> None:
        self._buffers = buffers
        self._n_batches = n_batches
        self.n_cells = n_cells
        self._read = read
        self._encode = encode
        self._key = key
        self._workers = workers
        self._pin = pin

    def __len__(self) -> int:
        return self._n_batches

    def __iter__(self) -> Iterator[Any]:
        """A generator: nothing is read before the first batch is asked for."""
        if self._workers == 0:
            for buffer in self._buffers():
                rows = _rows_of(buffer)
                cells = self._read(rows)
                for planned in buffer:
                    yield self._make(planned, rows, cells)
            return
        reader = ThreadPoolExecutor(1, thread_name_prefix="read-cells")
        encoders = ThreadPoolExecutor(self._workers, thread_name_prefix="encode-cells")
        ahead: deque[Future[Any]] = deque()
        try:
            for task in self._with_cells(reader):
                ahead.append(encoders.submit(self._make_when_read, *task))
                if len(ahead) > 2 * self._workers:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            for pool in (encoders, reader):
                pool.shutdown(wait=True, cancel_futures=True)

    def _with_cells(self, reader: ThreadPoolExecutor) -> Iterator[tuple[Planned, np.ndarray, Future[Cells]]]:
        """Each batch with its buffer, which is being read while the one before it is used."""
        before: tuple[list[Planned], np.ndarray, Future[Cells]] | None = None
        for buffer in self._buffers():
            rows = _rows_of(buffer)
            coming = (buffer, rows, reader.submit(self._read, rows))
            if before is not None:
                yield from ((planned, before[1], before[2]) for planned in before[0])
            before = coming
        if before is not None:
            yield from ((planned, before[1], before[2]) for planned in before[0])

    def _make_when_read(self, planned: Planned, rows: np.ndarray, cells: Future[Cells]) -> Any:
        return self._make(planned, rows, cells.result())

    def _make(self, planned: Planned, rows: np.ndarray, cells: Cells) -> Any:
        where = np.searchsorted(rows, planned.rows)
        block = Cells(cells.counts[where], cells.genes, cells.obs.iloc[where])
        batch = self._encode(block, np.random.default_rng([*self._key, planned.number]))
        if self._pin:
            batch = type(batch)(*(x.pin_memory() if isinstance(x, torch.Tensor) else x for x in batch))
        return batch


def _rows_of(buffer: list[Planned]) -> np.ndarray:
    return np.unique(np.concatenate([planned.rows for planned in buffer]))
