"""Simulated tumour subtypes with known programmes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest

from sclm.metrics import generation

if TYPE_CHECKING:
    from collections.abc import Callable

    import anndata

SUBTYPES = ("basal", "her2", "luminal", "normal-like")


@pytest.fixture(scope="module")
def real(simulate: Callable[..., anndata.AnnData]) -> anndata.AnnData:
    return simulate(200, types=SUBTYPES, strength=4.0, seed=1)


@pytest.fixture(scope="module")
def made(simulate: Callable[..., anndata.AnnData]) -> anndata.AnnData:
    return simulate(120, types=SUBTYPES, strength=4.0, seed=2)


def test_true_subtypes_are_recognised(real: anndata.AnnData, made: anndata.AnnData) -> None:
    signatures = {s: list(real.var_names[10 * i : 10 * (i + 1)]) for i, s in enumerate(SUBTYPES)}
    signatures["basal"].append("no such gene")
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    found = generation.subtypes(real, made, subtype_key="cell_type", signatures=signatures)
    np.testing.assert_array_equal(state, np.random.get_state()[1])  # noqa: NPY002
    summary = found.summary.iloc[0]
    assert summary["n_subtypes"] == 4
    assert (summary["own_nearest"], summary["own_nearest_centred"]) == (1.0, 1.0)
    assert summary["own_r_centred"] > 0.9
    assert summary["accuracy"] > 0.95
    assert summary["accuracy_real"] > 0.95
    assert list(found.nearest["subtype"]) == sorted(SUBTYPES)
    assert (found.nearest["margin_centred"] > 0.5).all()
    assert (found.nearest["n_generated"] == 30).all()
    np.testing.assert_allclose(found.confusion.sum(axis=1), 1.0)
    order = found.signature_order.set_index("signature")
    assert (order.loc["basal", "n_genes"], order.loc["basal", "n_missing"]) == (10, 1)
    scores = found.signatures
    for side in ("real", "generated"):
        best = scores.loc[scores.groupby("signature")[side].idxmax()]
        assert (best["signature"] == best["subtype"]).all()


def test_centroids_are_the_definition(real: anndata.AnnData, made: anndata.AnnData) -> None:
    found = generation.subtypes(real, made, subtype_key="cell_type")
    keep = np.asarray((real.X > 0).mean(axis=0)).ravel() > 0.01

    def centroids(adata: anndata.AnnData) -> pd.DataFrame:
        counts = adata.X.toarray().astype(np.float64)
        log = np.log1p(counts / counts.sum(axis=1, keepdims=True) * 1e4)[:, keep]
        return pd.DataFrame(log).groupby(adata.obs["cell_type"].astype(str).to_numpy()).mean()

    x, y = centroids(real), centroids(made)
    for table, (a, b) in (
        (found.correlation, (x, y)),
        (found.correlation_centred, (x - x.mean(), y - y.mean())),
    ):
        np.testing.assert_allclose(table, np.corrcoef(b, a)[:4, 4:])
        assert list(table.index) == list(table.columns) == sorted(SUBTYPES)
    assert len(found.signatures) == len(found.signature_order) == 0
    assert np.isnan(found.summary.loc[0, "signature_rho"])


def test_swapped_and_flat_subtypes(real: anndata.AnnData, made: anndata.AnnData) -> None:
    swapped = made.copy()
    swapped.obs["cell_type"] = made.obs["cell_type"].cat.rename_categories({"basal": "her2", "her2": "basal"})
    found = generation.subtypes(real, swapped, subtype_key="cell_type")
    nearest = found.nearest.set_index("subtype")
    assert nearest.loc["basal", "nearest_centred"] == "her2"
    assert nearest.loc["basal", "margin_centred"] < 0
    assert found.summary.loc[0, "own_nearest"] == 0.5
    assert found.summary.loc[0, "accuracy"] == pytest.approx(0.5, abs=0.05)

    flat = made.copy()
    flat.obs["cell_type"] = np.random.default_rng(0).permutation(made.obs["cell_type"].astype(str))
    found = generation.subtypes(real, flat, subtype_key="cell_type").summary.loc[0]
    assert found["own_r"] > 0.5  # what all subtypes share
    assert found["own_r_centred"] < 0.6
    assert found["accuracy"] < 0.45


def test_signature_scores_are_scanpys(real: anndata.AnnData, made: anndata.AnnData) -> None:
    import anndata
    import scanpy as sc

    genes = list(real.var_names[:10])
    found = generation.subtypes(real, made, subtype_key="cell_type", signatures={"one": genes})
    both = anndata.concat([real, made], keys=["real", "generated"], label="side", index_unique="-")
    sc.pp.normalize_total(both, target_sum=1e4)
    sc.pp.log1p(both)
    sc.tl.score_genes(both, genes, ctrl_size=len(both.var_names), random_state=None)
    expected = both.obs.groupby(["side", "cell_type"], observed=True)["score"].mean()
    for side in ("real", "generated"):
        scores = found.signatures.set_index("subtype")[side]
        np.testing.assert_allclose(scores, expected[side].loc[scores.index], rtol=1e-3)


def test_a_signature_of_a_small_panel(real: anndata.AnnData, made: anndata.AnnData) -> None:
    """Most of the panel is the signature: all other genes are the controls."""
    genes = list(real.var_names[:118])
    found = generation.subtypes(real, made, subtype_key="cell_type", signatures={"most": genes})
    assert np.isfinite(found.signatures[["real", "generated"]].to_numpy()).all()


def test_errors_say_what_was_found(real: anndata.AnnData, made: anndata.AnnData) -> None:
    with pytest.raises(ValueError, match="signature 'x' must name genes of the data, found none of its 2"):
        generation.subtypes(real, made, subtype_key="cell_type", signatures={"x": ["foo", "bar"]})
    with pytest.raises(ValueError, match="genes outside the signature"):
        generation.subtypes(real, made, subtype_key="cell_type", signatures={"x": list(real.var_names)})
    one = made[made.obs["cell_type"] == "basal"].copy()
    with pytest.raises(ValueError, match="share at least 2 subtypes"):
        generation.subtypes(real, one, subtype_key="cell_type")
    with pytest.raises(KeyError, match="subtype"):
        generation.subtypes(real, made, subtype_key="subtype")
