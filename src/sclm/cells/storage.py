"""Rows out of any matrix that an AnnData can hold, a bounded number at a time.

A slot may be a scipy matrix, a numpy array, a matrix on disk (HDF5 or zarr; CSR, CSC or dense), a Dask array, or any of
these behind a view.  :class:`Storage` gives its rows as CSR or numpy blocks and never writes to it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp

from sclm.cells.kernels import per_cell

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
        self._adata = adata
        self._layer = layer
        self.shape = (int(adata.n_obs), int(adata.n_vars))
        # the matrix of a view is a copy of all its cells, so a view is subset further and read block by block
        self._whole = None if adata.is_view else _slot(adata, layer)
        probe = self._whole if self._whole is not None else _slot(adata[:1], layer)
        self.layout = _layout(probe, slot_name(layer))
        root = probe if self._whole is not None else _slot_of_origin(adata, layer)
        self.in_memory = sp.issparse(root) or isinstance(root, np.ndarray)
        self._counted: np.ndarray | None = None

    @property
    def whole(self) -> Any:
        """The matrix itself where it lies in memory as a whole, else ``None``."""
        return self._whole if self.in_memory else None

    def rows(self, start: int, stop: int) -> Any:
        """Rows `start` … `stop` as scipy sparse matrix or numpy array."""
        if self.layout == "csc":
            return self._rows_of_columns(np.arange(start, stop))
        return self._take(slice(start, stop))

    def picked(self, rows: np.ndarray) -> Any:
        """The named rows in the given order, which may be any and may repeat."""
        unique, where = np.unique(rows, return_inverse=True)
        if unique.size == 0:
            return sp.csr_matrix((0, self.shape[1]), dtype=np.float32)
        span = int(unique[-1] - unique[0]) + 1
        if self.layout == "csc":
            block = self._rows_of_columns(unique)
        elif span <= 4 * unique.size:  # one stretch is read faster than single rows
            block = self._take(slice(int(unique[0]), int(unique[-1]) + 1))
            where = (unique - unique[0])[where]
        else:
            block = self._take(unique)
        return block if np.array_equal(where, np.arange(block.shape[0])) else block[where]

    def _take(self, rows: slice | np.ndarray) -> Any:
        source = self._whole[rows] if self._whole is not None else _slot(self._adata[rows], self._layer)
        return _in_memory(source)

    def _columns(self, start: int, stop: int) -> sp.csc_matrix:
        columns = slice(start, stop)
        source = self._whole[:, columns] if self._whole is not None else _slot(self._adata[:, columns], self._layer)
        source = _in_memory(source)
        return source if sp.issparse(source) and source.format == "csc" else sp.csc_matrix(source)

    def _column_chunks(self) -> Iterator[sp.csc_matrix]:
        if self._whole is not None and self.in_memory:
            yield self._whole
            return
        n_rows, n_columns = self.shape
        width = max(1, _COLUMN_VALUES // max(1, n_rows))
        for start in range(0, n_columns, width):
            yield self._columns(start, min(n_columns, start + width))

    def sample(self, n_blocks: int, n_cells: int) -> Iterator[tuple[int, Any]]:
        """(first row, rows) of a few short blocks over all cells; of a column-wise matrix some columns of all cells."""
        n_rows, n_columns = self.shape
        if self.layout == "csc":
            width = max(1, _COLUMN_VALUES // n_blocks // max(1, n_rows))
            for start in np.unique(np.linspace(0, max(0, n_columns - width), n_blocks).astype(int)):
                yield 0, self._columns(int(start), min(n_columns, int(start) + width))
            return
        starts = np.unique(np.linspace(0, max(0, n_rows - n_cells), n_blocks).astype(int))
        for start in starts[:1] if self.layout == "dask" else starts:  # a chunk is computed for each
            yield int(start), self.rows(int(start), min(n_rows, int(start) + n_cells))

    def block_cells(self) -> int:
        """Cells in a block of at most ``BLOCK_BYTES`` and ``BLOCK_CELLS``."""
        n_rows, n_columns = self.shape
        if self.layout == "dense":
            width = float(n_columns * max(4, getattr(self._whole, "dtype", np.dtype("f4")).itemsize))
        elif self.layout == "csc":
            width = float(self._row_nonzeros.mean()) * _BYTES_OF_NONZERO
        elif self.layout == "csr" and self._whole is not None and sp.issparse(self._whole):
            width = self._whole.nnz / n_rows * _BYTES_OF_NONZERO
        else:
            sample = np.unique(np.linspace(0, n_rows - 1, min(n_rows, 64)).astype(np.int64))
            if self.layout == "dask":  # the first rows only: picking rows would compute every chunk
                sample = np.arange(min(n_rows, 64))
            block = self.picked(sample)
            stored = block.nnz * _BYTES_OF_NONZERO if sp.issparse(block) else block.nbytes
            width = stored / block.shape[0]
        return int(max(1, min(BLOCK_CELLS, BLOCK_BYTES // max(1.0, width))))

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

    @property
    def _row_nonzeros(self) -> np.ndarray:
        """(n_cells,) stored values of each row of a column-wise matrix: one pass over it."""
        if self._counted is None:
            self._counted = np.zeros(self.shape[0], np.int64)
            for chunk in self._column_chunks():
                self._counted += np.bincount(chunk.indices, minlength=self.shape[0])
        return self._counted

    def _csc_windows(self) -> Iterator[sp.csr_matrix]:
        n_rows = self.shape[0]
        ends = np.concatenate([[0], np.cumsum(self._row_nonzeros)])  # (n_rows + 1,)
        start = 0
        while start < n_rows:
            limit = ends[start] + WINDOW_BYTES // _BYTES_OF_NONZERO
            stop = max(start + 1, int(np.searchsorted(ends, limit, side="right")) - 1)
            yield self._rows_of_columns(np.arange(start, stop))
            start = stop

    def _rows_of_columns(self, rows: np.ndarray) -> sp.csr_matrix:
        """Different rows of a column-wise matrix, in one pass over its columns."""
        place = np.full(self.shape[0], -1, np.int64)
        place[rows] = np.arange(rows.size)
        indptr = np.concatenate([[0], np.cumsum(self._row_nonzeros[rows])])
        free = indptr[:-1].copy()  # next free place of each row
        indices = np.empty(indptr[-1], np.int32)
        data: np.ndarray | None = None
        column = 0
        for chunk in self._column_chunks():
            if data is None:
                data = np.empty(indptr[-1], chunk.dtype)
            _scatter_columns(chunk.indptr, chunk.indices, chunk.data, column, place, free, indices, data)
            column += chunk.shape[1]
        return _csr(data, indices, indptr, (rows.size, self.shape[1]))

    def _dask_windows(self, size: int) -> Iterator[Any]:
        n_rows = self.shape[0]
        array = self._whole if self._whole is not None else _slot(self._adata, self._layer)
        ends = np.cumsum(array.chunks[0])
        start = 0
        while start < n_rows:
            # as many whole chunks as fit a block, at least one
            reached = int(np.searchsorted(ends, start + size, side="right")) - 1
            stop = int(ends[reached]) if reached >= 0 and ends[reached] > start else int(ends[ends > start][0])
            yield _in_memory(array[start:stop])
            start = stop


def slot_name(layer: str | None) -> str:
    """How messages call the slot: ``adata.X`` or ``adata.layers["name"]``."""
    return "adata.X" if layer is None else f'adata.layers["{layer}"]'


def _slot(adata: AnnData, layer: str | None) -> Any:
    return adata.X if layer is None else adata.layers[layer]


def _slot_of_origin(adata: AnnData, layer: str | None) -> Any:
    """The matrix that a view looks at; only its type is asked."""
    origin = getattr(adata, "_adata_ref", None)
    while origin is not None and origin.is_view:
        origin = origin._adata_ref
    return _slot(adata[:1] if origin is None else origin, layer)


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


def _csr(data: np.ndarray | None, indices: np.ndarray, indptr: np.ndarray, shape: tuple[int, int]) -> sp.csr_matrix:
    matrix = sp.csr_matrix(shape, dtype=np.float32 if data is None else data.dtype)
    if data is not None:
        width = np.int32 if indptr[-1] <= np.iinfo(np.int32).max else np.int64  # scipy wants one for both
        matrix.data, matrix.indices, matrix.indptr = data, indices.astype(width, copy=False), indptr.astype(width)
    return matrix


@per_cell
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
    # serial on purpose: two columns may write to the same row
    for column in range(indptr.size - 1):
        for k in range(indptr[column], indptr[column + 1]):
            row = place_of_row[rows[k]]
            if row >= 0:
                place = free[row]
                indices[place] = first_column + column
                data[place] = values[k]
                free[row] = place + 1
