"""Where the probability of a known label goes among the answers that are allowed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from sclm.models.openvocab.choice import make_choice

if TYPE_CHECKING:
    from sclm.knowledge import Ontology

CD4, CD8, T, B, LYMPHOCYTE = "CL:0000624", "CL:0000625", "CL:0000084", "CL:0000236", "CL:0000542"


def test_labels_go_to_themselves_to_what_is_above_or_to_what_is_below(ontology: Ontology) -> None:
    labels, ids = ("CD4", "CD8", "lymphocyte"), (CD4, CD8, LYMPHOCYTE)
    choice = make_choice(ontology, labels, ids, ["T cell", "B cell", CD4], None)
    assert choice.answers.term_ids == (T, B, CD4)
    # CD4 is an answer; the nearest above CD8 is T cell, not lymphocyte; lymphocyte has three answers below it
    np.testing.assert_allclose(choice.rolled, [[0, 0, 1], [1, 0, 0], [1 / 3, 1 / 3, 1 / 3]])
    assert choice.fresh.tolist() == [True, True, False]


def test_a_label_with_no_kin_among_the_answers_goes_nowhere(ontology: Ontology) -> None:
    choice = make_choice(ontology, ("CD4",), (CD4,), ["B cell"], None)
    assert not choice.rolled.any()


def test_labels_that_are_no_term_can_be_answered(ontology: Ontology) -> None:
    labels, ids = ("T cell", "my own"), (T, "unknown")
    whole = make_choice(ontology, labels, ids, None, None)
    assert whole.answers.labels[-1] == "my own"
    assert not whole.fresh[-1]
    assert whole.rolled[1, -1] == 1
    np.testing.assert_allclose(whole.rolled.sum(axis=1), 1)
    assert "my own" not in make_choice(ontology, labels, ids, None, "lymphocyte").answers.labels
    assert make_choice(ontology, labels, ids, ["my own", "B cell"], None).rolled.tolist() == [[0, 0], [1, 0]]
    with pytest.raises(ValueError, match="found 'mystery 7'"):
        make_choice(ontology, labels, ids, ["mystery 7", "B cell"], None)
