"""Sections mixed from labelled cells: their truth, their counts, and what they refuse."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse, stats
from scipy.spatial.distance import cdist

from sclm.datasets import simulate_section

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture(scope="module")
def cells(simulate: Callable[..., ad.AnnData]) -> ad.AnnData:
    return simulate(300, seed=3)


@pytest.fixture
def tagged() -> ad.AnnData:
    """60 cells, each with a gene of its own: the sum of a spot tells which cells are in it."""
    n = 60
    obs = pd.DataFrame(
        {"kind": np.array(["a", "T/NK", "c"], dtype=object)[np.arange(n) % 3]}, index=[f"c{i}" for i in range(n)]
    )
    counts = sparse.csr_matrix(np.diag(np.arange(1, n + 1)).astype(np.float32))
    return ad.AnnData(counts, obs=obs, var=pd.DataFrame(index=[f"g{i}" for i in range(n)]))


def test_sums_hold_the_cells_that_the_truth_counts(tagged: ad.AnnData) -> None:
    section = simulate_section(tagged, "kind", n_spots=50, cells_per_spot=4, seed=1)
    drawn = section.X.toarray() / np.arange(1, 61)  # copies of each cell in each spot
    assert (drawn == np.rint(drawn)).all()
    np.testing.assert_array_equal(drawn.sum(axis=1), section.obs["n_cells"])
    categories = list(section.uns["simulation"]["categories"])
    assert categories == ["T/NK", "a", "c"]
    of_type = np.stack([tagged.obs["kind"] == c for c in categories], axis=1).astype(float)  # (cells, types)
    cell_share = drawn @ of_type
    np.testing.assert_allclose(section.obsm["cell_fraction"], cell_share / cell_share.sum(1, keepdims=True), rtol=1e-6)
    mrna = section.X.toarray() @ of_type  # a gene is one cell's
    np.testing.assert_allclose(section.obsm["fraction"], mrna / mrna.sum(1, keepdims=True), rtol=1e-6)
    np.testing.assert_array_equal(section.obs["cell_type"].astype(str), np.array(categories)[mrna.argmax(1)])


def test_fields_and_types(cells: ad.AnnData) -> None:
    section = simulate_section(cells, "cell_type", n_spots=80, platform=0.3, ambient=0.1, umi_per_spot=300)
    assert isinstance(section.X, sparse.csr_matrix)
    assert section.X.has_canonical_format
    assert section.X.dtype == np.int32
    assert section.X.data.min() > 0
    assert section.shape == (80, cells.n_vars)
    assert list(section.var_names) == list(cells.var_names)
    assert section.obsm["spatial"].dtype == np.float64
    assert section.obsm["spatial"].shape == (80, 2)
    for key in ("fraction", "cell_fraction"):
        assert section.obsm[key].dtype == np.float32
        np.testing.assert_allclose(section.obsm[key].sum(axis=1), 1, rtol=1e-5)
    assert section.var["platform_factor"].dtype == np.float32
    assert section.obs["n_cells"].dtype == np.int64
    assert isinstance(section.obs["domain"].dtype, pd.CategoricalDtype)
    assert section.obs["domain"].nunique() == 4
    assert list(section.obs["cell_type"].cat.categories) == [
        c for c in section.uns["simulation"]["categories"] if c in set(section.obs["cell_type"])
    ]
    assert section.uns["simulation"]["params"]["platform"] == 0.3
    assert section.uns["simulation"]["seed"] == 0


def test_the_input_is_not_changed(cells: ad.AnnData) -> None:
    before = cells.copy()
    simulate_section(cells, "cell_type", n_spots=20, platform=0.5, umi_per_spot=100)
    pd.testing.assert_frame_equal(cells.obs, before.obs)
    pd.testing.assert_frame_equal(cells.var, before.var)
    assert (cells.X != before.X).nnz == 0
    assert not cells.uns


def test_one_cell_a_spot_is_a_cell(tagged: ad.AnnData) -> None:
    section = simulate_section(tagged, "kind", n_spots=100, cells_per_spot=1, n_domains=2)
    assert (section.obs["n_cells"] == 1).all()
    assert (section.obsm["fraction"].max(axis=1) == 1).all()
    assert (section.X.getnnz(axis=1) == 1).all()


def test_number_of_cells(cells: ad.AnnData) -> None:
    n_cells = simulate_section(cells, "cell_type", n_spots=4000, cells_per_spot=3).obs["n_cells"]
    assert n_cells.min() == 1
    np.testing.assert_allclose([n_cells.mean(), n_cells.var()], [3, 2], rtol=0.1)  # 1 + Poisson(2)


def test_domains_have_their_compositions(cells: ad.AnnData) -> None:
    section = simulate_section(cells, "cell_type", n_spots=3000, n_domains=3, cells_per_spot=10, seed=2)
    composition = section.uns["simulation"]["composition"]
    np.testing.assert_allclose(composition.sum(axis=1), 1)
    weighted = section.obsm["cell_fraction"] * section.obs["n_cells"].to_numpy()[:, None]
    for d, share in enumerate(composition):
        here = (section.obs["domain"] == f"domain {d + 1}").to_numpy()
        np.testing.assert_allclose(weighted[here].sum(0) / weighted[here].sum(), share, atol=0.015)
    assert composition.min() >= 0.05 / 4 - 1e-12
    assert np.ptp(composition, axis=0).max() > 0.2  # and they differ


@pytest.mark.parametrize("layout", ["hexagonal", "square", "random"])
def test_domains_are_regions(cells: ad.AnnData, layout: str) -> None:
    section = simulate_section(cells, "cell_type", n_spots=900, n_domains=5, layout=layout, seed=4)
    codes = section.obs["domain"].cat.codes.to_numpy()
    assert set(codes) == set(range(5))
    distance = cdist(section.obsm["spatial"], section.obsm["spatial"])
    neighbours = np.argsort(distance, axis=1)[:, 1:7]
    same = (codes[neighbours] == codes[:, None]).mean()
    assert same > 0.85  # a random division gives about 0.2


def test_layouts(cells: ad.AnnData) -> None:
    nearest = {}
    for layout in ("hexagonal", "square", "random"):
        place = simulate_section(cells, "cell_type", n_spots=400, layout=layout).obsm["spatial"]
        distance = cdist(place, place) + np.diag(np.full(400, np.inf))
        nearest[layout] = np.sort(distance, axis=1)
        assert 0.7 < np.ptp(place[:, 0]) / np.ptp(place[:, 1]) < 1.4
    inner = {k: int((v < 101).sum(axis=1).max()) for k, v in nearest.items()}
    assert (inner["hexagonal"], inner["square"]) == (6, 4)
    np.testing.assert_allclose(nearest["hexagonal"][:, 0], 100)
    np.testing.assert_allclose(nearest["square"][:, 0], 100)
    assert nearest["random"][:, 0].min() > 0


def test_platform_factors_are_in_the_counts(cells: ad.AnnData) -> None:
    plain = simulate_section(cells, "cell_type", n_spots=600)
    shifted = simulate_section(cells, "cell_type", n_spots=600, platform=0.5)
    assert (plain.var["platform_factor"] == 1).all()
    np.testing.assert_array_equal(plain.obsm["fraction"], shifted.obsm["fraction"])  # the same cells were drawn
    totals = [np.asarray(s.X.sum(axis=0)).ravel() for s in (plain, shifted)]
    many = totals[0] > 300
    ratio = totals[1][many] / totals[0][many]
    np.testing.assert_allclose(ratio, shifted.var["platform_factor"].to_numpy()[many], rtol=0.25)
    assert np.std(np.log(shifted.var["platform_factor"])) == pytest.approx(0.5, rel=0.2)
    np.testing.assert_array_equal(plain.X.sum(axis=1), shifted.X.sum(axis=1))  # depth is kept
    weight = totals[0] / totals[0].sum()
    assert weight @ shifted.var["platform_factor"].to_numpy() == pytest.approx(1, rel=1e-5)


def test_ambient_share(tagged: ad.AnnData) -> None:
    plain = simulate_section(tagged, "kind", n_spots=300, cells_per_spot=3)
    soup = simulate_section(tagged, "kind", n_spots=300, cells_per_spot=3, ambient=0.3)
    foreign = soup.X.toarray()[plain.X.toarray() == 0].sum() / soup.X.sum()
    # Ambient counts of genes of the spot's own cells cannot be told apart: expected from the mean profile.
    profile = np.asarray(plain.X.sum(axis=0)).ravel() / plain.X.sum()
    depth = np.asarray(plain.X.sum(axis=1)).ravel()
    expected = 0.3 * (depth * ((plain.X.toarray() == 0) @ profile)).sum() / depth.sum()
    assert foreign == pytest.approx(expected, rel=0.03)
    np.testing.assert_array_equal(plain.X.sum(axis=1), soup.X.sum(axis=1))


def test_depth(cells: ad.AnnData) -> None:
    plain = simulate_section(cells, "cell_type", n_spots=1500)
    low = simulate_section(cells, "cell_type", n_spots=1500, umi_per_spot=60)
    total = [np.asarray(s.X.sum(axis=1)).ravel() for s in (plain, low)]
    assert np.median(total[1]) == pytest.approx(60, abs=1)
    # Capture varies by e^(0.3 z) around the spot's own amount of mRNA.
    assert np.std(np.log(total[1] / total[0])) == pytest.approx(0.3, rel=0.1)
    assert stats.spearmanr(total[0], total[1]).statistic > 0.5
    assert simulate_section(cells, "cell_type", n_spots=200, umi_per_spot=1, cells_per_spot=1).X.sum(axis=1).min() >= 1


def test_draws_are_multinomial(tagged: ad.AnnData) -> None:
    """Variance and mean of the counts given the cells: those of a multinomial."""
    tagged = tagged[:3, :3].copy()  # one cell a type: many spots of equal content
    section = simulate_section(tagged, "kind", n_spots=4000, cells_per_spot=1, n_domains=1, ambient=0.5, seed=5)
    profile = np.bincount(section.obsm["fraction"].argmax(1), minlength=3)
    weight = {"a": 1, "T/NK": 2, "c": 3}
    categories = list(section.uns["simulation"]["categories"])
    mean = np.array([profile[categories.index(k)] * w for k, w in weight.items()], dtype=float)
    mean /= mean.sum()
    own = (section.obs["cell_type"] == "c").to_numpy()
    counts = section.X.toarray()[own]
    expected = 0.5 * mean + 0.5 * np.array([0, 0, 1])
    np.testing.assert_allclose(counts.mean(axis=0) / 3, expected, atol=0.03)
    np.testing.assert_allclose(counts.var(axis=0), 3 * expected * (1 - expected), atol=0.08)


def test_a_warning_where_cells_hold_less_than_asked(tagged: ad.AnnData, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="sclm"):
        section = simulate_section(tagged, "kind", n_spots=30, cells_per_spot=1, umi_per_spot=1e4)
    assert "umi_per_spot=10000 is more than the cells of a spot hold" in caplog.text
    assert np.median(np.asarray(section.X.sum(axis=1))) == pytest.approx(1e4, rel=0.01)


def test_same_seed_same_section_whatever_the_blocks(cells: ad.AnnData, monkeypatch: pytest.MonkeyPatch) -> None:
    from sclm.datasets import _section_mixing

    settings = {"n_spots": 120, "platform": 0.4, "ambient": 0.2, "umi_per_spot": 200, "seed": 9}
    first = simulate_section(cells, "cell_type", **settings)
    monkeypatch.setattr(_section_mixing, "_BLOCK_VALUES", 5000)
    again = simulate_section(cells, "cell_type", **settings)
    assert (first.X != again.X).nnz == 0
    pd.testing.assert_frame_equal(first.obs, again.obs)
    for key in first.obsm:
        np.testing.assert_array_equal(first.obsm[key], again.obsm[key])
    other = simulate_section(cells, "cell_type", **{**settings, "seed": 10})
    assert (first.X != other.X).nnz > 0


@pytest.mark.filterwarnings("ignore:Writing zarr v2 data:UserWarning")  # anndata 0.12 on its own default
@pytest.mark.parametrize("form", ["h5ad", "zarr"])
def test_survives_writing(tagged: ad.AnnData, tmp_path: Path, form: str) -> None:
    section = simulate_section(tagged, "kind", n_spots=20, n_domains=2, umi_per_spot=None)
    getattr(section, f"write_{form}")(tmp_path / f"s.{form}")
    back = getattr(ad, f"read_{form}")(tmp_path / f"s.{form}")
    assert (section.X != back.X).nnz == 0
    assert back.X.dtype == np.int32
    assert list(back.uns["simulation"]["categories"]) == ["T/NK", "a", "c"]
    assert back.uns["simulation"]["params"] == section.uns["simulation"]["params"]
    np.testing.assert_array_equal(back.obsm["fraction"], section.obsm["fraction"])
    pd.testing.assert_frame_equal(back.obs, section.obs, check_index_type=False, check_dtype=False)


def test_other_storage_and_labels(cells: ad.AnnData) -> None:
    base = simulate_section(cells, "cell_type", n_spots=30, seed=1)
    other = cells.copy()
    other.layers["counts"] = other.X.toarray().astype(np.int64)
    other.X = np.log1p(other.X.toarray())
    other.var["chromosome"] = "1"
    again = simulate_section(other, "cell_type", n_spots=30, seed=1, layer="counts")
    assert (base.X != again.X).nnz == 0
    assert list(again.var.columns) == ["chromosome", "platform_factor"]
    # The order of the user's categories is the order of the columns; plain strings are sorted.
    other.obs["cell_type"] = other.obs["cell_type"].cat.reorder_categories(sorted(set(cells.obs["cell_type"]))[::-1])
    reordered = simulate_section(other, "cell_type", n_spots=30, layer="counts")
    assert list(reordered.uns["simulation"]["categories"]) == sorted(set(cells.obs["cell_type"]))[::-1]


def test_empty_cells_are_never_drawn(tagged: ad.AnnData) -> None:
    counts = tagged.X.toarray()
    counts[::2] = 0
    tagged.X = sparse.csr_matrix(counts)
    section = simulate_section(tagged, "kind", n_spots=200, cells_per_spot=1, n_domains=1)
    assert np.isfinite(section.obsm["fraction"]).all()
    assert np.asarray(section.X.sum(axis=1)).min() > 0


def test_repeated_genes_are_summed(tagged: ad.AnnData) -> None:
    tagged.var_names = ["same", "same", *tagged.var_names[2:]]
    section = simulate_section(tagged, "kind", n_spots=10)
    assert section.n_vars == tagged.n_vars - 1
    assert list(section.var.columns) == ["platform_factor"]


def test_smallest_sections(tagged: ad.AnnData) -> None:
    one = simulate_section(tagged, "kind", n_spots=1, n_domains=1)
    assert one.shape == (1, 60)
    each = simulate_section(tagged, "kind", n_spots=5, n_domains=5)
    assert each.obs["domain"].nunique() == 5
    single = simulate_section(tagged[tagged.obs["kind"] == "a"].copy(), "kind", n_spots=4)
    np.testing.assert_array_equal(single.obsm["fraction"], np.ones((4, 1)))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"n_spots": 0}, ValueError, "n_spots must be at least 1, found 0"),
        ({"n_spots": 2.5}, TypeError, "n_spots must be a whole number, found 2.5"),
        ({"seed": "a"}, TypeError, "seed must be a whole number"),
        ({"seed": -1}, ValueError, "seed must be at least 0, found -1"),
        ({"n_domains": 0}, ValueError, "n_domains must be between 1 and n_spots"),
        ({"n_spots": 3, "n_domains": 4}, ValueError, r"n_domains must be between 1 and n_spots \(3\), found 4"),
        ({"cells_per_spot": 0.5}, ValueError, "cells_per_spot must be at least 1, found 0.5"),
        ({"cells_per_spot": float("nan")}, ValueError, "cells_per_spot must be at least 1, found nan"),
        ({"platform": -0.1}, ValueError, "platform must be a standard deviation between 0 and 10, found -0.1"),
        ({"ambient": 1.0}, ValueError, "ambient must be a share of at least 0 and below 1, found 1.0"),
        ({"ambient": -0.2}, ValueError, "ambient must be a share"),
        ({"umi_per_spot": 0}, ValueError, "umi_per_spot must be at least 1 count, found 0"),
        ({"layout": "hex"}, ValueError, "layout must be one of 'hexagonal', 'square', 'random', found 'hex'"),
        ({"layer": "raw"}, KeyError, "raw"),
        ({"label_key": "kinds"}, KeyError, "near names: 'kind'"),
    ],
)
def test_what_is_refused(tagged: ad.AnnData, change: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        simulate_section(tagged, **{"label_key": "kind", "n_spots": 10, **change})


def test_bad_cells_are_refused(tagged: ad.AnnData) -> None:
    with pytest.raises(TypeError, match="adata must be an AnnData"):
        simulate_section(tagged.X, "kind")
    with pytest.raises(ValueError, match="must hold raw integer counts"):
        simulate_section(ad.AnnData(np.log1p(tagged.X.toarray()), obs=tagged.obs), "kind")
    empty = ad.AnnData(np.zeros((3, 4), np.float32), obs=pd.DataFrame({"kind": list("abc")}, index=list("xyz")))
    with pytest.raises(ValueError, match=r"must hold cells with counts, found none above 0 in 3 cells"):
        simulate_section(empty, "kind")
    tagged.obs["kind"] = tagged.obs["kind"].astype(object).where(np.arange(60) > 1, None)
    with pytest.raises(ValueError, match=r"found 2 of 60 without one. Leave them out"):
        simulate_section(tagged, "kind")


def test_many_spots_stay_sparse() -> None:
    rng = np.random.default_rng(0)
    counts = sparse.random_array(
        (400, 20_000), density=0.03, rng=rng, data_sampler=lambda size: rng.integers(1, 4, size)
    )
    obs = pd.DataFrame(
        {"kind": np.array(["a", "b"], dtype=object)[np.arange(400) % 2]}, index=[f"c{i}" for i in range(400)]
    )
    cells = ad.AnnData(sparse.csr_matrix(counts).astype(np.float32), obs=obs)
    section = simulate_section(cells, "kind", n_spots=2000, cells_per_spot=5, umi_per_spot=1000, ambient=0.05)
    assert section.X.nnz < 0.1 * section.n_obs * section.n_vars
