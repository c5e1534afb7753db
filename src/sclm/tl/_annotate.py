"""Name cell types."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sclm import results
from sclm.cells import table_of
from sclm.tl._annotate_stages import Annotating
from sclm.tl._stages import in_one_go

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import anndata

    from sclm.models.contract import Annotator
    from sclm.models.family import Family


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
    novel_share: float | None = None,
    min_confidence: float | None = None,
    groupby: str | None = None,
    pseudobulk: bool = False,
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
    novel_share
        For ``"celltosg"``: share of the cells that are of types without training cells, in [0, 1). None: estimated from 2,000 of the
        cells, drawn by ``seed``, whatever the model was trained with; the record holds what was used. Pass 0 where every type is in the reference.
    min_confidence
        Threshold in (0, 1] for ontology back-off: the label becomes the most specific ontology term whose summed
        probability reaches it, and ``"unknown"`` where not even a child of the root does. At 0.5 or below, that can be a
        term beside the most probable type. None keeps the most probable type.
    groupby
        Column of ``adata.obs``: cells of a group get the group's consensus, a vote of the answers of its cells; cells without a group keep
        their own type.
    pseudobulk
        With ``groupby``: the counts of a group are summed and the model is asked once a group, in place of the vote; all its cells get the
        answer, its confidence and its novelty, which a sum has more of than single cells. Cells without a group are ``"unknown"``. A language
        model then reads one sentence of the group's most remarkable genes.
    majority_voting
        The vote of ``groupby`` over small clusters that are made for it (k-means on principal components, about 50 cells each).
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
        the term; in a group that voted its mean over the cells.
    ``.obs["sclm_cell_type_novelty"]`` : float64, 0–1
        How far the cell lies from the nearest reference cells; 0.5 is the most unusual twentieth of the reference itself:
        see :class:`sclm.evidence.ReferenceSpace`.
    ``.obs["sclm_cell_type_per_cell"]``, ``.obs["sclm_cell_type_vote_fraction"]``
        With a vote: each cell's own type, and the share of the group that agrees with the consensus (NaN for cells
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
        If ``candidates``, ``under`` or ``novel_share`` is given to a model that names the types of its reference only, or ``explain`` to one
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
    if not copy and getattr(adata, "is_view", False) and adata.isbacked:
        raise ValueError(
            "Results cannot be written into a view of a backed AnnData. Pass copy=True, or call .to_memory() on it."
        )
    work = Annotating(
        adata,
        model,
        reference=reference,
        label_key=label_key,
        batch_key=batch_key,
        table_key=table_key,
        mod=mod,
        layer=layer,
        gene_key=gene_key,
        reference_layer=reference_layer,
        reference_gene_key=reference_gene_key,
        invert_log1p=invert_log1p,
        candidates=candidates,
        under=under,
        novel_share=novel_share,
        min_confidence=min_confidence,
        groupby=groupby,
        pseudobulk=pseudobulk,
        majority_voting=majority_voting,
        explain=explain,
        key_added=key_added,
        batch_size=batch_size,
        seed=seed,
    )
    return in_one_go(adata, work, copy)
