r"""Is a gene set more active here than in the other cells, and more than random sets of like genes?

n cells · G genes · S sets · K bins of genes · c genes at the top of a ranking
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy import sparse, special, stats

from sclm.evidence.aucell import area, largest_area, n_top_genes, top_ranks

if TYPE_CHECKING:
    from sclm.cells import CellSource

_BIN = 50  # genes of like rank that a random set draws from, at least
_MOST_BINS = 20


class SetActivity(NamedTuple):
    """Scores of gene sets with their tests.

    Attributes
    ----------
    score
        (n, S) float32 area of each set, 0-1: see :func:`sclm.evidence.aucell`.
    z
        (n, S) float32: score above the background, minus what random sets of like genes show, in their standard deviations.
    p
        (n, S) float64: probability that a random set of like genes is as much above the background.
    q
        (n, S) float64: false discovery rate among the sets of the same cell or group (Benjamini and Hochberg).
    """

    score: np.ndarray
    z: np.ndarray
    p: np.ndarray
    q: np.ndarray


class SetBackground:
    r"""What genes add to areas in all cells, and the test of sets against random ones.

    A set's activity is its area above the background, :math:`D_s = \sum_{g \in s} v_g` with :math:`v_g = w_g - \bar w_g`: what gene g
    adds in this cell (:func:`~sclm.evidence.aucell.top_ranks`) minus what it adds in the mean of all cells. Random sets draw, for each
    gene of the set, another gene of the same bin, where bins hold genes of like :math:`\bar w`. Mean, variance and third moment of
    :math:`D` over all such sets follow from those of v within the bins, exactly, by the formulas of sampling without replacement; the p value
    is the upper tail of the Pearson type III (shifted gamma) distribution of these moments. No set is drawn, so there is no seed and
    no smallest p value.

    Parameters
    ----------
    mean
        (G,) float64 mean of the weights over all cells.
    members
        (G, S) CSR, see :func:`~sclm.evidence.aucell.match_sets`.
    n_top
        The number c.
    seed
        Of the order of equal values.
    """

    def __init__(self, mean: np.ndarray, members: sparse.csr_matrix, n_top: int, *, seed: int = 0) -> None:
        self.mean, self.members, self.n_top, self.seed = np.asarray(mean, dtype=np.float64), members, n_top, seed
        n_genes = len(self.mean)
        n_bins = int(np.clip(n_genes // _BIN, 1, _MOST_BINS))
        order = np.argsort(self.mean, kind="stable")
        bins = np.empty(n_genes, dtype=np.int64)
        bins[order] = np.arange(n_genes) * n_bins // n_genes
        self.bins = sparse.csr_matrix((np.ones(n_genes), (np.arange(n_genes), bins)), (n_genes, n_bins))  # (G, K)
        self.sizes = np.asarray(self.bins.sum(axis=0)).ravel()  # (K,)
        self.drawn = (self.bins.T @ members).toarray()  # (K, S) genes of each set in each bin
        self.n_genes = np.asarray(members.sum(axis=0)).ravel()  # (S,)

    @classmethod
    def fit(
        cls,
        source: CellSource,
        members: sparse.csr_matrix,
        *,
        top: float = 0.05,
        seed: int = 0,
        batch_size: int | None = None,
    ) -> SetBackground:
        """The mean over all cells of a source, in one pass."""
        n_top = n_top_genes(members.shape[0], top)
        total, n = np.zeros(members.shape[0]), 0
        for cells in source.blocks(batch_size):
            total += np.asarray(top_ranks(cells.counts, n_top, seed=seed).sum(axis=0, dtype=np.float64)).ravel()
            n += cells.n_cells
        return cls(total / max(n, 1), members, n_top, seed=seed)

    def ranks(self, counts: sparse.csr_matrix) -> sparse.csr_matrix:
        """What each gene adds in each cell, (n, G) CSR."""
        return top_ranks(counts, self.n_top, seed=self.seed)

    def cells(self, ranks: sparse.csr_matrix) -> SetActivity:
        """Activity in single cells, from :meth:`ranks`; a cell's figures do not depend on other cells of the block."""
        w = ranks.astype(np.float64)
        mean = self.mean
        square, cross = w.multiply(w).tocsr(), w.multiply(mean[None, :]).tocsr()
        # power sums of v = w - mean within bins, (n, K), from the few entries of w and constants
        s1 = w @ self.bins - mean @ self.bins
        s2 = (square - 2 * cross) @ self.bins + (mean**2) @ self.bins
        cube = square.multiply(w) - 3 * square.multiply(mean[None, :]) + 3 * cross.multiply(mean[None, :])
        s3 = sparse.csr_matrix(cube) @ self.bins - (mean**3) @ self.bins
        observed = (w @ self.members).toarray() - mean @ self.members
        sums = [x.toarray() if sparse.issparse(x) else np.asarray(x) for x in (s1, s2, s3)]
        found = self._test(area(ranks, self.members, self.n_top), observed, *sums)
        empty = np.diff(ranks.indptr) == 0  # nothing is active in a cell without counts
        found.z[empty], found.p[empty], found.q[empty] = 0.0, 1.0, 1.0
        return found

    def group_means(
        self, source: CellSource, codes: np.ndarray, n_groups: int, *, batch_size: int | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Mean weights inside and outside each group, two (n_groups, G) float64; cells with code -1 are in no group."""
        total, everyone, first = np.zeros((n_groups, len(self.mean))), np.zeros(len(self.mean)), 0
        for cells in source.blocks(batch_size):
            of = codes[first : first + cells.n_cells]
            w = self.ranks(cells.counts)
            member = sparse.csr_matrix(
                (np.ones(cells.n_cells), (of.clip(0), np.arange(cells.n_cells))), (n_groups, cells.n_cells)
            )
            member.data[of[member.indices] < 0] = 0.0
            total += (member @ w).toarray()
            everyone += np.asarray(w.sum(axis=0, dtype=np.float64)).ravel()
            first += cells.n_cells
        n = np.bincount(codes[codes >= 0], minlength=n_groups)[:, None].astype(np.float64)
        return total / np.maximum(n, 1), (everyone - total) / np.maximum(len(codes) - n, 1)

    def groups(self, inside: np.ndarray, outside: np.ndarray) -> SetActivity:
        """Activity of groups of cells against the cells outside them.

        Parameters
        ----------
        inside, outside
            (n_groups, G) mean weights of the cells of each group, and of all other cells.
        """
        v = inside - outside
        sums = [(v**k) @ self.bins for k in (1, 2, 3)]
        score = inside @ self.members / np.maximum(largest_area(self.n_genes, self.n_top), 1.0)
        return self._test(score.astype(np.float32), v @ self.members, *sums)

    def _test(
        self, score: np.ndarray, observed: np.ndarray, s1: np.ndarray, s2: np.ndarray, s3: np.ndarray
    ) -> SetActivity:
        size, drawn = self.sizes, self.drawn
        mean = s1 / size
        second = np.maximum(s2 / size - mean**2, 0.0)  # central moments within bins
        third = s3 / size - 3 * mean * s2 / size + 2 * mean**3
        # sampling m of N without replacement: variance m σ² (N - m) / (N - 1), third moment m κ (N - m)(N - 2m) / ((N - 1)(N - 2))
        left = size[:, None] - drawn
        of_variance = drawn * left / np.maximum(size[:, None] - 1, 1)
        of_third = of_variance * (size[:, None] - 2 * drawn) / np.maximum(size[:, None] - 2, 1)
        sd = np.sqrt(np.maximum(second @ of_variance, 1e-12))
        skew = (third @ of_third) / sd**3
        z = (observed - mean @ drawn) / sd
        p = upper_tail(z, skew)
        q = stats.false_discovery_control(p, axis=1, method="bh") if len(p) else p
        return SetActivity(score, z.astype(np.float32), p, q)


def upper_tail(z: np.ndarray, skew: np.ndarray) -> np.ndarray:
    """Upper tail of the Pearson type III distribution of mean 0, standard deviation 1 and a skewness; normal at 0."""
    # below, the gamma distribution has more than 10,000 as its shape, and is normal
    bent = np.abs(skew) > 0.02
    shape = 4.0 / np.where(bent, skew, 1.0) ** 2
    at = np.maximum(shape + np.sign(skew) * z * np.sqrt(shape), 0.0)
    tail = np.where(skew > 0, special.gammaincc(shape, at), special.gammainc(shape, at))
    return np.where(bent, tail, special.ndtr(-z))
