"""Names of perturbations."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from sclm.models.perturbations import name_of, parts_of, read_perturbations, standing


def test_names_do_not_depend_on_order_spaces_or_the_control() -> None:
    assert parts_of("B + A", "ctrl") == parts_of("A+B") == parts_of(("B", "A")) == ("A", "B")
    assert parts_of("A+ctrl", "ctrl") == parts_of("A+A") == ("A",)
    assert parts_of("ctrl", "ctrl") == parts_of("ctrl+ctrl", "ctrl") == parts_of(()) == ()
    assert name_of(parts_of("B+A")) == "A+B"


def test_a_column_is_read() -> None:
    column = pd.Series(["ctrl", "B+A", "A+B", None, "A+ctrl", np.nan, "B"], dtype=object)
    found = read_perturbations(column, "ctrl", "guide")
    assert found.names == ("A", "A+B", "B")
    assert found.codes.tolist() == [-1, 1, 1, -2, 0, -2, 2]
    again = read_perturbations(column.astype("category"), "ctrl", "guide")
    assert again.names == found.names
    np.testing.assert_array_equal(again.codes, found.codes)
    with pytest.raises(TypeError, match="there are 'A\\+B', "):
        read_perturbations(column, None, "guide")


def test_standing_says_what_was_seen() -> None:
    asked = [("A",), ("B", "A"), ("A", "C"), ("A", "D"), ("D",), ("E",), ()]
    assert standing(asked, ["A", "C", "A+B", "E+F"]) == [
        "seen", "seen", "combination of seen", "partly seen", "unseen", "partly seen", "control",
    ]  # fmt: skip
