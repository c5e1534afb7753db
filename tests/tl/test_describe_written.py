"""`tl.describe` with a language model: terms in columns, given labels, groups, vectors, files."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import sclm

if TYPE_CHECKING:
    from pathlib import Path

    from sclm.models.cell2text.model import Cell2Text

QUIET = {"progress_bar": False, "accelerator": "cpu"}


@pytest.fixture(scope="module")
def blood() -> ad.AnnData:
    adata = sclm.datasets.pbmc68k()
    adata.obs = adata.obs[["cell_type"]]
    some = ("B cell", "dendritic cell", "CD14-positive monocyte")
    rows = [np.flatnonzero(adata.obs["cell_type"] == name)[:30] for name in some]
    return adata[np.concatenate(rows)].copy()


@pytest.fixture(scope="module")
def model(blood: ad.AnnData) -> Cell2Text:
    train = blood.copy()
    train.obs["tissue"] = np.where(np.arange(train.n_obs) % 2, "blood", "lung")
    return sclm.train(
        "cell2text", train, label_key="cell_type", obs_keys=["tissue"], encoder="geneformer", preset="tiny", epochs=4, seed=0,
        encoder_options={"max_epochs": 1, "width": 16, "layers": 1, **QUIET}, **QUIET,
    )  # fmt: skip


@pytest.fixture(scope="module")
def written(blood: ad.AnnData, model: Cell2Text) -> ad.AnnData:
    return sclm.tl.describe(blood, model, copy=True)


def test_cells_carry_what_stands(written: ad.AnnData, model: Cell2Text, blood: ad.AnnData) -> None:
    table = sclm.get.describe(written)
    said = sclm.get.describe_evidence(written, kind="identity").set_index("cell").reindex(blood.obs_names)
    stands = said["verdict"].isin(["kept", "softened"]).to_numpy()
    assert stands.sum() > 0
    assert (table["cell_type"].astype(str)[stands] == said["claim"][stands]).all()
    assert (table["cell_type_ontology_term_id"].astype(str)[stands] == said["id"][stands]).all()
    assert set(table["cell_type"][~stands]) <= {"unknown"}
    assert (table["cell_type_verdict"].astype(str) == said["verdict"]).all()
    assert set(table["tissue"]) == {"unknown"}  # the data have no metadata that could confirm one
    assert set(table["tissue_verdict"]) == {"not verifiable"}
    assert set(sclm.get.describe_evidence(written, kind="tissue")["claim"]) <= {"blood", "lung"}
    assert set(table["disease_verdict"]) == {"not stated"}


@pytest.mark.filterwarnings("ignore:Writing zarr v2 data:UserWarning")  # anndata 0.12 on its own default
def test_columns_survive_files(written: ad.AnnData, tmp_path: Path) -> None:
    written.write_h5ad(tmp_path / "a.h5ad")
    written.write_zarr(tmp_path / "a.zarr")
    for back in (ad.read_h5ad(tmp_path / "a.h5ad"), ad.read_zarr(tmp_path / "a.zarr")):
        pd.testing.assert_frame_equal(sclm.get.describe(back), sclm.get.describe(written), check_dtype=False)


def test_groups_are_named_by_the_model_or_as_they_are_labelled(blood: ad.AnnData, model: Cell2Text) -> None:
    adata = blood.copy()
    adata.obs["group"] = adata.obs["cell_type"].map(lambda name: "hepatocyte" if name == "B cell" else name).astype(str)
    sclm.tl.describe(
        adata, model, groupby="group"
    )  # a group's name is not told, so one that is no type of the model does no harm
    named = sclm.get.describe_evidence(adata, kind="identity")
    assert len(named)
    assert set(named["claim"]) <= set(model.config.labels)
    sclm.tl.describe(adata, model, groupby="group", label_key="cell_type")
    given = sclm.get.describe_evidence(adata, kind="identity").set_index("cell")["claim"]
    assert given["hepatocyte"] == "B cell"
    assert given["dendritic cell"] == "dendritic cell"
    before = list(adata.obs.columns)
    with pytest.raises(ValueError, match="'hepatocyte'"):
        sclm.tl.describe(adata, model, label_key="group", key_added="other")
    assert list(adata.obs.columns) == before


def test_vectors_are_embedded_as_those_of_encoders(blood: ad.AnnData, model: Cell2Text) -> None:
    adata = blood[:20].copy()
    sclm.tl.embed(adata, model)
    assert adata.obsm["X_sclm_cell2text"].shape == (20, model.config.width)
    assert np.isfinite(adata.obsm["X_sclm_cell2text"]).all()
