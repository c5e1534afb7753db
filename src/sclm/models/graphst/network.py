"""The graph autoencoder and its discriminator.

Legend: S spots that receive · n spots that send · E edges · C components in · Z width · H heads.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import torch
from torch import nn

from sclm.models.graphst.spot_family import SpotConfig

if TYPE_CHECKING:
    from sclm.models.graphst.blocks import Edges


@dataclasses.dataclass(frozen=True, kw_only=True)
class GraphSTConfig(SpotConfig):
    """Settings of the graph network; width, weights and learning rate as published, the others chosen on development sections."""

    n_components: int = 20  # of the input; the published network reads the genes, and 50 components were worse than 20
    width: int = 64  # of a spot's vector
    attention: bool = False  # neighbours weigh as a layer of attention learns; False: all alike, as published
    heads: int = 4  # of attention
    reconstruction: float = 10.0  # weight of the squared error
    contrast: float = 1.0  # weight of the two contrastive terms
    max_epochs: int = 600
    learning_rate: float = 1e-3

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("width", "heads", "max_epochs"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, found {getattr(self, name)}.")
        if self.attention and self.width % self.heads:
            raise ValueError(f"width must be a multiple of heads={self.heads}, found {self.width}.")
        if self.learning_rate <= 0 or self.reconstruction < 0 or self.contrast < 0:
            raise ValueError("learning_rate must be above 0, reconstruction and contrast 0 or more.")


def spread(values: torch.Tensor, edges: Edges) -> torch.Tensor:
    """Weighted sums over neighbours: (n, k) → (S, k)."""
    out = values.new_zeros(int(edges.n_targets), values.shape[1])
    return out.index_add_(0, edges.target, values[edges.source] * edges.weight[:, None])


class Attention(nn.Module):
    """Weights of neighbours that depend on both spots (GATv2: Brody, Alon & Yahav, ICLR 2022); they sum to 1 in each head."""

    def __init__(self, n_inputs: int, width: int, heads: int, generator: torch.Generator) -> None:
        super().__init__()
        self.heads, self.each = heads, width // heads
        self.sends = nn.Parameter(_xavier(n_inputs, width, generator))
        self.receives = nn.Parameter(_xavier(n_inputs, width, generator))
        self.score = nn.Parameter(_xavier(heads, self.each, generator))

    def forward(self, values: torch.Tensor, targets: torch.Tensor, edges: Edges) -> torch.Tensor:
        """(n, C) values of all and (S, C) of those that receive → (S, Z)."""
        sent = (values @ self.sends).unflatten(1, (self.heads, self.each))  # (n, H, Z/H)
        wanted = (targets @ self.receives).unflatten(1, (self.heads, self.each))  # (S, H, Z/H)
        pairs = nn.functional.leaky_relu(sent[edges.source] + wanted[edges.target], 0.2)  # (E, H, Z/H)
        logits = (pairs * self.score).sum(dim=2)  # (E, H)
        n = int(edges.n_targets)
        place = edges.target[:, None].expand_as(logits)
        top = logits.new_full((n, self.heads), -torch.inf).scatter_reduce(0, place, logits.detach(), "amax")
        weight = (logits - top[edges.target]).exp()
        weight = weight / weight.new_zeros(n, self.heads).index_add_(0, edges.target, weight)[edges.target]
        out = sent.new_zeros(n, self.heads, self.each)
        return out.index_add_(0, edges.target, sent[edges.source] * weight[:, :, None]).flatten(1)  # (S, Z)


class GraphSTNetwork(nn.Module):
    """A linear graph autoencoder of one hop each way, and a bilinear discriminator of spots and their surroundings.

    Parameters
    ----------
    config
        Width, attention.
    n_inputs
        Components that a spot has.
    generator
        Of the weights at the start.
    """

    def __init__(self, config: GraphSTConfig, n_inputs: int, generator: torch.Generator) -> None:
        super().__init__()
        width = config.width
        self.attention = Attention(n_inputs, width, config.heads, generator) if config.attention else None
        if self.attention is None:
            self.encoder = nn.Parameter(_xavier(n_inputs, width, generator))
        self.decoder = nn.Parameter(_xavier(width, n_inputs, generator))
        self.bilinear = nn.Parameter(_xavier(width, width, generator))
        self.bias = nn.Parameter(torch.zeros(()))

    def encode(self, values: torch.Tensor, targets: torch.Tensor, edges: Edges) -> torch.Tensor:
        """Vectors (S, Z) from components (n, C), and (S, C) of the spots that receive: Z = Â X W."""
        if self.attention is not None:
            return self.attention(values, targets, edges)
        return spread(values @ self.encoder, edges)

    def decode(self, vectors: torch.Tensor, edges: Edges) -> torch.Tensor:
        """Components (S, C) from vectors (n, Z): H = Â Z W'."""
        return spread(vectors, edges) @ self.decoder

    def context(self, active: torch.Tensor, edges: Edges) -> torch.Tensor:
        """What surrounds each spot, (n, Z) → (S, Z): the sigmoid of the mean over it and its neighbours, at length 1."""
        return torch.sigmoid(nn.functional.normalize(spread(active, edges), dim=1))

    def score(self, active: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        """Logits (S,) that a spot belongs to its surroundings."""
        return ((active @ self.bilinear) * context).sum(dim=1) + self.bias


def _xavier(rows: int, columns: int, generator: torch.Generator) -> torch.Tensor:
    return nn.init.xavier_uniform_(torch.empty(rows, columns), generator=generator)
