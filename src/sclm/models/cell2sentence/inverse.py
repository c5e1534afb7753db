"""From ranks back to expression: a line in the logarithm of the rank."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np
from scipy import stats

if TYPE_CHECKING:
    from scipy import sparse

_CELLS = 1024  # that the line is fitted on, at most
_LOG_RANK = 3.0  # ranks from about the thousandth on are left out: there, counts are ones and twos
SCALE = 1e4


@dataclasses.dataclass(frozen=True, kw_only=True)
class InverseRank:
    r"""Expression of a gene from its rank r (0 the highest): :math:`y = a + b \log_{10}(1 + r)`, never below 0.

    :math:`y = \log_{10}(1 + 10^4 c / \sum c)`, as in Cell2Sentence (Levine et al., ICML 2024). The line is fitted by least squares on
    all expressed genes of some cells whose :math:`\log_{10}(1 + r) < 3`.
    """

    intercept: float  # a
    slope: float  # b
    depth: float  # median total counts of the cells, for whole counts
    r2: float  # share of the variance that the line explains
    pearson: float  # of expression and the logarithm of the rank
    spearman: float

    @classmethod
    def fit(cls, counts: sparse.csr_matrix, *, seed: int = 0) -> InverseRank:
        """Fit the line on raw counts, CSR (n_cells, n_genes), of at most 1,024 cells drawn by `seed`.

        Ranks of equal counts follow the columns; that moves no point of a cell off its count, only along the rank.

        Raises
        ------
        ValueError
            If no cell has two expressed genes of different counts.
        """
        rows = np.arange(counts.shape[0])
        if len(rows) > _CELLS:
            rows = np.sort(np.random.default_rng(seed).choice(len(rows), _CELLS, replace=False))
        xs, ys, totals = [], [], []
        for row in rows:
            values = counts.data[counts.indptr[row] : counts.indptr[row + 1]].astype(np.float64)
            values = np.sort(values[values > 0])[::-1]
            if not len(values):
                continue
            totals.append(values.sum())
            x = np.log10(1 + np.arange(len(values)))
            keep = x < _LOG_RANK
            xs.append(x[keep])
            ys.append(np.log10(1 + SCALE * values[keep] / totals[-1]))
        x = np.concatenate(xs) if xs else np.zeros(0)
        y = np.concatenate(ys) if ys else np.zeros(0)
        if len(x) < 2 or x.std() == 0 or y.std() == 0:
            raise ValueError(f"expected cells with expressed genes of different counts, found {len(x)} usable values.")
        line = stats.linregress(x, y)
        return cls(
            intercept=float(line.intercept),
            slope=float(line.slope),
            depth=float(np.median(totals)),
            r2=float(line.rvalue**2),
            pearson=float(line.rvalue),
            spearman=float(stats.spearmanr(x, y).statistic),
        )

    def expression(self, positions: np.ndarray) -> np.ndarray:
        """log10(1 + counts per 10,000), float64, of genes at these ranks."""
        return np.maximum(self.intercept + self.slope * np.log10(1 + np.asarray(positions, dtype=np.float64)), 0.0)

    def counts(self, positions: np.ndarray, depth: float | None = None) -> np.ndarray:
        """Whole counts at a depth (None: that of the cells fitted on); a gene that is named has at least one."""
        relative = (10 ** self.expression(positions) - 1) / SCALE
        return np.maximum(np.round(relative * (self.depth if depth is None else depth)), 1.0)
