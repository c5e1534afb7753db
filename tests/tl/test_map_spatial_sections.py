"""Cell types on tissue: libraries, graphs, containers, and what squidpy does with the result."""

from __future__ import annotations

import os
import pathlib
import warnings
from typing import TYPE_CHECKING, Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import sclm
from sclm.spatial.colours import PALETTE, type_colours
from sclm.tl._map_spatial_blocks import neighbours_mean

if TYPE_CHECKING:
    from pathlib import Path


KEY = "sclm_cell_type_fraction"
DOMINANT, UNEXPLAINED = "sclm_dominant_cell_type", "sclm_unexplained"


# Libraries, graphs, containers --------------------------------------------------------------------------------------


def test_libraries_have_platforms_of_their_own(section: ad.AnnData, reference: ad.AnnData) -> None:
    section.obs["library_id"] = pd.Categorical(np.repeat(["a", "b"], 45))
    sclm.tl.map_spatial(section, reference, label_key="cell_type", library_key="library_id")
    platform = section.uns[KEY]["platform"]
    assert list(platform["libraries"]) == ["a", "b"]
    assert platform["factor"].shape[0] == 2
    names = list(map(str, section.uns["simulation"]["categories"]))
    truth = section.obsm["fraction"][:, [names.index(name) for name in section.uns[KEY]["categories"]]]
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
