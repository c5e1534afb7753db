"""The one place where AnnData is read: raw counts, gene names and columns of ``.obs`` as blocks of :class:`Cells`."""

from __future__ import annotations

import difflib
import logging
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import scipy.sparse as sp

from sclm.cells.cells import Cells
from sclm.cells.columns import move_columns
from sclm.cells.counts import describe, inspect_counts, invert_log1p
from sclm.cells.storage import Storage, slot_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from anndata import AnnData

logger = logging.getLogger(__name__)

_SAMPLED_BLOCKS = 4
_SAMPLED_CELLS = 64


class CellSource:
    """Raw counts of an AnnData, read in blocks; made by :func:`read_cells`.

    Attributes
    ----------
    n_cells, n_genes
        Shape after columns of the same gene name were summed.
    genes
        Gene names, unique.
    obs
        The asked columns of ``.obs``, all cells; the index holds ``obs_names``, which may repeat.
    duplicates
        Gene name → number of columns, for names that stood over several columns.
    unnamed
        Number of columns left out because they have no gene name.
    slot
        Where the counts come from: ``adata.X`` or ``adata.layers["name"]``.
    """

    def __init__(
        self,
        storage: Storage,
        *,
        slot: str,
        names: np.ndarray,
        obs: pd.DataFrame,
        invert: bool,
        hint: Callable[[], str] = str,
    ) -> None:
        self.slot = slot
        self.obs = obs
        self._storage = storage
        self._names = names  # of the columns as stored; None where there is none
        self._invert = invert
        self._hint = hint
        self._checked = False
        codes, unique = pd.factorize(names)  # in order of appearance; -1: no name
        self._codes: np.ndarray | None = codes.astype(np.int32)
        self.genes = pd.Index(unique)
        self.unnamed = int((codes < 0).sum())
        counted = np.bincount(codes[codes >= 0], minlength=len(unique))
        self.duplicates = {str(unique[i]): int(counted[i]) for i in np.flatnonzero(counted > 1)}
        if not self.unnamed and not self.duplicates:
            self._codes = None  # columns stay as they are
        self.n_cells = storage.shape[0]
        self.n_genes = len(self.genes)
        self._block_cells: int | None = None

    def __repr__(self) -> str:
        return f"CellSource({self.n_cells:,} cells x {self.n_genes:,} genes from {self.slot})"

    @property
    def block_size(self) -> int:
        """Cells in a block by default: 64 MiB of non-zeros (dense: of values), at most 8192."""
        if self._block_cells is None:
            self._block_cells = self._storage.block_cells()
        return self._block_cells

    @property
    def in_memory(self) -> bool:
        """Whether the counts are in memory."""
        return self._storage.in_memory

    def blocks(self, block_size: int | None = None, rows: Any = None) -> Iterator[Cells]:
        """Consecutive blocks of cells.

        Parameters
        ----------
        block_size
            Cells in a block, by default :attr:`block_size`.  Memory stays bounded by a block, with two exceptions: a
            Dask array by a block or one of its row chunks, and a column-wise (CSC) matrix by 1 GiB of non-zeros, which
            are turned into rows at a time; convert such a file to CSR before reading it many times.
        rows
            Only these cells: row numbers in any order (kept) or a boolean mask.

        Yields
        ------
        Cells of at most `block_size` cells.  Raises ValueError for a block that does not hold raw counts.
        """
        size = self.block_size if block_size is None else int(block_size)
        if size < 1:
            msg = f"block_size must be at least 1, found {block_size}."
            raise ValueError(msg)
        if rows is None:
            for first, block in self._storage.blocks(size):
                yield self._cells(block, np.arange(first, first + block.shape[0]))
            return
        picked = row_numbers(rows, self.n_cells)
        for start in range(0, picked.size, size):
            part = picked[start : start + size]
            yield self._cells(self._storage.picked(part), part)

    def read(self, rows: Any = None) -> Cells:
        """All cells, or those named by `rows` (row numbers in any order, or a boolean mask), as one block."""
        blocks = list(self.blocks(rows=rows))
        if len(blocks) == 1:
            return blocks[0]
        if not blocks:
            empty = sp.csr_matrix((0, self.n_genes), dtype=np.float32)
            return Cells(empty, self.genes, self.obs.iloc[:0])
        obs = self.obs.copy() if rows is None else self.obs.iloc[row_numbers(rows, self.n_cells)]
        return Cells(sp.vstack([b.counts for b in blocks], format="csr"), self.genes, obs)

    # ------------------------------------------------------------------ checks

    def check(self) -> None:
        """Raise ValueError unless the slot holds raw counts: all of it in memory, a sample on disk or in Dask."""
        storage = self._storage
        if not storage.in_memory:
            for row, column, block in storage.sample(_SAMPLED_BLOCKS, _SAMPLED_CELLS):
                self._require(block, np.arange(row, row + block.shape[0]), column)
            return
        holds_counts = True
        if storage.whole is not None:
            holds_counts = self._require(storage.whole, np.arange(self.n_cells))
        else:
            for first, block in storage.blocks(self.block_size):
                holds_counts &= self._require(block, np.arange(first, first + block.shape[0]))
        if holds_counts:
            self._checked = True
        else:  # the inversion has to be exact everywhere before any work starts
            for first, block in storage.blocks(self.block_size):
                self._counts(block, np.arange(first, first + block.shape[0]))

    def _require(self, block: Any, rows: np.ndarray, first_column: int = 0) -> bool:
        """Whether these are counts; raises where they are none and cannot become any."""
        report = inspect_counts(block)
        if report.kind == "counts":
            return True
        if self._invert and report.kind in ("log1p", "non-integer"):
            return False
        raise ValueError(describe(report, self.slot, self._names[first_column:], self._hint(), rows))

    # ------------------------------------------------------------------ one block

    def _counts(self, block: Any, rows: np.ndarray) -> sp.csr_matrix:
        if not sp.issparse(block):  # float16 and foreign byte orders have no sparse form
            block = sp.csr_matrix(np.asarray(block, dtype=np.result_type(block.dtype, np.float32).newbyteorder("=")))
        counts = block.tocsr()
        if self._checked or self._require(counts, rows):
            return counts
        return invert_log1p(counts, self.slot, genes=self._names, rows=rows)

    def _cells(self, block: Any, rows: np.ndarray) -> Cells:
        counts = move_columns(self._counts(block, rows), self._codes, self.n_genes)
        return Cells(counts, self.genes, self.obs.iloc[rows])


def read_cells(
    adata: AnnData,
    *,
    layer: str | None = None,
    gene_key: str | None = None,
    obs_keys: Iterable[str] = (),
    invert_log1p: bool = False,
) -> CellSource:
    """Read raw counts out of an AnnData, checked, in blocks of bounded memory.

    The AnnData is never changed.  CSR, CSC and dense matrices are read, in memory, on disk (backed h5ad or zarr), in a
    Dask array or behind a view, of any real dtype, with unsorted or repeated entries and explicit zeros.

    Parameters
    ----------
    adata
        Cells x genes with raw counts.
    layer
        Layer that holds the raw counts, by default ``.X``.
    gene_key
        Column of ``.var`` with gene symbols or Ensembl ids, by default ``.var_names``.  Columns of the same name are
        summed, columns without a name left out; both are logged and kept on the source.
    obs_keys
        Columns of ``.obs`` to carry along.
    invert_log1p
        Turn log1p-normalised values back into counts, only where this is exact
        (:func:`sclm.cells.invert_log1p`); raw counts are read as they are.

    Returns
    -------
    A :class:`CellSource`.

    Raises
    ------
    TypeError
        `adata` is no AnnData, or the slot holds something that cannot be read.
    KeyError
        The layer or a column is missing; near names are given.
    ValueError
        There are no cells or genes, or the values are no raw counts: the message names the value, the slot and the
        kind.  A matrix in memory is checked as a whole now; on disk or in Dask some rows are checked now and every
        block when it is read.
    """
    adata = _require_anndata(adata)
    slot = slot_name(layer)
    if layer is not None and layer not in adata.layers:
        raise KeyError(_missing("adata.layers", layer, list(adata.layers), "layer="))
    if adata.n_obs == 0 or adata.n_vars == 0:
        what = "cells" if adata.n_obs == 0 else "genes"
        msg = (
            f"adata must hold at least one cell and one gene, found {adata.n_obs} x {adata.n_vars}: there are no "
            f"{what}. Check the filter that made it."
        )
        raise ValueError(msg)
    if layer is None and not adata.isbacked and adata.X is None:
        layers = ", ".join(map(repr, adata.layers)) or "none"
        msg = f"adata.X must hold raw integer counts, found None. Pass layer= naming one of the layers ({layers})."
        raise ValueError(msg)
    names = _gene_names(adata, gene_key)
    obs = _obs_columns(adata, obs_keys)
    source = CellSource(
        Storage(adata, layer),
        slot=slot,
        names=names,
        obs=obs,
        invert=invert_log1p,
        hint=lambda: _where_counts_are(adata, layer),
    )
    source.check()
    if source.duplicates:
        first = ", ".join(list(source.duplicates)[:5])
        logger.info(
            "%d gene names stand over several columns, which are summed: %s%s",
            len(source.duplicates),
            first,
            ", …" if len(source.duplicates) > 5 else "",
        )
    if source.unnamed:
        logger.info("%d columns without a gene name are left out", source.unnamed)
    return source


def row_numbers(rows: Any, n_cells: int) -> np.ndarray:
    """Row numbers, from 0, of row numbers in any order or a boolean mask; checked."""
    picked = np.asarray(rows)
    if picked.ndim != 1:
        msg = f"rows must be one-dimensional, found {picked.ndim} dimensions."
        raise ValueError(msg)
    if picked.dtype == bool:
        if picked.size != n_cells:
            msg = f"a boolean mask of rows must have one entry a cell ({n_cells:,}), found {picked.size:,}."
            raise ValueError(msg)
        return np.flatnonzero(picked)
    if picked.size == 0:
        return np.zeros(0, np.int64)
    if picked.dtype.kind not in "iu":
        msg = f"rows must be row numbers or a boolean mask, found dtype {picked.dtype}."
        raise TypeError(msg)
    if picked.min() < -n_cells or picked.max() >= n_cells:
        wrong = picked.max() if picked.max() >= n_cells else picked.min()
        msg = f"rows must lie between 0 and {n_cells - 1:,}, found {wrong}."
        raise IndexError(msg)
    return np.where(picked < 0, picked + n_cells, picked).astype(np.int64)


def _require_anndata(adata: Any) -> AnnData:
    from anndata import AnnData

    if isinstance(adata, AnnData):
        return adata
    found = f"{type(adata).__module__}.{type(adata).__name__}"
    advice = "Build one with anndata.AnnData(X=counts, obs=…, var=…)."
    if isinstance(adata, str) or hasattr(adata, "__fspath__"):
        advice = "Read the file first, e.g. with anndata.read_h5ad."
    elif hasattr(adata, "mod"):
        advice = 'Pass one modality, e.g. mdata["rna"].'
    elif hasattr(adata, "tables"):
        advice = 'Pass its table, e.g. sdata["table"].'
    msg = f"adata must be an AnnData, found {found}. {advice}"
    raise TypeError(msg)


def _missing(where: str, name: str, there: Sequence[str], argument: str) -> str:
    near = difflib.get_close_matches(str(name), [str(t) for t in there], n=3, cutoff=0.5)
    listed = near or [str(t) for t in there][:10]
    what = "near names" if near else "there are"
    known = f"{what}: {', '.join(map(repr, listed))}" if listed else "it is empty"
    return f"{argument}{name!r} is not in {where}; {known}."


def _gene_names(adata: AnnData, gene_key: str | None) -> np.ndarray:
    """Object array of names, ``None`` where a column has no name."""
    if gene_key is None:
        column = pd.Series(np.asarray(adata.var_names, dtype=object))
    else:
        var = adata.var
        if gene_key not in var.columns:
            raise KeyError(_missing("adata.var", gene_key, list(var.columns), "gene_key="))
        column = pd.Series(np.asarray(_column(var, gene_key), dtype=object))
    present = column.notna() & (column.astype(str).str.strip() != "")
    if not present.any():
        msg = f"gene_key={gene_key!r} must hold gene names, found none in {adata.n_vars:,} columns of adata.var."
        raise ValueError(msg)
    names = column.astype(str).str.strip().to_numpy(dtype=object)
    names[~present.to_numpy()] = None
    return names


def _obs_columns(adata: AnnData, obs_keys: Iterable[str]) -> pd.DataFrame:
    keys = [obs_keys] if isinstance(obs_keys, str) else list(dict.fromkeys(obs_keys))
    columns = list(adata.obs.columns)
    for key in keys:
        if key not in columns:
            raise KeyError(_missing("adata.obs", key, columns, "column "))
    index = pd.Index(np.asarray(adata.obs_names, dtype=object))
    return pd.DataFrame({key: _column(adata.obs, key) for key in keys}, index=index, columns=keys)


def _column(table: Any, key: str) -> Any:
    """Values of one column, a copy; `table` is a DataFrame, or anndata's lazy table."""
    if not isinstance(table, pd.DataFrame):
        table = table[[key]].to_memory()
    column = table[key].copy()
    return column.array if hasattr(column, "array") else np.asarray(column)


def _where_counts_are(adata: AnnData, layer: str | None) -> str:
    """Advice for the error: a slot of this AnnData that does hold counts, if there is one."""
    rows = slice(0, min(_SAMPLED_CELLS, adata.n_obs))
    others: list[tuple[str, Any]] = []
    if layer is not None and adata.X is not None:
        others.append(("Use adata.X (layer=None), which does hold counts", lambda: Storage(adata, None)))
    for name in adata.layers:
        if name != layer:
            text = f"Pass layer={name!r}, which does hold counts"
            others.append((text, lambda name=name: Storage(adata, name)))
    for text, storage in others:
        if _holds_counts(storage().rows(rows.start, rows.stop)):
            return text
    if adata.raw is not None and _holds_counts(adata.raw[rows].X):
        return "adata.raw does hold counts: pass adata.raw.to_adata() (with .obs copied along)"
    return ""


def _holds_counts(block: Any) -> bool:
    block = sp.csr_matrix(block)
    return bool(block.nnz) and inspect_counts(block).kind == "counts"
