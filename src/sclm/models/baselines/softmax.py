"""Loss and gradient of weighted softmax regression on sparse cells, in numba."""

from __future__ import annotations

import numba
import numpy as np

from sclm.cells.kernels import per_cell

# n cells · G genes · K types. `rows` arrays are CSR of (n, G), `columns` arrays CSC of the same matrix.


@per_cell
def loss_and_residual(
    data: np.ndarray,
    indices: np.ndarray,
    indptr: np.ndarray,
    scale: np.ndarray,
    weights: np.ndarray,
    intercept: np.ndarray,
    codes: np.ndarray,
    importance: np.ndarray,
    residual: np.ndarray,
) -> float:
    """Summed loss; fills ``residual`` (n, K) with importance × (probability − truth).

    Scores are ``scale[i] · x_i W + b``; cells of importance 0 are skipped.
    """
    n, k_types = residual.shape
    total = 0.0
    for i in numba.prange(n):
        if importance[i] == 0:
            residual[i, :] = 0
            continue
        z = np.zeros(k_types, dtype=np.float32)
        for e in range(indptr[i], indptr[i + 1]):
            value, gene = data[e], indices[e]
            for k in range(k_types):
                z[k] += value * weights[gene, k]
        highest = np.float32(-np.inf)
        for k in range(k_types):
            z[k] = z[k] * scale[i] + intercept[k]
            highest = max(highest, z[k])
        summed = np.float32(0)
        for k in range(k_types):
            residual[i, k] = np.exp(z[k] - highest)
            summed += residual[i, k]
        total += importance[i] * (np.log(summed) + highest - z[codes[i]])
        for k in range(k_types):
            residual[i, k] *= importance[i] / summed
        residual[i, codes[i]] -= importance[i]
    return total


@per_cell
def add_gradient(
    data: np.ndarray,
    indices: np.ndarray,
    indptr: np.ndarray,
    scale: np.ndarray,
    residual: np.ndarray,
    gradient: np.ndarray,
) -> None:
    """Add Σᵢ scale[i] xᵢ ⊗ residual[i] to ``gradient`` (≥ G, K); one gene a thread, so nothing is written twice."""
    n_genes, k_types = len(indptr) - 1, residual.shape[1]
    for gene in numba.prange(n_genes):
        z = np.zeros(k_types, dtype=np.float32)
        for e in range(indptr[gene], indptr[gene + 1]):
            cell = indices[e]
            value = data[e] * scale[cell]
            for k in range(k_types):
                z[k] += value * residual[cell, k]
        for k in range(k_types):
            gradient[gene, k] += z[k]
