"""The names of an open vocabulary, and answers made of their scores."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest

from sclm.models.open_labels import answer, label_set

if TYPE_CHECKING:
    from sclm.knowledge import Ontology


def test_all_terms_below_cell(ontology: Ontology) -> None:
    labels = label_set(ontology)
    assert set(labels.term_ids) == ontology.descendants("CL:0000000")
    assert list(labels.label_of) == list(range(len(labels.labels)))
    assert labels.texts == labels.labels
    below = label_set(ontology, under=["T cell", "CL:0000236"])
    wanted = ontology.descendants("CL:0000084", include_self=True) | ontology.descendants(
        "CL:0000236", include_self=True
    )
    assert set(below.term_ids) == wanted


def test_candidates_keep_their_order_and_unresolved_ones_their_text(ontology: Ontology) -> None:
    labels = label_set(ontology, ["monocyte", "T cells", "mystery 7", "CL:0000084", "T lymphocyte"])
    assert labels.labels == ("monocyte", "T cell", "mystery 7")
    assert labels.term_ids == ("CL:0000576", "CL:0000084", "unknown")
    values = pd.Series(["T cell", "mystery 7", "neuron", "CL:0000576"])
    assert labels.codes(values, ontology).tolist() == [1, 2, -1, 0]
    with pytest.raises(ValueError, match="found none"):
        label_set(ontology, [])


def test_probabilities_of_synonyms_are_added(ontology: Ontology) -> None:
    labels = label_set(ontology, ["T cell", "B cell"], synonyms=True)
    assert len(labels.texts) > 2
    rng = np.random.default_rng(0)
    chances = rng.dirichlet(np.ones(len(labels.texts) + 1), size=3)[:, :-1]
    found = np.exp(labels.scores(np.log(chances)))
    for label in (0, 1):
        np.testing.assert_allclose(found[:, label], chances[:, labels.label_of == label].sum(axis=1))
    missing = np.full((1, len(labels.texts)), -np.inf)
    missing[0, 0] = -1.0
    assert labels.scores(missing).tolist() == [[-1.0, -np.inf]]


def test_answers_of_cells_with_and_without_counts(ontology: Ontology) -> None:
    labels = label_set(ontology, ["T cell", "B cell", "neuron"])
    filled = np.array([True, False, True])
    scores = np.log([[0.1, 0.6, 0.1], [0.2, 0.1, 0.0001]])
    index = pd.Index(["a", "b", "c"])
    found = answer(labels, scores, filled, index, novelty=np.array([0.2, 0.7]))
    assert found.table["label"].tolist() == ["B cell", "unknown", "T cell"]
    assert found.table["confidence"].tolist() == pytest.approx([0.75, 0.0, 0.2 / 0.3001])
    assert found.table["novelty"].tolist() == [0.2, 1.0, 0.7]
    assert found.table.index.equals(index)
    np.testing.assert_allclose(found.probabilities.sum(axis=1), 1, rtol=1e-6)
    flat = answer(labels, scores, filled, index, temperature=2.0)
    np.testing.assert_allclose(
        flat.probabilities[0], np.sqrt([0.1, 0.6, 0.1]) / np.sqrt([0.1, 0.6, 0.1]).sum(), rtol=1e-6
    )
    assert flat.table["novelty"].isna().all()
