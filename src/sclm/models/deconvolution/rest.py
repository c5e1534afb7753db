"""What no type of the reference explains: one more profile, learnt from the section itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from sclm.models.deconvolution.count_model import fit_counts, fit_deviance

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scipy import sparse

_ROUNDS, _MORE_ROUNDS = 12, 6  # of the profile at first, and each time that the factors were found anew
_REFINED = 3  # times that the platform factors are found anew without what the profile explains
_SPOTS = 400  # that teach the profile
FEWEST_SPOTS = 10  # below, nothing can be said of what is unexplained
_GENES = 1000  # with most counts
_CLIP = 5.0  # residuals, so that no single spot decides
_SD = 0.3  # of the log by which a gene may be counted more than in the reference
_LEAST = 0.1  # share of a gene's counts that is left to the types


class Rest(NamedTuple):
    """The further component of a section: L libraries · K types · g genes that it is told by."""

    columns: np.ndarray  # (g,) int64 among the section's genes
    profile: np.ndarray  # (L, K, g) float64 of the types, with the platform factors of each library
    other: np.ndarray  # (g,) float64, on the scale of the types' profiles


def learn_rest(
    samples: Sequence[sparse.csr_matrix], fractions: Sequence[np.ndarray], profile: np.ndarray, dispersion: float
) -> Rest | None:
    """Find the profile beside the types that explains the section best.

    Genes that tell the reference's types apart may not tell a type that it lacks: those with most counts are used here. The
    profile begins with the direction in which residuals differ most between spots, then alternates between fitting all
    components and an expectation-maximisation step of this one profile, as in non-negative matrix factorisation. Platform
    factors found beforehand hold the mean of a missing type, and would leave spots with less than that without any: they are
    found anew from the totals less what the profile explains.

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
    rows = [np.arange(0, c.shape[0], max(1, c.shape[0] // each))[:each] for c in samples]
    parts = [c[r] for c, r in zip(samples, rows, strict=True)]
    if sum(part.shape[0] for part in parts) < FEWEST_SPOTS:
        return None
    counted = sum(np.asarray(part.sum(axis=0), dtype=np.float64).ravel() for part in parts)
    columns = np.sort(np.argsort(-counted, kind="stable")[:_GENES])
    base = profile[:, columns]
    phi = np.full(len(columns), dispersion)
    residuals, means, types, kept = [], [], [], []
    for part, fraction, r in zip(parts, fractions, rows, strict=True):
        total = np.asarray(part.sum(axis=1), dtype=np.float64).ravel()
        here = part[:, columns]
        mu = (fraction[r] * total[:, None]) @ base  # (n, g)
        factor = _factors(np.asarray(here.sum(axis=0), dtype=np.float64).ravel(), mu.sum(axis=0))
        mu = np.maximum(mu * factor, 1e-9)
        residuals.append(np.clip((here.toarray() - mu) / np.sqrt(mu + dispersion * mu**2), -_CLIP, _CLIP))
        means.append(mu)
        types.append(base * factor)
        kept.append(here)
    residual = np.concatenate(residuals)
    _, vectors = np.linalg.eigh(residual @ residual.T)  # (n, n): fewer spots than genes
    direction = vectors[:, -1] @ residual  # (g,)
    sign = np.sign(((residual @ direction) ** 3).mean()) or 1.0  # a missing type is in some spots, and there it adds
    other = np.maximum(sign * direction, 0) * np.sqrt(np.concatenate(means).mean(axis=0))
    if other.sum() <= 0:
        return None
    other *= base.sum(axis=1).mean() / other.sum()  # on the scale of the types
    other = _alternate(kept, types, phi, other, _ROUNDS)
    if not _beyond_chance(kept, types, other, phi):
        return None
    for _ in range(_REFINED):
        for i, here in enumerate(kept):
            x = fit_counts(here, np.vstack([types[i], other + 1e-9]), phi, steps=8).abundance
            observed = np.asarray(here.sum(axis=0), dtype=np.float64).ravel()
            left = np.maximum(observed - x[:, -1].sum() * other, _LEAST * observed)
            types[i] = base * _factors(left, x[:, :-1].sum(axis=0) @ base)
        other = _alternate(kept, types, phi, other, _MORE_ROUNDS)
    return Rest(columns, np.stack(types), other)


def _factors(observed: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """(g,) platform factors from totals, drawn to 1 by how little their counts say."""
    log = np.log((observed + 0.5) / (expected + 0.5))
    return np.exp(log * _SD**2 / (_SD**2 + 1 / (observed + 0.5)))


def _beyond_chance(
    parts: Sequence[sparse.csr_matrix], types: Sequence[np.ndarray], other: np.ndarray, phi: np.ndarray
) -> bool:
    """Whether the profile saves more deviance per number that it costs than is left per number that is free (F above 1).

    A further profile always explains something: on sections that hold nothing but the reference's types F is 0.6 to 0.9.
    """
    alone = left = 0.0
    n = 0
    for part, known in zip(parts, types, strict=True):
        both = np.vstack([known, other + 1e-9])
        alone += fit_deviance(part, fit_counts(part, known, phi).abundance @ known, phi).sum()
        left += fit_deviance(part, fit_counts(part, both, phi).abundance @ both, phi).sum()
        n += part.shape[0]
    g = len(other)
    free = max(n * g - n * len(types[0]) - n - g, 1)
    return bool((alone - left) / (n + g) > left / free)


def _alternate(
    parts: Sequence[sparse.csr_matrix], types: Sequence[np.ndarray], phi: np.ndarray, other: np.ndarray, rounds: int
) -> np.ndarray:
    """The profile after some rounds."""
    scale = other.sum()
    starts: list[np.ndarray | None] = [None] * len(parts)
    for _ in range(rounds):
        above, below = np.zeros_like(other), np.zeros_like(other)
        for i, (part, known) in enumerate(zip(parts, types, strict=True)):
            both = np.vstack([known, other + 1e-9])
            x = fit_counts(part, both, phi, start=starts[i], steps=4).abundance
            starts[i] = x
            mu = np.maximum(x @ both, 1e-9)
            weight = 1 / (1 + phi * mu)  # counts above their mean say less where they scatter more
            above += x[:, -1] @ (weight * part.toarray() / mu)
            below += x[:, -1] @ weight
        if not below.any():
            break
        other = other * above / np.maximum(below, 1e-12)
        other *= scale / max(other.sum(), 1e-12)
    return other


def rest_share(
    counts: sparse.csr_matrix, rest: Rest, library: int, dispersion: float, fraction: np.ndarray
) -> np.ndarray:
    """Share of the further profile among spots of a library, (n,) float64, 0-1; ``counts`` (n, G) in the section's genes."""
    total = np.asarray(counts.sum(axis=1), dtype=np.float64).ravel()
    both = np.vstack([rest.profile[library], rest.other + 1e-9])
    start = np.column_stack([0.95 * fraction, np.full(len(fraction), 0.05)]) * total[:, None]
    phi = np.full(len(rest.columns), dispersion)
    x = fit_counts(counts[:, rest.columns], both, phi, start=start).abundance
    return x[:, -1] / np.maximum(x.sum(axis=1), 1e-12)
