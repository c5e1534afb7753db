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


def moved_counts(
    counts: sp.csr_matrix, start: ArrayLike, profile: ArrayLike, *, target_sum: float = 1e4, seed: int = 0
) -> sp.csr_matrix:
    r"""Cells as they would be if their mean profile changed from one to another.

    With :math:`s_g = e^{\text{start}_g} - 1` and :math:`m_g = e^{\text{profile}_g} - 1` (counts a target sum): where the profile falls,
    each count stays with probability :math:`m_g / s_g`; where it rises, a cell of depth :math:`N_i` gains a Poisson number with mean
    :math:`N_i (m_g - s_g) / 10^4`. An unchanged profile leaves the cells as they are, so that what differs from real cells comes from the
    prediction alone; noise, depth and differences between cells are those of real cells.

    Parameters
    ----------
    counts
        (n, G) raw counts of real cells, CSR.
    start, profile
        (G,) mean log1p profiles before and after.
    target_sum
        Total that cells were scaled to before the logarithm.
    seed
        Of the draws.

    Returns
    -------
    CSR float32 (n, G), a new matrix.
    """
    rng = np.random.default_rng(seed)
    before, after = np.expm1(np.asarray(start, np.float64)), np.expm1(np.maximum(np.asarray(profile, np.float64), 0))
    counts = sp.csr_matrix(counts, dtype=np.float64)
    if before.shape != after.shape or before.shape != counts.shape[1:]:
        raise ValueError(
            f"start and profile must have one value for each of the {counts.shape[1]} genes, found {before.shape} and {after.shape}."
        )
    depth = np.asarray(counts.sum(axis=1)).ravel()
    kept = np.clip(np.divide(after, before, out=np.ones_like(after), where=before > 0), 0.0, 1.0)  # (G,)
    thinned = counts.copy()
    chance = kept[counts.indices]
    falls = chance < 1
    thinned.data[falls] = rng.binomial(counts.data[falls].astype(np.int64), chance[falls])
    rises = np.flatnonzero(after > before)
    gained = rng.poisson(np.outer(depth / target_sum, (after - before)[rises])).astype(np.float64)  # (n, n_rises)
    wide = sp.csr_matrix(
        (gained.ravel(), np.tile(rises, len(depth)), np.arange(len(depth) + 1) * len(rises)), counts.shape
    )
    moved = sp.csr_matrix(thinned + wide, dtype=np.float32)
    moved.eliminate_zeros()
    moved.sort_indices()
    return moved


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
