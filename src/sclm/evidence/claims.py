"""Statements about cells and what became of them: the words that every description is checked in."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol, runtime_checkable

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sclm.cells import Cells

KINDS = ("identity", "tissue", "disease", "gene", "pathway")
# Supported; said more carefully; taken out; nothing in these cells speaks for or against it.
VERDICTS = ("kept", "softened", "removed", "not verifiable")
CLAIM_COLUMNS = ("row", "kind", "claim", "id", "verdict", "support", "statistic", "value", "q", "reason")


class Statement(NamedTuple):
    """One thing that a text says of a cell or a group.

    Attributes
    ----------
    row
        Place of the cell or group in the block that the text describes.
    kind
        One of ``"identity"``, ``"tissue"``, ``"disease"``, ``"gene"`` (the gene is expressed, above other cells), ``"pathway"`` (the
        gene set is active, above other cells).
    value
        As stated: ``"CD14-positive monocyte"``, ``"blood"``, ``"normal"``, ``"LYZ"``, ``"Interferon Signaling"``.
    id
        Ontology id, gene as the data name it, or name of the gene set; ``""`` where the words were not resolved, and the checker
        looks them up.
    """

    row: int
    kind: str
    value: str
    id: str = ""


@runtime_checkable
class Checker(Protocol):
    """Looks statements up in the statistics of cells or groups.

    A checker knows the data: it was fitted on all cells of a data set, so that "above other cells" has a meaning and the verdict
    about a cell does not depend on the block in which it comes.
    """

    def check(self, cells: Cells, statements: Sequence[Statement]) -> pd.DataFrame:
        """One row a statement, in their order, with the columns `CLAIM_COLUMNS`.

        ``row``, ``kind``, ``claim`` (the value as stated), ``id`` (what it was taken to mean, ``"unknown"``), ``verdict`` (of
        `VERDICTS`), ``support`` (0-1, NaN where not verifiable), ``statistic`` and ``value`` (what was measured), ``q`` (share of
        false findings among statements this well supported, NaN where no test was made), ``reason`` (a sentence).
        """
        ...


def claim_table(rows: Sequence[Sequence[object]] = ()) -> pd.DataFrame:
    """Checked statements as a table.

    Parameters
    ----------
    rows
        Values in the order of `CLAIM_COLUMNS`.

    Returns
    -------
    A table with these columns; ``row`` is int64, ``support``, ``value`` and ``q`` are float64, the others text.
    """
    table = pd.DataFrame(list(rows), columns=list(CLAIM_COLUMNS))
    for column in CLAIM_COLUMNS:
        dtype = np.int64 if column == "row" else np.float64 if column in ("support", "value", "q") else object
        table[column] = table[column].astype(dtype)
    return table


def faithfulness(claims: pd.DataFrame, n_rows: int) -> np.ndarray:
    """Share of the statements that could be checked, and were kept as they were made.

    Parameters
    ----------
    claims
        As a :class:`Checker` gives them.
    n_rows
        Cells or groups of the block.

    Returns
    -------
    (n_rows,) float64 in 0-1. Statements that are not verifiable count neither way; NaN where none could be checked.
    """
    checked = (claims["verdict"] != "not verifiable").to_numpy()
    rows = claims["row"].to_numpy()[checked]
    kept = (claims["verdict"].to_numpy()[checked] == "kept").astype(np.float64)
    n = np.bincount(rows, minlength=n_rows)
    return np.divide(np.bincount(rows, weights=kept, minlength=n_rows), n, out=np.full(n_rows, np.nan), where=n > 0)
