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
from sclm.tl._stages import Part, Whole, in_one_go

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
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
    adata = table_of(adata, table_key, mod)
    if not copy and getattr(adata, "is_view", False) and adata.isbacked:
        raise ValueError(
            "Results cannot be written into a view of a backed AnnData. Pass copy=True, or call .to_memory() on it."
        )
    work = Translating(
        adata,
        model,
        proteins=proteins,
        reference=reference,
        protein_key=protein_key,
        batch_key=batch_key,
        table_key=table_key,
        mod=mod,
        layer=layer,
        gene_key=gene_key,
        reference_layer=reference_layer,
        reference_gene_key=reference_gene_key,
        invert_log1p=invert_log1p,
        key_added=key_added,
        batch_size=batch_size,
        device=device,
        seed=seed,
    )
    return in_one_go(adata, work, copy)


class Translating:
    """A call of :func:`sclm.tl.translate`, prepared: see :class:`sclm.tl._stages.Stages`."""

    def __init__(self, adata: anndata.AnnData, model: Any, *, trained: Any = None, **given: Any) -> None:
        results.check_name(given["key_added"])
        self.given = given
        self.source = read_cells(adata, **{name: given[name] for name in ("layer", "gene_key", "invert_log1p")})
        self.model = translator = _translator(model, self.source, given["reference"], given, trained)
        check_device(translator, given["device"])
        self.names, self._places = translator.resolve(given["proteins"])
        self.match = translator.match(self.source.genes)
        logger.info("genes: %s", self.match.summary())

    @staticmethod
    def needs_all(arguments: Mapping[str, Any]) -> str | None:
        """Nothing does."""
        return None

    def part(self, rows: np.ndarray | None = None) -> Part:
        """The cells of these rows, or all."""
        n_cells = self.source.n_cells if rows is None else len(rows)
        found = np.empty((n_cells, len(self.names)), dtype=np.float32)
        first = 0
        with (
            on_device(self.model, self.given["device"]),
            tqdm(total=n_cells, desc="translate", unit=" cells", delay=2, leave=False) as bar,
        ):
            for cells in self.source.blocks(self.given["batch_size"], rows):
                table = self.model.translate(cells, proteins=self.names)
                found[first : first + len(table)] = table.to_numpy()
                first += len(table)
                bar.update(len(table))
        return Part({}, {"proteins": found}, {"empty": int(np.isnan(found).all(axis=1).sum())})

    def whole(self, parts: Sequence[Part]) -> Whole:
        """All parts, in the order of the cells."""
        given, match, translator, key = self.given, self.match, self.model, self.given["key_added"]
        empty = int(sum(part.facts["empty"] for part in parts))
        if empty:
            logger.warning("%d cells have no counts in the model's genes: their proteins are NaN.", empty)
        expected = None if translator.expectation is None else translator.expectation.iloc[self._places]
        if expected is not None:
            expected = expected.assign(protein=self.names).reset_index(drop=True)
        _warn(expected)
        params = {
            name: given[name]
            for name in (
                "protein_key", "batch_key", "table_key", "mod", "layer", "gene_key", "reference_layer", "reference_gene_key", "invert_log1p", "device",
            )
        }  # fmt: skip
        entry = results.record(
            "translate",
            model=translator.provenance()
            if hasattr(translator, "provenance")
            else {"family": type(translator).__name__},
            params={"proteins": None if given["proteins"] is None else self.names, **params},
            seed=given["seed"],
            names=self.names,
            scale=translator.scale,
            expected=expected,
            genes={"matched": match.matched, "in_model": match.in_model, "in_data": match.in_data},
            n_cells_without_genes=empty,
            **({"panel": list(translator.proteins)} if translator.proteins else {}),
            **({"card": translator.card} if getattr(translator, "card", None) else {}),
        )
        return Whole(key, entry, {}, {key: lambda part: part.matrices["proteins"]})


def _translator(model: Any, source: CellSource, reference: Any, given: Mapping[str, Any], trained: Any) -> Any:
    """The trained model: loaded, or trained now on the genes that the reference and the data share."""
    if trained is not None:
        return trained
    protein_key, batch_key = given["protein_key"], given["batch_key"]
    layer, gene_key = given["reference_layer"], given["reference_gene_key"]
    if reference is None:
        of_reference = ("protein_key", "batch_key", "reference_layer", "reference_gene_key")
        if extra := [name for name in of_reference if given[name] is not None]:
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
        labelled = read_cells(rna, layer=layer, gene_key=gene_key, obs_keys=keys, invert_log1p=given["invert_log1p"])
    except (KeyError, TypeError, ValueError) as error:
        # The same messages, in the words of this call: adata.X → reference.X, layer= → reference_layer=.
        text = re.sub(r"\badata\b", "reference", str(error.args[0]))
        raise type(error)(re.sub(r"\b(layer|gene_key)=", r"reference_\1=", text)) from error
    options = {"batch_key": batch_key} if batch_key else {}
    return family.fit(labelled, proteins=measured, genes=source.genes, seed=given["seed"], **options)


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
