"""Random numbers that belong to a cell: a hash of its own counts, the same in any company and on any number of cores."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numba
import numpy as np

from sclm.cells.kernels import per_cell

if TYPE_CHECKING:
    import scipy.sparse as sp


def cell_hashes(counts: sp.csr_matrix, seed: int = 0) -> np.ndarray:
    """A number for each cell that depends on the seed and the set of its (column, value) pairs only.

    Parameters
    ----------
    counts
        CSR (n_cells, n_genes).
    seed
        From 0 to 2⁶⁴ - 1.

    Returns
    -------
    (n_cells,) uint64. Cells with equal counts have equal numbers.

    Raises
    ------
    ValueError
        If the seed is out of range.

    Examples
    --------
    >>> import scipy.sparse as sp
    >>> a, b, c = cell_hashes(sp.csr_matrix([[0, 2.0, 1], [0, 2, 1], [0, 1, 2]]))
    >>> bool(a == b), bool(a == c)
    (True, False)
    """
    if not 0 <= seed < 2**64:
        msg = f"seed must lie between 0 and 2**64 - 1, found {seed}."
        raise ValueError(msg)
    bits = counts.data.astype(np.float32, copy=False).view(np.uint32)
    keys = np.empty(counts.shape[0], np.uint64)
    _cell_hashes(bits, counts.indices.astype(np.int64, copy=False), counts.indptr, np.uint64(seed), keys)
    return keys


def gene_hashes(counts: sp.csr_matrix, seed: int = 0) -> np.ndarray:
    """A number for each non-zero value that depends on the seed, its cell's own counts, and its column.

    Parameters
    ----------
    counts, seed
        As in :func:`cell_hashes`.

    Returns
    -------
    (nnz,) uint64, aligned with ``counts.data``: to rank the genes of a cell by them is to shuffle it.
    """
    keys = cell_hashes(counts, seed)
    found = np.empty(counts.data.size, np.uint64)
    _gene_hashes(keys, counts.indices.astype(np.int64, copy=False), counts.indptr, found)
    return found


@numba.njit(nogil=True, inline="always")
def mixed(key: np.uint64, number: np.uint64) -> np.uint64:
    """A uniform 64-bit number for a key and a number: the splitmix64 generator at that place of its sequence."""
    z = key + (number + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@per_cell
def _cell_hashes(bits: np.ndarray, columns: np.ndarray, bounds: np.ndarray, seed: Any, keys: np.ndarray) -> Any:
    for i in numba.prange(bounds.size - 1):
        total = np.uint64(0)
        for k in range(bounds[i], bounds[i + 1]):
            total += mixed(np.uint64(bits[k]), np.uint64(columns[k]))  # a sum: the order of the genes does not matter
        keys[i] = mixed(mixed(seed, np.uint64(0)), total)


@per_cell
def _gene_hashes(keys: np.ndarray, columns: np.ndarray, bounds: np.ndarray, found: np.ndarray) -> Any:
    for i in numba.prange(bounds.size - 1):
        for k in range(bounds[i], bounds[i + 1]):
            found[k] = mixed(keys[i], np.uint64(columns[k]))
