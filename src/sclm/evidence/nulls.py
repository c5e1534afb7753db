"""Nulls of random genes: what genes of the same abundance do, p values from it, and false discovery rates."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

MIN_NULL = 20  # genes below which a null says nothing about a tail
ALTERNATIVES = ("two-sided", "greater", "less")
_FOLDS = 10  # null genes are standardised by what was learnt without them
_RIDGE = 1e-3  # of the standardised features: keeps features that say the same from cancelling each other
_HUBER = 1.345
_TAIL = 0.2  # share of null genes behind an extrapolated tail …
_OUTER = 0.05  # … and share beyond which it is used: within, genes are counted


class NullTest(NamedTuple):
    """Effects against those of matched random genes.

    Attributes
    ----------
    mean, sd
        (n,) effect that a random gene of these features has, and its spread.
    z
        (n,) ``(effect - mean) / sd``.
    p
        (n,) share of random genes with an effect as extreme, given their own features; NaN where the effect is.
    """

    mean: np.ndarray
    sd: np.ndarray
    z: np.ndarray
    p: np.ndarray


class GeneNull:
    r"""Effects of random genes as a smooth function of their features, with pooled standardised residuals.

    :math:`m(x)` is a cubic in each feature plus their products, fitted with Huber's weights and a small ridge;
    :math:`\log s(x)` is linear in the features, fitted to the logarithm of the absolute residuals. Each null gene is
    standardised by what was learnt without its tenth of the genes, so that its :math:`z = (y - m) / s` is that of a gene that
    was not looked at. All of these are pooled: a p value is the share of them at least as extreme, :math:`(1 + k) / (1 + n)`,
    and beyond the outer twentieth a generalised Pareto tail through the exceedances of the outer fifth (by probability-weighted
    moments, shape held in [0, 0.5]: never lighter than exponential). That is how a few hundred genes give p values that are
    small enough for a screen.

    Parameters
    ----------
    effect
        (n,) effects of the null genes; genes with NaN are left out.
    features
        (n, k) what the effect of a gene without a role depends on, such as detection rate and mean expression.

    Raises
    ------
    ValueError
        If fewer than 20 null genes are left, or shapes do not fit.

    Attributes
    ----------
    null_z
        (n,) of each null gene by what was learnt without it; NaN for those without an effect.
    """

    def __init__(self, effect: ArrayLike, features: ArrayLike) -> None:
        y = np.asarray(effect, dtype=np.float64)
        x = np.asarray(features, dtype=np.float64)
        if y.ndim != 1 or x.ndim != 2 or len(x) != len(y):
            raise ValueError(
                f"effect (n,) and features (n, k) must describe the same genes, found {y.shape} and {x.shape}."
            )
        there = np.isfinite(y)
        if there.sum() < MIN_NULL:
            raise ValueError(
                f"at least {MIN_NULL} null genes with an effect are needed, found {int(there.sum())}. Ask for more null genes."
            )
        if not np.isfinite(x[there]).all():
            raise ValueError("features of null genes must be finite.")
        y, x = y[there], x[there]
        # Genes with related features are neighbours in the order of the first one: every fold spans all of it.
        fold = np.empty(len(y), dtype=np.int64)
        fold[np.lexsort(x.T[::-1])] = np.arange(len(y)) % _FOLDS
        z = np.empty(len(y))
        for i in range(_FOLDS):
            mean, sd = _Surface.fit(y[fold != i], x[fold != i]).at(x[fold == i])
            z[fold == i] = (y[fold == i] - mean) / sd
        self._surface = _Surface.fit(y, x)
        self.null_z = np.full(len(there), np.nan)
        self.null_z[there] = z
        ascending = np.sort(z)
        self._upper, self._lower = _Tail.fit(ascending), _Tail.fit(-ascending[::-1])

    def test(self, effect: ArrayLike, features: ArrayLike, *, alternative: str = "two-sided") -> NullTest:
        """Effects of other genes against this null.

        Parameters
        ----------
        effect
            (n,) effects; NaN stays NaN.
        features
            (n, k), as in the null. Outside the range of the null genes the nearest value inside counts.
        alternative
            ``"greater"`` (larger than random genes'), ``"less"`` or ``"two-sided"`` (twice the smaller of the two).

        Returns
        -------
        A :class:`NullTest`.
        """
        check_alternative(alternative)
        y = np.asarray(effect, dtype=np.float64)
        mean, sd = self._surface.at(np.asarray(features, dtype=np.float64))
        z = (y - mean) / sd
        greater, less = self._upper.share(z), self._lower.share(-z)
        both = np.minimum(1.0, 2 * np.minimum(greater, less))
        p = {"greater": greater, "less": less, "two-sided": both}[alternative]
        return NullTest(mean, sd, z, np.where(np.isfinite(z), p, np.nan))


class _Surface(NamedTuple):
    """Location and spread of effects as functions of features."""

    centre: np.ndarray  # (k,)
    scale: np.ndarray  # (k,)
    low: np.ndarray  # (k,) range of the standardised features
    high: np.ndarray  # (k,)
    location: np.ndarray  # coefficients
    spread: np.ndarray  # (1 + k,) of the logarithm
    floor: float

    @classmethod
    def fit(cls, y: np.ndarray, x: np.ndarray) -> _Surface:
        centre, scale = x.mean(axis=0), x.std(axis=0)
        scale = np.where(scale > 0, scale, 1.0)
        t = (x - centre) / scale
        low, high = np.quantile(t, 0.01, axis=0), np.quantile(t, 0.99, axis=0)
        t = np.clip(t, low, high)
        location = _robust(_cubic(t), y)
        residual = np.abs(y - _cubic(t) @ location)
        floor = max(1e-3 * float(np.median(residual)), 1e-9 * float(np.abs(y).max()), 1e-300)
        lines = np.column_stack([np.ones(len(t)), t])
        spread = _ridge(lines, np.log(np.maximum(residual, floor)), np.ones(len(t)))
        # The mean of log |residual| lies 0.635 below log sd for a normal distribution.
        spread[0] += 0.635
        return cls(centre, scale, low, high, location, spread, floor)

    def at(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        t = np.clip((x - self.centre) / self.scale, self.low, self.high)
        log_sd = np.column_stack([np.ones(len(t)), t]) @ self.spread
        return _cubic(t) @ self.location, np.maximum(np.exp(log_sd), self.floor)


def _cubic(t: np.ndarray) -> np.ndarray:
    """(n, 1 + 3k + k(k-1)/2): constant, powers of each feature, products of two."""
    pairs = [t[:, i] * t[:, j] for i, j in itertools.combinations(range(t.shape[1]), 2)]
    return np.column_stack([np.ones(len(t)), t, t**2, t**3, *pairs])


def _ridge(design: np.ndarray, y: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Weighted least squares; all coefficients but the constant are drawn to 0 a little."""
    penalty = _RIDGE * weight.sum() * np.eye(design.shape[1])
    penalty[0, 0] = 0.0
    gram = (design * weight[:, None]).T @ design + penalty
    return np.linalg.solve(gram, design.T @ (weight * y))


def _robust(design: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The same with Huber's weights: a null gene with a role of its own bends the curve no further than others."""
    weight = np.ones(len(y))
    for _ in range(8):
        coefficients = _ridge(design, y, weight)
        residual = np.abs(y - design @ coefficients)
        scale = 1.4826 * float(np.median(residual))
        if scale <= 0:
            break
        weight = np.minimum(1.0, _HUBER * scale / np.maximum(residual, 1e-300))
    return coefficients


class _Tail(NamedTuple):
    """Upper tail of a sample: its ranks, and beyond the outer twentieth a generalised Pareto distribution."""

    z: np.ndarray  # ascending
    foot: float  # the exceedances of the outer fifth over this are what the distribution is fitted to
    edge: float  # where it takes over from the ranks
    share_beyond: float  # share of the sample above the edge
    shape: float
    scale: float

    @classmethod
    def fit(cls, z: np.ndarray) -> _Tail:
        n = len(z)
        k, outer = max(math.ceil(_TAIL * n), 10), max(math.ceil(_OUTER * n), 5)
        foot, edge = float(z[n - k - 1]), float(z[n - outer - 1])
        excess = z[n - k :] - foot  # ascending
        # Hosking and Wallis 1987: b0 = E[X], b1 = E[X (1 - F(X))]
        b0 = float(excess.mean())
        b1 = float((excess * (np.arange(k)[::-1] / (k - 1))).mean())
        shape = 2.0 - b0 / (b0 - 2 * b1) if b0 > 2 * b1 > 0 else 0.5
        shape = float(np.clip(shape, 0.0, 0.5))
        return cls(z, foot, edge, (outer + 1) / (n + 1), shape, max(b0 * (1 - shape), 1e-12))

    def share(self, z: np.ndarray) -> np.ndarray:
        """Share of the sample at least as large."""
        n = len(self.z)
        inside = (1 + n - np.searchsorted(self.z, z, side="left")) / (n + 1)
        beyond = self.share_beyond * self._survival(z) / self._survival(np.array(self.edge))
        return np.where(z > self.edge, beyond, np.maximum(inside, self.share_beyond))

    def _survival(self, z: np.ndarray) -> np.ndarray:
        over = np.maximum(np.nan_to_num(z, nan=self.foot) - self.foot, 0.0) / self.scale
        return np.exp(-over) if self.shape < 1e-6 else (1 + self.shape * over) ** (-1 / self.shape)


def matched_genes(
    features: ArrayLike, listed: ArrayLike, candidates: ArrayLike, n: int, *, seed: int = 0
) -> np.ndarray:
    """Random genes outside a list that are as abundant as those on it.

    The listed genes take turns in random order; each takes the nearest candidate that is left, by Euclidean distance of the
    standardised features.

    Parameters
    ----------
    features
        (n_genes, k) such as detection rate and mean expression in the same cells.
    listed
        Positions of the listed genes.
    candidates
        Positions of the genes that may be taken; listed ones are left out.
    n
        Number of genes to take; fewer where there are not so many candidates.
    seed
        Of the order.

    Returns
    -------
    Positions of the genes taken, ascending, int64.
    """
    x = np.asarray(features, dtype=np.float64)
    listed = np.unique(np.asarray(listed, dtype=np.int64))
    free = np.setdiff1d(np.asarray(candidates, dtype=np.int64), listed)
    if n < 1 or not len(listed) or not len(free):
        raise ValueError(
            f"expected at least one gene to take, one listed and one candidate; found {n}, {len(listed)} and {len(free)}."
        )
    scale = x[free].std(axis=0)
    t = x / np.where(scale > 0, scale, 1.0)
    rng = np.random.default_rng(seed)
    taken: list[int] = []
    while len(taken) < n and len(free):
        for gene in rng.permutation(listed)[: n - len(taken)]:
            nearest = int(((t[free] - t[gene]) ** 2).sum(axis=1).argmin())
            taken.append(int(free[nearest]))
            free = np.delete(free, nearest)
            if not len(free):
                break
    return np.sort(np.array(taken, dtype=np.int64))


def benjamini_hochberg(p: ArrayLike) -> np.ndarray:
    """False discovery rate at which each test would just be called, by Benjamini and Hochberg (1995).

    Parameters
    ----------
    p
        (n,) p values in [0, 1]; NaN, a test that was not made, stays NaN and does not count.

    Returns
    -------
    (n,) float64 q values.

    Examples
    --------
    >>> benjamini_hochberg([0.01, 0.02, float("nan"), 0.9])
    array([0.03, 0.03,  nan, 0.9 ])
    """
    from scipy.stats import false_discovery_control

    values = np.asarray(p, dtype=np.float64)
    q = np.full(values.shape, np.nan)
    made = np.isfinite(values)
    if made.any():
        q[made] = false_discovery_control(values[made], method="bh")
    return q


def check_alternative(alternative: str) -> None:
    """Refuse what is none of the three alternatives."""
    if alternative not in ALTERNATIVES:
        raise ValueError(f"alternative must be one of {', '.join(map(repr, ALTERNATIVES))}, found {alternative!r}.")
