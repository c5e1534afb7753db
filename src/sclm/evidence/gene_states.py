r"""Which genes are on in a cell: two levels of every gene, found in the data.

n cells · G genes · D depth bins
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numba
import numpy as np

from sclm.cells.kernels import per_cell

if TYPE_CHECKING:
    from scipy import sparse

_ROUNDS = 25
_BINS = 20  # of depth, for the cells that do not show a gene
_APART = 2.0  # least ratio of the two levels
_MIN_CELLS = 5  # cells that must show a gene, for its levels to mean something
_PRIOR = 1.0  # units of depth (10,000 counts) by which levels lean towards where they begin
UNIT = 1e4  # counts in a unit of depth


class GeneStates(NamedTuple):
    r"""Two levels of every gene and how many cells are at the upper one.

    The counts of a gene are a mixture of two Poisson distributions whose means rise with the depth of the cell,
    :math:`c_{ig} \sim (1 - \pi_g)\,\mathrm{Poisson}(d_i \lambda^0_g) + \pi_g\,\mathrm{Poisson}(d_i \lambda^1_g)`.

    Attributes
    ----------
    off, on
        (G,) float64 expected counts in 10,000, at the lower and the upper level.
    share
        (G,) float64 share of cells at the upper level.
    told
        (G,) bool: whether enough cells show the gene for this to mean something.
    """

    off: np.ndarray
    on: np.ndarray
    share: np.ndarray
    told: np.ndarray

    @classmethod
    def fit(cls, counts: sparse.csr_matrix) -> GeneStates:
        """Fit by expectation and maximisation, 25 rounds from the same start: no random numbers.

        Parameters
        ----------
        counts
            (n, G) raw counts of cells of all kinds; a few thousand are enough.
        """
        depth = np.asarray(counts.sum(axis=1, dtype=np.float64)).ravel() / UNIT
        use = depth > 0
        counts, depth = counts[use], depth[use]
        n_genes = counts.shape[1]
        columns = counts.tocsc()
        shown = np.diff(columns.indptr)
        mean = np.asarray(counts.sum(axis=0, dtype=np.float64)).ravel() / max(float(depth.sum()), 1e-9)
        order = np.argsort(depth, kind="stable")
        n_bins = max(min(_BINS, len(depth)), 1)
        bins = np.empty(len(depth), dtype=np.int64)
        bins[order] = np.arange(len(depth)) * n_bins // max(len(depth), 1)
        size = np.bincount(bins, minlength=n_bins).astype(np.float64)
        level = np.bincount(bins, weights=depth, minlength=n_bins) / np.maximum(size, 1)
        off, on, share = np.empty(n_genes), np.empty(n_genes), np.empty(n_genes)
        _fit(
            columns.data.astype(np.float64), columns.indices.astype(np.int64), columns.indptr.astype(np.int64), depth, bins, size, level,
            mean, off, on, share,
        )  # fmt: skip
        return cls(off, on, share, shown >= _MIN_CELLS)

    def log_ratio(self, counts: np.ndarray, depth: np.ndarray, genes: np.ndarray) -> np.ndarray:
        r"""(n, len(genes)) float64: :math:`\log P(c \mid \text{on}) - \log P(c \mid \text{off})`, 0 for genes that are not told.

        Parameters
        ----------
        counts
            (n, len(genes)) raw counts of these genes.
        depth
            (n,) total counts of the cells.
        genes
            Places of the genes.
        """
        on, off = self.on[genes], self.off[genes]
        ratio = counts * np.log(on / off) - (depth / UNIT)[:, None] * (on - off)
        return np.where(self.told[genes], np.clip(ratio, -30.0, 30.0), 0.0)

    def posterior(self, counts: np.ndarray, depth: np.ndarray, genes: np.ndarray) -> np.ndarray:
        """(n, len(genes)) float64 probability that each gene is on in each cell."""
        share = self.share[genes]
        return 1.0 / (1.0 + np.exp(-(self.log_ratio(counts, depth, genes) + np.log(share / (1 - share)))))


@per_cell
def _fit(
    data: np.ndarray, rows: np.ndarray, indptr: np.ndarray, depth: np.ndarray, bins: np.ndarray, size: np.ndarray, level: np.ndarray,
    mean: np.ndarray, off: np.ndarray, on: np.ndarray, share: np.ndarray,
) -> Any:  # fmt: skip
    n = depth.size
    for g in numba.prange(indptr.size - 1):
        zeros = size.copy()  # cells of each depth bin that do not show the gene
        for k in range(indptr[g], indptr[g + 1]):
            zeros[bins[rows[k]]] -= 1.0
        low, high, part = mean[g] * 0.3 + 1e-9, mean[g] * 4.0 + 1e-9, 0.2
        first_low, first_high = low, high
        for _ in range(_ROUNDS):
            step, gap = np.log(high / low), high - low
            odds = np.log(part / (1.0 - part))
            in_on, counts_on, counts_off, depth_on, depth_off = 0.0, 0.0, 0.0, 0.0, 0.0
            for k in range(indptr[g], indptr[g + 1]):
                d = depth[rows[k]]
                x = min(max(data[k] * step - d * gap + odds, -30.0), 30.0)
                r = 1.0 / (1.0 + np.exp(-x))
                in_on += r
                counts_on += r * data[k]
                counts_off += (1.0 - r) * data[k]
                depth_on += r * d
                depth_off += (1.0 - r) * d
            for b in range(size.size):
                x = min(max(-level[b] * gap + odds, -30.0), 30.0)
                r = zeros[b] / (1.0 + np.exp(-x))
                in_on += r
                depth_on += r * level[b]
                depth_off += (zeros[b] - r) * level[b]
            part = min(max((in_on + 1.0) / (n + 5.0), 1e-3), 0.9)
            high = (counts_on + _PRIOR * first_high) / (depth_on + _PRIOR)
            low = (counts_off + _PRIOR * first_low) / (depth_off + _PRIOR)
            high = max(high, _APART * low)
        off[g], on[g], share[g] = low, high, part
