"""A cell as a sequence of tokens: all its expressed genes with their levels, and back.

One vocabulary of V = G + Q + 1 tokens: the genes 0 … G - 1, a marker for each count level 1 … Q (token G + level - 1), and
the end. In the canonical order a cell is the marker of its highest level, the genes of that level by rising index, the
marker of the next level that occurs, its genes, …, the end: every expressed gene once, levels only fall, and indices only
rise inside a level. A cell of n expressed genes has n + (number of levels that occur) + 1 tokens.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, ClassVar

import numba
import numpy as np
import scipy.sparse as sp

from sclm.cells import Ragged, count_levels
from sclm.cells.counts import require_csr
from sclm.cells.kernels import per_cell
from sclm.cells.levels import COUNT_EDGES
from sclm.models.pgl.counts import _mix

#: Lower ends of the count levels: 1, 2 and 3 stand alone. The default levels of :mod:`sclm.cells`, continued by the same
#: ratio, so that haemoglobins and full-length protocols are not cut at 1,250 counts.
EDGES: tuple[int, ...] = (*COUNT_EDGES, 1830, 2670, 3910, 5710, 8340, 12200)

_ORDERS = ("level", "rank", "random")
# Streams of random numbers begin at 2⁴⁴ (shuffling) and 2⁴⁵ (counts inside a level), apart from those of the sampler.
_FAULTS = (
    "",
    "a token outside the vocabulary",
    "no end",
    "a token after the end",
    "a gene before any level marker",
    "a gene that came before",
    "a level that does not fall",
    "a gene index that does not rise inside its level",
    "a level marker without a gene",
    "a gene without a level marker of its own",
)


@dataclasses.dataclass(frozen=True)
class GeneTokens:
    """The vocabulary of a cell's genes and levels.

    Parameters
    ----------
    n_genes
        G.
    edges
        Lower ends of the levels, increasing whole numbers from 1; the last level is open above.

    Examples
    --------
    >>> import scipy.sparse as sp
    >>> tokens = GeneTokens(4)
    >>> sequences = tokens.encode(sp.csr_matrix([[1.0, 0.0, 3.0, 1.0]]))
    >>> sequences[0] - 4  # level 3 (gene 2), level 1 (genes 0 and 3), the end
    array([ 2, -2,  0, -4, -1, 25], dtype=int32)
    >>> tokens.decode(sequences).toarray()
    array([[1., 0., 3., 1.]], dtype=float32)
    """

    n_genes: int
    edges: tuple[int, ...] = EDGES

    ORDERS: ClassVar[tuple[str, ...]] = _ORDERS

    def __post_init__(self) -> None:
        if self.n_genes < 1:
            raise ValueError(f"n_genes must be at least 1, found {self.n_genes}.")
        if (
            not self.edges
            or self.edges[0] != 1
            or any(b <= a for a, b in zip(self.edges, self.edges[1:], strict=False))
        ):
            raise ValueError(f"edges must be whole numbers that increase from 1, found {self.edges!r}.")

    @property
    def n_levels(self) -> int:
        """Q."""
        return len(self.edges)

    @property
    def end(self) -> int:
        """The token that ends a cell."""
        return self.n_genes + self.n_levels

    @property
    def size(self) -> int:
        """V, tokens in all."""
        return self.n_genes + self.n_levels + 1

    # ------------------------------------------------------------------ counts to tokens

    def lengths(self, counts: sp.csr_matrix) -> np.ndarray:
        """Tokens (n,) int64 of each cell in the canonical order, counts CSR (n, G)."""
        levels = self._levels(counts)
        n = np.zeros(counts.shape[0], np.int64)
        _lengths(levels, counts.indptr, self.n_levels, n)
        return n

    def encode(
        self, counts: sp.csr_matrix, order: str = "level", *, seed: int = 0, cells: np.ndarray | None = None
    ) -> Ragged:
        """Token sequences of cells.

        Parameters
        ----------
        counts
            Raw counts, CSR (n, G) without explicit zeros.
        order
            ``"level"``: canonical. ``"rank"``: by count, highest first, equal counts shuffled; markers where the level changes.
            ``"random"``: genes shuffled, each after a marker of its own.
        seed
            Of the shuffling, from 0 to 2⁶⁴ - 1.
        cells
            (n,) numbers of the cells, with which their random numbers go; by default 0, 1, 2, ….

        Returns
        -------
        One int32 sequence a cell.

        Raises
        ------
        ValueError
            If `order` is unknown, the number of genes differs, or a stored value is no whole count of at least 1.
        """
        if order not in _ORDERS:
            raise ValueError(f"order must be one of {', '.join(map(repr, _ORDERS))}, found {order!r}.")
        levels = self._levels(counts)
        lengths = np.diff(counts.indptr).astype(np.int64)
        if order == "random":
            lengths = 2 * lengths + 1
        else:
            _lengths(levels, counts.indptr, self.n_levels, lengths)
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        values = np.empty(offsets[-1], np.int32)
        _encode(
            counts.data, counts.indices, counts.indptr, levels, self.n_genes, self.n_levels, _ORDERS.index(order),
            np.uint64(seed), _numbers(cells, counts.shape[0]), offsets, values,
        )  # fmt: skip
        return Ragged(values, offsets)

    def _levels(self, counts: sp.csr_matrix) -> np.ndarray:
        require_csr(counts)
        if counts.shape[1] != self.n_genes:
            raise ValueError(f"counts must have {self.n_genes:,} genes, found {counts.shape[1]:,}. Align them first.")
        if not counts.has_sorted_indices:
            raise ValueError("counts must have sorted gene indices in each row. Call counts.sort_indices() first.")
        wrong = np.flatnonzero((counts.data < 1) | (counts.data != np.rint(counts.data)))
        if wrong.size:
            raise ValueError(f"counts must be whole numbers of at least 1 where stored, found {counts.data[wrong[0]]}.")
        return count_levels(counts, self.edges)

    # ------------------------------------------------------------------ tokens to counts

    def decode_levels(self, sequences: Ragged, order: str = "level") -> sp.csr_matrix:
        """Level of each gene of each cell, CSR (n, G) int32, zeros not stored.

        Raises
        ------
        ValueError
            If a sequence breaks a rule of its order: says which cell, where, and how.
        """
        if order not in _ORDERS:
            raise ValueError(f"order must be one of {', '.join(map(repr, _ORDERS))}, found {order!r}.")
        n = len(sequences)
        faults, where, n_expressed = np.zeros(n, np.int64), np.zeros(n, np.int64), np.zeros(n, np.int64)
        _check(
            sequences.values, sequences.offsets, self.n_genes, self.n_levels, _ORDERS.index(order), faults, where,
            n_expressed,
        )  # fmt: skip
        if faults.any():
            i = int(np.flatnonzero(faults)[0])
            raise ValueError(
                f"Sequence {i} must list genes in the order {order!r} and close with the end token {self.end}, found "
                f"{_FAULTS[faults[i]]} at position {where[i]}. {np.count_nonzero(faults):,} of {n:,} sequences break the rules."
            )
        indptr = np.concatenate([[0], np.cumsum(n_expressed)])
        indices, levels = np.empty(indptr[-1], np.int32), np.empty(indptr[-1], np.int32)
        _decode(sequences.values, sequences.offsets, self.n_genes, self.n_levels, indptr, indices, levels)
        return sp.csr_matrix((levels, indices, indptr), shape=(n, self.n_genes))

    def decode(
        self, sequences: Ragged, order: str = "level", *, seed: int = 0, cells: np.ndarray | None = None
    ) -> sp.csr_matrix:
        """Counts of token sequences: exact for 1, 2 and 3; above, drawn log-uniformly inside the level.

        Parameters
        ----------
        sequences
            One a cell.
        order
            In which they are.
        seed, cells
            As in :meth:`encode`. A gene's count depends on the seed, its cell's number and its own index only.

        Returns
        -------
        CSR (n, G) float32, zeros not stored. The last level is taken to be as wide, on the logarithmic scale, as the one
        before.

        Raises
        ------
        ValueError
            If a sequence breaks a rule of its order.
        """
        levels = self.decode_levels(sequences, order)
        edges = np.array(self.edges, np.float64)
        ratio = edges[-1] / edges[-2] if len(edges) > 1 else 2.0
        bounds = np.append(edges, max(math.floor(edges[-1] * ratio), edges[-1] + 1))
        data = np.empty(levels.data.size, np.float32)
        _draw(
            levels.data, levels.indices, levels.indptr, bounds, np.uint64(seed), _numbers(cells, levels.shape[0]), data
        )
        return sp.csr_matrix((data, levels.indices, levels.indptr), shape=levels.shape)


def _numbers(cells: np.ndarray | None, n: int) -> np.ndarray:
    return np.arange(n, dtype=np.uint64) if cells is None else np.asarray(cells).astype(np.uint64)


@numba.njit(inline="always")
def _uniform(key: Any, cell: Any, number: Any) -> float:
    """The random number in [0, 1) of a cell, as :func:`sclm.models.pgl.sampling.uniforms` gives it."""
    golden = np.uint64(0x9E3779B97F4A7C15)
    start = _mix(_mix(key + golden) ^ (cell + golden))
    word = _mix(start + golden * (number + np.uint64(1)))
    return np.float64(word >> np.uint64(11)) * (1.0 / 9007199254740992.0)


@per_cell
def _lengths(levels: np.ndarray, indptr: np.ndarray, n_levels: int, n: np.ndarray) -> Any:
    for i in numba.prange(indptr.size - 1):
        seen = np.zeros(n_levels + 1, np.bool_)
        for k in range(indptr[i], indptr[i + 1]):
            seen[levels[k]] = True
        n[i] = indptr[i + 1] - indptr[i] + seen.sum() + 1


@per_cell
def _encode(
    data: np.ndarray,
    indices: np.ndarray,
    indptr: np.ndarray,
    levels: np.ndarray,
    n_genes: int,
    n_levels: int,
    order: int,
    key: Any,
    cells: np.ndarray,
    offsets: np.ndarray,
    values: np.ndarray,
) -> Any:
    for i in numba.prange(indptr.size - 1):
        first, n = indptr[i], indptr[i + 1] - indptr[i]
        place = offsets[i]
        if order == 0:
            # Genes stand by rising index: a counting sort by level, highest first, keeps that inside each level.
            frequency = np.zeros(n_levels + 1, np.int64)
            for k in range(first, first + n):
                frequency[levels[k]] += 1
            starts = np.zeros(n_levels + 1, np.int64)
            for level in range(n_levels, 0, -1):
                if frequency[level]:
                    values[place] = n_genes + level - 1
                    starts[level] = place + 1
                    place += frequency[level] + 1
            for k in range(first, first + n):
                values[starts[levels[k]]] = indices[k]
                starts[levels[k]] += 1
        else:
            shuffled = np.arange(n)
            for k in range(n - 1, 0, -1):  # Fisher-Yates, by the cell's own random numbers
                other = int(_uniform(key, cells[i], np.uint64(1 << 44) + np.uint64(k)) * (k + 1))
                shuffled[k], shuffled[other] = shuffled[other], shuffled[k]
            if order == 1:
                shuffled = shuffled[np.argsort(-data[first : first + n][shuffled], kind="mergesort")]
            before = -1
            for k in shuffled:
                level = levels[first + k]
                if order == 2 or level != before:
                    values[place] = n_genes + level - 1
                    place += 1
                    before = level
                values[place] = indices[first + k]
                place += 1
        values[place] = n_genes + n_levels


@per_cell
def _check(
    values: np.ndarray,
    offsets: np.ndarray,
    n_genes: int,
    n_levels: int,
    order: int,
    faults: np.ndarray,
    where: np.ndarray,
    n_expressed: np.ndarray,
) -> Any:
    end = n_genes + n_levels
    for i in numba.prange(offsets.size - 1):
        seen = np.zeros(n_genes, np.bool_)
        level, last, marked, fault, done, n = n_levels + 1, -1, True, 0, False, 0
        for k in range(offsets[i], offsets[i + 1]):
            token = values[k]
            if token < 0 or token > end:
                fault = 1
            elif done:
                fault = 3
            elif token < n_genes:
                if level > n_levels:
                    fault = 4
                elif seen[token]:
                    fault = 5
                elif order == 0 and token <= last:
                    fault = 7
                elif order == 2 and not marked:
                    fault = 9
                seen[token] = True
                last, marked = token, False
                n += 1
            elif marked and level <= n_levels:
                fault = 8
            elif token == end:
                done = True
            else:
                if order != 2 and token - n_genes + 1 >= level:
                    fault = 6
                level, last, marked = token - n_genes + 1, -1, True
            if fault:
                where[i] = k - offsets[i]
                break
        if not fault and not done:
            fault = 2
            where[i] = offsets[i + 1] - offsets[i]
        faults[i] = fault
        n_expressed[i] = n


@per_cell
def _decode(
    values: np.ndarray,
    offsets: np.ndarray,
    n_genes: int,
    n_levels: int,
    indptr: np.ndarray,
    indices: np.ndarray,
    levels: np.ndarray,
) -> Any:
    for i in numba.prange(offsets.size - 1):
        found = np.zeros(n_genes, np.int32)
        level = 0
        for k in range(offsets[i], offsets[i + 1]):
            token = values[k]
            if token < n_genes:
                found[token] = level
            else:
                level = token - n_genes + 1
        place = indptr[i]
        for g in range(n_genes):
            if found[g]:
                indices[place] = g
                levels[place] = found[g]
                place += 1


@per_cell
def _draw(
    levels: np.ndarray,
    indices: np.ndarray,
    indptr: np.ndarray,
    bounds: np.ndarray,
    key: Any,
    cells: np.ndarray,
    data: np.ndarray,
) -> Any:
    for i in numba.prange(indptr.size - 1):
        for k in range(indptr[i], indptr[i + 1]):
            low, high = bounds[levels[k] - 1], bounds[levels[k]]
            x = low
            if high > low + 1.0:
                u = _uniform(key, cells[i], np.uint64(1 << 45) + np.uint64(indices[k]))
                x = min(math.floor(math.exp(math.log(low) + u * (math.log(high) - math.log(low))) + 1e-9), high - 1.0)
            data[k] = x
