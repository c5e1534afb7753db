"""Messages between the nodes of a graph, with memory for nodes and never for edges.

N nodes · M targets of a relation · E edges of a relation · D width · R relations · b bases
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional as F  # noqa: N812

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sclm.models.celltosg.graph_tensors import Bags


class _BagMeans(torch.autograd.Function):
    """Mean over the neighbours of each target, (N, D) → (M, D) for every relation.

    Forwards and backwards it is a sum over bags, which neither holds a value for each edge nor adds in a random order: memory
    is bounded by the nodes, and a GPU gives the same numbers each time.
    """

    @staticmethod
    def forward(ctx: Any, states: torch.Tensor, *bags: Bags) -> tuple[torch.Tensor, ...]:  # type: ignore[override]
        ctx.bags, ctx.shape = bags, states.shape
        states = states.contiguous()
        return tuple(F.embedding_bag(b.members, states, b.offsets, mode="mean") for b in bags)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # type: ignore[override]
        result = gradients[0].new_zeros(ctx.shape)  # one for all relations
        for gradient, b in zip(gradients, ctx.bags, strict=True):
            shared = gradient / b.counts[:, None].to(gradient.dtype)  # (M, D): what each neighbour gets
            # (S, D); the starts of a relation are all different, so that adding has one order
            result.index_add_(0, b.starts, F.embedding_bag(b.back_members, shared, b.back_offsets, mode="sum"))
        return (result, *(None for _ in ctx.bags))


def bag_means(states: torch.Tensor, bags: Sequence[Bags]) -> tuple[torch.Tensor, ...]:
    """Means of the states (N, D) over the neighbours of each target, (M, D) a relation: 1/|N_r(v)| Σ_{u ∈ N_r(v)} h_u."""
    return _BagMeans.apply(states, *bags) if len(bags) else ()


class RelationalLayer(torch.nn.Module):
    """One step of relational message passing with basis decomposition (Schlichtkrull et al., 2018).

    h'_v = LayerNorm(h_v + GELU(Σ_r W_r · mean_{u ∈ N_r(v)} h_u + W_0 h_v)), W_r = Σ_b a_rb V_b.

    Parameters
    ----------
    width
        D.
    n_relations
        R, inverses included.
    bases
        b: with fewer bases than relations these share what they do; a new relation costs b numbers.
    dropout
        Of messages, 0 to 1, in training.
    """

    def __init__(self, width: int, n_relations: int, bases: int, dropout: float) -> None:
        super().__init__()
        self.bases = torch.nn.Parameter(torch.randn(bases, width, width) / width**0.5)
        # all relations together should not be louder than the node itself
        self.mixture = torch.nn.Parameter(torch.randn(n_relations, bases) / (bases * max(n_relations, 1)) ** 0.5)
        self.own = torch.nn.Linear(width, width)
        self.norm = torch.nn.LayerNorm(width)
        self.dropout = torch.nn.Dropout(dropout)

    def forward(self, states: torch.Tensor, bags: Sequence[Bags]) -> torch.Tensor:
        """New states (N, D) from states (N, D) and the neighbours of each relation."""
        weights = torch.einsum("rb,bde->rde", self.mixture, self.bases)  # (R, D, D)
        message = self.own(states)
        for weight, relation, mean in zip(weights, bags, bag_means(states, bags), strict=True):
            # targets of a relation are all different: adding at these rows has one order
            message.index_add_(0, relation.targets, (mean @ weight).to(message.dtype))
        return self.norm(states + self.dropout(F.gelu(message)))
