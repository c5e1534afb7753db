"""The figure of an embedding beside principal components."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

import sclm

if TYPE_CHECKING:
    import anndata as ad


@pytest.fixture
def embedded(query: ad.AnnData, monkeypatch: pytest.MonkeyPatch) -> ad.AnnData:
    """Vectors that know the type, and one cell without a vector; maps are the first two columns."""
    monkeypatch.setattr("sclm.pl._embed._umap", lambda points, seed: points[:, :2])
    vectors = np.eye(4, dtype=np.float32)[query.obs["cell_type"].cat.codes]
    vectors += np.random.default_rng(0).normal(0, 0.01, vectors.shape).astype(np.float32)
    vectors[5] = np.nan
    entry = sclm.results.record("embed", model={"family": "toy"}, params={})
    sclm.results.write(query, "X_toy", entry, obsm={"X_toy": vectors})
    return query


def test_encoder_beside_principal_components(embedded: ad.AnnData) -> None:
    import matplotlib.pyplot as plt

    before = embedded.copy()
    left, right = sclm.pl.embed(embedded, "cell_type")
    assert left.get_title() == "toy · same cell_type among neighbours: 1.00"
    assert right.get_title().startswith("principal components · same cell_type")
    assert all(
        len(ax.collections[0].get_offsets()) == 119 for ax in (left, right)
    )  # without the cell that has no vector
    names = [text.get_text() for text in right.get_legend().get_texts()]
    assert len(names) == 4
    assert set(embedded.obsm) == set(before.obsm)
    assert set(embedded.uns) == set(before.uns)
    plt.close("all")


def test_numbers_have_a_colour_bar(embedded: ad.AnnData) -> None:
    import matplotlib.pyplot as plt

    embedded.obs["depth"] = np.asarray(embedded.X.sum(axis=1)).ravel()
    axes = sclm.pl.embed(embedded, "depth", key="X_toy")
    assert axes[0].get_title() == "toy"
    assert axes[1].get_legend() is None
    assert len(axes[0].figure.axes) == 3
    plt.close("all")


def test_what_is_missing_is_named(embedded: ad.AnnData, reference: ad.AnnData) -> None:
    with pytest.raises(KeyError, match="'nothing'"):
        sclm.pl.embed(embedded, "nothing")
    with pytest.raises(KeyError, match="found none"):
        sclm.pl.embed(reference, "cell_type")
