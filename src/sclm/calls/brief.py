"""Results as small JSON: what was written and what it looks like, never the matrices."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    import anndata

_SLOTS = ("obs", "var", "obsm", "varm", "obsp", "layers", "uns")
_TOP = 10  # rows of a table, values of a column
_TEXT = 300  # characters
_LIST = 12  # entries that a list may have to be shown whole
_KEYS = 40
_DEPTH = 4


def contents(adata: anndata.AnnData) -> dict[str, dict[str, Any]]:
    """What an AnnData holds before a tool runs: slot → name → the object. Tools replace columns as a whole, so none is copied."""
    return {
        slot: {name: holder[name] for name in _names(holder)} for slot in _SLOTS for holder in [getattr(adata, slot)]
    }


def written(adata: anndata.AnnData, before: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What is new or other than before, one entry a key, small enough to be read.

    Parameters
    ----------
    adata
        After the tool.
    before
        :func:`contents` of the same AnnData before it.

    Returns
    -------
    ``{"where": ".obs['sclm_cell_type']", …}``: ``top`` values of text, range and mean of numbers, shape of matrices.
    """
    found = []
    for slot in _SLOTS:
        holder = getattr(adata, slot)
        for name in _names(holder):
            value, old = holder[name], before[slot].get(name)
            if slot in ("obs", "var"):
                if old is None or not old.equals(value):
                    found.append({"where": f".{slot}[{name!r}]", **column(value)})
            elif value is not old and slot != "uns":
                found.append({"where": f".{slot}[{name!r}]", "shape": [int(n) for n in value.shape]})
            elif value is not old and not (isinstance(value, Mapping) and "tool" in value):
                found.append({"where": f".uns[{name!r}]"})
    return found


def records(adata: anndata.AnnData, before: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The records that a tool wrote: ``.uns`` key → model, genes, parameters, warnings and tables, in short."""
    found = {}
    for name, value in adata.uns.items():
        if value is not before["uns"].get(name) and isinstance(value, Mapping) and "tool" in value:
            found[name] = short({k: v for k, v in value.items() if k not in ("versions", "schema", "sclm", "params")})
    return found


def column(values: pd.Series) -> dict[str, Any]:
    """A column in short: the most frequent values of text, the range of numbers."""
    missing = int(values.isna().sum())
    extra = {"missing": missing} if missing else {}
    if pd.api.types.is_bool_dtype(values):
        return {"true": int(values.sum()), "of": len(values), **extra}
    if pd.api.types.is_numeric_dtype(values):
        numbers = values.to_numpy(dtype=float, na_value=np.nan)
        known = numbers[np.isfinite(numbers)]
        if not known.size:
            return {"mean": None, **extra}
        return {**{k: number(f(known)) for k, f in (("mean", np.mean), ("min", np.min), ("max", np.max))}, **extra}
    counts = values.astype(str)[values.notna()].value_counts()
    if len(counts) > 0.5 * len(values) and len(values) > 2 * _TOP:  # a text a cell
        return {"n_values": len(counts), "first": [str(v)[:_TEXT] for v in values.dropna().iloc[:3]], **extra}
    top = [
        {"value": str(v)[:_TEXT], "n": int(n), "share": number(n / max(len(values), 1))}
        for v, n in counts[:_TOP].items()
    ]
    return {"top": top, "n_values": len(counts), **extra}


def short(value: Any, depth: int = 0) -> Any:
    """Any value of a record as small JSON."""
    if value is None or isinstance(value, bool | np.bool_):
        return None if value is None else bool(value)
    if isinstance(value, int | float | np.number):
        return number(value)
    if isinstance(value, str):
        return value if len(value) <= _TEXT else value[: _TEXT - 1] + "…"
    if isinstance(value, Mapping):
        if depth >= _DEPTH:
            return {"keys": len(value)}
        return {str(k): short(v, depth + 1) for k, v in list(value.items())[:_KEYS]}
    if isinstance(value, pd.DataFrame):
        return table(value)
    if isinstance(value, pd.Series | pd.Index):
        value = value.to_numpy()
    shape = getattr(value, "shape", None)
    if shape is not None and len(shape) != 1:
        return {"shape": [int(n) for n in shape]}
    if isinstance(value, list | tuple | np.ndarray):
        if len(value) <= _LIST:
            return [short(v, depth + 1) for v in value]
        return {"length": len(value), "first": [short(v, depth + 1) for v in value[:5]]}
    return str(value)[:_TEXT]


def table(frame: pd.DataFrame, rows: int = _TOP) -> dict[str, Any]:
    """A table in short: number of rows, and the first ones."""
    names = [str(name) for name in frame.columns[:_KEYS]]
    first = [dict(zip(names, map(short, row), strict=False)) for row in frame.iloc[:rows].itertuples(index=False)]
    found: dict[str, Any] = {"rows": len(frame), "first": first}
    if not isinstance(frame.index, pd.RangeIndex) and not _numbered(frame.index):
        for label, row in zip(frame.index, first, strict=False):
            row.setdefault(str(frame.index.name or "name"), str(label))
    return found


def number(value: Any) -> Any:
    """A number as JSON has it: six digits, None for what is no number."""
    value = value.item() if isinstance(value, np.generic) else value
    if isinstance(value, int):
        return value
    return float(f"{value:.6g}") if isinstance(value, float) and math.isfinite(value) else None


def _names(holder: Any) -> list[str]:
    return [name for name in holder if isinstance(name, str)]  # of layers, None is .X


def _numbered(index: pd.Index) -> bool:
    return list(map(str, index[:3])) == [str(i) for i in range(min(3, len(index)))]
