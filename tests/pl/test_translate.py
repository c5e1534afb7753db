"""Figures of predicted proteins: what they draw, and what they refuse."""

from __future__ import annotations

from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

import sclm

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import anndata as ad


@pytest.fixture(autouse=True)
def _close() -> Iterator[None]:
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def translated(simulate: Callable[..., ad.AnnData]) -> ad.AnnData:
    """With measured proteins of another panel's spelling. Tests must not change it."""
    made = []
    for seed, names in ((1, ["CD3_TotalSeqB", "CD19_TotalSeqB", "IgG1"]), (2, ["CD19", "IgG1", "CD3"])):
        adata = simulate(150, seed=seed)
        x = np.asarray(adata.X.todense())
        rate = {"CD3": x[:, :10].sum(axis=1), "CD19": x[:, 10:20].sum(axis=1), "IgG1": np.full(150, 5.0)}
        values = np.column_stack([rate[n.removesuffix("_TotalSeqB")] for n in names]) + 1
        table = pd.DataFrame(np.random.default_rng(seed).poisson(values), index=adata.obs_names, columns=names)
        adata.obsm["protein"] = table
        made.append(adata)
    sclm.tl.translate(made[1], reference=made[0], protein_key="protein")
    return made[1]


def test_predicted_against_measured(translated: ad.AnnData) -> None:
    axes = sclm.pl.translate(translated, "protein")
    assert len(axes) == 3
    titles = [ax.get_title() for ax in axes]
    assert {t.partition("\n")[0] for t in titles} == {"CD3_TotalSeqB", "CD19_TotalSeqB", "IgG1"}
    points = axes[0].collections[-1].get_offsets()
    assert len(points) == 150
    from sclm.cells import scale_proteins

    name = titles[0].partition("\n")[0]
    truth = scale_proteins(translated.obsm["protein"][["CD3", "CD19", "IgG1"]].to_numpy(), "clr")
    column = ["CD3_TotalSeqB", "CD19_TotalSeqB", "IgG1"].index(name)
    np.testing.assert_allclose(points[:, 0], truth[:, column], atol=1e-5)
    np.testing.assert_allclose(points[:, 1], translated.obsm["sclm_protein"][:, column], atol=1e-5)
    one = sclm.pl.translate(translated, "protein", proteins=["IgG1"])
    assert one[0].get_title().startswith("IgG1")


@pytest.mark.parametrize("scale", ["clr", "minmax"])
def test_measured_proteins_are_scaled_over_the_panel_whichever_were_asked_for(
    translated: ad.AnnData, simulate: Callable[..., ad.AnnData], scale: str
) -> None:
    from sclm.cells import scale_proteins

    reference = simulate(150, seed=1)
    reference.obsm["protein"] = translated.obsm["protein"].set_axis(reference.obs_names)
    model = sclm.train("ridge-protein", reference, protein_key="protein", scale=scale)
    query = translated.copy()
    query.obsm["protein"]["CD4"] = 50.0  # measured here and not in the panel: no part of its scale
    sclm.tl.translate(query, model, proteins=["CD19", "CD3"])
    axes = sclm.pl.translate(query, "protein", proteins=["CD3", "CD19"])
    truth = scale_proteins(query.obsm["protein"][["CD19", "IgG1", "CD3"]].to_numpy(), scale)
    for ax, column in zip(axes, (2, 0), strict=True):
        np.testing.assert_allclose(ax.collections[-1].get_offsets()[:, 0], truth[:, column], atol=1e-5)
    one = sclm.pl.translate(query, "protein", proteins=["CD3"])  # a single protein beside itself would always be 0
    np.testing.assert_allclose(one[0].collections[-1].get_offsets()[:, 0], truth[:, 2], atol=1e-5)
    del query.uns["sclm_protein"]["panel"]  # published weights have none: all that were measured
    whole = scale_proteins(query.obsm["protein"].to_numpy(), scale)
    axes = sclm.pl.translate(query, "protein", proteins=["CD3"])
    np.testing.assert_allclose(axes[0].collections[-1].get_offsets()[:, 0], whole[:, 2], atol=1e-5)


def test_expected_correlations_beside_the_baselines(translated: ad.AnnData) -> None:
    ax = sclm.pl.translate_expected(translated)
    widths = [bar.get_width() for bar in ax.patches]
    table = sclm.get.translate_expected(translated).sort_values("correlation", ascending=False)
    np.testing.assert_allclose(widths, table["correlation"], atol=1e-6)
    labels = [t.get_text() for t in ax.get_legend().get_texts()]
    assert set(labels) == {"ridge-protein", "own gene's RNA"}  # the bars are ridge regression itself
    assert len(sclm.pl.translate_expected(translated, max_proteins=2).patches) == 2


def test_what_is_refused(translated: ad.AnnData, query: ad.AnnData) -> None:
    with pytest.raises(KeyError, match=r"sclm\.tl\.translate first"):
        sclm.pl.translate(query, "protein")
    with pytest.raises(KeyError, match="protein_key='prot'"):
        sclm.pl.translate(translated, "prot")
    with pytest.raises(KeyError, match="'CD4' was not both"):
        sclm.pl.translate(translated, "protein", proteins=["CD4"])
    other = translated.copy()
    other.obsm["protein"].columns = ["CD33", "CD34", "CD38"]
    with pytest.raises(ValueError, match="no protein was both predicted and measured"):
        sclm.pl.translate(other, "protein")
    del other.uns["sclm_protein"]["expected"]
    with pytest.raises(KeyError, match="without measured proteins"):
        sclm.pl.translate_expected(other)
    with pytest.raises(KeyError, match="without measured proteins"):
        sclm.get.translate_expected(other)
