"""Exports against the rules of the CELLxGENE schema 7.1.0, written out here; and against its validator where that is installed."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from typing import TYPE_CHECKING, Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

import sclm

if TYPE_CHECKING:
    from pathlib import Path

FIELDS: dict[str, str | bool] = {
    "assay_ontology_term_id": "EFO:0009922", "development_stage_ontology_term_id": "HsapDv:0000258", "disease_ontology_term_id": "PATO:0000461",
    "donor_id": "donor 1", "is_primary_data": True, "self_reported_ethnicity_ontology_term_id": "unknown", "sex_ontology_term_id": "PATO:0000383",
    "suspension_type": "cell", "tissue_ontology_term_id": "UBERON:0000178", "tissue_type": "tissue",
}  # fmt: skip
# Schema 7.1.0, human: what one value of each field may be (prefixes and enumerations; kinds of terms need the ontologies).
ALLOWED = {
    "assay_ontology_term_id": r"EFO:\d{7}",
    "cell_type_ontology_term_id": r"CL:\d{7}|unknown",
    "development_stage_ontology_term_id": r"HsapDv:\d{7}|unknown|na",
    "disease_ontology_term_id": r"PATO:0000461|MONDO:\d{7}( \|\| MONDO:\d{7})*",
    "donor_id": r"(?!na$).+",
    "self_reported_ethnicity_ontology_term_id": r"(HANCESTRO|AfPO):\d+( \|\| (HANCESTRO|AfPO):\d+)*|unknown|na",
    "sex_ontology_term_id": r"PATO:000038[34]|unknown",
    "suspension_type": r"cell|nucleus|na",
    "tissue_ontology_term_id": r"UBERON:\d{7}",
    "tissue_type": r"tissue|organoid|primary cell culture|cell line",
}
# Written by the portal from the terms; a submission must not hold them.
PORTAL_OBS = {
    "assay",
    "cell_type",
    "development_stage",
    "disease",
    "self_reported_ethnicity",
    "sex",
    "tissue",
    "organism",
    "observation_joinid",
}
PORTAL_VAR = {"feature_name", "feature_reference", "feature_biotype", "feature_length", "feature_type"}
PORTAL_UNS = {"schema_version", "schema_reference", "citation"}


def broken_rules(adata: ad.AnnData) -> list[str]:
    """Rules of the schema that a submission breaks."""
    obs, found = adata.obs, []

    def rule(holds: Any, text: str) -> None:
        if not holds:
            found.append(text)

    for name, pattern in ALLOWED.items():
        rule(name in obs, f"{name} is there")
        if name in obs:
            rule(isinstance(obs[name].dtype, pd.CategoricalDtype), f"{name} is categorical")
            rule(all(re.fullmatch(pattern, str(v)) for v in obs[name].unique()), f"{name} is allowed")
    rule(obs["is_primary_data"].dtype == bool, "is_primary_data is bool")
    rule(not PORTAL_OBS & set(obs), "no column of the portal")
    rule("organism_ontology_term_id" not in obs, "the organism is in .uns since schema 6")
    rule(not [c for c in obs if str(c).startswith("__")], "no name with two underscores in front")
    for name in obs:
        if isinstance(obs[name].dtype, pd.CategoricalDtype):
            rule(set(obs[name].cat.categories) == set(obs[name].dropna()), f"no unused categories in {name}")
            kinds = {type(v) for v in obs[name].cat.categories}
            rule(len(kinds) == 1 and not kinds & {bool, np.bool_}, f"categories of {name} are of one kind and no bool")
    rule(obs.index.is_unique, "names of cells differ")

    raw = adata.raw
    rule(raw is not None, "raw counts are in .raw")
    for matrix in (adata.X, raw.X):
        rule(isinstance(matrix, sp.csr_matrix | sp.csr_array), "a matrix with many zeros is CSR")
    rule(raw.X.dtype == np.float32, "raw counts are float32")
    rule(
        (raw.X.data > 0).all() and (raw.X.data == np.rint(raw.X.data)).all(),
        "values of raw counts are positive whole numbers",
    )
    dense = raw.X.toarray()
    rule(dense.any(axis=1).all(), "every cell has a count")
    rule(len(np.unique(dense, axis=0)) == len(dense), "no two cells are the same")
    rule(raw.X.has_canonical_format, "no entry stands twice")
    rule(list(raw.var_names) == list(adata.var_names), "genes are the same in .raw")
    rule(
        adata.var_names.is_unique and all(re.fullmatch(r"ENSG\d{11}", g) for g in adata.var_names),
        "genes are Ensembl ids without version",
    )
    rule(adata.var["feature_is_filtered"].dtype == bool, "feature_is_filtered is bool")
    rule("feature_is_filtered" not in raw.var, "and not in .raw.var")
    rule(not PORTAL_VAR & (set(adata.var) | set(raw.var)), "no column of the portal in .var")

    uns = adata.uns
    rule(uns.get("organism_ontology_term_id") == "NCBITaxon:9606", "the organism is human")
    rule(isinstance(uns.get("title"), str) and uns["title"].strip() == uns["title"] != "", "there is a title")
    rule(not PORTAL_UNS & set(uns), "no key of the portal in .uns")
    rule("default_embedding" not in uns or uns["default_embedding"] in adata.obsm, "the default embedding is there")
    rule(uns.get("X_approximate_distribution", "normal") in ("count", "normal"), "the distribution is one of two")
    embeddings = [name for name in adata.obsm if name.startswith("X_")]
    rule(embeddings, "there is an embedding")
    for name in adata.obsm:
        value = adata.obsm[name]
        rule(
            re.fullmatch(r"[A-Za-z][A-Za-z0-9_.-]*", name) and isinstance(value, np.ndarray), f"{name} is a named array"
        )
        rule(value.ndim == 2 and value.shape[1] >= (2 if name.startswith("X_") else 1), f"{name} has two columns")
        rule(
            value.dtype.kind in "fiu" and not np.isinf(value).any() and not np.isnan(value).all(),
            f"{name} holds numbers",
        )
    return found


@pytest.fixture
def annotated(query: ad.AnnData, reference: ad.AnnData) -> ad.AnnData:
    sclm.tl.annotate(query, reference=reference, label_key="cell_type")
    query.obsm["X_umap"] = np.random.default_rng(0).normal(size=(query.n_obs, 2)).astype(np.float32)
    return query


def test_the_rules_are_kept(annotated: ad.AnnData, tmp_path: Path) -> None:
    annotated.obs["tissue"] = pd.Categorical(["blood"] * annotated.n_obs, categories=["blood", "unused"])
    annotated.obs["mine"] = pd.Categorical(
        np.where(np.arange(annotated.n_obs) % 2, "a", "b"), categories=["a", "b", "unused"]
    )
    before = annotated.copy()
    out = sclm.export.cellxgene(annotated, "Cells", fields=FIELDS, default_embedding="X_umap")
    assert broken_rules(out) == []
    out.write_h5ad(tmp_path / "out.h5ad", compression="gzip")
    read = ad.read_h5ad(tmp_path / "out.h5ad")
    assert broken_rules(read) == []
    assert list(read.obs["cell_type_ontology_term_id"].astype(str)) == list(
        annotated.obs["sclm_cell_type_ontology_term_id"].astype(str)
    )
    assert list(read.obs["mine"].astype(str)) == list(annotated.obs["mine"].astype(str))
    assert json.loads(read.uns["sclm_provenance"])["tool"] == "annotate"
    pd.testing.assert_frame_equal(annotated.obs, before.obs)  # the input is as it was


def test_counts_are_those_of_the_genes(annotated: ad.AnnData) -> None:
    """Against pandas: counts of all names of one gene are summed, names without an id go."""
    human = sclm.knowledge.GeneIdentifiers.load("human")
    names = list(annotated.var_names)
    names[1] = human.to_ensembl([names[0]])[0] + ".4"  # the same gene once more, by its id and with a version
    names[2] = "no such gene"
    annotated.var["names"] = names
    out = sclm.export.cellxgene(annotated, "Cells", fields=FIELDS, gene_key="names")
    table = pd.DataFrame(annotated.X.toarray(), annotated.obs_names, human.to_ensembl(names))
    summed = table.loc[:, [c is not None for c in table.columns]].T.groupby(level=0).sum().T
    found = pd.DataFrame(out.raw.X.toarray(), out.obs_names, out.var_names)
    pd.testing.assert_frame_equal(found[sorted(found)], summed[sorted(found)], check_names=False)
    assert out.n_vars == annotated.n_vars - 2
    total = out.raw.X.toarray().sum(axis=1, keepdims=True)
    np.testing.assert_allclose(out.X.toarray(), np.log1p(1e4 * out.raw.X.toarray() / total), rtol=1e-5)


def test_everything_that_would_be_refused_is_said_at_once(annotated: ad.AnnData) -> None:
    fields = {
        **FIELDS,
        "sex_ontology_term_id": "female",
        "tissue_type": "blood",
        "donor_id": "na",
        "disease_ontology_term_id": "MONDO:0000002 || MONDO:0000001",
    }
    del fields["suspension_type"]
    del annotated.obsm["X_umap"]
    counts = annotated.X.toarray()
    counts[0] = 0
    annotated.X = sp.csr_matrix(counts)
    with pytest.raises(ValueError, match="would refuse") as error:
        sclm.export.cellxgene(annotated, "Cells", fields=fields)
    text = str(error.value)
    for part in (
        "sex_ontology_term_id must be PATO:0000383 (female), PATO:0000384 (male) or 'unknown', found 'female'",
        "tissue_type must be 'tissue', 'organoid'", "donor_id must be", "found 'na'", "ascending order", "suspension_type is missing",
        "found 1 without", "there must be an embedding",
    ):  # fmt: skip
        assert part in text
    assert text.count("\n- ") == 7


def test_twins_and_missing_values(annotated: ad.AnnData) -> None:
    counts = annotated.X.toarray()
    counts[7] = counts[3]
    annotated.X = sp.csr_matrix(counts)
    annotated.obs["donor_id"] = ["d1", None] + ["d2"] * (annotated.n_obs - 2)
    fields = {k: v for k, v in FIELDS.items() if k != "donor_id"}
    with pytest.raises(
        ValueError, match=r"donor_id must be known for every cell, found 1[\s\S]*found 1 that repeat another cell"
    ):
        sclm.export.cellxgene(annotated, "Cells", fields=fields)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"fields": {"sex": "female"}}, ValueError, "fields has no 'sex'"),
        ({"title": " x"}, ValueError, "title must be text"),
        ({"key": "other"}, KeyError, "Run sclm.tl.annotate first|Results of annotate are under"),
        ({"layer": "none"}, KeyError, "layer='none'"),
        ({"fields": FIELDS, "default_embedding": "X_pca"}, ValueError, "default_embedding must be one of X_umap"),
    ],
)
def test_refusals(annotated: ad.AnnData, options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        sclm.export.cellxgene(annotated, **{"title": "Cells", **options})


@pytest.mark.slow
def test_the_validator_accepts_it(annotated: ad.AnnData, tmp_path: Path) -> None:
    """The package needs older libraries than ours: it is called in an environment of its own, SCLM_CELLXGENE_SCHEMA."""
    program = os.environ.get("SCLM_CELLXGENE_SCHEMA") or shutil.which("cellxgene-schema")
    if program is None:
        pytest.skip("needs cellxgene-schema, or its path in SCLM_CELLXGENE_SCHEMA")
    sclm.export.cellxgene(annotated, "Cells", fields=FIELDS).write_h5ad(tmp_path / "out.h5ad", compression="gzip")
    ran = subprocess.run([program, "validate", str(tmp_path / "out.h5ad")], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert "is_valid=True" in ran.stderr
