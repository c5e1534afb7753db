"""Borders of tissues in an AnnData: groups of every kind, sections, containers, bad inputs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import sclm
from sclm.spatial import find_interface, neighbour_graph

if TYPE_CHECKING:
    from collections.abc import Callable

KEY = "sclm_interface"
COLUMNS = [KEY, *(f"{KEY}_{name}" for name in ("distance", "score", "share"))]


@pytest.fixture(scope="module")
def tissue(tumour_section: Callable[..., ad.AnnData]) -> ad.AnnData:
    """Tests must not change it."""
    return tumour_section()


@pytest.fixture
def section(tissue: ad.AnnData) -> ad.AnnData:
    return tissue.copy()


@pytest.mark.parametrize(
    ("groups", "inside"),
    [
        ("tissue", "tumour"),
        ("fractions", "tumour"),
        ("fractions", ["tumour"]),
        ("tumour_share", None),
        ("is_tumour", True),
    ],
)
def test_every_kind_of_groups_finds_the_edge(section: ad.AnnData, groups: str, inside: object) -> None:
    section.obs["is_tumour"] = (section.obs["tissue"] == "tumour").to_numpy()
    sclm.tl.interface(section, inside, groups=groups)
    table = sclm.get.interface(section)
    tumour = (section.obs["tissue"] == "tumour").to_numpy()
    assert ((table["distance"] < 0) == tumour).mean() > 0.97
    assert list(table["zone"].cat.categories) == ["core", "interface", "outer"]
    assert table["zone"].cat.ordered
    assert all(table[name].dtype == np.float32 for name in ("distance", "score", "share"))
    near = np.abs(table["distance"]) <= 100 * np.sqrt(2) + 1e-3
    assert ((table["zone"] == "interface") == near).all()
    assert (table.loc[table["zone"] == "core", "distance"] < 0).all()
    assert (table.loc[table["zone"] == "outer", "distance"] > 0).all()
    assert table.loc[near, "score"].mean() > 5 * table.loc[~near, "score"].mean()
    entry = section.uns[KEY]
    assert entry["graph"] == "coordinates"
    assert entry["sections"].loc["0", "ring"] == pytest.approx(100 * np.sqrt(2))
    assert len(section.uns[f"{KEY}_colors"]) == 3


def test_the_numbers_are_those_of_the_kernel(section: ad.AnnData) -> None:
    sclm.tl.interface(section, "tumour", groups="fractions", threshold=0.4, n_neighbours=8, min_spots=2)
    place = section.obsm["spatial"]
    share = section.obsm["fractions"]["tumour"].to_numpy()
    wanted = find_interface(place, share, neighbour_graph(place), threshold=0.4, n_neighbours=8, min_spots=2)
    np.testing.assert_allclose(section.obs[f"{KEY}_distance"], wanted.distance, rtol=1e-6)
    np.testing.assert_allclose(section.obs[f"{KEY}_score"], wanted.score, rtol=1e-5, atol=1e-7)


def test_fractions_of_a_map_are_named_by_its_record(section: ad.AnnData) -> None:
    frame = section.obsm["fractions"]
    section.obsm["sclm_cell_type_fraction"] = frame.to_numpy(dtype=np.float32)
    section.uns["sclm_cell_type_fraction"] = {"categories": np.array(frame.columns, dtype=object)}
    sclm.tl.interface(section, "tumour")
    again = sclm.tl.interface(section, "tumour", groups="fractions", copy=True)
    assert (section.obs[KEY] == again.obs[KEY]).all()
    np.testing.assert_allclose(section.obs[f"{KEY}_score"], again.obs[f"{KEY}_score"], atol=1e-5)


def test_two_groups_and_nothing_else(section: ad.AnnData) -> None:
    """Spots of neither group say nothing: the border of tumour and T cells is where the one outweighs the other."""
    sclm.tl.interface(section, "tumour", "T cell", groups="fractions", threshold=0.5)
    frame = section.obsm["fractions"]
    share = (frame["tumour"] / (frame["tumour"] + frame["T cell"])).to_numpy()
    weight = (frame["tumour"] + frame["T cell"]).to_numpy()
    wanted = find_interface(section.obsm["spatial"], share, neighbour_graph(section.obsm["spatial"]), weight=weight)
    np.testing.assert_allclose(section.obs[f"{KEY}_share"], wanted.field, rtol=1e-6)
    assert list(section.uns[KEY]["outside"]) == ["T cell"]


def test_sections_are_treated_on_their_own(tumour_section: Callable[..., ad.AnnData]) -> None:
    one, two = tumour_section(14, seed=1, name="a"), tumour_section(16, seed=2, name="b")
    both = ad.concat([one, two], label="library", keys=["one", "two"])
    both.obsm["fractions"] = pd.concat([one.obsm["fractions"], two.obsm["fractions"]])
    sclm.tl.interface(both, "tumour", groups="fractions", library_key="library")
    for name, alone in (("one", one), ("two", two)):
        sclm.tl.interface(alone, "tumour", groups="fractions")
        part = both[both.obs["library"] == name]
        for column in COLUMNS:
            np.testing.assert_array_equal(part.obs[column].to_numpy(), alone.obs[column].to_numpy())
    assert both.uns[KEY]["sections"]["library"].tolist() == ["one", "two"]
    assert "library" in sclm.get.interface(both)


def test_a_section_without_a_border_is_told(
    tumour_section: Callable[..., ad.AnnData], caplog: pytest.LogCaptureFixture
) -> None:
    one, two = tumour_section(12, seed=1, name="a"), tumour_section(12, seed=2, name="b")
    two.obs["tissue"] = pd.Categorical(["stroma"] * two.n_obs)
    both = ad.concat([one, two], label="library", keys=["one", "two"])
    sclm.tl.interface(both, "tumour", groups="tissue", library_key="library")
    assert both.obs.loc[both.obs["library"] == "two", f"{KEY}_distance"].isna().all()
    assert (both.obs.loc[both.obs["library"] == "two", KEY] == "outer").all()
    assert "Section 'two' has one side only" in caplog.text
    with pytest.raises(ValueError, match=r"there is no border: the smoothed share of 'tumour_share' .* one side"):
        sclm.tl.interface(one, groups="tumour_share", threshold=0.99)


def test_sides_that_hardly_differ_are_told(section: ad.AnnData, caplog: pytest.LogCaptureFixture) -> None:
    section.obs["noise"] = np.random.default_rng(0).uniform(0.4, 0.6, section.n_obs)
    sclm.tl.interface(section, groups="noise")
    assert "sides that hardly differ" in caplog.text
    assert "hardly differ" in section.uns[KEY]["warnings"][0]


def test_the_order_of_spots_does_not_matter(section: ad.AnnData) -> None:
    order = np.random.default_rng(0).permutation(section.n_obs)
    other = section[order].copy()
    for adata in (section, other):
        sclm.tl.interface(adata, "tumour", groups="fractions")
    for column in COLUMNS:
        np.testing.assert_array_equal(section.obs[column].to_numpy()[order], other.obs[column].to_numpy())


def test_squidpy_s_graph_is_used(section: ad.AnnData) -> None:
    wide = neighbour_graph(section.obsm["spatial"], n_neighbours=24)
    section.obsp["spatial_connectivities"] = wide
    sclm.tl.interface(section, "tumour", groups="tissue")
    entry = section.uns[KEY]
    assert entry["graph"] == "squidpy"
    assert entry["sections"].loc["0", "ring"] == 300.0


@pytest.mark.filterwarnings("ignore:Writing zarr v2 data:UserWarning")  # anndata 0.12 on its own default
def test_everything_survives_files(section: ad.AnnData, tmp_path: Path) -> None:
    section.obs["library"] = pd.Categorical(["T/N cell"] * section.n_obs)
    sclm.tl.interface(section, "tumour", groups="fractions", library_key="library", width=150.0)
    section.write_h5ad(tmp_path / "a.h5ad")
    section.write_zarr(tmp_path / "a.zarr")
    for back in (ad.read_h5ad(tmp_path / "a.h5ad"), ad.read_zarr(tmp_path / "a.zarr")):
        pd.testing.assert_frame_equal(
            sclm.get.interface(back), sclm.get.interface(section), check_categorical=False, check_index_type=False
        )
        pd.testing.assert_frame_equal(back.uns[KEY]["sections"], section.uns[KEY]["sections"], check_index_type=False)


def test_a_table_of_a_spatialdata(section: ad.AnnData) -> None:
    spatialdata = pytest.importorskip("spatialdata")
    data = spatialdata.SpatialData(tables={"table": section})
    with pytest.raises(TypeError, match="a SpatialData needs table_key="):
        sclm.tl.interface(data, "tumour", groups="tissue")
    sclm.tl.interface(data, "tumour", groups="tissue", table_key="table")
    assert KEY in data.tables["table"].obs


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"inside": "tumor", "groups": "tissue"}, ValueError, r"inside must name groups of 'stroma', 'tumour'; found \['tumor'\]"),
        ({"inside": None, "groups": "tissue"}, ValueError, "inside must name the groups of the inner tissue, found None"),
        ({"inside": ["tumour", "stroma"], "groups": "tissue"}, ValueError, "names all 2 groups: there is nothing outside"),
        ({"inside": "tumour", "outside": "tumour", "groups": "tissue"}, ValueError, "different groups, found 'tumour' in both"),
        ({"inside": "tumour", "groups": "tumour_share"}, ValueError, "a column with the share of one"),
        ({"groups": "nothing"}, KeyError, r"groups='nothing' is neither a matrix of .obsm nor a column of .obs"),
        ({"groups": "large"}, ValueError, "must hold shares between 0 and 1, found 0 to 3"),
        ({"inside": "tumour", "groups": "unnamed"}, ValueError, "a DataFrame whose columns are groups"),
        ({"inside": "tumour", "groups": "negative"}, ValueError, "fractions of 0 or more, found -1"),
        ({"inside": "tumour", "groups": "empty"}, ValueError, "all rows are missing or zero"),
        ({"inside": "tumour", "groups": "nameless"}, ValueError, "found no label at all"),
        ({"inside": "tumour", "groups": "tissue", "threshold": 1.5}, ValueError, "threshold must lie between 0 and 1"),
        ({"inside": "tumour", "groups": "tissue", "threshold": "high"}, TypeError, "threshold must be a number, found str"),
        ({"inside": "tumour", "groups": "tissue", "width": 0}, ValueError, "width must be a distance above 0"),
        ({"inside": "tumour", "groups": "tissue", "n_neighbours": 2}, ValueError, "n_neighbours must be at least 3, found 2"),
        ({"inside": "tumour", "groups": "tissue", "min_spots": 1.5}, TypeError, "min_spots must be a whole number, found float"),
        ({"inside": "tumour", "groups": "tissue", "library_key": "slide"}, KeyError, "slide"),
        ({"inside": "tumour", "groups": "tissue", "spatial_key": "xy"}, KeyError, "must hold the coordinates"),
        ({"inside": "tumour", "groups": "tissue", "key_added": "a/b"}, ValueError, "'/'"),
        ({"inside": "tumour", "groups": "tissue", "table_key": "t"}, TypeError, "Leave table_key= out"),
    ],
)  # fmt: skip
def test_bad_inputs_are_refused_and_nothing_changes(
    section: ad.AnnData, options: dict[str, object], error: type[Exception], message: str
) -> None:
    section.obs["large"] = np.linspace(0, 3, section.n_obs)
    section.obs["nameless"] = pd.Categorical([None] * section.n_obs, categories=["tumour"])
    section.obsm["unnamed"] = np.ones((section.n_obs, 2))
    section.obsm["negative"] = pd.DataFrame({"tumour": -1.0, "b": 1.0}, index=section.obs_names)
    section.obsm["empty"] = pd.DataFrame({"tumour": 0.0, "b": 0.0}, index=section.obs_names)
    before = section.copy()
    with pytest.raises(error, match=message):
        sclm.tl.interface(section, **options)  # type: ignore[arg-type]
    assert list(section.obs.columns) == list(before.obs.columns)
    assert list(section.uns) == list(before.uns)


def test_other_containers_are_refused() -> None:
    with pytest.raises(TypeError, match="must be an AnnData or a SpatialData, found list"):
        sclm.tl.interface([1, 2], "tumour")  # type: ignore[arg-type]
    alone = ad.AnnData(sparse.csr_matrix(np.ones((1, 2))), obsm={"spatial": np.zeros((1, 2))})
    alone.obs["tissue"] = "tumour"
    with pytest.raises(ValueError, match="found one spot"):
        sclm.tl.interface(alone, "tumour", groups="tissue")
    with pytest.raises(KeyError, match=r"Run sclm\.tl\.interface first"):
        sclm.get.interface(alone)


@pytest.mark.real
def test_invasive_cancer_of_real_sections_has_a_border() -> None:
    folder = Path(os.environ.get("SCLM_REAL_DATA", ""))
    path = folder / "spatial" / "her2st_8sections.h5ad"
    if not os.environ.get("SCLM_REAL_DATA") or not path.is_file():
        pytest.skip("SCLM_REAL_DATA names no folder with her2st_8sections.h5ad")
    sections = ad.read_h5ad(path)
    sections.obs["label"] = pd.Categorical(sections.obs["label"])
    inside = ["invasive cancer", "cancer in situ"]
    sclm.tl.interface(sections, inside, groups="label", library_key="section")
    tumour = sections.obs["label"].isin(inside).to_numpy()
    distance = sections.obs[f"{KEY}_distance"].to_numpy()
    assert ((distance < 0) == tumour).mean() > 0.9
    assert set(sections.uns[KEY]["sections"]["library"]) == set(sections.obs["section"])
