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


class _BagMean(torch.autograd.Function):
    """Mean over the neighbours of each target, (N, D) → (M, D).

    Forwards and backwards it is a sum over bags, which neither holds a value for each edge nor adds in a random order: memory
    is bounded by the nodes, and a GPU gives the same numbers each time.
    """

    @staticmethod
    def forward(ctx: Any, states: torch.Tensor, bags: Bags) -> torch.Tensor:  # type: ignore[override]
        ctx.bags, ctx.shape = bags, states.shape
        return F.embedding_bag(bags.members, states.contiguous(), bags.offsets, mode="mean")

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:  # type: ignore[override]
        bags: Bags = ctx.bags
        shared = gradient / bags.counts[:, None].to(gradient.dtype)  # (M, D): what each neighbour gets
        back = F.embedding_bag(bags.back_members, shared.contiguous(), bags.back_offsets, mode="sum")  # (S, D)
        result = gradient.new_zeros(ctx.shape)
        result[bags.starts] = back
        return result, None


def bag_mean(states: torch.Tensor, bags: Bags) -> torch.Tensor:
    """Mean of the states (N, D) over the neighbours of each target of a relation, (M, D): 1/|N_r(v)| Σ_{u ∈ N_r(v)} h_u."""
    return _BagMean.apply(states, bags)


class RelationalLayer(torch.nn.Module):
    """One step of relational message passing with basis decomposition (Schlichtkrull et al., 2018), pre-norm residual free.

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
        for weight, of_relation in zip(weights, bags, strict=True):
            # targets of a relation are all different: adding at these rows has one order
            message.index_add_(0, of_relation.targets, (bag_mean(states, of_relation) @ weight).to(message.dtype))
        return self.norm(states + self.dropout(F.gelu(message)))
