"""Calibration, back-off, votes and novelty against slow references and known truths."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from scipy import sparse
from scipy.special import softmax as scipy_softmax

from sclm.evidence import ReferenceSpace, back_off, consensus, fit_pool, fit_temperature, over_cluster, softmax

if TYPE_CHECKING:
    from sclm.knowledge import Ontology

LABELS = ["CD4-positive, alpha-beta T cell", "CD8-positive, alpha-beta T cell", "B cell", "my own type"]
IDS = ["CL:0000624", "CL:0000625", "CL:0000236", "unknown"]


def test_softmax_agrees_with_scipy() -> None:
    z = np.random.default_rng(0).normal(size=(50, 7)) * 30
    np.testing.assert_allclose(softmax(z, 2.5), scipy_softmax(z / 2.5, axis=1), atol=1e-12)
    assert softmax(np.array([[0.0, -np.inf]])).tolist() == [[1.0, 0.0]]


@pytest.mark.parametrize("true_temperature", [0.5, 1.0, 3.0])
def test_temperature_is_found_again(true_temperature: float) -> None:
    """Labels drawn from softmax(z / T): T is what makes them most likely."""
    rng = np.random.default_rng(1)
    z = rng.normal(size=(40_000, 5)) * 2
    p = scipy_softmax(z / true_temperature, axis=1)
    truth = (p.cumsum(1) > rng.random((len(z), 1))).argmax(1)
    assert fit_temperature(z, truth) == pytest.approx(true_temperature, rel=0.05)


def test_a_handful_of_cells_does_not_make_a_model_sure() -> None:
    """Four held-out cells that all happen to be right: the likelihood alone would go to the coldest temperature."""
    z = np.eye(4)
    assert fit_temperature(z, np.arange(4)) > 0.7
    assert fit_temperature(np.tile(z, (500, 1)), np.tile(np.arange(4), 500)) < 0.3


def test_temperature_without_cells_is_one() -> None:
    assert fit_temperature(np.zeros((0, 3)), np.zeros(0, dtype=int)) == 1.0


def slow_back_off(p: np.ndarray, ontology: Ontology, threshold: float) -> tuple[str, float]:
    """One cell, straight from the definition."""
    content = ontology.information_content()
    best = ("unknown", -1.0, 0.0)
    terms = {a for t in IDS[:3] for a in ontology.ancestors(t, include_self=True)} - set(ontology.roots)
    highest = p[3]
    for term in sorted(terms):
        total = sum(p[i] for i in range(3) if term in ontology.ancestors(IDS[i], include_self=True))
        highest = max(highest, total)
        specific = content[ontology.index(term)]
        if total >= threshold - 1e-6 and (specific, total) > best[1:]:
            best = (term, specific, total)
    if p[3] >= threshold - 1e-6:
        return "my own type", p[3]
    return best[0], best[2] if best[1] >= 0 else highest


def test_a_pool_finds_how_much_each_of_two_models_knows() -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(4, size=4000)
    signal = np.eye(4)[truth]
    first, second = (signal * size + rng.normal(size=signal.shape) for size in (1.0, 2.0))
    beside = np.log(softmax(second * 2.0))
    temperature, weight = fit_pool(first * 3.0, beside, truth)
    # noise of variance 1 on one type against the others: the right log odds are size * score
    assert 1 / temperature * 3.0 == pytest.approx(1.0, rel=0.15)
    assert weight / temperature * 2.0 == pytest.approx(2.0, rel=0.1)
    assert fit_pool(first, np.zeros_like(first), truth)[1] == pytest.approx(
        0, abs=0.05
    )  # what says nothing gets no weight
    assert fit_pool(np.zeros((0, 3)), np.zeros((0, 3)), np.zeros(0, dtype=int)) == (1.0, 0.0)
    few = fit_pool(np.eye(4)[:2], np.log(softmax(np.eye(4)[:2])), np.arange(2))
    assert 0 <= few[1] < 1


def test_back_off_agrees_with_the_definition(ontology: Ontology) -> None:
    p = np.random.default_rng(2).dirichlet([0.4] * 4, size=300)
    for threshold in (0.55, 0.8, 0.95, 1.0):
        fast = back_off(p, LABELS, IDS, ontology, threshold)
        for i in range(len(p)):
            term, confidence = slow_back_off(p[i], ontology, threshold)
            assert (fast.label[i] if term == "my own type" else fast.term_id[i]) == term
            assert fast.confidence[i] == pytest.approx(confidence, abs=1e-9)


def test_back_off_by_hand(ontology: Ontology) -> None:
    p = np.array([[0.5, 0.45, 0.05, 0.0], [0.9, 0.05, 0.05, 0.0], [0.3, 0.3, 0.4, 0.0], [0.2, 0.2, 0.2, 0.4]])
    answer = back_off(p, LABELS, IDS, ontology, 0.85)
    assert answer.label.tolist() == [
        "mature alpha-beta T cell",
        LABELS[0],
        ontology.name_of(ontology.lowest_common_ancestor("CL:0000624", "CL:0000236")),
        "unknown",
    ]
    np.testing.assert_allclose(answer.confidence, [0.95, 0.9, 1.0, 0.6])
    with pytest.raises(ValueError, match="found 0"):
        back_off(p, LABELS, IDS, ontology, 0.0)


def test_consensus_agrees_with_a_loop(ontology: Ontology) -> None:
    rng = np.random.default_rng(3)
    p = rng.dirichlet([0.5] * 4, size=200)
    groups = rng.choice(["a/b", "c", "d"], size=200).astype(object)
    filled = rng.random(200) > 0.1
    answer = consensus(p, groups, filled, LABELS, IDS, ontology, None)
    for g in np.unique(groups):
        members = np.flatnonzero((groups == g) & filled)
        votes = np.bincount(p[members].argmax(1), minlength=4)
        winner = votes.argmax()
        here = groups == g
        assert set(answer["label"][here]) == {LABELS[winner]}
        np.testing.assert_allclose(answer["vote_fraction"][here], votes[winner] / len(members))
        np.testing.assert_allclose(answer["confidence"][here], p[members, winner].mean())


def test_consensus_of_a_group_without_voters(ontology: Ontology) -> None:
    p = np.full((3, 4), 0.25)
    answer = consensus(
        p, np.array(["x", "x", "y"], dtype=object), np.array([False, False, True]), LABELS, IDS, ontology, None
    )
    assert answer["label"][0] == "unknown"
    assert answer["confidence"][0] == 0
    assert answer["label"][2] == LABELS[0]


def test_small_data_still_has_several_clusters(pbmc) -> None:
    from sclm.cells import read_cells

    groups = over_cluster(read_cells(pbmc[:90]), seed=0)
    assert len(groups) == 90
    assert 5 <= len(set(groups)) <= 9


def test_novelty_is_the_stated_statistic() -> None:
    """Against dense numpy: principal components by SVD, distances by hand."""
    rng = np.random.default_rng(4)
    x = np.abs(rng.normal(size=(300, 40))) * (rng.random((300, 40)) < 0.5)
    train, held, new = (sparse.csr_matrix(x[a:b].astype(np.float32)) for a, b in ((0, 150), (150, 250), (250, 300)))
    space = ReferenceSpace.fit(train, held, n_components=40, seed=0)
    # With as many components as genes allow, distances in the subspace are distances along the leading right vectors.
    v = np.linalg.svd(x[:150].astype(np.float32), full_matrices=False)[2][: space.components.shape[1]].T

    def mean_distance(points: np.ndarray) -> np.ndarray:
        d = np.linalg.norm((points @ v)[:, None, :] - (x[:150] @ v)[None], axis=2)
        return np.sort(d, axis=1)[:, :10].mean(1)

    scale = np.quantile(mean_distance(x[150:250]), 0.95)
    expected = mean_distance(x[250:]) / (mean_distance(x[250:]) + scale)
    np.testing.assert_allclose(space.novelty(new), expected, rtol=2e-3)
    assert (space.novelty(held) > 0.5).mean() == pytest.approx(0.05, abs=0.011)


def test_novelty_of_tiny_references() -> None:
    one = sparse.csr_matrix(np.array([[1.0, 2.0, 0.0]], dtype=np.float32))
    space = ReferenceSpace.fit(one, one[:0], n_components=50, seed=0)
    assert np.isfinite(space.novelty(one)).all()
