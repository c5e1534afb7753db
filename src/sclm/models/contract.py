"""What a tool needs of a model: small protocols, no inheritance."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    import pandas as pd

    from sclm.cells import Cells, GeneMatch
    from sclm.evidence import PlausibilityGuard

VERBS = ("annotate", "generate", "log_likelihood")


class Annotation(NamedTuple):
    """Cell types of a block of cells.

    Attributes
    ----------
    table
        One row a cell, indexed as the cells: ``label`` (term name or label of the reference), ``ontology_term_id``
        (``"unknown"`` where the label is no term), ``confidence`` (float 0–1, calibrated), ``novelty`` (float 0–1).
    probabilities
        (n_cells, n_types) float32, rows sum to 1; None for models without a label set.
    categories
        One row a column of ``probabilities``: ``label``, ``ontology_term_id``.
    """

    table: pd.DataFrame
    probabilities: np.ndarray | None
    categories: pd.DataFrame


@runtime_checkable
class Annotator(Protocol):
    """A model that names cells."""

    def annotate(self, cells: Cells) -> Annotation:
        """Names for a block of raw counts."""
        ...

    def match(self, genes: pd.Index) -> GeneMatch:
        """Overlap of the data's genes with the model's, before any work; raises where it is too small."""
        ...


class Written(NamedTuple):
    """A block of cells that a model wrote.

    Attributes
    ----------
    cells
        Raw counts in the model's genes, and the metadata: the columns of the request as they are, a column a field that
        the request left out, and ``<field>_written`` where a value was written as another, more specific one.
    levels
        (n, K) float32 latent levels of the cells.
    depth
        (n,) float32 expected total counts.
    log_likelihood
        (n,) float64 nats of the counts under the metadata as which the cell was written.
    codes
        (n, n_fields) int32 training values as which the cells were written, -1 left open.
    """

    cells: Cells
    levels: np.ndarray
    depth: np.ndarray
    log_likelihood: np.ndarray
    codes: np.ndarray


@runtime_checkable
class Generator(Protocol):
    """A model that writes cells from metadata.

    Attributes
    ----------
    conditions
        What the model knows of metadata: ``fields``, ``names``, ``conditions[name]``, and ``resolve(request,
        max_novelty=)``, which says what each requested value means or refuses it.
    guard
        Judges written cells against the training cells of their group.
    groups
        (n_groups, n_fields) codes of the guard's groups, -1 where a field does not matter.
    """

    conditions: Any
    guard: PlausibilityGuard
    groups: np.ndarray

    def generate(self, request: pd.DataFrame, *, seed: int = 0) -> Cells:
        """All cells of a request, in its order."""
        ...

    def write(
        self,
        request: pd.DataFrame,
        *,
        seed: int = 0,
        batch_size: int | None = None,
        guidance: float = 0.0,
        max_novelty: float = 0.5,
        resolved: Any = None,
        start: int = 0,
    ) -> Iterator[Written]:
        """The same block by block, from the cell ``start`` on; cells do not depend on ``batch_size`` or ``start``."""
        ...

    def provenance(self) -> dict[str, Any]:
        """What made a result, with ``sha256`` of everything in the model."""
        ...
