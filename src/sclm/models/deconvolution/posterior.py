"""Sections of single cells: which type a cell is, by a tempered posterior."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.special import softmax

from sclm.models.deconvolution.mapper import Look
from sclm.models.deconvolution.signatures import reliable_profile

if TYPE_CHECKING:
    import pandas as pd
    from scipy import sparse

    from sclm.cells import Cells
    from sclm.models.contract import Mapping
    from sclm.models.deconvolution.model import Deconvolution

_ROUNDS = 5  # of learning how frequent the types are
_BACKGROUND = 0.05  # of the mean profile in every type's: a cell is less of a mixture than a spot


class CellLook(Look):
    r"""Each spot is one cell of one type.

    The posterior of type k is the softmax over types of :math:`\frac1T \sum_g y_g \log S_{kg} + \log π_k`, with frequencies π
    learnt from the section and T > 1 because counts of one type's cells differ by more than chance.
    """

    resolution = "cell"

    def __init__(self, model: Deconvolution, genes: pd.Index, gene_rows: np.ndarray, libraries: list[str], library_key: str | None) -> None:  # fmt: skip
        super().__init__(model, genes, gene_rows, libraries, library_key)
        self.profile = reliable_profile(model.signatures, gene_rows, _BACKGROUND).profile
        self._log = np.log(self.profile.T).astype(np.float32)  # (G, K)
        self._mean = self.profile.mean(axis=0)
        self.frequency = np.full(len(self.categories), 1 / len(self.categories))
        self._temperature = model.config.temperature

    def learn(self, samples: list[sparse.csr_matrix], shift: float) -> None:
        """Frequencies of the types; platform factors are not told from them in a panel of markers, and stay 1."""
        logits = np.concatenate([np.asarray(s @ self._log) for s in samples]) / self._temperature
        for _ in range(_ROUNDS):
            posterior = softmax(logits + np.log(self.frequency), axis=1)
            self.frequency = (posterior.sum(axis=0) + 1) / (len(posterior) + len(self.frequency))

    def map(self, cells: Cells, *, prior: np.ndarray | None = None) -> Mapping:
        """Types of a block of cells; ``prior`` (n, K) adds its share to the frequencies."""
        counts = self.counts(cells)
        total = np.asarray(counts.sum(axis=1), dtype=np.float64).ravel()
        weight = np.log(self.frequency)[None, :]
        if prior is not None:
            mass = prior.sum(axis=1, keepdims=True)
            local = np.divide(prior, mass, out=np.tile(self.frequency, (len(prior), 1)), where=mass > 0)
            strength = mass / np.maximum(total[:, None] + mass, 1e-12)
            weight = np.log((1 - strength) * self.frequency + strength * local + 1e-9)
        scores = np.asarray(counts @ self._log, dtype=np.float64)  # (n, K)
        posterior = softmax(scores / self._temperature + weight, axis=1)
        # Deviances of a multinomial from the saturated model: 2 Σ y log(y / (N p))
        logs = counts.copy()
        logs.data = counts.data * np.log(np.maximum(counts.data, 1e-12))
        own = np.asarray(logs.sum(axis=1)).ravel() - total * np.log(np.maximum(total, 1e-12))
        flat = np.asarray(counts @ np.log(self._mean)).ravel()
        best = (posterior * scores).sum(axis=1)
        explained = np.clip(1 - (own - best) / np.maximum(own - flat, 1e-9), 0, 1)
        error = np.sqrt(posterior * (1 - posterior))
        unexplained = self._unlikely(counts, posterior, total)
        return self.answer(counts, self.library_of(cells), posterior * total[:, None], error, unexplained, explained)

    def _unlikely(self, counts: sparse.csr_matrix, posterior: np.ndarray, total: np.ndarray) -> np.ndarray:
        """Share of a cell's counts beyond what its type expects, less what chance alone gives at this depth.

        That is half the distance between the two distributions of counts.
        """
        out = np.zeros(len(total))
        best = posterior.argmax(axis=1)
        size = 2048
        for start in range(0, len(total), size):
            rows = slice(start, start + size)
            y = counts[rows].toarray()
            expected = self.profile[best[rows]] * total[rows, None]  # (b, G)
            beyond = np.maximum(y - expected, 0).sum(axis=1)
            # E max(y - μ, 0) of a Poisson is μ^{⌊μ⌋+1} e^{-μ} / ⌊μ⌋!; panels have μ < 1 nearly everywhere: μ e^{-μ} there
            chance = np.where(expected < 1, expected * np.exp(-expected), np.sqrt(expected / (2 * np.pi))).sum(axis=1)
            out[rows] = np.clip((beyond - chance) / np.maximum(total[rows], 1e-12), 0, 1)
        return out
