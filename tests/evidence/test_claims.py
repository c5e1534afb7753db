"""Tables of checked statements, and the share that was kept."""

from __future__ import annotations

import numpy as np

from sclm.evidence import CLAIM_COLUMNS, claim_table, faithfulness


def row(cell: int, verdict: str) -> tuple:
    return (cell, "gene", "LYZ", "LYZ", verdict, 0.9, "z", 3.0, 0.01, "why")


def test_an_empty_table_has_the_columns_and_dtypes() -> None:
    empty, one = claim_table(), claim_table([row(0, "kept")])
    assert tuple(empty.columns) == CLAIM_COLUMNS
    assert empty.dtypes.equals(one.dtypes)


def test_faithfulness_is_the_share_kept_of_what_could_be_checked() -> None:
    claims = claim_table(
        [row(0, "kept"), row(0, "kept"), row(0, "softened"), row(0, "removed"), row(0, "not verifiable"),
         row(2, "not verifiable"), row(3, "removed")]
    )  # fmt: skip
    np.testing.assert_array_equal(faithfulness(claims, 4), [0.5, np.nan, np.nan, 0.0])
