r"""How probable a cell is, given metadata.

.. math:: \log p(x \mid c) = \log p(N \mid c) + \log \int p(z \mid c, N)\, p(x \mid z, c, N)\, dz

with N the cell's depth and z the levels of its programmes. The integral is approximated at the mode of the levels' posterior
(Laplace, with the levels' standard normal prior for the mode and the curvature, and the network's density at it):
:math:`\log p(x, \hat z) + \tfrac K2 \log 2\pi + \tfrac12 \log |\Sigma|`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from sclm.models.pgl.counts import log_likelihood
from sclm.models.pgl.levels import slot_values, to_bins
from sclm.models.pgl.network import Batch
from sclm.models.pgl.programmes import posterior
from sclm.models.pgl.sampling import TILE, training_memberships

if TYPE_CHECKING:
    import scipy.sparse as sp

    from sclm.models.pgl.conditions import Conditions
    from sclm.models.pgl.levels import Levels
    from sclm.models.pgl.network import PGLNetwork
    from sclm.models.pgl.programmes import Programmes


_TAIL = (
    0.2  # least width of the fall beyond the outer levels, in units of a slot: cells of one depth have no width at all
)


def marginal_log_likelihood(
    network: PGLNetwork,
    conditions: Conditions,
    levels: Levels,
    programmes: Programmes,
    profiles: np.ndarray,
    loadings: np.ndarray,
    dispersion: np.ndarray,
    counts: sp.csr_matrix,
    codes: np.ndarray,
    condition: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Log likelihood of cells under one condition each.

    Parameters
    ----------
    network, conditions, levels, programmes, loadings, dispersion
        Of the model.
    profiles
        (C, G) float32 log shares.
    counts
        CSR (n, G).
    codes
        (C, F) training values of the conditions.
    condition
        (n,) the condition of each cell.

    Returns
    -------
    Nats (n,) float64, and the mode of the levels (n, K) float32.
    """
    total = np.empty(condition.size)
    modes = np.empty((condition.size, loadings.shape[1]), np.float32)
    for start in range(0, condition.size, TILE):
        part = slice(start, min(condition.size, start + TILE))
        block, which = counts[part], condition[part]
        depth = np.maximum(np.asarray(block.sum(axis=1)).ravel(), 1.0).astype(np.float32)
        found = posterior(programmes, block[:, programmes.genes].toarray(), depth, profiles[:, programmes.genes], which)
        values = slot_values(levels, depth, found.mean)
        total[part] = (
            log_likelihood(block, profiles, which, depth, found.mean, loadings, dispersion)
            + level_log_density(network, conditions, levels, codes[which], values)
            - np.log(levels.scale * depth)  # from the scaled logarithm to the depth itself
            + 0.5 * loadings.shape[1] * np.log(2 * np.pi)
            + 0.5 * np.linalg.slogdet(found.covariance.astype(np.float64))[1]
        )
        modes[part] = found.mean
    return total, modes


@torch.inference_mode()
def level_log_density(
    network: PGLNetwork, conditions: Conditions, levels: Levels, codes: np.ndarray, values: np.ndarray
) -> np.ndarray:
    """Log density of slot values (n, S) given metadata codes (n, F), summed over slots, nats: (n,) float64.

    The network gives a level's probability, spread evenly over its width; beyond the outer edges it falls off as the
    outer levels' mean width.
    """
    device = network.start.device
    bins = to_bins(levels, values)
    arrays = (codes.astype(np.int64), np.full(codes.shape, -1, np.int64), values, bins)
    batch = Batch(*(torch.from_numpy(np.ascontiguousarray(a)).to(device) for a in arrays))
    log_p, _ = network(batch, training_memberships(conditions, device))
    picked = log_p.gather(-1, batch.bins[..., None])[..., 0].double().cpu().numpy()  # (n, S)
    slots = np.arange(bins.shape[1])
    low, high = levels.edges[slots, bins], levels.edges[slots, bins + 1]
    width = np.maximum(high - low, 1e-4)
    outside = np.maximum(np.maximum(low - values, values - high), 0.0)
    return (picked - np.log(width) - outside / np.maximum(width, _TAIL)).sum(axis=1)


def fit_usual(depth: np.ndarray, score: np.ndarray) -> np.ndarray:
    """What log likelihoods are usual at a depth: coefficients (2, 3) float32 of a mean and of a log spread.

    Parameters
    ----------
    depth, score
        (n,) total counts and nats of real cells that the network was not trained on, under their own metadata.
    """
    x = np.log(np.maximum(depth, 1.0))
    degree = min(2 if len(x) >= 60 else 1, len(np.unique(x)) - 1)
    mean = np.polyfit(x, score, degree)
    rest = np.abs(score - np.polyval(mean, x)) + 1e-6
    # Medians of |residuals| in thirds of depth: a few odd cells must not widen what is usual.
    parts = np.array_split(np.argsort(x, kind="stable"), 3 if len(x) >= 60 else 1)
    centre = [x[part].mean() for part in parts]
    widths = [np.log(1.4826 * np.median(rest[part]) + 1e-6) for part in parts]
    spread = np.polyfit(centre, widths, min(1, len(np.unique(centre)) - 1))
    return np.array([np.pad(c, (3 - len(c), 0)) for c in (mean, spread)], np.float32)


def surprise(usual: np.ndarray, depth: np.ndarray, score: np.ndarray) -> np.ndarray:
    """How many spreads a cell's log likelihood lies below what is usual at its depth: (n,) float64."""
    x = np.log(np.maximum(depth, 1.0))
    return (np.polyval(usual[0], x) - score) / np.exp(np.polyval(usual[1], x))
