"""Predict proteins from RNA."""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from sclm import models, results
from sclm.cells import read_cells, table_of
from sclm.cells.proteins import read_proteins
from sclm.models.contract import Translator
from sclm.tl._model import check_device, loaded, on_device

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import anndata
    import pandas as pd

    from sclm.cells import CellSource
    from sclm.models.family import Family

logger = logging.getLogger(__name__)

_TRUSTED = 0.3  # expected correlation below which a protein is hardly predicted


def translate(
    adata: anndata.AnnData,
    model: str | Path | Family | Translator = "ridge-protein",
    *,
    proteins: Sequence[str] | None = None,
    reference: Any = None,
    protein_key: str | None = None,
    batch_key: str | None = None,
    table_key: str | None = None,
    mod: str | None = None,
    layer: str | None = None,
    gene_key: str | None = None,
    reference_layer: str | None = None,
    reference_gene_key: str | None = None,
    invert_log1p: bool = False,
    key_added: str = "sclm_protein",
    batch_size: int | None = None,
    device: str | None = None,
    seed: int = 0,
    copy: bool = False,
) -> anndata.AnnData | None:
    r"""Predict the surface proteins of cells from their RNA.

    With ``reference=`` a family is trained first on cells in which both were measured (CITE-seq), on the genes that both data
    share; with a trained model it is used as it is. How well each protein was predicted in cells of the reference that no model
    was trained on is written beside the prediction, and so is what simple baselines reach there: many antibodies cannot be
    predicted from RNA at all.

    Parameters
    ----------
    adata
        Cells with raw counts; CSR, CSC or dense, in memory, a view, backed or Dask; or a SpatialData or MuData.
    model
        A trained model, its folder, a published scTranslator checkpoint, or with ``reference=`` the name of the family to train:
        ``"ridge-protein"`` (default), ``"own-gene"``, ``"mean-protein"``, ``"sctranslator"``.
    proteins
        Names to predict, in any usual spelling (``"CD3"`` finds ``"CD3_TotalSeqB"``); the whole panel where None. Published
        scTranslator weights have no panel and need this.
    reference
        AnnData or MuData with raw counts of RNA and with proteins.
    protein_key
        Key of ``reference.obsm`` with the proteins, or of a MuData the modality: see :func:`sclm.train`.
    batch_key
        Column of ``reference.obs`` with the donor or batch: whole ones are held out where there are at least three.
    table_key
        Table of a SpatialData; it is changed in place, nothing else of the SpatialData is.
    mod
        Modality of a MuData with the RNA, which is changed in place. May be left out where it is called ``"rna"`` or is the only one.
    layer
        Layer of ``adata`` with the raw counts; ``.X`` where None.
    gene_key
        Column of ``adata.var`` with symbols or Ensembl ids (``"my_Id"`` for published weights read without their dictionaries);
        ``.var_names`` where None.
    reference_layer
        Layer of the reference with the raw counts; ``.X`` where None.
    reference_gene_key
        Column of ``reference.var`` with symbols or Ensembl ids; ``.var_names`` where None.
    invert_log1p
        Turn log1p-normalised counts back, where that is exact, in the data and in the reference.
    key_added
        Key of everything written.
    batch_size
        Cells a block; chosen by memory where None.
    device
        Where the network runs for this call; where it is when None.
    seed
        Of the held-out cells and the training.
    copy
        Return a changed copy instead of changing ``adata``.

    Returns
    -------
    None, or the copy. Sets, with ``key_added`` in place of ``sclm_protein``:

    ``.obsm["sclm_protein"]`` : float32 (n_obs, n_proteins)
        Predictions, on the scale that the record names; NaN for cells without counts in the model's genes.
    ``.uns["sclm_protein"]`` : dict
        The record: ``names`` of the columns, ``scale`` (``"clr"``, ``"minmax"``, ``"log1p"`` or ``"given"``, see
        :func:`sclm.cells.scale_proteins`), ``panel`` (all proteins of the model: the scale is taken over them, whichever were asked
        for), model, gene overlap, seed, and ``expected``: one row a protein with its ``genes``,
        ``n_cells`` held out, ``correlation`` across them, ``rmse``, ``half_width_90`` of the interval that held nine in ten of them,
        and correlation and error of the baselines. Published weights come without ``expected``.

    Raises
    ------
    ValueError
        If the counts are not raw, the genes do not overlap, or an argument is out of range. The AnnData is unchanged.
    KeyError
        If a column, layer or protein does not exist.
    TypeError
        If the model predicts no proteins.

    Notes
    -----
    scTranslator: Liu et al., Nat Biomed Eng 2025. Intervals: split conformal prediction (Lei et al., JASA 2018); they hold for
    cells like the reference's, and are too narrow for another donor, tissue or protocol.

    Examples
    --------
    >>> import numpy as np, pandas as pd, sclm
    >>> adata = sclm.datasets.pbmc68k()
    >>> rate = 5 * adata[:, ["CD79A", "NKG7"]].X.toarray() + 2  # proteins that follow two genes, for the example
    >>> values = np.random.default_rng(0).poisson(rate)
    >>> adata.obsm["protein"] = pd.DataFrame(values, adata.obs_names, ["CD79a", "NKG7"])
    >>> query, reference = adata[:100].copy(), adata[100:].copy()
    >>> sclm.tl.translate(query, reference=reference, protein_key="protein")
    >>> query.obsm["sclm_protein"].shape, query.uns["sclm_protein"]["scale"]
    ((100, 2), 'clr')
    """
    results.check_name(key_added)
    adata = table_of(adata, table_key, mod)
    if not copy and getattr(adata, "is_view", False) and adata.isbacked:
        raise ValueError(
            "Results cannot be written into a view of a backed AnnData. Pass copy=True, or call .to_memory() on it."
        )
    source = read_cells(adata, layer=layer, gene_key=gene_key, invert_log1p=invert_log1p)
    translator = _translator(
        model,
        source,
        reference,
        protein_key=protein_key,
        batch_key=batch_key,
        layer=reference_layer,
        gene_key=reference_gene_key,
        invert_log1p=invert_log1p,
        seed=seed,
    )
    check_device(translator, device)
    names, places = translator.resolve(proteins)
    match = translator.match(source.genes)
    logger.info("genes: %s", match.summary())

    found = np.empty((source.n_cells, len(names)), dtype=np.float32)
    first = 0
    with (
        on_device(translator, device),
        tqdm(total=source.n_cells, desc="translate", unit=" cells", delay=2, leave=False) as bar,
    ):
        for cells in source.blocks(batch_size):
            table = translator.translate(cells, proteins=names)
            found[first : first + len(table)] = table.to_numpy()
            first += len(table)
            bar.update(len(table))
    empty = int(np.isnan(found).all(axis=1).sum())
    if empty:
        logger.warning("%d cells have no counts in the model's genes: their proteins are NaN.", empty)
    expected = None if translator.expectation is None else translator.expectation.iloc[places]
    if expected is not None:
        expected = expected.assign(protein=names).reset_index(drop=True)
    _warn(expected)

    entry = results.record(
        "translate",
        model=translator.provenance() if hasattr(translator, "provenance") else {"family": type(translator).__name__},
        params={
            "proteins": None if proteins is None else names,
            "protein_key": protein_key,
            "batch_key": batch_key,
            "table_key": table_key,
            "mod": mod,
            "layer": layer,
            "gene_key": gene_key,
            "reference_layer": reference_layer,
            "reference_gene_key": reference_gene_key,
            "invert_log1p": invert_log1p,
            "device": device,
        },
        seed=seed,
        names=names,
        scale=translator.scale,
        expected=expected,
        genes={"matched": match.matched, "in_model": match.in_model, "in_data": match.in_data},
        n_cells_without_genes=empty,
        **({"panel": list(translator.proteins)} if translator.proteins else {}),
        **({"card": translator.card} if getattr(translator, "card", None) else {}),
    )
    target = adata.copy() if copy and not adata.isbacked else adata.to_memory() if copy else adata
    results.write(target, key_added, entry, obsm={key_added: found})
    return target if copy else None


def _translator(
    model: Any,
    source: CellSource,
    reference: Any,
    *,
    protein_key: str | None,
    batch_key: str | None,
    layer: str | None,
    gene_key: str | None,
    invert_log1p: bool,
    seed: int,
) -> Any:
    """The trained model: loaded, or trained now on the genes that the reference and the data share."""
    if reference is None:
        given = {
            "protein_key": protein_key,
            "batch_key": batch_key,
            "reference_layer": layer,
            "reference_gene_key": gene_key,
        }
        if extra := [k for k, v in given.items() if v is not None]:
            raise ValueError(
                f"{' and '.join(extra)} describe a reference, found no reference. Pass reference= as well."
            )
        return loaded(model, Translator, "translate", "predict proteins")
    if protein_key is None:
        there = ", ".join(map(repr, getattr(reference, "mod", None) or getattr(reference, "obsm", {}))) or "none"
        raise ValueError(
            f"protein_key= must name where the reference has its proteins, a key of .obsm or a modality, found None. There are: {there}."
        )
    if not isinstance(model, str) or model not in models.FAMILIES:
        raise ValueError(
            f"With reference=, model must be a family to train, found {model!r}. Leave reference= out to use a trained model."
        )
    family = models.family_class(model)
    if not hasattr(family, "translate"):
        raise ValueError(f"{model!r} does not predict proteins. Use e.g. 'ridge-protein', the default.")
    keys = [batch_key] if batch_key else []
    try:
        rna, measured = read_proteins(reference, protein_key)
        labelled = read_cells(rna, layer=layer, gene_key=gene_key, obs_keys=keys, invert_log1p=invert_log1p)
    except (KeyError, TypeError, ValueError) as error:
        # The same messages, in the words of this call: adata.X → reference.X, layer= → reference_layer=.
        text = re.sub(r"\badata\b", "reference", str(error.args[0]))
        raise type(error)(re.sub(r"\b(layer|gene_key)=", r"reference_\1=", text)) from error
    options = {"batch_key": batch_key} if batch_key else {}
    return family.fit(labelled, proteins=measured, genes=source.genes, seed=seed, **options)


def _warn(expected: pd.DataFrame | None) -> None:
    """Say how many proteins are hardly predicted, or that nothing is known about that."""
    if expected is None:
        logger.warning(
            "published weights come without an expectation: compare with measured proteins of some of your cells before use."
        )
        return
    weak = int((~(expected["correlation"] >= _TRUSTED)).sum())
    if weak:
        logger.warning(
            "%d of %d proteins had a correlation below %.1f in held-out cells, or none: see sclm.get.translate_expected.",
            weak, len(expected), _TRUSTED,
        )  # fmt: skip
