"""Which values training cells have together."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping


class Combinations:
    """Distinct rows of codes among training cells, searched without looking at all of them.

    Parameters
    ----------
    codes
        (n_combinations, n_fields) int32, -1 where not given.
    n_values
        Number of values of each field.
    """

    def __init__(self, codes: np.ndarray, n_values: tuple[int, ...]) -> None:
        self._codes = codes
        self._n_values = n_values

    @cached_property
    def _rows_of_code(self) -> list[list[np.ndarray]]:
        """For each field and code, the rows that hold it."""
        found = []
        for column, n in zip(self._codes.T, self._n_values, strict=True):
            order = np.argsort(column, kind="stable")
            edges = np.searchsorted(column[order], np.arange(n + 1))
            found.append([order[edges[code] : edges[code + 1]] for code in range(n)])
        return found

    def together(self, asked: Mapping[int, np.ndarray]) -> bool:
        """Whether some training cell has, in each of these fields, one of these codes; not for an empty mapping."""
        sizes = {f: sum(len(self._rows_of_code[f][code]) for code in codes) for f, codes in asked.items()}
        rarest = min(sizes, key=lambda f: sizes[f])
        rows = np.concatenate([self._rows_of_code[rarest][code] for code in asked[rarest]])
        for f, codes in asked.items():
            if f != rarest:
                rows = rows[np.isin(self._codes[rows, f], codes)]
        return len(rows) > 0

    def apart(self, asked: Mapping[int, np.ndarray]) -> tuple[int, ...]:
        """The first two fields whose codes never go together, or all fields where any two do."""
        fields = list(asked)
        pairs = ((f, g) for i, f in enumerate(fields) for g in fields[i + 1 :])
        return next((pair for pair in pairs if not self.together({f: asked[f] for f in pair})), tuple(fields))


def distinct_rows(codes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Distinct rows of an integer matrix, in ascending order, much faster than numpy's own for many rows.

    Parameters
    ----------
    codes
        (n, k) integers of at least -1; k may be 0.

    Returns
    -------
    rows
        (m, k), as ``codes``.
    inverse
        (n,) int64: the distinct row of each.
    counts
        (m,) int64.
    """
    inverse = np.zeros(len(codes), dtype=np.int64)
    for column in codes.T:
        # ranks stay below n after each column, so that the product never overflows
        width = int(column.max(initial=-1)) + 2
        inverse = np.unique(inverse * width + column + 1, return_inverse=True)[1].reshape(-1)  # (n,)
    _, first, counts = np.unique(inverse, return_index=True, return_counts=True)
    return codes[first], inverse, counts.astype(np.int64)
