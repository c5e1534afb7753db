"""What is usual for a cell of its group and depth: a location and a spread that follow depth, and tail probabilities."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

_KNOTS = (0.05, 0.35, 0.65, 0.95)  # quantiles of depth: linear beyond the outer ones, where few cells were seen
_SHRINK = 30.0  # cells: a group of this size counts as much as the whole in its spread and its slope
_HUBER = 1.345  # residuals beyond this many spreads pull no harder
_GRID = 2001  # order statistics kept: steps of 0.05 %
_TAIL_CELLS = 25  # cells behind an extrapolated tail


class DepthBand(NamedTuple):
    r"""Usual values :math:`m_g(x) \pm s_g(x)` of a per-cell figure in group :math:`g` at log10 depth :math:`x`.

    :math:`m_g(x) = f(x) + a_g + b_g (x - \bar x_g)`: :math:`f` is a natural cubic spline with four knots that all groups
    share, fitted by Huber's weights to values whose group medians are taken off. :math:`a_g` is the group's median residual,
    shrunk to the mean of all groups by empirical Bayes (weight :math:`\tau^2 / (\tau^2 + v_g)`, :math:`v_g` the variance of
    a median, :math:`\tau^2` what is left of the variance between groups). :math:`b_g` is shrunk to 0 and the square of
    the spread to that of all groups, with weight :math:`n_g / (n_g + 30)`. The spread is half the distance between the 16th
    and 84th percentiles, times :math:`e^{h(x)}` with :math:`h` linear, times the uncertainty of :math:`a_g`.
    """

    knots: np.ndarray  # (4,) log10 depth
    curve: np.ndarray  # (4,) constant and three coefficients of the spline
    offset: np.ndarray  # (n_groups,) a
    slope: np.ndarray  # (n_groups,) b
    depth: np.ndarray  # (n_groups,) mean log10 depth
    spread: np.ndarray  # (n_groups,)
    widening: np.ndarray  # (2,) constant and slope of h
    floor: np.ndarray  # (1,) smallest spread

    @classmethod
    def fit(cls, y: np.ndarray, x: np.ndarray, groups: np.ndarray, n_groups: int, *, floor: float) -> DepthBand:
        """Fit to training cells.

        Parameters
        ----------
        y
            (n,) figure of each cell.
        x
            (n,) log10 depth, or zeros for a figure that has nothing to do with depth.
        groups
            (n,) codes in [0, n_groups). Groups without cells get the values of the whole.
        n_groups
            Number of groups.
        floor
            Smallest spread, in units of ``y``.
        """
        if not len(x):  # nothing to learn from, for example no group with markers
            return cls.fit(np.zeros(1), np.zeros(1), np.zeros(1, dtype=np.int64), n_groups, floor=floor)
        knots = np.quantile(x, _KNOTS)
        design = _spline(x, knots)  # (n, 4)
        cells = [np.flatnonzero(groups == g) for g in range(n_groups)]
        filled = [g for g in range(n_groups) if len(cells[g])]
        n = np.array([len(c) for c in cells], dtype=np.float64)
        medians, curve = np.zeros(n_groups), np.zeros(4)
        for _ in range(6):
            for g in filled:
                medians[g] = np.median(y[cells[g]] - design[cells[g]] @ curve)
            curve = _huber(design, y - medians[groups], curve)
        residual = y - design @ curve
        for g in filled:
            medians[g] = np.median(residual[cells[g]])

        inner = residual - medians[groups]
        depth, slope = np.full(n_groups, float(x.mean())), np.zeros(n_groups)
        prior = _SHRINK * float(x.var())
        for g in filled:
            depth[g] = x[cells[g]].mean()
            centred = x[cells[g]] - depth[g]
            scale = max(_half_width(inner[cells[g]]), 1e-12)
            strength = centred @ centred + prior
            slope[g] = centred @ np.clip(inner[cells[g]], -2 * scale, 2 * scale) / strength if strength > 0 else 0.0
        inner = inner - slope[groups] * (x - depth[groups])

        steps = np.column_stack([np.ones_like(x), x - x.mean()])
        size = np.log(np.abs(inner) + max(1e-3 * _half_width(inner), 1e-12))
        tilt = _huber(steps, size, np.array([np.median(size), 0.0]))[1]
        widening = np.array([-tilt * x.mean(), tilt])
        scaled = inner / np.exp(widening[0] + tilt * x)
        whole = max(_half_width(scaled), 1e-12)
        own = np.array([max(_half_width(scaled[c]), 1e-12) if len(c) > 2 else whole for c in cells])
        spread = np.sqrt((n * own**2 + _SHRINK * whole**2) / (n + _SHRINK))

        offset, variance = np.zeros(n_groups), np.zeros(n_groups)
        error = np.pi / 2 * np.exp(2 * widening[0] + 2 * tilt * depth) * spread**2  # of a median of one cell
        mean = np.average(medians, weights=n)
        between = float(np.average((medians - mean) ** 2, weights=n) - error[filled].sum() / n.sum())
        for g in range(n_groups):
            own_share = between / (between + error[g] / n[g]) if n[g] and between > 0 else 0.0
            offset[g] = mean + own_share * (medians[g] - mean)
            variance[g] = max(between, 0.0) * (1 - own_share)
        spread = np.sqrt(spread**2 + variance / np.exp(2 * widening[0] + 2 * tilt * depth))
        return cls(knots, curve, offset, slope, depth, spread, widening, np.array([floor]))

    def standardise(self, y: np.ndarray, x: np.ndarray, groups: np.ndarray) -> np.ndarray:
        """(n,) distance from what is usual, in spreads; arguments as in :meth:`fit`."""
        location = _spline(x, self.knots) @ self.curve + self.offset[groups]
        location += self.slope[groups] * (x - self.depth[groups])
        # Cells deeper or shallower than any that was seen: the spread stays that of the outer knots.
        seen = np.clip(x, self.knots[0], self.knots[-1])
        spread = np.exp(self.widening[0] + self.widening[1] * seen) * self.spread[groups]
        return (y - location) / np.maximum(spread, self.floor[0])


class Tails(NamedTuple):
    r"""Tail probabilities :math:`P(Z \ge z)` and :math:`P(Z \le z)` among training cells.

    The share of training cells, and beyond the outer 25 cells (or twentieth) an exponential tail through their mean excess
    (peaks over threshold with shape 0), since a small training set has no cell at its own 0.5 % quantile.
    """

    grid: np.ndarray  # (<= 2001,) ascending quantiles at even levels
    edge: np.ndarray  # (2,) where the lower and upper exponential tails begin
    excess: np.ndarray  # (2,) mean distance of the cells beyond
    share: np.ndarray  # (1,) share of cells beyond each edge

    @classmethod
    def fit(cls, z: np.ndarray) -> Tails:
        """Fit to (n,) figures of training cells."""
        z = np.sort(z)
        share = float(np.clip(_TAIL_CELLS / max(len(z), 1), 1e-6, 0.05))
        low, high = np.quantile(z, share), np.quantile(z, 1 - share)
        excess = [(low - z[z < low]).mean() if z[0] < low else 0.0, (z[z > high] - high).mean() if z[-1] > high else 0]
        grid = z if len(z) <= _GRID else np.quantile(z, np.linspace(0, 1, _GRID))
        return cls(grid, np.array([low, high]), np.maximum(excess, 1e-9), np.array([share]))

    def upper(self, z: np.ndarray) -> np.ndarray:
        """(n,) share of training cells with at least ``z``."""
        share = 1 - np.searchsorted(self.grid, z, side="left") / len(self.grid)
        beyond = self.share[0] * np.exp(-np.maximum(z - self.edge[1], 0) / self.excess[1])
        return np.where(z > self.edge[1], beyond, np.maximum(share, self.share[0]))

    def lower(self, z: np.ndarray) -> np.ndarray:
        """(n,) share of training cells with at most ``z``."""
        share = np.searchsorted(self.grid, z, side="right") / len(self.grid)
        beyond = self.share[0] * np.exp(-np.maximum(self.edge[0] - z, 0) / self.excess[0])
        return np.where(z < self.edge[0], beyond, np.maximum(share, self.share[0]))

    def both(self, z: np.ndarray) -> np.ndarray:
        """(n,) two-sided: twice the smaller tail, at most 1."""
        return np.minimum(1.0, 2 * np.minimum(self.lower(z), self.upper(z)))


def _half_width(values: np.ndarray) -> float:
    """Half the distance between the 16th and 84th percentiles: the standard deviation of a normal distribution."""
    low, high = np.quantile(values, (0.1587, 0.8413))
    return float(high - low) / 2


def _spline(x: np.ndarray, knots: np.ndarray) -> np.ndarray:
    """(n, 4) natural cubic spline: constant, linear, and two terms that are linear beyond the outer knots."""
    width = knots[-1] - knots[0]
    if not width > 0 or np.any(np.diff(knots) <= 0):  # one depth only
        return np.column_stack([np.ones_like(x), x - knots[0], np.zeros((len(x), 2))])
    t, k = (x - knots[0]) / width, (knots - knots[0]) / width
    bend = [(np.maximum(t - k[i], 0) ** 3 - np.maximum(t - k[3], 0) ** 3) / (k[3] - k[i]) for i in range(3)]
    return np.column_stack([np.ones_like(t), t, bend[0] - bend[2], bend[1] - bend[2]])


def _huber(design: np.ndarray, y: np.ndarray, start: np.ndarray) -> np.ndarray:
    """Coefficients of a regression with Huber's weights, from a start; directions without information stay 0."""
    coefficients = start
    for step in range(10):
        residual = y - design @ coefficients
        scale = 1.4826 * np.median(np.abs(residual - np.median(residual)))
        if step and scale <= 1e-12:
            break
        size = np.maximum(np.abs(residual), 1e-300)
        weight = np.sqrt(np.minimum(1.0, _HUBER * scale / size)) if step else np.ones_like(y)
        coefficients = np.linalg.lstsq(design * weight[:, None], y * weight, rcond=None)[0]
    return coefficients
