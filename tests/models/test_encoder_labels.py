"""Encoders that name cells: every way of learning against a slow or foreign one, on an encoder of a hundred lines."""

from __future__ import annotations

import importlib.util
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse

import sclm
from sclm.cells import read_cells
from sclm.models import FAMILIES

if TYPE_CHECKING:
    from collections.abc import Callable

    import anndata as ad

QUICK: dict[str, Any] = {"progress_bar": False, "accelerator": "cpu"}
TUNES = ("frozen", "neighbours", "lora", "full")


@pytest.fixture(scope="module")
def toy() -> Any:
    """The class of the toy encoder, under the name "toy"."""
    name = "sclm_toy_encoder"
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name("toy_encoder.py"))
    assert spec is not None
    assert spec.loader is not None
    sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[name])
    FAMILIES["toy"] = f"{name}:ToyEncoder"
    yield sys.modules[name].ToyEncoder
    del FAMILIES["toy"]


@pytest.fixture(scope="module")
def base(toy: Any, reference: ad.AnnData) -> Any:
    return sclm.train("toy", reference, seed=3)


@pytest.fixture(scope="module")
def tuned(base: Any, reference: ad.AnnData) -> Callable[[str], Any]:
    """A model for each way of learning, trained once."""
    made: dict[str, Any] = {}

    def get(tune: str) -> Any:
        if tune not in made:
            made[tune] = sclm.train("toy", reference, label_key="cell_type", base=base, tune=tune, seed=1, **QUICK)
        return made[tune]

    return get


def state(model: Any) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.network.state_dict().items()}


@pytest.mark.parametrize("tune", TUNES)
def test_cells_get_their_names(tuned: Any, query: ad.AnnData, tune: str) -> None:
    model = tuned(tune)
    sclm.tl.annotate(query, model)
    truth = query.obs["cell_type"].astype(str)
    assert (query.obs["sclm_cell_type"].astype(str) == truth).mean() > (
        0.7 if tune == "neighbours" else 0.9
    )  # a random network
    assert set(query.obs["sclm_cell_type_ontology_term_id"].astype(str).str[:3]) == {"CL:"}
    record = query.uns["sclm_cell_type"]
    assert record["model"]["settings"]["tune"] == tune
    assert record["card"]["held_out_accuracy"] > 0.7
    assert record["card"]["held_out_accuracy_of_the_majority_type"] < 0.5
    assert list(record["reference_labels"]["label"]) == list(model.reference_labels["label"])
    assert query.obs["sclm_cell_type_novelty"].between(0, 1).all()


@pytest.mark.parametrize("tune", TUNES)
def test_a_model_with_names_is_saved_whole(tuned: Any, query: ad.AnnData, tmp_path: Path, tune: str) -> None:
    model = tuned(tune)
    again = sclm.load(model.save(tmp_path / "model"))
    assert again.config == model.config
    assert again.provenance()["sha256"] == model.provenance()["sha256"]
    cells = read_cells(query).read()
    np.testing.assert_array_equal(again.annotate(cells).probabilities, model.annotate(cells).probabilities)
    pd.testing.assert_frame_equal(again.annotate(cells).table, model.annotate(cells).table)


def test_frozen_is_scikit_learns_regression_on_standardised_vectors(
    tuned: Any, base: Any, reference: ad.AnnData, query: ad.AnnData
) -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = tuned("frozen")
    peer = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000, tol=1e-5)).fit(
        base.embed(read_cells(reference).read()), reference.obs["cell_type"].astype(str)
    )
    cells = read_cells(query).read()
    logits = peer.decision_function(base.embed(cells)) / model.config.temperature
    p = np.exp(logits - logits.max(1, keepdims=True))
    np.testing.assert_allclose(model.annotate(cells).probabilities, p / p.sum(1, keepdims=True), atol=2e-3)
    assert list(peer.classes_) == list(model.config.labels)


def test_two_types_are_enough(base: Any, reference: ad.AnnData) -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    two = reference[reference.obs["cell_type"].isin(["B cell", "monocyte"])].copy()
    model = sclm.train("toy", two, label_key="cell_type", base=base)
    x = StandardScaler().fit_transform(base.embed(read_cells(two).read()))
    p = LogisticRegression(max_iter=1000).fit(x, two.obs["cell_type"].astype(str)).predict_log_proba(x)
    found = np.log(model.annotate(read_cells(two).read()).probabilities) * model.config.temperature
    np.testing.assert_allclose(found[:, 1] - found[:, 0], p[:, 1] - p[:, 0], atol=0.05)


def test_neighbours_vote_as_scikit_learns_do(tuned: Any, base: Any, reference: ad.AnnData, query: ad.AnnData) -> None:
    from sklearn.neighbors import KNeighborsClassifier

    model = tuned("neighbours")
    known = base.embed(read_cells(reference).read())
    peer = KNeighborsClassifier(10, metric="cosine", algorithm="brute").fit(
        (known - known.mean(0)) / known.std(0), reference.obs["cell_type"].astype(str)
    )
    cells = read_cells(query).read()
    votes = 10 * peer.predict_proba((base.embed(cells) - known.mean(0)) / known.std(0)) + 0.1
    p = votes ** (1 / model.config.temperature)
    agree = np.isclose(model.annotate(cells).probabilities, p / p.sum(1, keepdims=True), atol=1e-5).all(1)
    assert agree.mean() > 0.95  # half precision of the stored vectors changes a neighbour now and then
    assert model.arrays()["labels.points"].dtype == np.float16


def test_a_large_reference_is_sampled_with_all_its_types(base: Any, reference: ad.AnnData) -> None:
    names = np.array(["B cell"] * 396 + ["monocyte"] * 4)
    model = sclm.train(
        "toy", _labelled(reference, names), label_key="cell_type", base=base, tune="neighbours", max_cells=100
    )
    codes = model.arrays()["labels.codes"]
    assert codes.size == 100
    assert np.bincount(codes).tolist() == [96, 4]


def test_adapters_are_merged_and_change_what_they_adapt_alone(tuned: Any, base: Any) -> None:
    before, after = state(base), state(tuned("lora"))
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {f"layers.0.{n}.weight" for n in ("query_key_value", "out", "forward1", "forward2")}
    for name in changed:  # of low rank
        assert torch.linalg.matrix_rank(after[name] - before[name], atol=1e-5) <= 8
    assert all(p.requires_grad for p in tuned("lora").network.parameters())


def test_merged_adapters_compute_what_adapters_did(base: Any, reference: ad.AnnData) -> None:
    import copy

    from sclm.models.encoder_classifier import add_adapters, merge_adapters

    model = copy.copy(base)
    model.network = copy.deepcopy(base.network)
    add_adapters(model.network, model.adapted_layers(), rank=4, seed=0)
    with torch.no_grad():
        for name, parameter in model.network.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.2, generator=torch.Generator().manual_seed(1))
    cells = read_cells(reference).read()
    apart = model.embed(cells)
    merge_adapters(model.network)
    assert not [name for name in model.network.state_dict() if "lora" in name]
    np.testing.assert_allclose(model.embed(cells), apart, atol=1e-5)
    assert np.abs(apart - base.embed(cells)).max() > 0.01


def test_full_changes_all_that_is_used_and_the_base_stays(toy: Any, reference: ad.AnnData) -> None:
    base = sclm.train("toy", reference, seed=3)
    before = state(base)
    model = sclm.train("toy", reference, label_key="cell_type", base=base, tune="full", max_epochs=1, **QUICK)
    assert all(torch.equal(before[name], tensor) for name, tensor in state(base).items())
    assert base.head is None
    assert not [name for name, tensor in state(model).items() if torch.equal(before[name], tensor)]


@pytest.mark.parametrize("tune", ["frozen", "lora"])
def test_the_head_is_that_of_torch(tuned: Any, query: ad.AnnData, tune: str) -> None:
    model = tuned(tune)
    arrays = {n.removeprefix("labels."): torch.from_numpy(a) for n, a in model.arrays().items() if "labels." in n}
    vectors = model.embed(read_cells(query).read(), hidden_layer=model.config.label_layer)
    x = torch.from_numpy(vectors)
    for i in range(2 if tune == "lora" else 0):
        x = torch.relu(torch.nn.functional.linear(x, arrays[f"linear{i}.weight"], arrays[f"linear{i}.bias"]))
        x = torch.nn.functional.layer_norm(x, x.shape[1:], arrays[f"norm{i}.weight"], arrays[f"norm{i}.bias"])
    last = 2 if tune == "lora" else 0
    x = torch.nn.functional.linear(x, arrays[f"linear{last}.weight"], arrays[f"linear{last}.bias"])
    np.testing.assert_allclose(model.head.scores(vectors), x.numpy(), atol=1e-4)


def test_the_standardisation_is_folded_into_the_first_layer() -> None:
    from sclm.models.encoder_classifier import TypeLayers
    from sclm.models.encoder_head import run_layers

    rng = np.random.default_rng(0)
    head = TypeLayers(rng.normal(size=5), rng.uniform(0.1, 3, size=5), 3, 3)
    vectors = rng.normal(size=(7, 5)).astype(np.float32)
    with torch.no_grad():
        np.testing.assert_allclose(run_layers(head.arrays(), vectors), head(torch.from_numpy(vectors)), atol=1e-5)


def test_head_and_network_learn_at_rates_of_their_own(base: Any) -> None:
    from sclm.models.encoder_classifier import TypeLayers, TypeModule

    head = TypeLayers(np.zeros(24), np.ones(24), 4, 3)
    module = TypeModule(
        base, head, layer=1, pooling="mean", learning_rate=1e-5, head_learning_rate=1e-3, weight_decay=0.1, weights=None
    )

    class Trainer:
        max_epochs = 10
        datamodule = type("Data", (), {"n_batches": 10})

    module._trainer = Trainer()
    groups = module.configure_optimizers()["optimizer"].param_groups
    rates = {id(p): group["initial_lr"] for group in groups for p in group["params"]}
    assert {rates[id(p)] for p in head.parameters()} == {1e-3}
    assert {rates[id(p)] for p in base.network.parameters()} == {1e-5}


@pytest.mark.parametrize("tune", ["frozen", "lora"])
def test_same_seed_same_model(tuned: Any, base: Any, reference: ad.AnnData, tune: str) -> None:
    again = sclm.train("toy", reference, label_key="cell_type", base=base, tune=tune, seed=1, **QUICK)
    assert again.provenance()["sha256"] == tuned(tune).provenance()["sha256"]


def test_without_a_base_one_is_trained_on_the_same_cells(toy: Any, reference: ad.AnnData) -> None:
    model = sclm.train("toy", reference, label_key="cell_type", seed=3, width=12, n_neighbors=5, tune="neighbours")
    assert model.width == 12
    assert model.config.n_neighbors == 5
    assert torch.equal(
        model.network.embedding.weight, sclm.train("toy", reference, seed=3, width=12).network.embedding.weight
    )


def test_a_base_may_be_a_folder(base: Any, reference: ad.AnnData, tmp_path: Path) -> None:
    folder = base.save(tmp_path / "base")
    a = sclm.train("toy", reference, label_key="cell_type", base=str(folder), seed=1)
    b = sclm.train("toy", reference, label_key="cell_type", base=base, seed=1)
    np.testing.assert_array_equal(a.arrays()["labels.linear0.weight"], b.arrays()["labels.linear0.weight"])
    assert str(folder) in a.card["base"]


def test_unlabelled_cells_are_left_out_and_whole_donors_held_out(base: Any, reference: ad.AnnData) -> None:
    names = reference.obs["cell_type"].astype(object).to_numpy(copy=True)
    names[::2] = "nan"
    adata = _labelled(reference, names)
    for tune in ("frozen", "lora"):
        model = sclm.train(
            "toy", adata, label_key="cell_type", batch_key="donor", base=base, tune=tune, max_epochs=2, **QUICK
        )
        assert model.card["data"].startswith("200 labelled cells")
        assert "whole batches of donor" in model.card["split"]


def test_cells_without_genes_of_the_model_are_unknown(
    tuned: Any, base: Any, reference: ad.AnnData, query: ad.AnnData, caplog: pytest.LogCaptureFixture
) -> None:
    query = _emptied(query, [5])
    answer = tuned("frozen").annotate(read_cells(query).read())
    assert answer.table["label"].iloc[5] == "unknown"
    assert answer.table[["confidence", "novelty"]].iloc[5].tolist() == [0.0, 1.0]
    assert (answer.table["label"] != "unknown").sum() == 119
    adata = _emptied(reference, [0, 1, 2])
    with caplog.at_level(logging.WARNING, logger="sclm"):
        model = sclm.train("toy", adata, label_key="cell_type", base=base)
    assert model.card["data"].startswith("397 labelled cells")
    assert "3 of 400 labelled cells express no gene of the model" in caplog.text


def test_a_reference_is_read_in_the_genes_of_the_data(toy: Any, base: Any, reference: ad.AnnData) -> None:
    source = read_cells(reference, obs_keys=["cell_type"])
    some = pd.Index(reference.var_names[20:])
    shown = toy.fit(source, label_key="cell_type", base=base, genes=some)
    cut = toy.fit(read_cells(reference[:, 20:], obs_keys=["cell_type"]), label_key="cell_type", base=base)
    np.testing.assert_array_equal(shown.arrays()["labels.linear0.weight"], cut.arrays()["labels.linear0.weight"])
    query = reference[:50, 30:].copy()
    sclm.tl.annotate(query, "toy", reference=reference, label_key="cell_type")
    assert query.uns["sclm_cell_type"]["genes"]["in_model"] == 90


def test_novelty_rises_for_a_type_that_the_reference_lacks(base: Any, reference: ad.AnnData, query: ad.AnnData) -> None:
    some = reference[reference.obs["cell_type"] != "monocyte"].copy()
    model = sclm.train("toy", some, label_key="cell_type", base=base)
    novelty = model.annotate(read_cells(query).read()).table["novelty"].to_numpy()
    new = (query.obs["cell_type"] == "monocyte").to_numpy()
    assert np.median(novelty[new]) > np.quantile(novelty[~new], 0.9)


def test_novelty_is_that_of_the_simple_annotators(tuned: Any, reference: ad.AnnData, query: ad.AnnData) -> None:
    """The same cells are held out and the same space is fitted, whatever the network; also where the data lack genes."""
    simple = sclm.train("logistic", reference, label_key="cell_type", seed=1)
    for adata in (query, query[:, 15:].copy()):
        cells = read_cells(adata).read()
        expected = simple.annotate(cells).table["novelty"]
        for tune in ("frozen", "lora"):
            np.testing.assert_allclose(tuned(tune).annotate(cells).table["novelty"], expected, atol=0.02)


def test_balanced_types_are_heard_alike(base: Any, reference: ad.AnnData) -> None:
    rare = np.flatnonzero(reference.obs["cell_type"] == "monocyte")[8:]
    adata = reference[np.setdiff1d(np.arange(400), rare)].copy()
    cells = read_cells(adata).read()
    share = {}
    for balanced in (False, True):
        model = sclm.train(
            "toy", adata, label_key="cell_type", base=base, tune="full", balanced=balanced, max_epochs=3, **QUICK
        )
        share[balanced] = model.annotate(cells).probabilities[:, list(model.config.labels).index("monocyte")].mean()
    assert share[True] > share[False]


def test_a_model_without_names_says_how_to_teach_it(base: Any, query: ad.AnnData) -> None:
    with pytest.raises(ValueError, match=r"learnt no cell types.*sclm\.train\('toy', reference, label_key="):
        sclm.tl.annotate(query, base)
    assert "sclm_cell_type" not in query.obs


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"tune": "linear"}, ValueError, r"tune must be one of 'frozen', 'lora', .* found 'linear'"),
        ({"lora_rank": 0}, ValueError, "lora_rank must be at least 1, found 0"),
        ({"penalty": 0.0}, ValueError, "penalty must be above 0"),
        ({"pooling": "max"}, ValueError, "pooling must be one of"),
        ({"penalti": 1.0}, TypeError, "penalti"),
    ],
)
def test_settings_are_checked(base: Any, reference: ad.AnnData, settings: dict, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        sclm.train("toy", reference, label_key="cell_type", base=base, **settings)


def test_a_base_of_another_family_is_refused(toy: Any, reference: ad.AnnData) -> None:
    other = sclm.train("mean", reference, label_key="cell_type")
    with pytest.raises(TypeError, match=r"base must be a 'toy' model, found 'mean'"):
        sclm.train("toy", reference, label_key="cell_type", base=other)


def _labelled(adata: ad.AnnData, names: np.ndarray) -> ad.AnnData:
    copy = adata.copy()
    copy.obs["cell_type"] = pd.Categorical(names)
    return copy


def _emptied(adata: ad.AnnData, rows: list[int]) -> ad.AnnData:
    copy = adata.copy()
    counts = copy.X.toarray()
    counts[rows] = 0
    copy.X = sparse.csr_matrix(counts)
    return copy
