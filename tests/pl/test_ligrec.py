"""Figures of signals: dots are the table's, maps are the spots'."""

from __future__ import annotations

from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
import pytest

import sclm

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import anndata as ad

KEY = "sclm_ligrec"


@pytest.fixture(scope="module")
def tissue(tumour_section: Callable[..., ad.AnnData]) -> ad.AnnData:
    section = tumour_section(16, planted=1.5)
    sclm.tl.ligrec(section, groups="tissue", adjust="tissue", n_permutations=199)
    return section


@pytest.fixture
def section(tissue: ad.AnnData) -> Iterator[ad.AnnData]:
    yield tissue.copy()
    plt.close("all")


def test_dots_are_the_table(section: ad.AnnData) -> None:
    (ax,) = sclm.pl.ligrec(section, n_pairs=3)
    table = sclm.get.ligrec(section)
    pairs = [f"{a} → {b}" for a, b in zip(table["ligand"], table["receptor"], strict=True)]
    first = list(dict.fromkeys(pairs))[:3]
    assert [text.get_text() for text in ax.get_yticklabels()] == first
    heads = [text.get_text() for text in ax.get_xticklabels()]
    assert len(heads) == 4
    dots = ax.collections[0]
    found = {
        (first[round(y)], heads[round(x)]): (z, size)
        for (x, y), z, size in zip(dots.get_offsets(), dots.get_array(), dots.get_sizes(), strict=True)
    }
    assert len(found) == 12
    for row, pair in zip(table.itertuples(), pairs, strict=True):
        if pair in first:
            z, size = found[pair, f"{row.source} → {row.target}"]
            assert z == pytest.approx(row.z)
            assert size == pytest.approx(130 * -np.log10(row.pval) / -np.log10(table["pval"].min()))


def test_groups_can_be_chosen(section: ad.AnnData) -> None:
    (ax,) = sclm.pl.ligrec(section, source="tumour", target=["stroma"])
    assert [text.get_text() for text in ax.get_xticklabels()] == ["tumour → stroma"]
    with pytest.raises(KeyError, match=r"'tumor' is no source of this result; it has 'stroma', 'tumour'"):
        sclm.pl.ligrec(section, source="tumor")
    with pytest.raises(ValueError, match="no tested pair to draw"):
        sclm.pl.ligrec(section, n_pairs=0)


def test_a_pair_on_the_section(section: ad.AnnData) -> None:
    axes = sclm.pl.ligrec(section, ("CXCL12", "CXCR4"))
    assert [ax.get_title() for ax in axes] == ["CXCL12", "CXCR4", "side by side"]
    spots = sclm.get.ligrec_spots(section)["CXCL12 → CXCR4"].to_numpy()
    circles = axes[2].collections[-2]  # the last are lines
    np.testing.assert_allclose(np.sort(circles.get_array()), np.sort(spots), rtol=1e-6)
    lines = axes[2].collections[-1]
    edges = sclm.get.ligrec_edges(section, "CXCL12", "CXCR4")
    assert len(lines.get_segments()) == min(len(edges), 400)
    best = edges.iloc[0]
    place = dict(zip(section.obs_names, section.obsm["spatial"], strict=True))
    np.testing.assert_allclose(lines.get_segments()[0], [place[best["sender"]], place[best["receiver"]]])


def test_what_is_wrong_is_named(section: ad.AnnData) -> None:
    with pytest.raises(ValueError, match="pair must be the ligand and the receptor, found 'CXCL12'"):
        sclm.pl.ligrec(section, "CXCL12")
    with pytest.raises(KeyError, match="CXCL12 → CD44 is no pair"):
        sclm.pl.ligrec(section, ("CXCL12", "CD44"))
    with pytest.raises(KeyError, match="pass key="):
        sclm.pl.ligrec(section, key="other")
