"""What any translation of RNA into proteins has to beat: each protein's mean, its own gene's RNA, ridge regression on components.

Legend of shapes: n cells · G genes · P proteins · D components.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import scipy.sparse as sp

from sclm.evidence.novelty import ReferenceSpace

if TYPE_CHECKING:
    from collections.abc import Sequence

# Penalties as multiples of the components' mean variance times the number of cells: from nearly none to nearly the mean.
_PENALTIES = np.logspace(-4, 1, 16)


class MeanFit(NamedTuple):
    """Each protein's mean over the training cells."""

    mean: np.ndarray  # (P,) float32

    @classmethod
    def learn(cls, targets: np.ndarray) -> MeanFit:
        """From proteins (n, P); NaN is left out, and a protein without any value has mean 0."""
        known = np.isfinite(targets)
        total = np.where(known, targets, 0).sum(axis=0, dtype=np.float64)
        return cls((total / np.maximum(known.sum(axis=0), 1)).astype(np.float32))

    def predict(self, n_cells: int) -> np.ndarray:
        """(n, P) float32."""
        return np.tile(self.mean, (n_cells, 1))


class OwnGeneFit(NamedTuple):
    r"""A line a protein: :math:`\hat y_{ip} = a_p + b_p x_{ip}`, x the mean log-normalised RNA of the genes that encode it."""

    genes: np.ndarray  # (2, m) int64: column of a gene, protein; one column of it for each gene that encodes a protein
    intercept: np.ndarray  # (P,) float32
    slope: np.ndarray  # (P,) float32, 0 for proteins without a gene in the data

    @classmethod
    def learn(cls, lognormal: sp.csr_matrix, targets: np.ndarray, columns: Sequence[Sequence[int]]) -> OwnGeneFit:
        """By least squares over the cells in which the protein was measured.

        Parameters
        ----------
        lognormal
            (n, G) log-normalised counts.
        targets
            (n, P), NaN where not measured.
        columns
            Columns of the genes of each protein, () where there are none.
        """
        genes = np.array([(g, p) for p, found in enumerate(columns) for g in found], dtype=np.int64).reshape(-1, 2).T
        x = _own(lognormal, genes, targets.shape[1])
        known = np.isfinite(targets)
        n = np.maximum(known.sum(axis=0), 1)
        y = np.where(known, targets, 0).astype(np.float64)
        x_mean, y_mean = np.where(known, x, 0).sum(axis=0) / n, y.sum(axis=0) / n
        centred = np.where(known, x - x_mean, 0)
        square = (centred**2).sum(axis=0)
        slope = np.where(square > 1e-8, (centred * (y - y_mean)).sum(axis=0) / np.maximum(square, 1e-8), 0.0)
        return cls(genes, (y_mean - slope * x_mean).astype(np.float32), slope.astype(np.float32))

    def predict(self, lognormal: sp.csr_matrix, fill: np.ndarray | None = None) -> np.ndarray:
        """(n, P) float32; ``fill`` (G,) holds values of genes that the data lacks, 0 elsewhere."""
        x = _own(lognormal, self.genes, len(self.slope), fill)
        return (self.intercept + self.slope * x).astype(np.float32)


class RidgeFit(NamedTuple):
    r"""Ridge regression on principal components of log-normalised counts, the penalty of each protein by generalised cross-validation.

    :math:`\hat B = (Z^\top Z + \lambda I)^{-1} Z^\top Y` with centred components Z; :math:`\lambda_p` minimises
    :math:`\tfrac1n \lVert y - \hat y \rVert^2 / (1 - \mathrm{tr}(H_\lambda) / n)^2` (Golub, Heath and Wahba, 1979).
    """

    genes: np.ndarray  # (V,) int64 columns that the components use
    components: np.ndarray  # (V, D) float32
    centre: np.ndarray  # (D,) float32
    intercept: np.ndarray  # (P,) float32
    weights: np.ndarray  # (D, P) float32

    @classmethod
    def learn(cls, lognormal: sp.csr_matrix, targets: np.ndarray, *, n_components: int = 50, seed: int = 0) -> RidgeFit:
        """From cells.

        Parameters
        ----------
        lognormal
            (n, G) log-normalised counts.
        targets
            (n, P), NaN where not measured.
        n_components
            D at most.
        seed
            Of the randomised decomposition.
        """
        space = ReferenceSpace.fit(lognormal, lognormal[:0], n_components=n_components, seed=seed)
        z = space.project(lognormal).astype(np.float64)  # (n, D)
        centre = z.mean(axis=0)
        z -= centre
        weights, intercept = np.zeros((z.shape[1], targets.shape[1])), np.zeros(targets.shape[1])
        known = np.isfinite(targets)
        done: dict[
            bytes, tuple[np.ndarray, np.ndarray, np.ndarray]
        ] = {}  # most proteins are measured in the same cells
        for p in range(targets.shape[1]):
            rows = known[:, p]
            if not rows.any():
                continue
            key = rows.tobytes()
            if key not in done:
                done = {key: np.linalg.svd(z[rows] - z[rows].mean(axis=0), full_matrices=False)}
            y = targets[rows, p].astype(np.float64)
            weights[:, p] = _ridge(*done[key], y - y.mean())
            intercept[p] = y.mean() - z[rows].mean(axis=0) @ weights[:, p]
        return cls(
            space.genes, space.components, centre.astype(np.float32), intercept.astype(np.float32), weights.astype(np.float32)
        )  # fmt: skip

    def predict(self, lognormal: sp.csr_matrix, fill: np.ndarray | None = None) -> np.ndarray:
        """(n, P) float32; ``fill`` (G,) holds values of genes that the data lacks, 0 elsewhere."""
        space = ReferenceSpace(self.genes, self.components, self.components[:0], 1.0)
        return (space.project(lognormal, fill) - self.centre) @ self.weights + self.intercept


def _own(lognormal: sp.csr_matrix, genes: np.ndarray, n_proteins: int, fill: np.ndarray | None = None) -> np.ndarray:
    """(n, P) float64: mean over the genes of each protein, 0 for those without."""
    column, protein = genes
    share = 1.0 / np.maximum(np.bincount(protein, minlength=n_proteins), 1)[protein]
    average = sp.csr_matrix((share, (column, protein)), shape=(lognormal.shape[1], n_proteins))
    found = np.asarray((lognormal @ average).todense(), dtype=np.float64)
    return found if fill is None else found + np.asarray(fill @ average)


def _ridge(u: np.ndarray, s: np.ndarray, vt: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(D,) weights of centred y from a singular value decomposition of the centred components."""
    n = len(y)
    usable = s > 1e-8 * max(float(s.max(initial=0)), 1e-300)
    if not usable.any():
        return np.zeros(vt.shape[1])
    u, s, vt = u[:, usable], s[usable], vt[usable]
    on = u.T @ y  # (D,)
    rest = max(float(y @ y - on @ on), 0.0)
    penalties = _PENALTIES * float((s**2).mean())
    kept = s**2 / (s**2 + penalties[:, None])  # (penalties, D)
    error = (((1 - kept) * on) ** 2).sum(axis=1) + rest
    free = np.maximum(1 - (kept.sum(axis=1) + 1) / n, 1e-3)  # + 1: the mean
    best = int(np.argmin(error / free**2))
    return vt.T @ (kept[best] * on / s)
