"""In-silico screens with an encoder whose answers are known."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse, stats

import sclm

_SPEC = importlib.util.spec_from_file_location("projection_encoder", Path(__file__).with_name("projection_encoder.py"))
_MODULE = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(_MODULE)
ProjectionEncoder, cosine = _MODULE.ProjectionEncoder, _MODULE.cosine

KEY = "sclm_perturb"
STRONG = [40, 41, 42, 43]  # genes that weigh ten times what others do
TOWARDS = [60, 61]  # genes that hold cells away from the goal: without them, cells are nearer to it


@pytest.fixture(scope="module")
def cells() -> ad.AnnData:
    """300 genes, two states; genes of all abundances. Tests must not change it."""
    from sclm.knowledge import GeneIdentifiers, transcription_factors

    rng = np.random.default_rng(0)
    factors = sorted(transcription_factors())[:60]
    others = [
        s
        for s in dict.fromkeys(GeneIdentifiers.load("human").to_symbol([f"ENSG{i:011d}" for i in range(3, 120_000)]))
        if s
    ]
    names = [*factors, *[s for s in others if s not in transcription_factors()]][:300]
    rate = np.random.default_rng(1).gamma(0.8, 1.0, size=300)
    rate[[*STRONG, *TOWARDS]] = 1.5
    states = np.where(np.arange(400) < 200, "exhausted", "effector").astype(object)
    rates = np.tile(rate, (400, 1))
    rates[states == "effector", 200:230] += 2.0
    rates[np.ix_(states == "effector", TOWARDS)] *= 0.3
    counts = rng.poisson(rates * rng.gamma(8, 1 / 8, size=(400, 1))).astype(np.float32)
    obs = pd.DataFrame({"state": pd.Categorical(states)}, index=[f"c{i}" for i in range(400)])
    return ad.AnnData(sparse.csr_matrix(counts), obs=obs, var=pd.DataFrame(index=names))


@pytest.fixture
def encoder(cells: ad.AnnData) -> ProjectionEncoder:
    weights = np.random.default_rng(2).normal(size=(300, 16))
    weights[STRONG] *= 10
    direction = np.random.default_rng(3).normal(size=16)
    direction /= np.linalg.norm(direction)
    weights[200:230] += direction
    weights[TOWARDS] -= 12 * direction
    return ProjectionEncoder(cells.var_names, weights)


def run(adata: ad.AnnData, model: Any, *arguments: Any, **options: Any) -> pd.DataFrame:
    out = sclm.tl.perturb(adata, model, *arguments, copy=True, **options)
    assert out is not None
    return sclm.get.perturb(out)


def test_effects_are_means_over_the_cells_that_express_the_gene(cells: ad.AnnData, encoder: ProjectionEncoder) -> None:
    asked = [
        cells.var_names[5],
        (cells.var_names[41], cells.var_names[7]),
        f"{cells.var_names[2]}+{cells.var_names[3]}",
    ]
    table = run(cells, encoder, asked, n_cells=None, n_null=60).set_index("perturbation")
    counts = cells.X.toarray()
    totals = counts.sum(1, keepdims=True)
    y = np.log1p(1e4 * counts / totals)
    before = y @ encoder.weights[1:]
    for genes in ([5], [7, 41], [2, 3]):
        name = "+".join(sorted(cells.var_names[i] for i in genes))
        there = (counts[:, genes] > 0).all(axis=1)
        less = counts.copy()
        less[:, genes] = 0
        after = np.log1p(1e4 * less / less.sum(1, keepdims=True)) @ encoder.weights[1:]
        row = table.loc[name]
        assert row["n_cells"] == there.sum()
        assert row["n_genes"] == len(genes)
        assert row["detection"] == pytest.approx(there.mean())
        assert row["effect"] == pytest.approx((1 - cosine(after, before))[there].mean(), rel=1e-4)
        expressed = [y[counts[:, g] > 0, g].mean() for g in genes]
        assert row["expression"] == pytest.approx(np.mean(expressed), rel=1e-5)
        assert row["z"] == pytest.approx((row["effect"] - row["null_mean"]) / row["null_sd"])


def test_strong_genes_are_found_and_others_are_not(cells: ad.AnnData, encoder: ProjectionEncoder) -> None:
    table = run(cells, encoder, list(cells.var_names[:100]), n_null=150)
    assert list(table["perturbation"][:4].sort_values()) == sorted(cells.var_names[[*STRONG]])
    table = table.set_index("perturbation")
    strong = list(cells.var_names[STRONG])
    assert (table.loc[strong, "q"] < 0.05).all()
    rest = table.drop([*strong, *cells.var_names[TOWARDS]])
    assert (rest["q"] < 0.05).sum() <= 2
    assert stats.kstest(rest["p"].dropna(), "uniform").statistic < 0.2
    # Without the null, the ranking would be one of abundance.
    assert stats.spearmanr(rest["effect"], rest["expression"], nan_policy="omit").statistic > 0.4
    assert abs(stats.spearmanr(rest["z"], rest["expression"], nan_policy="omit").statistic) < 0.3


def test_p_values_of_idle_genes_are_uniform() -> None:
    """Genes whose weights are all drawn alike: whatever their abundance, none stands out, in any of four screens."""
    found, called = [], 0
    for seed in range(4):
        rng = np.random.default_rng(seed)
        state = np.where(np.arange(150) < 100, "a", "b")
        rate = np.tile(rng.gamma(0.8, 1.0, size=300), (150, 1))
        rate[np.ix_(state == "b", np.arange(260, 300))] += (
            2  # the states differ in other genes than those that are asked for
        )
        counts = rng.poisson(rate * rng.gamma(8, 1 / 8, (150, 1))).astype(np.float32)
        obs, var = pd.DataFrame({"state": state}, index=[f"c{i}" for i in range(150)]), [f"g{i}" for i in range(300)]
        adata = ad.AnnData(sparse.csr_matrix(counts), obs=obs, var=pd.DataFrame(index=var))
        encoder = ProjectionEncoder(adata.var_names, rng.normal(size=(300, 16)))
        options = {"state_key": "state", "start": "a", "goal": "b", "n_null": 100, "seed": seed}
        table = run(adata, encoder, var[:60], **options)
        found.append(table[["p", "goal_p"]].dropna())
        called += int((table[["q", "goal_q"]] < 0.05).to_numpy().sum())
    p = pd.concat(found)
    assert len(p) > 200
    for column in p:
        assert stats.kstest(p[column], "uniform").pvalue > 0.001
        assert (p[column] < 0.05).mean() < 0.09
        assert 0.1 < (p[column] < 0.2).mean() < 0.3
    assert called <= 2


def test_genes_that_hold_cells_back_are_found_by_their_direction(cells: ad.AnnData, encoder: ProjectionEncoder) -> None:
    out = sclm.tl.perturb(
        cells, encoder, list(cells.var_names[40:140]), state_key="state", start="exhausted", goal="effector", n_null=150,
        n_cells=150, copy=True,
    )  # fmt: skip
    table = sclm.get.perturb(out)
    assert set(table["perturbation"][:2]) == set(cells.var_names[TOWARDS])
    assert (table["goal_q"][:2] < 0.05).all()
    assert (table["goal_shift"][:2] > 0).all()
    np.testing.assert_allclose(table["goal_shift"], table["towards_goal"] - table["towards_start"])
    assert table["goal_z"].dropna().is_monotonic_decreasing
    assert out.uns[KEY]["states"] == {"start": "exhausted", "n_start": 150, "goal": "effector", "n_goal": 150}
    # By hand, for one gene: the mean vectors are those of the cells that were drawn; here all of them.
    whole = run(
        cells, encoder, [cells.var_names[60]], state_key="state", start="exhausted", goal="effector", n_cells=None
    ).iloc[0]
    y = np.log1p(1e4 * cells.X.toarray() / cells.X.toarray().sum(1, keepdims=True))
    vectors = y @ encoder.weights[1:]
    exhausted = (cells.obs["state"] == "exhausted").to_numpy()
    states = [vectors[exhausted].mean(0), vectors[~exhausted].mean(0)]
    less = cells.X.toarray()[exhausted]
    there = less[:, 60] > 0
    less[:, 60] = 0
    after = np.log1p(1e4 * less / less.sum(1, keepdims=True)) @ encoder.weights[1:]
    for state, column in zip(states, ("towards_start", "towards_goal"), strict=True):
        expected = (cosine(after, state[None]) - cosine(vectors[exhausted], state[None]))[there].mean()
        assert whole[column] == pytest.approx(expected, rel=1e-3)


def test_the_null_is_matched_outside_the_list_and_kept(cells: ad.AnnData, encoder: ProjectionEncoder) -> None:
    listed = list(cells.var_names[np.argsort(-np.asarray(cells.X.mean(0)).ravel())[:40]])  # the most abundant genes
    out = sclm.tl.perturb(cells, encoder, [*listed, (listed[0], listed[1])], n_null=40, copy=True)
    null = sclm.get.perturb_null(out)
    assert null["n_genes"].value_counts().to_dict() == {1: 40, 2: 40}
    members = {gene for name in null["perturbation"] for gene in name.split("+")}
    assert not members & set(listed)
    table = sclm.get.perturb(out)
    single = null["n_genes"] == 1
    everything = pd.Series(np.asarray((cells.X > 0).mean(0)).ravel(), index=cells.var_names).drop(listed)
    assert null.loc[single, "detection"].mean() > everything.mean() + 0.1
    assert {"effect", "null_mean", "null_sd", "z", "p", "q"} <= set(table)
    with pytest.raises(
        ValueError, match="n_null must be a whole number of at least 20, found 0: an effect means nothing"
    ):
        run(cells, encoder, listed, n_null=0)
    with pytest.raises(ValueError, match="at least 20 genes outside the list"):
        run(cells[:, :45].copy(), encoder, list(cells.var_names[:40]))


def test_the_default_list_is_the_expressed_transcription_factors(cells: ad.AnnData, encoder: ProjectionEncoder) -> None:
    from sclm.knowledge import GeneIdentifiers, transcription_factors

    table = run(cells, encoder, n_null=50)
    detected = np.asarray((cells.X > 0).sum(0)).ravel()
    expected = {g for g, n in zip(cells.var_names, detected, strict=True) if n >= 15 and g in transcription_factors()}
    assert expected - set(table["perturbation"]) == set() or detected.min() < 10
    assert set(table["perturbation"]) <= transcription_factors()
    # Ensembl ids in the data: the same genes by other names.
    other = cells.copy()
    ids = GeneIdentifiers.load("human").to_ensembl(list(cells.var_names))
    other.var["id"] = [i or f"none{k}" for k, i in enumerate(ids)]
    again = run(other, encoder, n_null=50, gene_key="id")
    assert len(again) == len(table)
    assert again["perturbation"].str.startswith("ENSG").all()
    np.testing.assert_allclose(np.sort(again["effect"]), np.sort(table["effect"]), rtol=1e-6)
    few = cells[:, 100:].copy()
    with pytest.raises(ValueError, match="no transcription factor is expressed by at least 10"):
        run(few, encoder)


def test_overexpression_reaches_cells_without_the_gene(cells: ad.AnnData, encoder: ProjectionEncoder) -> None:
    rare = str(cells.var_names[int(np.argmin(np.asarray((cells.X > 0).sum(0)).ravel()))])
    table = run(cells, encoder, [rare, str(cells.var_names[40])], kind="overexpress", n_null=50)
    assert (table["n_cells"] == 300).all()
    assert table["effect"].notna().all()


def test_genes_that_no_cell_expresses_have_no_effect(
    cells: ad.AnnData, encoder: ProjectionEncoder, caplog: Any
) -> None:
    adata = cells.copy()
    counts = adata.X.toarray()
    counts[:, 5] = 0
    adata.X = sparse.csr_matrix(counts)
    silent, loud = str(adata.var_names[5]), str(adata.var_names[40])
    with caplog.at_level("WARNING", logger="sclm"):
        table = run(adata, encoder, [silent, loud], n_null=50).set_index("perturbation")
    assert "1 perturbations apply to no cell" in caplog.text
    assert table.loc[silent, "n_cells"] == 0
    assert table.loc[silent, ["effect", "null_mean", "null_sd", "z", "p", "q"]].isna().all()
    assert table.index[-1] == silent
    with pytest.raises(ValueError, match="none of the 1 perturbations applies"):
        run(adata, encoder, [silent], n_null=50)


def test_seeds_and_settings_reach_the_model(cells: ad.AnnData, encoder: ProjectionEncoder) -> None:
    asked = list(cells.var_names[:20])
    a, b = (
        run(cells, encoder, asked, n_cells=100, n_null=40, seed=4, pooling="cls", hidden_layer=-2) for _ in range(2)
    )
    pd.testing.assert_frame_equal(a, b)
    assert encoder.asked[-1] == {"n": 60, "layer": -2, "pooling": "cls", "seed": 4}
    c = run(cells, encoder, asked, n_cells=100, n_null=40, seed=5)
    assert not np.allclose(
        a.set_index("perturbation")["effect"], c.set_index("perturbation").loc[a["perturbation"], "effect"]
    )


def test_bad_inputs_are_refused_and_nothing_is_written(cells: ad.AnnData, encoder: ProjectionEncoder) -> None:
    gene = str(cells.var_names[3])
    cases: list[tuple[dict[str, Any], type[Exception], str]] = [
        ({"perturbations": ["NOTAGENE"]}, KeyError, "does not know 'NOTAGENE'"),
        ({"perturbations": [gene, gene[:-1] + "~"]}, KeyError, "Near"),
        ({"perturbations": []}, ValueError, "at least one gene, found none"),
        ({"perturbations": ["A++B"]}, ValueError, "must name its genes"),
        ({"kind": "activate"}, ValueError, "'delete' or 'overexpress'"),
        ({"goal": "effector"}, ValueError, "needs start="),
        ({"start": "exhausted"}, ValueError, "needs state_key="),
        ({"state_key": "state"}, ValueError, "needs start="),
        ({"state_key": "stat", "start": "exhausted"}, KeyError, "'state'"),
        ({"state_key": "state", "start": "exhaust"}, ValueError, "there are 'exhausted'"),
        ({"state_key": "state", "start": "exhausted", "goal": "exhausted"}, ValueError, "two states"),
        ({"n_cells": 0}, ValueError, "n_cells must be"),
        ({"n_cells": 2}, ValueError, "at least 3 cells"),
        ({"n_null": 19}, ValueError, "n_null must be"),
        ({"perturbation_key": "state", "control": "x"}, ValueError, "perturbation_key= and control= is for models"),
        ({"key_added": "a/b"}, ValueError, "'/'"),
        ({"device": "cpu"}, TypeError, "no network"),
    ]
    before = cells.copy()
    for options, error, words in cases:
        arguments = {"perturbations": [gene], "n_null": 40, **options}
        with pytest.raises(error, match=words):
            sclm.tl.perturb(cells, encoder, **arguments)
    logged = cells.copy()
    logged.X = sparse.csr_matrix(np.log1p(cells.X.toarray()))
    with pytest.raises(ValueError, match="raw integer counts"):
        sclm.tl.perturb(logged, encoder, [gene])
    with pytest.raises(TypeError, match="does not perturb cells"):
        sclm.tl.perturb(cells, sclm.train("majority", cells, label_key="state"), [gene])
    assert KEY not in cells.uns
    assert (cells.X != before.X).nnz == 0


@pytest.mark.filterwarnings("ignore:Writing zarr v2 data")
def test_the_result_survives_files(cells: ad.AnnData, encoder: ProjectionEncoder, tmp_path: Path) -> None:
    adata = cells.copy()
    options = {"state_key": "state", "start": "exhausted", "goal": "effector", "n_null": 40}
    sclm.tl.perturb(adata, encoder, list(cells.var_names[:30]), **options)
    assert adata.uns[KEY]["tool"] == "perturb"
    assert adata.uns[KEY]["seed"] == 0
    assert adata.uns[KEY]["params"]["goal"] == "effector"
    adata.write_h5ad(tmp_path / "a.h5ad")
    adata.write_zarr(tmp_path / "a.zarr")
    for again in (ad.read_h5ad(tmp_path / "a.h5ad"), ad.read_zarr(tmp_path / "a.zarr")):
        pd.testing.assert_frame_equal(sclm.get.perturb(again), sclm.get.perturb(adata), check_dtype=False)
        pd.testing.assert_frame_equal(sclm.get.perturb_null(again), sclm.get.perturb_null(adata), check_dtype=False)
    backed = ad.read_h5ad(tmp_path / "a.h5ad", backed="r")
    again = sclm.tl.perturb(backed, encoder, list(cells.var_names[:30]), **options, copy=True)
    pd.testing.assert_frame_equal(sclm.get.perturb(again), sclm.get.perturb(adata))
    with pytest.raises(KeyError, match=r"Run sclm\.tl\.perturb first"):
        sclm.get.perturb(cells)
