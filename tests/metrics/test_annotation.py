from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import accuracy_score, f1_score

import sclm.metrics
from sclm.knowledge import Ontology
from sclm.metrics import annotation, match_kind
from sclm.metrics.annotation import annotation as from_module

KEYS = {
    "accuracy",
    "macro_f1",
    "weighted_f1",
    "ontology_similarity",
    "pagerank_similarity",
    "hierarchical_precision",
    "hierarchical_recall",
    "hierarchical_f1",
    "lca_distance",
    "expected_calibration_error",
    "unknown_share",
}


@pytest.fixture(scope="module")
def cl() -> Ontology:
    return Ontology.load("cl")


@pytest.fixture(scope="module")
def drawn(cl):
    """Random true and predicted ids, one third right."""
    rng = np.random.default_rng(0)
    ids = np.array(["CL:0000236", "CL:0000624", "CL:0000625", "CL:0000623", "CL:0000576", "CL:0000084"], dtype=object)
    truth = rng.choice(ids[:5], 300)
    guess = np.where(rng.random(300) < 0.3, truth, rng.choice(ids, 300))
    return truth, guess


def test_is_a_function_wherever_it_is_taken_from():
    assert callable(sclm.metrics.annotation)
    assert sclm.metrics.annotation is from_module


def test_plain_scores_against_sklearn(drawn):
    truth, guess = (a.astype(str) for a in drawn)
    scores = annotation(truth, guess)
    types = np.unique(truth)
    assert set(scores) == KEYS
    assert scores["accuracy"] == pytest.approx(accuracy_score(truth, guess))
    assert scores["macro_f1"] == pytest.approx(f1_score(truth, guess, labels=types, average="macro"))
    assert scores["weighted_f1"] == pytest.approx(f1_score(truth, guess, labels=types, average="weighted"))
    assert scores["unknown_share"] == 0
    assert all(np.isnan(scores[k]) for k in ("ontology_similarity", "lca_distance", "expected_calibration_error"))


def test_ontology_scores_against_loops(cl, drawn):
    truth, guess = drawn
    scores = annotation(truth, guess, ontology=cl)
    above = {t: cl.ancestors(t, include_self=True) - {"CL:0000000"} for t in {*truth, *guess}}
    shared = sum(len(above[t] & above[g]) for t, g in zip(truth, guess, strict=True))
    precision = shared / sum(len(above[g]) for g in guess)
    recall = shared / sum(len(above[t]) for t in truth)
    assert scores["hierarchical_precision"] == pytest.approx(precision)
    assert scores["hierarchical_recall"] == pytest.approx(recall)
    assert scores["hierarchical_f1"] == pytest.approx(2 * precision * recall / (precision + recall))
    steps = [cl.distance(t, g) for t, g in zip(truth, guess, strict=True)]
    assert scores["lca_distance"] == pytest.approx(np.mean(steps))
    lin = [cl.similarity(g, t, "lin") for t, g in zip(truth, guess, strict=True)]
    assert scores["ontology_similarity"] == pytest.approx(np.mean(lin))
    pairs = {(t, g): cl.similarity(g, t, "pagerank") for t, g in set(zip(truth, guess, strict=True))}
    walks = [pairs[pair] for pair in zip(truth, guess, strict=True)]
    assert scores["pagerank_similarity"] == pytest.approx(np.mean(walks))


def test_perfect_and_vague(cl):
    perfect = annotation(["CL:0000624"], ["CL:0000624"], ontology=cl)
    assert [perfect[k] for k in ("accuracy", "macro_f1", "hierarchical_f1", "ontology_similarity")] == [1, 1, 1, 1]
    assert perfect["lca_distance"] == 0
    vague = annotation(["CL:0000624"], ["CL:0000084"], ontology=cl)
    assert (vague["accuracy"], vague["hierarchical_precision"]) == (0, 1)
    wrong = annotation(["CL:0000624"], ["CL:0000540"], ontology=cl)
    assert vague["ontology_similarity"] > wrong["ontology_similarity"]
    assert vague["hierarchical_f1"] > wrong["hierarchical_f1"]


def test_labels_and_ids_agree(cl):
    truth = pd.Categorical(["CD4 T cells", "NK", "B", "odd"])
    scores = annotation(truth, pd.Series(["CL:0000624", "natural killer cell", "B cell", "odd"]), ontology=cl)
    assert scores["accuracy"] == scores["macro_f1"] == scores["ontology_similarity"] == scores["hierarchical_f1"] == 1
    assert annotation(truth, ["CL:0000624", "natural killer cell", "B cell", "odd"])["accuracy"] == 0.25


def test_labels_outside_the_ontology_match_exactly_or_not(cl):
    scores = annotation(["odd", "odd", "B cell"], ["odd", "strange", "strange"], ontology=cl)
    assert scores["ontology_similarity"] == scores["pagerank_similarity"] == pytest.approx(1 / 3)
    up = min(len(p) for p in _paths(cl, "CL:0000236"))
    assert scores["lca_distance"] == pytest.approx((0 + 2 + up + 1) / 3)


def _paths(cl, term):
    if term in cl.roots:
        return [[]]
    return [[term, *path] for parent in cl.parents(term) for path in _paths(cl, parent)]


@pytest.mark.parametrize("abstention", ["unknown", "Unknown", None, np.nan, "", pd.NA])
def test_abstaining(cl, abstention):
    truth = np.array(["CL:0000236", "CL:0000236"], dtype=object)
    guess = np.array(["CL:0000236", abstention], dtype=object)
    scores = annotation(truth, guess, confidence=[0.8, 0.1], ontology=cl)
    assert scores["unknown_share"] == scores["accuracy"] == 0.5
    assert scores["ontology_similarity"] == scores["pagerank_similarity"] == 0.5
    assert scores["hierarchical_precision"] == 1
    assert scores["hierarchical_recall"] == 0.5
    assert scores["expected_calibration_error"] == pytest.approx(0.2)  # of the one that says something
    assert scores["lca_distance"] == min(len(p) for p in _paths(cl, "CL:0000236")) / 2


def test_all_abstain(cl):
    scores = annotation(["B cell"], ["unknown"], confidence=[0.5], ontology=cl)
    assert scores["hierarchical_precision"] == scores["hierarchical_f1"] == scores["accuracy"] == 0
    assert np.isnan(scores["expected_calibration_error"])


def test_confidence_from_probabilities(cl):
    probabilities = np.array([[0.5, 0.3, 0.2], [0.1, 0.2, 0.7]], dtype=np.float32)
    categories = ["CD4 T", "CD8 T", "B"]
    # the first says "T cell": CD4 and CD8 together; the second its largest
    given = annotation(["CD4 T", "B"], ["T cell", "B"], confidence=[0.8, 0.7], ontology=cl)
    taken = annotation(["CD4 T", "B"], ["T cell", "B"], probabilities=probabilities, categories=categories, ontology=cl)
    key = "expected_calibration_error"
    assert taken[key] == pytest.approx(given[key])
    bare = annotation(["CD4 T", "B"], ["CD4 T", "B"], probabilities=probabilities)
    assert bare[key] == pytest.approx((0.5 + 0.3) / 2)


def test_kinds(cl):
    truth = ["CL:0000624", "CL:0000624", "CL:0000084", "CL:0000624", "CL:0000624", "odd", "odd", "B"]
    guess = ["CL:0000624", "CL:0000084", "CL:0000624", "CL:0000625", "CL:0000540", "odd", "B", None]
    kinds = ["exact", "ancestor", "descendant", "sibling", "other", "exact", "other", "unknown"]
    assert match_kind(truth, guess, cl).tolist() == kinds


def test_bad_input(cl):
    with pytest.raises(ValueError, match="found 1 and 2"):
        annotation(["a", "b"], ["a"])
    with pytest.raises(ValueError, match="at least one cell"):
        annotation([], [])
    with pytest.raises(ValueError, match="1 cells have no true label"):
        annotation(["a", None], ["a", "a"])
    with pytest.raises(ValueError, match="one confidence for each of 2"):
        annotation(["a", "b"], ["a", "b"], confidence=[0.5])
    with pytest.raises(ValueError, match=r"shape \(2, 3\), found \(2, 2\)"):
        annotation(["a", "b"], ["a", "b"], probabilities=np.ones((2, 2)), categories=["a", "b", "c"])
    with pytest.raises(ValueError, match=r"shape \(2, 1\)"):
        annotation([["a"], ["b"]], [["a"], ["b"]])
