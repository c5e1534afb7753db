"""The contract that every family keeps; a new line in FAMILIES is found by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import sclm
from sclm.cells import read_cells
from sclm.models import FAMILIES
from sclm.models.contract import Annotator

if TYPE_CHECKING:
    from pathlib import Path

    from sclm.models.family import Family


@pytest.fixture(scope="module", params=sorted(FAMILIES))
def model(request: pytest.FixtureRequest, reference: ad.AnnData) -> Family:
    return sclm.train(request.param, reference, label_key="cell_type", seed=1)


def test_save_and_load_give_bitwise_equal_answers(model: Family, query: ad.AnnData, tmp_path: Path) -> None:
    folder = model.save(tmp_path / "model")
    assert {p.name for p in folder.iterdir()} == {"config.json", "model.safetensors", "vocabulary.json", "README.md"}
    again = sclm.load(folder)
    assert type(again) is type(model)
    assert again.config == model.config  # survives JSON
    cells = read_cells(query).read()
    a, b = model.annotate(cells), again.annotate(cells)
    np.testing.assert_array_equal(a.probabilities, b.probabilities)
    pd.testing.assert_frame_equal(a.table, b.table)
    assert again.provenance()["sha256"] == model.provenance()["sha256"]
    assert again.provenance()["checkpoint"] == str(folder)


def test_verbs_keep_index_dtype_and_shape(model: Family, query: ad.AnnData) -> None:
    cells = read_cells(query).read()
    assert isinstance(model, Annotator)
    answer = model.annotate(cells)
    assert list(answer.table.columns) == ["label", "ontology_term_id", "confidence", "novelty"]
    assert answer.table.index.equals(cells.obs.index)
    assert answer.probabilities.dtype == np.float32
    assert answer.probabilities.shape == (120, 4)
    assert list(answer.categories.columns) == ["label", "ontology_term_id"]
    assert not isinstance(answer.table, ad.AnnData)


def test_a_cell_does_not_depend_on_its_batch_mates(model: Family, query: ad.AnnData) -> None:
    source = read_cells(query)
    whole = model.annotate(source.read())
    alone = model.annotate(source.read([17]))
    np.testing.assert_allclose(alone.probabilities[0], whole.probabilities[17], atol=1e-6)
    np.testing.assert_allclose(alone.table["novelty"], whole.table["novelty"].iloc[[17]], atol=1e-6)


def test_gene_order_does_not_matter(model: Family, query: ad.AnnData) -> None:
    order = np.random.default_rng(0).permutation(query.n_vars)
    a = model.annotate(read_cells(query).read()).probabilities
    b = model.annotate(read_cells(query[:, order]).read()).probabilities
    np.testing.assert_allclose(a, b, atol=1e-6)


def test_unknown_genes_change_nothing(model: Family, query: ad.AnnData) -> None:
    wide = ad.concat(
        [
            query,
            ad.AnnData(
                np.full((120, 3), 50, dtype=np.float32), obs=query.obs[[]], var=pd.DataFrame(index=["x1", "x2", "x3"])
            ),
        ],
        axis=1,
    )
    a = model.annotate(read_cells(query).read()).probabilities
    b = model.annotate(read_cells(wide).read()).probabilities
    np.testing.assert_allclose(a, b, atol=1e-6)


def test_same_seed_same_model(model: Family, reference: ad.AnnData) -> None:
    again = sclm.train(model.family, reference, label_key="cell_type", seed=1)
    assert again.config == model.config
    for name, array in model.arrays().items():
        np.testing.assert_array_equal(again.arrays()[name], array)


def test_the_card_holds_metrics_beside_the_majority(model: Family, tmp_path: Path) -> None:
    text = (model.save(tmp_path / "m") / "README.md").read_text()
    for word in ("data", "split", "limits", "held out accuracy", "held out accuracy of the majority type"):
        assert word in text
