"""Compile a per-cell loop with numba, once for all cores and once for one core.

A kernel is written once, with :func:`numba.prange` over cells.  It runs on all of numba's threads when it is called
from the main thread of the main process, and on one core elsewhere: in a worker process or a worker thread the caller
already uses the other cores, GNU OpenMP ends a forked process that enters a parallel region, and numba's own
``workqueue`` threads abort when two Python threads enter one.
"""

from __future__ import annotations

import functools
import multiprocessing
import sys
import threading
from types import FunctionType
from typing import TYPE_CHECKING, Any

import numba

if TYPE_CHECKING:
    from collections.abc import Callable


def per_cell(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile `function` on first call, in parallel where that is safe, and keep the machine code on disk.

    Nothing is compiled and no folder is touched at import.
    """

    @functools.wraps(function)
    def call(*arguments: Any) -> Any:
        threads = _threads_of_torch()
        try:
            return _compiled(function, _may_use_threads())(*arguments)
        finally:
            if threads:
                sys.modules["torch"].set_num_threads(threads)

    return call


def one_core(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile `function` on first call for one core, for loops that cannot be divided."""

    @functools.wraps(function)
    def call(*arguments: Any) -> Any:
        return _compiled(function, False)(*arguments)

    return call


def _threads_of_torch() -> int:
    """What torch is set to, 0 where it is not loaded: both use OpenMP, and numba's parallel loops set the number for all."""
    torch: Any = sys.modules.get("torch")
    return torch.get_num_threads() if hasattr(torch, "get_num_threads") else 0


def _may_use_threads() -> bool:
    in_main_process = multiprocessing.parent_process() is None
    return in_main_process and threading.current_thread() is threading.main_thread()


@functools.cache
def _compiled(function: Callable[..., Any], parallel: bool) -> Callable[..., Any]:
    # numba names its files on disk after the function and not after the options, so each version needs its own name
    copy = FunctionType(function.__code__, function.__globals__, function.__name__, function.__defaults__)
    copy.__qualname__ = f"{function.__qualname__}_{'parallel' if parallel else 'serial'}"
    copy.__module__ = function.__module__
    options = {"nogil": True, "parallel": parallel}
    try:
        return numba.njit(copy, cache=True, **options)
    except RuntimeError:  # no writable folder for the machine code (read-only installation): compile in each session
        return numba.njit(copy, **options)
