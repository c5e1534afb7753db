"""From what an encoder says of a cell to what a language model reads.

B cells · K gene positions · Q latents · E width of the encoder · D width of the language model · C values of the whole cell
"""

from __future__ import annotations

import torch
from torch import nn


class MLPAdapter(nn.Module):
    """One soft token a gene position: linear, layer norm, GELU, dropout, linear, layer norm.

    Parameters
    ----------
    width, hidden, out
        E, of the hidden layer, and D.
    dropout
        Between the layers.
    rms
        Of the text embeddings, with which the soft tokens start.
    """

    def __init__(self, width: int, hidden: int, out: int, *, dropout: float, rms: float) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(width, hidden), nn.LayerNorm(hidden), nn.GELU(), nn.Dropout(dropout), nn.Linear(hidden, out), nn.LayerNorm(out)
        )  # fmt: skip
        _scale(self.layers[-1], rms)
        self.empty = nn.Parameter(torch.randn(out) * rms)

    def forward(self, states: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
        """(B, K, D) of states (B, K, E); a learnt vector stands where a cell has no gene (B, K)."""
        return torch.where(real[..., None], self.layers(states), self.empty)


class PerceiverAdapter(nn.Module):
    """A fixed number of latents that look at the gene positions once, then at each other.

    Parameters
    ----------
    width, out
        E and D.
    latents, layers, heads
        Q, blocks of self-attention behind the cross-attention, and attention heads.
    dropout
        Of attention and feed-forward layers.
    rms
        Of the text embeddings.
    """

    def __init__(
        self, width: int, out: int, *, latents: int, layers: int, heads: int, dropout: float, rms: float
    ) -> None:
        super().__init__()
        self.latents = nn.Parameter(torch.randn(latents, out) * 0.02)
        self.read = nn.Linear(width, out)
        self.nothing = nn.Parameter(torch.randn(out) * 0.02)  # what there is to look at in a cell without genes
        self.blocks = nn.ModuleList(_Block(out, heads, dropout) for _ in range(layers + 1))
        self.norm = nn.LayerNorm(out)
        _scale(self.norm, rms)

    def forward(self, states: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
        """(B, Q, D) of states (B, K, E), with (B, K) where there is a gene."""
        batch = len(states)
        seen = torch.cat([self.nothing.expand(batch, 1, -1), self.read(states)], dim=1)  # (B, 1 + K, D)
        hidden = torch.cat([real.new_zeros(batch, 1), ~real], dim=1)
        x = self.latents.expand(batch, -1, -1)
        x = self.blocks[0](x, seen, hidden)
        for block in self.blocks[1:]:
            x = block(x, None, None)
        return self.norm(x)


class _Block(nn.Module):
    """Attention and feed-forward layers with norms in front."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.before, self.middle = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, heads, dropout=dropout, batch_first=True)
        self.forward_layers = nn.Sequential(
            nn.Linear(width, 2 * width), nn.GELU(), nn.Dropout(dropout), nn.Linear(2 * width, width)
        )

    def forward(self, x: torch.Tensor, seen: torch.Tensor | None, hidden: torch.Tensor | None) -> torch.Tensor:
        """(B, Q, D); looks at `seen` (B, S, D) where not `hidden` (B, S), or at itself."""
        query = self.before(x)
        keys = query if seen is None else self.before(seen)
        x = x + self.attention(query, keys, keys, key_padding_mask=hidden, need_weights=False)[0]
        return x + self.forward_layers(self.middle(x))


class CellTokens(nn.Module):
    """Soft tokens of the whole cell, from components of its expression or from the encoder's vector.

    Parameters
    ----------
    width, hidden, out
        C, of the hidden layer, and D.
    tokens
        How many.
    dropout
        Share of the values that are not read, in training.
    rms
        Of the text embeddings.
    """

    def __init__(self, width: int, hidden: int, out: int, *, tokens: int, dropout: float, rms: float) -> None:
        super().__init__()
        self.tokens = tokens
        self.first = nn.Sequential(nn.Dropout(dropout), nn.Linear(width, hidden), nn.LayerNorm(hidden), nn.GELU())
        self.second = nn.Linear(hidden, tokens * out)
        self.norm = nn.LayerNorm(out)
        _scale(self.norm, rms)

    def forward(self, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Soft tokens (B, tokens, D) and the hidden layer (B, hidden) of values (B, C)."""
        hidden = self.first(values)
        return self.norm(
            self.second(hidden).unflatten(-1, (self.tokens, -1))
        ), hidden  # (B, tokens * D) → (B, tokens, D)


def _scale(norm: nn.Module, rms: float) -> None:
    """A layer norm that gives vectors of this root mean square."""
    nn.init.constant_(norm.weight, rms)  # type: ignore[arg-type]
