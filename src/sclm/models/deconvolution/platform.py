"""How a section's platform counts genes differently from the reference's."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from sclm.models.deconvolution.count_model import block_size, fit_counts

if TYPE_CHECKING:
    from scipy import sparse

_SPOTS = 500  # evenly through the section: totals of genes need no more
_STEPS = 4  # of each fit: the next pass goes on from there


def platform_factors(
    counts: sparse.csr_matrix, profile: np.ndarray, reference_total: np.ndarray, dispersion: np.ndarray, *, sd: float, passes: int
) -> np.ndarray:  # fmt: skip
    r"""Factor of each gene, drawn to 1 by how little its counts say.

    After a fit, :math:`r_g = \log\frac{Y_g + ½}{\mu_g + ½}` compares what was counted with what the types predict, with
    variance :math:`v_g = 1/(Y_g + ½) + 1/(C_g + ½)`, C the counts of the reference; :math:`\log γ_g = r_g s²/(s² + v_g)`, its
    count-weighted mean 0. Passes are few: factors and rare types explain each other's residuals if left to it.

    Parameters
    ----------
    counts
        (n, G) CSR of spots with counts.
    profile
        (K, G) of the types.
    reference_total
        (G,) counts of the reference.
    dispersion
        (G,) φ.
    sd
        s, the expected standard deviation of the logarithms.
    passes
        Fits.

    Returns
    -------
    (G,) float64.
    """
    factors = np.ones(profile.shape[1])
    if counts.shape[0] == 0:
        return factors
    counts = counts[:: -(-counts.shape[0] // _SPOTS)]
    observed = np.asarray(counts.sum(axis=0), dtype=np.float64).ravel()
    size = block_size(profile.shape[1])
    parts = [counts[i : i + size] for i in range(0, counts.shape[0], size)]
    starts: list[np.ndarray | None] = [None] * len(parts)
    for _ in range(passes):
        abundance = np.zeros(len(profile))
        for i, part in enumerate(parts):
            found = fit_counts(part, profile * factors, dispersion, start=starts[i], steps=_STEPS).abundance
            starts[i] = found
            abundance += found.sum(axis=0)
        log = np.log((observed + 0.5) / (abundance @ profile + 0.5))
        log -= np.average(log, weights=observed)
        log *= sd**2 / (sd**2 + 1 / (observed + 0.5) + 1 / (reference_total + 0.5))
        factors = np.exp(log - np.average(log, weights=observed))
    return factors
