"""A knowledge graph as the network reads it: types, features, and for each relation the neighbours of each node.

N nodes · R relations, inverses included · E edges of a relation · T types of nodes · F text features
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from sclm.models.celltosg.text_features import encoded_texts, node_texts, text_features

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sclm.knowledge import KnowledgeGraph


class Bags(NamedTuple):
    """The neighbours of one relation, grouped by the node that they tell something: a sparse matrix and its transpose.

    Targets are the nodes that any edge leads to, M of them, in order; starts the nodes that any edge comes from, S of them.
    """

    targets: torch.Tensor  # (M,) int64 numbers of nodes
    members: torch.Tensor  # (E,) int64 numbers of the nodes at the starts, sorted by target
    offsets: torch.Tensor  # (M,) int64 where a target's members begin
    counts: torch.Tensor  # (M,) float32 how many they are
    starts: torch.Tensor  # (S,) int64 numbers of nodes
    back_members: torch.Tensor  # (E,) int64 places in `targets`, sorted by start
    back_offsets: torch.Tensor  # (S,) int64


class GraphTensors(NamedTuple):
    """A knowledge graph for a network."""

    type_ids: torch.Tensor  # (N,) int64
    features: torch.Tensor  # (N, F) float32
    bags: tuple[Bags, ...]  # R
    types: tuple[str, ...]  # T
    relations: tuple[str, ...]  # R

    @property
    def n_nodes(self) -> int:
        """N."""
        return self.type_ids.shape[0]


def group(edges: np.ndarray) -> Bags:
    """Group the edges (2, E) of a relation by their ends, and by their starts."""
    starts, ends = edges.astype(np.int64)
    order = np.lexsort((starts, ends))
    targets, offsets, counts = np.unique(ends[order], return_index=True, return_counts=True)
    place = np.searchsorted(targets, ends)
    back = np.lexsort((ends, starts))
    sources, back_offsets = np.unique(starts[back], return_index=True)
    return Bags(
        torch.from_numpy(targets),
        torch.from_numpy(starts[order]),
        torch.from_numpy(offsets),
        torch.from_numpy(counts.astype(np.float32)),
        torch.from_numpy(sources),
        torch.from_numpy(place[back]),
        torch.from_numpy(back_offsets),
    )


def graph_tensors(
    graph: KnowledgeGraph,
    *,
    text_encoder: str | None = None,
    revision: str | None = None,
    features: np.ndarray | None = None,
) -> GraphTensors:
    """Prepare a graph for :class:`~sclm.models.celltosg.graph_encoder.GraphEncoder`.

    Parameters
    ----------
    graph
        With or without inverses: they are made.
    text_encoder
        ``"hf:organisation/name"`` or a folder, for features of its width; None: trigrams of letters, offline.
    revision
        Of the encoder on the hub.
    features
        (N, F) float32 instead, for example those of a checkpoint.

    Returns
    -------
    Tensors on the CPU. Relations are in the order of their names, so that a network's weights have the same place.

    Raises
    ------
    ValueError
        If `features` are not as many as the nodes.
    """
    if features is None:
        texts = node_texts(graph)
        features = (
            text_features(texts) if text_encoder is None else encoded_texts(texts, text_encoder, revision=revision)
        )
    if len(features) != len(graph):
        raise ValueError(f"features must have a row for each of the {len(graph):,} nodes, found {len(features):,}.")
    edges: Mapping[str, np.ndarray] = graph.with_inverses().edges
    relations = tuple(sorted(relation for relation, pair in edges.items() if pair.shape[1]))
    place = {kind: i for i, kind in enumerate(graph.types)}
    return GraphTensors(
        torch.tensor([place[kind] for kind in graph.nodes["type"]], dtype=torch.int64),
        torch.from_numpy(np.ascontiguousarray(features, dtype=np.float32)),
        tuple(group(edges[relation]) for relation in relations),
        graph.types,
        relations,
    )
