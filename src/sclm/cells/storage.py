"""Rows out of any matrix that an AnnData can hold, a bounded number at a time.

A slot may be a scipy matrix, a numpy array, a matrix on disk (HDF5 or zarr; CSR, CSC or dense), a Dask array, or any of
these behind a view.  :class:`Storage` gives its rows as CSR or numpy blocks and never writes to it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp

from sclm.cells.kernels import one_core

if TYPE_CHECKING:
    from collections.abc import Iterator

    from anndata import AnnData

BLOCK_BYTES = 64 << 20  # of non-zeros (or of dense values) in a block
BLOCK_CELLS = 8192
WINDOW_BYTES = 1 << 30  # of non-zeros that are turned from columns into rows at a time
_COLUMN_VALUES = 8 << 20  # most values read at a time from a column-wise matrix
_BYTES_OF_NONZERO = 8  # float32 value and int32 column


class Storage:
    """One slot of an AnnData, read by rows.

    Parameters
    ----------
    adata
        The AnnData; it is only read.
    layer
        Name of the layer, or ``None`` for ``.X``.

    Attributes
    ----------
    shape
        (n_cells, n_genes).
    layout
        ``"csr"``, ``"csc"``, ``"dense"`` or ``"dask"``: how the values lie.
    in_memory
        Whether all values are in memory already.
    """

    def __init__(self, adata: AnnData, layer: str | None) -> None:
        self.shape = (int(adata.n_obs), int(adata.n_vars))
        # a view is read from the matrix that it looks at: its own matrix would be a copy of all its cells
        self._matrix, self._rows, self._columns = _origin(adata, layer)
        self.layout = _layout(self._matrix, slot_name(layer))
        if self.layout == "dask":  # indexing is lazy there
            if self._rows is not None:
                self._matrix = self._matrix[self._rows]
            if self._columns is not None:
                self._matrix = self._matrix[:, self._columns]
            self._rows = self._columns = None
        self.in_memory = sp.issparse(self._matrix) or isinstance(self._matrix, np.ndarray)
        self._counted: np.ndarray | None = None

    @property
    def whole(self) -> Any:
        """The matrix itself where it lies in memory and is not a view, else ``None``."""
        return self._matrix if self.in_memory and self._rows is None and self._columns is None else None

    def rows(self, start: int, stop: int) -> Any:
        """Rows `start` … `stop` as scipy sparse matrix or numpy array."""
        return self.picked(np.arange(start, stop))

    def picked(self, rows: np.ndarray) -> Any:
        """The named rows in the given order, which may be any and may repeat."""
        rows = rows if self._rows is None else self._rows[rows]
        if rows.size == 0:
            return sp.csr_matrix((0, self.shape[1]), dtype=np.float32)
        if self.layout == "csc":
            unique, where = np.unique(rows, return_inverse=True)
            block = self._rows_of_columns(unique)
            return block if _is_range(where) else block[where]
        if _is_range(rows):
            block = _in_memory(self._matrix[int(rows[0]) : int(rows[-1]) + 1])
        else:  # files want increasing rows, and one stretch is read faster than single rows
            unique, where = np.unique(rows, return_inverse=True)
            first, last = int(unique[0]), int(unique[-1])
            if last - first < 4 * unique.size:
                block = _in_memory(self._matrix[first : last + 1])[rows - first]
            else:
                block = _in_memory(self._matrix[unique])[where]
        return block if self._columns is None else block[:, self._columns]

    # ------------------------------------------------------------------ sizes and samples

    def block_cells(self) -> int:
        """Cells in a block of at most ``BLOCK_BYTES`` and ``BLOCK_CELLS``."""
        n_rows, n_columns = self.shape
        if self.layout == "dense":
            width = float(n_columns * max(4, self._matrix.dtype.itemsize))
        elif self.layout == "csc":
            width = float(self._row_nonzeros.mean()) * _BYTES_OF_NONZERO
        elif self.whole is not None:
            width = self._matrix.nnz / n_rows * _BYTES_OF_NONZERO
        else:
            rows = np.unique(np.linspace(0, n_rows - 1, min(n_rows, 64)).astype(np.int64))
            # of a Dask array the first rows only: rows from everywhere would compute every chunk
            block = self.picked(np.arange(rows.size) if self.layout == "dask" else rows)
            stored = block.nnz * _BYTES_OF_NONZERO if sp.issparse(block) else block.nbytes
            width = stored / rows.size
        return int(max(1, min(BLOCK_CELLS, BLOCK_BYTES // max(1.0, width))))

    def sample(self, n_blocks: int, n_cells: int) -> Iterator[tuple[int, int, Any]]:
        """(first row, first column, values) of short blocks over all cells; column-wise: some columns of all cells."""
        n_rows, n_columns = self.shape
        if self.layout == "csc":
            width = min(n_columns, max(1, _COLUMN_VALUES // n_blocks // max(1, self._matrix.shape[0])))
            for start in np.unique(np.linspace(0, n_columns - width, n_blocks).astype(int)):
                chunk = self._column_chunk(int(start), int(start) + width)
                yield 0, int(start), chunk if self._rows is None else chunk.tocsr()[self._rows]
            return
        starts = np.unique(np.linspace(0, max(0, n_rows - n_cells), n_blocks).astype(int))
        for start in starts[:1] if self.layout == "dask" else starts:  # a chunk is computed for each
            yield int(start), 0, self.rows(int(start), min(n_rows, int(start) + n_cells))

    # ------------------------------------------------------------------ passes over all cells

    def blocks(self, size: int) -> Iterator[tuple[int, Any]]:
        """(first row, rows) over all cells in order, at most `size` cells each.

        A column-wise matrix is turned into rows in windows of ``WINDOW_BYTES``; a Dask array is computed in groups of
        whole row chunks, so that no chunk is computed twice: memory is bounded by a window or a chunk there.
        """
        n_rows = self.shape[0]
        if self.layout not in ("csc", "dask"):
            for start in range(0, n_rows, size):
                yield start, self.rows(start, min(n_rows, start + size))
            return
        # windows and blocks end at different rows: carry what is left of a window over to the next block
        rest, first = None, 0
        for window in self._csc_windows() if self.layout == "csc" else self._dask_windows(size):
            rest = window if rest is None else _stack(rest, window)
            start = 0
            while rest.shape[0] - start >= size:
                yield first, rest[start : start + size]
                start, first = start + size, first + size
            rest = rest[start:] if start < rest.shape[0] else None
        if rest is not None:
            yield first, rest

    def _dask_windows(self, size: int) -> Iterator[Any]:
        ends = np.cumsum(self._matrix.chunks[0])
        start = 0
        while start < self.shape[0]:
            # as many whole chunks as fit a block, at least one
            within = ends[(ends > start) & (ends <= start + size)]
            stop = int(within[-1]) if within.size else int(ends[ends > start][0])
            yield _in_memory(self._matrix[start:stop])
            start = stop

    def _csc_windows(self) -> Iterator[sp.csr_matrix]:
        n_rows = self.shape[0]
        nonzeros = self._row_nonzeros if self._rows is None else self._row_nonzeros[self._rows]
        ends = np.concatenate([[0], np.cumsum(nonzeros)])  # (n_rows + 1,)
        start = 0
        while start < n_rows:
            limit = ends[start] + WINDOW_BYTES // _BYTES_OF_NONZERO
            stop = max(start + 1, int(np.searchsorted(ends, limit, side="right")) - 1)
            yield self.rows(start, stop)
            start = stop

    # ------------------------------------------------------------------ column-wise matrices

    @property
    def _row_nonzeros(self) -> np.ndarray:
        """(n_rows,) stored values of each row of a column-wise matrix, all rows that it has: one pass over it."""
        if self._counted is None:
            self._counted = np.zeros(self._matrix.shape[0], np.int64)
            for chunk in self._column_chunks():
                self._counted += np.bincount(chunk.indices, minlength=self._counted.size)
        return self._counted

    def _rows_of_columns(self, rows: np.ndarray) -> sp.csr_matrix:
        """Different rows of a column-wise matrix (by its own row numbers), in one pass over its columns."""
        place = np.full(self._matrix.shape[0], -1, np.int64)
        place[rows] = np.arange(rows.size)
        indptr = np.concatenate([[0], np.cumsum(self._row_nonzeros[rows])])
        free = indptr[:-1].copy()  # next free place of each row
        indices = np.empty(indptr[-1], np.int32)
        data = np.empty(indptr[-1], self._matrix.dtype)
        column = 0
        for chunk in self._column_chunks():
            _scatter_columns(chunk.indptr, chunk.indices, chunk.data, column, place, free, indices, data)
            column += chunk.shape[1]
        matrix = sp.csr_matrix((rows.size, self.shape[1]), dtype=data.dtype)
        width = np.int32 if indptr[-1] <= np.iinfo(np.int32).max else np.int64  # scipy wants one for both
        matrix.data, matrix.indices, matrix.indptr = data, indices.astype(width, copy=False), indptr.astype(width)
        return matrix

    def _column_chunks(self) -> Iterator[Any]:
        if self.whole is not None:
            yield self._matrix
            return
        width = max(1, _COLUMN_VALUES // max(1, self._matrix.shape[0]))
        for start in range(0, self.shape[1], width):
            yield self._column_chunk(start, min(self.shape[1], start + width))

    def _column_chunk(self, start: int, stop: int) -> Any:
        if self._columns is None:
            return _in_memory(self._matrix[:, start:stop])
        columns = self._columns[start:stop]
        if _is_range(columns):
            return _in_memory(self._matrix[:, int(columns[0]) : int(columns[-1]) + 1])
        unique, where = np.unique(columns, return_inverse=True)
        return sp.csc_matrix(_in_memory(self._matrix[:, unique]))[:, where]


def slot_name(layer: str | None) -> str:
    """How messages call the slot: ``adata.X`` or ``adata.layers["name"]``."""
    return "adata.X" if layer is None else f'adata.layers["{layer}"]'


def _slot(adata: AnnData, layer: str | None) -> Any:
    return adata.X if layer is None else adata.layers[layer]


def _origin(adata: AnnData, layer: str | None) -> tuple[Any, np.ndarray | None, np.ndarray | None]:
    """The matrix behind the slot, and the rows and columns of it that a view shows (``None``: all)."""
    parent = getattr(adata, "_adata_ref", None) if adata.is_view else None
    if parent is None or not hasattr(adata, "_oidx") or not hasattr(adata, "_vidx"):
        return _slot(adata, layer), None, None
    rows, columns = np.arange(parent.n_obs)[adata._oidx], np.arange(parent.n_vars)[adata._vidx]
    everything = rows.size == parent.n_obs and _is_range(rows), columns.size == parent.n_vars and _is_range(columns)
    return _slot(parent, layer), None if everything[0] else rows, None if everything[1] else columns


def _is_range(numbers: np.ndarray) -> bool:
    """Whether these are consecutive increasing numbers."""
    return bool(numbers.size == 0 or (numbers[-1] - numbers[0] == numbers.size - 1 and (np.diff(numbers) == 1).all()))


def _layout(matrix: Any, slot: str) -> str:
    if hasattr(matrix, "dask"):
        return "dask"
    form = getattr(matrix, "format", None)  # scipy and anndata's matrices on disk
    if form in ("csr", "csc"):
        return str(form)
    if isinstance(matrix, np.ndarray) or type(matrix).__module__.split(".")[0] in ("h5py", "zarr"):
        return "dense"
    if sp.issparse(matrix):
        msg = f"{slot} must be CSR, CSC or dense, found a sparse matrix of format {form!r}. Convert it with .tocsr()."
        raise TypeError(msg)
    msg = (
        f"{slot} must be a numpy array, a scipy CSR or CSC matrix, a matrix on disk or a Dask array, found "
        f"{type(matrix).__module__}.{type(matrix).__name__}. Copy it to the CPU as one of these first."
    )
    raise TypeError(msg)


def _in_memory(block: Any) -> Any:
    if hasattr(block, "dask"):
        block = block.compute()
    return block if sp.issparse(block) else np.asarray(block)


def _stack(above: Any, below: Any) -> Any:
    return sp.vstack([above, below], format="csr") if sp.issparse(above) else np.concatenate([above, below])


@one_core
def _scatter_columns(
    indptr: np.ndarray,
    rows: np.ndarray,
    values: np.ndarray,
    first_column: int,
    place_of_row: np.ndarray,
    free: np.ndarray,
    indices: np.ndarray,
    data: np.ndarray,
) -> None:
    # columns one after the other: two of them may write to the same row
    for column in range(indptr.size - 1):
        for k in range(indptr[column], indptr[column + 1]):
            row = place_of_row[rows[k]]
            if row >= 0:
                place = free[row]
                indices[place] = first_column + column
                data[place] = values[k]
                free[row] = place + 1
