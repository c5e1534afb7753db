"""Columns of generated cells: requested and written metadata, ontology ids, the plausibility guard's groups."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from collections.abc import Mapping

GROUP = "_sclm_group"  # the guard's group of a cell, until the summary is made
UNKNOWN = "unknown"
_ID = "_ontology_term_id"
# The schema's id of no disease is a term of PATO, which the disease ontology does not hold.
_HEALTHY = {"normal": "PATO:0000461"}


def request_as_text(request: pd.DataFrame) -> pd.DataFrame:
    """The request with text names, metadata as categories of text and depths as float64: one form, whatever was passed."""
    columns: dict[str, Any] = {}
    for name, column in request.items():
        if name == "n_counts":
            columns[name] = pd.to_numeric(column).to_numpy(dtype=np.float64)
        else:
            columns[str(name)] = categorical(column)
    return pd.DataFrame(columns, index=pd.Index(np.asarray(request.index.astype(str), dtype=object)))


def categorical(column: pd.Series) -> pd.Categorical:
    """Text categories that occur, sorted; those of an ordered column stay in their order."""
    codes, unique = pd.factorize(column)
    names = np.array([str(value).strip() for value in unique], dtype=object)
    ordered = isinstance(column.dtype, pd.CategoricalDtype) and bool(column.cat.ordered)
    there = [str(c).strip() for c in column.cat.categories] if ordered else sorted(set(names))
    used = set(names)
    kept = pd.Index([name for name in dict.fromkeys(there) if name in used], dtype=object)
    place = np.append(kept.get_indexer(pd.Index(names)), -1)
    return pd.Categorical.from_codes(place[codes], categories=kept, ordered=ordered)


def metadata_columns(obs: pd.DataFrame, request: pd.DataFrame, conditions: Any, values: pd.DataFrame) -> dict[str, Any]:
    """Requested fields in their order, then those that the model filled in, each followed by what belongs to it.

    Parameters
    ----------
    obs
        Metadata as the model gave them; ``<field>_written`` may be missing in cells of blocks that had no need for it.
    request
        What was asked for.
    conditions
        The model's fields.
    values
        What each requested value was taken for: ``field``, ``value``, ``term_id``.

    Returns
    -------
    Name to categorical, or to float64 for ``n_counts``.
    """
    columns: dict[str, Any] = {}
    for name in [*request.columns, *(name for name in conditions.names if name not in request)]:
        if name == "n_counts":
            columns[name] = request[name].to_numpy(dtype=np.float64)
            continue
        columns[name] = categorical(obs[name])
        if name not in conditions.names:
            continue
        asked = values[(values["field"] == name) & (values["term_id"] != "")]
        ids = dict(zip(asked["value"], asked["term_id"], strict=True))
        _add_ids(columns, name, conditions, ids)
        if f"{name}_written" in obs:
            written = obs[f"{name}_written"].astype(object)
            columns[f"{name}_written"] = categorical(written.where(written.notna(), obs[name].astype(object)))
            _add_ids(columns, f"{name}_written", conditions, {}, field=name)
    return columns


def _add_ids(
    columns: dict[str, Any], name: str, conditions: Any, asked: Mapping[str, str], field: str | None = None
) -> None:
    """Ontology ids of a column, where its field has an ontology and does not hold ids itself."""
    known = conditions[field or name]
    if known.ontology is None or known.name.endswith(_ID) or f"{known.name}{_ID}" in conditions.names:
        return
    ids = {value: term for value, term in zip(known.values, known.term_ids, strict=True) if term} | dict(asked)
    if known.name == "disease":
        ids = _HEALTHY | ids
    text: pd.Categorical = columns[name]
    terms = np.array([ids.get(value, UNKNOWN) for value in text.categories], dtype=object)
    columns[f"{name}{_ID}"] = pd.Categorical(terms[text.codes])


def guard_groups(groups: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Group of the plausibility guard for each cell.

    Parameters
    ----------
    groups
        (n_groups, n_fields) codes, -1 where a field does not matter.
    codes
        (n, n_fields) codes as which the cells were written, -1 left open.

    Returns
    -------
    (n,) int32: of the groups that agree with a cell in every field that matters to them, the one to which most fields
    matter; -1, judged against all training cells, where none agrees or no field matters.
    """
    distinct, which = np.unique(codes, axis=0, return_inverse=True)
    matters = groups >= 0
    agrees = ((groups[None] == distinct[:, None]) | ~matters[None]).all(axis=2)  # (n_distinct, n_groups)
    weight = np.where(agrees & matters.any(axis=1), matters.sum(axis=1), 0)
    best = np.where(weight.max(axis=1) > 0, weight.argmax(axis=1), -1)
    return best.astype(np.int32)[which.reshape(-1)]


def group_names(groups: np.ndarray, conditions: Any) -> list[str]:
    """Values of each group, joined by ``" + "``."""
    names = [list(field.values) for field in conditions.fields]
    return [" + ".join(of[code] for of, code in zip(names, row, strict=True) if code >= 0) or UNKNOWN for row in groups]
