"""What a file is, what is wrong with it, and which tools and models fit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sclm.calls import streaming
from sclm.calls.signatures import Signature, signature, tool_names
from sclm.cells.containers import is_mudata, is_spatialdata, table_of
from sclm.cells.contents import Contents, contents
from sclm.cells.counts import describe

if TYPE_CHECKING:
    from pathlib import Path

_FEW_GENES, _FEW_KNOWN = 1000, 0.5
_VERBS = {"map_spatial": ("map",), "perturb": ("perturb", "respond"), "embed": ("embed", "embed_spots")}


def check(
    path: str | Path, *, model: str | Path | None = None, table_key: str | None = None, mod: str | None = None
) -> dict[str, Any]:
    """Look at a file before anything is computed.

    Parameters
    ----------
    path
        ``.h5ad``, ``.zarr`` or ``.h5mu``.
    model
        A trained model, its folder or published name: how many of its genes the file has.
    table_key
        Table of a SpatialData.
    mod
        Modality of a MuData.

    Returns
    -------
    JSON: ``holds`` (shape, matrices, genes, columns, coordinates, depth), ``problems`` (what tools refuse or get wrong, each with what to
    do), ``notes``, ``arguments`` (that every tool needs for this file: ``layer``, ``gene_key`` …) and ``tools``: name → ``fits``, ``why``,
    ``command``, and ``models`` that are ready, can be trained, or are published.

    Raises
    ------
    FileNotFoundError
        If nothing is there.
    ValueError
        If the file cannot be read.
    """
    with streaming.matrices_left(path) as data:
        adata = table_of(data, table_key, mod)
        found = contents(adata)
        problems, notes = _wrong(found, adata), _notes(found)
        needed = _needed(found)
        if is_spatialdata(data):
            needed["table_key"] = next(name for name, table in data.tables.items() if table is adata)
        if is_mudata(data):
            needed["mod"] = next(name for name, part in data.mod.items() if part is adata)
        genes = adata.var_names if found.genes.key is None else adata.var[found.genes.key]
        report = {
            "file": str(path),
            "kind": type(data).__name__,
            "holds": _holds(found),
            "problems": problems,
            "notes": notes,
            "arguments": needed,
            "tools": {name: _fit(signature(name), found, needed, str(path)) for name in tool_names()},
        }
        if model is not None:
            report["model"] = _match(model, genes)
        return report


def _holds(found: Contents) -> dict[str, Any]:
    return {
        "cells": found.n_cells,
        "genes": found.n_genes,
        "matrices": [
            {
                "where": s.where,
                "values": s.report.kind,
                "layout": s.layout,
                **({"invertible": True} if s.invertible else {}),
            }
            for s in found.slots
        ],
        "counts": None if found.counts is None else found.counts.where,
        "depth": {k: round(v, 4) for k, v in found.depth.items()},
        "gene_names": {
            "where": ".var_names" if found.genes.key is None else f".var[{found.genes.key!r}]",
            "kind": found.genes.kind,
            "human": round(found.genes.known, 3),
        },
        "columns": [{**column._asdict(), "first": list(column.first)} for column in found.columns[:30]],
        "coordinates": list(found.places),
        "proteins": list(found.proteins),
        "embeddings": found.embeddings,
        "results": found.results,
    }


def _wrong(found: Contents, adata: Any) -> list[str]:
    problems = []
    if not found.n_cells or not found.n_genes:
        return [f"There must be at least one cell and one gene, found {found.n_cells} x {found.n_genes}."]
    counts = found.counts
    if counts is None:
        first = found.slots[0] if found.slots else None
        if first is None:
            problems.append("There is no matrix at all: raw counts are needed in .X or a layer.")
        elif first.report.kind == "empty":
            problems.append(f"{first.where} is zero everywhere: raw counts are needed.")
        else:
            hint = "No other matrix of the file holds counts: go back to the counts of the original data"
            problems.append(describe(first.report, first.where, adata.var_names, hint))
    elif counts.where == "adata.raw":
        problems.append(
            "Raw counts are in .raw only, which tools do not read: write adata.raw.to_adata() with .obs to a file first."
        )
    genes = found.genes
    if genes.known < _FEW_KNOWN:
        mouse = (
            " They are written as mouse genes are: map them to human orthologs first." if genes.like_mouse > 0.5 else ""
        )
        problems.append(
            f"Gene names must be symbols or Ensembl ids, found {genes.known:.0%} that are human genes "
            f"(first: {', '.join(map(repr, map(str, adata.var_names[:3])))}).{mouse}"
        )  # fmt: skip
    if not adata.obs_names.is_unique:
        problems.append(
            f"Names of cells must differ, found {int(adata.obs_names.duplicated().sum()):,} repeated. Call adata.obs_names_make_unique()."
        )
    if found.depth.get("empty"):
        problems.append(f"{found.depth['empty']:.1%} of the cells have no counts: they get no answer. Filter them out.")
    for name, missing in found.places.items():
        if missing:
            problems.append(
                f".obsm[{name!r}] must hold the place of every cell, found {missing:,} without finite coordinates."
            )
    nested = [str(name) for name in [*adata.obs.columns, *adata.obsm, *adata.uns] if "/" in str(name)]
    if nested:
        problems.append(f"Names may hold no '/', found {nested[0]!r}: newer anndata refuses to write it. Rename it.")
    return problems


def _notes(found: Contents) -> list[str]:
    notes = []
    counts = found.counts
    if counts is not None and counts.layer is not None:
        notes.append(f"Raw counts are in a layer: pass layer={counts.layer!r}.")
    if counts is not None and counts.report.kind != "counts":
        notes.append(f"{counts.where} is log1p-normalised and leads back to counts exactly: pass invert_log1p=True.")
    if found.genes.key is not None:
        notes.append(f"Gene names are in a column: pass gene_key={found.genes.key!r}.")
    if found.genes.repeated:
        notes.append(f"{found.genes.repeated:,} gene names stand more than once: their counts are summed.")
    if found.n_genes < _FEW_GENES:
        notes.append(
            f"{found.n_genes:,} genes are a panel or a reduced set: models of whole transcriptomes find few of theirs."
        )
    if len(labels := found.with_role("cell types")):
        notes.append(f"Labels that can train a model: {', '.join(column.name for column in labels)}.")
        notes += _unresolved(labels[0])
    if found.proteins:
        notes.append(f"Proteins beside RNA ({found.proteins[0]}): this file can be the reference of translate.")
    return notes


def _unresolved(column: Any) -> list[str]:
    from sclm.knowledge import Ontology

    first = [value for value in column.first if value.strip().lower() not in ("", "nan", "none", "na", "unknown")]
    matches = Ontology.load("cl").resolve_many(first)
    if names := matches.loc[matches["term_id"].isna(), "text"].tolist():
        return [
            f"{column.name} has values that are no Cell Ontology term ({', '.join(map(repr, names))}): they keep their own names."
        ]
    return []


def _needed(found: Contents) -> dict[str, Any]:
    """Arguments that this file asks for, whatever the tool."""
    counts = found.counts
    needed: dict[str, Any] = {}
    if counts is not None and counts.layer is not None:
        needed["layer"] = counts.layer
    if counts is not None and counts.report.kind != "counts":
        needed["invert_log1p"] = True
    if found.genes.key is not None:
        needed["gene_key"] = found.genes.key
    if found.places and "spatial" not in found.places:
        needed["spatial_key"] = next(iter(found.places))
    if sections := found.with_role("section"):
        needed["library_key"] = sections[0].name
    return needed


def _fit(tool: Signature, found: Contents, needed: dict[str, Any], path: str) -> dict[str, Any]:
    """Whether a tool can work on the file, why, and how it is called: from its signature alone."""
    takes = {parameter.name: parameter for parameter in tool.parameters}
    models = _models(tool.name, found)
    if not tool.reads:
        return {
            "fits": None,
            "why": "it reads no cells; a model that was trained on some writes them",
            "models": models,
        }
    missing = []
    reads_counts = "layer" in takes
    if reads_counts and (found.counts is None or found.counts.where == "adata.raw"):
        missing.append("raw counts")
    elif reads_counts and found.counts.report.kind != "counts" and "invert_log1p" not in takes:  # type: ignore[union-attr]
        missing.append("raw counts (it does not turn log1p values back)")
    if reads_counts and found.genes.known < _FEW_KNOWN:
        missing.append("human gene names")
    place = takes.get("spatial_key")
    if place is not None and place.default is not None and not found.places:
        missing.append("coordinates in .obsm")
    if missing:
        return {"fits": False, "why": f"needs {' and '.join(missing)}", "models": models}
    words = [f"sclm {tool.name.replace('_', '-')} {path} -o out.h5ad"]
    spatial_only = {"spatial_key", "library_key"}
    wants_place = place is not None and place.default is not None
    for name, value in needed.items():
        if name in takes and (name not in spatial_only or wants_place):
            words.append(f"--{name.replace('_', '-')}" + ("" if value is True else f" {_quoted(str(value))}"))
    for parameter in tool.parameters:
        if parameter.required:
            value = (
                next(iter(models.get("ready", [])), "MODEL") if parameter.name == "model" else parameter.name.upper()
            )
            words.append(f"--{parameter.name.replace('_', '-')} {value}")
    if "reference" in takes:
        words.append("--reference REFERENCE.h5ad" + (" --label-key LABELS" if "label_key" in takes else ""))
    why = ("raw counts and gene names are there" if reads_counts else "it reads no counts") + (
        ", and coordinates" if place is not None and found.places else ""
    )
    return {"fits": True, "why": why, "command": " ".join(words), "models": models}


def _models(tool: str, found_there: Contents) -> dict[str, list[str]]:
    """Families and published checkpoints with the verb of a tool."""
    from sclm import models

    verbs = set(_VERBS.get(tool, (tool,))) - (set() if found_there.places else {"embed_spots"})
    found: dict[str, list[str]] = {"ready": [], "to_train": [], "published": []}
    for row in models.available().itertuples():
        if verbs.isdisjoint(str(row.verbs).split(", ")):
            continue
        if row.kind == "checkpoint":
            found["published"].append(str(row.Index))
        else:
            ready = hasattr(models.family_class(str(row.Index)), "ready")
            found["ready" if ready else "to_train"].append(str(row.Index))
    return {kind: names for kind, names in found.items() if names}


def _match(model: str | Path, genes: Any) -> dict[str, Any]:
    import pandas as pd

    from sclm import models

    loaded: Any = models.load(model)
    try:
        match = loaded.match(pd.Index([str(gene) for gene in genes]))
    except ValueError as error:
        return {"model": str(model), "fits": False, "why": str(error)}
    return {
        "model": str(model),
        "fits": True,
        "matched": match.matched,
        "in_model": match.in_model,
        "in_data": match.in_data,
    }


def _quoted(text: str) -> str:
    import shlex

    return shlex.quote(text)
