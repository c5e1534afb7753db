"""Cells as scGPT reads them: ``<cls>``, then genes, each with the bin of its count in this cell."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numba
import numpy as np
import scipy.sparse as sp

from sclm.cells import Ragged, bin_values
from sclm.cells.hashes import gene_hashes
from sclm.cells.kernels import per_cell
from sclm.models.encoder import Tokens

if TYPE_CHECKING:
    from sclm.models.scgpt.config import ScGPTConfig

_SUBSET = 0x9E3779B97F4A7C15  # added to the seed: which genes are read does not follow from how ties are spread


def cell_tokens(
    counts: sp.csr_matrix, ids: np.ndarray, config: ScGPTConfig, *, cls_id: int | None, seed: int = 0
) -> Tokens:
    """Sequences of cells.

    The values are bins of the cell's own non-zero counts (or their log1p), made before anything is left out. A cell with more
    genes than the network reads keeps a uniform random subset of them, as in the original; here it depends on the seed and the
    cell's own (gene, count) pairs only, never on its place, its batch, or the number of workers.

    Parameters
    ----------
    counts
        CSR (n_cells, n_genes), canonical, of values at least 0: genes that the model knows. For models that read log1p values, these.
    ids
        (n_genes,) token id of each column.
    config
        Bins, ties, length, ``<cls>`` value, and whether genes that are not expressed are tokens with value 0.
    cls_id
        Token id of ``<cls>``, None for sequences without it.
    seed
        Of ties and subsets.

    Returns
    -------
    One sequence a cell, in their order, ``<cls>`` first and genes by column. A cell without genes has ``<cls>`` alone (with zeros
    included: all genes).
    """
    values = value_tokens(counts, config, seed=seed)
    n_special = int(cls_id is not None)
    if config.include_zeros:
        counts, values = _with_zeros(counts, values)
    room = config.max_length - n_special
    lengths = np.minimum(np.diff(counts.indptr), room) + n_special
    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    longest = int(np.diff(counts.indptr).max(initial=0))
    hashes = gene_hashes(counts, (seed + _SUBSET) % 2**64) if longest > room else np.zeros(0, np.uint64)
    out_ids, out_values = np.empty(offsets[-1], np.int64), np.empty(offsets[-1], np.float32)
    if cls_id is not None:
        out_ids[offsets[:-1]], out_values[offsets[:-1]] = cls_id, config.cls_value
    _write(
        counts.indptr,
        counts.indices,
        np.asarray(ids, np.int64),
        values,
        hashes,
        room,
        offsets,
        n_special,
        out_ids,
        out_values,
    )
    return Tokens(Ragged(out_ids, offsets), Ragged(out_values, offsets))


def value_tokens(counts: sp.csr_matrix, config: ScGPTConfig, *, seed: int = 0) -> np.ndarray:
    """Values (nnz,) float32 of the non-zero entries: bins of the cell, or, in models that read log1p values, these as they are."""
    if config.values == "log":
        return counts.data.astype(np.float32, copy=False)
    return bin_values(counts, config.n_bins, ties=config.ties, seed=seed).astype(np.float32)  # type: ignore[arg-type]


def with_zeros(counts: sp.csr_matrix, values: np.ndarray) -> np.ndarray:
    """Dense (n_cells, n_genes) float32 of values (nnz,) at the places of `counts`, 0 elsewhere."""
    dense = np.zeros(counts.shape, np.float32)
    dense[np.repeat(np.arange(counts.shape[0]), np.diff(counts.indptr)), counts.indices] = values
    return dense


def _with_zeros(counts: sp.csr_matrix, values: np.ndarray) -> tuple[sp.csr_matrix, np.ndarray]:
    """The same cells with an entry for every gene."""
    n, n_genes = counts.shape
    full = sp.csr_matrix((n, n_genes), dtype=np.float32)
    full.data = with_zeros(counts, counts.data).ravel()  # (n, n_genes) → (n * n_genes,): explicit zeros stay
    full.indices = np.tile(np.arange(n_genes, dtype=np.int64), n)
    full.indptr = np.arange(n + 1, dtype=np.int64) * n_genes
    return full, with_zeros(counts, values).ravel()


@per_cell
def _write(
    bounds: np.ndarray,
    columns: np.ndarray,
    ids: np.ndarray,
    values: np.ndarray,
    hashes: np.ndarray,
    room: int,
    offsets: np.ndarray,
    n_special: int,
    out_ids: np.ndarray,
    out_values: np.ndarray,
) -> Any:
    for i in numba.prange(bounds.size - 1):
        first, last = bounds[i], bounds[i + 1]
        place = offsets[i] + n_special
        if last - first <= room:
            for k in range(first, last):
                out_ids[place] = ids[columns[k]]
                out_values[place] = values[k]
                place += 1
        elif room > 0:
            # the genes with the smallest hashes: a uniform subset, in the order of the columns
            limit = np.partition(hashes[first:last], room - 1)[room - 1]
            for k in range(first, last):
                if hashes[k] <= limit and place < offsets[i + 1]:
                    out_ids[place] = ids[columns[k]]
                    out_values[place] = values[k]
                    place += 1


def deleted(tokens: Tokens, genes: np.ndarray, *, keep_place: bool) -> tuple[np.ndarray, Tokens]:
    """Cells that express all of some genes, without them.

    Parameters
    ----------
    tokens
        Sequences of cells.
    genes
        Token ids, each once.
    keep_place
        Whether the genes stay as tokens with value 0 (in models that read zeros), or leave the sequence.

    Returns
    -------
    rows
        (m,) int64 of the cells that express every one of `genes`.
    tokens
        Their changed sequences. Bins of the other genes stay as they are.
    """
    ids, values = tokens.ids, _values(tokens)
    hit = np.isin(ids.values, genes) & (values.values > 0)
    per_row = np.diff(np.concatenate([[0], np.cumsum(hit)])[ids.offsets])
    rows = np.flatnonzero(per_row == len(genes))
    kept = np.isin(np.repeat(np.arange(len(ids)), ids.lengths), rows)
    if keep_place:
        changed = np.where(hit, 0, values.values)[kept].astype(np.float32)
        offsets = np.concatenate([[0], np.cumsum(ids.lengths[rows])])
        return rows, Tokens(Ragged(ids.values[kept], offsets), Ragged(changed, offsets))
    kept &= ~hit
    offsets = np.concatenate([[0], np.cumsum(ids.lengths[rows] - len(genes))])
    return rows, Tokens(Ragged(ids.values[kept], offsets), Ragged(values.values[kept], offsets))


def overexpressed(
    tokens: Tokens, genes: np.ndarray, is_gene: np.ndarray, top: float | None
) -> tuple[np.ndarray, Tokens]:
    """Cells with some genes at the highest value.

    Parameters
    ----------
    tokens
        Sequences of cells.
    genes
        Token ids, each once; those that a cell does not have are appended to its sequence.
    is_gene
        (V,) bool, False at special tokens.
    top
        The value; None: the largest of the cell.

    Returns
    -------
    rows
        (m,) int64 of the cells that have a gene at all.
    tokens
        Their changed sequences.
    """
    ids, values = tokens.ids, _values(tokens)
    n = len(ids)
    of = np.repeat(np.arange(n), ids.lengths)  # cell of each token
    gene = is_gene[ids.values]
    rows = np.flatnonzero(np.bincount(of[gene], minlength=n) > 0)
    largest = np.full(n, -np.inf, np.float32)
    np.maximum.at(largest, of[gene], values.values[gene])
    level = largest if top is None else np.full(n, top, np.float32)
    own = np.where(np.isin(ids.values, genes), level[of], values.values).astype(np.float32)
    has = np.zeros((n, genes.size), bool)
    for k, asked in enumerate(genes):
        has[of[ids.values == asked], k] = True
    added = ~has[rows]  # (m, genes)
    lengths = ids.lengths[rows] + added.sum(axis=1)
    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    new_ids, new_values = np.empty(offsets[-1], ids.values.dtype), np.empty(offsets[-1], np.float32)
    old = np.isin(of, rows)
    place = np.flatnonzero(old) + np.repeat(offsets[:-1] - ids.offsets[:-1][rows], ids.lengths[rows])
    new_ids[place], new_values[place] = ids.values[old], own[old]
    which, number = np.nonzero(added)
    place = offsets[:-1][which] + ids.lengths[rows][which] + (np.cumsum(added, axis=1) - 1)[which, number]
    new_ids[place], new_values[place] = genes[number], level[rows][which]
    return rows, Tokens(Ragged(new_ids, offsets), Ragged(new_values, offsets))


def _values(tokens: Tokens) -> Ragged:
    if tokens.values is None:
        raise ValueError("Tokens of scGPT have values, found none: make them with model.tokenise(cells).")
    return tokens.values
