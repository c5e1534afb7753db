"""Move the columns of a count matrix, summing those that meet."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import scipy.sparse as sp

from sclm.cells.kernels import per_cell

_INT32 = np.iinfo(np.int32).max
_CHUNKS_A_THREAD = 8
# place of the lowest bit of a word that has one bit, by its product with a de Bruijn sequence
_DE_BRUIJN = np.uint64(0x03F79D71B4CB0A89)
_PLACE = np.zeros(64, np.int64)
_PLACE[((np.uint64(1) << np.arange(64, dtype=np.uint64)) * _DE_BRUIJN) >> np.uint64(58)] = np.arange(64)


def move_columns(counts: sp.csr_matrix, target: np.ndarray | None, n_columns: int) -> sp.csr_matrix:
    """New canonical CSR float32 with column j of `counts` added to column ``target[j]``.

    Parameters
    ----------
    counts
        CSR of any dtype, in any order, with or without repeated entries and explicit zeros; not changed.
    target
        (n_genes,) int: new column, -1 to leave the column out.  ``None``: columns stay.
    n_columns
        Width of the result.

    Returns
    -------
    CSR float32 (n_cells, n_columns), a copy: sorted, no repeated entries, no explicit zeros.  Values are rounded to
    whole numbers, exact up to 16,777,216.
    """
    if target is None:
        data = counts.data.astype(np.float32)
        if counts.data.dtype.kind == "f":
            np.rint(data, out=data)
        indices, indptr = counts.indices.copy(), counts.indptr.astype(np.int64)
    else:
        data, indices, indptr = _moved(counts, np.asarray(target, np.int64), n_columns)
    # scipy wants one index dtype for both
    width = np.int32 if indptr[-1] <= _INT32 else np.int64
    moved = sp.csr_matrix((counts.shape[0], n_columns), dtype=np.float32)
    moved.data, moved.indices, moved.indptr = data, indices.astype(width, copy=False), indptr.astype(width)
    if target is None:
        moved.sum_duplicates()  # sorts too
        if moved.data.size and not moved.data.all():
            moved.eliminate_zeros()
    else:
        moved.has_canonical_format = True
    return moved


def _moved(counts: sp.csr_matrix, target: np.ndarray, n_columns: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Values, columns and row bounds of the result: canonical."""
    room = counts.indptr.astype(np.int64)  # no row gets longer
    n = room.size - 1
    values = np.empty(room[-1] - room[0], np.float32)
    columns = np.empty(values.size, np.int32)
    lengths = np.zeros(n, np.int64)
    # chunks of about equal work; each has its own scratch memory
    n_chunks = max(1, min(n, _CHUNKS_A_THREAD * numba.get_num_threads()))
    ends = np.searchsorted(room, np.linspace(room[0], room[-1], n_chunks + 1)[1:-1])
    bounds = np.concatenate([[0], ends, [n]]).astype(np.int64)
    data = counts.data if counts.data.dtype in (np.float32, np.float64) else counts.data.astype(np.float32)
    _move_rows(data, counts.indices, room, target, n_columns, bounds, _PLACE, values, columns, lengths)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    if offsets[-1] < values.size:  # entries were left out or met: the rows of a chunk stand together, chunks apart
        filled = offsets[bounds[1:]] - offsets[bounds[:-1]]
        starts = room[bounds[:-1]] - room[0]
        kept = [slice(start, start + size) for start, size in zip(starts, filled, strict=True)]
        values, columns = (np.concatenate([part[some] for some in kept]) for part in (values, columns))
    return values, columns, offsets


@per_cell
def _move_rows(
    data: np.ndarray,
    indices: np.ndarray,
    indptr: np.ndarray,
    target: np.ndarray,
    n_columns: int,
    bounds: np.ndarray,
    place: np.ndarray,
    values: np.ndarray,
    columns: np.ndarray,
    lengths: np.ndarray,
) -> Any:
    """Each row is spread over a row of zeros, with a bit for every column that it reaches, and read off by the bits in order."""
    for chunk in numba.prange(bounds.size - 1):
        row = np.zeros(n_columns, np.float32)
        reached = np.zeros((n_columns + 63) // 64, np.uint64)
        write = indptr[bounds[chunk]] - indptr[0]
        for i in range(bounds[chunk], bounds[chunk + 1]):
            for k in range(indptr[i], indptr[i + 1]):
                column = target[indices[k]]
                if column >= 0:
                    row[column] += np.float32(np.rint(data[k]))
                    reached[column >> 6] |= np.uint64(1) << np.uint64(column & 63)
            first = write
            for word in range(reached.size):
                bits = reached[word]
                reached[word] = np.uint64(0)
                while bits != np.uint64(0):
                    lowest = bits & (~bits + np.uint64(1))
                    bits ^= lowest
                    column = (word << 6) + place[(lowest * _DE_BRUIJN) >> np.uint64(58)]
                    if row[column] != 0:
                        values[write] = row[column]
                        columns[write] = column
                        write += 1
                    row[column] = 0
            lengths[i] = write - first
