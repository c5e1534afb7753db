"""Forward push for personalised PageRank, compiled (a file of its own, so that nothing else waits for numba)."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import numba
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable


def push(indptr: np.ndarray, indices: np.ndarray, sources: np.ndarray, alpha: float, tolerance: float) -> np.ndarray:
    """See :func:`_push`; compiled on first use."""
    return _compiled()(indptr, indices, sources, alpha, tolerance)


@functools.cache
def _compiled() -> Callable[..., Any]:
    try:
        return numba.njit(parallel=True, nogil=True, cache=True)(_push)
    except RuntimeError:  # no writable folder for the machine code (read-only installation): compile in each session
        return numba.njit(parallel=True, nogil=True)(_push)


def _push(indptr: np.ndarray, indices: np.ndarray, sources: np.ndarray, alpha: float, tolerance: float) -> np.ndarray:
    """PageRank rows of the sources over an unweighted undirected graph (Andersen, Chung and Lang 2006).

    Each source starts with a residual of 1 at itself. A term whose residual is at least `tolerance * degree` keeps
    `1 - alpha` of it and spreads the rest over its neighbours, until none is left: every entry is then too small by at
    most `tolerance * degree`.

    Parameters
    ----------
    indptr, indices
        CSR adjacency of the n terms.
    sources
        (r,) int64, the terms to start from.

    Returns
    -------
    numpy.ndarray
        (r, n) float64.
    """
    n = len(indptr) - 1
    result = np.zeros((len(sources), n))
    for i in numba.prange(len(sources)):
        kept = result[i]
        residual = np.zeros(n)
        waiting = np.zeros(n, dtype=np.bool_)
        queue = np.empty(n, dtype=np.int64)  # a ring: no term waits twice, so n places are enough
        head, length = 0, 1
        queue[0] = sources[i]
        waiting[sources[i]] = True
        residual[sources[i]] = 1.0
        while length > 0:
            term = queue[head]
            head = (head + 1) % n
            length -= 1
            waiting[term] = False
            mass = residual[term]
            residual[term] = 0.0
            degree = indptr[term + 1] - indptr[term]
            if degree == 0:  # nowhere to go: the walk stays at its start
                kept[term] += mass
                continue
            kept[term] += (1.0 - alpha) * mass
            share = alpha * mass / degree
            for e in range(indptr[term], indptr[term + 1]):
                other = indices[e]
                residual[other] += share
                if not waiting[other] and residual[other] >= tolerance * (indptr[other + 1] - indptr[other]):
                    queue[(head + length) % n] = other
                    length += 1
                    waiting[other] = True
    return result
