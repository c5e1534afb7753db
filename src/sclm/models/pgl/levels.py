"""Depth and programmes as tokens: each a slot whose value is one of a few levels, and a Gaussian guess to start from.

Legend of shapes: ``n`` cells · ``S`` slots (depth, then programmes) · ``Q`` levels of a slot · ``P`` columns of the design
(a constant, the nodes of all fields, one column a field for "not given").
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import scipy.sparse as sp

if TYPE_CHECKING:
    from collections.abc import Sequence

_MEAN_PENALTY = 5.0  # ridge, in cells: a term with few cells keeps the guess of its parents
_SPREAD_PENALTY = 20.0
_FINE = 8  # quantiles inside a level
_LOG_CHI2 = -1.2704  # mean of the logarithm of a chi-squared variable with one degree of freedom


class Levels(NamedTuple):
    """What turns numbers into levels and back, and the Gaussian guess.

    Attributes
    ----------
    centre, scale
        () float32: the first slot is (log depth - centre) / scale.
    edges
        (S, Q + 1) float32, ascending: quantiles of the training cells; the outer ones are the extremes.
    fine
        (S, 8 Q + 1) float32: finer quantiles, from which a value inside a level is drawn.
    mean_weight
        (P, S) float32: the guess of a slot's mean is linear in the metadata …
    previous_weight
        (S, S) float32, strictly lower: … and in the values of the slots before it.
    spread_weight
        (P, S) float32: log standard deviation around that mean.
    """

    centre: np.ndarray
    scale: np.ndarray
    edges: np.ndarray
    fine: np.ndarray
    mean_weight: np.ndarray
    previous_weight: np.ndarray
    spread_weight: np.ndarray


def design_matrix(nodes: Sequence[sp.csr_matrix]) -> sp.csr_matrix:
    """Columns of the guess from per-field memberships (n, n_nodes): CSR (n, P)."""
    n = nodes[0].shape[0]
    missing = [sp.csr_matrix((np.diff(part.indptr) == 0).astype(np.float32)[:, None]) for part in nodes]
    return sp.hstack([sp.csr_matrix(np.ones((n, 1), np.float32)), *nodes, *missing], format="csr", dtype=np.float32)


def fit_levels(
    log_depth: np.ndarray, programmes: np.ndarray, full: sp.csr_matrix, partial: sp.csr_matrix, n_levels: int
) -> Levels:
    """Quantiles and ridge regressions.

    Parameters
    ----------
    log_depth
        (n,) natural logarithm of the total counts.
    programmes
        (n, K) levels drawn from their posterior.
    full
        Design (n, P) with all metadata.
    partial
        Design (n, P) of the same cells with fields left out at random, so that the guess knows what it does not know.
    n_levels
        Q.

    Returns
    -------
    Levels
    """
    from sklearn.linear_model import Ridge

    # Never narrower than the counts' own noise: downsampled cells all have one depth.
    scale = float(max(log_depth.std(), 0.05, np.exp(-0.5 * np.median(log_depth))))
    centre = float(log_depth.mean())
    values = np.column_stack([(log_depth - centre) / scale, programmes]).astype(np.float64)  # (n, S)
    n_slots = values.shape[1]
    fine = np.quantile(values, np.linspace(0, 1, _FINE * n_levels + 1), axis=0).T  # (S, 8 Q + 1)
    # Ties (few cells, equal depths) would make empty levels: keep the edges apart.
    fine = fine + np.arange(fine.shape[1]) * 1e-5
    edges = fine[:, ::_FINE]

    design = sp.vstack([full, partial], format="csr").astype(np.float64)
    n_columns = design.shape[1]
    twice = np.concatenate([values, values])
    mean_weight, spread_weight = np.zeros((n_columns, n_slots)), np.zeros((n_columns, n_slots))
    previous_weight = np.zeros((n_slots, n_slots))
    for slot in range(n_slots):
        columns = sp.hstack([design, sp.csr_matrix(twice[:, :slot])], format="csr") if slot else design
        fit = Ridge(alpha=2 * _MEAN_PENALTY, fit_intercept=False, solver="sparse_cg", tol=1e-6)
        fit.fit(columns, twice[:, slot])
        mean_weight[:, slot], previous_weight[slot, :slot] = fit.coef_[:n_columns], fit.coef_[n_columns:]
        rest = twice[:, slot] - columns @ fit.coef_
        spread = Ridge(alpha=2 * _SPREAD_PENALTY, fit_intercept=False, solver="sparse_cg", tol=1e-6)
        spread.fit(design, 0.5 * (np.log(rest**2 + 1e-4) - _LOG_CHI2))
        spread_weight[:, slot] = spread.coef_
    arrays = (edges, fine, mean_weight, previous_weight, spread_weight)
    return Levels(np.array(centre, np.float32), np.array(scale, np.float32), *(a.astype(np.float32) for a in arrays))


def slot_values(levels: Levels, depth: np.ndarray, programmes: np.ndarray) -> np.ndarray:
    """Values of all slots, (n, S) float32, from total counts (n,) and programmes (n, K)."""
    return np.column_stack([depth_values(levels, depth), programmes]).astype(np.float32)


def depth_values(levels: Levels, depth: np.ndarray) -> np.ndarray:
    """Values of the first slot, (n,) float32, from total counts (n,)."""
    return ((np.log(np.maximum(depth, 1.0)) - levels.centre) / levels.scale).astype(np.float32)


def to_bins(levels: Levels, values: np.ndarray) -> np.ndarray:
    """Level (n, S) int64, 0 to Q - 1, of slot values (n, S); beyond the edges the outer levels."""
    inner = levels.edges[:, 1:-1]
    return np.column_stack([np.searchsorted(inner[s], values[:, s], side="right") for s in range(len(inner))])
