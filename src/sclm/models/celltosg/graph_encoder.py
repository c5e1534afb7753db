"""The graph encoder: a vector for every node of a knowledge graph, from its text, its type and its neighbours.

N nodes · D width · F text features · T types · R relations, inverses included
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import torch

from sclm.models.celltosg.graph_tensors import Bags, GraphTensors, graph_tensors
from sclm.models.celltosg.message_passing import RelationalLayer
from sclm.nn import seeded

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["GraphEncoder", "GraphEncoderConfig", "graph_tensors"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class GraphEncoderConfig:
    """Settings of the encoder; the preprint says "lightweight" and gives no numbers, so all of these are ours."""

    width: int = 64  # D
    layers: int = 2  # a gene sees the pathways of the genes that it interacts with
    bases: int = 4  # of the relations' weights
    dropout: float = 0.1
    # Types whose nodes have a vector of their own besides text and type. Genes do: all cells show them, and their symbols say
    # little. Cell types do not: one that no training cell has would keep its first values.
    learned: tuple[str, ...] = ("gene",)


class GraphEncoder(torch.nn.Module):
    """Relational message passing over a knowledge graph.

    h⁰_v = LayerNorm(W x_v + t_type(v) + e_v): text features, type, and a learned vector where the configuration wants one,
    which starts at zero. Then :class:`~sclm.models.celltosg.message_passing.RelationalLayer`, `layers` times. The whole graph
    is read at once.

    Parameters
    ----------
    graph
        From :func:`~sclm.models.celltosg.graph_tensors.graph_tensors`. Its features are part of the state; its edges are not.
    config
        Sizes.
    seed
        Of the first weights.

    Attributes
    ----------
    width, types, relations
        D, and the names of types and relations in the order of the weights.
    type_ids
        (N,) int64.
    """

    features: torch.Tensor
    type_ids: torch.Tensor

    def __init__(self, graph: GraphTensors, config: GraphEncoderConfig | None = None, *, seed: int = 0) -> None:
        super().__init__()
        config = config or GraphEncoderConfig()
        self.width, self.types, self.relations = config.width, graph.types, graph.relations
        self.register_buffer("features", graph.features.clone())
        self.register_buffer("type_ids", graph.type_ids.clone(), persistent=False)
        for r, bags in enumerate(graph.bags):
            for field, tensor in zip(Bags._fields, bags, strict=True):
                self.register_buffer(f"bags_{r}_{field}", tensor, persistent=False)
        unknown = sorted(set(config.learned) - set(graph.types))
        if unknown:
            raise ValueError(f"learned types must be of {', '.join(graph.types)}, found {', '.join(unknown)}.")
        wanted = torch.tensor([kind in config.learned for kind in graph.types], dtype=torch.bool)
        own_rows = torch.nonzero(wanted[graph.type_ids]).flatten() if len(wanted) else torch.empty(0, dtype=torch.int64)
        self.register_buffer("own_rows", own_rows, persistent=False)
        with seeded(seed):
            self.read = torch.nn.Linear(graph.features.shape[1], config.width)
            self.kind = torch.nn.Embedding(len(graph.types), config.width)
            self.norm = torch.nn.LayerNorm(config.width)
            self.layers = torch.nn.ModuleList(
                [
                    RelationalLayer(config.width, len(graph.relations), config.bases, config.dropout)
                    for _ in range(config.layers)
                ]
            )
        self.own = torch.nn.Parameter(torch.zeros(len(own_rows), config.width)) if len(own_rows) else None
        self._cache: tuple[Any, torch.Tensor] | None = None

    @property
    def n_nodes(self) -> int:
        """N."""
        return self.features.shape[0]

    def bags(self) -> list[Bags]:
        """The neighbours of each relation, on the encoder's device."""
        return [
            Bags(*(self.get_buffer(f"bags_{r}_{field}") for field in Bags._fields)) for r in range(len(self.relations))
        ]

    def forward(self) -> torch.Tensor:
        """Vectors of all nodes, (N, D).

        In evaluation without gradients they are worked out once and kept until a weight changes or moves.
        """
        if self.training or torch.is_grad_enabled():
            return self.uncached()
        state = self._state()
        if self._cache is None or self._cache[0] != state:
            self._cache = state, self.uncached()
        return self._cache[1]

    def uncached(self) -> torch.Tensor:
        """Vectors of all nodes, (N, D), worked out anew."""
        states = self.read(self.features) + self.kind(self.type_ids)
        if self.own is not None:
            states = states.index_add(0, self.own_rows, self.own.to(states.dtype))
        states = self.norm(states)
        bags = self.bags()
        for layer in self.layers:
            states = layer(states, bags)
        return states

    def _state(self) -> tuple[Any, ...]:
        """Changes whenever a weight is written to, replaced or moved."""
        tensors = [*self.parameters(), self.features]
        return tuple((t.data_ptr(), t.device, t.dtype, 0 if t.is_inference() else t._version) for t in tensors)

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> GraphEncoder:
        self._cache = None  # moved or cast
        return super()._apply(fn, recurse)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_cache": None}  # copies begin without
