"""`tl.describe`: what it writes, that it survives files, and what it refuses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import sclm

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def blood() -> ad.AnnData:
    """Tests must not change it."""
    adata = sclm.datasets.pbmc68k()
    adata.obs = adata.obs[["cell_type"]]
    return adata


@pytest.fixture(scope="module")
def described(blood: ad.AnnData) -> ad.AnnData:
    adata = blood.copy()
    adata.obs["organ"] = "blood"
    sclm.tl.describe(adata, groupby="cell_type", tissue_key="organ")
    return adata


def test_groups_are_described_and_their_cells_carry_the_text(described: ad.AnnData) -> None:
    groups = sclm.get.describe(described, groups=True)
    assert list(groups.index) == list(described.obs["cell_type"].cat.categories)
    assert groups["n_cells"].sum() == described.n_obs
    assert groups.loc["B cell", "identity"] == "B cell"
    assert groups.loc["B cell", "ontology_term_id"] == "CL:0000236"
    assert "CD79A" in groups.loc["B cell", "genes"]
    assert "MHC class II antigen presentation" in groups.loc["dendritic cell", "pathways"]
    texts = sclm.get.describe(described)
    for name in ("B cell", "dendritic cell"):
        use = (described.obs["cell_type"] == name).to_numpy()
        assert set(texts["text"][use]) == {groups.loc[name, "text"]}
    assert groups["text"].str.endswith("the cells come from blood.").all()


def test_terms_stand_in_columns_with_their_verdicts(described: ad.AnnData) -> None:
    obs, groups = described.obs, sclm.get.describe(described, groups=True)
    name = obs["cell_type"].astype(str)
    identity = name.map(groups["identity"].replace("", "unknown"))
    assert (obs["sclm_description_cell_type"].astype(str) == identity).all()
    ids = name.map(groups["ontology_term_id"].replace("", "unknown"))
    assert (obs["sclm_description_cell_type_ontology_term_id"].astype(str) == ids).all()
    assert (obs["sclm_description_cell_type_verdict"].astype(str) == name.map(groups["verdict"])).all()
    assert set(obs["sclm_description_tissue"]) == {"blood"}
    assert set(obs["sclm_description_tissue_verdict"]) == {"kept"}
    assert set(obs["sclm_description_disease"]) == {"unknown"}
    assert set(obs["sclm_description_disease_verdict"]) == {"not stated"}
    assert "MHC class II antigen presentation" in obs.loc[name == "dendritic cell", "sclm_description_pathways"].iloc[0]
    kept = name.map(groups["pathways"])
    assert (obs["sclm_description_pathways"].str.replace(r"(; )?[^;]* \(softened\)", "", regex=True) == kept).all()
    table = sclm.get.describe(described)
    for column in ("cell_type", "cell_type_verdict", "tissue", "pathways"):
        assert (table[column].astype(str) == obs[f"sclm_description_{column}"].astype(str)).all()


def test_numbers_and_missing_labels_are_no_cell_types(blood: ad.AnnData) -> None:
    adata = blood[:40].copy()
    label = ["B cell", "nan", "Unassigned", "", "unknown"] * 8
    adata.obs["label"] = label
    adata.obs["number"] = np.where(np.arange(40) % 2, 3.0, np.nan)
    named = sclm.tl.describe(adata, copy=True)
    labelled = sclm.tl.describe(adata, label_key="label", copy=True)
    blank = np.array([x != "B cell" for x in label])
    pd.testing.assert_frame_equal(
        sclm.get.describe(labelled)[blank], sclm.get.describe(named)[blank], check_categorical=False
    )
    claims = sclm.get.describe_evidence(labelled, kind="identity")
    assert (claims["claim"] == "B cell").sum() >= 8
    numbered = sclm.tl.describe(adata, label_key="number", copy=True)
    odd = np.arange(40) % 2 == 1
    assert (
        numbered.obs["sclm_description"][odd].str.startswith("This cell is labelled 3, which is not verifiable").all()
    )
    assert set(numbered.obs["sclm_description_cell_type"][odd]) == {"unknown"}
    assert set(numbered.obs["sclm_description_cell_type_verdict"][odd]) == {"not verifiable"}
    groups = adata.copy()
    groups.obs["group"] = np.where(np.arange(40) < 20, "1", "2")
    groups.obs["label"] = ["Unassigned"] * 12 + ["B cell"] * 8 + ["Unassigned"] * 20  # most are unlabelled
    sclm.tl.describe(groups, groupby="group", label_key="label")
    stated = sclm.get.describe_evidence(groups, kind="identity").set_index("cell")["claim"]
    assert stated["1"] == "B cell"
    assert "2" in stated
    assert stated["2"] not in ("Unassigned", "B cell")


def test_every_statement_has_its_evidence(described: ad.AnnData) -> None:
    table = sclm.get.describe_evidence(described)
    assert set(table["cell"]) == set(described.obs["cell_type"].cat.categories)
    assert {"identity", "gene", "pathway", "tissue"} <= set(table["kind"])
    assert set(sclm.get.describe_evidence(described, kind="tissue")["verdict"]) == {"kept"}
    assert table["reason"].map(len).min() > 0
    with pytest.raises(ValueError, match="kind must be one of"):
        sclm.get.describe_evidence(described, kind="colour")


def test_cells_are_described_one_by_one_whatever_the_block(blood: ad.AnnData) -> None:
    small = blood[:60].copy()
    whole = sclm.tl.describe(small, label_key="cell_type", copy=True)
    blocks = sclm.tl.describe(small, label_key="cell_type", batch_size=13, copy=True)
    assert "sclm_description" not in small.obs
    pd.testing.assert_frame_equal(sclm.get.describe(whole), sclm.get.describe(blocks))
    assert set(whole.obs["sclm_description_cell_type_verdict"]) <= {
        "kept",
        "softened",
        "removed",
        "not verifiable",
        "not stated",
    }
    stands = whole.obs["sclm_description_cell_type_verdict"].isin(["kept", "softened"])
    assert ((whole.obs["sclm_description_cell_type"] != "unknown") == stands).all()
    a, b = (sclm.get.describe_evidence(x) for x in (whole, blocks))
    pd.testing.assert_frame_equal(
        a.sort_values(["cell", "kind", "claim"], ignore_index=True),
        b.sort_values(["cell", "kind", "claim"], ignore_index=True),
    )
    assert whole.obs["sclm_description"].str.startswith("This cell").all()
    with pytest.raises(KeyError, match="has no groups"):
        sclm.get.describe(whole, groups=True)


@pytest.mark.filterwarnings("ignore:Writing zarr v2 data:UserWarning")  # anndata 0.12 on its own default
def test_results_survive_files(described: ad.AnnData, tmp_path: Path) -> None:
    described.write_h5ad(tmp_path / "a.h5ad")
    described.write_zarr(tmp_path / "a.zarr")
    for back in (ad.read_h5ad(tmp_path / "a.h5ad"), ad.read_zarr(tmp_path / "a.zarr")):
        for groups in (False, True):
            pd.testing.assert_frame_equal(
                sclm.get.describe(back, groups=groups), sclm.get.describe(described, groups=groups), check_dtype=False
            )
        for column in described.obs.columns[described.obs.columns.str.startswith("sclm_description_")]:
            assert isinstance(back.obs[column].dtype, type(described.obs[column].dtype)) or column.endswith("_pathways")
            assert (back.obs[column].astype(str) == described.obs[column].astype(str)).all(), column
        pd.testing.assert_frame_equal(
            sclm.get.describe_evidence(back), sclm.get.describe_evidence(described), check_dtype=False
        )


def test_a_planted_label_and_a_planted_disease_do_not_stand(blood: ad.AnnData) -> None:
    adata = blood.copy()
    adata.obs["wrong"] = adata.obs["cell_type"].map({"B cell": "CD14-positive monocyte"}).astype(object)
    adata.obs["wrong"] = adata.obs["wrong"].where(adata.obs["wrong"].notna(), adata.obs["cell_type"].astype(str))
    adata.obs["group"] = pd.Categorical(adata.obs["cell_type"].astype(str))
    sclm.tl.describe(adata, groupby="group", label_key="wrong")
    groups = sclm.get.describe(adata, groups=True)
    assert groups.loc["B cell", "verdict"] == "removed"
    assert groups.loc["B cell", "identity"] == ""
    assert "which its markers do not support" in groups.loc["B cell", "text"]
    assert (
        not sclm.get.describe_evidence(adata)["kind"].isin(["tissue", "disease"]).any()
    )  # no metadata, nothing is said


def test_cells_in_no_group_get_no_text(blood: ad.AnnData) -> None:
    adata = blood.copy()
    adata.obs["some"] = adata.obs["cell_type"].where(adata.obs["cell_type"].isin(["B cell", "dendritic cell"]))
    sclm.tl.describe(adata, groupby="some", key_added="d")
    none = adata.obs["some"].isna().to_numpy()
    assert (adata.obs["d"][none] == "").all()
    assert adata.obs["d_faithfulness"][none].isna().all()
    assert set(adata.obs["d_cell_type"][none]) == {"unknown"}
    assert set(adata.obs["d_cell_type_verdict"][none]) == {"not stated"}
    assert (adata.obs["d_pathways"][none] == "").all()
    assert len(sclm.get.describe(adata, key="d", groups=True)) == 2


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"groupby": "no"}, KeyError, "no"),
        ({"label_key": "no"}, KeyError, "no"),
        ({"tissue_key": "no"}, KeyError, "no"),
        ({"model": "logistic"}, ValueError, "train it first"),
        ({"model": "marker-lists"}, TypeError, "does not describe cells"),
        ({"gene_sets": "no-such"}, FileNotFoundError, "must be one of"),
        ({"device": "cpu"}, TypeError, "no network to move"),
        ({"key_added": "a/b"}, ValueError, "holds a '/'"),
    ],
)
def test_what_cannot_be_done_is_refused(
    blood: ad.AnnData, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    adata = blood[:50].copy()
    before = list(adata.obs.columns)
    with pytest.raises(error, match=message):
        sclm.tl.describe(adata, options.pop("model", "evidence"), **options)
    assert list(adata.obs.columns) == before
    with pytest.raises(KeyError, match=r"Run sclm\.tl\.describe first"):
        sclm.get.describe(adata)


def test_counts_that_are_none_are_refused(blood: ad.AnnData) -> None:
    adata = blood[:50].copy()
    adata.X = adata.X / np.float32(3)
    with pytest.raises(ValueError, match="raw"):
        sclm.tl.describe(adata)
