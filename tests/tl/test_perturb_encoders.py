"""Screens and predictions with the real families, trained for a moment."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest

import sclm

if TYPE_CHECKING:
    from collections.abc import Callable

    import anndata as ad

QUICK: dict[str, Any] = {"preset": "tiny", "max_epochs": 1, "progress_bar": False, "accelerator": "cpu"}


@pytest.fixture(scope="module")
def cells(simulate: Callable[..., ad.AnnData]) -> ad.AnnData:
    return simulate(80, 100, seed=6)


@pytest.fixture(scope="module", params=["scgpt", "geneformer"])
def encoder(request: pytest.FixtureRequest, cells: ad.AnnData) -> Any:
    return sclm.train(request.param, cells, seed=0, **QUICK)


@pytest.mark.parametrize("kind", ["delete", "overexpress"])
def test_a_screen(encoder: Any, cells: ad.AnnData, kind: str) -> None:
    asked = [*cells.var_names[:8], (str(cells.var_names[0]), str(cells.var_names[1]))]
    options = {"state_key": "cell_type", "start": "B cell", "goal": "T cell", "n_null": 40, "kind": kind}
    adata = cells.copy()
    sclm.tl.perturb(adata, encoder, asked, **options)
    table = sclm.get.perturb(adata).set_index("perturbation")
    assert set(table.index) == {*map(str, cells.var_names[:8]), "+".join(sorted(map(str, cells.var_names[:2])))}
    b_cells = cells[cells.obs["cell_type"] == "B cell"]
    detected = np.asarray((b_cells.X > 0).sum(axis=0)).ravel()
    single = table.loc[list(map(str, cells.var_names[:8]))]
    np.testing.assert_allclose(single["detection"], detected[:8] / b_cells.n_obs)
    if kind == "delete":
        assert single["n_cells"].tolist() == detected[:8].tolist()
    else:
        already = encoder.family == "geneformer"  # a gene that stands first already cannot be moved there
        assert (table["n_cells"] <= b_cells.n_obs).all()
        assert (table["n_cells"] == b_cells.n_obs).all() or already
    for column in ("effect", "null_mean", "null_sd", "z", "p", "q", "goal_shift", "goal_p", "goal_q"):
        assert np.isfinite(table[column]).all(), column
    assert (table["effect"] > -1e-6).all()
    again = cells[::-1].copy()  # the order of cells does not matter where all are taken
    sclm.tl.perturb(again, encoder, asked, **options)
    other = sclm.get.perturb(again).set_index("perturbation").loc[table.index]
    np.testing.assert_allclose(other["effect"], table["effect"], atol=1e-5)


def test_predictions_of_a_network_beside_baselines(cells: ad.AnnData) -> None:
    adata = cells.copy()
    a, b, c = map(str, cells.var_names[:3])
    adata.obs["guide"] = pd.Categorical(np.array(["NT", "NT", a, b])[np.arange(80) % 4])
    options = {"perturbation_key": "guide", "control": "NT"}
    model = sclm.train("scgpt", adata, seed=0, **options, **QUICK)
    sclm.tl.perturb(adata, model, [a, (a, b), c], **options)
    record = adata.uns["sclm_perturb"]
    assert sclm.get.perturb(adata)["standing"].tolist() == ["seen", "combination of seen", "unseen"]
    assert "ridge-response on the model's gene embeddings" in record["baselines"]
    profiles = sclm.get.perturb_profiles(adata)
    assert np.isfinite(profiles.to_numpy()).all()
    for name in record["baselines"]:
        assert sclm.get.perturb_profiles(adata, name).shape == profiles.shape
    assert set(record["scores"]["method"]) == {"model", *record["baselines"]}


def test_a_response_model_of_others_predicts_with_and_without_an_experiment(cells: ad.AnnData, caplog: Any) -> None:
    adata = cells.copy()
    a, b, c = map(str, cells.var_names[:3])
    adata.obs["guide"] = pd.Categorical(np.array(["NT", "NT", a, b])[np.arange(80) % 4])
    adata.obs["run"] = np.array(["one", "two"])[np.arange(80) // 4 % 2]
    options = {"perturbation_key": "guide", "control": "NT"}
    model = sclm.train("scgpt", adata, seed=0, batch_key="run", **options, **QUICK)
    assert model.paired_within == "run"
    # What a published checkpoint says of itself: the shapes of its tensors.
    model.config = dataclasses.replace(model.config, perturbations=(), control="", paired_within="", objective="none")
    assert model.responds
    plain = adata[adata.obs["guide"] == "NT"].copy()
    with caplog.at_level("WARNING", logger="sclm"):
        sclm.tl.perturb(plain, model, [a, c])
    record = plain.uns["sclm_perturb"]
    assert record["how"] == "response"
    assert record["n_control_cells"] == plain.n_obs  # all cells are control cells
    assert set(record["baselines"]) == {"no-change"}
    assert record["baselines_from"]["rule"] == "no perturbed cells"
    with pytest.raises(ValueError, match="does not say what it was trained on"):
        sclm.tl.perturb(plain, model)

    caplog.clear()
    with caplog.at_level("WARNING", logger="sclm"):
        sclm.tl.perturb(adata, model, [a, c], **options)
    assert "may have been seen in its training" in caplog.text
    assert "has not seen perturbed" not in caplog.text  # nobody knows
    record = adata.uns["sclm_perturb"]
    assert sclm.get.perturb(adata)["standing"].tolist() == ["unknown", "unknown"]
    assert set(record["scores"]["standing"]) == {"unknown"}
    assert record["baselines_from"]["rule"] == "measured and not asked for"
    assert list(record["baselines_from"]["perturbations"]) == [b]
    x = adata.X.toarray()
    y = np.log1p(1e4 * x / x.sum(1, keepdims=True))
    mu = {name: y[(adata.obs["guide"] == name).to_numpy()].mean(0) for name in ("NT", b)}
    shift = (
        sclm.get.perturb_profiles(adata, "mean-response").loc[a] - sclm.get.perturb_profiles(adata, "no-change").loc[a]
    )
    expected = pd.Series(mu[b] - mu["NT"], index=cells.var_names)[shift.index]
    np.testing.assert_allclose(shift[expected > 0], expected[expected > 0], atol=1e-4)


def test_an_encoder_takes_no_experiment(cells: ad.AnnData) -> None:
    adata = cells.copy()
    model = sclm.train("scgpt", adata, seed=0, **QUICK)
    assert not model.responds
    with pytest.raises(ValueError, match="perturbation_key= and control= is for models that were trained on"):
        sclm.tl.perturb(adata, model, [str(cells.var_names[0])], perturbation_key="cell_type", control="B cell")


def test_genes_by_the_names_that_only_the_model_knows(cells: ad.AnnData) -> None:
    model = sclm.train("geneformer", cells, seed=0, **QUICK)
    gene = str(cells.var_names[0])
    token = model.vocabulary.tokens[int(model.find([gene]).ids[0])]
    model.dictionaries = dataclasses.replace(model.dictionaries, symbols={"MY-GENE": token})
    found = {}
    for name in (gene, "MY-GENE"):
        adata = cells.copy()
        sclm.tl.perturb(adata, model, [name], n_null=40)
        found[name] = sclm.get.perturb(adata).set_index("perturbation").loc[name, ["effect", "n_cells", "p"]].tolist()
    assert found["MY-GENE"] == found[gene]
