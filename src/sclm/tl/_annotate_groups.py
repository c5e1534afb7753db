"""One answer a group: the counts of its cells are summed and the model is asked once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from sclm.cells import sum_groups
from sclm.evidence.backoff import UNKNOWN
from sclm.models.contract import Annotation

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sclm.cells import Cells, CellSource

_BLOCK = 4096  # cells that get the answer of their group at a time: their probabilities may be 3,300 wide


def ask_groups(
    model: Any, source: CellSource, groups: np.ndarray, batch_size: int | None, **options: Any
) -> Annotation:
    """Answers of the groups, in the order of their names.

    Parameters
    ----------
    model
        An annotator.
    source
        All cells.
    groups
        (n_cells,) name of each cell's group, None for cells of no group.
    batch_size
        Cells read at a time, or None.
    **options
        Of the model's ``annotate``.
    """
    graph = getattr(model, "graph", None)

    def blocks() -> Iterator[Cells]:
        for cells in source.blocks(batch_size):
            if graph is not None:  # sums have no names by which a graph could know the cells that it was made from
                graph.refuse_if_derived_from(cells.obs.index)
            yield cells

    return model.annotate(sum_groups(blocks(), groups), **options)


def spread(answer: Annotation, groups: np.ndarray) -> Iterator[Annotation]:
    """The answers of the groups for each of some cells (n,), in blocks; cells of no group are unknown."""
    names = answer.table.index.to_numpy(dtype=object)
    place = {name: i for i, name in enumerate(names)}
    none = pd.DataFrame({"label": [UNKNOWN], "ontology_term_id": [UNKNOWN], "confidence": [0.0], "novelty": [1.0]})
    table = pd.concat([answer.table[list(none.columns)], none])
    p = answer.probabilities
    if p is not None:
        p = np.concatenate([p, np.full((1, p.shape[1]), 1.0 / p.shape[1], dtype=p.dtype)])
    for start in range(0, len(groups), _BLOCK):
        rows = np.array([place.get(name, len(names)) for name in groups[start : start + _BLOCK]], dtype=np.int64)
        yield Annotation(table.iloc[rows], None if p is None else p[rows], answer.categories)
