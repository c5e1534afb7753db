"""Figures of generated cells beside real ones show both as they are."""

from __future__ import annotations

from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import sclm
from sclm.pl._pairs import binned_median, gene_moments, marker_table, pair_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import anndata as ad


@pytest.fixture
def pair(simulate: Callable[..., ad.AnnData]) -> Iterator[tuple[ad.AnnData, ad.AnnData]]:
    """Generated (other cells of the same simulation, genes in another order, some missing) and real cells."""
    real, generated = simulate(120, seed=1), simulate(80, seed=2)
    generated = generated[:, np.random.default_rng(0).permutation(110)].copy()
    generated.uns["sclm_generate"] = {"tool": "generate", "schema": 1, "params": {}}
    yield generated, real
    plt.close("all")


def dense(adata: ad.AnnData, genes: pd.Index) -> np.ndarray:
    return adata[:, genes].X.toarray()


def drawn(figure: object) -> None:
    figure.get_figure(root=True).canvas.draw()


@pytest.mark.slow  # the first UMAP of a process is compiled
def test_five_panels_in_one_figure_and_nothing_is_changed(pair: tuple[ad.AnnData, ad.AnnData]) -> None:
    generated, real = pair
    before = [generated.copy(), real.copy()]
    axes = sclm.pl.generate(generated, real)
    assert axes.shape == (5,)
    assert len({ax.get_figure(root=True) for ax in axes}) == 1
    drawn(axes[0].figure)
    for now, then in zip(pair, before, strict=True):
        assert list(now.obs) == list(then.obs)
        assert set(now.uns) == set(then.uns)
        assert list(now.obsm) == list(then.obsm) == []
        assert list(now.layers) == list(then.layers)
        assert (now.X != then.X).nnz == 0


@pytest.mark.slow  # the first UMAP of a process is compiled
def test_umap_draws_every_cell_once_and_the_same_again(pair: tuple[ad.AnnData, ad.AnnData]) -> None:
    generated, real = pair
    axes = sclm.pl.generate_umap(generated, real, seed=3)
    points = [ax.collections[0].get_offsets() for ax in axes]
    assert [len(p) for p in points] == [200, 200]
    np.testing.assert_array_equal(points[0], points[1])
    colours, n = np.unique(axes[0].collections[0].get_facecolor(), axis=0, return_counts=True)
    assert sorted(n) == [80, 120]
    assert len(colours) == 2
    assert [t.get_text() for t in axes[0].get_legend().get_texts()] == ["real (120)", "generated (80)"]
    legend = [t.get_text() for t in axes[1].get_legend().get_texts()]
    assert legend == sorted(real.obs["cell_type"].cat.categories)
    assert axes[1].get_title() == "cell_type"
    again = plt.subplots(1, 2)[1]
    sclm.pl.generate_umap(generated, real, seed=3, axes=again)
    np.testing.assert_array_equal(again[0].collections[0].get_offsets(), points[0])
    with pytest.raises(ValueError, match="axes must be two, by origin and by label; found 1"):
        sclm.pl.generate_umap(generated, real, axes=again[:1])


@pytest.mark.slow  # the first UMAP of a process is compiled
def test_umap_uses_stored_colours(pair: tuple[ad.AnnData, ad.AnnData]) -> None:
    generated, real = pair
    real.uns["cell_type_colors"] = ["#ff0000", "#00ff00", "#0000ff", "#123456"]
    axes = sclm.pl.generate_umap(generated, real)
    handles = axes[1].get_legend().legend_handles
    np.testing.assert_allclose(handles[0].get_facecolor()[0][:3], [1, 0, 0])


def test_gene_panels_show_means_variances_and_zeros(pair: tuple[ad.AnnData, ad.AnnData]) -> None:
    generated, real = pair
    genes = generated.var_names  # 110 of the 120
    mean_variance, dropout = sclm.pl.generate_mean_variance(generated, real), sclm.pl.generate_dropout(generated, real)
    for i, data in enumerate((real, generated)):
        x = dense(data, genes).astype(np.float64)
        x = x[:, x.var(axis=0) > 0]
        np.testing.assert_allclose(
            mean_variance.collections[i].get_offsets(), np.c_[x.mean(axis=0), x.var(axis=0)], rtol=1e-5
        )
        np.testing.assert_allclose(
            dropout.collections[i].get_offsets(), np.c_[x.mean(axis=0), (x == 0).mean(axis=0)], rtol=1e-5, atol=1e-12
        )
    assert (mean_variance.get_xscale(), mean_variance.get_yscale(), dropout.get_xscale()) == ("log", "log", "log")
    line = {a.get_label(): a for a in dropout.lines}["Poisson"]
    np.testing.assert_allclose(line.get_ydata(), np.exp(-line.get_xdata()))
    ax = plt.subplots()[1]
    assert sclm.pl.generate_dropout(generated, real, ax=ax) is ax
    assert sclm.pl.generate_mean_variance(generated, real, ax=ax) is ax


def test_medians_and_moments_leave_out_what_is_too_little() -> None:
    x = pd.Series(np.r_[np.full(6, 1.0), 100.0])
    np.testing.assert_array_equal(binned_median(x, 2 * x), ([1.0], [2.0]))
    assert [len(part) for part in binned_median(x[:0], x[:0])] == [0, 0]
    assert gene_moments(sparse.csr_matrix([[1.0, 0, 2], [1, 0, 0]])).index.tolist() == [2]


def test_markers_are_those_of_the_simulation_and_dots_what_cells_express(pair: tuple[ad.AnnData, ad.AnnData]) -> None:
    generated, real = pair
    found = marker_table(pair_of(generated, real, None, None), None, 3)
    types = list(real.obs["cell_type"].cat.categories)
    assert found.labels == sorted(types)
    order = ["B cell", "T cell", "natural killer cell", "monocyte"]  # of the programmes in `simulate`
    for gene, owner in zip(found.genes, found.owner, strict=True):
        assert real.var_names.get_loc(gene) // 10 == order.index(found.labels[owner])
    ax = sclm.pl.generate_markers(generated, real)
    dots = ax.collections[0]
    assert len(dots.get_offsets()) == 8 * 12
    sizes = dots.get_sizes().reshape(8, 12) / 115
    means = np.asarray(dots.get_array()).reshape(8, 12)
    for row in range(8):
        data = (real, generated)[row % 2]
        mine = dense(data, generated.var_names)[(data.obs["cell_type"] == found.labels[row // 2]).to_numpy()]
        log = np.log1p(1e4 * mine / mine.sum(axis=1, keepdims=True))[:, generated.var_names.get_indexer(found.genes)]
        np.testing.assert_allclose(sizes[row], (log > 0).mean(axis=0), atol=1e-6)
        np.testing.assert_allclose(means[row], log.mean(axis=0), rtol=1e-4)
    ticks = [t.get_text() for t in ax.get_yticklabels()]
    assert ticks[:2] == ["B cell   real", "generated"]


def test_given_markers_and_ensembl_ids(pair: tuple[ad.AnnData, ad.AnnData]) -> None:
    from sclm.knowledge import GeneIdentifiers

    generated, real = pair
    genes = list(generated.var_names[:3])
    ax = sclm.pl.generate_markers(generated, real, markers={"T cell": [genes[0], "none"], "B cell": genes[1:]})
    assert [t.get_text() for t in ax.get_xticklabels()] == [*genes[1:], genes[0]]
    with pytest.raises(ValueError, match="labels that both have"):
        sclm.pl.generate_markers(generated, real, markers={"neuron": genes})
    for data in pair:
        ids = GeneIdentifiers.load("human").to_ensembl(data.var_names)
        data.var_names = [i or f"X{j}" for j, i in enumerate(ids)]
    ax = sclm.pl.generate_markers(generated, real, markers={"T cell": [generated.var_names[0]]})
    assert [t.get_text() for t in ax.get_xticklabels()] == genes[:1]


@pytest.mark.slow  # the first UMAP of a process is compiled
def test_without_labels_all_cells_are_one_group(pair: tuple[ad.AnnData, ad.AnnData]) -> None:
    generated, real = pair
    del generated.obs["cell_type"]
    axes = sclm.pl.generate(generated, real)
    assert [t.get_text() for t in axes[4].get_yticklabels()] == ["real", "generated"]
    assert len(axes[4].get_xticklabels()) == 15
    drawn(axes[0].figure)


@pytest.mark.slow  # the first UMAP of a process is compiled
def test_many_long_names_with_slashes_and_rare_ones(simulate: Callable[..., ad.AnnData]) -> None:
    names = tuple(f"CD4-positive/CD8-negative, alpha-beta regulatory T cell {i}" for i in range(12))
    real, generated = simulate(240, types=names, seed=1), simulate(120, types=names, seed=2)
    real.obs["cell_type"] = real.obs["cell_type"].astype(object)
    real.obs.iloc[0, 0] = "seen once"
    generated.obs["cell_type"] = generated.obs["cell_type"].astype(object)
    generated.obs.iloc[:2, 0] = ["seen once", np.nan]
    generated.uns["other"] = {"tool": "generate"}
    axes = sclm.pl.generate(generated, real, key="other", n_markers=2)
    assert len(axes[4].get_yticklabels()) == 2 * 13
    legend = {t.get_text().replace("\n", "").replace(" ", "") for t in axes[1].get_legend().get_texts()}
    assert legend == {n.replace(" ", "") for n in (*names, "seen once", "unknown")}
    drawn(axes[0].figure)
    plt.close("all")


def test_a_layer_of_the_real_cells(pair: tuple[ad.AnnData, ad.AnnData]) -> None:
    generated, real = pair
    before = sclm.pl.generate_dropout(generated, real).collections[0].get_offsets()
    real.layers["counts"] = real.X.copy()
    real.X = real.X.log1p()
    after = sclm.pl.generate_dropout(generated, real, layer="counts").collections[0].get_offsets()
    np.testing.assert_array_equal(after, before)
    with pytest.raises(ValueError, match="raw"):
        sclm.pl.generate_dropout(generated, real)


def test_what_is_missing_is_named(pair: tuple[ad.AnnData, ad.AnnData]) -> None:
    generated, real = pair
    with pytest.raises(KeyError, match=r"no result 'nothing' of sclm\.tl\.generate.*under 'sclm_generate'"):
        sclm.pl.generate(generated, real, key="nothing")
    with pytest.raises(KeyError, match=r"generated cells have no column \.obs\['tissue'\]; they have: 'cell_type'"):
        sclm.pl.generate(generated, real, label_key="tissue")
    with pytest.raises(ValueError, match="There are no real cells to draw, found 0"):
        sclm.pl.generate_umap(generated, real[:0])
    with pytest.raises(ValueError, match="n_markers must be at least 1, found 0"):
        sclm.pl.generate_markers(generated, real, n_markers=0)
    strange = real.copy()
    strange.var_names = [f"X{i}" for i in range(strange.n_vars)]
    with pytest.raises(ValueError, match="share at least 10 genes, found 0 of 110 and 120"):
        sclm.pl.generate_dropout(generated, strange)
    other = real.copy()
    other.obs["cell_type"] = "neuron"
    with pytest.raises(ValueError, match=r"share a label in \.obs\['cell_type'\], found none"):
        sclm.pl.generate_markers(generated, other)
