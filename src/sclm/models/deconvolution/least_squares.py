"""Non-negative least squares for many spots at once, each with its own normal equations."""

from __future__ import annotations

import numba
import numpy as np

from sclm.cells.kernels import per_cell


@per_cell
def solve(packed: np.ndarray, linear: np.ndarray, start: np.ndarray, sweeps: int, tol: float) -> np.ndarray:
    """Minimise ½ xᵀHx - bᵀx over x ≥ 0 by coordinate descent, spot by spot.

    Parameters
    ----------
    packed
        (n, K(K+1)/2) float64 upper triangle of each spot's H, row by row; or (1, …): one H for all.
    linear
        (n, K) float64 b.
    start
        (n, K) float64, where to begin.
    sweeps
        Bound on passes over the coordinates.
    tol
        Stop when no coordinate moves by more than this share of the largest.

    Returns
    -------
    (n, K) float64.
    """
    n, k = linear.shape
    out = np.empty((n, k))
    shared = packed.shape[0] == 1
    for s in numba.prange(n):
        h = np.empty((k, k))
        row = packed[0] if shared else packed[s]
        at = 0
        for i in range(k):
            for j in range(i, k):
                h[i, j] = row[at]
                h[j, i] = row[at]
                at += 1
        x = start[s].copy()
        g = h @ x - linear[s]  # gradient
        for _ in range(sweeps):
            moved, largest = 0.0, 0.0
            for i in range(k):
                if h[i, i] <= 0:
                    continue
                new = max(0.0, x[i] - g[i] / h[i, i])
                step = new - x[i]
                if step != 0.0:
                    x[i] = new
                    for j in range(k):
                        g[j] += step * h[i, j]
                    moved = max(moved, abs(step))
                largest = max(largest, x[i])
            if moved <= tol * largest:
                break
        out[s] = x
    return out


def triangle(k: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of the packed upper triangle."""
    return np.triu_indices(k)


def products(signature: np.ndarray) -> np.ndarray:
    """(G, K(K+1)/2) products of each pair of columns of a (G, K) matrix: ``weights @ products`` packs SᵀWS."""
    rows, columns = triangle(signature.shape[1])
    return signature[:, rows] * signature[:, columns]
