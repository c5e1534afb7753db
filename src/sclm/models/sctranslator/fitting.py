"""Train a scTranslator network on cells with RNA and proteins, or fine-tune a published one."""

from __future__ import annotations

import copy
import dataclasses
import logging
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
import torch

from sclm.cells import GeneVocabulary, align
from sclm.models.sctranslator.module import ROW, ScTranslatorModule, encoder
from sclm.models.sctranslator.network import ScTranslatorConfig, ScTranslatorNetwork, cells_at_once, translator_width
from sclm.models.sctranslator.vocabulary import match_names, protein_numbers, require_known
from sclm.models.translator import Expectation, baseline_predictions, lognormal, own_columns, prepare_targets
from sclm.nn import seeded
from sclm.training import CellDataModule, fit

if TYPE_CHECKING:
    from sclm.cells import CellSource
    from sclm.cells.proteins import Proteins
    from sclm.models.sctranslator.model import ScTranslator
    from sclm.models.sctranslator.tokens import Batch
    from sclm.models.translator import Targets

logger = logging.getLogger(__name__)

_FINE_TUNING = {"learning_rate": 2e-4, "batch_size": 1, "max_epochs": 100}  # as in the original scripts
_STEPS = 10  # of an epoch at least: with few cells, larger batches would end the training before it has begun
_FIXED = ("gene_ids", "protein_ids", "gene_frame", "protein_frame", "translator_width", "width", "encoder_layers",
          "decoder_layers", "heads", "head_width", "features", "feed_forward", "padding", "scale")  # fmt: skip


class Fitted(NamedTuple):
    """Parts of a trained model."""

    config: ScTranslatorConfig
    vocabulary: GeneVocabulary
    network: ScTranslatorNetwork
    gene_ids: np.ndarray
    protein_ids: np.ndarray
    centre: np.ndarray
    spread: np.ndarray
    expectation: Expectation
    card: dict[str, Any]


class Start(NamedTuple):
    """Where training starts: genes, proteins, and weights of random or published origin."""

    config: ScTranslatorConfig
    vocabulary: GeneVocabulary
    network: ScTranslatorNetwork
    gene_ids: np.ndarray  # (L,)
    protein_ids: np.ndarray  # (P,)


def fit_sctranslator(
    source: CellSource,
    proteins: Proteins | None,
    base: ScTranslator | None,
    *,
    preset: str,
    batch_key: str | None,
    genes: Any,
    seed: int,
    options: dict[str, Any],
    training: dict[str, Any],
) -> Fitted:
    """Everything that :meth:`ScTranslator.fit` learns."""
    batches = None if batch_key is None else source.obs[batch_key].astype(str).to_numpy()
    if base is None:
        config = ScTranslatorConfig.preset(preset, **options)
    else:
        if taken := sorted(set(options) & set(_FIXED)):
            raise TypeError(f"{', '.join(taken)} of a fine-tuned model are those of base=. Leave them out.")
        config = dataclasses.replace(base.config, **(_FINE_TUNING | options))
    targets = prepare_targets(proteins, source.n_cells, "sctranslator", scale=config.scale, batches=batches, seed=seed)
    config = dataclasses.replace(config, scale=targets.scale, proteins=targets.names, order="vocabulary")
    learning = targets.use & ~targets.held_out
    start = (
        _from_scratch(source, config, targets, np.flatnonzero(learning), genes, seed)
        if base is None
        else _from_base(source, config, targets, base, genes)
    )
    config, vocabulary, network = start.config, start.vocabulary, start.network
    centre, spread = _standard(targets, learning, config)
    scaled = (targets.values - centre) / spread

    ids, real = _frame(config, start.protein_ids)
    here = np.zeros(len(vocabulary), dtype=bool)
    match = vocabulary.match(source.genes)
    here[match.ids[match.ids >= 0]] = True
    stopping = _stopping(learning, config.validation_share, seed)
    noisy = learning & ~stopping if config.gene_dropout else None
    encode = encoder(config, start.gene_ids, here, ids, real, scaled, noisy)
    numbered = copy.copy(source)  # the same cells; a batch finds its proteins by the row
    numbered.obs = pd.DataFrame({ROW: np.arange(source.n_cells)}, index=source.obs.index)
    batch_size = max(1, min(config.batch_size, int((learning & ~stopping).sum()) // _STEPS))
    data = CellDataModule(
        numbered, encode, vocabulary=vocabulary, batch_size=batch_size, rows=learning,
        validation=stopping, min_share=0.0, seed=seed,
    )  # fmt: skip
    patience = config.patience if data.validation_rows.size else None
    report = fit(
        ScTranslatorModule(network, config), data, max_epochs=config.max_epochs, patience=patience, seed=seed,
        configuration={"sctranslator": dataclasses.asdict(config)}, **training,
    )  # fmt: skip
    network.eval()

    held = np.flatnonzero(targets.held_out)
    at_once = cells_at_once(config, len(vocabulary))
    predicted = _predict(network, data, held, encode, len(start.protein_ids), at_once) * spread + centre
    counts = [
        align(source.read(rows), vocabulary, match=match, min_share=0.0)[0] for rows in (np.flatnonzero(learning), held)
    ]
    others = baseline_predictions(
        vocabulary, lognormal(counts[0]), targets.values[learning], lognormal(counts[1]), targets.names, seed=seed
    )
    expectation = Expectation.measure(targets.values[held], predicted, others)
    card = {
        "data": f"{int(targets.use.sum()):,} cells, {len(vocabulary):,} genes, {len(targets.names)} proteins",
        "base": "none: trained from random weights"
        if base is None
        else f"{base.path or 'published weights'}, fine-tuned",
        "epochs": report.best_epoch,
        **expectation.card(targets, seed),
    }
    return Fitted(config, vocabulary, network, start.gene_ids, start.protein_ids, centre, spread, expectation, card)


def choose_genes(
    source: CellSource, rows: np.ndarray, names: tuple[str, ...], n: int, shared: np.ndarray | None = None
) -> list[str]:
    """Genes that a small model reads: those that encode its proteins, then the most variable ones; sorted by name.

    Parameters
    ----------
    source
        The cells.
    rows
        Those to look at: training cells only.
    names
        Of the proteins.
    n
        Number of genes at most.
    shared
        (n_genes,) bool: genes that may be chosen; all where None.
    """
    total, square = np.zeros(source.n_genes), np.zeros(source.n_genes)
    for cells in source.blocks(rows=rows):
        values = lognormal(cells.counts)
        total += np.asarray(values.sum(axis=0)).ravel()
        square += np.asarray(values.multiply(values).sum(axis=0)).ravel()
    mean = total / max(len(rows), 1)
    variance = np.maximum(square / max(len(rows), 1) - mean**2, 0)
    allowed = (total > 0) & (np.ones(source.n_genes, bool) if shared is None else shared)
    names_of = np.asarray(source.genes, dtype=object).astype(str)
    own = np.unique([g for found in own_columns(names, GeneVocabulary(tuple(names_of))) for g in found]).astype(int)
    chosen = list(own[allowed[own]][:n])
    # Ties are broken by name, so that the order of the columns decides nothing.
    by_variance = np.lexsort((names_of, -np.where(allowed, variance, -1)))
    taken = set(chosen)
    chosen += [g for g in by_variance if allowed[g] and g not in taken][: n - len(chosen)]
    return sorted(names_of[chosen])


def _from_scratch(
    source: CellSource, config: ScTranslatorConfig, targets: Targets, rows: np.ndarray, genes: Any, seed: int
) -> Start:
    shared = None
    if genes is not None:
        found = GeneVocabulary(tuple(map(str, source.genes))).match(genes).ids
        shared = np.zeros(source.n_genes, dtype=bool)
        shared[found[found >= 0]] = True
    tokens = choose_genes(source, rows, targets.names, config.gene_frame, shared)
    if len(tokens) < 3:
        raise ValueError(f"sctranslator needs at least 3 expressed genes that the data share, found {len(tokens)}.")
    n_genes, n_proteins = len(tokens), len(targets.names)
    config = dataclasses.replace(
        config, gene_frame=n_genes, gene_ids=n_genes + 1, protein_frame=n_proteins, protein_ids=n_proteins + 1,
        translator_width=translator_width(n_genes, n_proteins),
    )  # fmt: skip
    with seeded(seed):
        network = ScTranslatorNetwork(config, seed)
        # Standard normal rows would drown the values that stand beside them.
        for table in (network.gene, network.protein):
            torch.nn.init.normal_(table.weight, std=0.1)
        torch.nn.init.zeros_(network.out.bias)
    return Start(
        config, GeneVocabulary(tuple(tokens)), network, np.arange(1, n_genes + 1), np.arange(1, n_proteins + 1)
    )


def _from_base(
    source: CellSource, config: ScTranslatorConfig, targets: Targets, base: ScTranslator, genes: Any
) -> Start:
    if base.panel is not None:
        raise ValueError("base= must be published weights, found a model that was trained here. Train anew instead.")
    n = len(targets.names)
    if n > config.protein_frame:
        raise ValueError(f"base= has room for {config.protein_frame:,} proteins, found {n:,}. Name fewer.")
    names = [str(g) for g in source.genes]
    match = match_names(names, base.vocabulary, base.names)
    require_known(names, match, base.names)
    usable = match.ids > 0
    if genes is not None:
        usable &= np.isin(match.ids, match_names([str(g) for g in genes], base.vocabulary, base.names).ids)
    # The first column of each id, in the order of the data, as the published weights were trained.
    first = np.unique(np.where(usable, match.ids, 0), return_index=True)[1]
    columns = np.sort(first[usable[first]])[: config.gene_frame]
    return Start(
        config, GeneVocabulary(tuple(names[c] for c in columns)), copy.deepcopy(base.network), match.ids[columns],
        protein_numbers(list(targets.names), base.vocabulary, base.names),
    )  # fmt: skip


def _standard(targets: Targets, learning: np.ndarray, config: ScTranslatorConfig) -> tuple[np.ndarray, np.ndarray]:
    """Centre and spread (P,) of the training cells; 0 and 1 on the scale of published weights, which predict it as it is."""
    n = len(targets.names)
    if config.scale == "minmax":
        return np.zeros(n, np.float32), np.ones(n, np.float32)
    values = targets.values[learning].astype(np.float64)
    known = np.isfinite(values)
    count = np.maximum(known.sum(axis=0), 1)
    centre = np.where(known, values, 0).sum(axis=0) / count
    spread = np.sqrt(np.where(known, (values - centre) ** 2, 0).sum(axis=0) / count)
    return centre.astype(np.float32), np.where(spread > 1e-6, spread, 1.0).astype(np.float32)


def _stopping(learning: np.ndarray, share: float, seed: int) -> np.ndarray:
    """(n,) bool: training cells that only say when to stop."""
    rows = np.flatnonzero(learning)
    taken = np.zeros(len(learning), dtype=bool)
    n = min(max(1, round(share * rows.size)), rows.size - 1) if share > 0 else 0
    taken[np.random.default_rng([seed, 12]).permutation(rows)[:n]] = True
    return taken


def _frame(config: ScTranslatorConfig, protein_ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    length = config.protein_frame if config.padding == "original" else len(protein_ids)
    ids = np.zeros(length, dtype=np.int64)
    ids[: len(protein_ids)] = protein_ids
    return ids, np.arange(length) < len(protein_ids)


@torch.inference_mode()
def _predict(
    network: ScTranslatorNetwork, data: CellDataModule, rows: np.ndarray, encode: Any, n: int, at_once: int
) -> np.ndarray:
    """(len(rows), P) of the network's outputs."""
    found = []
    for start in range(0, len(rows), at_once):
        batch: Batch = encode(data.read(rows[start : start + at_once]))
        found.append(network(batch)[:, :n].float().cpu().numpy())
    return np.concatenate(found)
