"""Standard errors of fractions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numba
import numpy as np

from sclm.cells.kernels import per_cell
from sclm.models.deconvolution.least_squares import products, triangle

if TYPE_CHECKING:
    from scipy import sparse

    from sclm.models.deconvolution.count_model import Fit


def fraction_errors(
    counts: sparse.csr_matrix, profile: np.ndarray, dispersion: np.ndarray, fit: Fit, profile_error: np.ndarray
) -> np.ndarray:
    r"""Standard error of each fraction, by the sandwich that holds where the model's variance does not.

    :math:`V = H^{-1} (\sum_g w_g^2 (y_g - \mu_g)^2 S_g S_g^T) H^{-1}` for abundances (Huber 1967), H the Fisher information;
    for fractions p = x/Σx by the delta method, :math:`J V J^T` with :math:`J = (I - p 1^T)/Σx`. The profiles themselves are
    means over few cells: to the squared residual of each gene their own error :math:`\\sum_k x_k^2 v_{kg}` is added, since the
    fit bends to it and does not show it.

    Parameters
    ----------
    counts
        (n, G) CSR.
    profile
        (K, G), platform factors included.
    dispersion
        (G,) φ.
    fit
        Of these spots.
    profile_error
        (K, G) v, squared standard errors of the profiles, on their scale.

    Returns
    -------
    (n, K) float64.
    """
    signature = np.ascontiguousarray(profile.T, dtype=np.float32)  # (G, K)
    mu = np.maximum(fit.abundance @ profile, 1e-9)
    weight = 1 / (mu + dispersion * mu**2)
    unsure = (fit.abundance**2) @ profile_error  # (n, G)
    spread = (weight**2 * ((counts.toarray() - mu) ** 2 + unsure)).astype(np.float32)  # (n, G)
    meat = (spread @ products(signature)).astype(np.float64)  # (n, K(K+1)/2)
    return _sandwich(fit.information, meat, fit.abundance, *triangle(len(profile)))


@per_cell
def _sandwich(
    information: np.ndarray, meat: np.ndarray, abundance: np.ndarray, rows: np.ndarray, columns: np.ndarray
) -> np.ndarray:
    """Square roots of the diagonal of J H⁻¹ M H⁻¹ Jᵀ, spot by spot."""
    n, k = abundance.shape
    out = np.empty((n, k))
    for s in numba.prange(n):
        h, m = np.empty((k, k)), np.empty((k, k))
        for t in range(len(rows)):
            h[rows[t], columns[t]] = h[columns[t], rows[t]] = information[s, t]
            m[rows[t], columns[t]] = m[columns[t], rows[t]] = meat[s, t]
        ridge = 0.0
        for i in range(k):
            ridge += h[i, i]
        for i in range(k):
            h[i, i] += 1e-6 * ridge / k
        inverse = np.linalg.inv(h)
        v = inverse @ m @ inverse
        total = abundance[s].sum()
        p = abundance[s] / total
        # (J V Jᵀ)_ii = (V_ii - 2 p_i Σ_j V_ij + p_i² Σ_jl V_jl) / total²
        whole = v.sum()
        for i in range(k):
            along = v[i].sum()
            out[s, i] = np.sqrt(max(v[i, i] - 2 * p[i] * along + p[i] * p[i] * whole, 0.0)) / total
    return out
