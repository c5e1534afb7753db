"""AUCell: how high the genes of a set rank in each cell.

n cells · G genes · S sets · c genes at the top of a cell's ranking
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numba
import numpy as np
from scipy import sparse

from sclm.cells import GeneVocabulary
from sclm.cells.hashes import cell_hashes, mixed
from sclm.cells.kernels import per_cell

if TYPE_CHECKING:
    import pandas as pd

    from sclm.knowledge import Pathways

TOP = 0.05  # share of the genes that the area is taken over, as in Aibar et al. and Cell2Text
MIN_GENES = 5  # of a set that the data must hold
_MOST_GENES = 2**18  # places in a sort word


class SetMembers(NamedTuple):
    """Gene sets among the genes of a data set.

    Attributes
    ----------
    members
        (G, S) CSR float32: 1 where the gene of the column belongs to the set.
    kept
        (S,) int64 places of the sets in the collection; sets with too few genes in the data are left out.
    """

    members: sparse.csr_matrix
    kept: np.ndarray


def match_sets(sets: Pathways, genes: pd.Index, *, min_genes: int = MIN_GENES) -> SetMembers:
    """Find the genes of sets among the genes of the data, by symbol, earlier symbol or Ensembl id.

    Parameters
    ----------
    sets
        A collection.
    genes
        Gene names of the data.
    min_genes
        A set needs so many of its genes in the data.

    Returns
    -------
    Members of the sets that are left, in the order of the collection.

    Raises
    ------
    ValueError
        If `min_genes` is below 1, or no set is left.
    """
    if min_genes < 1:
        raise ValueError(f"min_genes must be at least 1, found {min_genes}.")
    vocabulary = GeneVocabulary(tuple(dict.fromkeys(g for of in sets.genes for g in of)))
    ids = vocabulary.match(genes).ids  # (G,) place of each gene of the data in the vocabulary
    rows = vocabulary.lookup([g for of in sets.genes for g in of])
    columns = np.repeat(np.arange(len(sets)), [len(of) for of in sets.genes])
    of_tokens = sparse.csr_matrix(
        (np.ones(len(rows), np.float32), (rows, columns)), shape=(len(vocabulary) + 1, len(sets))
    )
    of_genes = of_tokens[np.where(ids >= 0, ids, len(vocabulary))]  # the last row is empty: genes of no set
    there = np.asarray(of_genes.sum(axis=0)).ravel()
    kept = np.flatnonzero(there >= min_genes)
    if not len(kept):
        best = int(there.argmax())
        raise ValueError(
            f"the data must hold at least {min_genes} genes of a set of {sets.name!r}, found {int(there[best])} of "
            f"{len(sets.genes[best])} in the best ({sets.names[best]!r}). Pass gene_key= if symbols or Ensembl ids are in a column of "
            ".var, or other gene sets."
        )
    return SetMembers(of_genes[:, kept].tocsr().astype(np.float32), kept)


def n_top_genes(n_genes: int, top: float = TOP) -> int:
    """Genes that the area is taken over: a share of all genes, at least 2."""
    if not 0 < top <= 1:
        raise ValueError(f"top must be a share of the genes in (0, 1], found {top}.")
    return min(max(math.ceil(top * n_genes), 2), n_genes)


def top_ranks(values: sparse.csr_matrix, n_top: int, *, seed: int = 0) -> sparse.csr_matrix:
    r"""What each gene adds to an area: :math:`w_{ig} = \max(c - r_{ig}, 0)`, with rank 1 for the highest value of a cell.

    Genes of equal value are put in an order that depends on the seed and on the cell's own values only. Genes without counts are not
    ranked and add nothing, also where a cell expresses fewer than `c`.

    Parameters
    ----------
    values
        (n, G) counts or anything that rises with them within a cell, not negative.
    n_top
        The number :math:`c`.
    seed
        Of the order of equal values.

    Returns
    -------
    (n, G) CSR float32 with at most ``c - 1`` entries a row.
    """
    values = sparse.csr_matrix(values)
    if values.nnz and not values.data.min() >= 0:
        raise ValueError(f"values must not be negative, found {values.data.min()}. Pass raw or log-normalised counts.")
    if values.shape[1] > _MOST_GENES:
        raise ValueError(f"at most {_MOST_GENES:,} genes can be ranked, found {values.shape[1]:,}.")
    if values.nnz and not values.data.all():
        values = values.copy()
        values.eliminate_zeros()
    bits = values.data.astype(np.float32, copy=False).view(np.uint32)
    indptr = values.indptr.astype(np.int64)
    n = values.shape[0]
    found = np.empty((n, min(n_top, values.shape[1])), np.int32)  # columns, best first
    filled = np.empty(n, np.int64)
    _top(bits, values.indices.astype(np.int64), indptr, cell_hashes(values, seed), found, filled)
    filled = np.minimum(filled, n_top - 1)  # the last one adds nothing
    use = np.arange(found.shape[1])[None, :] < filled[:, None]
    weight = np.broadcast_to(n_top - 1.0 - np.arange(found.shape[1]), found.shape)
    bounds = np.concatenate([[0], np.cumsum(filled)])
    out = sparse.csr_matrix((weight[use].astype(np.float32), found[use], bounds), shape=values.shape)
    out.sort_indices()
    return out


@per_cell
def _top(
    bits: np.ndarray, columns: np.ndarray, indptr: np.ndarray, keys: np.ndarray, found: np.ndarray, filled: np.ndarray
) -> Any:
    width = found.shape[1]
    for i in numba.prange(indptr.size - 1):
        first, n = indptr[i], indptr[i + 1] - indptr[i]
        word = np.empty(n, np.uint64)
        for k in range(n):
            # 31 bits of the value (those of positive floats rise with them), 15 of a hash that orders equal values, 18 of the place.
            chance = mixed(keys[i], np.uint64(columns[first + k])) >> np.uint64(49)
            word[k] = (np.uint64(bits[first + k]) << np.uint64(33)) | (chance << np.uint64(18)) | np.uint64(k)
        word.sort()
        take = min(width, n)
        filled[i] = take
        for k in range(take):
            found[i, k] = columns[first + np.int64(word[n - 1 - k] & np.uint64(0x3FFFF))]


def largest_area(n_genes: np.ndarray, n_top: int) -> np.ndarray:
    r"""Area of sets whose genes are all at the top: :math:`\sum_{k=1}^{\min(m, c-1)} (c - k)` for m genes."""
    m = np.minimum(np.asarray(n_genes, dtype=np.float64), n_top - 1)
    return m * n_top - m * (m + 1) / 2


def aucell(
    values: sparse.csr_matrix, members: sparse.csr_matrix, *, n_top: int | None = None, seed: int = 0
) -> np.ndarray:
    r"""Area under the recovery curve of each set in each cell (AUCell).

    With the genes of a cell ranked from the highest value on (1, 2, …),

    .. math:: A_{is} = \frac{\sum_{g \in s} \max(c - r_{ig}, 0)}{\sum_{k=1}^{\min(m_s, c - 1)} (c - k)},

    the area under the curve that counts how many of the set's :math:`m_s` genes are among the first 1, 2, … c genes, as a share of the
    largest possible.

    Parameters
    ----------
    values
        (n, G) counts, raw or normalised: only their order within a cell matters. Zeros are not ranked.
    members
        (G, S), see :func:`match_sets`.
    n_top
        The number c; by default a twentieth of the genes.
    seed
        Of the order of equal values; a cell's scores do not depend on other cells.

    Returns
    -------
    (n, S) float32 in 0-1.

    Notes
    -----
    Aibar et al., Nature Methods 14 (2017), with the normaliser of their R package. Equal to decoupler's ``aucell`` where no two values
    of a cell are equal and each cell expresses c genes.

    Examples
    --------
    >>> import numpy as np, scipy.sparse as sp
    >>> counts = sp.csr_matrix([[9, 8, 1, 0, 0, 0, 0, 0.0]])
    >>> members = sp.csr_matrix([[1, 0], [1, 0], [0, 0], [0, 1], [0, 1], [0, 0], [0, 0], [0, 0.0]])
    >>> aucell(counts, members, n_top=3)
    array([[1., 0.]], dtype=float32)
    """
    n_top = n_top_genes(values.shape[1]) if n_top is None else n_top
    if not 2 <= n_top <= values.shape[1]:
        raise ValueError(f"n_top must lie between 2 and the number of genes, {values.shape[1]}, found {n_top}.")
    return area(top_ranks(values, n_top, seed=seed), members, n_top)


def area(ranks: sparse.csr_matrix, members: sparse.csr_matrix, n_top: int) -> np.ndarray:
    """The areas from what genes add, (n, S) float32: see :func:`top_ranks` and :func:`aucell`."""
    largest = largest_area(np.asarray(members.sum(axis=0)).ravel(), n_top)
    return ((ranks @ members).toarray() / np.maximum(largest, 1.0)).astype(np.float32)
