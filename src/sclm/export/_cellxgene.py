"""A data set as CELLxGENE Discover takes it."""

from __future__ import annotations

import json
import logging
import re
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from sclm import results
from sclm.cells import log_normalise, read_cells, table_of
from sclm.cells.columns import move_columns
from sclm.export import _rules
from sclm.knowledge import GeneIdentifiers

if TYPE_CHECKING:
    from collections.abc import Mapping

    import anndata

logger = logging.getLogger(__name__)

SCHEMA = "7.1"


def cellxgene(
    adata: anndata.AnnData,
    title: str,
    *,
    fields: Mapping[str, str | bool] | None = None,
    key: str | None = "sclm_cell_type",
    default_embedding: str | None = None,
    table_key: str | None = None,
    mod: str | None = None,
    layer: str | None = None,
    gene_key: str | None = None,
) -> anndata.AnnData:
    """Make the AnnData that CELLxGENE's validator accepts: human cells of dissociated tissue, schema 7.1.

    Raw counts go to ``.raw.X``, log-normalised ones to ``.X``; genes become Ensembl ids without version (names that lead to the same gene
    are summed, names that lead to none are left out); the cell types of :func:`sclm.tl.annotate` become ``cell_type_ontology_term_id``;
    columns that CELLxGENE writes itself are left out, and all other columns stay.

    The metadata that no model can know (assay, donor, sex …) must be in ``.obs``, or the same for all cells in `fields`. Everything that
    can be checked without the ontologies is checked, and said at once. Whether a term is the right kind of term of the release that the
    schema pins is for the validator: ``cellxgene-schema validate file.h5ad``.

    Parameters
    ----------
    adata
        Cells with raw counts; or a SpatialData or MuData.
    title
        Of the data set.
    fields
        Values for all cells, by field: ``{"assay_ontology_term_id": "EFO:0009922", "suspension_type": "cell", "tissue_type": "tissue",
        "is_primary_data": True}``. They go before columns of ``.obs``.
    key
        ``key_added`` of the annotation; None to take ``.obs["cell_type_ontology_term_id"]`` as it is.
    default_embedding
        The one that is shown first, a key of ``.obsm`` that starts with ``X_``.
    table_key
        Table of a SpatialData.
    mod
        Modality of a MuData with the RNA. May be left out where it is called ``"rna"`` or is the only one.
    layer
        Layer with the raw counts; ``.X`` where None.
    gene_key
        Column of ``.var`` with symbols or Ensembl ids; ``.var_names`` where None.

    Returns
    -------
    A new AnnData, to be written with ``write_h5ad(path, compression="gzip")``. ``.uns["sclm_provenance"]`` is the record of the
    annotation as JSON text.

    Raises
    ------
    ValueError
        If anything would be refused; the message lists all of it.
    KeyError
        If there is no such annotation, layer or column.

    Notes
    -----
    Schema: CELLxGENE data portal, version 7.1.0. Spatial assays, other species, ATAC-seq and genetic perturbations have rules of their
    own, which are not followed here. The Cell Ontology release that comes with sclm is newer than the one that schema 7.1 pins: a term
    that was added in between is refused by the validator, and has to be replaced by its parent.

    Examples
    --------
    >>> import sclm
    >>> adata = sclm.datasets.pbmc68k()
    >>> sclm.tl.annotate(adata, reference=adata, label_key="cell_type")
    >>> fields = {
    ...     "suspension_type": "cell",
    ...     "tissue_type": "tissue",
    ...     "is_primary_data": False,
    ...     "sex_ontology_term_id": "unknown",
    ...     "development_stage_ontology_term_id": "unknown",
    ...     "self_reported_ethnicity_ontology_term_id": "unknown",
    ... }
    >>> out = sclm.export.cellxgene(adata, "Blood", fields=fields)
    >>> out.obs["cell_type_ontology_term_id"].iloc[0], out.var_names[0], out.raw.X.dtype.name
    ('CL:0001054', 'ENSG00000188290', 'float32')
    """
    import anndata

    adata = table_of(adata, table_key, mod)
    fields = dict(fields or {})
    if unknown := [name for name in fields if name not in _rules.FIELDS]:
        raise ValueError(f"fields has no {unknown[0]!r}; there are {', '.join(_rules.FIELDS)}.")
    if not isinstance(title, str) or not title.strip() or title != title.strip() or "  " in title:
        raise ValueError(f"title must be text without blanks at its ends or double blanks, found {title!r}.")
    source = read_cells(adata, layer=layer, gene_key=gene_key)
    record = None if key is None else results.read(adata, key, "annotate")
    obs = _columns(adata, fields, key)

    ids = GeneIdentifiers.load("human").to_ensembl(list(source.genes))
    codes, genes = pd.factorize(np.array([i or None for i in ids], dtype=object))
    lost = int((codes < 0).sum())
    if lost:
        first = [str(gene) for gene, code in zip(source.genes, codes, strict=True) if code < 0][:5]
        logger.warning("%d of %d genes have no Ensembl id and are left out: %s …", lost, len(codes), ", ".join(first))
    if not len(genes):
        raise ValueError("genes must be human symbols or Ensembl ids, found none that is. Pass gene_key=.")
    counts = move_columns(source.read().counts, codes.astype(np.int32), len(genes)).astype(np.float32)
    counts.eliminate_zeros()
    counts.sort_indices()
    obsm = {name: np.asarray(adata.obsm[name]) for name in adata.obsm if _rules.usable(name, adata.obsm[name])}
    wrong = _rules.of_fields(obs) + _rules.of_counts(counts) + _rules.of_embeddings(obsm)
    if default_embedding is not None and default_embedding not in obsm:
        wrong.append(f"default_embedding must be one of {', '.join(obsm) or 'none'}, found {default_embedding!r}.")
    if not adata.obs_names.is_unique:
        wrong.append("names of cells must differ. Call adata.obs_names_make_unique().")
    if wrong:
        raise ValueError(
            f"CELLxGENE schema {SCHEMA} would refuse this data set:\n" + "\n".join(f"- {line}" for line in wrong)
        )

    var = pd.DataFrame(index=pd.Index(genes.astype(object)))
    raw = anndata.AnnData(counts, obs=pd.DataFrame(index=obs.index), var=var.copy())
    out = anndata.AnnData(log_normalise(counts).astype(np.float32), obs=obs, var=var, obsm=obsm)
    out.raw = raw
    out.var["feature_is_filtered"] = False
    out.uns = {"title": title, "organism_ontology_term_id": _rules.HUMAN, "X_approximate_distribution": "normal"}
    if default_embedding is not None:
        out.uns["default_embedding"] = default_embedding
    if record is not None:
        out.uns["sclm_provenance"] = json.dumps(_plain(record))
    return out


def _columns(adata: anndata.AnnData, fields: dict[str, Any], key: str | None) -> pd.DataFrame:
    """The fields of the schema, then the author's own columns."""
    obs = pd.DataFrame(index=pd.Index(np.asarray(adata.obs_names, dtype=object)))
    taken = dict(fields)
    if key is not None and "cell_type_ontology_term_id" not in taken:
        taken["cell_type_ontology_term_id"] = adata.obs[f"{key}_ontology_term_id"].astype(str).to_numpy(dtype=object)
    for name in _rules.FIELDS:
        value = taken.get(name, adata.obs[name].array if name in adata.obs else None)
        if value is None:
            continue
        if name == "is_primary_data":
            obs[name] = value if isinstance(value, bool) else np.asarray(value)
            continue
        text = (
            pd.Series(value, index=obs.index)
            if not isinstance(value, str)
            else pd.Series([value] * len(obs), index=obs.index)
        )
        obs[name] = pd.Categorical(text.astype(object).where(text.notna(), None))
    for name in map(str, adata.obs.columns):
        if name in obs or name in _rules.RESERVED or name.startswith("__") or "/" in name:
            continue
        column = adata.obs[name]
        if isinstance(column.dtype, pd.CategoricalDtype):
            column = column.cat.remove_unused_categories()
            if column.isna().all():
                continue
            obs[name] = pd.Categorical(column.astype(object))
        else:
            obs[name] = column.array
    return obs


def _plain(value: Any) -> Any:
    """A record as JSON: tables as lists of rows, arrays as lists."""
    if isinstance(value, pd.DataFrame):
        return [{str(k): _plain(v) for k, v in row.items()} for row in value.to_dict("records")]
    if isinstance(value, np.ndarray | list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, np.generic):
        return value.item()
    if hasattr(value, "items"):
        return {str(k): _plain(v) for k, v in value.items()}
    return value if isinstance(value, str | int | float | bool) or value is None else re.sub(r"\s+", " ", str(value))
