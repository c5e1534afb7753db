"""Cell types on tissue: what is written, that it is right, and that squidpy goes on with it."""

from __future__ import annotations

import logging
import os
import pathlib
import warnings
from typing import TYPE_CHECKING, Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.optimize
from scipy import sparse

import sclm
from sclm.tl._map_spatial_blocks import neighbours_mean
from sclm.tl._map_spatial_colours import PALETTE, type_colours
from sclm.tl._map_spatial_reference import cells_to_write

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from sclm.models.family import Family

KEY = "sclm_cell_type_fraction"
DOMINANT, UNEXPLAINED = "sclm_dominant_cell_type", "sclm_unexplained"


@pytest.fixture(scope="module")
def whole(simulate: Callable[..., ad.AnnData]) -> ad.AnnData:
    """A section mixed from cells that the reference does not hold. Tests must not change it."""
    return sclm.datasets.simulate_section(simulate(400, seed=5), "cell_type", n_spots=90, cells_per_spot=5, seed=1)


@pytest.fixture
def section(whole: ad.AnnData) -> ad.AnnData:
    return whole.copy()


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


# Libraries, graphs, containers --------------------------------------------------------------------------------------


def test_libraries_have_platforms_of_their_own(section: ad.AnnData, reference: ad.AnnData) -> None:
    section.obs["library_id"] = pd.Categorical(np.repeat(["a", "b"], 45))
    sclm.tl.map_spatial(section, reference, label_key="cell_type", library_key="library_id")
    platform = section.uns[KEY]["platform"]
    assert list(platform["libraries"]) == ["a", "b"]
    assert platform["factor"].shape[0] == 2
    truth = truth_of(section, list(section.uns[KEY]["categories"]))
    assert np.corrcoef(truth.ravel(), section.obsm[KEY].ravel())[0, 1] > 0.9


def test_neighbours_mean_leaves_out_spots_without_counts() -> None:
    graph = sparse.csr_matrix(np.array([[0, 1, 1, 0], [1, 0, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]], dtype=np.float32))
    abundance = np.array([[1.0, 2.0], [3.0, 4.0], [np.nan, np.nan], [5.0, 6.0]])
    np.testing.assert_array_equal(neighbours_mean(graph, abundance), [[3, 4], [1, 2], [1, 2], [0, 0]])


def test_smoothing_draws_spots_to_their_neighbours(section: ad.AnnData, reference: ad.AnnData) -> None:
    from sclm.spatial import section_graph

    options = {"label_key": "cell_type", "copy": True}
    found = [sclm.tl.map_spatial(section, reference, smooth=s, **options) for s in (0.0, 0.5)]
    graph = section_graph(None, section.obsm["spatial"])
    distance = [float(np.abs(a.obsm[KEY] - neighbours_mean(graph, a.obsm[KEY].astype(float))).mean()) for a in found]
    assert distance[1] < 0.95 * distance[0]
    assert [a.uns[KEY]["neighbours"] for a in found] == ["none", "coordinates"]
    # squidpy's graph is used where it is there: here one in which nobody has a neighbour.
    section.obsp["spatial_connectivities"] = sparse.csr_matrix((90, 90), dtype=np.float32)
    alone = sclm.tl.map_spatial(section, reference, smooth=0.5, **options)
    np.testing.assert_allclose(alone.obsm[KEY], found[0].obsm[KEY], atol=1e-3)
    assert alone.uns[KEY]["neighbours"] == "squidpy"


def test_a_backed_section_is_read_in_blocks(
    section: ad.AnnData, reference: ad.AnnData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = sclm.tl.map_spatial(section, reference, label_key="cell_type", method="nnls", copy=True)
    section.write_h5ad(tmp_path / "section.h5ad")
    backed = ad.read_h5ad(tmp_path / "section.h5ad", backed="r")
    from sclm.models.deconvolution.nnls import NNLSLook

    seen, original = [], NNLSLook.map

    def watched(self: Any, cells: Any, *, prior: Any = None) -> Any:
        seen.append(cells.n_cells)
        return original(self, cells, prior=prior)

    monkeypatch.setattr(NNLSLook, "map", watched)
    sclm.tl.map_spatial(backed, reference, label_key="cell_type", method="nnls", batch_size=20)
    assert max(seen) <= 20
    assert sum(seen) >= 90
    np.testing.assert_allclose(backed.obsm[KEY], plain.obsm[KEY], atol=1e-6)
    assert KEY not in ad.read_h5ad(tmp_path / "section.h5ad").obsm  # the file is not touched


def test_a_view_and_its_copy(section: ad.AnnData, reference: ad.AnnData) -> None:
    view = section[10:60]
    result = sclm.tl.map_spatial(view, reference, label_key="cell_type", method="nnls", copy=True)
    assert view.is_view
    assert result.obsm[KEY].shape == (50, 4)
    sclm.tl.map_spatial(view, reference, label_key="cell_type", method="nnls")
    np.testing.assert_array_equal(view.obsm[KEY], result.obsm[KEY])
    assert KEY not in section.obsm


@pytest.mark.filterwarnings("ignore")
def test_spatialdata_tables_are_changed_in_place(section: ad.AnnData, reference: ad.AnnData) -> None:
    spatialdata = pytest.importorskip("spatialdata")
    from spatialdata.models import TableModel

    section.obs["region"] = pd.Categorical(["spots"] * 90)
    section.obs["instance"] = np.arange(90)
    table = TableModel.parse(section, region="spots", region_key="region", instance_key="instance")
    data = spatialdata.SpatialData(tables={"table": table})
    with pytest.raises(TypeError, match=r"table_key=.*'table'"):
        sclm.tl.map_spatial(data, reference, label_key="cell_type", method="nnls")
    with pytest.raises(ValueError, match=r"'tabel' is no table.*'table'"):
        sclm.tl.map_spatial(data, reference, label_key="cell_type", method="nnls", table_key="tabel")
    with pytest.raises(TypeError, match="table_key='table' names a table of a SpatialData"):
        sclm.tl.map_spatial(section, reference, label_key="cell_type", table_key="table")
    attributes = dict(data.tables["table"].uns["spatialdata_attrs"])
    copied = sclm.tl.map_spatial(data, reference, label_key="cell_type", method="nnls", table_key="table", copy=True)
    assert isinstance(copied, ad.AnnData)
    assert KEY not in data.tables["table"].obsm
    assert sclm.tl.map_spatial(data, reference, label_key="cell_type", method="nnls", table_key="table") is None
    assert data.tables["table"].obsm[KEY].shape == (90, 4)
    assert dict(data.tables["table"].uns["spatialdata_attrs"]) == attributes
    np.testing.assert_array_equal(copied.obsm[KEY], data.tables["table"].obsm[KEY])


# Going on in squidpy ------------------------------------------------------------------------------------------------


def test_squidpy_runs_on_the_result_unchanged(section: ad.AnnData, reference: ad.AnnData) -> None:
    sclm.tl.map_spatial(section, reference, label_key="cell_type", method="nnls")
    import matplotlib.pyplot as plt

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of squidpy, spatialdata and what they import
        import squidpy as sq

        build = getattr(sq.gr, "spatial_neighbors_knn", None)
        if build is None:
            sq.gr.spatial_neighbors(section, coord_type="generic", n_neighs=6)
        else:
            build(section, n_neighs=6)
        sq.gr.nhood_enrichment(section, cluster_key=DOMINANT, n_perms=20, seed=0, show_progress_bar=False)
        sq.gr.co_occurrence(section, cluster_key=DOMINANT, interval=5)
        sq.pl.spatial_scatter(section, color=DOMINANT, shape=None)
        drawn = {tuple(np.round(c, 3)) for c in plt.gcf().axes[0].collections[0].get_facecolors()}
    plt.close("all")
    n = len(section.obs[DOMINANT].cat.categories)
    assert section.uns[f"{DOMINANT}_nhood_enrichment"]["zscore"].shape == (n, n)
    assert np.isfinite(section.uns[f"{DOMINANT}_nhood_enrichment"]["zscore"]).all()
    assert section.uns[f"{DOMINANT}_co_occurrence"]["occ"].shape[:2] == (n, n)
    import matplotlib as mpl

    assert drawn == {tuple(np.round(mpl.colors.to_rgba(c), 3)) for c in section.uns[f"{DOMINANT}_colors"]}
    # And back: the graph that squidpy made is what smoothing reads.
    alone = sclm.tl.map_spatial(section, reference, label_key="cell_type", resolution="spot", copy=True)
    sclm.tl.map_spatial(section, reference, label_key="cell_type", resolution="spot", smooth=0.3)
    assert section.uns[KEY]["neighbours"] == "squidpy"
    graph = section.obsp["spatial_connectivities"]
    around = [graph[i].nonzero()[1] for i in range(section.n_obs)]

    def roughness(found: ad.AnnData) -> float:
        f = found.obsm[KEY]
        return float(np.mean([np.abs(f[i] - f[js].mean(axis=0)).sum() for i, js in enumerate(around) if len(js)]))

    assert roughness(section) < 0.95 * roughness(alone)


def test_types_without_a_spot_are_no_categories(section: ad.AnnData, reference: ad.AnnData) -> None:
    """squidpy divides by zero for them."""
    few = section[section.obs["cell_type"].astype(str) == str(section.obs["cell_type"].iloc[0])].copy()
    sclm.tl.map_spatial(few, reference, label_key="cell_type", method="nnls")
    counts = few.obs[DOMINANT].value_counts()
    assert (counts > 0).all()
    assert len(counts) < 4
    names = list(few.uns[KEY]["categories"])
    colours = dict(zip(names, few.uns[KEY]["colors"], strict=True))
    assert list(few.uns[f"{DOMINANT}_colors"]) == [colours[c] for c in few.obs[DOMINANT].cat.categories]


def test_colours_differ() -> None:
    assert len(set(PALETTE)) == len(PALETTE) == 30
    assert type_colours(5) == list(PALETTE[:5])
    assert len(set(type_colours(80))) == 80
    assert all(len(c) == 7 and int(c[1:], 16) >= 0 for c in type_colours(80))


@pytest.mark.real
def test_blood_is_not_found_in_a_breast_cancer(caplog: pytest.LogCaptureFixture) -> None:
    """Every gate says so, and the genes in excess are those of the tumour."""
    folder = pathlib.Path(os.environ.get("SCLM_REAL_DATA", "no such folder"))
    if not (folder / "spatial" / "her2st_8sections.h5ad").is_file():
        pytest.skip("SCLM_REAL_DATA holds no spatial/her2st_8sections.h5ad")
    blood = ad.read_h5ad(folder / "scrna" / "pbmc_facs_zheng2017.h5ad")
    breast = ad.read_h5ad(folder / "spatial" / "her2st_8sections.h5ad")
    breast = breast[breast.obs["section"].isin(["A1", "B1"])].copy()
    sclm.tl.map_spatial(breast, blood, label_key=next(c for c in blood.obs if "type" in c), library_key="section")
    gates = breast.uns[KEY]["gates"]
    assert not gates["summary"].set_index("gate").loc[["gene totals", "missing types"], "passed"].any()
    assert {"ERBB2", "MUC1"} <= set(gates["residual_genes"]["gene"])
    assert "another tissue" in caplog.text
