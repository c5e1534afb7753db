r"""What the next token of a cell would be if its genes were independent: the distribution that the token decoder starts from.

The set decoder draws each gene's count from its own negative binomial. The canonical sequence (levels fall, indices rise) of
such a cell is a chain of simple choices. With :math:`P_{gl}` the probability that gene g has level l, and

.. math:: h_{gl} = P(\text{level}_g = l \mid \text{level}_g \le l) = \frac{P_{gl}}{\sum_{k \le l} P_{gk}},

the next gene at level l after index i is g with probability :math:`h_{gl} \prod_{i < k < g} (1 - h_{kl})`, and there is none
with the product over all that are left. Then a lower level :math:`l'` is the next one that occurs with probability
:math:`\prod_{l' < m < l} A_m \, (1 - A_{l'})`, where :math:`A_m = \prod (1 - h_{gm})` over the genes not yet written, and the
cell ends if none is. The first gene after a marker is conditional on there being one. By the chain rule the logarithms of
these add up to :math:`\sum_g \log P_{g, \text{level}_g}`, and what the rules of the order forbid has probability zero.

Legend of shapes: ``B`` cells · ``N`` positions · ``L`` tokens · ``Q`` levels · ``G`` genes · ``V`` = G + Q + 1 tokens.
"""

from __future__ import annotations

import math
from typing import Any

import numba
import numpy as np
import torch

from sclm.cells.kernels import per_cell

_LEAST = 1e-12  # a gene has no level with less probability than this, so that every cell can be scored


def level_hazards(means: np.ndarray, dispersion: np.ndarray, edges: tuple[int, ...]) -> np.ndarray:
    r"""Logarithm of :math:`1 - h_{gl}` under negative binomials.

    Parameters
    ----------
    means
        (B, G) mean counts.
    dispersion
        (G,) positive: variance = mean + dispersion · mean².
    edges
        Lower ends of the levels 1 … Q.

    Returns
    -------
    (B, Q, G) float32, negative. :math:`h` is at least 10⁻¹².
    """
    found = np.full((means.shape[0], len(edges), means.shape[1]), math.log1p(-_LEAST), np.float32)
    _hazards(means.astype(np.float64), dispersion.astype(np.float64), np.array(edges, np.int64), found)
    return found


@per_cell
def _hazards(means: np.ndarray, dispersion: np.ndarray, edges: np.ndarray, found: np.ndarray) -> Any:
    n_levels = edges.size
    rare = np.float32(math.log1p(-_LEAST))
    for i in numba.prange(means.shape[0]):
        for g in range(means.shape[1]):
            mean, size = means[i, g], 1.0 / dispersion[g]
            odds = mean / size
            ratio = odds / (1.0 + odds)
            log_first = -size * math.log1p(odds)
            # Probabilities relative to the running scale: 1 - h is a ratio of neighbouring sums, so that neither a tiny
            # h nor one close to 1 loses digits.
            p, below, scale, x, level = 1.0, 1.0, 0.0, 0, 0
            while level < n_levels:
                inside = 0.0
                last = level == n_levels - 1
                stop = edges[level + 1] if not last else edges[level] + 1
                while x + 1 < stop:
                    x += 1
                    p *= ratio * (size + x - 1.0) / x
                    inside += p
                    if p > 1e200:
                        p, below, inside, scale = p * 1e-200, below * 1e-200, inside * 1e-200, scale + 200.0
                if last:  # all above: what is missing to one, or, where rounding hides that, about one more term
                    p *= ratio * (size + x) / (x + 1.0)
                    total = math.exp(min(-log_first - scale * math.log(10.0), 700.0))
                    inside = max(total - below, p)
                found[i, level, g] = min(-math.log1p(inside / max(below, 1e-300)), rare)
                below += inside
                level += 1
                step = ratio * (size + x) / (x + 1.0)  # of the next term to this one; it falls from the mode on
                if level < n_levels and step < 1.0 and p * step / (1.0 - step) < 1e-3 * _LEAST * below:
                    break  # the levels above keep the least probability


def sequence_states(tokens: torch.Tensor, hazards: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """State before each token of canonical sequences.

    Parameters
    ----------
    tokens
        (B, L) int64, padded with the end token.
    hazards
        (B, Q, G) from :func:`level_hazards`.

    Returns
    -------
    ``level`` (B, L) int64, the level that is being written, Q + 1 before the first marker; ``last`` (B, L) int64, the gene
    before, -1 where there is none at this level; ``left`` (B, L, Q), log of :math:`A` of the genes not yet written.
    """
    n_levels, n_genes = hazards.shape[1:]
    is_gene = tokens < n_genes
    marked = torch.where(is_gene, n_levels + 1, tokens - n_genes + 1).clamp_max(n_levels + 1)
    level = torch.cummin(marked, dim=1).values  # after each token; levels only fall
    index = torch.where(is_gene, tokens, 0)[:, None].expand(-1, n_levels, -1)  # (B, Q, L)
    wide = wide_dtype(hazards.device)
    taken = (
        torch.where(is_gene[:, None], hazards.gather(2, index), 0.0).cumsum(2, dtype=wide).transpose(1, 2)
    )  # (B, L, Q)
    whole = hazards.sum(2, dtype=wide)[:, None]
    return (
        torch.cat([torch.full_like(level[:, :1], n_levels + 1), level[:, :-1]], dim=1),
        torch.cat([torch.full_like(tokens[:, :1], -1), torch.where(is_gene, tokens, -1)[:, :-1]], dim=1),
        torch.cat([whole, (whole - taken)[:, :-1]], dim=1).clamp_max(0.0),
    )


def next_tokens(
    hazards: torch.Tensor,
    log_hazards: torch.Tensor,
    eligible: torch.Tensor,
    level: torch.Tensor,
    last: torch.Tensor,
    left: torch.Tensor,
) -> torch.Tensor:
    """Logits (N, V) of the next token: those of forbidden tokens are -inf, and their softmax is the distribution.

    Parameters
    ----------
    hazards, log_hazards
        (N, G) log of 1 - h and of h at the level that is being written (anything before the first marker).
    eligible
        (N, G) bool: genes that were not written at a higher level.
    level, last, left
        Of the positions, see :func:`sequence_states`.
    """
    n_genes, n_levels = hazards.shape[1], left.shape[1]
    inside = (level >= 1) & (level <= n_levels)
    index = torch.arange(n_genes, device=hazards.device)
    may = eligible & (index > last[:, None]) & inside[:, None]
    missed = torch.where(may, hazards, 0.0)
    upto = missed.cumsum(1)
    genes = torch.where(may, log_hazards + (upto - missed), -torch.inf)
    none = torch.where(inside & (last < 0), -torch.inf, upto[:, -1])
    return torch.cat([genes, next_markers(level, none, left).to(genes.dtype)], dim=1)


def next_markers(level: torch.Tensor, none: torch.Tensor, left: torch.Tensor) -> torch.Tensor:
    """Logits (N, Q + 1) of the markers and the end, given the log probability ``none`` (N,) of no further gene."""
    n_levels = left.shape[1]
    lower = torch.arange(1, n_levels + 1, device=left.device) < level[:, None]
    empty = torch.where(lower, left, 0.0)  # (N, Q)
    passed = empty.flip(1).cumsum(1).flip(1)  # log probability that this level and all above it up to `level` are empty
    markers = torch.where(lower, (passed - empty) + log_hazard(empty), -torch.inf)
    return torch.cat([markers, passed[:, :1]], dim=1) + none[:, None]


def wide_dtype(device: torch.device) -> torch.dtype:
    """In which the genes not yet written are counted down: a small rest of a large sum; Apple's GPUs have no float64."""
    return torch.float32 if device.type == "mps" else torch.float64


def log_hazard(missed: torch.Tensor) -> torch.Tensor:
    """Log h from log(1 - h); -inf for 0."""
    return torch.log(-torch.expm1(missed))
