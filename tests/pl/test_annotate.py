"""Figures show what was written."""

from __future__ import annotations

from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
import pytest

import sclm

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import anndata as ad


@pytest.fixture
def annotated(simulate: Callable[..., ad.AnnData]) -> Iterator[ad.AnnData]:
    """Types so alike that some answers are wrong."""
    query = simulate(120, strength=0.9, seed=2)
    sclm.tl.annotate(query, "mean", reference=simulate(400, strength=0.9, seed=1), label_key="cell_type")
    query.obsm["X_umap"] = np.random.default_rng(0).normal(size=(120, 2))
    yield query
    plt.close("all")


def test_annotate_draws_every_cell_twice(annotated: ad.AnnData) -> None:
    axes = sclm.pl.annotate(annotated)
    assert [len(ax.collections[0].get_offsets()) for ax in axes] == [120, 120]
    drawn = axes[1].collections[0]
    np.testing.assert_allclose(np.sort(drawn.get_array()), np.sort(annotated.obs["sclm_cell_type_confidence"]))
    legend = [t.get_text() for t in axes[0].get_legend().get_texts()]
    counts = annotated.obs["sclm_cell_type"].value_counts()
    assert legend == [f"{name} ({counts[name]})" for name in annotated.obs["sclm_cell_type"].cat.categories]
    axes[0].figure.canvas.draw()


def test_annotate_on_tissue(annotated: ad.AnnData) -> None:
    annotated.obsm["spatial"] = annotated.obsm["X_umap"] * 100
    axes = sclm.pl.annotate(annotated)
    assert axes[0].get_aspect() == 1
    assert axes[0].yaxis_inverted()
    np.testing.assert_allclose(
        np.sort(axes[0].collections[0].get_offsets()[:, 0]), np.sort(annotated.obsm["spatial"][:, 0])
    )
    umap = sclm.pl.annotate(annotated, basis="umap")
    assert not umap[0].yaxis_inverted()


def test_annotate_uses_stored_colours(annotated: ad.AnnData) -> None:
    annotated.uns["sclm_cell_type_colors"] = ["#ff0000", "#00ff00", "#0000ff", "#123456"]
    axes = sclm.pl.annotate(annotated)
    first = axes[0].collections[1].get_facecolor()[0]
    np.testing.assert_allclose(first[:3], [1, 0, 0])


def test_agreement_shows_shares(annotated: ad.AnnData) -> None:
    ax = sclm.pl.annotate_agreement(annotated, "cell_type")
    truth, predicted = annotated.obs["cell_type"].astype(str), annotated.obs["sclm_cell_type"].astype(str)
    pairs = {(t, p) for t, p in zip(truth, predicted, strict=True)}
    dots = ax.collections[0]
    assert len(dots.get_offsets()) == len(pairs)
    areas = dict(zip(map(tuple, dots.get_offsets().astype(int)), dots.get_sizes(), strict=True))
    diagonal = [areas[i, i] / 180 for i in range(4)]
    expected = [(predicted[truth == t] == t).mean() for t in sorted(truth.unique())]
    np.testing.assert_allclose(diagonal, expected)


def test_reliability_points(annotated: ad.AnnData) -> None:
    ax = sclm.pl.annotate_reliability(annotated, "cell_type", n_bins=5)
    correct = (annotated.obs["cell_type"].astype(str) == annotated.obs["sclm_cell_type"].astype(str)).to_numpy()
    confidence = annotated.obs["sclm_cell_type_confidence"].to_numpy()
    points = ax.collections[0].get_offsets()
    bins = np.clip(np.ceil(confidence * 5) - 1, 0, 4)
    expected = [(confidence[bins == b].mean(), correct[bins == b].mean()) for b in np.unique(bins)]
    np.testing.assert_allclose(points, expected)
    assert 0.3 < correct.mean() < 1
    assert f"{correct.mean():.1%} right" in ax.get_title()


def test_reliability_reads_free_labels_and_vague_answers(annotated: ad.AnnData) -> None:
    free = {"B cell": "CD19+ B", "T cell": "T lymphocytes", "natural killer cell": "NK", "monocyte": "mono"}
    annotated.obs["free"] = annotated.obs["cell_type"].astype(str).map(free)
    titles = [sclm.pl.annotate_reliability(annotated, k).get_title() for k in ("cell_type", "free")]
    assert titles[0] == titles[1]
    # An answer that is true but vague is right: all cells are leukocytes.
    annotated.obs["sclm_cell_type"] = "leukocyte"
    annotated.obs["sclm_cell_type_ontology_term_id"] = "CL:0000738"
    assert sclm.pl.annotate_reliability(annotated, "cell_type").get_title().startswith("100.0% right")
    annotated.obs["free"] = np.nan
    with pytest.raises(ValueError, match="found 0 to compare"):
        sclm.pl.annotate_reliability(annotated, "free")


def test_agreement_leaves_out_missing_labels(annotated: ad.AnnData) -> None:
    label = annotated.obs["cell_type"].astype(object)
    label.iloc[:60] = np.nan
    annotated.obs["part"] = label
    ax = sclm.pl.annotate_agreement(annotated, "part")
    rows = [t.get_text() for t in ax.get_yticklabels()]
    assert sum(int(r.rsplit("(", 1)[1].rstrip(")")) for r in rows) == 60
    assert not any("nan" in r for r in rows)


def test_many_types_get_their_own_colours(annotated: ad.AnnData) -> None:
    names = [f"type {i}" for i in range(120)]
    annotated.obs["sclm_cell_type"] = annotated.obs["sclm_cell_type"].cat.rename_categories(str).astype(object)
    annotated.obs["sclm_cell_type"] = names
    annotated.obs["sclm_cell_type"] = annotated.obs["sclm_cell_type"].astype("category")
    axes = sclm.pl.annotate(annotated)
    assert len({tuple(c) for c in axes[0].collections[0].get_facecolor()}) == 120
    assert len(axes[0].get_legend().get_texts()) == 44


def test_errors_name_what_is_missing(annotated: ad.AnnData, query: ad.AnnData) -> None:
    with pytest.raises(KeyError, match=r"'spatials'.*it has: 'sclm_cell_type_probabilities', 'X_umap'"):
        sclm.pl.annotate(annotated, basis="spatials")
    with pytest.raises(KeyError, match="no column 'truth'"):
        sclm.pl.annotate_agreement(annotated, "truth")
    with pytest.raises(KeyError, match=r"sclm\.tl\.annotate"):
        sclm.pl.annotate(annotated, key="other")
