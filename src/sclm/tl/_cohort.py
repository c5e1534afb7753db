"""Cell types and donors of a request: proportions to whole cells, virtual donors around a composition."""

from __future__ import annotations

import math
from collections.abc import Mapping
from numbers import Integral, Real
from typing import Any

import numpy as np
import pandas as pd

from sclm.models.pgl.texts import is_blank, read_texts

# Dirichlet concentration of virtual donors: sqrt(q (1 - q) / 31) is the standard deviation of a type of fraction q, 0.07
# for 0.2. A choice, not a measurement: tissues differ in it.
CONCENTRATION = 30.0
_TOLERANCE = 1e-6  # of proportions that should sum to 1


def whole(name: str, value: Any) -> int:
    """A number of cells or donors, at least 1."""
    if isinstance(value, bool | np.bool_) or not isinstance(value, Integral):
        advice = " Pass metadata as like=." if hasattr(value, "columns") or hasattr(value, "obs") else ""
        raise TypeError(f"{name} must be a whole number, found {type(value).__name__} {short(value)}.{advice}")
    if value < 1:
        raise ValueError(f"{name} must be at least 1, found {value}.")
    return int(value)


def short(value: Any) -> str:
    """A value as a message shows it, empty where that would be long."""
    text = repr(value)
    return text if len(text) <= 40 and "\n" not in text else ""


def texts(column: pd.Series, name: str) -> list[str]:
    """The values of a column as texts; ValueError where one is missing, TypeError for decimal numbers."""
    codes, unique = read_texts(column, name)
    missing = np.array([is_blank(text) for text in unique] + [True])[codes]
    if missing.any():
        raise ValueError(
            f"{name} must be given for every cell, found {column.iloc[int(missing.argmax())]!r} in row {missing.argmax()} "
            f'({int(missing.sum()):,} rows). Write "unknown" to leave it open for these cells, or leave {name} out.'
        )
    return np.array(unique, dtype=object)[codes].tolist()


def read_composition(composition: Any) -> pd.Series:
    """Proportions (float64) or numbers of cells (int64) by cell type, without types of none."""
    if not isinstance(composition, Mapping | pd.Series):
        raise TypeError(
            f'composition must map cell types to proportions or counts, found {type(composition).__name__}. Write {{"B cell": 0.3, …}}.'
        )
    if not len(composition):
        raise ValueError("composition must name at least one cell type, found none.")
    numbers = [number for _, number in composition.items()]
    for label, number in composition.items():
        if isinstance(number, bool | np.bool_) or not isinstance(number, Real):
            raise TypeError(f"composition[{label!r}] must be a number, found {type(number).__name__} {short(number)}.")
        if not math.isfinite(number) or number < 0:
            raise ValueError(f"composition[{label!r}] must be zero or more, found {number}.")
    labels = texts(pd.Series([label for label, _ in composition.items()], dtype=object), "composition")
    whole = all(isinstance(number, Integral) for number in numbers)
    total = sum(numbers)
    if whole and total == 0:
        raise ValueError("composition must hold at least one cell, found zero of each type.")
    if not whole and abs(total - 1.0) > _TOLERANCE:
        raise ValueError(
            f"the proportions of composition must sum to 1, found {total:g}. Divide them by their sum, or give whole numbers of cells."
        )
    found = pd.Series(numbers, index=labels, dtype=np.int64 if whole else np.float64)
    if not found.index.is_unique:
        raise ValueError(f"composition names {found.index[found.index.duplicated()][0]!r} twice. Add the two up.")
    return found[found > 0]


def plan(
    n: int, types: pd.Series | None, donors: Any, table: pd.DataFrame | None, rng: np.random.Generator
) -> tuple[np.ndarray | None, np.ndarray | None, np.ndarray | None]:
    """(virtual donor, cell type, donor_id) of each cell, each None where not asked for."""
    labels = None if types is None else np.repeat(types.index.to_numpy(dtype=object), shares(types, n))
    if donors is None:
        return None, labels, None
    if hasattr(donors, "__len__"):
        names = _donor_names(donors, n)
        return None, labels, np.array(names, dtype=object)[np.arange(n) % len(names)]
    k = whole("donors", donors)
    if k > n:
        raise ValueError(f"each of {k:,} virtual donors needs at least one cell, found {n:,} cells.")
    sizes = shares(pd.Series(np.full(k, 1.0 / k)), n)
    donor = np.repeat(np.array([f"virtual_{i + 1}" for i in range(k)], dtype=object), sizes)
    if types is None and table is not None and "cell_type" in table:
        types = table["cell_type"].value_counts().sort_index()
    if types is not None:
        proportions = rng.dirichlet(
            CONCENTRATION * (types / types.sum()).to_numpy(dtype=np.float64), size=k
        )  # (k, n_types)
        drawn = [rng.multinomial(size, p) for size, p in zip(sizes, proportions, strict=True)]
        labels = np.concatenate([np.repeat(types.index.to_numpy(dtype=object), counts) for counts in drawn])
    return donor, labels, None


def _donor_names(donors: Any, n: int) -> list[str]:
    if isinstance(donors, str):
        raise TypeError(f"donors must be a number or a list of names, found the text {donors!r}. Write [{donors!r}].")
    names = texts(pd.Series(list(donors), dtype=object), "donors")
    if not names:
        raise ValueError("donors must name at least one donor, found none.")
    if len(set(names)) < len(names):
        raise ValueError("donors names a donor twice. Name each once.")
    if len(names) > n:
        raise ValueError(f"each of {len(names):,} donors needs at least one cell, found {n:,} cells.")
    return names


def shares(parts: pd.Series, n: int) -> np.ndarray:
    """Whole numbers that sum to n, nearest to these parts of it: largest remainder, ties to the first; (n_parts,) int64."""
    if parts.dtype.kind == "i" and parts.sum() == n:
        return parts.to_numpy(dtype=np.int64)
    exact = (parts / parts.sum()).to_numpy(dtype=np.float64) * n
    # 1e-9: products such as 0.29 * 100 lie a rounding error below the whole number that they are
    counts = np.floor(exact + 1e-9).astype(np.int64)
    counts[np.argsort(-(exact - counts), kind="stable")[: n - counts.sum()]] += 1
    return counts
