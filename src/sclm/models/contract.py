"""What a tool needs of a model: small protocols, no inheritance."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol, runtime_checkable

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from sclm.cells import Cells, GeneMatch

VERBS = ("annotate",)


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
