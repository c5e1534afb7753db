"""Predicted responses through the tool, beside baselines, with what was seen, scores and plausibility."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import sclm
from sclm.tl._perturb_response import BASELINES

if TYPE_CHECKING:
    from pathlib import Path

KEY = "sclm_perturb"
OPTIONS = {"perturbation_key": "guide", "control": "ctrl"}


@pytest.fixture(scope="module")
def screen(reference: ad.AnnData) -> ad.AnnData:
    """Controls, three single perturbations, a pair that adds up; 100 cells each. Tests must not change it."""
    rng = np.random.default_rng(0)
    genes = list(map(str, reference.var_names))
    base = np.random.default_rng(5).gamma(1.0, 1.5, size=len(genes))
    moves = {genes[0]: slice(20, 26), genes[1]: slice(30, 36), genes[2]: slice(40, 46)}
    labels = ["ctrl", "ctrl", *genes[:3], f"{genes[0]}+{genes[1]}"]
    parts = []
    for label in labels:
        rate = base.copy()
        for part in label.split("+"):
            rate[moves.get(part, slice(0, 0))] *= 3
        parts.append(rng.poisson(rate * rng.gamma(8, 1 / 8, size=(100, 1))))
    obs = pd.DataFrame({"guide": np.repeat(labels, 100)}, index=[f"c{i}" for i in range(600)])
    counts = sparse.csr_matrix(np.vstack(parts).astype(np.float32))
    return ad.AnnData(counts, obs=obs, var=pd.DataFrame(index=genes))


@pytest.fixture(scope="module")
def model(screen: ad.AnnData) -> Any:
    """Trained without the pair."""
    singles = screen[~screen.obs["guide"].str.contains("+", regex=False)].copy()
    return sclm.train("additive-response", singles, **OPTIONS)


def test_profiles_baselines_and_facts(screen: ad.AnnData, model: Any, tmp_path: Path, caplog: Any) -> None:
    a, b, c, d = map(str, screen.var_names[:4])
    adata = screen.copy()
    with caplog.at_level("WARNING", logger="sclm"):
        sclm.tl.perturb(adata, model, [a, (b, a), f"{a}+{c}", d], n_cells=None, **OPTIONS)
    assert "1 of 4 perturbations hold genes that the model has not seen perturbed" in caplog.text
    pair, unseen_pair = "+".join(sorted((a, b))), "+".join(sorted((a, c)))
    profiles = sclm.get.perturb_profiles(adata)
    assert list(profiles.index) == [a, pair, unseen_pair, d]
    assert list(profiles.columns) == list(screen.var_names)
    x = screen.X.toarray()
    y = pd.DataFrame(np.log1p(1e4 * x / x.sum(1, keepdims=True)), columns=screen.var_names)
    mu = y.groupby(screen.obs["guide"].to_numpy()).mean()
    delta = mu - mu.loc["ctrl"]
    np.testing.assert_allclose(
        profiles.loc[pair], np.maximum(mu.loc["ctrl"] + delta.loc[a] + delta.loc[b], 0), atol=1e-4
    )
    changes = sclm.get.perturb_profiles(adata, delta=True)
    np.testing.assert_allclose(changes, profiles - mu.loc["ctrl"], atol=1e-4)

    # The baselines were learnt without the pair, as the model was; the additive one is the model itself.
    assert set(adata.uns[KEY]["baselines"]) == set(BASELINES)
    np.testing.assert_allclose(sclm.get.perturb_profiles(adata, "additive-response"), profiles, atol=1e-4)
    np.testing.assert_allclose(sclm.get.perturb_profiles(adata, "no-change").iloc[2], mu.loc["ctrl"], atol=1e-4)
    singles = [a, b, c]
    perturbed_mean = np.mean([mu.loc[s] for s in singles], axis=0)
    np.testing.assert_allclose(sclm.get.perturb_profiles(adata, "mean-response").loc[d], perturbed_mean, atol=1e-4)

    facts = sclm.get.perturb(adata)
    assert facts["standing"].tolist() == ["seen", "combination of seen", "combination of seen", "unseen"]
    assert facts["n_cells_measured"].tolist() == [100, 100, 0, 0]
    assert facts["implausible"].between(0, 1).all()

    scores = adata.uns[KEY]["scores"].set_index(["method", "perturbation"])
    assert set(scores.index.get_level_values(1)) == {a, pair}
    assert scores.loc[("model", pair), "delta_pearson"] > 0.8
    assert scores.loc[("mean-response", pair), "delta_pearson"] < scores.loc[("model", pair), "delta_pearson"]
    assert scores.loc[("model", pair), "l2"] < scores.loc[("no-change", pair), "l2"]

    adata.write_h5ad(tmp_path / "a.h5ad")
    again = ad.read_h5ad(tmp_path / "a.h5ad")
    pd.testing.assert_frame_equal(sclm.get.perturb_profiles(again), profiles)
    pd.testing.assert_frame_equal(sclm.get.perturb(again), facts, check_dtype=False)
    with pytest.raises(KeyError, match="no null"):
        sclm.get.perturb_null(adata)
    with pytest.raises(KeyError, match="'no-change'"):
        sclm.get.perturb_profiles(adata, "scgpt")


def test_predictions_do_not_leak_from_cells_that_the_model_has_not_seen(screen: ad.AnnData, model: Any) -> None:
    """Whatever the cells of the pair are, no prediction changes; only the scores do."""
    a, b = map(str, screen.var_names[:2])
    other = screen.copy()
    rows = np.flatnonzero(screen.obs["guide"].str.contains("+", regex=False))
    counts = other.X.toarray()
    counts[rows] = counts[rows][:, ::-1]
    other.X = sparse.csr_matrix(counts)
    found = [sclm.tl.perturb(x, model, [(a, b)], copy=True, **OPTIONS) for x in (screen, other)]
    for method in ("model", *BASELINES):
        pd.testing.assert_frame_equal(*(sclm.get.perturb_profiles(x, method) for x in found))
    assert found[0].uns[KEY]["scores"]["l2"].iloc[0] != found[1].uns[KEY]["scores"]["l2"].iloc[0]


def test_scores_say_what_training_had_seen(screen: ad.AnnData, model: Any, caplog: Any) -> None:
    a, b, c = map(str, screen.var_names[:3])
    with caplog.at_level("WARNING", logger="sclm"):
        out = sclm.tl.perturb(screen, model, [a, (a, b), c], copy=True, **OPTIONS)
    assert "2 of 3 perturbations that are scored were seen in training" in caplog.text
    scores = out.uns[KEY]["scores"]
    assert list(scores.columns[:3]) == ["method", "perturbation", "standing"]
    expected = {a: "seen", "+".join(sorted((a, b))): "combination of seen", c: "seen"}
    for method in ("model", *BASELINES):
        here = scores[scores["method"] == method]
        assert dict(zip(here["perturbation"], here["standing"], strict=True)) == expected
    caplog.clear()
    with caplog.at_level("WARNING", logger="sclm"):
        sclm.tl.perturb(screen, model, [(a, b)], copy=True, **OPTIONS)
    assert "seen in training" not in caplog.text


def test_baselines_compare_within_batches_as_the_model_did(screen: ad.AnnData, caplog: Any) -> None:
    """Perturbed cells mostly of one run, control cells mostly of the other, and a gene that only the run moves."""
    a, b, c = map(str, screen.var_names[:3])
    adata = screen.copy()
    control = (adata.obs["guide"] == "ctrl").to_numpy()
    second = np.where(control, np.arange(600) % 5 == 0, np.arange(600) % 5 != 0)
    adata.obs["run"] = pd.Categorical(np.where(second, "two", "one"))
    counts = adata.X.toarray()
    counts[second, 60:80] *= 4
    adata.X = sparse.csr_matrix(counts)
    singles = adata[~adata.obs["guide"].str.contains("+", regex=False)].copy()
    paired = sclm.train("additive-response", singles, batch_key="run", **OPTIONS)
    assert paired.paired_within == "run"
    out = sclm.tl.perturb(adata, paired, [(a, b)], n_cells=None, copy=True, **OPTIONS)
    np.testing.assert_allclose(
        sclm.get.perturb_profiles(out, "additive-response"), sclm.get.perturb_profiles(out), atol=1e-5
    )
    assert out.uns[KEY]["baselines_from"]["rule"] == "trained on"
    assert out.uns[KEY]["baselines_from"]["paired_within"] == "run"
    assert list(out.uns[KEY]["baselines_from"]["perturbations"]) == sorted([a, b, c])
    x = singles.X.toarray()
    y = np.log1p(1e4 * x / x.sum(1, keepdims=True))
    run, perturbed = singles.obs["run"].to_numpy(), (singles.obs["guide"] != "ctrl").to_numpy()
    own = np.where(
        (run == "one")[:, None], y[~perturbed & (run == "one")].mean(0), y[~perturbed & (run == "two")].mean(0)
    )
    effect = (y - own)[perturbed].mean(0)  # what the run does is no response
    start = sclm.get.perturb_profiles(out, "no-change").iloc[0]
    found = sclm.get.perturb_profiles(out, "mean-response").iloc[0]
    np.testing.assert_allclose(found, np.maximum(start + effect, 0), atol=1e-4)
    plain = sclm.tl.perturb(adata, sclm.train("additive-response", singles, **OPTIONS), [(a, b)], copy=True, **OPTIONS)
    over_all = sclm.get.perturb_profiles(plain, "mean-response").iloc[0]
    assert (over_all - found)[60:80].mean() > 0.3
    assert plain.uns[KEY]["baselines_from"]["paired_within"] == ""

    del adata.obs["run"]
    with caplog.at_level("WARNING", logger="sclm"):
        sclm.tl.perturb(adata, paired, [(a, b)], copy=True, **OPTIONS)
    assert "within batches of 'run', which is no column" in caplog.text
    adata.obs["run"] = np.where(control, "one", np.where(adata.obs["guide"] == c, "two", "one"))
    with caplog.at_level("WARNING", logger="sclm"):
        out = sclm.tl.perturb(adata, paired, [(a, b)], copy=True, **OPTIONS)
    assert "1 perturbations have no cells in a batch of 'run' with control cells" in caplog.text
    assert list(out.uns[KEY]["baselines_from"]["perturbations"]) == sorted([a, b])


def test_control_cells_alone_have_no_change_beside_them(screen: ad.AnnData, model: Any, caplog: Any) -> None:
    controls = screen[screen.obs["guide"] == "ctrl"].copy()
    with caplog.at_level("WARNING", logger="sclm"):
        sclm.tl.perturb(controls, model, n_cells=50)
    assert "only 'no-change' can be given" in caplog.text
    record = controls.uns[KEY]
    assert list(record["perturbations"]) == list(model.trained_perturbations)
    assert set(record["baselines"]) == {"no-change"}
    assert "scores" not in record
    assert record["n_control_cells"] == 50
    assert len(record["plausibility"]) == 3


def test_other_gene_names_and_few_cells(screen: ad.AnnData, model: Any, caplog: Any) -> None:
    from sclm.knowledge import GeneIdentifiers

    few = screen[:30].copy()
    few.var["id"] = [i or f"x{k}" for k, i in enumerate(GeneIdentifiers.load("human").to_ensembl(list(few.var_names)))]
    few = few[:, ::-1].copy()
    with caplog.at_level("WARNING", logger="sclm"):
        out = sclm.tl.perturb(few, model, [str(screen.var_names[0])], gene_key="id", copy=True)
    assert "too few to learn what is usual" in caplog.text
    assert "plausibility" not in out.uns[KEY]
    profiles = sclm.get.perturb_profiles(out)
    plain = sclm.get.perturb_profiles(sclm.tl.perturb(screen[:30].copy(), model, [str(screen.var_names[0])], copy=True))
    assert set(profiles.columns) <= set(plain.columns)
    np.testing.assert_allclose(profiles, plain[profiles.columns], atol=0.15)


def test_bad_inputs_are_refused(screen: ad.AnnData, model: Any) -> None:
    gene = str(screen.var_names[0])
    cases: list[tuple[dict[str, Any], type[Exception], str]] = [
        ({"state_key": "guide", "start": "ctrl"}, ValueError, "state_key= and start= is for encoders"),
        ({"kind": "overexpress"}, ValueError, "kind= is for encoders"),
        ({"pooling": "cls"}, ValueError, "pooling= is for encoders"),
        ({"perturbation_key": "guides"}, KeyError, "'guide'"),
        ({"perturbation_key": "guide"}, TypeError, "control= must name"),
        ({"perturbation_key": "guide", "control": "NT"}, ValueError, "control='NT' must be a label"),
        ({"control": "ctrl"}, ValueError, "needs perturbation_key="),
        ({"perturbations": [("ctrl",)], **OPTIONS}, ValueError, "must name its genes"),
    ]
    for options, error, words in cases:
        with pytest.raises(error, match=words):
            sclm.tl.perturb(screen, model, **{"perturbations": [gene], **options})
    assert KEY not in screen.uns
