"""tl.translate on public CITE-seq of blood."""

from __future__ import annotations

import os
from pathlib import Path

import anndata as ad
import numpy as np
import pytest

import sclm
from sclm.cells import scale_proteins

DATA = Path(os.environ.get("SCLM_REAL_DATA", "no such folder")) / "cite"
pytestmark = pytest.mark.real


def blood() -> ad.AnnData:
    file = DATA / "citefuse_pbmc500.h5ad"
    if not file.is_file():
        pytest.skip("SCLM_REAL_DATA holds no cite/citefuse_pbmc500.h5ad")
    return ad.read_h5ad(file)


def test_ridge_on_held_out_cells_of_one_donor() -> None:
    adata = blood()
    test = np.zeros(500, dtype=bool)
    test[np.random.default_rng(0).permutation(500)[:150]] = True
    query, reference = adata[test].copy(), adata[~test].copy()
    sclm.tl.translate(query, reference=reference, protein_key="protein", gene_key="symbol", reference_gene_key="symbol")
    names = list(query.uns["sclm_protein"]["names"])
    truth = scale_proteins(query.obsm["protein"].to_numpy(), "clr")
    found = dict(zip(names, sclm.metrics.translation.pearson(truth, query.obsm["sclm_protein"]), strict=True))
    assert found["CD8"] > 0.65
    assert found["CD11b"] > 0.65
    assert 0.35 < np.nanmean(list(found.values())) < 0.5
    expected = sclm.get.translate_expected(query)
    # What was promised is what came, on average over proteins; and nine in ten cells lie in their interval.
    assert abs(expected["correlation"].mean() - np.nanmean(list(found.values()))) < 0.06
    half = expected["half_width_90"].to_numpy(dtype=float)
    covered = sclm.metrics.translation.coverage(truth, query.obsm["sclm_protein"], half)
    assert 0.85 < covered.mean() < 0.96
    assert expected["correlation"].mean() > expected["correlation_own_gene"].mean() + 0.05
    assert set(expected.loc[expected["genes"] == "", "protein"]) == {"IgG1", "IgG2a"}


def test_panels_of_two_laboratories_meet() -> None:
    adata = blood()
    file = DATA / "pbmc_10k_protein_v3_200.h5ad"
    if not file.is_file():
        pytest.skip("SCLM_REAL_DATA holds no cite/pbmc_10k_protein_v3_200.h5ad")
    other = ad.read_h5ad(file)
    model = sclm.train("ridge-protein", adata, protein_key="protein", gene_key="symbol", genes=other.var_names)
    asked = [n for n in other.obsm["protein"].columns if n.split("_")[0] in ("CD3", "CD4", "CD8a", "CD14", "CD19")]
    sclm.tl.translate(other, model, proteins=asked)
    truth = scale_proteins(other.obsm["protein"][asked].to_numpy(), "clr")
    found = sclm.metrics.translation.pearson(truth, sclm.get.translate(other).to_numpy())
    assert found.min() > 0.3
