"""What moved an answer: which cells are explained, how it is written, who refuses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anndata as ad
import pandas as pd
import pytest

import sclm
from sclm.cells import Cells, GeneVocabulary
from sclm.models.contract import Annotation

if TYPE_CHECKING:
    from pathlib import Path

KEY = "sclm_cell_type"


class Telling:
    """Names cells by the label that they carry; the gene after the cell's name has the effect."""

    def __init__(self) -> None:
        self.asked: list[tuple[list[str], int, dict]] = []

    def match(self, genes: pd.Index) -> Any:
        return GeneVocabulary(tuple(map(str, genes))).match(genes)

    def annotate(self, cells: Cells, *, under: str | None = None) -> Annotation:
        odd = [int(name.removeprefix("cell")) % 3 == 0 for name in cells.obs.index]
        labels = ["unknown" if int(n.removeprefix("cell")) == 0 else ("B cell" if o else "T cell")
                  for n, o in zip(cells.obs.index, odd, strict=True)]  # fmt: skip
        table = pd.DataFrame(
            {"label": labels, "ontology_term_id": "unknown", "confidence": 1.0, "novelty": 0.0}, index=cells.obs.index
        )
        return Annotation(table, None, pd.DataFrame({"label": ["B cell", "T cell"], "ontology_term_id": "unknown"}))

    def explain(self, cells: Cells, *, under: str | None = None, seed: int = 0) -> pd.DataFrame:
        self.asked.append((list(cells.obs.index), seed, {"under": under}))
        rows = []
        for i, name in enumerate(cells.obs.index):
            rows += [
                (name, "T cell", "gene", "A/B", 0.5, 1.0),
                (name, "T cell", "top genes", "1 genes", 0.5, 1.0),
                (name, "T cell", "random genes", "1 genes", float("nan"), 2.0 * (i == 0)),
            ]
        return pd.DataFrame(rows, columns=["cell", "answer", "kind", "name", "attention", "effect"])


def test_some_cells_of_each_answer_are_explained(query: ad.AnnData, tmp_path: Path) -> None:
    model = Telling()
    sclm.tl.annotate(query, model, explain=2, under="lymphocyte", seed=3)
    (names, seed, options) = model.asked[0]
    assert len(model.asked) == 1
    assert seed == 3
    assert options == {"under": "lymphocyte"}
    assert query.obs.loc[names, KEY].astype(str).value_counts().to_dict() == {"B cell": 2, "T cell": 2}
    record = query.uns[KEY]
    assert record["params"]["explain"] == 2
    assert record["faithfulness"]["genes"] == {"shown": 1.0, "random": 0.5, "share": 0.75, "cells": 4}
    assert "nodes" not in record["faithfulness"]
    table = sclm.get.annotate_explanation(query)
    assert len(table) == 12
    assert table["cell"].drop_duplicates().tolist() == names
    query.write_h5ad(tmp_path / "a.h5ad")
    again = ad.read_h5ad(tmp_path / "a.h5ad")
    pd.testing.assert_frame_equal(sclm.get.annotate_explanation(again), table, check_dtype=False)
    other = query.copy()
    sclm.tl.annotate(other, model, explain=2, under="lymphocyte", seed=3, batch_size=7)
    assert model.asked[1] == model.asked[0]


def test_nothing_is_explained_unless_it_is_asked_for(query: ad.AnnData) -> None:
    model = Telling()
    sclm.tl.annotate(query, model)
    assert not model.asked
    with pytest.raises(KeyError, match="explain=3"):
        sclm.get.annotate_explanation(query)


def test_who_cannot_explain_says_so(query: ad.AnnData, reference: ad.AnnData) -> None:
    with pytest.raises(TypeError, match=r"'logistic', which does not say.*'celltosg'"):
        sclm.tl.annotate(query, reference=reference, label_key="cell_type", explain=1)
    with pytest.raises(ValueError, match="found -1"):
        sclm.tl.annotate(query, reference=reference, label_key="cell_type", explain=-1)
    with pytest.raises(ValueError, match="found True"):
        sclm.tl.annotate(query, Telling(), explain=True)
    assert not query.uns
