"""Predictions of other methods beside ours."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import sclm

if TYPE_CHECKING:
    from pathlib import Path

KEY = "adopted_cell_type"


@pytest.fixture
def labels(query: ad.AnnData) -> np.ndarray:
    """As other people write them: a synonym, a plural, a name that is no term, and nothing."""
    written = {
        "B cell": "B cells",
        "T cell": "T lymphocyte",
        "natural killer cell": "NK",
        "monocyte": "my monocytes of day 3",
    }
    found = query.obs["cell_type"].astype(str).map(written).to_numpy(dtype=object)
    found[0] = None
    return found


def probabilities(query: ad.AnnData) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    values = rng.dirichlet(np.ones(3), size=query.n_obs)
    return pd.DataFrame(values, query.obs_names, ["B cells", "T cells", "B lymphocyte"])


def test_a_column(query: ad.AnnData, labels: np.ndarray, tmp_path: Path) -> None:
    query.obs["theirs"] = labels
    query.obs["score"] = np.linspace(0, 1, query.n_obs)
    sclm.tl.adopt(query, "theirs", "score", source="somebody")
    table = sclm.get.annotate(query, key=KEY)
    assert list(table.columns) == ["cell_type", "ontology_term_id", "confidence"]
    assert table["ontology_term_id"].iloc[0] == "unknown"
    found = dict(zip(labels[1:], zip(table["cell_type"][1:], table["ontology_term_id"][1:], strict=True), strict=True))
    assert found == {
        "B cells": ("B cell", "CL:0000236"), "T lymphocyte": ("T cell", "CL:0000084"), "NK": ("natural killer cell", "CL:0000623"),
        "my monocytes of day 3": ("my monocytes of day 3", "unknown"),
    }  # fmt: skip
    np.testing.assert_array_equal(table["confidence"], query.obs["score"])
    entry = query.uns[KEY]
    assert entry["model"] == {"family": "somebody", "adopted": True}
    assert entry["calibrated"] is False
    for write, read in ((query.write_h5ad, ad.read_h5ad),):
        write(tmp_path / "a.h5ad")
        pd.testing.assert_frame_equal(sclm.get.annotate(read(tmp_path / "a.h5ad"), key=KEY), table)


def test_scores_and_figures_work(query: ad.AnnData, reference: ad.AnnData) -> None:
    """The same predictions through `adopt` score as they do from `annotate`, and are drawn by the same figures."""
    sclm.tl.annotate(query, reference=reference, label_key="cell_type")
    sclm.tl.adopt(query, sclm.get.probabilities(query))
    for column in ("cell_type", "ontology_term_id"):
        assert list(sclm.get.annotate(query, key=KEY)[column]) == list(sclm.get.annotate(query)[column])
    np.testing.assert_allclose(query.obs[f"{KEY}_confidence"], query.obs["sclm_cell_type_confidence"], atol=1e-6)
    np.testing.assert_allclose(sclm.get.probabilities(query, key=KEY), sclm.get.probabilities(query), atol=1e-6)
    query.obsm["X_umap"] = np.random.default_rng(0).normal(size=(query.n_obs, 2))
    sclm.pl.annotate(query, key=KEY)
    sclm.pl.annotate_agreement(query, "cell_type", key=KEY)


def test_soft_predictions(query: ad.AnnData) -> None:
    """scANVI's predict(soft=True): labels of one term are one type, its probabilities their sum."""
    given = probabilities(query)
    sclm.tl.adopt(query, given.sample(frac=1, random_state=0), source="scANVI")  # in another order
    found = sclm.get.probabilities(query, key=KEY)
    assert list(found.columns) == ["B cell", "T cell"]
    np.testing.assert_allclose(found["B cell"], given["B cells"] + given["B lymphocyte"], rtol=1e-5)
    np.testing.assert_allclose(query.obs[f"{KEY}_confidence"], given.max(axis=1), rtol=1e-6)


def test_celltypist(query: ad.AnnData) -> None:
    """The fields of its AnnotationResult; a classifier a type, so that probabilities do not sum to 1 and are not written."""
    matrix = 0.7 * probabilities(query)
    predicted = pd.DataFrame({"predicted_labels": matrix.idxmax(axis=1), "over_clustering": "0"})
    result = SimpleNamespace(predicted_labels=predicted, decision_matrix=matrix, probability_matrix=matrix)
    sclm.tl.adopt(query, result)
    assert query.uns[KEY]["model"]["family"] == "celltypist"
    assert f"{KEY}_probabilities" not in query.obsm
    np.testing.assert_allclose(query.obs[f"{KEY}_confidence"], matrix.max(axis=1))
    assert set(query.obs[KEY]) == {"B cell", "T cell"}
    predicted["majority_voting"] = "NK cells"
    sclm.tl.adopt(query, result)
    assert set(query.obs[KEY]) == {"natural killer cell"}
    with pytest.raises(KeyError, match="has no label set"):
        sclm.get.probabilities(query, key=KEY)


def test_a_later_call_leaves_nothing_of_an_earlier_one(query: ad.AnnData) -> None:
    sclm.tl.adopt(query, probabilities(query))
    assert f"{KEY}_probabilities" in query.obsm
    sclm.tl.adopt(query, ["B cell"] * query.n_obs)
    assert f"{KEY}_probabilities" not in query.obsm
    assert query.obs[f"{KEY}_confidence"].isna().all()


def test_refusals_change_nothing(query: ad.AnnData, labels: np.ndarray) -> None:
    query.obs["theirs"] = labels
    before = query.copy()
    n = query.n_obs
    cases = [
        (("thiers",), {}, KeyError, "predictions='thiers' is no column"),
        (("theirs", "score"), {}, KeyError, "confidence='score' is no column"),
        ((["B cell"] * (n - 1),), {}, ValueError, rf"one value a cell \({n}\)"),
        ((pd.Series("B cell", index=query.obs_names[:-2]),), {}, ValueError, "found 2 missing, first"),
        (("theirs", np.full(n, 1.5)), {}, ValueError, "between 0 and 1, found 1.5 in row 0"),
        (([""] * n,), {}, ValueError, "found none"),
        (("theirs",), {"key_added": "a/b"}, ValueError, "'/'"),
    ]
    for args, options, error, message in cases:
        with pytest.raises(error, match=message):
            sclm.tl.adopt(query, *args, **options)
    pd.testing.assert_frame_equal(query.obs, before.obs)
    assert set(query.uns) == set(before.uns)
    copied = sclm.tl.adopt(query, "theirs", copy=True)
    assert KEY in copied.obs
    assert KEY not in query.obs
