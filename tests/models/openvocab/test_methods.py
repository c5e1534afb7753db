"""The open-vocabulary baselines against slow versions of what they are said to do, and on cells of types that they were not shown."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from scipy import stats
from sklearn.linear_model import LogisticRegression

import sclm
from sclm.cells import read_cells
from sclm.models.openvocab.linear import fit_softmax, linear_scores, to_length
from sclm.models.openvocab.walk import walk_with_restart
from sclm.models.reference_cells import Reference

if TYPE_CHECKING:
    from collections.abc import Callable

    import anndata as ad

    from sclm.knowledge import Ontology

NAMES = ("onclass", "pagerank-voting", "hierarchical", "marker-lists")
T, B, NK, MONOCYTE = "CL:0000084", "CL:0000236", "CL:0000623", "CL:0000576"


@pytest.fixture(scope="module")
def small(reference: ad.AnnData) -> Reference:
    return Reference(read_cells(reference[:120]), np.arange(120))


def test_walks_agree_with_steps_taken_one_by_one(ontology: Ontology) -> None:
    from sclm.models.openvocab.walk import _steps

    steps = _steps(ontology).toarray()
    linked = np.asarray(ontology.graph.undirected.sum(axis=1)).ravel() > 0
    np.testing.assert_allclose(steps.sum(axis=1)[linked], 1)
    starts = [T, B]
    found = walk_with_restart(ontology, starts, (0.5, 0.8))
    slow = np.zeros_like(found)
    for restart in (0.5, 0.8):
        e = np.zeros_like(found)
        e[[0, 1], [ontology.index(t) for t in starts]] = 1
        q = e.copy()
        for _ in range(100):
            q = restart * e + (1 - restart) * q @ steps
        slow += q / 2
    np.testing.assert_allclose(found, slow, atol=1e-12)
    np.testing.assert_allclose(found.sum(axis=1), 1)
    child, far = ontology.children(T)[0], "CL:0000540"
    assert found[0, ontology.index(T)] > found[0, ontology.index(child)] > found[0, ontology.index(far)]


def test_plain_softmax_agrees_with_scikit_learn(small: Reference) -> None:
    codes = np.arange(120) % 4
    learnt = fit_softmax(small, codes, np.ones(120, bool), np.eye(4, dtype=bool), penalty=0.01, max_iter=500, seed=0)
    x = small.take(np.ones(120, bool))[:, learnt["genes"]].toarray()
    x = x * to_length(small.take(np.ones(120, bool)), None)[:, None]
    peer = LogisticRegression(C=1 / (0.01 * 120), max_iter=1000, tol=1e-8).fit(x, codes)
    ours = linear_scores(learnt, small.take(np.ones(120, bool)), None)
    theirs = x @ peer.coef_.T + peer.intercept_
    np.testing.assert_allclose(ours - ours.mean(1, keepdims=True), theirs - theirs.mean(1, keepdims=True), atol=0.05)


def test_hierarchical_loss_is_that_of_the_definition(small: Reference) -> None:
    """Label 2 stands above 0 and 1: its cells may be either, or itself."""
    codes = np.arange(120) % 4
    below = np.eye(4, 6, dtype=bool)
    below[2, :2] = True
    below[2, 4:] = True  # two outputs that are no label, below 2 and not told apart: learnt once
    learnt = fit_softmax(small, codes, np.ones(120, bool), below, penalty=0.1, max_iter=500, seed=0)
    x = small.take(np.ones(120, bool))[:, learnt["genes"]].toarray()
    x = 10 * x / np.linalg.norm(x, axis=1, keepdims=True)
    n_genes = x.shape[1]

    def loss(flat: np.ndarray) -> float:
        w, b = flat[:-6].reshape(n_genes, 6), flat[-6:]
        z = x @ w + b
        p = np.exp(z - z.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
        own = (p * below[codes]).sum(axis=1)
        exact = p[np.arange(120), codes]
        return -0.8 * np.log(own).sum() - 0.2 * np.log(exact).sum() + 0.5 * 0.1 * 120 * (w**2).sum()

    best = np.concatenate([learnt["weights"].ravel(), learnt["intercept"]]).astype(float)
    rng = np.random.default_rng(0)
    for _ in range(30):  # a minimum: flat in every direction, and higher further away
        step = rng.normal(size=len(best))
        step /= np.linalg.norm(step)
        assert abs(loss(best + 1e-3 * step) - loss(best - 1e-3 * step)) / 2e-3 < 0.02 * loss(best)
        assert loss(best + 0.5 * step) > loss(best)


def test_votes_are_spearman_correlations_with_pagerank(
    reference: ad.AnnData, query: ad.AnnData, ontology: Ontology
) -> None:
    model = sclm.train("pagerank-voting", reference, label_key="cell_type", seed=0)
    choice = model._choice(["lymphocyte", "granulocyte", T, "CD4-positive, alpha-beta T cell"], None)
    cells = read_cells(query[:5]).read()
    from sclm.cells import align, log_normalise

    lognormal = log_normalise(align(cells, model.vocabulary)[0])
    scores = model._scores(lognormal, None, choice)
    points = model._space.project(lognormal) - model.arrays()["centre"]
    prototypes = model.arrays()["prototypes"]
    known = list(model.config.term_ids)
    for i, point in enumerate(points):
        cosine = prototypes @ point / np.linalg.norm(prototypes, axis=1) / np.linalg.norm(point)
        for j, term in enumerate(choice.answers.term_ids):
            walk = np.asarray(ontology.pagerank([term]))[0, [ontology.index(t) for t in known]]
            assert scores[i, j] / 50 == pytest.approx(stats.spearmanr(cosine, walk).statistic, abs=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_all_terms_can_be_answered_and_fewer_where_asked(
    reference: ad.AnnData, query: ad.AnnData, ontology: Ontology, name: str
) -> None:
    model = sclm.train(name, reference, label_key="cell_type", seed=0)
    cells = read_cells(query).read()
    whole = model.annotate(cells)
    assert set(whole.categories["ontology_term_id"]) == ontology.descendants("CL:0000000")
    below = model.annotate(cells, under="lymphocyte")
    allowed = ontology.descendants("CL:0000542", include_self=True)
    assert set(below.table["ontology_term_id"]) <= allowed
    few = model.annotate(cells, candidates=["NK cells", T, "monocyte"])
    assert list(few.categories["label"]) == ["natural killer cell", "T cell", "monocyte"]
    for found in (whole, below, few):
        assert found.probabilities.min() >= 0
        np.testing.assert_allclose(found.probabilities.sum(axis=1), 1, atol=1e-5)
        best = found.categories["label"].to_numpy()[found.probabilities.argmax(axis=1)]
        assert (found.table["label"] == best).all()
    with pytest.raises(ValueError, match="mystery 7"):
        model.annotate(cells, candidates=["mystery 7"])
    with pytest.raises(TypeError, match="list"):
        model.annotate(cells, candidates="T cell")


@pytest.mark.parametrize("name", ["onclass", "hierarchical"])
def test_the_training_types_are_found_among_all_terms(reference: ad.AnnData, query: ad.AnnData, name: str) -> None:
    model = sclm.train(name, reference, label_key="cell_type", seed=0)
    found = model.annotate(read_cells(query).read())
    assert (found.table["label"] == query.obs["cell_type"].astype(str)).mean() > 0.95
    assert model.card["held_out_accuracy"] > 0.95


def test_cells_of_a_new_type_are_spread_around_what_they_resemble(simulate: Callable[..., ad.AnnData]) -> None:
    """Between T and NK cells lie lymphocytes: with half of the cells new, mass leaves the training types for their relatives."""
    reference = simulate(300, types=("T cell", "natural killer cell", "monocyte", "fibroblast"), seed=1)
    never = sclm.train("onclass", reference, label_key="cell_type", novel_share=0.0)
    often = sclm.train("onclass", reference, label_key="cell_type", novel_share=0.5)
    cells = read_cells(simulate(40, types=("T cell", "natural killer cell", "monocyte", "fibroblast"), seed=5)).read()
    seen = never.annotate(cells)
    known = seen.categories["ontology_term_id"].isin(never.config.term_ids).to_numpy()
    assert seen.probabilities[:, ~known].max() == 0
    spread = often.annotate(cells)
    assert (spread.probabilities[:, ~known].sum(axis=1) > 0).all()
    t_cells = np.arange(40) % 4 == 0
    kin = sclm.knowledge.Ontology.load("cl").descendants(T)
    under_t = spread.categories["ontology_term_id"].isin(kin).to_numpy()
    assert spread.probabilities[t_cells][:, under_t].sum() > 10 * spread.probabilities[~t_cells][:, under_t].sum() / 3


def test_general_labels_and_fine_ones_live_together(simulate: Callable[..., ad.AnnData]) -> None:
    """Half of the T cells are labelled lymphocyte: hierarchical cross-entropy calls them T cells at no cost."""
    reference = simulate(400, seed=1)
    labels = reference.obs["cell_type"].astype(str).to_numpy(dtype=object)
    labels[(labels == "T cell") & (np.arange(400) % 8 < 4)] = "lymphocyte"
    reference.obs["cell_type"] = labels
    query = simulate(120, seed=2)
    truth = query.obs["cell_type"].astype(str).to_numpy()
    model = sclm.train("hierarchical", reference, label_key="cell_type", seed=0)
    found = model.annotate(read_cells(query).read(), candidates=["T cell", "B cell", "natural killer cell", "monocyte"])
    assert (found.table["label"].to_numpy() == truth).mean() > 0.95


@pytest.mark.parametrize(
    ("name", "options", "error", "message"),
    [
        ("onclass", {"penalty": 0.0}, ValueError, "penalty"),
        ("onclass", {"novel_share": 1.0}, ValueError, "novel_share"),
        ("hierarchical", {"penalty": -1.0}, ValueError, "penalty"),
        ("hierarchical", {"outputs": ("a",)}, TypeError, "outputs"),
        ("pagerank-voting", {"depth": 3}, TypeError, "'depth'"),
        ("onclass", {"candidates": "T cell"}, TypeError, "list"),
        ("onclass", {"candidates": ("mystery 7",)}, ValueError, "mystery 7"),
    ],
)
def test_settings_out_of_range(reference: ad.AnnData, name: str, options: dict, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        sclm.train(name, reference, label_key="cell_type", **options)
