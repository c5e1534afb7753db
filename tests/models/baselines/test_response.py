"""Baselines of responses against their textbook formulas, by slow references."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import sclm
from sclm.cells import read_cells

if TYPE_CHECKING:
    from collections.abc import Callable

GENES = [f"G{i}" for i in range(40)]
EFFECTS = {"G0": (10, 2.0), "G1": (15, 1.0), "G2": (20, 1.5), "G0+G1": None, "G3": (25, 0.7)}


@pytest.fixture(scope="module")
def screen() -> Callable[..., ad.AnnData]:
    """Poisson counts; a perturbation raises five genes, and a pair does what both of its genes do."""

    def make(n: int = 900, seed: int = 0, *, batch_effect: float = 0.0) -> ad.AnnData:
        rng = np.random.default_rng(seed)
        base = np.random.default_rng(99).gamma(1.0, 1.0, size=40) + 0.2
        labels = np.array(["ctrl", "ctrl", *EFFECTS], dtype=object)[rng.integers(0, 7, size=n)]
        batch = rng.random(n) < np.where(labels == "G3", 0.8, 0.3)
        log_rate = np.tile(np.log(base), (n, 1))
        for name, effect in EFFECTS.items():
            for part in name.split("+") if effect is None else [name]:
                first, size = EFFECTS[part]
                log_rate[labels == name, first : first + 5] += size
        log_rate[batch, 30:] += batch_effect
        counts = rng.poisson(np.exp(log_rate)).astype(np.float32)
        obs = pd.DataFrame({"guide": labels, "batch": np.where(batch, "b", "a")}, index=[f"c{i}" for i in range(n)])
        return ad.AnnData(sparse.csr_matrix(counts), obs=obs, var=pd.DataFrame(index=GENES))

    return make


def profiles_of(adata: ad.AnnData) -> pd.DataFrame:
    """Mean log1p profile of every label, from the definition."""
    counts = adata.X.toarray().astype(np.float64)
    y = np.log1p(1e4 * counts / counts.sum(axis=1, keepdims=True))
    return pd.DataFrame(y, columns=adata.var_names).groupby(adata.obs["guide"].to_numpy()).mean()


def respond(name: str, adata: ad.AnnData, asked: list[tuple[str, ...]], **options: Any) -> pd.DataFrame:
    model = sclm.train(name, adata, perturbation_key="guide", control="ctrl", **options)
    return model.respond(read_cells(adata[adata.obs["guide"] == "ctrl"].copy()).read(), asked)


def test_each_baseline_is_its_formula(screen: Callable[..., ad.AnnData]) -> None:
    adata = screen()
    mu = profiles_of(adata)
    n = adata.obs["guide"].value_counts()
    trained = [name for name in mu.index if name != "ctrl"]
    perturbed_mean = sum(n[p] * mu.loc[p] for p in trained) / sum(n[p] for p in trained)
    asked = [("G0",), ("G2", "G0"), ("G0", "G1"), ("G0", "G30"), ("G30",)]
    delta = mu - mu.loc["ctrl"]
    other = perturbed_mean - mu.loc["ctrl"]
    expected = {
        "no-change": [mu.loc["ctrl"]] * 5,
        "mean-response": [perturbed_mean] * 5,
        "additive-response": [
            mu.loc["G0"],
            mu.loc["G0"] + mu.loc["G2"] - mu.loc["ctrl"],
            mu.loc["G0"] + mu.loc["G1"] - mu.loc["ctrl"],
            mu.loc["G0"] + other,
            perturbed_mean,
        ],
        "matching-response": [
            mu.loc["G0"],
            (mu.loc["G0"] + mu.loc["G2"]) / 2,
            mu.loc["G0+G1"],
            mu.loc["ctrl"] + (delta.loc["G0"] + other) / 2,
            perturbed_mean,
        ],
    }
    for name, rows in expected.items():
        found = respond(name, adata, asked)
        assert list(found.index) == ["G0", "G0+G2", "G0+G1", "G0+G30", "G30"]
        np.testing.assert_allclose(found, np.maximum(np.array(rows), 0), atol=2e-5, err_msg=name)


def test_ridge_is_the_bilinear_least_squares_problem(screen: Callable[..., ad.AnnData]) -> None:
    """Y = G W Pᵀ + b, both sides with their ridge, solved column by column with scikit-learn."""
    from sklearn.linear_model import Ridge

    adata = screen()
    mu = profiles_of(adata)
    effects = (mu.drop("ctrl") - mu.loc["ctrl"]).sort_index()
    b = effects.mean()
    y = (effects - b).to_numpy().T  # (G, P)
    u, s, _ = np.linalg.svd(y, full_matrices=False)
    g = u[:, :3] * s[:3]
    p = np.array([sum(g[GENES.index(part)] for part in name.split("+")) for name in effects.index])
    left = Ridge(alpha=0.5, fit_intercept=False).fit(g, y).coef_.T  # (K, P)
    w = Ridge(alpha=0.5, fit_intercept=False).fit(p, left.T).coef_  # (K, K)
    found = respond("ridge-response", adata, [("G0",), ("G2", "G3"), ("nobody",)], n_components=3, ridge=0.5)
    for name, parts in (("G0", ("G0",)), ("G2+G3", ("G2", "G3"))):
        expected = mu.loc["ctrl"] + b + g @ w @ sum(g[GENES.index(part)] for part in parts)
        np.testing.assert_allclose(found.loc[name], np.maximum(expected, 0), atol=1e-4)
    np.testing.assert_allclose(found.loc["nobody"], np.maximum(mu.loc["ctrl"] + b, 0), atol=1e-5)


def test_ridge_learns_from_embeddings_that_know(screen: Callable[..., ad.AnnData]) -> None:
    """A gene that was never perturbed lies beside one that was: its effect is foreseen, without the embeddings it is not."""
    adata = screen(3000)
    mu = profiles_of(adata)
    train = adata[adata.obs["guide"] != "G3"].copy()
    vectors = np.random.default_rng(0).normal(size=(40, 6))
    vectors[3] = vectors[0]
    table = pd.DataFrame(vectors, index=GENES)
    known = respond("ridge-response", train, [("G3",)], gene_embeddings=table).loc["G3"] - mu.loc["ctrl"]
    assert np.corrcoef(known, mu.loc["G0"] - mu.loc["ctrl"])[0, 1] > 0.9
    again = sclm.train(
        "ridge-response", train, perturbation_key="guide", control="ctrl", gene_embeddings=table.iloc[::-1]
    )
    controls = read_cells(train[train.obs["guide"] == "ctrl"].copy()).read()
    np.testing.assert_allclose(again.respond(controls, [("G3",)]).iloc[0] - mu.loc["ctrl"], known, atol=1e-4)
    with pytest.raises(TypeError, match="DataFrame"):
        respond("ridge-response", train, [("G3",)], gene_embeddings=vectors)
    with pytest.raises(ValueError, match="ridge must be greater than 0"):
        respond("ridge-response", train, [("G3",)], ridge=0.0)


def test_batches_do_not_pass_for_effects(screen: Callable[..., ad.AnnData]) -> None:
    adata = screen(4000, batch_effect=1.5)
    outside = slice(30, 40)  # genes that the batch moves and no perturbation does
    plain, stratified = (
        respond("additive-response", adata, [("G3",)], **options).iloc[0].to_numpy()
        - respond("no-change", adata, [("G3",)]).iloc[0].to_numpy()
        for options in ({}, {"batch_key": "batch"})
    )
    assert np.abs(stratified[outside]).mean() < 0.35 * np.abs(plain[outside]).mean()


def test_controls_of_another_context_are_moved_by_the_effect(screen: Callable[..., ad.AnnData]) -> None:
    adata, other = screen(), screen(seed=5)
    controls = other[other.obs["guide"] == "ctrl"].copy()
    controls.X = sparse.csr_matrix(controls.X.toarray()[:, ::-1].copy())
    model = sclm.train("additive-response", adata, perturbation_key="guide", control="ctrl")
    mu = profiles_of(adata)
    moved = model.respond(read_cells(controls).read(), [("G0",), ()])
    assert list(moved.index) == ["G0", ""]
    start = profiles_of(controls).loc["ctrl"]
    np.testing.assert_allclose(moved.iloc[1], start, atol=1e-5)
    np.testing.assert_allclose(moved.iloc[0], np.maximum(start + mu.loc["G0"] - mu.loc["ctrl"], 0), atol=1e-4)


def test_genes_that_controls_lack_are_taken_at_their_training_mean(screen: Callable[..., ad.AnnData]) -> None:
    adata = screen(4000)
    mu = profiles_of(adata)
    controls = adata[adata.obs["guide"] == "ctrl", :30].copy()
    model = sclm.train("no-change", adata, perturbation_key="guide", control="ctrl")
    found = model.respond(read_cells(controls).read(), [("G0",)]).iloc[0]
    np.testing.assert_allclose(found[GENES[30:]], mu.loc["ctrl", GENES[30:]], atol=1e-5)
    np.testing.assert_allclose(found[GENES[:30]], mu.loc["ctrl", GENES[:30]], atol=0.3)


def test_a_batch_without_controls_is_left_out_or_refused(screen: Callable[..., ad.AnnData], caplog: Any) -> None:
    adata = screen()
    adata.obs["batch"] = np.where(np.arange(900) < 30, "lonely", "a")
    adata = adata[~((adata.obs["batch"] == "lonely") & (adata.obs["guide"] == "ctrl"))].copy()
    with caplog.at_level("WARNING", logger="sclm"):
        respond("mean-response", adata, [("G0",)], batch_key="batch")
    assert "in 1 batches without control cells" in caplog.text
    adata.obs.loc[adata.obs["guide"] == "G2", "batch"] = "lonely"
    with pytest.raises(ValueError, match="G2"):
        respond("mean-response", adata, [("G0",)], batch_key="batch")


def test_options_and_columns_are_checked(screen: Callable[..., ad.AnnData]) -> None:
    adata = screen(100)
    with pytest.raises(TypeError, match="no option 'alpha'; it has: n_components, ridge, gene_embeddings"):
        respond("ridge-response", adata, [("G0",)], alpha=3)
    with pytest.raises(ValueError, match="perturbed cells beside the control"):
        respond("no-change", adata[adata.obs["guide"] == "ctrl"].copy(), [("G0",)])
    model = sclm.train("no-change", adata, perturbation_key="guide", control="ctrl")
    wrong = adata.copy()
    wrong.var_names = [f"other{i}" for i in range(40)]
    cells = read_cells(wrong).read()
    with pytest.raises(ValueError, match="of the model's genes must be in the data"):
        model.respond(cells, [("G0",)])
