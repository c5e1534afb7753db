"""Answers as a table."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

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
