"""Are predicted mean profiles ones that cells could have? Real control cells are moved by the predicted change and judged."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import scipy.sparse as sp

from sclm.evidence.figures import CHECKS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike

    from sclm.cells import Cells
    from sclm.evidence.plausibility import PlausibilityGuard


_DEPTHS = 16  # quantiles of depth that stand for all cells
_RATES = np.geomspace(1e-8, 1.0, 161)  # shares of a cell's counts
_EXACT = 60.0  # expected counts above which noise hardly changes a mean logarithm
_COUNTS = np.arange(161)  # of a gene with up to that many expected


def moved_counts(counts: sp.csr_matrix, start: ArrayLike, profile: ArrayLike, *, seed: int = 0) -> sp.csr_matrix:
    r"""Cells as they would be if their mean log1p profile changed from one to another.

    A mean logarithm is no logarithm of a mean: of a gene with few counts it rises faster. The factor of a gene is therefore
    :math:`f_g = h^{-1}(\text{profile}_g) / h^{-1}(\text{start}_g)`, with :math:`h(\lambda)` the mean of
    :math:`\log(1 + 10^4 k / N_i)` over these cells when a gene has the share :math:`\lambda` of their counts and
    :math:`k \sim \text{Poisson}(\lambda N_i)`. Shares are moved by these factors and scaled to the sum that they had, since a profile says
    nothing of depth. Where the share of a gene falls, each of its counts stays with that chance; where it rises, a cell gains a Poisson
    number of what is missing at its depth. An unchanged profile leaves the cells as they are, so that what differs from real cells comes from
    the prediction alone; noise, depth and differences between cells are those of real cells.

    Parameters
    ----------
    counts
        (n, G) raw counts of real cells, CSR.
    start, profile
        (G,) mean log1p profiles, of counts scaled to 10,000, before and after.
    seed
        Of the draws.

    Returns
    -------
    CSR float32 (n, G), a new matrix.
    """
    rng = np.random.default_rng(seed)
    low, high = (np.maximum(np.asarray(x, dtype=np.float64), 0.0) for x in (start, profile))
    counts = sp.csr_matrix(counts, dtype=np.float64)
    if low.shape != high.shape or low.shape != counts.shape[1:]:
        raise ValueError(
            f"start and profile must have one value for each of the {counts.shape[1]} genes, found {low.shape} and {high.shape}."
        )
    depth = np.asarray(counts.sum(axis=1)).ravel()
    before = np.asarray(counts.sum(axis=0)).ravel() / max(float(depth.sum()), 1.0)  # (G,) shares
    mean_log = _mean_log(np.quantile(depth, (np.arange(_DEPTHS) + 0.5) / _DEPTHS))
    rates = [np.exp(np.interp(x, mean_log, np.log(_RATES))) * (x > 0) for x in (low, high)]
    factor = np.divide(rates[1], rates[0], out=np.ones_like(before), where=rates[0] > 0)
    after = np.where(before > 0, before * factor, rates[1])
    after *= before.sum() / max(float(after.sum()), 1e-300)
    kept = np.clip(np.divide(after, before, out=np.ones_like(after), where=before > 0), 0.0, 1.0)  # (G,)
    thinned = counts.copy()
    chance = kept[counts.indices]
    falls = chance < 1
    thinned.data[falls] = rng.binomial(counts.data[falls].astype(np.int64), chance[falls])
    rises = np.flatnonzero(after > before)
    gained = rng.poisson(np.outer(depth, (after - before)[rises])).astype(np.float64)  # (n, n_rises)
    wide = sp.csr_matrix(
        (gained.ravel(), np.tile(rises, len(depth)), np.arange(len(depth) + 1) * len(rises)), counts.shape
    )
    moved = sp.csr_matrix(thinned + wide, dtype=np.float32)
    moved.eliminate_zeros()
    moved.sort_indices()
    return moved


def _mean_log(depths: np.ndarray) -> np.ndarray:
    """(n_rates,) ascending: mean log1p of a gene by its share of the counts, over cells of these depths."""
    from scipy.stats import poisson

    total = np.zeros(len(_RATES))
    for depth in np.maximum(depths, 1.0):
        expected = _RATES * depth
        exact = expected <= _EXACT
        values = np.log1p(1e4 * _RATES)
        # (n_exact, n_counts) @ (n_counts,)
        values[exact] = poisson.pmf(_COUNTS[None], expected[exact, None]) @ np.log1p(1e4 * _COUNTS / depth)
        total += np.maximum.accumulate(values)
    return total / len(depths)


def judge_profiles(
    guard: PlausibilityGuard,
    cells: Cells,
    start: ArrayLike,
    profiles: ArrayLike,
    names: Sequence[str],
    *,
    seed: int = 0,
) -> pd.DataFrame:
    """Share of implausible cells among control cells that are moved by each predicted change, beside these cells as they are.

    Parameters
    ----------
    guard
        Fitted on other real cells, of the same genes; cells are judged against the whole of them, whatever their group.
    cells
        Real control cells that the guard has not seen, raw counts.
    start
        (G,) mean log1p profile that the predictions start from.
    profiles
        (P, G) predicted mean log1p profiles.
    names
        Of the P perturbations.
    seed
        Of the draws: see :func:`moved_counts`.

    Returns
    -------
    One row a perturbation: ``perturbation``, ``n_cells``, ``implausible`` (share of the moved cells that any check flags),
    ``implausible_control`` (of the same cells as they are), the share for each check, and ``suspect``: whether the share is above what
    real cells give (:meth:`sclm.evidence.PlausibilityGuard.warn`, with the control cells' own share as the usual one).
    """
    whole = np.full(cells.n_cells, -1)
    usual = float(guard.check(cells, whole)["implausible"].mean())
    rows = []
    for i, (name, profile) in enumerate(zip(names, np.asarray(profiles, dtype=np.float64), strict=True)):
        moved = moved_counts(cells.counts, start, profile, seed=seed + i)
        table = guard.check(cells._replace(counts=moved), whole)
        share = float(table["implausible"].mean())
        rows.append(
            {
                "perturbation": str(name),
                "n_cells": cells.n_cells,
                "implausible": share,
                "implausible_control": usual,
                **{check: float(table[check].mean()) for check in CHECKS},
                "suspect": guard.warn(share, cells.n_cells) is not None and share > 2 * usual,
            }
        )
    return pd.DataFrame(rows)
