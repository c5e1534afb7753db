"""Names in an open vocabulary: candidates, lineages, wide tables of probabilities, models without a reference."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import sclm
from sclm.cells import Cells, GeneVocabulary, read_cells
from sclm.evidence import back_off, consensus
from sclm.models.contract import Annotation

if TYPE_CHECKING:
    from pathlib import Path

    from sclm.knowledge import Ontology

KEY = "sclm_cell_type"


class Wide:
    """Knows all terms; probabilities are drawn by the name of the cell, a few high and a long tail."""

    def __init__(self, ontology: Ontology) -> None:
        ids = sorted(ontology.descendants("CL:0000000"))
        self.categories = pd.DataFrame({"label": [ontology.name_of(i) for i in ids], "ontology_term_id": ids})

    def match(self, genes: pd.Index) -> Any:
        return GeneVocabulary(tuple(map(str, genes))).match(genes)

    def annotate(self, cells: Cells) -> Annotation:
        p = np.stack([self._row(name) for name in cells.obs.index])
        best = p.argmax(axis=1)
        table = self.categories.iloc[best].set_index(cells.obs.index)
        table = table.assign(confidence=p.max(axis=1).astype(float), novelty=0.0)
        return Annotation(table, p, self.categories)

    def _row(self, name: str) -> np.ndarray:
        rng = np.random.default_rng(int(name.removeprefix("cell")))
        weights = rng.random(len(self.categories)) / len(self.categories)
        weights[rng.integers(0, 60, 4)] += rng.random(4) * 0.4
        return (weights / weights.sum()).astype(np.float32)


def test_marker_lists_need_no_reference(tmp_path: Path) -> None:
    adata = sclm.datasets.pbmc68k()[:60].copy()
    sclm.tl.annotate(adata, "marker-lists", under="leukocyte", groupby="cell_type")
    record = adata.uns[KEY]
    assert record["model"]["family"] == "marker-lists"
    assert record["params"]["under"] == "leukocyte"
    assert record["left_out"]["types"] > 0
    ontology = sclm.knowledge.Ontology.load("cl")
    allowed = ontology.descendants("CL:0000738", include_self=True)
    assert set(adata.obs[f"{KEY}_ontology_term_id"]) <= allowed
    assert set(record["category_ontology_term_ids"]) <= allowed
    per_group = adata.obs.groupby("cell_type", observed=True)[KEY].nunique()
    assert (per_group == 1).all()  # one answer a group
    adata.write_h5ad(tmp_path / "a.h5ad")
    again = ad.read_h5ad(tmp_path / "a.h5ad")
    np.testing.assert_array_equal(again.obsm[f"{KEY}_probabilities"], adata.obsm[f"{KEY}_probabilities"])
    assert again.uns[KEY]["left_out"]["types"] == record["left_out"]["types"]
    pd.testing.assert_frame_equal(sclm.get.probabilities(again), sclm.get.probabilities(adata))


def test_candidates_reach_the_model(query: ad.AnnData, reference: ad.AnnData) -> None:
    few = ["B cells", "T cell", "CL:0000623"]
    sclm.tl.annotate(query, "onclass", reference=reference, label_key="cell_type", candidates=few)
    record = query.uns[KEY]
    assert list(record["categories"]) == ["B cell", "T cell", "natural killer cell"]
    assert list(record["params"]["candidates"]) == few
    assert "left_out" not in record
    assert query.obsm[f"{KEY}_probabilities"].shape == (120, 3)


@pytest.mark.parametrize("options", [{"candidates": ["T cell"]}, {"under": "lymphocyte"}])
def test_models_of_a_closed_set_refuse(query: ad.AnnData, reference: ad.AnnData, options: dict) -> None:
    before = query.copy()
    with pytest.raises(TypeError, match=r"'logistic', which does not take it\..*'onclass'"):
        sclm.tl.annotate(query, reference=reference, label_key="cell_type", **options)
    model = sclm.train("majority", reference, label_key="cell_type")
    with pytest.raises(TypeError, match=f"{next(iter(options))}= cannot be given to 'majority'"):
        sclm.tl.annotate(query, model, **options)
    with pytest.raises(TypeError, match="found the text 'T cell'"):
        sclm.tl.annotate(query, "marker-lists", candidates="T cell")
    assert list(query.obs.columns) == list(before.obs.columns)
    assert not query.uns


def test_wide_tables_are_thinned_by_a_rule_that_sees_single_cells(query: ad.AnnData, ontology: Ontology) -> None:
    model = Wide(ontology)
    full = model.annotate(read_cells(query).read()).probabilities
    sclm.tl.annotate(query, model)
    record, p = query.uns[KEY], query.obsm[f"{KEY}_probabilities"]
    kept = full.max(axis=0) >= 0.01
    assert list(record["category_ontology_term_ids"]) == model.categories["ontology_term_id"][kept].tolist()
    np.testing.assert_array_equal(p, np.where(full >= 0.001, full, 0)[:, kept])
    assert record["left_out"]["types"] == (~kept).sum()
    assert record["left_out"]["mean_probability"] == pytest.approx(1 - p.sum(axis=1).mean())
    other = query.copy()
    sclm.tl.annotate(other, model, batch_size=7)
    np.testing.assert_array_equal(other.obsm[f"{KEY}_probabilities"], p)


@pytest.mark.parametrize("threshold", [None, 0.6])
def test_back_off_and_consensus_see_all_probabilities(
    query: ad.AnnData, ontology: Ontology, threshold: float | None
) -> None:
    model = Wide(ontology)
    full = model.annotate(read_cells(query).read()).probabilities
    labels, ids = model.categories["label"].tolist(), model.categories["ontology_term_id"].tolist()
    if threshold is not None:
        sclm.tl.annotate(query, model, min_confidence=threshold, batch_size=50)
        slow = back_off(full.astype(np.float64), labels, ids, ontology, threshold)
        assert query.obs[KEY].tolist() == slow.label.tolist()
        np.testing.assert_allclose(query.obs[f"{KEY}_confidence"], slow.confidence)
    groups = query.obs["donor"].astype(str).to_numpy(dtype=object)
    sclm.tl.annotate(query, model, min_confidence=threshold, groupby="donor", batch_size=50)
    voted = consensus(full, groups, np.ones(120, bool), labels, ids, ontology, threshold)
    assert query.obs[KEY].tolist() == voted["label"].tolist()
    np.testing.assert_allclose(query.obs[f"{KEY}_confidence"], voted["confidence"])
    np.testing.assert_allclose(query.obs[f"{KEY}_vote_fraction"], voted["vote_fraction"])


def test_a_share_of_new_types_is_for_models_that_take_it(query: ad.AnnData, reference: ad.AnnData) -> None:
    with pytest.raises(TypeError, match=r"novel_share= cannot be given to 'onclass'.*do: 'celltosg'"):
        sclm.tl.annotate(query, "onclass", reference=reference, label_key="cell_type", novel_share=0.1)
    for wrong in (1.0, -0.1, True):
        with pytest.raises(ValueError, match=r"novel_share must be a number in \[0, 1\)"):
            sclm.tl.annotate(query, "marker-lists", novel_share=wrong)
    assert not query.uns


def test_counts_of_a_group_are_asked_once(query: ad.AnnData, reference: ad.AnnData) -> None:
    model = sclm.train("logistic", reference, label_key="cell_type")
    groups = query.obs["donor"].astype(object).to_numpy(copy=True)
    groups[5] = np.nan
    query.obs["cluster"] = groups
    sclm.tl.annotate(query, model, groupby="cluster", pseudobulk=True, batch_size=33)
    dense = query.X.toarray() if hasattr(query.X, "toarray") else np.asarray(query.X)
    for name in pd.unique(groups[pd.notna(groups)]):
        mine = groups == name
        total = ad.AnnData(dense[mine].sum(axis=0, keepdims=True).astype(np.float32), var=query.var)
        sclm.tl.annotate(total, model)
        assert set(query.obs[KEY][mine]) == {total.obs[KEY].iloc[0]}
        for column in ("confidence", "novelty"):
            np.testing.assert_allclose(query.obs[f"{KEY}_{column}"][mine], total.obs[f"{KEY}_{column}"].iloc[0])
        np.testing.assert_allclose(
            query.obsm[f"{KEY}_probabilities"][mine],
            np.repeat(total.obsm[f"{KEY}_probabilities"], mine.sum(), axis=0),
            rtol=1e-6,
        )
    assert query.obs[KEY].iloc[5] == "unknown"
    assert query.obs[f"{KEY}_confidence"].iloc[5] == 0
    assert f"{KEY}_vote_fraction" not in query.obs
    with pytest.raises(ValueError, match="found no groupby="):
        sclm.tl.annotate(query, model, pseudobulk=True)
