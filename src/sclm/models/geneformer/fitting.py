"""Pre-train a Geneformer on cells of one's own: medians from the data, then masked genes."""

from __future__ import annotations

import copy
import dataclasses
import logging
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import scipy.sparse as sp

from sclm.cells import GeneVocabulary
from sclm.models.geneformer.dictionaries import SPECIAL, Dictionaries
from sclm.models.geneformer.module import KEPT, Batch, GeneformerModule, masked_batch
from sclm.models.geneformer.network import GeneformerConfig, GeneformerNetwork
from sclm.models.geneformer.tokens import rank_tokens
from sclm.training import CellDataModule, expressed_genes, fit, running_options

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sclm.cells import Cells, CellSource
    from sclm.models.geneformer.model import Geneformer

logger = logging.getLogger(__name__)

_MEDIAN_CELLS = 50_000  # of the data, drawn at random, where it has more
Model = TypeVar("Model", bound="Geneformer")


def fit_geneformer(
    cls: type[Model],
    source: CellSource,
    *,
    preset: str = "small",
    version: str = "V2",
    base: Geneformer | None = None,
    genes: Iterable[str] | None = None,
    batch_key: str | None = None,
    balance_key: str | None = None,
    seed: int = 0,
    **options: Any,
) -> Model:
    """Pre-train by masked language modelling, from random weights or from a model's.

    Parameters
    ----------
    cls
        :class:`~sclm.models.geneformer.model.Geneformer`.
    source
        Cells with raw counts of all genes that were measured.
    preset
        Sizes: ``"tiny"`` (a minute on a core for a thousand cells), ``"small"``, ``"V1-10M"``, ``"V2-104M"``, ``"V2-316M"``.
    version
        ``"V2"`` with ``<cls>`` and ``<eos>`` around a cell's genes, or ``"V1"`` without.
    base
        Go on from this model, with its sizes, genes and medians; `preset` and `version` are then not used.
    genes
        Only these genes of the data.
    batch_key
        Column of ``.obs`` with the donor or batch: whole ones are held out.
    balance_key
        Column of ``.obs`` whose values are drawn equally often.
    seed
        Of everything random.
    **options
        Fields of :class:`~sclm.models.geneformer.network.GeneformerConfig`, and ``max_minutes``, ``folder``, ``progress_bar``,
        ``accelerator``, ``devices``, ``num_nodes``, ``strategy``, ``precision`` of :func:`sclm.training.fit`.

    Returns
    -------
    The model, with the weights that explain held-out cells best.
    """
    training = running_options(options)
    if base is None:
        dictionaries = learn_dictionaries(source, version=version, genes=genes, seed=seed)
        config = GeneformerConfig.preset(preset, **options)
        network = GeneformerNetwork(config, len(dictionaries.vocabulary), seed=seed)
    else:
        if base.config.head != "masked":
            raise TypeError(f"base must have a head of masked genes, found {base.config.head!r}.")
        dictionaries, network = base.dictionaries, copy.deepcopy(base.network)
        config = dataclasses.replace(base.config, **options)
    vocabulary, n_special = dictionaries.vocabulary, len(SPECIAL[dictionaries.version])
    lengths = np.minimum(expressed_genes(source, vocabulary, min_share=0.0) + (n_special - 2), config.max_length)
    filled = np.flatnonzero(lengths > n_special - 2)

    def encode(cells: Cells, generator: np.random.Generator) -> Batch:
        tokens = rank_tokens(cells.counts, dictionaries, config.max_length)
        return masked_batch(tokens, n_special, len(vocabulary), config.masked_share, generator)

    data = CellDataModule(
        source,
        encode,
        vocabulary=vocabulary,
        max_tokens=config.max_tokens,
        lengths=lengths,
        rows=filled,
        validation=config.validation_share,
        validation_key=batch_key,
        balance_key=balance_key,
        min_share=0.0,
        seed=seed,
    )
    report = fit(
        GeneformerModule(network, config),
        data,
        max_epochs=config.max_epochs,
        patience=config.patience if data.validation_rows.size else None,
        monitor="validation_loss" if data.validation_rows.size else "training_loss",
        seed=seed,
        **training,
    )
    card = _card(source, data, report, dictionaries, batch_key, base)
    logger.info(
        "trained for %d epochs: %s nats a hidden gene of held-out cells",
        report.best_epoch,
        card["held_out_nats_a_hidden_gene"],
    )
    return cls(config, vocabulary, network, card, dictionaries=dictionaries)


def learn_dictionaries(
    source: CellSource, *, version: str, genes: Iterable[str] | None = None, seed: int = 0
) -> Dictionaries:
    """Genes of the data with their medians: of each, over the cells that express it, of its counts per 10,000 of the cell.

    Parameters
    ----------
    source
        Cells; where there are more than 50,000, the medians are those of as many drawn at random.
    version
        ``"V1"`` or ``"V2"``.
    genes
        Only these.
    seed
        Of the draw.

    Returns
    -------
    The :class:`~sclm.models.geneformer.dictionaries.Dictionaries`, genes in the order of the data; genes without counts are left out.
    """
    if version not in SPECIAL:
        raise ValueError(f"version must be one of {', '.join(map(repr, SPECIAL))}, found {version!r}.")
    rows = np.arange(source.n_cells)
    if rows.size > _MEDIAN_CELLS:
        rows = np.sort(np.random.default_rng([seed, 5]).permutation(rows)[:_MEDIAN_CELLS])
    blocks = []
    for block in source.blocks(rows=rows):
        totals = np.asarray(block.counts.sum(axis=1, dtype=np.float64)).ravel()  # (n_block,)
        scale = np.divide(1e4, totals, out=np.zeros_like(totals), where=totals > 0)
        values = (block.counts.data * np.repeat(scale, np.diff(block.counts.indptr))).astype(np.float32)
        blocks.append(sp.csr_matrix((values, block.counts.indices, block.counts.indptr), shape=block.counts.shape))
    columns = sp.vstack(blocks, format="csr").tocsc() if blocks else sp.csc_matrix((0, source.n_genes))
    medians = np.full(source.n_genes, np.nan)
    for gene, (start, stop) in enumerate(zip(columns.indptr[:-1], columns.indptr[1:], strict=True)):
        if start < stop:
            medians[gene] = np.median(columns.data[start:stop].astype(np.float64))
    kept = np.isfinite(medians)
    if genes is not None:
        wanted = GeneVocabulary(tuple(dict.fromkeys(map(str, genes)))).match(source.genes)
        kept &= wanted.ids >= 0
    if not kept.any():
        raise ValueError(
            f"The data must hold counts of the genes that are asked for, found none in {source.n_cells:,} cells."
        )
    special = SPECIAL[version]
    names = [str(name) for name in source.genes[kept]]
    vocabulary = GeneVocabulary((*special, *names))
    return Dictionaries(vocabulary, np.concatenate([np.full(len(special), np.nan), medians[kept]]))


def _card(
    source: CellSource,
    data: CellDataModule,
    report: Any,
    dictionaries: Dictionaries,
    batch_key: str | None,
    base: Geneformer | None,
) -> dict[str, Any]:
    """Data, split, the loss beside what the genes' frequencies alone give, limits."""
    held_out = len(data.validation_rows)
    by = f"whole values of .obs[{batch_key!r}]" if batch_key else "cells at random"
    start = "random weights" if base is None else f"weights of {base.card.get('data', base.path or 'a model')}"
    return {
        "data": f"{len(data.training_rows):,} cells, {int(dictionaries.vocabulary.is_gene.sum()):,} genes, from {start}",
        "split": f"{held_out:,} cells held out ({by})",
        "held_out_nats_a_hidden_gene": round(float(report.best_score), 4),
        "held_out_nats_by_gene_frequency_alone": round(_frequency_nats(data, len(dictionaries.vocabulary)), 4),
        "epochs": report.best_epoch,
        "limits": "reads cells of tissues and platforms like those it was trained on",
    }


def _frequency_nats(data: CellDataModule, n_tokens: int) -> float:
    """Nats a hidden gene of held-out cells when each is expected as often as it was hidden in training; NaN without held-out cells."""
    if not data.validation_rows.size:
        return float("nan")
    counts = np.ones(n_tokens)
    for batch in data.train_dataloader():
        counts += np.bincount(batch.targets[batch.targets != KEPT].numpy(), minlength=n_tokens)
    log_share = np.log(counts / counts.sum())
    asked = np.concatenate([batch.targets[batch.targets != KEPT].numpy() for batch in data.val_dataloader()])
    return float(-log_share[asked].mean())
