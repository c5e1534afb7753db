"""Answers as a table, and cells of a group as one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import sparse

from sclm.cells import Cells
from sclm.models.contract import Annotation
from sclm.models.labels import UNKNOWN

if TYPE_CHECKING:
    from sclm.knowledge import Ontology


def report(
    ontology: Ontology,
    index: pd.Index,
    filled: np.ndarray,
    probabilities: np.ndarray,
    best: np.ndarray,
    novelty: np.ndarray,
    labels: list[str],
    ids: list[str],
) -> Annotation:
    """Answers as an annotation.

    Parameters
    ----------
    ontology
        Of the ids.
    index
        (n,) names of the cells.
    filled
        (n,) bool; cells without counts are unknown.
    probabilities, best
        (n, m) and (n,) column of each cell's answer.
    novelty
        (n,) 0 to 1.
    labels, ids
        m names and ids, ``"unknown"`` for labels that are no term.

    Returns
    -------
    The annotation. An answer's confidence is the summed probability of the term and all below it, as in ontology back-off.
    """
    confidence = np.zeros(len(filled))
    for column in np.unique(best):
        at = best == column
        if ids[column] == UNKNOWN:
            confidence[at] = probabilities[at, column]
            continue
        below = ontology.descendants(ids[column], include_self=True)
        confidence[at] = probabilities[at][:, [i for i, t in enumerate(ids) if t in below]].sum(axis=1)
    table = pd.DataFrame(
        {
            "label": np.where(filled, np.array(labels, dtype=object)[best], UNKNOWN),
            "ontology_term_id": np.where(filled, np.array(ids, dtype=object)[best], UNKNOWN),
            "confidence": np.where(filled, np.clip(confidence, 0.0, 1.0), 0.0),
            "novelty": novelty,
        },
        index=index,
    )
    categories = pd.DataFrame({"label": labels, "ontology_term_id": ids})
    return Annotation(table, probabilities.astype(np.float32), categories)


def sum_groups(cells: Cells, groups: np.ndarray) -> Cells:
    """One cell a group, in the order of their names: summed counts, and the fields that all its cells share.

    Cells without a group (None, NaN) are left out.

    Raises
    ------
    ValueError
        If no cell has a group, or there are not as many groups as cells.
    """
    given = pd.Series(np.asarray(groups, dtype=object))
    if len(given) != cells.n_cells:
        raise ValueError(f"groups must name one group a cell ({cells.n_cells}), found {len(given)}.")
    there = given.notna().to_numpy()
    if not there.any():
        raise ValueError("groups must name the group of at least one cell, found only missing values.")
    cells = Cells(cells.counts[np.flatnonzero(there)], cells.genes, cells.obs.iloc[np.flatnonzero(there)])
    names, codes = np.unique(given[there].astype(str).to_numpy(dtype=str), return_inverse=True)
    member = sparse.csr_matrix((np.ones(len(codes)), (codes, np.arange(len(codes)))), shape=(len(names), len(codes)))
    summed = sparse.csr_matrix(member @ cells.counts, dtype=np.float32)
    summed.sort_indices()
    shared = {}
    for column in cells.obs.columns:
        values = cells.obs[column].astype(object).to_numpy()
        found = [pd.unique(values[codes == g]) for g in range(len(names))]
        shared[column] = [of[0] if len(of) == 1 else None for of in found]
    return Cells(summed, cells.genes, pd.DataFrame(shared, index=names, dtype=object))
