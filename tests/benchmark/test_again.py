"""Comparisons done again in one folder, on names of usual data, and where nothing can be learnt."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest

import sclm
from sclm.models.contract import Annotation

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import anndata

FAST: dict[str, Any] = {"n_folds": 2, "n_seeds": 1, "n_bootstrap": 100, "label_key": "cell_type"}


@pytest.fixture
def cells(simulate: Callable[..., anndata.AnnData]) -> anndata.AnnData:
    adata = simulate(80, 60, strength=3.0, seed=4)
    adata.obs["donor"] = [f"d{i // 4 % 4}" for i in range(80)]
    return adata


class One:
    """Gives all cells one name, and does not say where it comes from."""

    family = "one"

    def __init__(self, label: str, term: str) -> None:
        self.label, self.term = label, term

    def match(self, genes: pd.Index) -> Any:
        return sclm.cells.GeneVocabulary(tuple(genes)).match(genes)

    def annotate(self, cells: Any) -> Annotation:
        row = {"label": self.label, "ontology_term_id": self.term}
        table = pd.DataFrame({**row, "confidence": 0.5, "novelty": 0.0}, index=cells.obs.index)
        return Annotation(table, None, pd.DataFrame([row]))


def test_a_changed_column_and_a_changed_object_are_asked_anew(cells: anndata.AnnData, tmp_path: Path) -> None:
    cells.obs["guess"] = cells.obs["cell_type"].astype(str)
    ask: dict[str, Any] = {"predictions": ["guess"], "out": tmp_path / "out", **FAST}
    first = sclm.benchmark.run(cells, {"mine": One("B cell", "CL:0000236")}, **ask).table["accuracy"]
    finished = {p: p.stat().st_mtime_ns for p in (tmp_path / "out").rglob("*") if p.is_file()}
    cells.obs["guess"] = "T cell"
    second = sclm.benchmark.run(cells, {"mine": One("unheard of", "unknown")}, **ask).table["accuracy"]
    share = cells.obs["cell_type"].value_counts(normalize=True)
    assert (first["guess"], second["guess"]) == (1.0, pytest.approx(share["T cell"]))
    assert (first["mine"], second["mine"]) == (pytest.approx(share["B cell"]), 0.0)
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "out").rglob("*") if p.is_file()} == finished


def test_what_models_may_read_is_among_the_settings(cells: anndata.AnnData, tmp_path: Path) -> None:
    cells.obs["tissue"] = np.where(np.arange(80) % 3 == 0, "blood", "lung")
    sclm.benchmark.run(cells, out=tmp_path / "out", **FAST)
    cells.obs["guess"] = "T cell"  # what another method said since then is no model's to read
    sclm.benchmark.run(cells, predictions=["guess"], out=tmp_path / "out", **FAST)
    cells.obs["tissue"] = "lung"
    with pytest.raises(FileExistsError, match=r"other columns in \.obs"):
        sclm.benchmark.run(cells, predictions=["guess"], out=tmp_path / "out", **FAST)


def test_where_no_method_can_be_run_each_says_why(cells: anndata.AnnData) -> None:
    two = cells[cells.obs["cell_type"].isin(["B cell", "T cell"])].copy()
    two.obs["donor"] = two.obs["cell_type"].astype(str)  # a training part has one type
    with pytest.raises(ValueError, match=r"no method could be run: majority: .*; logistic: .*; knn: "):
        sclm.benchmark.run(two, batch_key="donor", **FAST)


def test_barcodes_are_compared_without_what_stands_around_them(cells: anndata.AnnData, tmp_path: Path) -> None:
    """Names as concatenation leaves them: all differ, though three barcodes stand in two donors."""
    drawn = np.random.default_rng(0).choice(list("ACGT"), (80, 16))
    codes = ["".join(row) for row in drawn]
    assert len(set(codes)) == 80
    donors = cells.obs["donor"].to_numpy()
    pairs = [(0, 4), (1, 5), (2, 6)]  # the next four cells are of another donor
    assert all(donors[a] != donors[b] for a, b in pairs)
    for a, b in pairs:
        codes[b] = codes[a]
    cells.obs_names = [f"{code}-1-{donor[1]}" for code, donor in zip(codes, donors, strict=True)]
    assert cells.obs_names.is_unique
    counts = sclm.cells.read_cells(cells).read().counts
    twins = sclm.benchmark.find_twins(counts, cells.obs_names, bound=None)
    assert (twins.names >= 0).sum() == 0
    found = twins.across(np.isin(donors, ["d1"]))
    assert found[["cell", "twin", "kind"]].to_numpy().tolist() == [[b, a, "barcode"] for a, b in pairs]
    ask: dict[str, Any] = {**FAST, "batch_key": "donor", "n_folds": 4, "near_twins": None}
    left, right = (sclm.benchmark.run(cells, drop_twins=drop, **ask) for drop in (False, True))
    assert left.facts["leaks"] == {"name": 0, "barcode": 6, "counts": 0, "near": 0}
    assert left.facts["n_elsewhere"] == [(20, 60)] * 4
    pd.testing.assert_series_equal(left.per_fold["train_cells"], right.per_fold["train_cells"])  # no reason to drop
    text = sclm.benchmark.write(left, tmp_path)["text"].read_text()
    assert (
        "6 cells have the barcode of a cell in a training part. Equal barcodes of two samples occur by chance" in text
    )
    assert "about 0 such cells with a list of 737,280" in text  # 80 · 60 / 737,280
    assert "They were left in the training parts" not in text


def test_columns_that_determine_the_label_are_hidden(cells: anndata.AnnData, monkeypatch: Any) -> None:
    label = cells.obs["cell_type"].astype(str)
    cells.obs["id"] = label.map({name: i for i, name in enumerate(label.unique())})
    cells.obs["finer"] = label + np.where(np.arange(80) % 2, " a", " b")
    cells.obs["nearly"] = label.where(np.arange(80) > 0, "B cell" if label.iloc[0] != "B cell" else "T cell")
    cells.obs["tissue"] = np.where(np.arange(80) % 3 == 0, "blood", "lung")
    cells.obs["number"] = np.arange(80)
    cells.obs["donor"] = label  # the batch is known to models, whatever it says
    seen: list[set[str]] = []

    from sclm.benchmark import running

    def look(listed: Any, asked: Any, *rest: Any) -> Any:
        seen.append(set(asked.obs.columns))
        raise KeyboardInterrupt

    monkeypatch.setattr(running, "_answered", look)
    with pytest.raises(KeyboardInterrupt):
        sclm.benchmark.run(cells, batch_key="donor", **FAST)
    assert {"nearly", "tissue", "number", "donor"} < seen[0]
    assert not seen[0] & {"id", "finer", "cell_type"}
