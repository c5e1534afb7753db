"""What a tool needs of a model that reads spots in their surroundings: the spots of sections with their graph, in one piece."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol, runtime_checkable

if TYPE_CHECKING:
    import numpy as np
    from scipy import sparse

    from sclm.cells import CellSource


class Spots(NamedTuple):
    """Spots of one section or several.

    Attributes
    ----------
    source
        Raw counts and gene names.
    graph
        (n, n) float32 symmetric, 1 where two spots are neighbours, never between libraries.
    coordinates
        (n, 2 or 3) float64, of libraries that may overlap.
    library
        (n,) int64 number of each spot's section; None: one section.
    """

    source: CellSource
    graph: sparse.csr_matrix
    coordinates: np.ndarray
    library: np.ndarray | None


@runtime_checkable
class SpotEncoder(Protocol):
    """A model that is fitted on the sections at hand and gives each spot a vector.

    Attributes
    ----------
    domain_hops
        Domains are divided by the vectors of a spot beside the means of vectors around it, up to so many hops: 0 where a vector knows its
        surroundings well enough.
    """

    domain_hops: int

    def embed_spots(
        self, spots: Spots, *, batch_size: int | None = None, seed: int = 0, progress_bar: bool = True
    ) -> np.ndarray:
        """Vectors (n, width) float32 in the order of the spots; NaN for spots without counts.

        Neither the order of the spots nor that of the genes changes a vector, nor does ``batch_size``, the spots that are computed
        at a time.
        """
        ...
