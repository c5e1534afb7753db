"""Describe cells and groups in English."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import sparse
from tqdm import tqdm

from sclm import results
from sclm.cells import Cells, read_cells, table_of
from sclm.evidence import CellChecker, GroupChecker, claim_table
from sclm.evidence.claims_metadata import FIELDS
from sclm.evidence.claims_terms import TERM_COLUMNS, standing_terms, verdict_column
from sclm.knowledge import Ontology
from sclm.models.contract import Describer
from sclm.models.labels import label_texts
from sclm.tl._groups import group_codes
from sclm.tl._model import check_device, loaded, on_device

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    import anndata

    from sclm.cells import CellSource
    from sclm.knowledge import Pathways
    from sclm.models.family import Family

logger = logging.getLogger(__name__)

LABEL = "cell_type"  # as families that describe read it


def describe(
    adata: anndata.AnnData,
    model: str | Path | Family | Describer = "evidence",
    *,
    groupby: str | None = None,
    label_key: str | None = None,
    tissue_key: str | None = None,
    disease_key: str | None = None,
    gene_sets: str | Path | Mapping[str, Iterable[str]] | pd.DataFrame | Pathways = "default",
    table_key: str | None = None,
    mod: str | None = None,
    layer: str | None = None,
    gene_key: str | None = None,
    invert_log1p: bool = False,
    key_added: str = "sclm_description",
    batch_size: int | None = None,
    device: str | None = None,
    seed: int = 0,
    copy: bool = False,
) -> anndata.AnnData | None:
    r"""Describe cells or groups of cells in English, every statement checked against the data.

    Each text says what the cells are, which known markers of the type stand out, which further genes set them apart, which pathways are
    more active than in the other cells, and where they come from. Before it is written, every statement is looked up: an identity in the
    markers of the type and of its rivals, a gene in the counts, a pathway in AUCell scores against random sets of like genes, tissue and
    disease in the metadata. It is kept, said more carefully ("is consistent with"), or taken out. Nothing in the counts confirms a tissue or a disease:
    without metadata they are "not verifiable".

    Parameters
    ----------
    adata
        Cells with raw counts; CSR, CSC or dense, in memory, a view, backed or Dask; or a SpatialData or MuData.
    model
        ``"evidence"``: statistics and a template, no network, no training, works at once. Or a trained model of family ``"cell2text"``,
        its folder, or a published name.
    groupby
        Column of ``.obs`` with clusters or cell types: one description a group, as for the legend of a figure, written to all of its cells.
        A group is compared with all cells outside it.
    label_key
        Column of ``.obs`` with cell types that are to be checked and described; of a group its most common one. Cells without one (missing,
        ``"nan"``, ``"unassigned"`` …) are named by the model. The evidence family takes any label, and by default, with `groupby`, the groups'
        own names where they name cell types. ``"cell2text"`` takes the types that it was trained on, and writes the rest behind them.
    tissue_key, disease_key
        Columns of ``.obs``; by default ``"tissue"`` and ``"disease"`` where they are there.
    gene_sets
        Pathways that may be named: see :func:`sclm.tl.pathways`.
    table_key
        Table of a SpatialData; it is changed in place, nothing else of the SpatialData is.
    mod
        Modality of a MuData with the RNA, which is changed in place. May be left out where it is called ``"rna"`` or is the only one.
    layer
        Layer with the raw counts; ``.X`` where None.
    gene_key
        Column of ``.var`` with symbols or Ensembl ids; ``.var_names`` where None.
    invert_log1p
        Turn log1p-normalised counts back, where that is exact.
    key_added
        Name of the results.
    batch_size
        Cells at a time; by default what fits well in memory. Does not change the texts.
    device
        Where a neural model runs: ``"cpu"``, ``"cuda"`` …
    seed
        Of what a model draws, and of the order of genes with equal counts.
    copy
        Return a changed copy instead of changing ``adata``.

    Returns
    -------
    None, or the copy. Sets, with ``key_added`` in place of ``sclm_description``:

    ``.obs["sclm_description"]`` : text
        One a cell; with `groupby` that of its group, empty for cells in no group.
    ``.obs["sclm_description_faithfulness"]`` : float64
        Share of the checkable statements that were kept as they were first made; NaN where none could be checked.
    ``.obs["sclm_description_cell_type"]``, ``.obs["sclm_description_tissue"]``, ``.obs["sclm_description_disease"]`` : categorical
        What the text says of them: the statement that was kept or softened, ``"unknown"`` where none was. Cell types in the words of the ontology
        where they are a term of it; several tissues or diseases of a group are joined with ``"; "``.
    ``.obs["sclm_description_cell_type_ontology_term_id"]`` : categorical
        Its Cell Ontology term, or ``"unknown"``.
    ``.obs["sclm_description_cell_type_verdict"]``, and so of ``tissue`` and ``disease`` : categorical
        ``"kept"``, ``"softened"``, ``"removed"``, ``"not verifiable"`` or ``"not stated"``. What was stated where it does not stand is in
        ``evidence``.
    ``.obs["sclm_description_pathways"]`` : text
        Names of the pathways that were kept, then of those that were softened with ``" (softened)"`` behind, joined with ``"; "``.
    ``.uns["sclm_description"]`` : dict
        The record, with the table ``evidence``, one row a statement: ``cell`` (or group), ``kind``, ``claim``, ``id``, ``verdict``,
        ``support``, ``statistic``, ``value``, ``q``, ``reason``; with `groupby` also the table ``groups``. See :func:`sclm.get.describe` and
        :func:`sclm.get.describe_evidence`.

    With `groupby`, every cell carries what its group has; cells in no group have ``"unknown"``, ``"not stated"`` and empty texts.

    Raises
    ------
    ValueError
        If the counts are not raw, the data hold too few marker genes, there are fewer than two groups, or a label is none that the model
        can write about. The AnnData is unchanged.
    KeyError
        If a column or layer does not exist.
    TypeError
        If the model does not describe cells.

    Notes
    -----
    Texts of cell embeddings by a language model: Kharouiche et al., Cell2Text, arXiv 2509.24840 (2025). What is checked and how well it works:
    the page of the family ``evidence``.

    Examples
    --------
    >>> import sclm
    >>> adata = sclm.datasets.pbmc68k()
    >>> sclm.tl.describe(adata, groupby="cell_type")
    >>> groups = sclm.get.describe(adata, groups=True)
    >>> print(groups.loc["B cell", "text"].partition(".")[0])
    Group "B cell" (95 cells, 14 % of all) consists of B cells
    """
    results.check_name(key_added)
    adata = table_of(adata, table_key, mod)
    if not copy and getattr(adata, "is_view", False) and adata.isbacked:
        raise ValueError(
            "Results cannot be written into a view of a backed AnnData. Pass copy=True, or call .to_memory() on it."
        )
    describer = loaded(model, Describer, "describe", "describe cells")
    check_device(describer, device)
    columns = _columns(adata, label_key, tissue_key, disease_key)
    keys = [*columns.values(), *([groupby] if groupby is not None else [])]
    source = read_cells(adata, layer=layer, gene_key=gene_key, obs_keys=keys, invert_log1p=invert_log1p)
    codes, names = group_codes(source.obs[groupby], groupby) if groupby is not None else (None, [])
    source.obs = _renamed(source.obs, columns)
    match = describer.match(source.genes)
    logger.info("genes: %s", match.summary())
    checker = CellChecker.fit(source, gene_sets=gene_sets, seed=seed, batch_size=batch_size)

    tables, claims = [], []
    with (
        on_device(describer, device),
        tqdm(total=len(names) or source.n_cells, desc="describe", delay=2, leave=False) as bar,
    ):
        if codes is None:
            first = 0
            for cells in source.blocks(batch_size):
                found = describer.describe(cells, checker=checker, seed=seed)
                tables.append(found.table)
                claims.append(found.claims.assign(row=found.claims["row"] + first))
                first += cells.n_cells
                bar.update(cells.n_cells)
        else:
            own = label_key is None and not getattr(describer, "names_types", False)
            groups = GroupChecker.of(checker, source, codes, names, batch_size=batch_size)
            found = describer.describe(
                _pseudobulk(source, codes, names, own=own, batch_size=batch_size),
                checker=groups,
                seed=seed,
            )
            tables.append(found.table)
            claims.append(found.claims)
            bar.update(len(names))
    table, claim = pd.concat(tables), pd.concat(claims, ignore_index=True) if claims else claim_table()
    terms = standing_terms(claim, len(table), checker.evidence.ontology)
    text, faithful = table["text"].to_numpy(dtype=object), table["faithfulness"].to_numpy(dtype=np.float64)
    facts: dict[str, Any] = {"evidence": _evidence(claim, list(table.index.astype(str)))}
    if codes is not None:
        facts["groups"] = _groups(
            table, claim, terms, names, np.bincount(codes[codes >= 0], minlength=len(names)), source.n_cells
        )
        text, faithful = np.append(text, "")[codes], np.append(faithful, np.nan)[codes]
        none = standing_terms(claim_table(), 1, checker.evidence.ontology)
        terms = pd.concat([terms, none], ignore_index=True).iloc[codes]
    entry = results.record(
        "describe",
        model=describer.provenance() if hasattr(describer, "provenance") else {"family": type(describer).__name__},
        params={
            "groupby": groupby, "label_key": label_key, "tissue_key": columns.get("tissue"), "disease_key": columns.get("disease"),
            "gene_sets": checker.sets.name, "table_key": table_key, "mod": mod, "layer": layer, "gene_key": gene_key, "invert_log1p": invert_log1p,
        },
        seed=seed,
        genes={"matched": match.matched, "in_model": match.in_model, "in_data": match.in_data},
        ontology={"name": checker.evidence.ontology.name, "version": checker.evidence.ontology.version},
        **facts,
    )  # fmt: skip
    target = adata.copy() if copy and not adata.isbacked else adata.to_memory() if copy else adata
    columns_of_terms = {f"{key_added}_{name}": _column(name, terms[name]) for name in TERM_COLUMNS}
    results.write(
        target, key_added, entry, obs={key_added: text, f"{key_added}_faithfulness": faithful, **columns_of_terms}
    )
    return target if copy else None


def _columns(adata: anndata.AnnData, label: str | None, tissue: str | None, disease: str | None) -> dict[str, str]:
    """Field → column of ``.obs``: what was named, and tissue and disease where they have these names."""
    found = {LABEL: label} if label is not None else {}
    for field, key in zip(FIELDS, (tissue, disease), strict=True):
        if key is not None:
            found[field] = key
        elif field in adata.obs.columns:
            found[field] = field
    return found


def _renamed(obs: pd.DataFrame, columns: dict[str, str]) -> pd.DataFrame:
    """The columns under the names of their fields."""
    return pd.DataFrame(
        {field: obs[key].astype(object).where(obs[key].notna(), "") for field, key in columns.items()}, index=obs.index
    )


def _column(name: str, values: pd.Series) -> pd.Categorical | np.ndarray:
    """A column of terms as it is written."""
    if name == "pathways":
        return values.to_numpy(dtype=object)
    return verdict_column(values) if name.endswith("_verdict") else pd.Categorical(values.to_numpy(dtype=object))


def _pseudobulk(source: CellSource, codes: np.ndarray, names: list[str], *, own: bool, batch_size: int | None) -> Cells:
    """One cell a group: summed counts, the most common label; the group's own name where that is a cell type (`own`)."""
    total, first = np.zeros((len(names), source.n_genes)), 0
    for cells in source.blocks(batch_size):
        of = codes[first : first + cells.n_cells]
        member = sparse.csr_matrix(
            (np.ones((of >= 0).sum()), (of[of >= 0], np.flatnonzero(of >= 0))), (len(names), cells.n_cells)
        )
        total += (member @ cells.counts).toarray()
        first += cells.n_cells
    obs = pd.DataFrame(index=pd.Index(names, dtype=object))
    for field in source.obs.columns:
        values = source.obs[field].to_numpy(dtype=object)
        if field == LABEL:  # cells without one do not speak for the group
            values = np.array(label_texts(values), dtype=object)
            values, of = values[values != ""], codes[values != ""]
        else:
            of = codes
        obs[field] = [_most_common(values[of == g]) for g in range(len(names))]
    if own:
        cl = Ontology.load("cl")
        obs[LABEL] = [name if cl.resolve(name, min_score=1.0).term_id else "" for name in names]
    return Cells(sparse.csr_matrix(total.astype(np.float32)), source.genes, obs)


def _most_common(values: np.ndarray) -> str:
    counts = pd.Series(values, dtype=object).astype(str).value_counts()
    return str(counts.index[0]) if len(counts) else ""


def _evidence(claims: pd.DataFrame, names: list[str]) -> pd.DataFrame:
    """The statements, with the name of their cell or group in place of its number."""
    out = claims.drop(columns="row")
    out.insert(
        0,
        "cell",
        np.asarray(names, dtype=object)[claims["row"].to_numpy()] if len(claims) else np.zeros(0, dtype=object),
    )
    out.index = pd.RangeIndex(len(out)).astype(str)
    return out


def _groups(
    table: pd.DataFrame, claims: pd.DataFrame, terms: pd.DataFrame, names: list[str], n: np.ndarray, n_cells: int
) -> pd.DataFrame:
    """One row a group: what a figure or a supplement shows of it."""
    rows = []
    for g, name in enumerate(names):
        of = claims[(claims["row"] == g).to_numpy()]
        kept = of[(of["verdict"] == "kept").to_numpy()]
        identity = of[(of["kind"] == "identity").to_numpy()]
        first = identity.iloc[0] if len(identity) else None
        stands = first is not None and first["verdict"] in ("kept", "softened")
        rows.append(
            {
                "group": name,
                "n_cells": int(n[g]),
                "share": float(n[g]) / n_cells,
                "identity": terms["cell_type"].iloc[g] if stands else "",
                "ontology_term_id": str(first["id"]) if stands and first is not None else "",
                "verdict": str(first["verdict"]) if first is not None else "",
                "support": float(first["support"]) if first is not None else np.nan,
                "genes": ", ".join(kept["claim"][(kept["kind"] == "gene").to_numpy()]),
                "pathways": "; ".join(kept["claim"][(kept["kind"] == "pathway").to_numpy()]),
                "faithfulness": float(table["faithfulness"].iloc[g]),
                "text": str(table["text"].iloc[g]),
            }
        )
    return pd.DataFrame(rows).set_index("group", drop=False)
