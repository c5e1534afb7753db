"""Reference space: a small picture of the reference, to say how unlike it a cell is."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from scipy import sparse

_N_NEIGHBOURS = 10  # distances are averaged over these: one odd landmark must not make a cell familiar
_N_LANDMARKS = 2000  # reference cells kept: enough for the density of common types, small in a checkpoint (0.4 MB)
_N_VARIABLE = 2000  # genes of highest variance of log-normalised counts; the rest is noise to a distance


class ReferenceSpace(NamedTuple):
    """Principal subspace of a reference with landmark cells in it.

    The novelty of a cell is :math:`d / (d + q)`, where :math:`d` is its mean Euclidean distance to its ten nearest landmarks
    in the space of the first principal components of log-normalised counts, and :math:`q` the 95th percentile of the same
    distance over reference cells that were held out. So 0.5 is the most unusual twentieth of the reference itself, and
    values near 1 lie far outside. A new batch or protocol raises the novelty of all its cells: compare cells of a data set
    with each other before reading a high value as a new type.
    """

    genes: np.ndarray  # (V,) int64, columns used
    components: np.ndarray  # (V, D) float32
    landmarks: np.ndarray  # (N, D) float32
    scale: float  # 95th percentile of held-out distances

    @classmethod
    def fit(
        cls, lognormal: sparse.csr_matrix, held_out: sparse.csr_matrix, *, n_components: int, seed: int
    ) -> ReferenceSpace:
        """Fit the space on reference cells and its scale on others.

        Parameters
        ----------
        lognormal
            (n_cells, n_genes) log-normalised counts.
        held_out
            Cells of the same reference that are not in ``lognormal``; when there are fewer than 20, the scale comes from
            ``lognormal`` itself (distances to the nearest *other* landmarks).
        n_components
            Upper bound on the dimension; never more than cells or genes allow.
        seed
            Of the choice of landmarks and of the randomised decomposition.
        """
        from sklearn.decomposition import TruncatedSVD
        from threadpoolctl import threadpool_limits

        rng = np.random.default_rng(seed)
        mean = np.asarray(lognormal.mean(axis=0)).ravel()
        variance = np.asarray(lognormal.multiply(lognormal).mean(axis=0)).ravel() - mean**2
        genes = np.sort(np.argsort(-variance, kind="stable")[:_N_VARIABLE])
        chosen = lognormal
        if lognormal.shape[0] > _N_LANDMARKS:
            chosen = lognormal[np.sort(rng.choice(lognormal.shape[0], _N_LANDMARKS, replace=False))]
        chosen = chosen[:, genes]
        n_components = max(1, min(n_components, min(chosen.shape) - 1))
        if min(chosen.shape) < 2:  # one cell or one gene: no decomposition, the identity keeps what there is
            components = np.eye(len(genes), n_components, dtype=np.float32)
        else:
            # Thin matrices: threads of BLAS would wait for each other longer than they compute.
            with threadpool_limits(1, user_api="blas"):
                svd = TruncatedSVD(n_components, random_state=np.random.RandomState(seed)).fit(chosen)
            components = np.ascontiguousarray(svd.components_.T, dtype=np.float32)
        space = cls(genes.astype(np.int64), components, np.asarray(chosen @ components, dtype=np.float32), 1.0)
        distance = (
            space._distance(space.project(held_out))
            if held_out.shape[0] >= 20
            else space._distance(space.landmarks, own=True)
        )
        scale = float(np.quantile(distance, 0.95)) if len(distance) else 1.0
        return space._replace(scale=scale if scale > 0 else 1.0)

    def project(self, lognormal: sparse.csr_matrix, fill: np.ndarray | None = None) -> np.ndarray:
        """(n_cells, D) float32 coordinates; ``fill`` (n_genes,) holds values of genes that the data lacks, 0 elsewhere."""
        used = lognormal if len(self.genes) == lognormal.shape[1] else lognormal[:, self.genes]
        points = np.asarray(used @ self.components, dtype=np.float32)
        return points if fill is None else points + fill[self.genes] @ self.components

    def _distance(self, points: np.ndarray, *, own: bool = False) -> np.ndarray:
        """(n_cells,) mean distance to the nearest landmarks; ``own`` leaves out the nearest one (the cell itself)."""
        from sklearn.neighbors import NearestNeighbors

        n = min(_N_NEIGHBOURS + int(own), len(self.landmarks))
        distance = NearestNeighbors(n_neighbors=n, algorithm="brute").fit(self.landmarks).kneighbors(points)[0]
        return distance[:, 1:].mean(axis=1) if own and n > 1 else distance.mean(axis=1)

    def novelty(self, lognormal: sparse.csr_matrix, fill: np.ndarray | None = None) -> np.ndarray:
        """(n_cells,) float64 in [0, 1)."""
        distance = self._distance(self.project(lognormal, fill)).astype(np.float64)
        return distance / (distance + self.scale)
