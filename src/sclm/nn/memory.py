"""Batches that do not fit into the memory of a device are halved, with the same result."""

from __future__ import annotations

import logging
from collections import deque
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from types import TracebackType

logger = logging.getLogger(__name__)


class MemoryLimit:
    """How much of a batch fits into the memory of a device; learnt when it runs out.

    Of use where each cell's result is its own: then the size of a batch changes nothing but the time.

    Examples
    --------
    >>> import numpy as np
    >>> limit, sizes = MemoryLimit(), []
    >>> for part in limit.fitting([np.arange(8)]):
    ...     with part as rows:
    ...         if len(rows) > 3:
    ...             raise torch.OutOfMemoryError("too many")
    ...         sizes.append(len(rows))
    >>> sizes
    [2, 2, 2, 2]
    """

    def __init__(self) -> None:
        self.most: float = np.inf  # weight of a batch, in the unit of `weight` below
        self._said = False

    def fitting(self, parts: Iterable[np.ndarray], weight: Callable[[np.ndarray], int] = len) -> Iterator[Part]:
        """The parts, those that are too large in halves.

        Parameters
        ----------
        parts
            Rows of each batch.
        weight
            What a batch needs, in any unit that is the same in all calls: cells, or cells times tokens.

        Yields
        ------
        Context managers, each giving rows: ``with part as rows: ...``. Where memory runs out inside, the rows come again in
        halves, so that the block must do nothing twice: let it write results by row at its end. A single row that does not fit
        raises torch.OutOfMemoryError.
        """
        for whole in parts:
            waiting = deque([whole])
            while waiting:
                rows = waiting.popleft()
                if len(rows) > 1 and weight(rows) > self.most:
                    waiting.extendleft(reversed(np.array_split(rows, 2)))
                    continue
                part = Part(rows)
                yield part
                if part.failed:
                    self._lower(rows, weight(rows))
                    waiting.appendleft(rows)

    def _lower(self, rows: np.ndarray, needed: int) -> None:
        self.most = needed / 2
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if not self._said:
            logger.warning("%d cells together do not fit into the memory of the device: going on with half", len(rows))
            self._said = True


class Part:
    """Rows of a batch; a ``with`` block over them may run out of memory."""

    def __init__(self, rows: np.ndarray) -> None:
        self.rows = rows
        self.failed = False

    def __enter__(self) -> np.ndarray:
        return self.rows

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if not isinstance(error, torch.OutOfMemoryError):
            return False
        if len(self.rows) == 1:
            raise torch.OutOfMemoryError(
                f"One cell alone does not fit into the memory of the device: {error} Pass device='cpu', free the device, or "
                "use a smaller model."
            ) from error
        self.failed = True
        return True
