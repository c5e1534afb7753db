"""Rules of the CELLxGENE schema 7.1 for cells and genes, as far as they can be checked without its ontologies."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from collections.abc import Mapping

    import scipy.sparse as sp

HUMAN = "NCBITaxon:9606"
# Field → what one value must look like, and the same in words. Descendants of the right term are checked by the validator.
FIELDS: dict[str, tuple[str, str]] = {
    "assay_ontology_term_id": (r"EFO:\d{7}", "a term of EFO, such as EFO:0009922 (10x 3' v3)"),
    "cell_type_ontology_term_id": (r"CL:\d{7}|unknown", "a term of the Cell Ontology or 'unknown'"),
    "development_stage_ontology_term_id": (r"HsapDv:\d{7}|unknown|na", "a term of HsapDv, such as HsapDv:0000258 (mature stage), or 'unknown'"),
    "disease_ontology_term_id": (
        r"PATO:0000461|MONDO:\d{7}( \|\| MONDO:\d{7})*", "PATO:0000461 (normal) or terms of MONDO, sorted and joined by ' || '",
    ),
    "donor_id": (r"(?!na$|$).+", "a name of the donor, 'pooled' or 'unknown'"),
    "is_primary_data": (r"True|False", "True or False"),
    "self_reported_ethnicity_ontology_term_id": (
        r"(HANCESTRO|AfPO):\d{4,7}( \|\| (HANCESTRO|AfPO):\d{4,7})*|unknown|na", "terms of HANCESTRO or AfPO, or 'unknown'",
    ),
    "sex_ontology_term_id": (r"PATO:0000383|PATO:0000384|unknown", "PATO:0000383 (female), PATO:0000384 (male) or 'unknown'"),
    "suspension_type": (r"cell|nucleus|na", "'cell', 'nucleus' or 'na'"),
    "tissue_ontology_term_id": (r"UBERON:\d{7}|CL:\d{7}|CVCL_\w{4}", "a term of UBERON, such as UBERON:0000178 (blood)"),
    "tissue_type": (r"tissue|organoid|primary cell culture|cell line", "'tissue', 'organoid', 'primary cell culture' or 'cell line'"),
}  # fmt: skip
# Written by CELLxGENE itself from the terms: a submission must not have them.
RESERVED = {
    "assay", "cell_type", "development_stage", "disease", "self_reported_ethnicity", "sex", "tissue", "organism", "organism_ontology_term_id",
    "observation_joinid", "ethnicity", "ethnicity_ontology_term_id", "genetic_perturbation_id", "genetic_perturbation_strategy",
    "experimental_condition_ontology_term_id",
}  # fmt: skip
EMBEDDING = re.compile(r"X_[A-Za-z][A-Za-z0-9_.-]*")


def of_fields(obs: pd.DataFrame) -> list[str]:
    """What is wrong with the fields that every cell must have."""
    wrong = []
    for name, (pattern, words) in FIELDS.items():
        if name not in obs:
            wrong.append(f"{name} is missing: {words}. Put it into .obs, or pass fields={{{name!r}: …}} for all cells.")
            continue
        column = obs[name]
        if column.isna().any():
            wrong.append(
                f"{name} must be known for every cell, found {int(column.isna().sum()):,} without it: {words}."
            )
            continue
        for value in pd.unique(column.astype(str)):
            if not re.fullmatch(pattern, value):
                wrong.append(f"{name} must be {words}, found {value!r}.")
                break
    if "disease_ontology_term_id" in obs:
        for value in pd.unique(obs["disease_ontology_term_id"].astype(str)):
            if " || " in value and sorted(value.split(" || ")) != value.split(" || "):
                wrong.append(f"disease_ontology_term_id must list its terms in ascending order, found {value!r}.")
                break
    return wrong


def of_counts(counts: sp.csr_matrix) -> list[str]:
    """What is wrong with raw counts of genes with Ensembl ids."""
    wrong = []
    empty = int((np.asarray(counts.sum(axis=1)).ravel() == 0).sum())
    if empty:
        wrong.append(
            f"every cell must have a count in a gene with an Ensembl id, found {empty:,} without. Leave them out."
        )
    elif (twins := _twins(counts)) > 0:
        wrong.append(
            f"no two cells may have the same counts, found {twins:,} that repeat another cell. Leave them out."
        )
    return wrong


def of_embeddings(obsm: Mapping[str, Any]) -> list[str]:
    """What is wrong with the embeddings that are kept."""
    if obsm:
        return []
    return [
        "there must be an embedding in .obsm whose name starts with X_, found none. Run sc.tl.umap, or sclm.tl.embed and then sc.tl.umap."
    ]


def usable(name: str, value: Any) -> bool:
    """Whether an entry of .obsm may go along: a named array of numbers with two columns or more, not all NaN, nothing infinite."""
    if not EMBEDDING.fullmatch(name) or not isinstance(value, np.ndarray) or value.ndim != 2 or value.shape[1] < 2:
        return False
    return value.dtype.kind in "fiu" and not np.isinf(value).any() and not np.isnan(value).all()


def _twins(counts: sp.csr_matrix) -> int:
    """Number of rows that are equal to an earlier one."""
    counts = counts.sorted_indices()
    seen: set[bytes] = set()
    for start, stop in zip(counts.indptr[:-1], counts.indptr[1:], strict=True):
        row = (
            counts.indices[start:stop].astype(np.int64).tobytes() + counts.data[start:stop].astype(np.float64).tobytes()
        )
        seen.add(row)
    return counts.shape[0] - len(seen)
