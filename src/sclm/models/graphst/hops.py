"""Means over neighbours: the cheap embedding that a network has to beat."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from sclm.models.graphst.spot_family import Ordered, SpotConfig, SpotFamily, components_of
from sclm.spatial import hop_means

if TYPE_CHECKING:
    from sclm.models.graphst.tokens import Components


@dataclasses.dataclass(frozen=True, kw_only=True)
class HopConfig(SpotConfig):
    """Settings of neighbour means; chosen once on the sections of HER2-positive breast cancer, see the benchmarks."""

    n_hops: int = 3  # how far to look: about 36 spots around on a hexagonal grid
    own_weight: float = 0.5  # of the spot's own components: at 1 single strays of a type become domains of their own

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.n_hops < 0:
            raise ValueError(f"n_hops must be 0 or more, found {self.n_hops}.")
        if self.own_weight < 0 or (self.own_weight == 0 and self.n_hops == 0):
            raise ValueError(f"own_weight must be above 0, or 0 with neighbours, found {self.own_weight}.")


class HopMean(SpotFamily):
    """Principal components of each spot beside the means of its neighbours, hop by hop: a baseline without training.

    As CellCharter concatenates hops (Varrone et al., Nature Genetics 56, 2024), on principal components. ``seed`` does nothing.
    """

    family = "hop-mean"
    Config = HopConfig

    def learn(self, spots: Ordered, *, batch_size: int | None, seed: int, progress_bar: bool) -> Components:
        """Principal components; nothing random."""
        return self.components(spots)

    def apply(self, learned: Components, spots: Ordered, *, batch_size: int | None) -> np.ndarray:
        """Components times their weight, and their means over 1 to ``n_hops`` hops, (n, k · (n_hops + 1)) float32."""
        own = components_of(spots, learned)
        means = hop_means(own, spots.graph, self.config.n_hops)
        means[:, : own.shape[1]] *= np.float32(self.config.own_weight)
        return means
