"""From what the parts of a model say to probabilities of the terms that may be answered."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from sclm.evidence import softmax
from sclm.knowledge import KnowledgeGraph, Ontology, Pairs, Terms
from sclm.models.celltosg.evidence import Fit, Prototypes
from sclm.models.celltosg.judging import Judge, Weights
from sclm.models.celltosg.mixture import NOVELTY_WEIGHTS, SeenWeights

T_CELL, B_CELL, MONOCYTE, NEUTROPHIL, NK = "CL:0000084", "CL:0000236", "CL:0000576", "CL:0000775", "CL:0000623"
TERMS = [T_CELL, B_CELL, MONOCYTE, NEUTROPHIL, NK]
GENES = ["CD3E", "MS4A1", "LYZ", "NKG7"]
WEIGHTS = Weights(SeenWeights(0.0, 0.0, 0.0, 1.0), NOVELTY_WEIGHTS)


@pytest.fixture(scope="module")
def judge(ontology: Ontology) -> Judge:
    """T cell, B cell, monocyte and a label that is no term have training cells; neutrophil and NK have none."""
    marks = pd.DataFrame({"gene": GENES, "type": [T_CELL, B_CELL, MONOCYTE, NK]})
    graph = KnowledgeGraph.build(
        Terms(ontology, "cell_type"), Pairs(marks, "gene-marks-cell_type", name="markers"), genes=GENES
    )
    flat = np.ones(4, np.float32)
    prototypes = Prototypes(0 * flat, flat, np.eye(4, dtype=np.float32))
    places = np.array([0, 1, 2, -1])
    return Judge(graph, ontology, TERMS, graph.lookup("gene", GENES), prototypes, places, flat / 4)


def said(scores: list[list[float]]) -> tuple[Fit, list[np.ndarray]]:
    """Nothing speaks for or against any term but the discriminant."""
    n = len(scores)
    fit = Fit(*(np.zeros((n, len(TERMS)), np.float32) for _ in range(4)))
    return fit, [np.zeros((n, 4)), np.zeros((n, 4)), np.zeros((n, 4)), np.array(scores)]


def test_all_answers_together_are_the_mixture(judge: Judge) -> None:
    fit, parts = said([[3.0, 1.0, 0.0, -1.0]])
    p = judge.probabilities(fit, parts, WEIGHTS, np.arange(5), [3], 0.0)
    np.testing.assert_allclose(p[0, [0, 1, 2, 5]], softmax(np.array([[3.0, 1.0, 0.0, -1.0]]))[0])
    assert p[0, 3:5].max() == 0
    open_ = judge.probabilities(fit, parts, WEIGHTS, np.arange(5), [3], 0.3)
    np.testing.assert_allclose(open_.sum(axis=1), 1)
    np.testing.assert_allclose(open_[0, [0, 1, 2, 5]] / open_[0, 0], p[0, [0, 1, 2, 5]] / p[0, 0])
    assert open_[0, 3:5].sum() > 0


def test_fewer_candidates_are_the_same_probabilities_under_a_condition(judge: Judge) -> None:
    """Leaving training types out is to know that the cell is none of them: the others' ratio to the new ones stays."""
    fit, parts = said([[9.0, 0.0, 0.0, -3.0], [0.0, 9.0, 0.0, -3.0]])
    whole = judge.probabilities(fit, parts, WEIGHTS, np.arange(5), [3], 0.1)
    some = judge.probabilities(fit, parts, WEIGHTS, np.array([1, 3, 4]), [], 0.1)
    rest = whole[:, [1, 3, 4]]
    np.testing.assert_allclose(some, rest / rest.sum(axis=1, keepdims=True), atol=1e-12)
    # what was called a T cell is hardly a B cell for want of anything else that was learnt
    assert some[0, 0] < 0.2
    assert some[1, 0] > 0.9


def test_novelty_is_judged_by_the_types_that_are_terms_as_in_rehearsal(judge: Judge) -> None:
    """How well cells fit a label that is no term does not move it."""
    fit, parts = said([[3.0, 1.0, 0.0, -1.0]])
    parts[2] = np.array([[20.0, 0.0, 0.0, 0.0]])
    other = [*parts[:2], np.array([[20.0, 0.0, 0.0, 90.0]]), parts[3]]
    first, second = (judge.probabilities(fit, p, WEIGHTS, np.arange(5), [3], 0.3) for p in (parts, other))
    np.testing.assert_array_equal(first, second)
    np.testing.assert_allclose(judge._view(np.zeros((1, 2)), np.array([-1, -1])), 0.5)


def test_candidates_without_training_cells_share_all_of_it(judge: Judge) -> None:
    fit, parts = said([[9.0, 0.0, 0.0, -3.0]])
    for share in (0.0, 0.1):
        p = judge.probabilities(fit, parts, WEIGHTS, np.array([3, 4]), [], share)
        np.testing.assert_allclose(p.sum(axis=1), 1)
        assert p[0, 1] > p[0, 0]  # a T cell is more of a natural killer cell than of a neutrophil
    alone = judge.probabilities(fit, parts, WEIGHTS, np.array([], dtype=np.int64), [3], 0.1)
    np.testing.assert_array_equal(alone, [[1.0]])


def test_kinds_of_a_type_that_may_not_be_answered_share_its_probability(ontology: Ontology) -> None:
    """Broad labels were learnt, fine ones are asked for: a T cell is one of the kinds of T cell, whichever its genes speak for."""
    cd4, cd8 = "CL:0000624", "CL:0000625"
    terms, genes = [T_CELL, B_CELL, cd4, cd8], ["CD4", "CD8A", "MS4A1"]
    marks = pd.DataFrame({"gene": genes, "type": [cd4, cd8, B_CELL]})
    graph = KnowledgeGraph.build(
        Terms(ontology, "cell_type"), Pairs(marks, "gene-marks-cell_type", name="markers"), genes=genes
    )
    flat = np.ones(3, np.float32)
    prototypes = Prototypes(0 * flat, flat, np.zeros((2, 3), np.float32))
    judge = Judge(graph, ontology, terms, graph.lookup("gene", genes), prototypes, np.array([0, 1]), flat / 3)
    fit = Fit(*(np.zeros((2, 4), np.float32) for _ in range(4)))
    fit.markers[:, 2:] = [[9.0, 0.0], [0.0, 9.0]]
    parts = [np.zeros((2, 2)), np.zeros((2, 2)), np.zeros((2, 2)), np.array([[2.0, 0.0], [2.0, 0.0]])]
    sure = softmax(np.array([[2.0, 0.0]]))[0]
    for share, about in ((0.0, 1e-12), (0.3, 0.02)):  # kinds of what a cell is known to be are not new
        p = judge.probabilities(fit, parts, WEIGHTS, np.array([1, 2, 3]), [], share)
        np.testing.assert_allclose(p[:, 0], sure[1], atol=about)
        np.testing.assert_allclose(p[:, 1:].sum(axis=1), sure[0], atol=about)
        assert p[0, 1] > 2 * p[0, 2]
        assert p[1, 2] > 2 * p[1, 1]


def test_labels_of_mixed_breadth(ontology: Ontology) -> None:
    """What is said of a broad label goes to kinds that were learnt as well, and a rare broad label hides no new type."""
    cd4, cd8, lymphocyte = "CL:0000624", "CL:0000625", "CL:0000542"
    terms, genes = [T_CELL, B_CELL, cd8, cd4, NK, lymphocyte], ["CD8A", "MS4A1", "NKG7"]
    marks = pd.DataFrame({"gene": genes, "type": [cd8, B_CELL, NK]})
    graph = KnowledgeGraph.build(
        Terms(ontology, "cell_type"), Pairs(marks, "gene-marks-cell_type", name="markers"), genes=genes
    )
    flat = np.ones(3, np.float32)

    def judge_of(*places: int) -> Judge:
        n = len(places)
        prototypes = Prototypes(0 * flat, flat, np.zeros((n, 3), np.float32))
        return Judge(graph, ontology, terms, graph.lookup("gene", genes), prototypes, np.array(places), flat / 3)

    fit = Fit(*(np.zeros((1, 6), np.float32) for _ in range(4)))
    scores = np.log([[0.9, 0.07, 0.03]])
    parts = [np.zeros((1, 3)), np.zeros((1, 3)), np.zeros((1, 3)), scores]
    p = judge_of(0, 1, 2).probabilities(fit, parts, WEIGHTS, np.array([1, 2]), [], 0.0)  # T, B, CD8 were learnt
    np.testing.assert_allclose(p, [[0.07, 0.93]], atol=1e-6)  # a sure T cell is no B cell
    p = judge_of(0, 1, 2).probabilities(fit, parts, WEIGHTS, np.array([1, 2, 3]), [], 0.0)
    np.testing.assert_allclose(p[0, 0], 0.07, atol=1e-6)
    assert p[0, 1:].min() > 0.1
    fit.markers[:, 4] = 20.0  # the genes of a natural killer cell
    rare = [np.zeros((1, 3)), np.zeros((1, 3)), np.zeros((1, 3)), np.log([[0.6, 0.4 - 1e-6, 1e-6]])]
    plain = [part[:, :2] for part in rare]
    without = judge_of(0, 1).probabilities(fit, plain, WEIGHTS, np.array([0, 1, 3, 4]), [], 0.4)
    beside = judge_of(0, 1, 5).probabilities(fit, rare, WEIGHTS, np.array([0, 1, 3, 4]), [], 0.4)
    assert without[0, 3] > 0.1
    np.testing.assert_allclose(beside[0, 3], without[0, 3], rtol=0.3)
