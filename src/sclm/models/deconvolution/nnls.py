"""Plain non-negative least squares on raw counts: the baseline that every count model has to beat."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from sclm.models.deconvolution.least_squares import solve, triangle
from sclm.models.deconvolution.mapper import Look, SignatureMapper

if TYPE_CHECKING:
    import pandas as pd

    from sclm.cells import Cells
    from sclm.models.contract import Mapping


class NNLS(SignatureMapper):
    """Non-negative least squares of a spot's counts on the types' mean counts (Lawson & Hanson 1974): a baseline.

    Minimises ‖y - Sx‖² over x ≥ 0 for each spot, with S the mean counts a cell of each type. Genes with most counts decide;
    no platform factors, no count noise. ``unexplained`` is the shortfall of the fitted counts, which is small whatever is missing.
    """

    family = "nnls"
    abilities = frozenset({"blocks"})

    def _look(
        self, genes: pd.Index, gene_rows: np.ndarray, libraries: list[str], library_key: str | None, seed: int
    ) -> NNLSLook:
        return NNLSLook(self, genes, gene_rows, libraries, library_key)


class NNLSLook(Look):
    """Least squares on one section."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._signature = self.profile * self.depth[:, None]  # (K, G) mean counts a cell
        self._gram = self._signature @ self._signature.T
        self._inverse = np.linalg.pinv(self._gram)
        self._packed = self._gram[triangle(len(self._gram))][None, :]  # (1, K(K+1)/2)

    def map(self, cells: Cells, *, prior: np.ndarray | None = None) -> Mapping:
        """Types of a block of spots; ``prior`` is not used."""
        counts = self.counts(cells)
        linear = np.asarray(counts @ self._signature.T, dtype=np.float64)  # (n, K)
        found = solve(self._packed, linear, np.zeros_like(linear), 500, 1e-6)  # (n, K) cells
        # ‖y - Sx‖² without making y dense
        squares = np.asarray(counts.multiply(counts).sum(axis=1)).ravel()
        gram_x = found @ self._gram
        left = np.maximum(squares - 2 * (found * linear).sum(axis=1) + (found * gram_x).sum(axis=1), 0)
        flat = self._signature.mean(axis=0)
        alone = (counts @ flat) / (flat @ flat)  # the best multiple of the mean profile
        base = np.maximum(squares - alone * (counts @ flat), 1e-12)
        abundance = found * self.depth  # (n, K) counts
        total = np.maximum(abundance.sum(axis=1), 1e-12)
        degrees = max(len(self.genes) - len(self.categories), 1)
        spread = np.sqrt(np.outer(left / degrees, np.diag(self._inverse)))  # (n, K) standard errors of cells
        error = spread * self.depth / total[:, None]
        explained = np.clip(1 - left / base, 0, 1)
        counted = np.asarray(counts.sum(axis=1)).ravel()
        unexplained = np.clip(1 - total / np.maximum(counted, 1e-12), 0, 1)
        return self.answer(counts, self.library_of(cells), abundance, error, unexplained, explained)
