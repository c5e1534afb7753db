"""Models compared on cells whose truth is planted: who is right, what leaks, what intervals say, what is done twice."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
import scipy.stats

import sclm
from sclm.benchmark import find_twins, folds
from sclm.benchmark.scores import SCORES, Tallies, interval, per_type, resampled
from sclm.models.contract import Annotation

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import anndata

    from sclm.knowledge import Ontology

IDS = {
    "B cell": "CL:0000236", "T cell": "CL:0000084", "natural killer cell": "CL:0000623", "monocyte": "CL:0000576",
}  # fmt: skip


class Fixed:
    """Names cells as it was told, by their total counts, which are made unique; counts how many it was asked for."""

    family = "fixed"

    def __init__(self, adata: anndata.AnnData, answers: list[str], confidence: float = 0.9) -> None:
        totals = np.asarray(adata.X.sum(axis=1)).ravel().astype(int)
        self.told = dict(zip(totals.tolist(), answers, strict=True))
        self.confidence, self.asked = confidence, 0

    def match(self, genes: pd.Index) -> Any:
        from sclm.cells import GeneVocabulary

        return GeneVocabulary(tuple(genes)).match(genes)

    def annotate(self, cells: Any) -> Annotation:
        assert list(cells.obs.columns) == []
        totals = np.asarray(cells.counts.sum(axis=1)).ravel().astype(int)
        self.asked += len(totals)
        labels = [self.told[t] for t in totals.tolist()]
        table = pd.DataFrame(
            {
                "label": labels, "ontology_term_id": [IDS[label] for label in labels],
                "confidence": self.confidence, "novelty": 0.0,
            },
            index=cells.obs.index,
        )  # fmt: skip
        return Annotation(table, None, pd.DataFrame({"label": list(IDS), "ontology_term_id": list(IDS.values())}))


@pytest.fixture(scope="module")
def cells(simulate: Callable[..., anndata.AnnData]) -> anndata.AnnData:
    """120 cells, four types, six donors, every cell with another total, so that a cell can be known by it."""
    adata = simulate(120, 60, strength=3.0, seed=4)
    counts = adata.X.toarray().astype(int)
    counts[:, 59] = 0
    totals = counts.sum(axis=1)
    counts[:, 59] = 1000 + np.arange(120) - totals
    adata.X = counts.astype(np.float32)
    adata.obs["donor"] = pd.Categorical([f"d{i // 4 % 6}" for i in range(120)])
    return adata


FAST: dict[str, Any] = {"n_folds": 2, "n_seeds": 1, "n_bootstrap": 100, "label_key": "cell_type"}


def test_a_model_that_is_right_and_one_that_is_wrong(cells: anndata.AnnData) -> None:
    truth = cells.obs["cell_type"].astype(str).tolist()
    other = dict(zip(IDS, [*list(IDS)[1:], next(iter(IDS))], strict=True))
    right, wrong = Fixed(cells, truth, 1.0), Fixed(cells, [other[t] for t in truth], 1.0)
    before = cells.copy()
    models = {"right": right, "wrong": wrong}
    found = sclm.benchmark.run(cells, models, batch_key="donor", predictions=["cell_type"], **{**FAST, "n_seeds": 2})
    assert right.asked == wrong.asked == 120  # as it is: asked once, whatever the splits
    table = found.table
    assert set(table.index) == {"majority", "logistic", "knn", "right", "wrong", "cell_type"}
    for name, value in (("right", 1.0), ("cell_type", 1.0), ("wrong", 0.0)):
        row = table.loc[name]
        assert (row["accuracy"], row["accuracy_low"], row["accuracy_high"], row["macro_f1"]) == (value,) * 4
    assert table.loc["right", "expected_calibration_error"] == 0
    assert table.loc["wrong", "expected_calibration_error"] == 1
    assert np.isnan(table.loc["cell_type", "expected_calibration_error"])
    assert 0 < table.loc["wrong", "ontology_similarity"] < 1
    assert table.loc["majority", "accuracy"] < 0.4 < table.loc["logistic", "accuracy"]
    types = found.per_type.set_index(["method", "type"])
    assert types.loc[("right", "B cell"), ["cells", "precision", "recall", "f1"]].tolist() == [30, 1, 1, 1]
    assert types.loc[("wrong", "B cell"), "mistaken_for"] == "T cell"
    said = [s for s in found.sentences if "wrong" in s]
    assert len(said) == 3
    assert all(s.startswith("The baseline ") and " is ahead of wrong in " in s for s in said)
    best = found.differences.set_index(["method", "score"]).loc[("wrong", "accuracy")]
    assert best["difference"] == pytest.approx(-max(table.loc[list(sclm.benchmark.BASELINES), "accuracy"]))
    assert best["low"] <= best["difference"] <= best["high"] < 0
    pd.testing.assert_frame_equal(cells.obs, before.obs)
    assert (cells.X == before.X).all()
    assert list(cells.uns) == []


def test_donors_are_never_split_and_folds_are_level(cells: anndata.AnnData) -> None:
    rng = np.random.default_rng(0)
    donors = rng.choice(list("abcdefghij"), 500, p=np.arange(1, 11) / 55)
    types = rng.choice(list("xyz"), 500)
    for seed in range(5):
        fold = folds(types, donors, n_folds=4, seed=seed)
        assert pd.crosstab(donors, fold).gt(0).sum(axis=1).eq(1).all()
        sizes = np.bincount(fold)
        assert len(sizes) == 4
        assert sizes.max() - sizes.min() < 60
    assert len(set(folds(types, donors, n_folds=40).tolist())) == 10  # a donor a fold
    assert not np.array_equal(folds(types, donors, n_folds=4, seed=0), folds(types, donors, n_folds=4, seed=1))
    at_random = folds(types, n_folds=5, seed=3)
    assert pd.crosstab(types, at_random).apply(lambda row: row.max() - row.min() <= 1, axis=1).all()
    np.testing.assert_array_equal(at_random, folds(types, n_folds=5, seed=3))
    with pytest.raises(ValueError, match=r"at least two, found 1 \('a'\)"):
        folds(types, np.full(500, "a"))
    with pytest.raises(ValueError, match="n_folds must be"):
        folds(types, n_folds=1)


def test_planted_twins_are_found_with_their_exact_number(simulate: Callable[..., anndata.AnnData]) -> None:
    adata = simulate(200, 120, seed=8)
    counts = adata.X.toarray()
    for a, b in ((0, 100), (1, 101), (2, 102)):  # exactly the same
        counts[b] = counts[a]
    for a, b in ((10, 110), (11, 111), (12, 12 + 1), (13 + 1, 114)):  # a count more in three genes
        counts[b] = counts[a]
        counts[b, np.argsort(counts[a])[-3:]] += 1
    names = np.array(adata.obs_names, dtype=object)
    names[150], names[151] = names[50], names[52]
    adata.X, adata.obs_names = counts, names
    twins = find_twins(sclm.cells.read_cells(adata).read().counts, names, bound=0.97)
    assert {tuple(pair) for pair in twins.near.tolist()} == {(10, 110), (11, 111), (12, 13), (14, 114)}
    assert (twins.counts >= 0).sum() == 6
    assert (twins.names >= 0).sum() == 4
    test = np.arange(200) >= 100
    found = twins.across(test).set_index("kind")
    assert found.loc["counts", "cell"].tolist() == [100, 101, 102]
    assert found.loc["counts", "twin"].tolist() == [0, 1, 2]
    assert found.loc["near", "cell"].tolist() == [110, 111, 114]  # 12 and 13 are on one side
    assert found.loc["name", ["cell", "twin"]].to_numpy().tolist() == [[150, 50], [151, 52]]
    with pytest.raises(ValueError, match=r"in \(0, 1\]"):
        find_twins(twins.near, bound=0.0)


def test_near_twins_among_many_cells(simulate: Callable[..., anndata.AnnData]) -> None:
    """Beyond 3,000 cells not all pairs are looked at; thinned copies are found all the same."""
    counts = simulate(3400, 120, seed=9).X.tolil()
    rng = np.random.default_rng(0)
    planted = {(int(i), 3300 + k) for k, i in enumerate(rng.choice(3000, 60, replace=False))}
    for a, b in planted:
        counts[b] = rng.binomial(counts[a].toarray().astype(int), 0.95)
    twins = find_twins(counts.tocsr(), bound=0.97)
    unit = sclm.cells.log_normalise(counts.tocsr()).toarray()
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    alike = unit @ unit.T
    alike[(unit > 0).sum(axis=1) < 20] = 0  # of few genes: alike by chance
    wanted = {(int(a), int(b)) for a, b in np.argwhere(np.triu(np.minimum(alike, alike.T) >= 0.97, 1))}
    equal = {(a, b) for a, b in wanted if twins.counts[a] == twins.counts[b] >= 0}
    found = {tuple(pair) for pair in twins.near.tolist()} | equal
    assert found == wanted
    assert 30 < len(planted & wanted) <= len(wanted) < 70


def test_twins_are_reported_and_left_out_of_training(cells: anndata.AnnData) -> None:
    adata = cells.copy()
    counts = adata.X.copy()
    donors = adata.obs["donor"].astype(str).to_numpy()
    copies = [(0, 4), (1, 5), (24, 28)]  # the next four cells are of another donor
    assert all(donors[a] != donors[b] for a, b in copies)
    for a, b in copies:
        counts[b] = counts[a]
    adata.X = counts
    fold = folds(adata.obs["cell_type"].to_numpy(), donors, n_folds=2, seed=0)
    split = [(a, b) for a, b in copies if fold[a] != fold[b]]
    assert split
    found = sclm.benchmark.run(adata, batch_key="donor", drop_twins=True, **FAST)
    assert found.facts["leaks"]["counts"] == 2 * len(split)
    rows = found.leaks[found.leaks["kind"] == "counts"]
    assert {frozenset(pair) for pair in rows[["cell", "twin_cell"]].to_numpy().tolist()} == {
        frozenset({f"cell{a}", f"cell{b}"}) for a, b in split
    }
    assert (rows["batch"] != rows["twin_batch"]).all()
    sizes = found.per_fold.query("method == 'knn'").set_index("fold")["train_cells"]
    for f in (0, 1):  # near twins are left out too
        alike = found.leaks[found.leaks["fold"] == 1 - f][
            "row"
        ].nunique()  # cells of the other fold with a twin in this one
        assert sizes[f] == (fold != f).sum() - alike


def test_scores_are_those_of_the_metrics(ontology: Ontology) -> None:
    rng = np.random.default_rng(0)
    types = np.array([*IDS.values(), "a type of no ontology"], dtype=object)
    answers = np.array([*IDS.values(), "a type of no ontology", "CL:0000542", "unknown"], dtype=object)  # a lymphocyte
    truth, said, sure = rng.choice(types, 400), rng.choice(answers, 400), rng.random(400)
    said = np.where(rng.random(400) < 0.6, truth, said)
    sure[said == "unknown"] = 0
    wanted = sclm.metrics.annotation(truth, said, confidence=sure, ontology=ontology)
    tallies = Tallies(truth, said, sure, rng.integers(0, 7, 400), ontology)
    np.testing.assert_allclose(tallies.scores()[0], [wanted[score] for score in SCORES], rtol=1e-9)
    part = np.repeat(np.arange(400), rng.integers(0, 3, 400))  # a resample of cells, by weights and in full
    wanted = sclm.metrics.annotation(truth[part], said[part], confidence=sure[part], ontology=ontology)
    cells = Tallies(truth, said, sure, np.arange(400), ontology)
    weights = np.bincount(part, minlength=400)[None].astype(float)
    np.testing.assert_allclose(cells.scores(weights)[0], [wanted[score] for score in SCORES], rtol=1e-9)
    table = per_type(truth, said, sure)
    assert np.mean(table["f1"]) == pytest.approx(sclm.metrics.annotation(truth, said)["macro_f1"])


def test_intervals_are_those_of_scipy(ontology: Ontology) -> None:
    rng = np.random.default_rng(3)
    truth = rng.choice(np.array(list(IDS.values()), dtype=object), 600)
    donors = np.repeat(np.arange(12), 50)
    luck = np.repeat(rng.uniform(0.4, 0.95, 12), 50)
    first, second = (
        np.where(rng.random(600) < luck + shift, truth, np.roll(truth, 1)).astype(object) for shift in (0, 0.03)
    )
    sure = np.full(600, 0.5)
    tallies = [[Tallies(truth, said, sure, donors, ontology)] for said in (first, second)]
    drawn = resampled(tallies, 4000, 0)
    hits = [(said == truth).reshape(12, 50).mean(axis=1) for said in (first, second)]  # donors of equal size
    options: dict[str, Any] = {"n_resamples": 4000, "method": "percentile", "rng": np.random.default_rng(1)}
    wanted = scipy.stats.bootstrap((hits[0],), np.mean, **options).confidence_interval
    np.testing.assert_allclose(interval(drawn[0, :, 0]), wanted, atol=0.01)
    paired = scipy.stats.bootstrap((hits[1] - hits[0],), np.mean, **options).confidence_interval
    np.testing.assert_allclose(interval(drawn[1, :, 0] - drawn[0, :, 0]), paired, atol=0.004)
    assert np.isnan(interval(np.array([np.nan]))).all()


def test_resumed_runs_give_the_same_tables(cells: anndata.AnnData, tmp_path: Path, monkeypatch: Any) -> None:
    from sclm import models

    out = tmp_path / "found"
    whole = sclm.benchmark.run(cells, ["mean"], batch_key="donor", **FAST)
    train, calls = models.train, []

    def dying(*args: Any, **kwargs: Any) -> Any:
        calls.append(args[0])
        if len(calls) == 4:
            raise KeyboardInterrupt
        return train(*args, **kwargs)

    monkeypatch.setattr(models, "train", dying)
    with pytest.raises(KeyboardInterrupt):
        sclm.benchmark.run(cells, ["mean"], batch_key="donor", out=out, **FAST)
    assert len(list(out.rglob("*.npz"))) == 3
    again = sclm.benchmark.run(cells, ["mean"], batch_key="donor", out=out, **FAST)
    assert len(calls) == 4 + (4 * 2 - 3)  # nothing that was finished is done again
    costs = ["train_seconds", "cells_per_second", "memory_mib"]
    pd.testing.assert_frame_equal(again.table.drop(columns=costs), whole.table.drop(columns=costs))
    pd.testing.assert_frame_equal(again.per_type, whole.per_type)
    pd.testing.assert_frame_equal(again.differences, whole.differences)
    broken = next(out.rglob("*.npz"))
    broken.write_bytes(broken.read_bytes()[:50])
    third = sclm.benchmark.run(cells, ["mean"], batch_key="donor", out=out, **FAST)
    assert len(calls) == 4 + 5 + 1
    pd.testing.assert_frame_equal(third.per_type, whole.per_type)
    with pytest.raises(FileExistsError, match="other cells or with other settings"):
        sclm.benchmark.run(cells[:100].copy(), batch_key="donor", out=out, **FAST)
    (tmp_path / "else").mkdir()
    (tmp_path / "else" / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="holds no comparison"):
        sclm.benchmark.run(cells, batch_key="donor", out=tmp_path / "else", overwrite=True, **FAST)


def test_a_model_that_fails_is_named_and_the_others_go_on(cells: anndata.AnnData, tmp_path: Path) -> None:
    class Failing(Fixed):
        def annotate(self, cells: Any) -> Annotation:
            raise RuntimeError("no luck")

    found = sclm.benchmark.run(cells, {"bad": Failing(cells, ["B cell"] * 120)}, **FAST)
    assert found.facts["failed"] == {"bad": "RuntimeError: no luck"}
    assert "bad" not in found.table.index
    files = sclm.benchmark.write(found, tmp_path / "out")
    text = files["text"].read_text()
    assert "bad failed and is in no table: RuntimeError: no luck" in text
    assert "easier than another donor or study is" in text
    assert "resamples of cells" in text
    page = files["report"].read_text()
    assert "easier than another donor" in page
    assert "<table>" in page
    assert len(pd.read_csv(files["scores"])) == 3


def test_names_and_settings_are_refused_before_any_work(cells: anndata.AnnData, tmp_path: Path) -> None:
    run = sclm.benchmark.run
    for models, error, match in (
        (["no-such-model"], FileNotFoundError, "No model 'no-such-model'"),
        (["nnls"], ValueError, "does not annotate"),
        (["mean", "mean"], ValueError, "more than once"),
        ({"knn": "mean"}, ValueError, "name of a baseline"),
    ):
        with pytest.raises(error, match=match):
            run(cells, models, label_key="cell_type")
    with pytest.raises(ValueError, match="not trained here"):
        run(cells, ["marker-lists"], label_key="cell_type", options={"marker-lists": {"a": 1}})
    with pytest.raises(KeyError, match="sell_type"):
        run(cells, label_key="sell_type")
    with pytest.raises(ValueError, match="n_seeds"):
        run(cells, label_key="cell_type", n_seeds=0)
    holes = cells.copy()
    holes.obs["donor"] = holes.obs["donor"].astype(object).where(np.arange(120) > 2)
    with pytest.raises(ValueError, match="found 3 without"):
        run(holes, label_key="cell_type", batch_key="donor")


def test_the_command(cells: anndata.AnnData, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from sclm.cli import main

    adata = cells.copy()
    adata.obs["guess"] = pd.Categorical(["B cell"] * 120)
    adata.obs["sure"] = 0.25
    adata.write_h5ad(tmp_path / "cells.h5ad")
    sclm.train("mean", adata, label_key="cell_type").save(tmp_path / "trained")
    words = [
        "benchmark",
        str(tmp_path / "cells.h5ad"),
        "--label-key",
        "cell_type",
        "--batch-key",
        "donor",
        "-o",
        str(tmp_path / "out"),
    ]
    words += [
        "--models",
        "mean",
        str(tmp_path / "trained"),
        "--predictions",
        "guess=sure",
        "--n-folds",
        "2",
        "--n-seeds",
        "1",
    ]
    words += ["--n-bootstrap", "100"]
    assert main([*words, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    kinds = {name: row["kind"] for name, row in result["methods"].items()}
    assert kinds == {
        "majority": "trained", "logistic": "trained", "knn": "trained", "mean": "trained", "trained": "as it is", "guess": "column",
    }  # fmt: skip
    assert result["methods"]["guess"]["accuracy"] == 0.25
    assert result["methods"]["guess"]["expected_calibration_error"] == pytest.approx(0, abs=1e-9)
    assert (tmp_path / "out" / "report.html").is_file()
    assert main(words) == 0
    shown = capsys.readouterr().out
    assert "The baseline" in shown
    assert "report: " in shown
    assert main([*words, "--option", "mean=1"]) == 2
