"""Ask for cells: one row a cell to write, with its metadata and depth."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from sclm.cells import read_cells
from sclm.models.pgl.fields import SCHEMA
from sclm.tl._cohort import plan, read_composition, short, texts, whole

if TYPE_CHECKING:
    import anndata

# What a keyword may be a slip of. `donor` and `seed` are near fields that exist in the wild, and are not here.
_PARAMETERS = ("n_obs", "n_counts", "composition", "obs_keys", "like")
_ALIASES = {"n_cells": "n_obs", "n": "n_obs", "celltype": "cell_type"}


class _Rows(NamedTuple):
    """Cells to copy the metadata of."""

    table: pd.DataFrame  # fields as texts
    depth: Callable[[np.ndarray], np.ndarray] | None  # (k,) row numbers to depths, float64


def request(
    n_obs: int | None = None,
    like: anndata.AnnData | pd.DataFrame | None = None,
    *,
    n_counts: float | Sequence[float] | None = None,
    composition: Mapping[str, float] | None = None,
    donors: int | Sequence[str] | None = None,
    obs_keys: Sequence[str] | None = None,
    layer: str | None = None,
    seed: int = 0,
    **fields: Any,
) -> pd.DataFrame:
    r"""Ask for cells by their metadata: tissue, disease, cell type, donor, depth.

    The table says what :func:`sclm.tl.generate` should write, one row a cell. Fields that it lacks are left to the model.
    Whether a model knows a field or a value is checked when the model is: this function knows no model.

    Parameters
    ----------
    n_obs
        Number of cells. May be left out where something else says it: a field or ``n_counts`` with one value a cell,
        counts in ``composition``, or ``like``.
    like
        A DataFrame of metadata, one row a cell or with a column ``n_obs`` that says how often each row is asked for, and
        perhaps a column ``n_counts``; or an AnnData with raw counts, whose metadata and depths are asked for. With
        ``n_obs``, or counts in ``composition``, rows are drawn with replacement, metadata and depth together.
    n_counts
        Depth (sum of raw counts) of the cells: one positive number, or one a cell. By default that of ``like`` where it
        has one, else it is left to the model.
    composition
        Cell type to proportion (decimal numbers that sum to 1 within 1e-6) or to number of cells (whole numbers).
        Proportions become cells by largest remainder: exact to one cell, without chance. With a ``like`` that has cell
        types, rows are drawn within each type.
    donors
        Values of the field ``donor_id``, cells dealt to them in turn. Or a number of virtual donors, named ``virtual_1``,
        ``virtual_2`` … in column ``virtual_donor`` (which is no field: nothing is known of them): cells are divided
        equally, and each donor's cell types are drawn from its own proportions :math:`p \sim \mathrm{Dirichlet}(30\,q)`
        with :math:`q` the ``composition``, or that of ``like``; so a type of fraction 0.2 has a standard deviation of 0.07
        between donors (the concentration is our choice, not a measurement). Counts in ``composition`` then set the number of cells and the expected proportions.
    obs_keys
        Columns of ``like`` to take as fields. Needed for an AnnData; all columns of a DataFrame by default.
    layer
        Layer of an AnnData with the raw counts; ``.X`` where None.
    seed
        Of the rows that are drawn from ``like`` and of the virtual donors.
    **fields
        Metadata by name, such as ``tissue="lung"``: one value, or one a cell. Replaces a column of ``like``. The text
        ``"unknown"`` leaves a field open for a cell. Names that look like a slip (``celltype``, ``tisue``) are refused: a
        model that was trained with such a field is asked with a DataFrame.

    Returns
    -------
    pandas.DataFrame
        Index ``"cell_0"``, ``"cell_1"`` …; a categorical column a field; ``virtual_donor`` (categorical) and ``n_counts``
        (float64) where asked for.

    Raises
    ------
    TypeError
        If ``n_obs`` or ``donors`` is no whole number, metadata are decimal numbers, or ``like`` is something else.
    ValueError
        If nothing says how many cells, numbers are zero or negative, anything is missing (NaN, empty text), lengths
        differ, proportions are negative or do not sum to 1, or two arguments contradict each other.
    KeyError
        If ``obs_keys`` names a column that ``like`` does not have.

    Examples
    --------
    >>> from sclm import request
    >>> request(4, tissue="blood", composition={"B cell": 0.25, "T cell": 0.75})
           tissue cell_type
    cell_0  blood    B cell
    cell_1  blood    T cell
    cell_2  blood    T cell
    cell_3  blood    T cell

    As in real cells, with a disease that they do not have:

    >>> import sclm
    >>> adata = sclm.datasets.pbmc68k()
    >>> like = request(500, adata, obs_keys=["cell_type"], disease="influenza")
    >>> like.shape, bool((like["n_counts"] > 0).all())
    ((500, 3), True)

    A cohort of three:

    >>> request(300, composition={"B cell": 0.3, "T cell": 0.7}, donors=3)["virtual_donor"].value_counts().to_dict()
    {'virtual_1': 100, 'virtual_2': 100, 'virtual_3': 100}
    """
    n_obs = None if n_obs is None else whole("n_obs", n_obs)
    _check_names(fields)
    columns = {name: _values(name, value) for name, value in fields.items()}
    depth = None if n_counts is None else _depths(n_counts)
    types = None if composition is None else read_composition(composition)
    rows = None if like is None else _rows_of(like, obs_keys, layer, n_obs, set(columns))
    if rows is None and (obs_keys is not None or layer is not None):
        raise ValueError(
            "obs_keys= and layer= say what to read of like=, which is None. Pass like= an AnnData or DataFrame."
        )
    _check_contradictions(columns, types, donors, rows)
    lengths = {name: len(value) for name, value in columns.items() if isinstance(value, list)}
    if depth is not None and depth.ndim:
        lengths["n_counts"] = len(depth)
    n = _number_of_cells(n_obs, lengths, types, rows)

    rng = np.random.default_rng(seed)
    donor, labels, dealt = plan(n, types, donors, None if rows is None else rows.table, rng)
    # rows as they are, unless a number is asked for that is not their own
    sampled = (n_obs is not None and "n_obs" not in getattr(like, "columns", ())) or (
        types is not None and types.dtype.kind == "i"
    )
    table, drawn = _draw(n, rows, labels, sampled, depth is None, rng)
    for name, value in columns.items():
        table[name] = value
    if labels is not None:
        table["cell_type"] = labels
    if dealt is not None:
        table["donor_id"] = dealt
    if donor is not None:
        table["virtual_donor"] = donor
    result = pd.DataFrame(
        {name: pd.Categorical(np.broadcast_to(np.asarray(values, dtype=object), n)) for name, values in table.items()},
        index=pd.Index([f"cell_{i}" for i in range(n)]),
    )
    depth = drawn if depth is None else depth
    if depth is not None:
        result["n_counts"] = np.broadcast_to(depth, n).astype(np.float64)
    return result


# Arguments ----------------------------------------------------------------------------------------------------------


def _check_names(fields: Mapping[str, Any]) -> None:
    for name in fields:
        near = _ALIASES.get(name) or next(
            iter(difflib.get_close_matches(name.lower(), [*SCHEMA, *_PARAMETERS], n=1, cutoff=0.85)), None
        )
        if name not in SCHEMA and near is not None:
            raise ValueError(
                f"{name!r} looks like a slip of {near!r}: write {near}=. For a model that really has a field {name!r}, pass "
                f'like=pandas.DataFrame({{"{name}": …}}).'
            )
    _check_columns(fields)


def _check_columns(names: Any) -> None:
    for name in names:
        if not isinstance(name, str) or not name or "/" in name:
            raise ValueError(f"a field must have a name without '/' (it cannot be written to .obs), found {name!r}.")
        if name == "virtual_donor":
            raise ValueError("'virtual_donor' is what donors= writes and cannot be a field. Drop or rename it.")


def _values(name: str, value: Any) -> str | list[str]:
    """One text, or one a cell."""
    single = isinstance(value, str | Integral | Real | np.bool_) or value is None
    if not single and (isinstance(value, Mapping | set | frozenset) or not hasattr(value, "__len__")):
        raise TypeError(f"{name} must be one value or a list with one a cell, found {type(value).__name__}.")
    column = pd.Series([value] if single else list(value), dtype=object)
    if len(column) == 0:
        raise ValueError(f"{name} must hold one value a cell, found an empty list.")
    found = texts(column, name)
    return found[0] if single else found


def _depths(value: Any) -> np.ndarray:
    """0- or 1-dimensional float64."""
    try:
        depth = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"n_counts must be a number or one a cell, found {type(value).__name__} {short(value)}."
        ) from error
    if depth.ndim > 1 or depth.size == 0:
        raise ValueError(f"n_counts must be a number or one a cell, found an array of shape {depth.shape}.")
    bad = np.flatnonzero(~((depth > 0) & np.isfinite(depth)))
    if len(bad):
        where = f" in row {bad[0]} ({len(bad):,} rows)" if depth.ndim else ""
        raise ValueError(f"n_counts must be positive, found {depth.reshape(-1)[bad[0]]:g}{where}.")
    return depth


def _check_contradictions(columns: Mapping[str, Any], types: pd.Series | None, donors: Any, rows: _Rows | None) -> None:
    if types is not None and "cell_type" in columns:
        raise ValueError("cell_type= and composition= both say the cell types. Pass one of them.")
    if donors is None:
        return
    if "donor_id" in columns or (rows is not None and "donor_id" in rows.table):
        raise ValueError(
            "donors= and the field donor_id both say the donors. Leave donor_id out of the fields or of obs_keys."
        )
    virtual = not hasattr(donors, "__len__")
    if virtual and isinstance(columns.get("cell_type"), list):
        raise ValueError(
            "virtual donors draw their cell types, found one cell type a cell. Pass composition= with their proportions."
        )


# Rows of `like` -----------------------------------------------------------------------------------------------------


def _rows_of(
    like: Any, obs_keys: Sequence[str] | None, layer: str | None, n_obs: int | None, replaced: set[str]
) -> _Rows:
    keys = [obs_keys] if isinstance(obs_keys, str) else obs_keys if obs_keys is None else list(obs_keys)
    if isinstance(like, pd.DataFrame):
        if layer is not None:
            raise ValueError("layer= is read from an AnnData, found a DataFrame in like=. Leave layer out.")
        return _rows_of_table(like, keys, n_obs, replaced)
    if not hasattr(like, "obs"):
        raise TypeError(f"like must be an AnnData or a DataFrame of metadata, found {type(like).__name__}.")
    if not keys:
        there = [name for name in SCHEMA if name in like.obs.columns]
        raise ValueError(
            "obs_keys must name the columns of like.obs that the cells should have, found none. Pass those that the model "
            f"was trained with; of the schema's, like.obs has {', '.join(map(repr, there)) or 'none'}."
        )
    _check_columns(keys)
    source = read_cells(like, layer=layer, obs_keys=keys)

    def depth(rows: np.ndarray) -> np.ndarray:
        read, place = np.unique(rows, return_inverse=True)
        sums = np.concatenate(
            [np.asarray(b.counts.sum(axis=1, dtype=np.float64)).reshape(-1) for b in source.blocks(rows=read)]
        )  # (k,)
        if not sums.all():
            raise ValueError(
                f"every cell of like must have counts, to take its depth, found {int((sums == 0).sum()):,} without. Remove "
                "them with scanpy.pp.filter_cells(adata, min_counts=1)."
            )
        return sums[place.reshape(-1)]

    return _Rows(_text_table(source.obs, [key for key in keys if key not in replaced]), depth)


def _rows_of_table(like: pd.DataFrame, keys: Sequence[str] | None, n_obs: int | None, replaced: set[str]) -> _Rows:
    if len(like) == 0:
        raise ValueError("like must hold at least one row, found an empty DataFrame.")
    if not like.columns.is_unique:
        raise ValueError("a column of like stands twice. Keep one of each.")
    missing = [key for key in keys or () if key not in like.columns]
    if missing:
        there = ", ".join(map(repr, list(like.columns)[:10]))
        raise KeyError(f"{', '.join(map(repr, missing))}: no column of like; there are {there}.")
    named = [column for column in (like.columns if keys is None else keys) if column not in ("n_obs", "n_counts")]
    _check_columns(named)
    depth = None
    if "n_counts" in like:
        try:
            depth = _depths(pd.to_numeric(like["n_counts"]).to_numpy(dtype=np.float64, na_value=np.nan))
        except (TypeError, ValueError) as error:
            raise ValueError(f"column 'n_counts' of like: {error}") from error
    table = _text_table(like, [column for column in named if column not in replaced])
    if "n_obs" not in like:
        return _Rows(table, None if depth is None else depth.__getitem__)
    repeats = [whole("n_obs in like", value) for value in like["n_obs"].tolist()]
    if n_obs is not None and n_obs != sum(repeats):
        raise ValueError(
            f"n_obs={n_obs:,} contradicts the column 'n_obs' of like, which sums to {sum(repeats):,}. Leave one of them out."
        )
    rows = np.repeat(np.arange(len(like)), repeats)
    return _Rows(table.iloc[rows].reset_index(drop=True), None if depth is None else depth[rows].__getitem__)


def _text_table(obs: pd.DataFrame, keys: Sequence[str]) -> pd.DataFrame:
    return pd.DataFrame({key: pd.Series(texts(obs[key], key), dtype=object) for key in keys}, index=range(len(obs)))


# Cells --------------------------------------------------------------------------------------------------------------


def _number_of_cells(n_obs: int | None, lengths: Mapping[str, int], types: pd.Series | None, rows: _Rows | None) -> int:
    said = {f"{name} with one value a cell": n for name, n in lengths.items()}
    if types is not None and types.dtype.kind == "i":
        said["composition"] = int(types.sum())
    if n_obs is not None:
        said = {"n_obs": n_obs, **said}
    elif rows is not None and "composition" not in said:  # counts draw as many rows as they say
        said["like"] = len(rows.table)
    if not said:
        raise ValueError(
            "nothing says how many cells to write. Pass n_obs=, a composition of whole numbers, one value a cell, or like=."
        )
    first, n = next(iter(said.items()))
    for other, m in said.items():
        if m != n:
            hint = " Write proportions as decimal numbers (1.0)." if other == "composition" and m == 1 else ""
            raise ValueError(f"{first} says {n:,} cells and {other} {m:,}. Let them agree, or leave one out.{hint}")
    return n


def _draw(
    n: int, rows: _Rows | None, labels: np.ndarray | None, sampled: bool, deep: bool, rng: np.random.Generator
) -> tuple[dict[str, Any], np.ndarray | None]:
    """Columns of metadata and depths taken from `like`."""
    if rows is None:
        return {}, None
    if labels is not None and "cell_type" in rows.table:
        own = rows.table["cell_type"].to_numpy(dtype=object)
        picked = np.empty(n, dtype=np.int64)
        for label in pd.unique(labels):
            there = np.flatnonzero(own == label)
            if not len(there):
                known = ", ".join(map(repr, pd.unique(own)[:5]))
                raise ValueError(
                    f"composition asks for {label!r}, and no row of like has this cell type; it has {known}. Take cell_type "
                    "out of like to draw depths from all its cells."
                )
            wanted = np.flatnonzero(labels == label)
            picked[wanted] = rng.choice(there, len(wanted))
    elif not sampled:  # then n is their number
        picked = np.arange(n)
    else:
        picked = rng.integers(len(rows.table), size=n)
    columns = {str(name): column.to_numpy(dtype=object)[picked] for name, column in rows.table.items()}
    return columns, rows.depth(picked) if deep and rows.depth is not None else None
