"""Names of cells by the classification head of a fine-tuned checkpoint of others."""

from __future__ import annotations

from functools import cache

import numpy as np
import pandas as pd

from sclm.evidence.backoff import UNKNOWN
from sclm.knowledge import Ontology
from sclm.models.contract import Annotation


@cache  # cells come in blocks, and the names stay the same
def class_terms(classes: tuple[str, ...]) -> pd.DataFrame:
    """Name and ontology term of each class: those of the Cell Ontology where the class is the name of a type.

    Parameters
    ----------
    classes
        As the checkpoint names them; numbers where it does not.

    Returns
    -------
    One row a class: ``label``, ``ontology_term_id`` (``"unknown"`` where the ontology has no such name).
    """
    found = Ontology.load("cl").resolve_many(list(classes))
    sure = ~found["kind"].isin(["fuzzy", "none"]).to_numpy()
    return pd.DataFrame(
        {
            "label": np.where(sure, found["name"], np.array(classes, dtype=object)),
            "ontology_term_id": np.where(sure, found["term_id"], UNKNOWN),
        }
    )


def class_annotation(probabilities: np.ndarray, terms: pd.DataFrame, index: pd.Index) -> Annotation:
    """The most probable class of each cell.

    Parameters
    ----------
    probabilities
        (n, C) float32, rows NaN for cells that express no gene of the model.
    terms
        As :func:`class_terms` gives them.
    index
        Names of the cells.

    Returns
    -------
    Labels with the network's own probability, which nothing has calibrated; novelty is NaN, since the reference is not known. Cells
    without genes are ``"unknown"`` with confidence 0 and novelty 1.
    """
    probabilities = probabilities.copy()
    filled = ~np.isnan(probabilities[:, 0])
    probabilities[~filled] = 1.0 / probabilities.shape[1]
    named = terms.iloc[probabilities.argmax(axis=1)].set_axis(index, axis=0)
    table = named.where(np.repeat(filled[:, None], 2, axis=1), UNKNOWN)
    table["confidence"] = np.where(filled, probabilities.max(axis=1).astype(np.float64), 0.0)
    table["novelty"] = np.where(filled, np.nan, 1.0)
    return Annotation(table, probabilities, terms)
