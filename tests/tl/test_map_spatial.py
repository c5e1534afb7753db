"""Cell types on tissue: what is written, and that it is right, whichever way the reference is named."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.optimize
from scipy import sparse

import sclm
from sclm.tl._map_spatial_reference import cells_to_write

if TYPE_CHECKING:
    from pathlib import Path

    from sclm.models.family import Family

KEY = "sclm_cell_type_fraction"
DOMINANT, UNEXPLAINED = "sclm_dominant_cell_type", "sclm_unexplained"


def truth_of(section: ad.AnnData, categories: list[str]) -> np.ndarray:
    names = list(map(str, section.uns["simulation"]["categories"]))
    return section.obsm["fraction"][:, [names.index(name) for name in categories]]


# What is written ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["nnls", "deconvolution"])
def test_writes_the_contract(section: ad.AnnData, reference: ad.AnnData, method: str) -> None:
    counts = section.X.copy()
    assert sclm.tl.map_spatial(section, reference, label_key="cell_type", method=method) is None
    for name in (KEY, f"{KEY}_cells", f"{KEY}_se"):
        assert section.obsm[name].dtype == np.float32
        assert section.obsm[name].shape == (90, 4)
    for name in (KEY, f"{KEY}_cells"):
        np.testing.assert_allclose(section.obsm[name].sum(axis=1), 1, atol=1e-5)
    assert (section.obsm[f"{KEY}_se"] >= 0).all()
    record = section.uns[KEY]
    assert record["tool"] == "map_spatial"
    assert record["model"]["family"] == method
    assert list(record["categories"]) == sorted(reference.obs["cell_type"].unique())
    assert record["reference"]["kind"] == "real cells"
    assert record["reference"]["types"]["n_cells"].tolist() == [100] * 4
    assert record["platform"]["factor"].shape == (1, len(record["platform"]["genes"]))
    labels = section.obs[DOMINANT]
    expected = np.array(record["categories"])[section.obsm[KEY].argmax(axis=1)]
    assert (labels.astype(str).to_numpy() == expected).all()
    there = [name for name in record["categories"] if name in set(expected)]
    assert list(labels.cat.categories) == there
    assert len(section.uns[f"{DOMINANT}_colors"]) == len(there)
    assert section.obs[UNEXPLAINED].dtype == np.float32
    assert section.obs[UNEXPLAINED].between(0, 1).all()
    assert (counts != section.X).nnz == 0


@pytest.mark.parametrize("method", ["nnls", "deconvolution"])
def test_finds_the_known_fractions(section: ad.AnnData, reference: ad.AnnData, method: str) -> None:
    sclm.tl.map_spatial(section, reference, label_key="cell_type", method=method)
    truth = truth_of(section, list(section.uns[KEY]["categories"]))
    for k in range(4):
        assert np.corrcoef(truth[:, k], section.obsm[KEY][:, k])[0, 1] > 0.9
    assert section.uns[KEY]["gates"]["summary"]["passed"].all(), section.uns[KEY]["warnings"]
    assert len(section.uns[KEY]["warnings"]) == 0


def test_nnls_agrees_with_scipy(section: ad.AnnData, reference: ad.AnnData) -> None:
    """Mean share of counts a type, times the mean counts a cell, solved spot by spot."""
    sclm.tl.map_spatial(section, reference, label_key="cell_type", method="nnls")
    used = [list(section.var_names).index(g) for g in section.uns[KEY]["platform"]["genes"]]
    x = reference.X.toarray().astype(float)
    types = reference.obs["cell_type"].astype(str).to_numpy()
    names = list(section.uns[KEY]["categories"])
    share = np.stack([(x / x.sum(1, keepdims=True))[types == t].mean(0)[used] for t in names])
    covered = share.sum(axis=1, keepdims=True)
    depth = np.array([x[types == t].sum(1).mean() for t in names])[:, None] * covered
    signature = share / covered * depth
    y = section.X.toarray().astype(float)[:, used]
    found = np.stack([scipy.optimize.nnls(signature.T, row)[0] for row in y]) * depth.ravel()
    np.testing.assert_allclose(section.obsm[KEY], found / found.sum(1, keepdims=True), atol=2e-4)


def test_the_order_of_genes_and_the_size_of_blocks_change_nothing(section: ad.AnnData, reference: ad.AnnData) -> None:
    options = {"label_key": "cell_type", "method": "nnls", "copy": True}
    plain = sclm.tl.map_spatial(section, reference, **options)
    assert KEY not in section.obsm
    turned = sclm.tl.map_spatial(section[:, ::-1].copy(), reference[:, np.r_[60:120, 0:60]].copy(), **options)
    blocks = sclm.tl.map_spatial(section, reference, batch_size=7, **options)
    for other in (turned, blocks):
        np.testing.assert_allclose(other.obsm[KEY], plain.obsm[KEY], atol=1e-5)
        pd.testing.assert_series_equal(other.obs[DOMINANT], plain.obs[DOMINANT])
    for gate in ("summary", "markers"):
        pd.testing.assert_frame_equal(blocks.uns[KEY]["gates"][gate], plain.uns[KEY]["gates"][gate])


def test_another_key_names_everything(section: ad.AnnData, reference: ad.AnnData) -> None:
    before = set(section.obs.columns)
    sclm.tl.map_spatial(section, reference, label_key="cell_type", method="nnls", key_added="mine")
    assert set(section.obs.columns) - before == {"mine_dominant", "mine_unexplained"}
    assert {"mine", "mine_cells", "mine_se"} <= set(section.obsm)
    assert {"mine", "mine_dominant_colors"} <= set(section.uns)
    assert DOMINANT not in section.obs
    assert len(sclm.get.map_spatial(section, key="mine")) == 90 * 4


@pytest.mark.filterwarnings("ignore:Writing zarr v2 data:UserWarning")  # anndata 0.12 on its own default
@pytest.mark.parametrize("suffix", ["h5ad", "zarr"])
def test_everything_survives_writing(section: ad.AnnData, reference: ad.AnnData, tmp_path: Path, suffix: str) -> None:
    odd = reference.copy()
    odd.obs["label"] = odd.obs["cell_type"].astype(str).replace({"T cell": "T/NK ζ-Zelle"})
    x = section.X.tolil()
    x[4] = 0
    section.X = x.tocsr()
    sclm.tl.map_spatial(section, odd, label_key="label", method="nnls")
    path = tmp_path / f"section.{suffix}"
    if suffix == "h5ad":
        section.write_h5ad(path)
        back = ad.read_h5ad(path)
    else:
        section.write_zarr(path)
        back = ad.read_zarr(path)
    for name in (KEY, f"{KEY}_cells", f"{KEY}_se"):
        np.testing.assert_array_equal(back.obsm[name], section.obsm[name])
        assert np.isnan(back.obsm[name][4]).all()
    assert back.obs[DOMINANT].astype(str).tolist() == section.obs[DOMINANT].astype(str).tolist()
    assert back.obs[DOMINANT].isna().tolist() == section.obs[DOMINANT].isna().tolist()
    assert_same(back.uns[KEY], section.uns[KEY])
    assert list(back.uns[f"{DOMINANT}_colors"]) == list(section.uns[f"{DOMINANT}_colors"])
    pd.testing.assert_frame_equal(
        sclm.get.map_spatial(back), sclm.get.map_spatial(section), check_dtype=False, check_categorical=False
    )
    sclm.pl.map_spatial(back)


def assert_same(found: Any, expected: Any) -> None:
    if isinstance(expected, dict):
        assert set(found) == set(expected)
        for name in expected:
            assert_same(found[name], expected[name])
    elif isinstance(expected, pd.DataFrame):
        assert list(found.columns) == list(expected.columns)
        for name in expected:
            assert_same(found[name].to_numpy(), expected[name].to_numpy())
    elif isinstance(expected, np.ndarray) and expected.dtype.kind in "OU":
        assert list(map(str, found)) == list(map(str, expected))
    else:
        np.testing.assert_array_equal(found, expected)


def test_logs_one_line_of_what_was_written(
    section: ad.AnnData, reference: ad.AnnData, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="sclm"):
        sclm.tl.map_spatial(section, reference, label_key="cell_type", method="nnls")
    written = [r.getMessage() for r in caplog.records if "wrote" in r.getMessage()]
    assert len(written) == 1
    assert KEY in written[0]
    assert DOMINANT in written[0]


@pytest.mark.parametrize("resolution", ["spot", "cell"])
def test_a_type_that_the_reference_lacks_is_noticed(
    section: ad.AnnData, reference: ad.AnnData, caplog: pytest.LogCaptureFixture, resolution: str
) -> None:
    """The markers of each type are ten genes of their own."""
    lacking = reference[reference.obs["cell_type"].astype(str) != "monocyte"].copy()
    sclm.tl.map_spatial(section, lacking, label_key="cell_type", resolution=resolution)
    genes = section.uns[KEY]["gates"]["residual_genes"]["gene"].tolist()
    assert set(genes[:5]) <= set(reference.var_names[30:40])
    if resolution == "spot":
        assert "a cell type may be missing from the reference" in caplog.text
        assert genes[0] in caplog.text
        assert not section.uns[KEY]["gates"]["summary"].set_index("gate").loc["missing types", "passed"]


# Ways to name a reference -------------------------------------------------------------------------------------------


def test_a_trained_mapper_gives_the_same_map(section: ad.AnnData, reference: ad.AnnData, tmp_path: Path) -> None:
    plain = sclm.tl.map_spatial(section, reference, label_key="cell_type", method="nnls", copy=True)
    model = sclm.train("nnls", reference, label_key="cell_type")
    model.save(tmp_path / "mapper")
    for given in (model, tmp_path / "mapper", str(tmp_path / "mapper")):
        found = sclm.tl.map_spatial(section, model=given, copy=True)
        np.testing.assert_array_equal(found.obsm[KEY], plain.obsm[KEY])
        assert found.uns[KEY]["reference"]["kind"] == "trained mapper"
        assert found.uns[KEY]["model"]["sha256"] == plain.uns[KEY]["model"]["sha256"]


@pytest.mark.filterwarnings("ignore:Writing zarr v2 data:UserWarning")
def test_a_generated_reference(section: ad.AnnData, pgl: Family, cohort: ad.AnnData, tmp_path: Path) -> None:
    """The generator knows 60 genes and four types, of which three were asked for."""
    asked = ["B cell", "monocyte", "CD8-positive, alpha-beta T cell"]
    request = sclm.request(cell_type=asked)
    sclm.tl.map_spatial(section, request=request, model=pgl, method="nnls", n_cells_per_type=30, seed=3)
    record = section.uns[KEY]
    assert list(record["categories"]) == sorted(asked)
    facts = record["reference"]
    assert facts["kind"] == "generated cells"
    assert facts["n_cells"] == 90
    assert facts["types"]["n_cells"].tolist() == [30, 30, 30]
    assert facts["seed"] == 3
    assert facts["generator"]["family"] == "pgl"
    assert facts["generator"]["sha256"] == pgl.provenance()["sha256"]
    assert facts["request"]["n_cells"].tolist() == [30, 30, 30]
    assert 0 <= facts["implausible"] <= 1
    assert set(facts["implausible_by_type"]["cell_type"]) == set(asked)
    assert "shift" not in record["params"]  # least squares has no platform factors
    section.write_h5ad(tmp_path / "section.h5ad")
    section.write_zarr(tmp_path / "section.zarr")
    for back in (ad.read_h5ad(tmp_path / "section.h5ad"), ad.read_zarr(tmp_path / "section.zarr")):
        assert_same(back.uns[KEY], record)
    # Without cell types in the request, all that the generator knows of resting cells.
    some = sclm.tl.map_spatial(
        section, request=pd.DataFrame({"condition": ["rest"]}), model=pgl, method="nnls", n_cells_per_type=15, copy=True
    )
    assert list(some.uns[KEY]["categories"]) == sorted(cohort.obs["cell_type"].astype(str).unique())
    # The same by hand.
    cells = sclm.tl.generate(cells_to_write(request, pgl, "cell_type", 30)[0], pgl, seed=3)
    by_hand = section.copy()
    sclm.tl.map_spatial(by_hand, cells, label_key="cell_type", method="nnls", seed=3, key_added="hand")
    np.testing.assert_array_equal(by_hand.obsm["hand"], section.obsm[KEY])
    # The count model corrects the platform more strongly than for real cells.
    strong = sclm.tl.map_spatial(
        section, request=request, model=pgl, n_cells_per_type=30, resolution="spot", seed=3, copy=True
    )
    assert strong.uns[KEY]["params"]["shift"] == 1.0
    factor = strong.uns[KEY]["platform"]["factor"]
    assert np.log(factor).std() > 0.05


def test_types_of_a_generated_reference_come_from_what_the_generator_knows(pgl: Family, cohort: ad.AnnData) -> None:
    for condition in ("rest", "stimulated"):
        asked, notes = cells_to_write(pd.DataFrame({"condition": [condition] * 3}), pgl, "cell_type", 10)
        there = cohort.obs.loc[cohort.obs["condition"] == condition, "cell_type"].astype(str).unique()
        assert asked["cell_type"].astype(str).value_counts().to_dict() == dict.fromkeys(there, 10)
        assert (asked["condition"].astype(str) == condition).all()
        assert notes == []
    # B cells were never stimulated; asked for by name they are written all the same, for the rows that ask for them.
    table = pd.DataFrame(
        {
            "cell_type": ["B cell", "B cell", "monocyte", "unknown"],
            "condition": ["rest", "stimulated", "rest", "stimulated"],
        }
    )
    asked, _ = cells_to_write(table, pgl, "cell_type", 10)
    counts = asked.astype(str).groupby(["cell_type", "condition"]).size().to_dict()
    assert counts["B cell", "rest"] == counts["B cell", "stimulated"] == 5
    assert counts["monocyte", "rest"] == counts["monocyte", "stimulated"] == 5
    assert asked["cell_type"].nunique() == 4


def test_a_combination_that_no_training_cell_has_falls_back_to_one_field(pgl: Family, cohort: ad.AnnData) -> None:
    class Conditions:
        names = ("cell_type", "tissue", "disease")
        fields = tuple(
            type("Field", (), {"values": values})
            for values in (("B cell", "T cell", "podocyte"), ("blood", "kidney"), ("lupus", "normal"))
        )
        combinations = np.array([[0, 0, 0], [1, 0, 0], [2, 1, 1], [1, 1, 1]])

        @staticmethod
        def resolve(request: pd.DataFrame) -> Any:
            kinds = (sparse.csr_matrix((1, 3)), sparse.csr_matrix([[0.0, 1.0]]), sparse.csr_matrix([[1.0, 0.0]]))
            return type("Resolved", (), {"kinds": kinds, "combination": np.zeros(len(request), dtype=int)})

    generator = type("Generator", (), {"conditions": Conditions})
    asked, notes = cells_to_write(pd.DataFrame({"tissue": ["kidney"], "disease": ["lupus"]}), generator, "cell_type", 2)
    assert sorted(asked["cell_type"].unique()) == ["T cell", "podocyte"]
    assert "tissue alone" in notes[0]


def test_genes_are_named_as_in_the_section(section: ad.AnnData, reference: ad.AnnData) -> None:
    from sclm.knowledge import GeneIdentifiers

    ids = reference.copy()
    symbols = list(map(str, reference.var_names))
    found = GeneIdentifiers.load("human").to_ensembl(symbols)
    ids.var["id"] = [i or s for i, s in zip(found, symbols, strict=True)]
    plain = sclm.tl.map_spatial(section, reference, label_key="cell_type", method="nnls", copy=True)
    sclm.tl.map_spatial(section, ids, label_key="cell_type", method="nnls", reference_gene_key="id")
    np.testing.assert_allclose(section.obsm[KEY], plain.obsm[KEY], atol=1e-5)
    assert list(section.uns[KEY]["platform"]["genes"]) == list(plain.uns[KEY]["platform"]["genes"])
    pd.testing.assert_frame_equal(section.uns[KEY]["gates"]["markers"], plain.uns[KEY]["gates"]["markers"])


def test_several_references_are_joined_in_the_genes_that_all_have(section: ad.AnnData, reference: ad.AnnData) -> None:
    first, second = reference[:200, :100].copy(), reference[200:, 20:].copy()
    sclm.tl.map_spatial(section, [first, second], label_key="cell_type", method="nnls")
    by_hand = section.copy()
    joined = ad.concat([first, second], join="inner")
    sclm.tl.map_spatial(by_hand, joined, label_key="cell_type", method="nnls", key_added="hand")
    np.testing.assert_allclose(section.obsm[KEY], by_hand.obsm["hand"], atol=1e-6)
    assert section.uns[KEY]["reference"]["n_genes"] == 80
