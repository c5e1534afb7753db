"""Groups of cells by a column of `.obs`."""

from __future__ import annotations

import numpy as np
import pandas as pd


def group_codes(column: pd.Series, key: str, *, least: int = 2) -> tuple[np.ndarray, list[str]]:
    """Codes of groups, -1 where a cell is in none, and their names in the order of the categories (else sorted).

    Raises
    ------
    ValueError
        If there are fewer groups than `least`, or every cell is one of its own.
    """
    values = pd.Categorical(column)
    names = [str(name) for name in values.categories]
    there = np.unique(values.codes[values.codes >= 0])
    if len(there) < least:
        raise ValueError(
            f"groupby={key!r} must hold at least {least} groups, found {len(there)}: a group is compared with the other cells. "
            "Cluster or annotate the cells first."
        )
    if len(there) == len(column) > least:
        raise ValueError(
            f"groupby={key!r} must hold groups of cells, found {len(there):,} values in {len(column):,} cells. Choose a column of "
            "clusters or cell types."
        )
    place = np.full(len(names) + 1, -1, dtype=np.int64)
    place[there] = np.arange(len(there))
    return place[values.codes], [names[i] for i in there]
