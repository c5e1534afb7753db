"""Blocks of spots with a halo: all that the vectors and losses of a block depend on, so that the partition changes nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import scipy.sparse as sp
import torch

if TYPE_CHECKING:
    from collections.abc import Iterator

BLOCK_SPOTS = 8192  # spots a block by default: some 100 MiB of activations


class Edges(NamedTuple):
    """From which spots values come, with which weight. Legend: E edges, those from a spot to itself among them."""

    target: torch.Tensor  # (E,) int64 among the spots that receive, ascending
    source: torch.Tensor  # (E,) int64 among the spots that send
    weight: torch.Tensor  # (E,) float32
    n_targets: torch.Tensor  # () int64


class Block(NamedTuple):
    """Spots B of a block ⊂ B1, within one hop ⊂ B2, within two hops. Legend: n2 = |B2| · C components."""

    own: torch.Tensor  # (B,) int64 places of B in B2; first, since the progress bar counts it
    values: torch.Tensor  # (n2, C) float32 components
    corrupted: torch.Tensor  # (n2, C) float32 components of the spots drawn in their place
    inner: Edges  # B1 <- B2
    outer: Edges  # B <- B1
    context: Edges  # B <- B1, means
    near: torch.Tensor  # (n1,) int64 places of B1 in B2
    itself: torch.Tensor  # (B,) int64 places of B in B1
    last: torch.Tensor  # () bool: the pass over the spots ends here


class Halo(NamedTuple):
    """Where a block and its surroundings lie, and their edges; made once."""

    own: np.ndarray  # (B,) rows
    around: np.ndarray  # (n2,) rows
    inner: Edges
    outer: Edges
    context: Edges
    near: torch.Tensor
    itself: torch.Tensor


def spread_matrix(graph: sp.csr_matrix) -> sp.csr_matrix:
    r""":math:`D^{-1/2} A D^{-1/2} + I`, float32: what a spot and its neighbours give; loops are added after normalising."""
    degree = np.asarray(graph.sum(axis=1), dtype=np.float64).ravel()
    root = sp.diags(np.divide(1, np.sqrt(degree), out=np.zeros_like(degree), where=degree > 0))
    return sp.csr_matrix(root @ graph @ root + sp.eye(graph.shape[0]), dtype=np.float32)


def halos(graph: sp.csr_matrix, spread: sp.csr_matrix, means: sp.csr_matrix, size: int) -> Iterator[Halo]:
    """Blocks of consecutive spots, which lie together in reading order, and their surroundings of two hops.

    Parameters
    ----------
    graph, spread, means
        (n, n): neighbours; :func:`spread_matrix`; means over a spot and its neighbours.
    size
        Spots a block.
    """
    n = graph.shape[0]
    for start in range(0, n, size):
        own = np.arange(start, min(start + size, n))
        near = _closed(graph, own)
        around = _closed(graph, near)
        yield Halo(
            own, around, _edges(spread, near, around), _edges(spread, own, near), _edges(means, own, near),
            torch.from_numpy(np.searchsorted(around, near)), torch.from_numpy(np.searchsorted(near, own)),
        )  # fmt: skip


def _closed(graph: sp.csr_matrix, rows: np.ndarray) -> np.ndarray:
    """Rows and their neighbours, ascending."""
    return np.union1d(rows, graph[rows].indices)


def _edges(matrix: sp.csr_matrix, targets: np.ndarray, sources: np.ndarray) -> Edges:
    """Edges into `targets`, all of which come from `sources`."""
    part = matrix[targets].tocoo()
    return Edges(
        torch.from_numpy(part.row.astype(np.int64)),
        torch.from_numpy(np.searchsorted(sources, part.col).astype(np.int64)),
        torch.from_numpy(part.data.astype(np.float32)),
        torch.tensor(len(targets)),
    )
