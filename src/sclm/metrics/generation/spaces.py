"""The space that cells are compared in: principal components of log-normalised counts, fitted on stated cells.

Which cells a space is fitted on matters more than how. Fifty components of a few thousand cells follow the noise of those
very cells: in a space fitted on training cells alone, held-out cells have less variance than training cells, and another real
half, which should be the best of all comparisons, looks worse than a naive generator. So a space for comparing two sides is
fitted on as many cells of both.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    import scipy.sparse as sp

N_GENES = 2000  # of highest variance; the rest is noise to a distance
N_COMPONENTS = 50


class Space(NamedTuple):
    """Truncated singular vectors (principal components without centring) of log1p CP10k.

    Attributes
    ----------
    genes
        (V,) int64, the columns used.
    components
        (V, D) float64, orthonormal columns.
    """

    genes: np.ndarray
    components: np.ndarray

    @classmethod
    def fit(cls, log: sp.csr_matrix, genes: np.ndarray, *, n_components: int = N_COMPONENTS, seed: int) -> Space:
        """Fit on some cells, by randomised projection.

        Parameters
        ----------
        log
            (n, G) log-normalised counts.
        genes
            (V,) columns to use.
        n_components
            Upper bound on the dimension D; never more than cells or genes allow.
        seed
            Of the projection.
        """
        from sklearn.decomposition import TruncatedSVD

        model = TruncatedSVD(min(n_components, len(genes), log.shape[0]), random_state=seed).fit(log[:, genes])
        return cls(genes, model.components_.T)

    def transform(self, log: sp.csr_matrix) -> np.ndarray:
        """Place of each cell, (n, D) float64.

        Parameters
        ----------
        log
            (n, G) log-normalised counts, the genes of the fit.
        """
        return np.asarray(log[:, self.genes] @ self.components)
