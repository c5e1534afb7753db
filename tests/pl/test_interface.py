"""Figures and tables of interfaces: what is drawn is what the tool wrote."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anndata as ad
import matplotlib.pyplot as plt
import numpy as np
import pytest

import sclm

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

KEY = "sclm_interface"


@pytest.fixture(scope="module")
def tissue(tumour_section: Callable[..., ad.AnnData]) -> ad.AnnData:
    section = tumour_section(16)
    sclm.tl.interface(section, "tumour", groups="fractions")
    sclm.tl.ligrec(section, adjust="tissue", n_permutations=49)
    return section


@pytest.fixture
def section(tissue: ad.AnnData) -> Iterator[ad.AnnData]:
    yield tissue.copy()
    plt.close("all")


def test_profiles_are_means_of_bins(section: ad.AnnData) -> None:
    table = sclm.get.interface_profile(section, "tumour", bin_width=100.0)
    assert set(table["kind"]) == {"group"}
    assert table["distance"].is_monotonic_increasing
    share = section.obsm["fractions"]["tumour"].to_numpy()
    distance = section.obs[f"{KEY}_distance"].to_numpy(dtype=float)
    for row in table.itertuples():
        low, high = row.distance - 50, row.distance + 50
        if row.distance > 0:  # (low, high]
            own = share[(distance > low + 1e-3) & (distance <= high + 1e-3)]
        else:
            own = share[(distance >= low - 1e-3) & (distance < high - 1e-3)]
        assert row.n_spots == len(own) >= 5
        assert row.mean == pytest.approx(own.mean())
        assert row.se == pytest.approx(own.std(ddof=1) / np.sqrt(len(own)))
    assert table["mean"].iloc[0] > 0.7 > 0.2 > table["mean"].iloc[-1]
    near = sclm.get.interface_profile(section, "tumour", bin_width=100.0, max_distance=250.0)
    assert near["distance"].abs().max() < 300


def test_genes_columns_and_signals_can_be_followed(section: ad.AnnData) -> None:
    section.obs["depth"] = np.asarray(section.X.sum(axis=1)).ravel()
    names = ["tumour", "depth", "CXCL12", "SPP1 → CD44"]
    table = sclm.get.interface_profile(section, names)
    kinds = table.drop_duplicates("name").set_index("name")["kind"].to_dict()
    assert kinds == dict(zip(names, ["group", "column", "gene", "signal"], strict=True))
    counts = section.to_df()
    logs = np.log1p(1e4 * counts.div(counts.sum(axis=1), axis=0))["CXCL12"]
    bins = table[table["name"] == "CXCL12"]
    assert np.average(bins["mean"], weights=bins["n_spots"]) == pytest.approx(logs.mean(), rel=0.05)
    axes = sclm.pl.interface(section, names)
    assert [ax.get_ylabel() for ax in axes] == [
        "share of the group", "value", "log-normalised expression", "mean of ligand × receptor",
    ]  # fmt: skip
    line = axes[2].get_lines()[-1]
    np.testing.assert_allclose(line.get_ydata(), bins["mean"])
    assert axes[0].get_xlabel().endswith("tumour ←  → everything else")


def test_all_groups_are_drawn_where_none_are_named(section: ad.AnnData) -> None:
    (ax,) = sclm.pl.interface(section)
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["tumour", "stroma", "T cell"]


@pytest.mark.parametrize("kind", ["zone", "distance", "score", "share"])
def test_maps_show_every_spot(section: ad.AnnData, kind: str) -> None:
    before = section.copy()
    (ax,) = sclm.pl.interface(section, kind=kind)
    assert sum(len(c.get_offsets()) for c in ax.collections) == section.n_obs
    assert list(section.obs.columns) == list(before.obs.columns)
    if kind == "zone":
        names = [text.get_text() for text in ax.figure.legends[0].get_texts()]
        counts = section.obs[KEY].value_counts()
        assert names == [f"{zone} ({counts[zone]})" for zone in ("core", "interface", "outer")]
    if kind == "distance":
        low, high = ax.collections[-1].get_clim()
        assert low == -high


def test_sections_have_a_panel_each(tumour_section: Callable[..., ad.AnnData]) -> None:
    one, two = tumour_section(12, seed=1, name="a"), tumour_section(12, seed=2, name="b")
    both = ad.concat([one, two], label="library", keys=["one", "two"])
    sclm.tl.interface(both, "tumour", groups="tissue", library_key="library")
    axes = sclm.pl.interface(both, kind="score")
    assert [ax.get_title() for ax in axes] == ["one", "two"]
    assert len(sclm.pl.interface(both, kind="score", library="two")) == 1
    plt.close("all")


def test_what_is_wrong_is_named(section: ad.AnnData) -> None:
    with pytest.raises(ValueError, match="kind must be one of 'profile'"):
        sclm.pl.interface(section, kind="line")
    with pytest.raises(ValueError, match='names are what kind="profile" follows'):
        sclm.pl.interface(section, "tumour", kind="zone")
    with pytest.raises(
        KeyError, match=r"'nothing' is no group \('tumour', 'stroma', 'T cell'\).* such as 'CD274 → PDCD1'"
    ):
        sclm.pl.interface(section, ["tumour", "nothing"])
    with pytest.raises(KeyError, match=r"Results of interface are under 'sclm_interface': pass key="):
        sclm.pl.interface(section, key="other")
    with pytest.raises(ValueError, match="bin_width must be a distance above 0"):
        sclm.get.interface_profile(section, bin_width=0)
    with pytest.raises(ValueError, match="no bin of width 1 has 5 spots"):
        sclm.get.interface_profile(section, bin_width=1.0, max_distance=10.0)
