"""What the families of this folder share: spots in an order of their own, empty ones left out, components on the scale of each library."""

from __future__ import annotations

import abc
import dataclasses
import logging
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self

import numpy as np

from sclm.cells import GeneVocabulary
from sclm.models.family import Family
from sclm.models.graphst.tokens import Components, filled_spots, learn_components, project
from sclm.spatial import reading_order

if TYPE_CHECKING:
    from scipy import sparse

    from sclm.cells import CellSource
    from sclm.models.contract_spots import Spots

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SpotConfig:
    """How spots are written."""

    n_genes: int = 1000  # those that vary most for their abundance; more add noise on sections of 3,000 counts a spot
    n_components: int = 20
    scale_genes: bool = True  # to unit variance; on development sections .32 against .20 where genes keep their own

    def __post_init__(self) -> None:
        for name in ("n_genes", "n_components"):
            value = getattr(self, name)
            if value < 2:
                raise ValueError(f"{name} must be at least 2, found {value}.")


class Ordered(NamedTuple):
    """Spots with counts, in reading order. Legend: n of them."""

    source: CellSource
    rows: np.ndarray  # (n,) int64 in the source
    graph: sparse.csr_matrix  # (n, n)
    library: np.ndarray  # (n,) int64


class SpotFamily(Family):
    """A family that is fitted on the sections at hand: :meth:`embed_spots` learns and answers in one call.

    Spots are read in the order of :func:`sclm.spatial.reading_order`, so that no result depends on how a file holds them; spots without
    counts are taken out of the graph and get NaN. Subclasses implement :meth:`learn` and :meth:`apply`.
    """

    domain_hops: ClassVar[int] = 0

    @classmethod
    def ready(cls, **settings: Any) -> Self:
        """A model with these settings (fields of its ``Config``), to be fitted by the tool that it is passed to.

        Raises
        ------
        TypeError
            If there is no such setting.
        """
        fields = [field.name for field in dataclasses.fields(cls.Config)]
        unknown = [name for name in settings if name not in fields]
        if unknown:
            raise TypeError(f"{cls.family!r} has no setting {unknown[0]!r}; there are {', '.join(fields)}.")
        return cls(cls.Config(**settings), GeneVocabulary(()), _CARD)

    @classmethod
    def fit(cls, source: CellSource, *, genes: Any = None, seed: int = 0, **options: Any) -> Self:
        """Refused: it is fitted where it is used."""
        raise TypeError(
            f"{cls.family!r} is fitted on the section at hand, not beforehand: pass its name, sclm.tl.domains(adata, {cls.family!r}), "
            f"or sclm.models.family_class({cls.family!r}).ready(...) with other settings."
        )

    @classmethod
    def from_arrays(
        cls, config: Any, vocabulary: GeneVocabulary, arrays: dict[str, np.ndarray], card: dict[str, Any]
    ) -> Self:
        """A model of that configuration; it has no arrays."""
        return cls(config, vocabulary, card)

    @abc.abstractmethod
    def learn(self, spots: Ordered, *, batch_size: int | None, seed: int, progress_bar: bool) -> Any:
        """What the sections teach."""

    @abc.abstractmethod
    def apply(self, learned: Any, spots: Ordered, *, batch_size: int | None) -> np.ndarray:
        """(n, width) float32 vectors by what was learnt, of the same sections or others.

        Each library gets the vectors that it would get alone.
        """

    def embed_spots(
        self, spots: Spots, *, batch_size: int | None = None, seed: int = 0, progress_bar: bool = True
    ) -> np.ndarray:
        """Vectors of the spots: see :class:`~sclm.models.contract_spots.SpotEncoder`.

        Raises
        ------
        ValueError
            If fewer than ten spots have counts, or fewer than two genes vary.
        """
        ordered = in_order(spots)
        learned = self.learn(ordered, batch_size=batch_size, seed=seed, progress_bar=progress_bar)
        found = self.apply(learned, ordered, batch_size=batch_size)
        vectors = np.full((spots.source.n_cells, found.shape[1]), np.nan, dtype=np.float32)
        vectors[ordered.rows] = found
        return vectors

    def components(self, spots: Ordered) -> Components:
        """Principal components of the sections."""
        return learn_components(spots.source, spots.rows, spots.library, self.config.n_genes, self.config.n_components)


def in_order(spots: Spots) -> Ordered:
    """Spots with counts in reading order, the edges of the others dropped."""
    n = spots.source.n_cells
    library = np.zeros(n, dtype=np.int64) if spots.library is None else np.asarray(spots.library, dtype=np.int64)
    order = reading_order(spots.coordinates, library)
    filled = filled_spots(spots.source)
    rows = order[filled[order]]
    if len(rows) < n:
        logger.warning("%d of %d spots have no counts: they get no vector.", n - len(rows), n)
    own = np.unique(library[rows], return_inverse=True)[1].astype(np.int64)
    graph = spots.graph[rows][:, rows].tocsr()
    graph.sort_indices()
    return Ordered(spots.source, rows, graph, own)


def components_of(spots: Ordered, components: Components) -> np.ndarray:
    """(n, k) float32 components, each library with mean 0 and mean square 1."""
    return project(spots.source, spots.rows, spots.library, components)


_CARD = {
    "data": "none: fitted on the section at hand",
    "split": "none: no labels are used",
    "limits": "vectors of one fit cannot be compared with those of another",
}
