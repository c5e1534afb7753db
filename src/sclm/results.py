"""The only writer: columns, matrices and the provenance record into AnnData, all or nothing."""

from __future__ import annotations

import datetime
import enum
import logging
from collections.abc import Mapping
from importlib import metadata
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import sparse

if TYPE_CHECKING:
    import anndata

logger = logging.getLogger(__name__)

SCHEMA = 1
_SLOTS = ("obs", "obsm", "obsp", "var", "varm", "layers", "uns")
_ABSENT = object()
_VERSIONS = ("anndata", "numpy", "pandas", "scikit-learn", "scipy")  # what a result may change with


def record(
    tool: str,
    *,
    model: Mapping[str, Any] | None = None,
    params: Mapping[str, Any] | None = None,
    seed: int | None = None,
    **facts: Any,
) -> dict[str, Any]:
    """Provenance of a result, to be stored in ``.uns``.

    Parameters
    ----------
    tool
        Name of the tool, e.g. ``"annotate"``.
    model
        ``{"family", "checkpoint", "sha256"}`` as ``model.provenance()`` gives it.
    params
        Arguments that change the result. None values are left out, since they do not survive every format.
    seed
        Of everything random.
    **facts
        What else a reader needs (``categories``, ``genes``, ``ontology``, ``warnings`` …).

    Returns
    -------
    ``{"tool", "schema", "sclm", "versions", "model", "params", "seed", …}``.
    """
    from sclm import __version__

    entry: dict[str, Any] = {
        "tool": tool,
        "schema": SCHEMA,
        "sclm": __version__,
        "versions": {name: metadata.version(name) for name in _VERSIONS},
        "model": dict(model or {}),
        "params": dict(params or {}),
    }
    if seed is not None:
        entry["seed"] = seed
    return {**entry, **facts}


def write(
    adata: anndata.AnnData,
    key: str,
    entry: Mapping[str, Any],
    **slots: Mapping[str, Any],
) -> None:
    """Write a tool's results, or nothing.

    Everything is checked and converted first (lengths, names, values that h5ad or zarr would refuse); then it is assigned,
    and if an assignment fails, what was there before is put back.

    Parameters
    ----------
    adata
        Written in place. A view becomes an AnnData of its own first, as in scanpy.
    key
        ``.uns[key]`` receives the record.
    entry
        The record: see :func:`record`.
    **slots
        ``obs={name: values}``, ``obsm={name: array}`` and so on; ``uns`` for further entries. A value None removes an entry
        of an earlier run, so that no column outlives the call that it belongs to.

    Raises
    ------
    ValueError
        If a name holds a ``/`` (which anndata nests or refuses), or a length does not fit.
    TypeError
        If a value cannot be stored.
    """
    unknown = set(slots) - set(_SLOTS)
    if unknown:
        raise ValueError(f"Unknown slots {sorted(unknown)}; known are {_SLOTS}.")
    lengths = {"obs": adata.n_obs, "obsm": adata.n_obs, "obsp": adata.n_obs, "var": adata.n_vars, "varm": adata.n_vars}
    slots = {**slots, "uns": {**slots.get("uns", {}), key: entry}}
    ready: list[tuple[str, str, Any]] = []
    for slot, values in slots.items():
        for name, value in values.items():
            check_name(name)
            place = f".{slot}[{name!r}]"
            if value is None:
                ready.append((slot, name, _ABSENT))
            elif slot == "uns":
                ready.append((slot, name, storable(value, place)))
            else:
                ready.append((slot, name, _aligned(value, lengths.get(slot), place, adata, slot)))
    if adata.is_view:
        if adata.isbacked:
            raise ValueError("Cannot write results into a view of a backed AnnData. Call .to_memory() on it first.")
        adata._init_as_actual(adata.copy())
    before = [(slot, name, _get(adata, slot, name)) for slot, name, _ in ready]
    try:
        for slot, name, value in ready:
            _set(adata, slot, name, value)
    except BaseException:
        for slot, name, value in before:
            _set(adata, slot, name, value)
        raise
    written = [f".{slot}[{name!r}]" for slot, name, value in ready if value is not _ABSENT]
    logger.info("%s wrote %s", entry.get("tool", "sclm"), ", ".join(written))


def extend(group: Any, name: str, values: np.ndarray, *, first: bool) -> None:
    """Write the first rows of a matrix into an h5 or zarr group, or put further rows below those that are there.

    Parameters
    ----------
    group
        Such as ``.obsm`` of an open store.
    name
        Of the matrix.
    values
        (n, width) rows.
    first
        Whether the matrix begins with these.
    """
    from anndata.io import write_elem

    if first:
        growing = {"maxshape": (None, *values.shape[1:])} if type(group).__module__.startswith("h5py") else {}
        write_elem(group, name, values, dataset_kwargs=growing)
        return
    array = group[name]
    n = array.shape[0]
    array.resize((n + len(values), *values.shape[1:]))
    array[n:] = values


def read(adata: anndata.AnnData, key: str, tool: str) -> dict[str, Any]:
    """The record under ``.uns[key]``, checked to be one that ``tool`` wrote.

    Raises
    ------
    KeyError
        If it is not there; names the call that makes it.
    """
    entry = adata.uns.get(key)
    if not isinstance(entry, Mapping) or entry.get("tool") != tool:
        there = sorted(k for k, v in adata.uns.items() if isinstance(v, Mapping) and v.get("tool") == tool)
        hint = (
            f" Results of {tool} are under {', '.join(map(repr, there))}: pass key=."
            if there
            else f" Run sclm.tl.{tool} first."
        )
        raise KeyError(f"adata.uns has no result {key!r} of sclm.tl.{tool}.{hint}")
    return dict(entry)


def check_name(name: str) -> None:
    """Refuse a key that would not survive writing."""
    if not isinstance(name, str) or not name or name in (".", "..") or "\0" in name:
        raise ValueError(f"A key must be text that can name a column, found {name!r}. Choose another key_added.")
    if "/" in name:
        raise ValueError(f"The key {name!r} holds a '/', which h5ad and zarr read as a path. Choose another key_added.")


def storable(value: Any, place: str) -> Any:
    """A value that h5ad and zarr give back as it was, on anndata 0.12 and 0.13.

    Mappings become dicts with string keys (None entries left out), tuples and lists of scalars become arrays, paths and
    enums text. Lists of mappings, sets and objects are refused.
    """
    if isinstance(value, Mapping):
        out = {}
        for k, v in value.items():
            if not isinstance(k, str) or "/" in k or k in ("", ".", "..") or "\0" in k:
                raise TypeError(f"{place} has the key {k!r}; keys must be text without '/'.")
            if v is not None:
                out[k] = storable(v, f"{place}[{k!r}]")
        return out
    if isinstance(value, enum.Enum):
        return storable(value.value, place)
    if isinstance(value, PurePath | datetime.date):
        return str(value)
    if isinstance(value, bool | int | float | str | np.bool_ | np.number):
        return value
    if isinstance(value, pd.DataFrame):
        return _table(value, place)
    if sparse.issparse(value):
        return value if value.format in ("csr", "csc") else value.tocsr()
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(f"{place} is a masked array, whose mask would be lost. Fill it first, e.g. with NaN.")
    if isinstance(value, pd.Series | pd.Index):
        value = value.to_numpy()
    if isinstance(value, list | tuple | np.ndarray):
        try:
            array = np.asarray(value)
        except ValueError as error:  # rows of unequal length
            raise TypeError(f"{place} is no rectangular array: {error}") from error
        if array.dtype.kind in "OU":
            if not all(isinstance(v, str) for v in array.ravel()):
                raise TypeError(f"{place} mixes text with other values; only arrays of one kind survive writing.")
            return array.astype(object)  # h5ad wants variable-length text
        if array.dtype.kind in "bif" or array.dtype.kind == "u":
            return array
    raise TypeError(f"{place} holds a {type(value).__name__}, which cannot be written to h5ad and zarr.")


def _table(frame: pd.DataFrame, place: str) -> pd.DataFrame:
    """A DataFrame with text columns as object (pandas' string type does not survive everywhere) and a text index."""
    names = [str(name) for name in frame.columns]
    if len(set(names)) < len(names) or frame.index.nlevels > 1:
        raise TypeError(f"{place} must have one index level and columns of different names, found {names}.")
    out = pd.DataFrame(index=pd.Index(np.asarray(frame.index.astype(str), dtype=object)))
    for i, name in enumerate(names):
        check_name(name)
        column = frame.iloc[:, i]
        if isinstance(column.dtype, pd.CategoricalDtype):
            out[name] = _categorical(column.array, f"{place}.{name}")
        else:
            out[name] = storable(column.to_numpy(), f"{place}.{name}")
    return out


def _categorical(value: pd.Categorical, place: str) -> pd.Categorical:
    """A categorical whose categories are text or numbers."""
    categories = storable(value.categories.to_numpy(), place)
    return pd.Categorical.from_codes(value.codes, categories=pd.Index(categories), ordered=bool(value.ordered))


def _aligned(value: Any, length: int | None, place: str, adata: anndata.AnnData, slot: str) -> Any:
    """A column or matrix of the right length, in a form that survives writing."""
    if np.ndim(value) == 0 and not hasattr(value, "shape"):
        raise ValueError(f"{place} must be an array with one value a row, found {type(value).__name__}.")
    shape = getattr(value, "shape", None) or (len(value),)
    if slot == "layers" and tuple(shape) != adata.shape:
        raise ValueError(f"{place} must have shape {adata.shape}, found {tuple(shape)}.")
    if length is not None and shape[0] != length:
        raise ValueError(f"{place} must have {length} rows, found {shape[0]}.")
    names = adata.var_names if slot in ("var", "varm") else adata.obs_names
    if isinstance(value, pd.Series | pd.DataFrame) and list(value.index) != list(names):
        raise ValueError(
            f"{place} has another index than the AnnData. Reindex it, or pass its values in the right order."
        )
    if slot in ("obs", "var"):
        if isinstance(value, pd.Series) and isinstance(value.dtype, pd.CategoricalDtype):
            value = value.array
        if isinstance(value, pd.Categorical):
            return _categorical(value, place)
        return storable(value if isinstance(value, np.ma.MaskedArray) else np.asarray(value), place)
    if isinstance(value, pd.DataFrame):
        table = _table(value, place)
        table.index = names
        return table
    return storable(value, place)


def _get(adata: anndata.AnnData, slot: str, name: str) -> Any:
    holder = getattr(adata, slot)
    if name not in holder:
        return _ABSENT
    return holder[name].copy() if slot in ("obs", "var") else holder[name]


def _set(adata: anndata.AnnData, slot: str, name: str, value: Any) -> None:
    holder = getattr(adata, slot)
    if value is _ABSENT:
        if name in holder:
            del holder[name]
    else:
        holder[name] = value
