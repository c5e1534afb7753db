"""Columns of metadata as codes and texts, and which texts stand for nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from collections.abc import Sequence

NOT_GIVEN = "unknown"  # the schema's own word; a request may write it to leave a field open for some of its cells
# Half the files in the wild write a missing value as text. "none" is not here: it is a value of `treatment`.
BLANK = frozenset({"", "nan", "na", "n/a", "null", "<na>"})


def read_texts(column: pd.Series, name: str) -> tuple[np.ndarray, list[str]]:
    """Distinct values of a column as stripped texts.

    Parameters
    ----------
    column
        Texts, categories, whole numbers or booleans, of any pandas type.
    name
        Of the column, for the message.

    Returns
    -------
    codes
        (n,) int32, position in the texts; -1 where pandas has no value (None, NaN, NA).
    texts
        Distinct, in order of appearance. What files write for "missing" is still among them.

    Raises
    ------
    TypeError
        If the column holds decimal numbers: these are measurements, not kinds.
    """
    codes, unique = pd.factorize(column)
    for value in unique:
        if isinstance(value, float | np.floating | complex):
            raise TypeError(
                f"column {name!r} must hold kinds (texts, categories, whole numbers), found the decimal number {value}. "
                "Cut it into named ranges with pandas.cut, or turn codes into texts with .astype('Int64').astype(str)."
            )
    texts: dict[str, int] = {}
    # texts that differ in surrounding blanks only are one
    merged = np.array([texts.setdefault(str(value).strip(), len(texts)) for value in unique] + [-1], dtype=np.int32)
    return merged[codes], list(texts)


def is_blank(text: str) -> bool:
    """Whether a text stands for a missing value; `"unknown"` does not, as a request may mean it."""
    return text.casefold() in BLANK


def sorted_values(codes: np.ndarray, texts: Sequence[str]) -> tuple[np.ndarray, list[str]]:
    """Codes among the sorted texts, -1 for those that stand for a missing value."""
    values = sorted(text for text in texts if not is_blank(text) and text.casefold() != NOT_GIVEN)
    place = {value: code for code, value in enumerate(values)}
    return np.array([place.get(text, -1) for text in texts] + [-1], dtype=np.int32)[codes], values


def requested_texts(request: pd.DataFrame, name: str) -> tuple[np.ndarray, list[str]]:
    """Distinct requested texts of a field; a missing one is an error, as it may be a slip."""
    codes, texts = read_texts(request[name], name)
    texts = [NOT_GIVEN if text.casefold() == NOT_GIVEN else text for text in texts]
    blank = np.array([is_blank(text) for text in texts] + [True])[codes]
    if blank.any():
        raise ValueError(
            f"{name} must be given in every row, found {request[name].iloc[int(blank.argmax())]!r} in row {blank.argmax()} "
            f'({int(blank.sum()):,} rows). Write "unknown" to leave it open for these cells, or leave the column out.'
        )
    return codes, texts
