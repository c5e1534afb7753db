"""Name cell types."""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from sclm import models, results
from sclm.cells import read_cells, table_of
from sclm.evidence import over_cluster
from sclm.evidence.backoff import UNKNOWN
from sclm.knowledge import Ontology
from sclm.models.contract import Annotator
from sclm.tl._annotate_answers import Gatherer, vocabulary_options
from sclm.tl._annotate_explain import check_explain, explanation

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import anndata

    from sclm.cells import CellSource
    from sclm.models.family import Family

logger = logging.getLogger(__name__)

# A twentieth of cells like the reference lies above this novelty; four times that share is worth a word.
_NOVEL, _NOVEL_SHARE = 0.5, 0.2


def annotate(
    adata: anndata.AnnData,
    model: str | Path | Family | Annotator = "logistic",
    *,
    reference: anndata.AnnData | None = None,
    label_key: str | None = None,
    batch_key: str | None = None,
    table_key: str | None = None,
    mod: str | None = None,
    layer: str | None = None,
    gene_key: str | None = None,
    reference_layer: str | None = None,
    reference_gene_key: str | None = None,
    invert_log1p: bool = False,
    candidates: Sequence[str] | None = None,
    under: str | None = None,
    min_confidence: float | None = None,
    groupby: str | None = None,
    majority_voting: bool = False,
    explain: int = 0,
    key_added: str = "sclm_cell_type",
    batch_size: int | None = None,
    seed: int = 0,
    copy: bool = False,
) -> anndata.AnnData | None:
    r"""Name the cell type of every cell, in the words of the Cell Ontology.

    With ``reference=`` a family is trained on the labelled cells first, on the genes that both share; with a trained model
    it is used as it is. Labels of a reference are resolved to ontology terms; those that are no term keep their own name.

    Open-vocabulary models (``"marker-lists"``, ``"onclass"``, ``"pagerank-voting"``, ``"hierarchical"``, ``"celltosg"``, ``"cell2sentence"``)
    choose among all terms of the ontology, also those that no reference cell had. ``sclm.tl.annotate(adata, "marker-lists")`` needs
    neither training nor reference.

    Parameters
    ----------
    adata
        Cells with raw counts; CSR, CSC or dense, in memory, a view, backed or Dask; or a SpatialData or MuData. Columns of ``.obs``
        that the model learnt to read (``obs_keys`` of its training: ``tissue``, ``disease``) are read where they are there.
    model
        A trained model, its folder, a published name, ``"hf:organisation/name"``, or with ``reference=`` the name of the
        family to train: ``"logistic"`` (default), ``"knn"``, ``"mean"``, ``"majority"``, ``"onclass"`` and more. An encoder (``"scgpt"``, ``"geneformer"``)
        is taught its names first: ``sclm.train("scgpt", reference, label_key=..., base=...)``.
    reference
        Labelled cells with raw counts.
    label_key
        Column of ``reference.obs`` with the labels.
    batch_key
        Column of ``reference.obs`` with the donor or batch: confidences are then calibrated on whole batches held out.
    table_key
        Table of a SpatialData; it is changed in place, nothing else of the SpatialData is.
    mod
        Modality of a MuData with the RNA, which is changed in place. May be left out where it is called ``"rna"`` or is the only one.
    layer
        Layer of ``adata`` with the raw counts; ``.X`` where None.
    gene_key
        Column of ``adata.var`` with symbols or Ensembl ids; ``.var_names`` where None.
    reference_layer
        Layer of the reference with the raw counts; ``.X`` where None.
    reference_gene_key
        Column of ``reference.var`` with symbols or Ensembl ids; ``.var_names`` where None.
    invert_log1p
        Turn log1p-normalised counts back, where that is exact, in the data and in the reference.
    candidates
        For open-vocabulary models: names, ids or synonyms of the cell types that may be answered. None: those of the model, by default
        every term of the Cell Ontology below "cell".
    under
        For open-vocabulary models: only cell types below this term, and itself, for example ``"lymphocyte"``.
    min_confidence
        Threshold in (0, 1] for ontology back-off: the label becomes the most specific ontology term whose summed
        probability reaches it, and ``"unknown"`` where not even a child of the root does. At 0.5 or below, that can be a
        term beside the most probable type. None keeps the most probable type.
    groupby
        Column of ``adata.obs``: cells of a group get the group's consensus, a vote of the answers of its cells (their counts are
        not summed); cells without a group keep their own type.
    majority_voting
        The same over small clusters that are made for it (k-means on principal components, about 50 cells each).
    explain
        For models that can say what moved an answer (``"celltosg"``): so many cells of each answered type are explained, drawn by
        ``seed``. Genes and nodes of a graph are deleted one by one, about 80 a cell, so ask for a few.
    key_added
        Prefix of everything written.
    batch_size
        Cells a block; chosen by memory where None.
    seed
        Of the held-out cells, the components and the clusters.
    copy
        Return a changed copy instead of changing ``adata``.

    Returns
    -------
    None, or the copy. Sets, with ``key_added`` in place of ``sclm_cell_type``:

    ``.obs["sclm_cell_type"]`` : categorical
        Cell type.
    ``.obs["sclm_cell_type_ontology_term_id"]`` : categorical
        Its id in the Cell Ontology, ``"unknown"`` where it has none.
    ``.obs["sclm_cell_type_confidence"]`` : float64, 0–1
        Calibrated probability (temperature scaling on held-out reference cells); after back-off the summed probability of
        the term; in a group its mean over the cells.
    ``.obs["sclm_cell_type_novelty"]`` : float64, 0–1
        How far the cell lies from the nearest reference cells; 0.5 is the most unusual twentieth of the reference itself:
        see :class:`sclm.evidence.ReferenceSpace`.
    ``.obs["sclm_cell_type_per_cell"]``, ``.obs["sclm_cell_type_vote_fraction"]``
        With a consensus: each cell's own type, and the share of the group that agrees with the consensus (NaN for cells
        without a group or without counts).
    ``.obsm["sclm_cell_type_probabilities"]`` : float32 (n_obs, n_types)
        Calibrated probabilities, columns in ``.uns["sclm_cell_type"]["categories"]``. Of more than 256 types, those get a column that are
        a cell's answer or reach a probability of 0.01 in some cell, and probabilities below 0.001 are written as 0; how many types
        and how much probability that leaves out is in ``.uns["sclm_cell_type"]["left_out"]``. Back-off and consensus see all of it.
    ``.uns["sclm_cell_type"]`` : dict
        The record: tool, model, parameters, seed, categories and their ids, gene overlap, ontology version, and with a
        reference how its labels were resolved. With ``explain=``, ``["explanation"]`` is a table of genes and nodes with the
        attention they got and the nats that the answer loses without them, and ``["faithfulness"]`` says whether deleting what
        is shown costs more than deleting as much else: see :func:`sclm.get.annotate_explanation`.

    Raises
    ------
    ValueError
        If the counts are not raw, the genes do not overlap, or an argument is out of range. The AnnData is unchanged.
    TypeError
        If ``candidates`` or ``under`` is given to a model that names the types of its reference only, or ``explain`` to one
        that cannot.
    KeyError
        If a column or layer does not exist.

    Notes
    -----
    Temperature scaling: Guo et al., ICML 2017, eq. 9. Back-off sums probabilities over descendants in the ontology.

    Examples
    --------
    >>> import sclm
    >>> adata = sclm.datasets.pbmc68k()
    >>> query, reference = adata[:100].copy(), adata[100:]
    >>> sclm.tl.annotate(query, reference=reference, label_key="cell_type")
    >>> query.obs["sclm_cell_type_ontology_term_id"].iloc[0]
    'CL:0001054'
    """
    results.check_name(key_added)
    adata = table_of(adata, table_key, mod)
    if min_confidence is not None and (isinstance(min_confidence, bool | str) or not 0 < min_confidence <= 1):
        raise ValueError(
            f"min_confidence must be a number in (0, 1], found {min_confidence!r}. Use e.g. 0.8, or None for no back-off."
        )
    if not copy and getattr(adata, "is_view", False) and adata.isbacked:
        raise ValueError(
            "Results cannot be written into a view of a backed AnnData. Pass copy=True, or call .to_memory() on it."
        )
    if groupby is not None and majority_voting:
        raise ValueError("Pass either groupby= or majority_voting=True, found both.")
    slots: dict[str, Any] = {"layer": layer, "gene_key": gene_key, "invert_log1p": invert_log1p}
    source = read_cells(adata, **slots, obs_keys=[groupby] if groupby else [])
    annotator = _annotator(
        model,
        source,
        reference,
        label_key=label_key,
        batch_key=batch_key,
        layer=reference_layer,
        gene_key=reference_gene_key,
        invert_log1p=invert_log1p,
        asked={"candidates": candidates, "under": under},
        explain=explain,
        seed=seed,
    )
    asked = [name for name in getattr(annotator, "obs_keys", ()) if name in adata.obs and name != groupby]
    if asked:  # columns that the model reads, such as tissue and disease in a prompt
        source = read_cells(adata, **slots, obs_keys=[*asked, *([groupby] if groupby else [])])
    options = vocabulary_options(annotator, candidates, under)
    check_explain(annotator, explain)
    match = annotator.match(source.genes)
    logger.info("genes: %s", match.summary())

    groups = None
    if groupby is not None:
        column = source.obs[groupby]
        there = column.notna().to_numpy()
        names = column.astype(str).to_numpy(dtype=object)
        groups = np.where(there, names, np.full(len(names), None, dtype=object))  # None: no group
    elif majority_voting:
        groups = over_cluster(source, seed=seed)
    gatherer = Gatherer(groups, min_confidence, Ontology.load("cl"))
    with tqdm(total=source.n_cells, desc="annotate", unit=" cells", delay=2, leave=False) as bar:
        for cells in source.blocks(batch_size):
            gatherer.add(annotator.annotate(cells, **options))
            bar.update(len(cells.obs))
    table, answer, probabilities, categories, left_out = gatherer.finish()

    empty = int((table["label"] == UNKNOWN).sum())
    if empty:
        logger.warning("%d cells have no counts in the model's genes: 'unknown' with confidence 0.", empty)
    novel = float((table["novelty"] > _NOVEL).mean())
    if novel > _NOVEL_SHARE:
        logger.warning(
            "%.0f %% of the cells have a novelty above %.1f, where 5 %% of cells like the reference lie: another protocol, or "
            "types that the reference lacks. Their names may be wrong however confident they are.",
            100 * novel, _NOVEL,
        )  # fmt: skip

    explained = explanation(annotator, source, table, explain, options, seed) if explain else {}
    entry = results.record(
        "annotate",
        model=annotator.provenance() if hasattr(annotator, "provenance") else {"family": type(annotator).__name__},
        params={
            "table_key": table_key,
            "mod": mod,
            "layer": layer,
            "gene_key": gene_key,
            "label_key": label_key,
            "batch_key": batch_key,
            "reference_layer": reference_layer,
            "reference_gene_key": reference_gene_key,
            "invert_log1p": invert_log1p,
            "candidates": options.get("candidates"),
            "under": under,
            "min_confidence": min_confidence,
            "groupby": groupby,
            "majority_voting": majority_voting,
            "explain": explain or None,
        },
        seed=seed,
        categories=categories["label"].tolist(),
        category_ontology_term_ids=categories["ontology_term_id"].tolist(),
        genes={"matched": match.matched, "in_model": match.in_model, "in_data": match.in_data},
        ontology=_ontology(annotator),
        **({"left_out": left_out} if left_out else {}),
        **_facts(annotator),
        **explained,
    )
    target = adata.copy() if copy and not adata.isbacked else adata.to_memory() if copy else adata
    results.write(
        target,
        key_added,
        entry,
        obs={
            key_added: pd.Categorical(answer["label"]),
            f"{key_added}_ontology_term_id": pd.Categorical(answer["ontology_term_id"]),
            f"{key_added}_confidence": answer["confidence"],
            f"{key_added}_novelty": table["novelty"].to_numpy(dtype=np.float64),
            f"{key_added}_per_cell": None if groups is None else pd.Categorical(answer["per_cell"]),
            f"{key_added}_vote_fraction": None if groups is None else answer["vote_fraction"],
        },
        obsm={f"{key_added}_probabilities": probabilities},
    )
    return target if copy else None


def _annotator(
    model: Any,
    source: CellSource,
    reference: anndata.AnnData | None,
    *,
    label_key: str | None,
    batch_key: str | None,
    layer: str | None,
    gene_key: str | None,
    invert_log1p: bool,
    asked: dict[str, Any],
    explain: int,
    seed: int,
) -> Any:
    """The trained model: loaded, or trained now on the genes that the reference and the data share."""
    if reference is None:
        given = {
            "label_key": label_key,
            "batch_key": batch_key,
            "reference_layer": layer,
            "reference_gene_key": gene_key,
        }
        if extra := [k for k, v in given.items() if v is not None]:
            raise ValueError(
                f"{' and '.join(extra)} describe a reference, found no reference. Pass reference= as well."
            )
        annotator = model if isinstance(model, Annotator) and not isinstance(model, type) else models.load(model)
        if not isinstance(annotator, Annotator):
            raise ValueError(f"{getattr(annotator, 'family', type(annotator).__name__)!r} does not annotate cells.")
        return annotator
    if label_key is None:
        columns = ", ".join(map(str, list(getattr(reference, "obs", pd.DataFrame()).columns)[:20]))
        raise ValueError(
            f"label_key= must name the column of reference.obs with the cell types, found None. Columns: {columns or 'none'}."
        )
    if not isinstance(model, str) or model not in models.FAMILIES:
        raise ValueError(
            f"With reference=, model must be a family to train ({', '.join(map(repr, models.FAMILIES))}), found {model!r}. "
            "Leave reference= out to use a trained model."
        )
    family = models.family_class(model)
    if not hasattr(family, "annotate"):
        raise ValueError(f"{model!r} does not annotate cells. Use e.g. 'logistic', the default.")
    vocabulary_options(family, **asked)  # refused before training
    check_explain(family, explain)
    keys = [label_key] + ([batch_key] if batch_key else [])
    try:
        labelled = read_cells(reference, layer=layer, gene_key=gene_key, obs_keys=keys, invert_log1p=invert_log1p)
    except (KeyError, TypeError, ValueError) as error:
        # The same messages, in the words of this call: adata.X → reference.X, layer= → reference_layer=.
        text = re.sub(r"\badata\b", "reference", str(error.args[0]))
        raise type(error)(re.sub(r"\b(layer|gene_key)=", r"reference_\1=", text)) from error
    options = {"batch_key": batch_key} if batch_key else {}
    return family.fit(labelled, label_key=label_key, genes=source.genes, seed=seed, **options)


def _ontology(annotator: Any) -> dict[str, str]:
    """Ontology that the model's terms were resolved with, and the one that names and back-off come from now."""
    now = Ontology.load("cl").version
    trained = getattr(getattr(annotator, "config", None), "ontology_version", "") or now
    return {"name": "cl", "version": now, "version_in_training": trained}


def _facts(annotator: Any) -> dict[str, Any]:
    """How a reference's labels were resolved and what its card says, where the model knows."""
    facts: dict[str, Any] = {}
    labels = getattr(annotator, "reference_labels", None)
    if labels is not None:
        facts["reference_labels"] = labels
    if getattr(annotator, "card", None):
        facts["card"] = annotator.card
    return facts
