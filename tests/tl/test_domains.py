"""`tl.domains` and `tl.embed` of spots: known domains, orders, sections, containers, bad inputs."""

from __future__ import annotations

import hashlib
import os
import pathlib
import warnings
from typing import TYPE_CHECKING, Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from sklearn.metrics import adjusted_rand_score

import sclm

if TYPE_CHECKING:
    from collections.abc import Callable

KEY = "sclm_domain"


@pytest.fixture(scope="module")
def whole(simulate: Callable[..., ad.AnnData]) -> ad.AnnData:
    """Four quarters of a hexagonal grid, each of one type's cells with strays of the others. Tests must not change it."""
    cells = simulate(800, seed=5, strength=3.0, depth=0.4)
    rng = np.random.default_rng(0)
    grid = np.array([[x + 0.5 * (y % 2), y * 0.866] for y in range(24) for x in range(20)])
    quarter = (grid[:, 0] > 10).astype(int) * 2 + (grid[:, 1] > 24 * 0.433).astype(int)
    types = np.array(sorted(set(cells.obs["cell_type"])), dtype=object)
    wanted = np.where(rng.random(len(grid)) < 0.3, rng.integers(0, 4, len(grid)), quarter)
    rows = [rng.choice(np.flatnonzero(cells.obs["cell_type"] == types[k])) for k in wanted]
    obs = pd.DataFrame(
        {"truth": pd.Categorical(types[quarter])}, index=np.array([f"spot{i}" for i in range(len(grid))], dtype=object)
    )
    return ad.AnnData(sparse.csr_matrix(cells.X[rows]), obs=obs, var=cells.var.copy(), obsm={"spatial": grid})


@pytest.fixture
def section(whole: ad.AnnData) -> ad.AnnData:
    return whole.copy()


def agreement(adata: ad.AnnData, key: str = KEY) -> float:
    return float(adjusted_rand_score(adata.obs["truth"].astype(str), adata.obs[key].astype(str)))


def fast(**settings: Any) -> Any:
    """A graph network that trains in a second."""
    return sclm.models.family_class("graphst").ready(max_epochs=60, **settings)


# Known domains ------------------------------------------------------------------------------------------------------


def test_quarters_are_found_where_single_spots_do_not_tell(section: ad.AnnData) -> None:
    assert sclm.tl.domains(section, n_domains=4) is None
    plain = sclm.models.family_class("hop-mean").ready(n_hops=0)
    sclm.tl.domains(section, plain, n_domains=4, key_added="plain")
    assert agreement(section) > 0.85
    assert agreement(section, "plain") < 0.6
    entry = section.uns[KEY]
    assert entry["model"]["family"] == "hop-mean"
    assert entry["n_domains"] == 4
    assert entry["chosen"] == "given"
    assert entry["sizes"].sum() == 480
    assert entry["n_refined"] == 0
    table = sclm.get.domains(section)
    assert list(table.columns) == ["domain", "entropy"]
    assert table["domain"].cat.categories.tolist() == ["0", "1", "2", "3"]
    assert (np.diff(table["domain"].value_counts().reindex(list("0123"))) <= 0).all()
    assert table["entropy"].between(0, 1).all()
    # Entropy is highest where quarters meet.
    border = np.abs(section.obsm["spatial"] - [10, 24 * 0.433]).min(axis=1) < 1.5
    assert table["entropy"][border].mean() > 3 * table["entropy"][~border].mean()


@pytest.mark.parametrize("attention", [False, True])
def test_the_graph_network_finds_quarters(section: ad.AnnData, attention: bool) -> None:
    sclm.tl.domains(section, fast(attention=attention), n_domains=4)
    assert agreement(section) > 0.6
    assert section.uns[KEY]["model"]["settings"]["attention"] is attention


def test_the_number_is_chosen_by_stability(section: ad.AnnData) -> None:
    sclm.tl.domains(section, seed=1)
    entry = section.uns[KEY]
    assert entry["chosen"] == "stability"
    assert entry["n_domains"] == 4
    table = sclm.get.domains_stability(section)
    assert table["n_domains"].tolist() == list(range(2, 16))
    sclm.tl.domains(section, n_domains=3)
    with pytest.raises(KeyError, match="n_domains=3 was given"):
        sclm.get.domains_stability(section)


def test_refinement_mends_labels_of_single_spots(section: ad.AnnData) -> None:
    plain = sclm.models.family_class("hop-mean").ready(n_hops=0)
    sclm.tl.domains(section, plain, n_domains=4, key_added="plain")
    sclm.tl.domains(section, plain, n_domains=4, refine=0.0, key_added="refined")
    assert section.uns["refined"]["n_refined"] > 30
    assert agreement(section, "refined") > agreement(section, "plain") + 0.1


# Orders, sections, containers ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["hop-mean", "graphst"])
def test_the_order_of_spots_and_genes_does_not_matter(section: ad.AnnData, model: str) -> None:
    named: Any = fast() if model == "graphst" else model
    sclm.tl.domains(section, named, n_domains=4)
    rng = np.random.default_rng(0)
    turned = section[rng.permutation(480)].copy()
    del turned.obs, turned.obsp
    turned = ad.AnnData(turned.X, obs=turned.obs[[]], var=turned.var, obsm={"spatial": turned.obsm["spatial"]})
    sclm.tl.domains(turned, named, n_domains=4)
    back = turned.obs[KEY].reindex(section.obs_names)
    assert (back.astype(str) == section.obs[KEY].astype(str)).all()
    columns = ad.AnnData(
        section.X[:, ::-1].copy(),
        obs=section.obs[[]],
        var=section.var.iloc[::-1],
        obsm={"spatial": section.obsm["spatial"]},
    )
    sclm.tl.domains(columns, named, n_domains=4, batch_size=64)
    assert adjusted_rand_score(columns.obs[KEY].astype(str), section.obs[KEY].astype(str)) > 0.99


def test_several_sections_share_their_domains(section: ad.AnnData) -> None:
    """The second section counts a third of the genes three times as often, and lies on the same coordinates."""
    other = section.copy()
    counts = other.X.toarray()
    counts[:, ::3] *= 3
    other.X = sparse.csr_matrix(counts)
    both = ad.concat([section, other], keys=["a", "b"], label="library", index_unique="-")
    both.obs["library_id"] = both.obs["library"]
    with pytest.raises(ValueError, match=r"2 sections.*library_key='library_id'"):
        sclm.tl.domains(both, n_domains=4)
    sclm.tl.domains(both, n_domains=4, library_key="library")
    assert agreement(both) > 0.85
    first, second = (both.obs[KEY][both.obs["library"] == name].astype(str).to_numpy() for name in "ab")
    assert (first == second).mean() > 0.9
    table = sclm.get.domains(both)
    assert set(table["library"]) == {"a", "b"}
    graph = both.obsp["spatial_connectivities"]
    assert graph[:480][:, 480:].nnz == 0


def test_vectors_that_are_there_need_no_counts(section: ad.AnnData) -> None:
    sclm.tl.embed(section, "hop-mean")
    assert section.obsm["X_sclm_hop-mean"].shape == (480, 80)
    sclm.tl.domains(section, n_domains=4, key_added="direct")
    section.X = sparse.csr_matrix(section.X.log1p())
    sclm.tl.domains(section, use_rep="X_sclm_hop-mean", n_domains=4)
    np.testing.assert_array_equal(section.obs[KEY], section.obs["direct"])
    assert section.uns[KEY]["model"]["family"] == "none"
    section.obsm["sparse"] = sparse.csr_matrix(section.obsm["X_sclm_hop-mean"])
    sclm.tl.domains(section, use_rep="sparse", n_domains=4, key_added="of_sparse")
    assert agreement(section, "of_sparse") == pytest.approx(agreement(section), abs=0.05)
    section.obsm["X_sclm_hop-mean"][[3, 8]] = np.nan
    sclm.tl.domains(section, use_rep="X_sclm_hop-mean", n_domains=4)
    assert np.flatnonzero(section.obs[KEY].isna()).tolist() == [3, 8]
    assert np.flatnonzero(section.obs[f"{KEY}_entropy"].isna()).tolist() == [3, 8]
    with pytest.raises(KeyError, match=r"use_rep='X_no' is not in \.obsm.*'X_sclm_hop-mean'"):
        sclm.tl.domains(section, use_rep="X_no")
    with pytest.raises(ValueError, match="Pass one of them"):
        sclm.tl.domains(section, "hop-mean", use_rep="X_sclm_hop-mean")


def test_embed_of_spots_writes_vectors_and_a_record(section: ad.AnnData) -> None:
    out = sclm.tl.embed(section, fast(width=16), seed=3, copy=True)
    assert "X_sclm_graphst" not in section.obsm
    assert out.obsm["X_sclm_graphst"].dtype == np.float32
    assert out.obsm["X_sclm_graphst"].shape == (480, 16)
    entry = out.uns["X_sclm_graphst"]
    assert entry["tool"] == "embed"
    assert entry["seed"] == 3
    assert entry["neighbours"] == "coordinates"
    assert entry["domain_hops"] == 2  # and domains of these vectors are those of the model
    sclm.tl.domains(out, use_rep="X_sclm_graphst", n_domains=4, seed=3)
    sclm.tl.domains(out, fast(width=16), n_domains=4, seed=3, key_added="direct")
    np.testing.assert_array_equal(out.obs[KEY], out.obs["direct"])
    assert entry["params"]["spatial_key"] == "spatial"
    assert sclm.get.embed(out, key="X_sclm_graphst").shape == (480, 16)
    again = sclm.tl.embed(out, fast(width=16), seed=3, copy=True)
    assert again.uns["X_sclm_graphst"]["neighbours"] == "squidpy"  # what the first call wrote
    np.testing.assert_array_equal(again.obsm["X_sclm_graphst"], out.obsm["X_sclm_graphst"])
    with pytest.raises(TypeError, match=r"'hop-mean' has no use for pooling='cls'"):
        sclm.tl.embed(section, "hop-mean", pooling="cls")
    with pytest.raises(TypeError, match="no network to move"):
        sclm.tl.embed(section, "hop-mean", device="cpu")
    assert sclm.tl.embed(section, fast(), device="cpu", copy=True) is not None


def test_cells_have_no_use_for_sections(section: ad.AnnData) -> None:
    model = sclm.train(
        "scgpt", section, preset="tiny", max_epochs=1, width=16, n_layers=1, n_heads=2, progress_bar=False
    )
    with pytest.raises(TypeError, match=r"'scgpt' has no use for library_key='truth'"):
        sclm.tl.embed(section, model, library_key="truth")
    with pytest.raises(
        TypeError, match=r"'scgpt' does not give spots vectors.*'graphst', 'hop-mean'|'hop-mean', 'graphst'"
    ):
        sclm.tl.domains(section, model)


@pytest.mark.filterwarnings("ignore:Writing zarr v2 data:UserWarning")  # anndata 0.12 on its own default
def test_what_is_written_survives_h5ad_and_zarr(section: ad.AnnData, tmp_path: pathlib.Path) -> None:
    sclm.tl.domains(section)
    section.write_h5ad(tmp_path / "a.h5ad")
    section.write_zarr(tmp_path / "a.zarr")
    for again in (ad.read_h5ad(tmp_path / "a.h5ad"), ad.read_zarr(tmp_path / "a.zarr")):
        pd.testing.assert_frame_equal(sclm.get.domains(again), sclm.get.domains(section), check_categorical=False)
        pd.testing.assert_frame_equal(sclm.get.domains_stability(again), sclm.get.domains_stability(section))
    backed = ad.read_h5ad(tmp_path / "a.h5ad", backed="r")
    sclm.tl.domains(backed, n_domains=section.uns[KEY]["n_domains"], key_added="again")
    assert (backed.obs["again"].astype(str) == section.obs[KEY].astype(str)).all()
    backed.file.close()


@pytest.mark.filterwarnings("ignore")
def test_spatialdata_tables_are_changed_in_place(section: ad.AnnData) -> None:
    spatialdata = pytest.importorskip("spatialdata")
    from spatialdata.models import TableModel

    section.obs["region"] = pd.Categorical(["spots"] * 480)
    section.obs["instance"] = np.arange(480)
    table = TableModel.parse(section, region="spots", region_key="region", instance_key="instance")
    data = spatialdata.SpatialData(tables={"table": table})
    with pytest.raises(TypeError, match=r"table_key=.*'table'"):
        sclm.tl.domains(data)
    with pytest.raises(TypeError, match=r"table_key=.*'table'"):
        sclm.tl.embed(data, "hop-mean")
    assert sclm.tl.domains(data, n_domains=4, table_key="table") is None
    assert KEY in data.tables["table"].obs
    sclm.tl.embed(data, "hop-mean", table_key="table")
    assert "X_sclm_hop-mean" in data.tables["table"].obsm


def test_a_graph_of_other_keys_is_built_anew(section: ad.AnnData) -> None:
    section.obs["half"] = np.where(np.arange(480) % 2, "odd", "even")
    section.obsm["turned"] = section.obsm["spatial"][::-1].copy()
    for keys in ({"library_key": "half"}, {"spatial_key": "turned"}):
        fresh, again = section.copy(), section.copy()
        sclm.tl.domains(again, n_domains=4)
        for adata in (fresh, again):
            sclm.tl.domains(adata, n_domains=4, **keys)
        assert again.uns[KEY]["neighbours"] == "coordinates"
        assert (again.obsp["spatial_connectivities"] != fresh.obsp["spatial_connectivities"]).nnz == 0
        pd.testing.assert_frame_equal(again.obs, fresh.obs)
        sclm.tl.domains(again, n_domains=4, **keys)
        assert again.uns[KEY]["neighbours"] == "squidpy"  # what the last call wrote


def test_squidpy_goes_on_from_the_result(section: ad.AnnData) -> None:
    sclm.tl.domains(section, n_domains=4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of squidpy, spatialdata and what they import
        import squidpy as sq

        sq.gr.nhood_enrichment(section, cluster_key=KEY, n_perms=20, seed=0, show_progress_bar=False)
        score = section.uns[f"{KEY}_nhood_enrichment"]["zscore"]
        assert (np.diag(score) > 5).all()
        sq.pl.spatial_scatter(section, color=KEY, shape=None)
        import matplotlib.pyplot as plt

        plt.close("all")
    assert len(section.uns[f"{KEY}_colors"]) == 4
    # squidpy's own graph is read instead of one from coordinates: here one without edges.
    section.obsp["spatial_connectivities"] = sparse.csr_matrix((480, 480), dtype=np.float32)
    sclm.tl.domains(section, n_domains=4, key_added="alone")
    assert section.uns["alone"]["neighbours"] == "squidpy"
    assert agreement(section, "alone") < 0.6


# Bad inputs ---------------------------------------------------------------------------------------------------------


def fingerprint(adata: ad.AnnData) -> str:
    """Hash of every buffer and name of an AnnData."""
    digest = hashlib.sha256()
    for m in [adata.X, *adata.obsm.values()]:
        for part in (m.data, m.indices, m.indptr) if sparse.issparse(m) else (np.asarray(m),):
            digest.update(np.ascontiguousarray(part).tobytes())
    digest.update(
        repr((list(adata.obs.columns), list(adata.obs_names), sorted(adata.obsm), sorted(adata.obsp))).encode()
    )
    digest.update(repr(sorted(adata.uns)).encode())
    return digest.hexdigest()


def no_coordinates(adata: ad.AnnData) -> None:
    del adata.obsm["spatial"]


def missing_coordinates(adata: ad.AnnData) -> None:
    adata.obsm["spatial"][[7, 9], 1] = np.nan


def one_place(adata: ad.AnnData) -> None:
    adata.obsm["spatial"] = np.zeros((480, 2))


def log_normalised(adata: ad.AnnData) -> None:
    adata.X = sparse.csr_matrix(adata.X.log1p())


def other_graph(adata: ad.AnnData) -> None:
    adata.obsp["spatial_connectivities"] = sparse.csr_matrix(np.full((480, 480), np.nan, dtype=np.float32))


def no_variation(adata: ad.AnnData) -> None:
    adata.X = np.ones(adata.shape, dtype=np.float32)


def two_sections(adata: ad.AnnData) -> None:
    adata.obs["library_id"] = pd.Categorical(np.repeat(["left", "right"], 240))


BAD: dict[str, tuple[Callable[[ad.AnnData], None], dict[str, Any], type[Exception], str]] = {
    "no coordinates": (no_coordinates, {}, KeyError, r"obsm\['spatial'\].*no such key"),
    "missing coordinates": (missing_coordinates, {}, ValueError, r"found 2 of 480.*'spot7' in row 7"),
    "all in one place": (one_place, {}, ValueError, "all 480 spots are the same"),
    "log-normalised": (log_normalised, {}, ValueError, r"adata\.X.*raw.*counts.*log1p"),
    "a broken graph": (other_graph, {}, ValueError, "missing values. Build the graph anew"),
    "nothing varies": (no_variation, {}, ValueError, "two genes must vary"),
    "two sections": (two_sections, {}, ValueError, r"2 sections.*library_key='library_id'"),
    "no such section": (lambda _: None, {"library_key": "no"}, KeyError, "'no'"),
    "one domain": (lambda _: None, {"n_domains": 1}, ValueError, "n_domains must be 2 or more, found 1"),
    "too many domains": (lambda _: None, {"n_domains": 481}, ValueError, "at most the number of spots.*480.*found 481"),
    "half a domain": (
        lambda _: None,
        {"n_domains": 2.5},
        TypeError,
        "n_domains must be a whole number, found float 2.5",
    ),
    "refinement": (lambda _: None, {"refine": -1}, ValueError, "refine must be a number from 0 to 1, found -1"),
    "refinement yes": (lambda _: None, {"refine": True}, TypeError, "refine must be a number"),
    "no block": (lambda _: None, {"batch_size": 0}, ValueError, "batch_size must be at least 1, found 0"),
    "a path as key": (lambda _: None, {"key_added": "a/b"}, ValueError, "'/'"),
    "a typing error": (lambda _: None, {"model": "graphts"}, FileNotFoundError, "'graphst'"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused_and_changes_nothing(section: ad.AnnData, case: str) -> None:
    change, options, error, message = BAD[case]
    change(section)
    before = fingerprint(section)
    with pytest.raises(error, match=f"(?s){message}"):
        sclm.tl.domains(section, **options)
    assert fingerprint(section) == before


def test_too_few_spots(section: ad.AnnData) -> None:
    with pytest.raises(ValueError, match="at least 10 with counts, found 6"):
        sclm.tl.domains(section[:6].copy(), n_domains=2)
    with pytest.raises(ValueError, match="found one spot"):
        sclm.tl.domains(section[:1].copy(), n_domains=2)
    small = section[:14].copy()
    sclm.tl.domains(small, n_domains=2)
    assert small.obs[KEY].notna().all()


def test_empty_spots_and_repeated_names(section: ad.AnnData, caplog: pytest.LogCaptureFixture) -> None:
    counts = section.X.tolil()
    counts[[3, 50]] = 0
    section.X = counts.tocsr()
    section.obs_names = pd.Index(np.repeat([f"s{i}" for i in range(240)], 2).astype(object))
    section.var_names = pd.Index(np.array([*section.var_names[:-2], "twice", "twice"], dtype=object))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # anndata on names that repeat
        sclm.tl.domains(section, n_domains=4)
    assert np.flatnonzero(section.obs[KEY].isna()).tolist() == [3, 50]
    assert "2 of 480 spots have no counts" in caplog.text
    assert agreement(section[section.obs[KEY].notna().to_numpy()]) > 0.8


@pytest.mark.real
def test_layers_of_the_cortex() -> None:
    """Neighbours tell more than spots alone; the figures are in the benchmarks."""
    file = pathlib.Path(os.environ.get("SCLM_REAL_DATA", "no such folder")) / "spatial" / "dlpfc151510_500genes.h5ad"
    if not file.is_file():
        pytest.skip("SCLM_REAL_DATA holds no spatial/dlpfc151510_500genes.h5ad")
    cortex = ad.read_h5ad(file)
    cortex.obsm["spatial"] = cortex.obs[["col", "row"]].to_numpy(float) * [1, 3**0.5]
    sclm.tl.domains(cortex, n_domains=7)
    sclm.tl.domains(cortex, sclm.models.family_class("hop-mean").ready(n_hops=0), n_domains=7, key_added="alone")
    known = (cortex.obs["annotation"].astype(str) != "nan").to_numpy()
    found = cortex[known].obs.astype(str)
    agreed, alone = (adjusted_rand_score(found["annotation"], found[key]) for key in (KEY, "alone"))
    assert agreed > 0.43
    assert agreed > alone + 0.03
