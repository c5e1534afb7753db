"""Ligands beside receptors in an AnnData: numbers against loops, the null, borders, sections, containers, bad inputs."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import sclm
from sclm.evidence import benjamini_hochberg
from sclm.spatial import neighbour_graph

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

KEY = "sclm_ligrec"
FAST: dict[str, Any] = {"n_permutations": 199}
PAIRS = pd.DataFrame(
    [["CXCL12", "CXCR4"], ["TGFB1", "TGFBR1_TGFBR2"], ["CD274", "PDCD1"], ["SPP1", "CD44"]],
    columns=["ligand", "receptor"],
)


@pytest.fixture(scope="module")
def tissue(tumour_section: Callable[..., ad.AnnData]) -> ad.AnnData:
    """Tests must not change it."""
    return tumour_section()


@pytest.fixture
def section(tissue: ad.AnnData) -> ad.AnnData:
    return tissue.copy()


def log_normal(section: ad.AnnData) -> pd.DataFrame:
    counts = section.to_df().to_numpy(dtype=float)
    values = np.log1p(1e4 * counts / counts.sum(axis=1, keepdims=True))
    return pd.DataFrame(values, index=section.obs_names, columns=section.var_names)


def slow_z(section: ad.AnnData, graph: np.ndarray, x: np.ndarray, y: np.ndarray, design: np.ndarray, strata: np.ndarray,
           a: np.ndarray, b: np.ndarray) -> tuple[float, float]:  # fmt: skip
    """The statistic's z score from residuals by least squares and 4,000 shuffles, and the p value."""

    def residual(v: np.ndarray) -> np.ndarray:
        left = v - design @ np.linalg.lstsq(design, v, rcond=None)[0]
        return left / left.std()

    u = b * (graph.T @ (a * residual(x)))
    y = residual(y)
    rng = np.random.default_rng(3)
    null = []
    for _ in range(4000):
        order = np.arange(len(y))
        for s in np.unique(strata):
            rows = np.flatnonzero(strata == s)
            order[rows] = rng.permutation(rows)
        null.append(u @ y[order])
    observed = u @ y
    return (observed - np.mean(null)) / np.std(null), (1 + np.sum(np.array(null) >= observed)) / 4001


def test_a_test_by_hand_with_labels(section: ad.AnnData) -> None:
    sclm.tl.ligrec(section, PAIRS, groups="tissue", adjust="tissue", n_permutations=4000)
    table = sclm.get.ligrec(section)
    assert len(table) == len(PAIRS) * 4
    y = log_normal(section)
    tumour = (section.obs["tissue"] == "tumour").to_numpy().astype(float)
    graph = neighbour_graph(section.obsm["spatial"]).toarray()
    depth = np.log(np.asarray(section.X.sum(axis=1)).ravel())
    design = np.column_stack([np.ones(len(depth)), depth, tumour])
    rows = table[(table["source"] == "tumour") & (table["target"] == "stroma")].set_index("ligand")
    spread = section.uns[KEY]["inflation"][2]  # tumour → stroma comes third
    assert 1 <= spread < 1.3
    for ligand, receptor in zip(PAIRS["ligand"], PAIRS["receptor"], strict=True):
        x, r = y[ligand].to_numpy(), y[receptor.split("_")].min(axis=1).to_numpy()
        z, p = slow_z(section, graph, x, r, design, tumour, tumour, 1 - tumour)
        found = rows.loc[ligand]
        assert found["z"] == pytest.approx(z / spread, abs=0.08)
        assert found["pval"] == pytest.approx(p, abs=0.04 + 0.3 * (spread - 1))
        edges = graph * np.outer(tumour, 1 - tumour)
        assert found["score"] == pytest.approx((edges * np.outer(x, r)).sum() / edges.sum(), rel=1e-4)
        whole = (graph * np.outer(x, r)).sum() / graph.sum()
        assert found["ratio"] == pytest.approx(found["score"] / whole, rel=1e-4)
        senders, receivers = edges.sum(axis=1), edges.sum(axis=0)
        assert found["ligand_mean"] == pytest.approx(senders @ x / senders.sum(), rel=1e-4)
        assert found["receptor_mean"] == pytest.approx(receivers @ r / receivers.sum(), rel=1e-4)
    np.testing.assert_allclose(table["padj"], benjamini_hochberg(table["pval"]))


def test_fractions_weigh_senders_and_receivers(section: ad.AnnData) -> None:
    sclm.tl.ligrec(
        section, PAIRS, groups="fractions", source="tumour", target=["T cell", "stroma"], adjust="tissue", **FAST
    )
    table = sclm.get.ligrec(section)
    assert set(zip(table["source"], table["target"], strict=True)) == {("tumour", "T cell"), ("tumour", "stroma")}
    y, share = log_normal(section), section.obsm["fractions"]
    graph = neighbour_graph(section.obsm["spatial"]).toarray()
    edges = graph * np.outer(share["tumour"], share["T cell"])
    wanted = (edges * np.outer(y["SPP1"], y["CD44"])).sum() / edges.sum()
    found = table[(table["ligand"] == "SPP1") & (table["target"] == "T cell")].iloc[0]
    assert found["score"] == pytest.approx(wanted, rel=1e-4)
    number = section.copy()
    sclm.tl.ligrec(number, PAIRS, groups="tumour_share", adjust="tissue", **FAST)
    assert list(number.uns[KEY]["groups"]) == ["tumour_share", "not tumour_share"]


def test_truth_values_name_groups(section: ad.AnnData) -> None:
    section.obs["inner"] = (section.obs["tissue"] == "tumour").to_numpy()
    sclm.tl.ligrec(section, PAIRS, groups="inner", source=True, target=np.False_, **FAST)
    assert set(sclm.get.ligrec(section)["source"]) == {"True"}
    assert section.uns[KEY]["params"]["target"] == ["False"]


def test_scores_of_edges_and_spots(section: ad.AnnData) -> None:
    sclm.tl.ligrec(section, PAIRS, **FAST)
    y = log_normal(section)
    x, r = y["TGFB1"].to_numpy(), y[["TGFBR1", "TGFBR2"]].min(axis=1).to_numpy()
    graph = neighbour_graph(section.obsm["spatial"]).toarray()
    edges = sclm.get.ligrec_edges(section, "TGFB1", "TGFBR1_TGFBR2")
    e = graph * np.outer(x, r)
    assert len(edges) == (e > 0).sum()
    assert edges["score"].is_monotonic_decreasing
    first = edges.iloc[0]
    i, j = (list(section.obs_names).index(first[name]) for name in ("sender", "receiver"))
    assert first["score"] == pytest.approx(e[i, j], rel=1e-5)
    spots = sclm.get.ligrec_spots(section)
    assert spots.columns[1] == "TGFB1 → TGFBR1_TGFBR2"
    degree = graph.sum(axis=1)
    wanted = (x * (graph @ r) + r * (graph @ x)) / degree / 2
    np.testing.assert_allclose(spots.iloc[:, 1], wanted, rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(section.obsp[f"{KEY}_connectivities"].toarray(), graph)
    with pytest.raises(
        KeyError, match=r"SPP1 → CXCR4 is no pair of 'sclm_ligrec'; it has 4, such as CXCL12 → CXCR4, SPP1"
    ):
        sclm.get.ligrec_edges(section, "SPP1", "CXCR4")


def test_the_null_holds_on_random_pairs(section: ad.AnnData) -> None:
    rng = np.random.default_rng(0)
    names = np.asarray(section.var_names, dtype=object)
    pairs = pd.DataFrame([rng.choice(names, 2, replace=False) for _ in range(800)], columns=["ligand", "receptor"])
    for options in ({}, {"adjust": "tissue"}):
        sclm.tl.ligrec(section, pairs, n_permutations=299, **options)
        table = sclm.get.ligrec(section)
        assert 0.025 < (table["pval"] < 0.05).mean() < 0.075
        assert (table["padj"] < 0.05).sum() == 0
        assert abs(table["z"].mean()) < 0.15


def test_a_signal_across_the_border_is_found_there(tumour_section: Callable[..., ad.AnnData]) -> None:
    planted = tumour_section(26, planted=1.5, seed=1)
    sclm.tl.interface(planted, "tumour", groups="tissue")
    sclm.tl.ligrec(planted, interface="sclm_interface", adjust="tissue", n_permutations=1999)
    table = sclm.get.ligrec(planted)
    assert set(zip(table["source"], table["target"], strict=True)) == {
        ("tumour", "everything else"),
        ("everything else", "tumour"),
    }
    assert table.loc[:1, "ligand"].tolist() == ["CXCL12", "CXCL12"]
    assert (table.loc[:1, "padj"] < 0.05).all()
    assert (table.loc[2:, "padj"] > 0.05).all()
    # only edges across the border are kept; with groups, those within its zone too
    edges = sparse.coo_matrix(planted.obsp[f"{KEY}_connectivities"])
    zone = planted.obs["sclm_interface"].astype(str).to_numpy()
    side = planted.obs["sclm_interface_distance"].to_numpy() < 0
    assert (side[edges.row] != side[edges.col]).all()
    whole = neighbour_graph(planted.obsm["spatial"]).tocoo()
    assert planted.uns[KEY]["spots"]["edges"] == (side[whole.row] != side[whole.col]).sum() // 2
    sclm.tl.ligrec(planted, interface="sclm_interface", groups="tissue", **FAST)
    edges = sparse.coo_matrix(planted.obsp[f"{KEY}_connectivities"])
    assert (side[edges.row] == side[edges.col]).any()
    assert (
        ((zone[edges.row] == "interface") & (zone[edges.col] == "interface")) | (side[edges.row] != side[edges.col])
    ).all()
    assert edges.nnz < neighbour_graph(planted.obsm["spatial"]).nnz / 2
    assert {"category", "range"} <= set(table.columns)


def test_the_order_of_spots_and_genes_does_not_matter(section: ad.AnnData) -> None:
    rng = np.random.default_rng(0)
    other = section[rng.permutation(section.n_obs), rng.permutation(section.n_vars)].copy()
    for adata in (section, other):
        sclm.tl.ligrec(adata, PAIRS, groups="fractions", **FAST)
    pd.testing.assert_frame_equal(section.uns[KEY]["table"], other.uns[KEY]["table"], rtol=1e-5)
    again = sclm.get.ligrec_spots(other).reindex(section.obs_names)
    pd.testing.assert_frame_equal(sclm.get.ligrec_spots(section), again, rtol=1e-5)


def test_sections_never_touch_and_their_statistics_add_up(tumour_section: Callable[..., ad.AnnData]) -> None:
    one, two = tumour_section(12, seed=1, name="a"), tumour_section(14, seed=2, name="b")
    both = ad.concat([one, two], label="library", keys=["one", "two"])
    for adata, options in ((both, {"library_key": "library"}), (one, {}), (two, {})):
        sclm.tl.ligrec(adata, PAIRS, n_permutations=49, **options)
    edges = sparse.coo_matrix(both.obsp[f"{KEY}_connectivities"])
    library = both.obs["library"].to_numpy()
    assert (library[edges.row] == library[edges.col]).all()
    for name, alone in (("one", one), ("two", two)):
        rows = np.flatnonzero(library == name)
        part = sclm.get.ligrec_spots(both).iloc[rows]
        np.testing.assert_allclose(part, sclm.get.ligrec_spots(alone), rtol=1e-5)
    # residuals are those of each alone, so the variance of the sum lies between: z of both is a weighted sum of the two
    z = [adata.uns[KEY]["table"]["z"].to_numpy() for adata in (one, two, both)]
    weights = np.linalg.lstsq(np.column_stack(z[:2]), z[2], rcond=None)[0]
    np.testing.assert_allclose(np.column_stack(z[:2]) @ weights, z[2], atol=0.15)
    assert (weights > 0.3).all()


def test_squidpy_s_graphs_are_read(section: ad.AnnData) -> None:
    wide = neighbour_graph(section.obsm["spatial"], n_neighbours=20)
    section.obsp["wide_connectivities"] = sparse.triu(wide).tocsr()  # one direction counts for both
    sclm.tl.ligrec(section, PAIRS, connectivity_key="wide", **FAST)
    assert section.uns[KEY]["graph"] == "wide_connectivities"
    assert section.uns[KEY]["spots"]["edges"] == wide.nnz // 2
    with pytest.raises(KeyError, match=r"connectivity_key='far' names no graph: .obsp holds 'wide_connectivities'"):
        sclm.tl.ligrec(section, PAIRS, connectivity_key="far", **FAST)


@pytest.mark.filterwarnings("ignore")
def test_squidpy_draws_the_result(section: ad.AnnData) -> None:
    squidpy = pytest.importorskip("squidpy")
    import matplotlib.pyplot as plt

    sclm.tl.ligrec(section, PAIRS, groups="tissue", **FAST)
    found = sclm.get.ligrec_squidpy(section)
    table = section.uns[KEY]["table"]
    row = table[(table["ligand"] == "SPP1") & (table["source"] == "stroma") & (table["target"] == "tumour")].iloc[0]
    assert found["pvalues"].loc[("SPP1", "CD44"), ("stroma", "tumour")] == row["pval"]
    wanted = (row["ligand_mean"] + row["receptor_mean"]) / 2
    assert found["means"].loc[("SPP1", "CD44"), ("stroma", "tumour")] == wanted
    squidpy.pl.ligrec(found, alpha=1.0, pvalue_threshold=1.0)
    plt.close("all")


@pytest.mark.filterwarnings("ignore:Writing zarr v2 data:UserWarning")  # anndata 0.12 on its own default
def test_everything_survives_files(section: ad.AnnData, tmp_path: Path) -> None:
    section.obs["tissue"] = pd.Categorical(section.obs["tissue"].astype(str).replace({"tumour": "T/N"}))
    sclm.tl.ligrec(section, groups="tissue", **FAST)
    section.write_h5ad(tmp_path / "a.h5ad")
    section.write_zarr(tmp_path / "a.zarr")
    for back in (ad.read_h5ad(tmp_path / "a.h5ad"), ad.read_zarr(tmp_path / "a.zarr")):
        pd.testing.assert_frame_equal(sclm.get.ligrec(back), sclm.get.ligrec(section), check_dtype=False)
        pd.testing.assert_frame_equal(
            sclm.get.ligrec_spots(back), sclm.get.ligrec_spots(section), check_index_type=False
        )
        assert sclm.get.ligrec_squidpy(back)["means"].equals(sclm.get.ligrec_squidpy(section)["means"])


@pytest.mark.parametrize("rename", [str.capitalize, str.lower])
def test_genes_are_found_in_any_case(section: ad.AnnData, rename: Callable[[str], str]) -> None:
    sclm.tl.ligrec(section, PAIRS, **FAST)
    other = section.copy()
    other.var_names = [rename(name) for name in section.var_names]
    sclm.tl.ligrec(other, PAIRS, **FAST)
    pd.testing.assert_frame_equal(section.uns[KEY]["table"], other.uns[KEY]["table"])


def test_genes_are_found_by_ensembl_id_and_earlier_symbol(section: ad.AnnData) -> None:
    from sclm.knowledge import GeneIdentifiers

    identifiers = GeneIdentifiers.load("human")
    section.var["id"] = [
        i or name for i, name in zip(identifiers.to_ensembl(section.var_names), section.var_names, strict=True)
    ]
    old = pd.DataFrame({"ligand": ["CXCL12"], "receptor": ["CXCR4"]})
    sclm.tl.ligrec(section, old, gene_key="id", **FAST)
    assert section.uns[KEY]["source_of_pairs"]["tested"] == 1


def test_spots_without_counts_or_group_are_left_out(section: ad.AnnData) -> None:
    counts = section.X.tolil()
    counts[7] = 0
    section.X = counts.tocsr()
    labels = section.obs["tissue"].astype(object)
    labels.iloc[20] = None
    section.obs["tissue"] = pd.Categorical(labels)
    sclm.tl.ligrec(section, PAIRS, groups="tissue", **FAST)
    assert section.uns[KEY]["spots"]["left_out"] == 2
    assert not sclm.get.ligrec_spots(section).iloc[[7, 20]].any(axis=None)
    assert "1 of 324 spots have no counts" in section.uns[KEY]["warnings"][0]


def test_a_group_that_does_not_express_is_not_tested(section: ad.AnnData) -> None:
    counts = section.X.tolil()
    counts[(section.obs["tissue"] == "stroma").to_numpy(), 0] = 0  # CXCL12
    section.X = counts.tocsr()
    sclm.tl.ligrec(section, PAIRS, groups="tissue", **FAST)
    table = sclm.get.ligrec(section)
    of = table[(table["ligand"] == "CXCL12")].set_index("source")
    assert of.loc["stroma", ["z", "pval", "padj"]].isna().all(axis=None)
    assert of.loc["tumour", "pval"].notna().all()


def test_too_few_permutations_are_told(section: ad.AnnData, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        sclm.tl.ligrec(section, PAIRS, n_permutations=19)
    assert "Pass n_permutations=80 or more" in caplog.text


def test_copies_views_backed_files_and_spatialdata(section: ad.AnnData, tmp_path: Path) -> None:
    copied = sclm.tl.ligrec(section, PAIRS, copy=True, **FAST)
    assert copied is not None
    assert KEY not in section.uns
    view = section[:, :40]
    sclm.tl.ligrec(view, PAIRS, adjust="tissue", **FAST)
    assert KEY in view.uns
    section.write_h5ad(tmp_path / "a.h5ad")
    backed = ad.read_h5ad(tmp_path / "a.h5ad", backed="r")
    sclm.tl.ligrec(backed, PAIRS, **FAST)
    pd.testing.assert_frame_equal(backed.uns[KEY]["table"], copied.uns[KEY]["table"])
    with pytest.raises(ValueError, match="view of a backed AnnData"):
        sclm.tl.ligrec(backed[:50], PAIRS, **FAST)
    spatialdata = pytest.importorskip("spatialdata")
    data = spatialdata.SpatialData(tables={"table": section})
    sclm.tl.ligrec(data, PAIRS, table_key="table", **FAST)
    assert KEY in data.tables["table"].uns


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"pairs": "nothing"}, ValueError, "expected one of 'sclm'"),
        ({"pairs": pd.DataFrame({"ligand": ["Q"], "receptor": ["R"]})}, ValueError, "none of the 1 pairs of 'table' has all of its genes"),
        ({"min_share": 1.0, "pairs": PAIRS}, ValueError, "none of the 4 measured pairs is expressed in at least 100% of the 324 spots"),
        ({"min_share": 2.0}, ValueError, "min_share must be a share of the spots, 0 to 1, found 2.0"),
        ({"min_share": "all"}, TypeError, "min_share must be a number, found str"),
        ({"n_permutations": 0}, ValueError, "n_permutations must be at least 1, found 0"),
        ({"n_permutations": 1e3}, TypeError, "n_permutations must be a whole number, found float"),
        ({"seed": -1}, ValueError, "seed must be at least 0"),
        ({"source": "tumour"}, ValueError, "source and target name groups, found groups=None"),
        ({"groups": "tissue", "source": "tumor"}, ValueError, r"source must name groups of 'stroma', 'tumour'; found \['tumor'\]"),
        ({"groups": "nothing"}, KeyError, "groups='nothing' is neither"),
        ({"adjust": "nothing"}, KeyError, "adjust='nothing' is neither"),
        ({"interface": "border"}, KeyError, r"Run sclm\.tl\.interface first"),
        ({"layer": "logs"}, ValueError, "must hold raw integer counts"),
        ({"library_key": "slide"}, KeyError, "slide"),
        ({"spatial_key": "xy"}, KeyError, "must hold the coordinates"),
        ({"groups": "rare", "source": "one", "target": "one"}, ValueError, "no source and target have 10 edges"),
        ({"key_added": "a/b"}, ValueError, "'/'"),
    ],
)  # fmt: skip
def test_bad_inputs_are_refused_and_nothing_changes(
    section: ad.AnnData, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    section.layers["logs"] = section.X.log1p()
    section.obs["rare"] = pd.Categorical(np.where(np.arange(section.n_obs) == 5, "one", "other"))
    with pytest.raises(error, match=message):
        sclm.tl.ligrec(section, **{**FAST, **options})
    assert not section.uns
    assert list(section.obsm) == ["spatial", "fractions"]
    assert not section.obsp


def test_what_was_not_run_is_told(section: ad.AnnData) -> None:
    for table in (sclm.get.ligrec, sclm.get.ligrec_spots, sclm.get.ligrec_squidpy):
        with pytest.raises(KeyError, match=r"Run sclm\.tl\.ligrec first"):
            table(section)
