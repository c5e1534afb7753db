"""What a model that was trained here knows of its genes and proteins."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sclm.models.translator import Expectation

if TYPE_CHECKING:
    import numpy as np


class Panel:
    """What a trained model knows of its proteins; published weights have none.

    Parameters
    ----------
    gene_ids
        (L,) int64: embedding row of each gene of the vocabulary.
    protein_ids
        (P,) int64: embedding row of each protein.
    centre, spread
        (P,) float32: the network's outputs are multiplied by the spread and added to the centre.
    expectation
        How well held-out cells were predicted.
    """

    def __init__(
        self,
        gene_ids: np.ndarray,
        protein_ids: np.ndarray,
        centre: np.ndarray,
        spread: np.ndarray,
        expectation: Expectation,
    ) -> None:
        self.gene_ids, self.protein_ids, self.centre, self.spread = gene_ids, protein_ids, centre, spread
        self.expectation = expectation

    def arrays(self) -> dict[str, np.ndarray]:
        """By name, for a checkpoint."""
        own = {name: getattr(self, name) for name in ("gene_ids", "protein_ids", "centre", "spread")}
        return {f"panel.{name}": array for name, array in own.items()} | self.expectation.arrays()

    @classmethod
    def from_arrays(cls, arrays: dict[str, np.ndarray]) -> Panel:
        """The inverse of :meth:`arrays`."""
        own = {name: arrays[f"panel.{name}"] for name in ("gene_ids", "protein_ids", "centre", "spread")}
        return cls(**own, expectation=Expectation.from_arrays(arrays))
