"""Attention by random features (FAVOR+), whose cost grows with the length and not with its square.

Legend of shapes: ``B`` cells · ``L`` positions · ``D`` width · ``H`` heads · ``K`` head width · ``R`` random features.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import nn

from sclm.nn import seeded

if TYPE_CHECKING:
    from sclm.models.sctranslator.network import ScTranslatorConfig

_EPSILON = 1e-4  # added to every feature, as in the original: no denominator is ever zero


def query_features(queries: torch.Tensor, projection: torch.Tensor) -> torch.Tensor:
    r"""Positive random features of queries, each row stabilised by its own maximum.

    .. math:: \phi(h) = R^{-1/2} \left( \exp(\Omega u - \lVert u \rVert^2 / 2 - m) + 10^{-4} \right), \quad u = h K^{-1/4}

    Parameters
    ----------
    queries
        (B, H, L, K).
    projection
        (R, K), the Ω of the formula.

    Returns
    -------
    (B, H, L, R); m is the largest entry of Ωu in the row.
    """
    exponent, norm = _exponent(queries, projection)
    highest = exponent.amax(dim=-1, keepdim=True).detach()  # (B, H, L, 1)
    return (torch.exp(exponent - norm - highest) + _EPSILON) * projection.shape[0] ** -0.5


def key_features(keys: torch.Tensor, projection: torch.Tensor, real: torch.Tensor | None = None) -> torch.Tensor:
    """The same of keys, stabilised by one maximum a cell and head, over all positions and features.

    Parameters
    ----------
    keys
        (B, H, L, K).
    projection
        (R, K).
    real
        (B, L) bool: positions that count. Where given, padded positions enter neither the maximum nor any sum.

    Returns
    -------
    (B, H, L, R).
    """
    exponent, norm = _exponent(keys, projection)
    there = None if real is None else real[:, None, :, None]  # (B, L) → (B, 1, L, 1)
    if there is not None:
        exponent = exponent.masked_fill(~there, -torch.inf)
    highest = exponent.amax(dim=(-1, -2), keepdim=True).detach()  # (B, H, 1, 1)
    if (
        there is not None
    ):  # a cell without any gene: its answer is not used, and must not be NaN for its batch's gradient
        highest = highest.masked_fill(highest == -torch.inf, 0.0)
    features = (torch.exp(exponent - norm - highest) + _EPSILON) * projection.shape[0] ** -0.5
    return features if there is None else features.masked_fill(~there, 0.0)


def _exponent(vectors: torch.Tensor, projection: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Ωu (B, H, L, R) and half the squared length of u (B, H, L, 1)."""
    scaled = vectors * vectors.shape[-1] ** -0.25
    return scaled @ projection.T, 0.5 * (scaled**2).sum(dim=-1, keepdim=True)


class FavorAttention(nn.Module):
    r"""Softmax attention approximated by positive random features (Choromanski et al., ICLR 2021).

    .. math:: o_i = \phi(q_i)^\top \Big(\sum_j \phi(k_j) v_j^\top\Big) \Big/ \phi(q_i)^\top \sum_j \phi(k_j)

    Parameters
    ----------
    config
        Widths, features, and ``padding``: ``"original"`` sets only the values of padded positions to zero, so that their
        keys stay in the denominator and in the maximum; ``"masked"`` leaves padded positions out altogether.
    seed
        Of the random features, which are part of the weights.
    """

    projection: torch.Tensor

    def __init__(self, config: ScTranslatorConfig, seed: int) -> None:
        super().__init__()
        inner = config.heads * config.head_width
        self.heads, self.masked = config.heads, config.padding == "masked"
        self.query, self.key, self.value = (nn.Linear(config.width, inner) for _ in range(3))
        self.out = nn.Linear(inner, config.width)
        self.register_buffer("projection", orthogonal_features(config.features, config.head_width, seed))

    def forward(self, states: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
        """(B, L, D) of states (B, L, D) and real positions (B, L) bool."""
        query, key, value = (self._heads(part(states)) for part in (self.query, self.key, self.value))  # (B, H, L, K)
        value = value.masked_fill(~real[:, None, :, None], 0.0)
        query = query_features(query, self.projection)
        key = key_features(key, self.projection, real if self.masked else None)
        context = key.transpose(-1, -2) @ value  # (B, H, R, L) @ (B, H, L, K) → (B, H, R, K)
        total = (query @ key.sum(dim=-2)[..., None]).clamp_min(torch.finfo(query.dtype).tiny)  # (B, H, L, 1)
        found = (query @ context) / total  # (B, H, L, K)
        return self.out(found.transpose(1, 2).flatten(2))  # (B, L, H, K) → (B, L, H * K) → (B, L, D)

    def _heads(self, states: torch.Tensor) -> torch.Tensor:
        """(B, L, H * K) → (B, H, L, K)."""
        return states.unflatten(-1, (self.heads, -1)).transpose(1, 2)


def orthogonal_features(n_features: int, width: int, seed: int) -> torch.Tensor:
    """Gaussian random features in blocks of orthogonal rows, which lowers the variance of the estimate.

    Parameters
    ----------
    n_features
        R.
    width
        K; each block has at most that many rows.
    seed
        Of the draw.

    Returns
    -------
    (R, K) float32; the length of each row is that of an independent Gaussian vector.
    """
    with seeded(seed):
        blocks = [torch.linalg.qr(torch.randn(width, width))[0].T for _ in range(math.ceil(n_features / width))]
        lengths = torch.randn(n_features, width).norm(dim=1)
    return torch.cat(blocks)[:n_features] * lengths[:, None]
