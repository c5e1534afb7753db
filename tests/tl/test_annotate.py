"""Naming cells: what is written, that it is right, and that nothing else changes."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression

import sclm
from sclm.knowledge import Ontology

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

METHODS = ("logistic", "knn", "mean", "majority")
KEY = "sclm_cell_type"


@pytest.mark.parametrize("method", METHODS)
def test_writes_the_contract(query: ad.AnnData, reference: ad.AnnData, method: str) -> None:
    counts = query.X.copy()
    assert sclm.tl.annotate(query, method, reference=reference, label_key="cell_type") is None

    assert isinstance(query.obs[KEY].dtype, pd.CategoricalDtype)
    assert isinstance(query.obs[f"{KEY}_ontology_term_id"].dtype, pd.CategoricalDtype)
    for name in ("confidence", "novelty"):
        values = query.obs[f"{KEY}_{name}"]
        assert values.dtype == np.float64
        assert values.between(0, 1).all()
    p = query.obsm[f"{KEY}_probabilities"]
    assert p.dtype == np.float32
    assert p.shape == (120, 4)
    np.testing.assert_allclose(p.sum(axis=1), 1, atol=1e-5)
    record = query.uns[KEY]
    assert record["tool"] == "annotate"
    assert record["model"]["family"] == method
    assert list(record["categories"]) == sorted(reference.obs["cell_type"].unique())
    # The label, its id, its confidence and the probabilities tell one story.
    names = np.array(record["categories"])[p.argmax(axis=1)]
    ids = np.array(record["category_ontology_term_ids"])[p.argmax(axis=1)]
    assert (query.obs[KEY].astype(str).to_numpy() == names).all()
    assert (query.obs[f"{KEY}_ontology_term_id"].astype(str).to_numpy() == ids).all()
    np.testing.assert_allclose(query.obs[f"{KEY}_confidence"], p.max(axis=1), atol=1e-6)
    assert (counts != query.X).nnz == 0


@pytest.mark.parametrize("method", ["logistic", "knn", "mean"])
def test_finds_the_simulated_truth(query: ad.AnnData, reference: ad.AnnData, method: str) -> None:
    sclm.tl.annotate(query, method, reference=reference, label_key="cell_type")
    assert (query.obs[KEY].astype(str) == query.obs["cell_type"].astype(str)).mean() > 0.95


def test_logistic_agrees_with_scikit_learn(simulate: Callable[..., ad.AnnData]) -> None:
    """The same objective: cells of length 10, weights by one over the root of the type's size, C = 1 / λ."""
    from sklearn.preprocessing import normalize

    from sclm.cells import log_normalise, read_cells

    train = simulate(300, strength=1.5, seed=3)[np.r_[0:100, 100:300:2]].copy()  # types of unequal size
    train = train[~((train.obs["cell_type"].astype(str) == "B cell") & (np.arange(train.n_obs) % 3 > 0))].copy()
    model = sclm.train("logistic", train, label_key="cell_type", penalty=2.0 / train.n_obs, max_iter=2000)
    x = 10 * normalize(log_normalise(read_cells(train).read().counts).toarray())
    y = train.obs["cell_type"].astype(str)
    weight = 1 / np.sqrt(y.map(y.value_counts()).to_numpy(dtype=float))
    peer = LogisticRegression(C=0.5, tol=1e-8, max_iter=5000).fit(x, y, sample_weight=weight * len(y) / weight.sum())
    ours = x @ model.arrays()["weights"] + model.arrays()["intercept"]
    theirs = peer.decision_function(x)
    p, q = (np.exp(z - z.max(1, keepdims=True)) for z in (ours, theirs))
    assert list(model.config.labels) == list(peer.classes_)
    np.testing.assert_allclose(p / p.sum(1, keepdims=True), q / q.sum(1, keepdims=True), atol=5e-3)


def test_free_labels_become_terms_and_unresolved_ones_stay(
    query: ad.AnnData, reference: ad.AnnData, caplog: pytest.LogCaptureFixture
) -> None:
    free = reference.copy()
    names = {
        "B cell": "CD19+ B",
        "T cell": "T lymphocytes",
        "natural killer cell": "NK",
        "monocyte": "qqq population 7",
    }
    free.obs["label"] = free.obs["cell_type"].astype(str).map(names)
    with caplog.at_level(logging.WARNING, logger="sclm"):
        sclm.tl.annotate(query, reference=free, label_key="label")
    assert "qqq population 7" in caplog.text
    answer = (
        query.obs[[KEY, f"{KEY}_ontology_term_id"]].astype(str).drop_duplicates().set_index(KEY).iloc[:, 0].to_dict()
    )
    assert answer == {
        "B cell": "CL:0000236",
        "T cell": "CL:0000084",
        "natural killer cell": "CL:0000623",
        "qqq population 7": "unknown",
    }
    table = query.uns[KEY]["reference_labels"].set_index("label")
    assert table.loc["NK", "term_id"] == "CL:0000623"
    assert table.loc["qqq population 7", "kind"] == "none"
    assert table["n_cells"].sum() == 400


def test_labels_of_one_term_are_merged(query: ad.AnnData, reference: ad.AnnData) -> None:
    split = reference.copy()
    label = split.obs["cell_type"].astype(str).to_numpy(dtype=object)
    label[(label == "B cell") & (np.arange(400) % 8 < 4)] = "B cells"
    split.obs["label"] = label
    sclm.tl.annotate(query, reference=split, label_key="label")
    assert list(query.uns[KEY]["categories"]).count("B cell") == 1
    assert query.obsm[f"{KEY}_probabilities"].shape[1] == 4


def test_back_off_gives_true_terms(simulate: Callable[..., ad.AnnData], ontology: Ontology) -> None:
    """Two T cell subtypes that look the same: the parent is what can be known."""
    types = (
        "CD4-positive, alpha-beta T cell",
        "CD8-positive, alpha-beta T cell",
        "B cell",
    )
    train, test = simulate(600, types=types, seed=4), simulate(150, types=types, seed=5)
    for adata in (train, test):  # both T cells express both programmes
        mixed = adata.X.toarray()
        t = adata.obs["cell_type"].astype(str).to_numpy() != "B cell"
        mixed[t, :20] = np.random.default_rng(0).poisson(4.0, size=(t.sum(), 20))
        adata.X = mixed
    sclm.tl.annotate(test, reference=train, label_key="cell_type", min_confidence=0.9)
    answer = test.obs[f"{KEY}_ontology_term_id"].astype(str).to_numpy()
    truth = ontology.resolve_many(test.obs["cell_type"].astype(str))["term_id"].to_numpy()
    true = np.array([a == t or a in ontology.ancestors(t) for a, t in zip(answer, truth, strict=True)])
    assert true.mean() > 0.97
    t = test.obs["cell_type"].astype(str).to_numpy() != "B cell"
    shared = ontology.lowest_common_ancestor("CL:0000624", "CL:0000625")
    assert ontology.name_of(shared) == "mature alpha-beta T cell"
    assert (answer[t] == shared).mean() > 0.8
    assert (answer[~t] == "CL:0000236").mean() > 0.9
    assert (test.obs[f"{KEY}_confidence"][true] >= 0.9 - 1e-5).all()


def test_groupby_gives_one_answer_a_group(query: ad.AnnData, reference: ad.AnnData) -> None:
    truth = query.obs["cell_type"].astype(str)
    query.obs["cluster"] = pd.Categorical("T/NK " + truth)  # a slash in the group's name must not matter
    noisy = query.copy()
    # Some cells do not belong to their group.
    noisy.X = noisy.X[np.r_[np.random.default_rng(0).permutation(20), 20:120]]
    sclm.tl.annotate(noisy, reference=reference, label_key="cell_type", groupby="cluster")
    assert len(noisy.obs[["cluster", KEY]].drop_duplicates()) == 4
    assert (noisy.obs[KEY].astype(str) == truth).all()
    own = noisy.obs[f"{KEY}_per_cell"].astype(str)
    fraction = (own == truth).groupby(noisy.obs["cluster"], observed=True).mean()
    expected = noisy.obs["cluster"].map(fraction).to_numpy(dtype=float)
    assert (fraction < 1).any()
    np.testing.assert_allclose(noisy.obs[f"{KEY}_vote_fraction"], expected)


def test_majority_voting_mends_single_cells(simulate: Callable[..., ad.AnnData]) -> None:
    """Noisy single cells of types that lie apart: the clusters are purer than the answers cell by cell."""
    train, test = simulate(600, strength=2.0, depth=0.7, seed=6), simulate(800, strength=2.0, depth=0.7, seed=7)
    # A poor model: it has seen eight cells of each type.
    few = train[:32].copy()
    alone = sclm.tl.annotate(test, "knn", reference=few, label_key="cell_type", copy=True)
    voted = sclm.tl.annotate(test, "knn", reference=few, label_key="cell_type", majority_voting=True, copy=True)
    right = [(a.obs[KEY].astype(str) == a.obs["cell_type"].astype(str)).mean() for a in (alone, voted)]
    assert voted.obs[f"{KEY}_per_cell"].astype(str).tolist() == alone.obs[KEY].astype(str).tolist()
    assert right[0] < 0.99
    assert right[1] > right[0]
    assert voted.obs[f"{KEY}_vote_fraction"].between(0, 1).all()


def test_cells_without_a_group_or_counts_keep_their_own_answer(query: ad.AnnData, reference: ad.AnnData) -> None:
    query.obs["cluster"] = query.obs["cell_type"].astype(object)
    query.obs.iloc[:10, query.obs.columns.get_loc("cluster")] = np.nan
    counts = query.X.toarray()
    counts[20] = 0
    query.X = counts
    for options in ({}, {"min_confidence": 0.8}):
        alone = sclm.tl.annotate(query, reference=reference, label_key="cell_type", copy=True, **options)
        voted = sclm.tl.annotate(
            query, reference=reference, label_key="cell_type", groupby="cluster", copy=True, **options
        )
        assert voted.obs[KEY].astype(str)[:10].tolist() == alone.obs[KEY].astype(str)[:10].tolist()
        assert voted.obs[f"{KEY}_vote_fraction"][:10].isna().all()
        assert voted.obs[KEY].astype(str).iloc[20] == "unknown"
        assert voted.obs[f"{KEY}_confidence"].iloc[20] == 0
        others = np.r_[10:20, 21:120]
        assert (voted.obs[KEY].astype(str) == voted.obs["cell_type"].astype(str)).to_numpy()[others].all()


def test_calibration_error_of_backed_off_answers(pbmc: ad.AnnData, ontology: Ontology) -> None:
    """The confidence of a general term speaks of all that lies below it."""
    held = np.random.default_rng(0).random(700) < 0.3
    test = sclm.tl.annotate(pbmc[held], reference=pbmc[~held], label_key="cell_type", min_confidence=0.8, copy=True)
    truth = test.obs["cell_type_ontology_term_id"].astype(str).to_numpy()
    answer = test.obs[f"{KEY}_ontology_term_id"].astype(str).to_numpy()
    scores = sclm.metrics.annotation(truth, answer, confidence=test.obs[f"{KEY}_confidence"], ontology=ontology)
    true = np.array([a == t or a in ontology.ancestors(t) for a, t in zip(answer, truth, strict=True)])
    claimed = answer != "unknown"
    expected = sclm.metrics.expected_calibration_error(true[claimed], test.obs[f"{KEY}_confidence"].to_numpy()[claimed])
    assert scores["expected_calibration_error"] == pytest.approx(expected)
    assert expected < 0.1


def test_the_record_names_what_made_it(query: ad.AnnData, reference: ad.AnnData) -> None:
    sclm.tl.annotate(query, reference=reference, label_key="cell_type", seed=5)
    record = query.uns[KEY]
    assert record["seed"] == 5
    assert record["model"]["settings"]["penalty"] == 0.01
    assert len(record["model"]["sha256"]) == 64
    assert record["ontology"]["version"] == Ontology.load("cl").version
    assert set(record["versions"]) >= {"anndata", "numpy", "scipy"}
    other = sclm.tl.annotate(query, "mean", reference=reference, label_key="cell_type", copy=True)
    assert other.uns[KEY]["model"]["sha256"] != record["model"]["sha256"]


def test_a_later_run_leaves_no_columns_of_an_earlier_one(query: ad.AnnData, reference: ad.AnnData) -> None:
    sclm.tl.annotate(query, reference=reference, label_key="cell_type", majority_voting=True)
    assert f"{KEY}_vote_fraction" in query.obs
    sclm.tl.annotate(query, reference=reference, label_key="cell_type")
    assert f"{KEY}_vote_fraction" not in query.obs
    assert f"{KEY}_per_cell" not in query.obs


def test_cells_without_counts_are_unknown(query: ad.AnnData, reference: ad.AnnData) -> None:
    counts = query.X.toarray()
    counts[[3, 50]] = 0
    query.X = counts
    for options in ({}, {"min_confidence": 0.5}):
        sclm.tl.annotate(query, reference=reference, label_key="cell_type", **options)
        empty = query.obs.iloc[[3, 50]]
        assert (empty[KEY].astype(str) == "unknown").all()
        assert (empty[f"{KEY}_ontology_term_id"].astype(str) == "unknown").all()
        assert (empty[f"{KEY}_confidence"] == 0).all()
        assert (empty[f"{KEY}_novelty"] == 1).all()
        assert (query.obs[KEY].astype(str) != "unknown").sum() == 118


def test_novelty_marks_a_type_that_the_reference_lacks(reference: ad.AnnData, query: ad.AnnData) -> None:
    from sklearn.metrics import roc_auc_score

    without = reference[reference.obs["cell_type"].astype(str) != "monocyte"].copy()
    sclm.tl.annotate(query, reference=without, label_key="cell_type")
    new = query.obs["cell_type"].astype(str) == "monocyte"
    assert roc_auc_score(new, query.obs[f"{KEY}_novelty"]) > 0.95
    # By its definition, a twentieth of cells like the reference lies above one half.
    assert 0 <= (query.obs[f"{KEY}_novelty"][~new] > 0.5).mean() < 0.15


def test_calibration_lowers_the_error_of_an_overconfident_model(simulate: Callable[..., ad.AnnData]) -> None:
    from sclm.metrics import expected_calibration_error

    train, test = simulate(400, strength=0.8, depth=0.6, seed=8), simulate(1200, strength=0.8, depth=0.6, seed=9)
    model = sclm.train("logistic", train, label_key="cell_type", penalty=1e-5)
    sclm.tl.annotate(test, model)
    assert model.config.temperature > 1.2
    correct = (test.obs[KEY].astype(str) == test.obs["cell_type"].astype(str)).to_numpy()
    p = test.obsm[f"{KEY}_probabilities"].astype(float)
    raw = p**model.config.temperature
    raw = (raw / raw.sum(1, keepdims=True)).max(1)
    calibrated = expected_calibration_error(correct, test.obs[f"{KEY}_confidence"].to_numpy())
    assert calibrated < 0.6 * expected_calibration_error(correct, raw)


def test_batches_are_held_out_whole(query: ad.AnnData, reference: ad.AnnData) -> None:
    sclm.tl.annotate(query, reference=reference, label_key="cell_type", batch_key="donor")
    assert query.uns[KEY]["params"]["batch_key"] == "donor"
    assert "whole batches of donor" in query.uns[KEY]["card"]["split"]


def test_same_seed_same_answer_and_blocks_do_not_matter(query: ad.AnnData, reference: ad.AnnData) -> None:
    model = sclm.train("logistic", reference, label_key="cell_type", seed=3)
    again = sclm.train("logistic", reference, label_key="cell_type", seed=3)
    runs = [
        sclm.tl.annotate(query, m, batch_size=size, copy=True).obsm[f"{KEY}_probabilities"]
        for m, size in ((model, None), (again, None), (model, 7))
    ]
    np.testing.assert_array_equal(runs[0], runs[1])
    np.testing.assert_allclose(runs[0], runs[2], atol=1e-6)


def test_gene_order_does_not_matter(query: ad.AnnData, reference: ad.AnnData) -> None:
    order = np.random.default_rng(0).permutation(query.n_vars)
    a = sclm.tl.annotate(query, reference=reference, label_key="cell_type", copy=True)
    b = sclm.tl.annotate(query[:, order].copy(), reference=reference, label_key="cell_type", copy=True)
    np.testing.assert_allclose(a.obsm[f"{KEY}_probabilities"], b.obsm[f"{KEY}_probabilities"], atol=1e-5)


def test_missing_genes_are_taken_at_their_mean(query: ad.AnnData, reference: ad.AnnData) -> None:
    """A model with more genes than the data still answers, close to a model of the shared genes."""
    model = sclm.train("logistic", reference, label_key="cell_type")
    part = query[:, :60].copy()
    sclm.tl.annotate(part, model)
    assert (part.obs[KEY].astype(str) == part.obs["cell_type"].astype(str)).mean() > 0.95
    assert dict(part.uns[KEY]["genes"]) == {"matched": 60, "in_model": 120, "in_data": 60}


def test_copy_leaves_the_original_alone(query: ad.AnnData, reference: ad.AnnData) -> None:
    before = query.copy()
    new = sclm.tl.annotate(query, reference=reference, label_key="cell_type", key_added="mine", copy=True)
    assert "mine" in new.obs
    assert list(query.obs.columns) == list(before.obs.columns)
    assert not query.uns
    assert not query.obsm


@pytest.mark.filterwarnings("ignore:Writing zarr v2 data:UserWarning")  # anndata 0.12 on its own default
@pytest.mark.parametrize("suffix", ["h5ad", "zarr"])
def test_results_survive_writing(query: ad.AnnData, reference: ad.AnnData, tmp_path: Path, suffix: str) -> None:
    free = reference.copy()
    free.obs["label"] = free.obs["cell_type"].astype(str).replace({"monocyte": "T/NK – größe"})
    sclm.tl.annotate(query, reference=free, label_key="label", majority_voting=True, min_confidence=0.8)
    path = tmp_path / f"out.{suffix}"
    getattr(query, f"write_{suffix}")(path)
    back = getattr(ad, f"read_{suffix}")(path)
    pd.testing.assert_frame_equal(
        sclm.get.annotate(back), sclm.get.annotate(query), check_categorical=False, check_index_type=False
    )
    np.testing.assert_array_equal(back.obsm[f"{KEY}_probabilities"], query.obsm[f"{KEY}_probabilities"])
    a, b = back.uns[KEY], query.uns[KEY]
    assert list(a["categories"]) == list(b["categories"])
    assert "T/NK – größe" in list(a["categories"])
    assert set(a) == set(b)
    assert a["params"] == b["params"]
    assert list(a["reference_labels"]["label"]) == list(b["reference_labels"]["label"])


def test_get_probabilities(query: ad.AnnData, reference: ad.AnnData) -> None:
    sclm.tl.annotate(query, reference=reference, label_key="cell_type")
    frame = sclm.get.probabilities(query)
    assert list(frame.columns) == list(query.uns[KEY]["categories"])
    assert frame.idxmax(axis=1).tolist() == query.obs[KEY].astype(str).tolist()
    with pytest.raises(KeyError, match=r"pass key=|Run sclm.tl.annotate"):
        sclm.get.annotate(query, key="other")


def test_real_blood_cells(pbmc: ad.AnnData) -> None:
    held = np.random.default_rng(0).random(700) < 0.3
    test = sclm.tl.annotate(pbmc[held], reference=pbmc[~held], label_key="author_cell_type", copy=True)
    accuracy = (
        test.obs[f"{KEY}_ontology_term_id"].astype(str) == test.obs["cell_type_ontology_term_id"].astype(str)
    ).mean()
    assert accuracy > 0.75
