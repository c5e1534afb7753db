"""What no type of the reference explains: one more profile, learnt from the section itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy import sparse

from sclm.models.deconvolution.count_model import fit_counts, fit_deviance

if TYPE_CHECKING:
    from collections.abc import Sequence

_ROUNDS = 12
_SPOTS = 400  # that teach the profile
_GENES = 1000  # with most counts
_CLIP = 5.0  # residuals, so that no single spot decides
_SD = 0.3  # of the log by which a gene may be counted more than in the reference, here


class Rest(NamedTuple):
    """The further component of a section: K types · G genes of the section · g genes that it is told by."""

    columns: np.ndarray  # (g,) int64 among the section's genes
    profile: np.ndarray  # (K, g) float64 of the types, with platform factors
    other: np.ndarray  # (g,) float64, on the scale of the types' profiles


def learn_rest(
    samples: Sequence[sparse.csr_matrix], fractions: Sequence[np.ndarray], profile: np.ndarray, dispersion: float
) -> Rest | None:
    """Find the profile beside the types that explains the section best.

    Genes that tell the reference's types apart may not tell a type that it lacks: those with most counts are used here. The
    profile begins with the direction in which residuals differ most between spots, then alternates between fitting all
    components and an expectation-maximisation step of this one profile, as in non-negative matrix factorisation.

    Parameters
    ----------
    samples
        (n, G) CSR a library: spots with counts, all genes of the section.
    fractions
        (n, K) of the same spots, as the count model found them.
    profile
        (K, G) of the types, rows sum to 1.
    dispersion
        φ.

    Returns
    -------
    None where the section has too few spots, or the profile explains no more than chance.
    """
    each = max(_SPOTS // len(samples), 50)
    counts_parts, expected_parts = [], []
    for counts, fraction in zip(samples, fractions, strict=True):
        rows = np.arange(0, counts.shape[0], max(1, counts.shape[0] // each))[:each]
        part = counts[rows]
        total = np.asarray(part.sum(axis=1), dtype=np.float64).ravel()
        mu = (fraction[rows] * total[:, None]) @ profile  # (n, G)
        observed = np.asarray(part.sum(axis=0), dtype=np.float64).ravel()
        log = np.log((observed + 0.5) / (mu.sum(axis=0) + 0.5))
        factor = np.exp(log * _SD**2 / (_SD**2 + 1 / (observed + 0.5)))
        counts_parts.append(part)
        expected_parts.append(np.maximum(mu * factor, 1e-9))
        if len(counts_parts) == 1:
            platform = factor
    counts, mu = sparse.vstack(counts_parts, format="csr"), np.concatenate(expected_parts)
    if counts.shape[0] < 10:
        return None
    y = counts.toarray().astype(np.float64)
    residual = np.clip((y - mu) / np.sqrt(mu + dispersion * mu**2), -_CLIP, _CLIP)
    columns = np.sort(np.argsort(-y.sum(axis=0), kind="stable")[:_GENES])
    y, residual, mean = y[:, columns], residual[:, columns], mu[:, columns].mean(axis=0)
    counts = counts[:, columns]
    there = np.diff(counts.indptr) > 0
    counts, y, residual = counts[there], y[there], residual[there]
    types = profile[:, columns] * platform[columns]
    phi = np.full(len(columns), dispersion)
    fit = fit_counts(counts, types, phi)
    _, vectors = np.linalg.eigh(residual @ residual.T)  # (n, n): fewer spots than genes
    direction = vectors[:, -1] @ residual  # (g,)
    sign = np.sign(((residual @ direction) ** 3).mean()) or 1.0  # a missing type is in some spots, and there it adds
    start = np.maximum(sign * direction, 0) * np.sqrt(mean)
    if start.sum() <= 0:
        return None
    start *= types.sum(axis=1).mean() / start.sum()  # on the scale of the types
    other = _alternate(counts, y, types, phi, start, fit.abundance)
    return Rest(columns, types, other) if _beyond_chance(counts, types, other, phi, fit.abundance) else None


def _beyond_chance(
    counts: sparse.csr_matrix, types: np.ndarray, other: np.ndarray, phi: np.ndarray, abundance: np.ndarray
) -> bool:
    """Whether the profile saves more deviance per number that it costs than is left per number that is free (F above 1).

    A further profile always explains something: on sections that hold nothing but the reference's types F is 0.6 to 0.9.
    """
    alone = fit_deviance(counts, abundance @ types, phi).sum()
    both = np.vstack([types, other + 1e-9])
    left = fit_deviance(counts, fit_counts(counts, both, phi).abundance @ both, phi).sum()
    n, g = counts.shape
    free = max(n * g - n * len(types) - n - g, 1)
    return bool((alone - left) / (n + g) > left / free)


def _alternate(
    counts: sparse.csr_matrix, y: np.ndarray, types: np.ndarray, phi: np.ndarray, other: np.ndarray, start: np.ndarray
) -> np.ndarray:
    """The profile after some rounds."""
    scale = other.sum()
    x = np.column_stack([0.9 * start, 0.1 * start.sum(axis=1)])
    for _ in range(_ROUNDS):
        both = np.vstack([types, other + 1e-9])
        x = fit_counts(counts, both, phi, start=x, steps=4).abundance
        mass = x[:, -1]
        if mass.sum() <= 0:
            break
        mu = np.maximum(x @ both, 1e-9)
        weight = 1 / (1 + phi * mu)  # counts above their mean say less where they scatter more
        other = other * (mass @ (weight * y / mu)) / np.maximum(mass @ weight, 1e-12)
        other *= scale / max(other.sum(), 1e-12)
    return other


def rest_share(counts: sparse.csr_matrix, rest: Rest, dispersion: float, fraction: np.ndarray) -> np.ndarray:
    """Share of the further profile among a block's spots, (n,) float64, 0-1; ``counts`` (n, G) in the section's genes."""
    part = counts[:, rest.columns]
    total = np.asarray(counts.sum(axis=1), dtype=np.float64).ravel()
    both = np.vstack([rest.profile, rest.other + 1e-9])
    start = np.column_stack([0.95 * fraction, np.full(len(fraction), 0.05)]) * total[:, None]
    x = fit_counts(part, both, np.full(len(rest.columns), dispersion), start=start).abundance
    return x[:, -1] / np.maximum(x.sum(axis=1), 1e-12)
