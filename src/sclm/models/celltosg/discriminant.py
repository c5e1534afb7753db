"""Softmax regression of the training types on the cells' profiles: the part of the answer that needs no language and no graph.

n cells · G genes · S training types
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy import sparse
from scipy.optimize import minimize

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

_LENGTH = 10.0  # of a cell's vector: a shallow cell and a deep one of a type look alike
_PENALTY = 0.01  # times the number of cells, of which at most 3,000 count
_MOST = 3000
_ITERATIONS = 200


class Discriminant(NamedTuple):
    """Weights (G, S) float32 and intercepts (S,) float32 for log-normalised counts scaled to length 10."""

    weights: np.ndarray
    intercepts: np.ndarray

    @classmethod
    def fit(cls, lognormal: sparse.csr_matrix, codes: np.ndarray, n_types: int) -> Discriminant:
        r"""Least :math:`-\sum_i w_i \log p_{i y_i} + \tfrac{\lambda}{2} \lVert W \rVert^2`, rare types heard by :math:`w_i \propto n_y^{-1/2}`."""
        x = to_length(lognormal)
        n, n_genes = x.shape
        weight = 1.0 / np.sqrt(np.maximum(np.bincount(codes, minlength=n_types), 1))[codes]
        weight *= n / weight.sum()
        ridge = _PENALTY * min(n, _MOST)
        rows = np.arange(n)
        mean = np.asarray(x.mean(axis=0)).ravel()  # centred genes: the same optimum, reached sooner

        def objective(flat: ArrayLike) -> tuple[float, np.ndarray]:
            parameters = np.asarray(flat).reshape(n_genes + 1, n_types)  # the last row: intercepts of centred genes
            w = parameters[:-1]
            scores = x @ w + (parameters[-1] - mean @ w)
            scores -= scores.max(axis=1, keepdims=True)
            p = np.exp(scores)
            p /= p.sum(axis=1, keepdims=True)
            loss = -(weight * np.log(np.maximum(p[rows, codes], 1e-30))).sum() + 0.5 * ridge * (w**2).sum()
            p[rows, codes] -= 1.0
            p *= weight[:, None]
            gradient = np.empty_like(parameters)
            gradient[-1] = p.sum(axis=0)
            gradient[:-1] = x.T @ p - np.outer(mean, gradient[-1]) + ridge * w
            return loss / n, gradient.ravel() / n

        start = np.zeros((n_genes + 1) * n_types)
        found = minimize(objective, start, jac=True, method="L-BFGS-B", options={"maxiter": _ITERATIONS, "ftol": 1e-6})
        best = found.x.reshape(n_genes + 1, n_types)
        w = best[:-1]
        return cls(w.astype(np.float32), (best[-1] - mean @ w).astype(np.float32))

    def scores(self, lognormal: sparse.csr_matrix, fill: np.ndarray | None = None) -> np.ndarray:
        """(n, S) float64; ``fill`` (G,) holds the usual values of genes that the data lack, 0 elsewhere."""
        squares = np.asarray(lognormal.multiply(lognormal).sum(axis=1)).ravel()
        scores = lognormal @ self.weights
        if fill is not None:
            squares = squares + fill @ fill
            scores = scores + fill @ self.weights
        length = np.where(squares > 0, _LENGTH / np.sqrt(np.maximum(squares, 1e-12)), 0.0)
        return (scores * length[:, None] + self.intercepts).astype(np.float64)


def to_length(lognormal: sparse.csr_matrix) -> sparse.csr_array:
    """Rows scaled to length 10; empty rows stay."""
    squares = np.asarray(lognormal.multiply(lognormal).sum(axis=1), dtype=np.float64).ravel()
    factor = np.where(squares > 0, _LENGTH / np.sqrt(np.maximum(squares, 1e-12)), 0.0)
    return sparse.csr_array(sparse.diags_array(factor) @ lognormal)
