"""Training of the graph network: one step of the optimiser a pass over all spots, whatever blocks they come in."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
import numpy as np
import torch

from sclm.models.graphst.blocks import Block, halos, spread_matrix
from sclm.models.graphst.objectives import block_loss
from sclm.spatial import neighbour_means

if TYPE_CHECKING:
    from collections.abc import Iterator

    from scipy import sparse

    from sclm.models.graphst.blocks import Halo
    from sclm.models.graphst.network import GraphSTConfig, GraphSTNetwork

logger = logging.getLogger(__name__)


class GraphSTModule(pl.LightningModule):
    """Gradients of the blocks are added up; the optimiser steps when all spots have been seen, as without blocks.

    Parameters
    ----------
    network
        What learns.
    config
        Weights of the objective and learning rate.
    n_spots
        Of all blocks.
    """

    def __init__(self, network: GraphSTNetwork, config: GraphSTConfig, n_spots: int) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.network, self.config, self.n_spots = network, config, n_spots

    def loss(self, block: Block) -> torch.Tensor:
        """The block's share of the loss."""
        config = self.config
        return block_loss(
            self.network, block, self.n_spots, reconstruction=config.reconstruction, contrast=config.contrast
        )

    def training_step(self, batch: Block, index: int) -> torch.Tensor:
        """Add the block's gradient, and step after the last block of a pass."""
        loss = self.loss(batch)
        self.manual_backward(loss)
        if bool(batch.last):
            optimiser: Any = self.optimizers()
            optimiser.step()
            optimiser.zero_grad()
        return loss.detach()

    def configure_optimizers(self) -> Any:
        """Adam, as published."""
        return torch.optim.Adam(self.network.parameters(), lr=self.config.learning_rate)


class BlockData(pl.LightningDataModule):
    """Blocks of spots with their halo; in each pass the spots are corrupted anew, within their library.

    Parameters
    ----------
    values
        (n, C) float32 components.
    graph
        (n, n) neighbours.
    library
        (n,) int64.
    size
        Spots a block.
    passes
        Over the spots, an epoch.
    seed
        Of the corruptions.
    """

    def __init__(
        self, values: np.ndarray, graph: sparse.csr_matrix, library: np.ndarray, *, size: int, passes: int, seed: int
    ) -> None:
        super().__init__()
        self.values = torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))
        self.library = library
        self.passes, self.seed = passes, seed
        self.halos: list[Halo] = list(halos(graph, spread_matrix(graph), neighbour_means(graph), size))
        self.n_cells = len(values) * passes  # what the progress bar counts
        self._pass = 0

    def __len__(self) -> int:
        return len(self.halos) * self.passes

    def train_dataloader(self) -> BlockData:
        """The blocks of one epoch, itself."""
        return self

    def __iter__(self) -> Iterator[Block]:
        for _ in range(self.passes):
            drawn = self.corruption(self._pass)
            self._pass += 1
            for i in range(len(self.halos)):
                yield self.block(i, drawn)

    def corruption(self, number: int) -> torch.Tensor:
        """(n,) int64 spot that takes the place of each in a pass, of its own library."""
        generator = torch.Generator().manual_seed(int(np.random.SeedSequence([self.seed, number]).generate_state(1)[0]))
        drawn = torch.empty(len(self.values), dtype=torch.int64)
        for name in np.unique(self.library):
            rows = torch.from_numpy(np.flatnonzero(self.library == name))
            drawn[rows] = rows[torch.randperm(len(rows), generator=generator)]
        return drawn

    def block(self, i: int, drawn: torch.Tensor) -> Block:
        """A block, with these spots in place of its own in the corruption."""
        halo = self.halos[i]
        around = torch.from_numpy(halo.around)
        return Block(
            halo.near[halo.itself],
            self.values[around],
            self.values[drawn[around]],
            halo.inner,
            halo.outer,
            halo.context,
            halo.near,
            halo.itself,
            torch.tensor(i == len(self.halos) - 1),
        )
