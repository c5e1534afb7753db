"""Domains are drawn as they were written, beside labels in matching colours."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anndata as ad
import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import adjusted_rand_score

import sclm

if TYPE_CHECKING:
    from collections.abc import Iterator

KEY = "sclm_domain"


@pytest.fixture
def divided() -> Iterator[ad.AnnData]:
    """Two sections of 36 spots with domains, one spot without; labels that agree but for their names and two spots."""
    grid = np.array([[x, y] for x in range(6) for y in range(6)], dtype=float)
    codes = np.tile((grid[:, 0] >= 2).astype(int) + (grid[:, 0] >= 4), 2)
    adata = ad.AnnData(np.ones((72, 2), dtype=np.float32), obsm={"spatial": np.tile(grid, (2, 1))})
    adata.obs["part"] = pd.Categorical(np.repeat(["left", "right"], 36))
    labels = np.array(["stroma", "tumour", "immune"], dtype=object)[codes]
    labels[[0, 40]] = "tumour"
    labels[5] = np.nan
    adata.obs["pathologist"] = pd.Categorical(labels)
    vectors = np.eye(3)[codes] * 5 + np.random.default_rng(0).normal(0, 0.1, (72, 3))
    vectors[70] = np.nan
    adata.obsm["X"] = vectors
    sclm.tl.domains(adata, use_rep="X", n_domains=3, library_key="part")
    yield adata
    plt.close("all")


def faces(ax: mpl.axes.Axes) -> set[str]:
    """Colours of the spots with a value."""
    return {mpl.colors.to_hex(c) for c in ax.collections[1].get_facecolors()}


def test_sections_beside_each_other(divided: ad.AnnData) -> None:
    before = (sorted(divided.obs), sorted(divided.uns))
    axes = sclm.pl.domains(divided)
    assert [ax.get_title() for ax in axes] == ["left", "right"]
    assert faces(axes[0]) == set(divided.uns[f"{KEY}_colors"])
    assert [len(ax.collections[0].get_offsets()) for ax in axes] == [0, 1]  # the spot without a vector, grey
    axes[0].figure.canvas.draw()
    legend = [text.get_text() for text in axes[0].figure.legends[0].get_texts()]
    assert legend == ["domain 0 (24)", "domain 1 (24)", "domain 2 (23)"]
    assert (sorted(divided.obs), sorted(divided.uns)) == before
    (one,) = sclm.pl.domains(divided, library="right")
    assert one.get_title() == "right"


def test_merged_domains_get_other_colours(divided: ad.AnnData) -> None:
    divided.obs[KEY] = divided.obs[KEY].astype(str).replace({"1": "0", "nan": np.nan}).astype("category")
    axes = sclm.pl.domains(divided)
    assert len(faces(axes[0])) == 2


def test_labels_have_the_colours_of_their_domains(divided: ad.AnnData) -> None:
    axes = sclm.pl.domains(divided, label_key="pathologist")
    assert len(axes) == 4
    both = divided.obs[[KEY, "pathologist"]].dropna()
    rand = adjusted_rand_score(both["pathologist"], both[KEY])
    assert axes[1].get_title().replace("\n", " ") == f"left: pathologist (ARI {rand:.2f})"
    colours = dict(zip(divided.obs[KEY].cat.categories, divided.uns[f"{KEY}_colors"], strict=True))
    domain = divided.obs.groupby("pathologist", observed=True)[KEY].agg(lambda v: v.mode()[0])
    drawn = [mpl.colors.to_hex(c) for c in axes[3].collections[1].get_facecolors()]
    labels = divided.obs["pathologist"][divided.obs["part"] == "right"]
    assert drawn == [colours[domain[name]] for name in labels]
    # Colours that the labels have already are kept.
    divided.uns["pathologist_colors"] = ["#111111", "#222222", "#333333"]
    axes = sclm.pl.domains(divided, label_key="pathologist")
    assert faces(axes[1]) == {"#111111", "#222222", "#333333"}


def test_more_labels_than_domains(divided: ad.AnnData) -> None:
    divided.obs["fine"] = [f"{label}{i % 2}" for i, label in enumerate(divided.obs["pathologist"].astype(str))]
    axes = sclm.pl.domains(divided, label_key="fine", library="right")
    assert len(faces(axes[1])) == 6


def test_entropy(divided: ad.AnnData) -> None:
    axes = sclm.pl.domains(divided, kind="entropy")
    drawn = axes[0].collections[1]
    np.testing.assert_allclose(drawn.get_array(), divided.obs[f"{KEY}_entropy"].to_numpy()[:36])
    assert drawn.get_clim() == (0, 1)


def test_what_is_not_there_is_said(divided: ad.AnnData) -> None:
    for options, error, text in (
        ({"kind": "map"}, ValueError, "kind must be one of 'domains', 'entropy', found 'map'"),
        ({"label_key": "no"}, KeyError, r"'no' is not in \.obs"),
        ({"label_key": "part", "kind": "entropy"}, ValueError, "drawn beside kind"),
        ({"key": "no"}, KeyError, "no result 'no' of sclm.tl.domains"),
        ({"library": "no"}, KeyError, "'left', 'right'"),
    ):
        with pytest.raises(error, match=text):
            sclm.pl.domains(divided, **options)
