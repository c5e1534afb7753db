"""Take cell types that another method gave."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from sclm import results
from sclm.cells import table_of
from sclm.evidence.backoff import UNKNOWN
from sclm.knowledge import Ontology

if TYPE_CHECKING:
    from collections.abc import Sequence

    import anndata

logger = logging.getLogger(__name__)

_BLANK = frozenset({"", "nan", "na", "n/a", "none", "null", "unknown", "unassigned", "unlabelled", "unlabeled"})
_SUM = 1e-3  # how far probabilities of a cell may be from summing to 1


def adopt(
    adata: anndata.AnnData,
    predictions: str | Sequence[str] | pd.Series | pd.DataFrame | Any,
    confidence: str | Sequence[float] | pd.Series | None = None,
    *,
    source: str | None = None,
    table_key: str | None = None,
    mod: str | None = None,
    key_added: str = "adopted_cell_type",
    copy: bool = False,
) -> anndata.AnnData | None:
    """Take the cell types that another method predicted, so that figures, tables and scores work on them as on our own.

    Labels are resolved to Cell Ontology terms as those of a reference are; what is no term keeps its own name. Nothing is calibrated:
    confidences are the other method's, and :func:`sclm.pl.annotate_reliability` shows what they are worth.

    Parameters
    ----------
    adata
        The cells; or a SpatialData or MuData.
    predictions
        One of: a column of ``.obs`` (celltypist's ``"majority_voting"``, popV's ``"popv_prediction"`` …); one label a cell, as scANVI's
        ``model.predict()`` gives; a DataFrame of probabilities, cells x types, as ``model.predict(soft=True)`` gives; or celltypist's
        ``AnnotationResult`` (labels after majority voting where it was asked for).
    confidence
        Column of ``.obs`` (celltypist's ``"conf_score"``) or one number a cell, 0-1. Taken from `predictions` where these hold it.
    source
        Name of the method, for the record; recognised where None and possible.
    table_key
        Table of a SpatialData; it is changed in place, nothing else of the SpatialData is.
    mod
        Modality of a MuData with the RNA, which is changed in place. May be left out where it is called ``"rna"`` or is the only one.
    key_added
        Prefix of everything written.
    copy
        Return a changed copy instead of changing ``adata``.

    Returns
    -------
    None, or the copy. Sets, with ``key_added`` in place of ``adopted_cell_type``:

    ``.obs["adopted_cell_type"]`` : categorical
        Cell type: the ontology's name where there is one.
    ``.obs["adopted_cell_type_ontology_term_id"]`` : categorical
        Its id in the Cell Ontology, ``"unknown"`` where it has none.
    ``.obs["adopted_cell_type_confidence"]`` : float64, 0–1
        As the other method says; NaN where it says nothing.
    ``.obsm["adopted_cell_type_probabilities"]`` : float32 (n_obs, n_types)
        Where probabilities were given that sum to 1 in every cell; columns of labels of one term are summed. celltypist's do not: each
        type has a classifier of its own.
    ``.uns["adopted_cell_type"]`` : dict
        A record like that of :func:`sclm.tl.annotate`: ``model`` names the source, ``reference_labels`` says how each label was read.

    Raises
    ------
    KeyError
        If there is no such column.
    ValueError
        If there is not one prediction a cell, cells are missing, or a confidence is not between 0 and 1. The AnnData is unchanged.

    Examples
    --------
    >>> import sclm
    >>> adata = sclm.datasets.pbmc68k()
    >>> adata.obs["predicted_labels"] = adata.obs["author_cell_type"]  # as another method would have written
    >>> sclm.tl.adopt(adata, "predicted_labels", source="another method")
    >>> sclm.get.annotate(adata, key="adopted_cell_type")["ontology_term_id"].iloc[0]
    'CL:0001054'
    """
    results.check_name(key_added)
    adata = table_of(adata, table_key, mod)
    recognised, labels, own_confidence, probabilities = _read(adata, predictions)
    scores = own_confidence if confidence is None else _column(adata, confidence, "confidence")
    scores = np.full(adata.n_obs, np.nan) if scores is None else np.asarray(scores, dtype=np.float64)
    outside = np.flatnonzero((scores < -1e-9) | (scores > 1 + 1e-6) | np.isinf(scores))
    if len(outside):
        raise ValueError(
            f"confidence must lie between 0 and 1, found {scores[outside[0]]:g} in row {outside[0]}. Leave it out, or rescale it."
        )
    read = _resolve(labels)
    name, term = (dict(zip(read["label"], read[column], strict=True)) for column in ("name", "term_id"))
    blank = ~np.isin(labels, list(name))
    names = np.array([UNKNOWN if b else name[label] for label, b in zip(labels, blank, strict=True)], dtype=object)
    ids = np.array([UNKNOWN if b else term[label] for label, b in zip(labels, blank, strict=True)], dtype=object)
    categories, merged = _merged(probabilities, name, term, names, ids)
    missing = int((read["term_id"] == UNKNOWN).sum())
    if missing:
        lost = read.loc[read["term_id"] == UNKNOWN, "label"].tolist()
        logger.warning(
            "%d of %d labels are no term of the Cell Ontology and keep their own name: %s.",
            missing, len(read), ", ".join(map(repr, lost[:10])) + (" …" if missing > 10 else ""),
        )  # fmt: skip
    ontology = Ontology.load("cl")
    entry = results.record(
        "annotate",
        model={"family": source or recognised or "unnamed", "adopted": True},
        params={
            "predictions": predictions if isinstance(predictions, str) else type(predictions).__name__,
            "confidence": confidence if isinstance(confidence, str) else None,
            "table_key": table_key,
            "mod": mod,
        },
        categories=categories["label"].tolist(),
        category_ontology_term_ids=categories["ontology_term_id"].tolist(),
        ontology={"name": "cl", "version": ontology.version},
        reference_labels=read,
        calibrated=False,
    )
    target = adata.copy() if copy and not adata.isbacked else adata.to_memory() if copy else adata
    results.write(
        target,
        key_added,
        entry,
        obs={
            key_added: pd.Categorical(names),
            f"{key_added}_ontology_term_id": pd.Categorical(ids),
            f"{key_added}_confidence": np.clip(scores, 0, 1),
            f"{key_added}_novelty": None,
            f"{key_added}_per_cell": None,
            f"{key_added}_vote_fraction": None,
        },
        obsm={f"{key_added}_probabilities": merged},
    )
    return target if copy else None


def _read(adata: anndata.AnnData, given: Any) -> tuple[str | None, np.ndarray, np.ndarray | None, pd.DataFrame | None]:
    """Source, (n,) labels, (n,) confidences or None, cells x types or None."""
    if hasattr(given, "predicted_labels") and hasattr(given, "probability_matrix"):  # celltypist's AnnotationResult
        table, matrix = _rows(adata, given.predicted_labels), _rows(adata, given.probability_matrix)
        column = "majority_voting" if "majority_voting" in table else "predicted_labels"
        confidence = matrix.to_numpy(dtype=float).max(axis=1)  # celltypist's conf_score
        return "celltypist", _labels(table[column]), confidence, matrix
    if isinstance(given, pd.DataFrame):
        matrix = _rows(adata, given)
        values = matrix.to_numpy(dtype=float)
        if not values.shape[1] or np.isnan(values).any():
            raise ValueError(
                "predictions must hold a probability of every type in every cell, found none or missing ones."
            )
        labels = np.array([str(name) for name in matrix.columns], dtype=object)[values.argmax(axis=1)]
        return None, labels, values.max(axis=1), matrix
    if isinstance(given, str):
        known = {"predicted_labels": "celltypist", "majority_voting": "celltypist", "popv_prediction": "popV"}
        return known.get(given), _labels(_column(adata, given, "predictions")), None, None
    return None, _labels(_column(adata, given, "predictions")), None, None


def _column(adata: anndata.AnnData, given: Any, what: str) -> Any:
    """One value a cell: of a column, or as given."""
    if isinstance(given, str):
        if given not in adata.obs:
            there = ", ".join(map(repr, adata.obs.columns[:20])) or "none"
            raise KeyError(f"{what}={given!r} is no column of adata.obs; there are {there}.")
        return adata.obs[given]
    if isinstance(given, pd.Series):
        return _rows(adata, given)
    values = np.asarray(given)
    if values.shape != (adata.n_obs,):
        raise ValueError(f"{what} must hold one value a cell ({adata.n_obs:,}), found shape {values.shape}.")
    return values


def _rows(adata: anndata.AnnData, table: Any) -> Any:
    """The rows of a table, in the order of the cells."""
    if list(table.index) == list(adata.obs_names):
        return table
    if not table.index.is_unique or not adata.obs_names.is_unique:
        raise ValueError(
            "predictions name cells in another order than adata, and names repeat: they cannot be matched."
        )
    lost = adata.obs_names.difference(table.index)
    if len(lost):
        raise ValueError(
            f"predictions must name every cell of adata ({adata.n_obs:,}), found {len(lost):,} missing, first {lost[0]!r}."
        )
    return table.loc[adata.obs_names]


def _labels(values: Any) -> np.ndarray:
    """(n,) text; ``""`` where there is no label."""
    series = pd.Series(np.asarray(values, dtype=object))
    return np.array(["" if pd.isna(value) else str(value) for value in series], dtype=object)


def _resolve(labels: np.ndarray) -> pd.DataFrame:
    """One row a label: label, n_cells, name, term_id, kind; without those that say nothing."""
    counts = pd.Series(labels, dtype=object).value_counts()
    counts = counts[[str(label).strip().lower() not in _BLANK for label in counts.index]]
    if counts.empty:
        raise ValueError("predictions must name a cell type of some cell, found none.")
    table = Ontology.load("cl").resolve_many(list(counts.index))
    sure = ~table["kind"].isin(["fuzzy", "none"]).to_numpy()
    return pd.DataFrame(
        {
            "label": list(counts.index),
            "n_cells": counts.to_numpy(),
            "name": np.where(sure, table["name"], counts.index),
            "term_id": np.where(sure, table["term_id"], UNKNOWN),
            "kind": np.where(sure, table["kind"], "none"),
        }
    )


def _merged(
    probabilities: pd.DataFrame | None, name: dict[str, str], term: dict[str, str], names: np.ndarray, ids: np.ndarray
) -> tuple[pd.DataFrame, np.ndarray | None]:
    """Types, and (n, n_types) float32 probabilities of them where there are any that sum to 1."""
    sums = None if probabilities is None else probabilities.to_numpy(dtype=float).sum(axis=1)
    if probabilities is None or sums is None or np.abs(sums - 1).max(initial=0) > _SUM:
        pairs = sorted({(n, i) for n, i in zip(names, ids, strict=True) if n != UNKNOWN})
        return pd.DataFrame(pairs, columns=["label", "ontology_term_id"]), None
    labels = [str(label) for label in probabilities.columns]
    other = [label for label in labels if label not in name]  # no cell's answer
    if other:
        extra = _resolve(np.array(other, dtype=object)) if any(o.strip().lower() not in _BLANK for o in other) else None
        if extra is not None:
            name = name | dict(zip(extra["label"], extra["name"], strict=True))
            term = term | dict(zip(extra["label"], extra["term_id"], strict=True))
    pairs = [(name.get(label, UNKNOWN), term.get(label, UNKNOWN)) for label in labels]
    types = sorted(set(pairs))
    found = np.zeros((len(probabilities), len(types)), dtype=np.float32)
    for pair, column in zip(pairs, probabilities.to_numpy(dtype=np.float32).T, strict=True):
        found[:, types.index(pair)] += column
    return pd.DataFrame(types, columns=["label", "ontology_term_id"]), found
