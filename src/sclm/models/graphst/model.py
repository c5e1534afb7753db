"""The graph network as a family: components in, vectors of spots in their surroundings out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np
import torch

from sclm.models.graphst.blocks import BLOCK_SPOTS, halos, spread_matrix
from sclm.models.graphst.module import BlockData, GraphSTModule
from sclm.models.graphst.network import GraphSTConfig, GraphSTNetwork
from sclm.models.graphst.spot_family import Ordered, SpotFamily, components_of
from sclm.models.neural import resolve_device
from sclm.spatial import neighbour_means
from sclm.training import fit

if TYPE_CHECKING:
    from sclm.models.graphst.tokens import Components

_EPOCHS = 30  # of the progress bar, at most: passes are grouped, since each epoch has a cost of its own


class Learned(NamedTuple):
    """What the sections have taught."""

    components: Components
    network: GraphSTNetwork


class GraphST(SpotFamily):
    """Graph self-supervised contrastive learning of spots (GraphST: Long et al., Nature Communications 14, 2023), on sparse graphs.

    A linear graph autoencoder and a discriminator that tells a spot's surroundings from those of another one, fitted on the sections at
    hand. Any number of spots: blocks with a halo give the same gradients as all spots at once.
    """

    family = "graphst"
    Config = GraphSTConfig
    domain_hops = 2  # one hop of a vector leaves domains ragged: on development sections .32, with two more .36
    _device = torch.device("cpu")

    @property
    def device(self) -> torch.device:
        """Where it is fitted."""
        return self._device

    def to(self, device: str | torch.device) -> Self:
        """Fit there; ``"auto"`` takes a GPU where there is one. Returns the model itself."""
        self._device = resolve_device(device)
        return self

    def learn(self, spots: Ordered, *, batch_size: int | None, seed: int, progress_bar: bool) -> Learned:
        """Fit components and network."""
        components = self.components(spots)
        values = components_of(spots, components)
        network = GraphSTNetwork(self.config, values.shape[1], torch.Generator().manual_seed(seed))
        passes = max(1, self.config.max_epochs // _EPOCHS)
        size = batch_size or BLOCK_SPOTS
        data = BlockData(values, spots.graph, spots.library, size=size, passes=passes, seed=seed)
        where: dict[str, Any] = {"accelerator": self.device.type, "devices": 1}
        if self.device.index is not None:
            where["devices"] = [self.device.index]
        fit(
            GraphSTModule(network, self.config, len(values)), data, max_epochs=-(-self.config.max_epochs // passes),
            seed=seed, precision="32-true", gradient_clip=0.0, progress_bar=progress_bar, **where,
        )  # fmt: skip
        return Learned(components, network.eval())

    @torch.inference_mode()
    def apply(self, learned: Learned, spots: Ordered, *, batch_size: int | None) -> np.ndarray:
        """Vectors Z, (n, width) float32."""
        values = torch.from_numpy(components_of(spots, learned.components))
        out = np.empty((len(values), self.config.width), dtype=np.float32)
        matrices = spread_matrix(spots.graph), neighbour_means(spots.graph)
        for halo in halos(spots.graph, *matrices, batch_size or BLOCK_SPOTS):
            around = values[torch.from_numpy(halo.around)]
            near = learned.network.encode(around, around[halo.near], halo.inner)
            out[halo.own] = near[halo.itself].numpy()
        return out
