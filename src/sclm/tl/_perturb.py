"""Perturb genes in silico, or predict how cells respond."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from sclm import models, results
from sclm.cells import read_cells, table_of
from sclm.models.contract import Perturber, Responder
from sclm.tl._model import check_device, loaded, on_device
from sclm.tl._perturb_response import predict
from sclm.tl._perturb_screen import screen

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import anndata

    from sclm.models.family import Family

logger = logging.getLogger(__name__)


def perturb(
    adata: anndata.AnnData,
    model: str | Path | Family | Perturber | Responder,
    perturbations: Sequence[str | Sequence[str]] | None = None,
    *,
    kind: str = "delete",
    state_key: str | None = None,
    start: str | None = None,
    goal: str | None = None,
    perturbation_key: str | None = None,
    control: str | None = None,
    n_cells: int | None = 300,
    n_null: int = 200,
    table_key: str | None = None,
    mod: str | None = None,
    layer: str | None = None,
    gene_key: str | None = None,
    hidden_layer: int | None = None,
    pooling: str | None = None,
    key_added: str = "sclm_perturb",
    device: str | None = None,
    seed: int = 0,
    copy: bool = False,
) -> anndata.AnnData | None:
    r"""Which genes move these cells, and where to? A screen in silico; or the profiles that a trained model predicts.

    With an encoder (scGPT, Geneformer) genes are deleted or overexpressed in the tokens of cells, and the shift of each cell's vector is
    measured. Shifts depend on how often and how strongly a gene is expressed, whatever its role: so the same is done to ``n_null`` random
    genes outside the list that are as abundant, and no effect is given without what these do (:class:`sclm.evidence.GeneNull`).
    With ``start`` and ``goal``, two states in a column of ``.obs``, the cells of the first are perturbed, and the shift towards the second
    is tested as well: "which knock-out moves exhausted T cells towards effector".

    With a model that was trained on a perturbation experiment (scGPT fine-tuned on it, by you or by others, or a baseline), the mean
    profile of the control cells after each perturbation is predicted instead, beside the baselines that are known to be hard to beat,
    with what the model has seen of each perturbation in its training, and judged by :class:`sclm.evidence.PlausibilityGuard`.

    Parameters
    ----------
    adata
        Cells with raw counts; CSR, CSC or dense, in memory, a view, backed or Dask; or a SpatialData or MuData.
    model
        A trained model, its folder, an original checkpoint folder, a published name, or ``"hf:organisation/name"``.
    perturbations
        Genes, or combinations as tuples or as ``"A+B"``. None: for an encoder the transcription factors
        (:func:`sclm.knowledge.transcription_factors`) that at least a twentieth of the cells express (or 10 cells); for a trained model
        what it was trained on.
    kind
        ``"delete"`` or ``"overexpress"``, of an encoder. A cell enters a deletion if it expresses all genes of it.
    state_key
        Column of ``.obs`` with the states of the cells.
    start
        State whose cells are perturbed; all cells where None.
    goal
        State that they should come nearer to; needs ``start``.
    perturbation_key
        For a trained model: column of ``.obs`` with the perturbation of each cell, to learn the baselines on the cells of perturbations
        that the model was trained on, and to score all predictions on the measured ones. A checkpoint of others does not say what it
        was trained on: its baselines are learnt on the perturbations that were not asked for.
    control
        Label of the control cells in that column, which predictions start from; all cells are control cells where no column is given.
    n_cells
        Cells that are perturbed, and that each state's vector is the mean of, drawn at random where there are more; None: all.
    n_null
        Random genes (or combinations of each size) of the null, at least 20.
    table_key
        Table of a SpatialData; it is changed in place, nothing else of the SpatialData is.
    mod
        Modality of a MuData with the RNA, which is changed in place. May be left out where it is called ``"rna"`` or is the only one.
    layer
        Layer with the raw counts; ``.X`` where None.
    gene_key
        Column of ``.var`` with symbols or Ensembl ids; ``.var_names`` where None.
    hidden_layer, pooling
        Of an encoder's vectors, as in :func:`sclm.tl.embed`; None: the original's.
    key_added
        Key of everything written.
    device
        Where the network runs for this call: ``"cpu"``, ``"cuda"``, ``"auto"`` …; where it is when None.
    seed
        Of the cells and the random genes.
    copy
        Return a changed copy instead of changing ``adata``.

    Returns
    -------
    None, or the copy. Sets, with ``key_added`` in place of ``sclm_perturb``:

    ``.uns["sclm_perturb"]`` : dict
        The record. Of an encoder, with ``effects``: a table, one row a perturbation, best first (by ``goal_z`` where there is a goal, else
        by ``z``); :func:`sclm.get.perturb` returns it:

        ``perturbation``, ``n_genes``, ``n_cells`` (that it applies to), ``detection`` (share of the cells that express all its genes) and
        ``expression`` (mean log1p of counts scaled to 10,000, in the cells that express the gene);
        ``effect``: mean over cells of :math:`1 - \cos(e', e)`, the vectors after and before;
        ``null_mean``, ``null_sd``: what a random gene of this abundance does; ``z``; ``p``, one-sided: larger than random genes'; ``q``:
        false discovery rate over the list (Benjamini and Hochberg);
        with a goal: ``towards_start``, ``towards_goal``: mean of :math:`\cos(e', s) - \cos(e, s)`, s the mean vector of the state's cells
        (the perturbed cell among them); ``goal_shift``, their difference, goal minus start; ``goal_null_mean``, ``goal_null_sd``,
        ``goal_z``, ``goal_p`` (two-sided), ``goal_q``.

        ``null``: the same of the random genes, whose z is from what was learnt without their tenth. ``states``: cells of each state.

        Of a trained model, with ``perturbations``, ``genes``, ``predicted`` (float32 perturbations x genes), ``control`` (float32, the
        profile that predictions start from), ``baselines`` (name → the same as ``predicted``), ``baselines_from`` (``rule``, the
        ``perturbations`` whose cells they learnt from, and ``paired_within``, the column of batches within which they compared them
        with control cells, as the model did), ``facts`` (what was seen in training), ``plausibility``
        (:func:`sclm.evidence.judge_profiles`) and, where cells of asked perturbations are measured, ``scores``
        (:func:`sclm.metrics.perturbation.compare`) with ``standing``: what training has seen of each. Scores of perturbations that are
        ``"seen"`` say how well they were learnt, and nothing of predictions. See :func:`sclm.get.perturb_profiles`.

    Raises
    ------
    ValueError
        If the counts are not raw, a state or label does not exist, there are too few random genes for a null, or an argument does not
        belong to this kind of model. The AnnData is unchanged.
    KeyError
        If a column or layer does not exist, or the model does not know a gene.
    TypeError
        If the model can neither perturb nor predict.

    Notes
    -----
    Shifts: Theodoris et al., Nature 618 (2023). Baselines: Ahlmann-Eltze, Huber and Anders, Nature Methods (2025). An in-silico
    deletion removes a gene from a cell's description; that a network's vector moves is no evidence that the cell would.

    Examples
    --------
    >>> import sclm
    >>> adata = sclm.datasets.pbmc68k()
    >>> model = sclm.train("scgpt", adata, preset="tiny", max_epochs=1, progress_bar=False)
    >>> sclm.tl.perturb(adata, model, ["CD74", "LYZ", ("CD74", "HLA-DRA")], n_cells=50, n_null=30)
    >>> list(sclm.get.perturb(adata).columns[:5])
    ['perturbation', 'n_genes', 'n_cells', 'detection', 'expression']
    """
    results.check_name(key_added)
    adata = table_of(adata, table_key, mod)
    if not copy and getattr(adata, "is_view", False) and adata.isbacked:
        raise ValueError(
            "Results cannot be written into a view of a backed AnnData. Pass copy=True, or call .to_memory() on it."
        )
    if n_cells is not None and (isinstance(n_cells, bool) or not isinstance(n_cells, int) or n_cells < 1):
        raise ValueError(f"n_cells must be a whole number of at least 1, or None for all cells, found {n_cells!r}.")
    if kind not in ("delete", "overexpress"):
        raise ValueError(f"kind must be 'delete' or 'overexpress', found {kind!r}.")
    if perturbations is not None and not len(perturbations):
        raise ValueError("perturbations must name at least one gene, found none. Leave it out for the default list.")
    asked = [perturbations] if isinstance(perturbations, str) else perturbations
    found = _model(model)
    check_device(found, device)
    trained = isinstance(found, Responder) and found.responds  # a family may hold encoders and models of responses
    states: dict[str, Any] = {"state_key": state_key, "start": start, "goal": goal}
    space: dict[str, Any] = {"hidden_layer": hidden_layer, "pooling": pooling}
    measured: dict[str, Any] = {"perturbation_key": perturbation_key, "control": control}
    if trained:
        _refuse("encoders", kind=None if kind == "delete" else kind, **states, **space)
    else:
        _refuse("models that were trained on a perturbation experiment", **measured)

    columns = [key for key in (state_key, perturbation_key) if key is not None]
    source = read_cells(adata, layer=layer, gene_key=gene_key, obs_keys=columns)
    match = found.match(source.genes)
    logger.info("genes: %s", match.summary())
    options: dict[str, Any] = {"n_cells": n_cells, "seed": seed}
    with on_device(found, device):
        if trained:
            slots: dict[str, Any] = {"layer": layer, "gene_key": gene_key}
            facts = predict(adata, source, found, match, asked, **measured, **slots, **options)
        else:
            facts = screen(source, found, match, asked, kind=kind, n_null=n_null, **states, **space, **options)
    entry = results.record(
        "perturb",
        model=found.provenance() if hasattr(found, "provenance") else {"family": type(found).__name__},
        params={
            "kind": kind,
            **states,
            **measured,
            "n_cells": n_cells,
            "n_null": n_null,
            "table_key": table_key,
            "mod": mod,
            "layer": layer,
            "gene_key": gene_key,
            **space,
        },
        seed=seed,
        genes_in_common={"matched": match.matched, "in_model": match.in_model, "in_data": match.in_data},
        **facts,
    )
    target = adata.copy() if copy and not adata.isbacked else adata.to_memory() if copy else adata
    results.write(target, key_added, entry)
    return target if copy else None


def _model(model: Any) -> Any:
    """The model behind a name, folder or object, checked to perturb or to predict."""
    found = model if isinstance(model, Perturber | Responder) else models.load(model)
    return found if isinstance(found, Responder) else loaded(found, Perturber, "perturb", "perturb cells")


def _refuse(owner: str, **arguments: Any) -> None:
    """Refuse arguments that mean nothing to this kind of model."""
    if given := [f"{name}=" for name, value in arguments.items() if value is not None]:
        raise ValueError(f"{' and '.join(given)} is for {owner}. Leave it out for this model.")
