"""Rank-value encoding: the genes of a cell from the most to the least remarkable, the input of Geneformer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numba
import numpy as np
import scipy.sparse as sp

from sclm.cells.ragged import Ragged
from sclm.cells.rank_kernels import NOT_POSITIVE, UNSORTED, rank_rows

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

_CHUNKS_A_THREAD = 8


def rank_values(
    counts: sp.csr_matrix,
    scale: ArrayLike | None = None,
    *,
    max_length: int | None = None,
    token_ids: ArrayLike | None = None,
) -> Ragged:
    r"""Order each cell's expressed genes by decreasing value, ties by increasing token id.

    The value is :math:`c_{ig} / s_g`, the quotient in float64 of the count as float32 and the gene's scale, so a gene
    stands high where it is expressed above what is usual for it.  A factor common to a cell, such as
    Geneformer's :math:`10^4 / \sum_g c_{ig}`, does not change the order (its own floating-point rounding can swap genes
    whose values agree in 15 digits).

    Parameters
    ----------
    counts
        CSR (n_cells, n_genes), positive values; explicit zeros are skipped.
    scale
        (n_genes,) scale :math:`s_g` > 0 of each gene, for example its median non-zero expression; ``None``: 1.
    max_length
        Keep only this many genes a cell, the highest.
    token_ids
        (n_genes,) token written for each column, -1 to leave the gene out; by default the column number.

    Returns
    -------
    :class:`Ragged` of token ids, int32 (int64 where ids need it), one sequence a cell.

    Raises
    ------
    ValueError
        Negative or missing values, a scale that is not positive, a token that stands for two genes.

    Notes
    -----
    Values are sorted by radix on the upper bits of their float32 form; where these are too close to tell, the float64
    quotients decide.  The result is that of ``numpy.lexsort((token, -value))``.

    References
    ----------
    Theodoris et al., Transfer learning enables predictions in network biology, Nature 618 (2023).

    Examples
    --------
    >>> import scipy.sparse as sp
    >>> rank_values(sp.csr_matrix([[2.0, 0.0, 3.0, 3.0]]), scale=[1.0, 1.0, 1.0, 6.0])[0]
    array([2, 0, 3], dtype=int32)
    """
    n_genes = counts.shape[1]
    if max_length is not None and max_length < 0:
        msg = f"max_length must be at least 0, found {max_length}."
        raise ValueError(msg)
    tokens = _checked_tokens(token_ids, n_genes)
    divisor = _checked_scale(scale, n_genes, tokens)
    if tokens is not None and not _ascending(tokens):
        # ties fall by column, so columns are put in the order of the tokens and genes without one left out
        columns = np.argsort(tokens, kind="stable")
        columns = columns[tokens[columns] >= 0]
        counts = sp.csr_matrix(counts)[:, columns]
        tokens = tokens[columns]
        divisor = None if divisor is None else divisor[columns]
    return _ranked(counts, divisor, max_length, tokens)


def _ranked(counts: Any, divisor: np.ndarray | None, max_length: int | None, tokens: np.ndarray | None) -> Ragged:
    counts = counts if sp.issparse(counts) and counts.format == "csr" else sp.csr_matrix(counts)
    for _ in range(3):  # as it comes, then repaired as the kernel asks
        n_cells = counts.shape[0]
        indptr = counts.indptr.astype(np.int64)
        stored = np.diff(indptr)
        lengths = stored if max_length is None else np.minimum(stored, max_length)
        offsets = np.concatenate([[0], np.cumsum(lengths)])  # (n_cells + 1,) int64
        wide = tokens is not None and tokens.size and tokens.max() > np.iinfo(np.int32).max
        values = np.empty(offsets[-1], np.int64 if wide else np.int32)
        # chunks of about equal work; each has its own scratch memory
        n_chunks = max(1, min(n_cells, _CHUNKS_A_THREAD * numba.get_num_threads()))
        ends = np.searchsorted(indptr, np.linspace(0, indptr[-1], n_chunks + 1)[1:-1])
        bounds = np.concatenate([[0], ends, [n_cells]]).astype(np.int64)
        status = rank_rows(
            counts.data.astype(np.float32, copy=False),
            counts.indices.astype(np.int32, copy=False).view(np.uint32),
            indptr,
            np.zeros(0) if divisor is None else divisor,
            np.zeros(0, np.float32) if divisor is None else _reciprocal(divisor),
            np.zeros(0, values.dtype) if tokens is None else tokens.astype(values.dtype),
            bounds,
            int(stored.max(initial=0)),
            offsets,
            values,
        ).max(initial=0)
        if not status:
            return Ragged(values, offsets)
        counts = _repaired(counts, int(status))
    msg = "counts must be positive, sorted by column and without repeated entries."
    raise ValueError(msg)


def _repaired(counts: sp.csr_matrix, status: int) -> sp.csr_matrix:
    """Copy that is sorted and without explicit zeros."""
    counts = counts.copy()
    if status & UNSORTED:
        counts.sum_duplicates()
    if status & NOT_POSITIVE:
        counts.eliminate_zeros()
        wrong = np.flatnonzero(~((counts.data > 0) & np.isfinite(counts.data)))
        if wrong.size:
            row = int(np.searchsorted(counts.indptr, wrong[0], side="right")) - 1
            msg = f"counts must be positive and finite, found {counts.data[wrong[0]]:.4g} in row {row}."
            raise ValueError(msg)
    return counts


def _reciprocal(divisor: np.ndarray) -> np.ndarray:
    # a power of two changes no order and brings the values into the range of float32
    with np.errstate(over="ignore", under="ignore"):
        return (2.0 ** np.round(np.log2(np.median(divisor))) / divisor).astype(np.float32)


def _ascending(tokens: np.ndarray) -> bool:
    return bool(tokens.size == 0 or (tokens[0] >= 0 and (np.diff(tokens) > 0).all()))


def _checked_tokens(token_ids: ArrayLike | None, n_genes: int) -> np.ndarray | None:
    if token_ids is None:
        return None
    tokens = np.asarray(token_ids)
    if tokens.shape != (n_genes,) or tokens.dtype.kind not in "iu":
        msg = f"token_ids must be {n_genes:,} integers, one a gene, found {tokens.dtype} of shape {tokens.shape}."
        raise ValueError(msg)
    tokens = tokens.astype(np.int64)
    kept, times = np.unique(tokens[tokens >= 0], return_counts=True)
    if (times > 1).any():
        msg = f"a token must stand for one gene, found token {kept[times > 1][0]} twice. Sum such genes first."
        raise ValueError(msg)
    return tokens


def _checked_scale(scale: ArrayLike | None, n_genes: int, tokens: np.ndarray | None) -> np.ndarray | None:
    if scale is None:
        return None
    divisor = np.array(scale, dtype=np.float64)
    if divisor.shape != (n_genes,):
        msg = f"scale must hold {n_genes:,} values, one a gene, found shape {divisor.shape}."
        raise ValueError(msg)
    wrong = ~((divisor > 0) & np.isfinite(divisor))
    if tokens is not None:
        divisor[wrong & (tokens < 0)] = 1.0  # left out anyway
        wrong &= tokens >= 0
    if wrong.any():
        gene = int(np.flatnonzero(wrong)[0])
        msg = f"scale must be positive and finite, found {divisor[gene]} for gene {gene}. Leave it out by token -1."
        raise ValueError(msg)
    return divisor
