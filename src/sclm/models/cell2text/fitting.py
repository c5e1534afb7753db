"""Learn from labelled cells: genes, texts, states of the encoder, the network, and how sure its answers are."""

from __future__ import annotations

import copy
import dataclasses
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from scipy import sparse

from sclm.cells import Cells, GeneVocabulary, align, log_normalise
from sclm.evidence import fit_pool, fit_temperature
from sclm.knowledge import Ontology
from sclm.models.cell2text.decoding import Decoder
from sclm.models.cell2text.inputs import BLOCK, Inputs, cell_width, n_types_read, states_at
from sclm.models.cell2text.module import Cell2TextModule
from sclm.models.cell2text.network import Cell2TextNetwork, build_lm
from sclm.models.cell2text.slots import Slots, pieces_of
from sclm.models.cell2text.tokens import Batch, CellValues, Writer
from sclm.models.encoder_novelty import CountSpace
from sclm.models.handed_encoder import GeneStates
from sclm.models.labels import hold_out, read_labels
from sclm.nn import WordVocabulary
from sclm.texts import CellFacts, cell_facts, describe_template, pathway_text
from sclm.texts.template import bare_definition
from sclm.training import CellDataModule, fit

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sclm.cells import CellSource
    from sclm.models.cell2text.config import Cell2TextConfig
    from sclm.models.encoder import EncoderFamily
    from sclm.models.labels import Labels
    from sclm.training import FitReport

logger = logging.getLogger(__name__)

_ROW = "__row__"
_JUDGED = 4_000  # held-out cells that the answers are judged on


class Learnt(NamedTuple):
    """Parts of a model."""

    config: Cell2TextConfig
    vocabulary: GeneVocabulary
    network: Cell2TextNetwork
    arrays: dict[str, np.ndarray]
    card: dict[str, Any]
    original: pd.DataFrame


def learn(
    source: CellSource,
    config: Cell2TextConfig,
    encoder: EncoderFamily,
    *,
    label_key: str,
    batch_key: str | None,
    pathways: pd.DataFrame | None,
    pathway_texts: Mapping[str, str] | None,
    genes: Any,
    seed: int,
    **training: Any,
) -> Learnt:
    """See :meth:`~sclm.models.cell2text.model.Cell2Text.fit`."""
    ontology = Ontology.load(config.ontology)
    labels = read_labels(source.obs[label_key], ontology, label_key)
    encoder.match(source.genes)
    vocabulary = choose_genes(source, labels.rows, config.max_genes, genes)
    match = vocabulary.match(source.genes)
    counts = sparse.vstack(
        [align(c, vocabulary, min_share=0.0, match=match)[0] for c in source.blocks(rows=labels.rows)], format="csr"
    )
    filled = np.diff(counts.indptr) > 0
    if not filled.all():
        logger.warning("%d labelled cells have no counts in the genes that are used and are left out.", (~filled).sum())
        labels, counts = labels.keep(filled), counts[filled]
    obs = source.obs.iloc[labels.rows]
    batches = None if batch_key is None else obs[batch_key].astype(str).to_numpy()
    held, by_batch = hold_out(labels.codes, batches, np.random.default_rng(seed))

    chosen = None if pathways is None else _rows_of(pathways, source, labels.rows)
    facts, config = _facts(obs, labels, ontology, chosen, pathway_texts, config, label_key)
    slots = Slots(config)
    texts = [describe_template(f, pathway_texts=slots.pathway_texts) for f in facts]
    words = None if config.base_lm else WordVocabulary.from_texts([*dict.fromkeys(texts), *_extra(slots)])
    lm = build_lm(config, words, seed=seed)
    if config.base_lm:
        base = lm.lm.base_model or {}
        config = dataclasses.replace(config, base_fingerprint=lm.fingerprint, base_revision=base.get("revision") or "")
    writer = Writer(lm)
    classes, n_classes = class_table(facts, config)
    values = CellValues.fit(counts[~held], config.components, seed)
    network = Cell2TextNetwork(
        config, lm, encoder_width=encoder.width, cell_width=cell_width(config, encoder, values.components.shape[1]),
        n_types=n_types_read(config), n_classes=n_classes, seed=seed,
    )  # fmt: skip
    cells = Inputs(config, encoder, values, source.genes, vocabulary, seed)
    types = cells.learn_types(counts, labels.codes, ~held)
    states = cells.states_of(source, labels.rows)
    cells.standardise(None if states is None else states.vectors[~held])
    balance = balanced(labels.codes, ~held, len(labels.labels), config.type_balance)
    descriptions = [
        writer.description(pieces_of(f, slots.pathway_texts), config.slot_weight, balance[code])
        for f, code in zip(facts, labels.codes, strict=True)
    ]
    place = np.full(source.n_cells, -1, dtype=np.int64)
    place[labels.rows] = np.arange(len(labels.rows))

    def encode(block: Cells, generator: np.random.Generator) -> Batch:
        at = place[block.obs[_ROW].to_numpy()]
        found = cells.states(block) if states is None else states_at(states, at)
        return writer.pack(
            found, cells.values(counts[at], found, types[at]), [descriptions[i] for i in at], classes[at]
        )

    numbered = copy.copy(source)
    numbered.obs = pd.DataFrame({_ROW: np.arange(source.n_cells)}, index=source.obs.index)
    report = _train(numbered, encode, network, config, writer, labels.rows, labels.rows[held], seed, training)
    network.eval()

    majority = int(np.bincount(labels.codes[~held]).argmax())
    temperature, weight = 1.0, 0.0
    judged_by: dict[str, float] = {}
    if held.any():  # training cells would make any model look sure
        judged = np.flatnonzero(held)
        if len(judged) > _JUDGED:
            judged = np.sort(np.random.default_rng([seed, 5]).choice(judged, _JUDGED, replace=False))
        scores = _type_scores(
            source, labels.rows[judged], counts[judged], states if states is None else states_at(states, judged), cells,
            Decoder(network, writer, slots),
        )  # fmt: skip
        temperature, weight, judged_by = _judge(
            scores, types[judged] if config.type_token else None, labels.codes[judged], majority
        )
        judged_by = {"held_out_nats_a_word": round(float(report.best_score), 4), **judged_by}
    if config.final_epochs and held.any():
        rates = {f: getattr(config, f) / 2 for f in ("adapter_learning_rate", "lm_learning_rate")}
        last = dataclasses.replace(config, epochs=config.final_epochs, **rates)
        types[:] = cells.learn_types(counts, labels.codes, np.ones(len(held), dtype=bool))
        if training.get("folder") is not None:
            training = {**training, "folder": Path(training["folder"]) / "final"}
        _train(numbered, encode, network, last, writer, labels.rows, labels.rows[:0], seed, training)
        network.eval()
    space, scale = CountSpace.fit(counts[~held], counts[held], seed)
    config = dataclasses.replace(
        config, temperature=temperature, regression_weight=weight, space_scale=scale, ontology_version=ontology.version,
        encoder=encoder.family,
    )  # fmt: skip
    joined = ", and joined in the last ones" if config.final_epochs and held.any() else ""
    card = {
        "data": f"{len(held):,} labelled cells, {len(vocabulary):,} genes beside the encoder's, {len(labels.labels)} types",
        "split": f"{int(held.sum()):,} cells held out, "
        + (f"whole batches of {batch_key}" if by_batch else "drawn within each type") + f"; they also chose the epoch{joined}"
        if held.any() else "no cells held out: nothing was judged or calibrated",
        "encoder": f"{encoder.family}, sha256 {encoder.provenance()['sha256'][:16]}, frozen",
        "epochs": report.best_epoch,
        **judged_by,
        "seed": seed,
        "limits": "Writes only types, tissues, donors and pathways that training has seen. What it says of tissue, sex, disease and age "
        "is a guess from expression. Check its statements: sclm.tl.describe does.",
    }  # fmt: skip
    arrays = {
        **space,
        "cell_share": values.share,
        "cell_mean": values.mean,
        "cell_components": values.components,
        "types_weights": cells.types.weights,
        "types_intercepts": cells.types.intercepts,
        "vector_mean": cells.vector_mean,
        "vector_scale": cells.vector_scale,
    }
    return Learnt(config, vocabulary, network, arrays, card, labels.original)


def _judge(
    scores: np.ndarray, beside: np.ndarray | None, truth: np.ndarray, majority: int
) -> tuple[float, float, dict[str, float]]:
    """Temperature, weight of the regression's scores where there are some, and the shares of held-out cells that are right."""

    def right(of: np.ndarray) -> float:
        return round(float((of.argmax(axis=1) == truth).mean()), 4)

    if beside is None:
        temperature, weight, found = fit_temperature(scores, truth), 0.0, {"held_out_accuracy": right(scores)}
    else:
        temperature, weight = fit_pool(scores, beside, truth)
        found = {
            "held_out_accuracy": right(scores + weight * beside),
            "held_out_accuracy_of_the_regression_alone": right(beside),
            "held_out_accuracy_of_the_language_model_alone": right(scores),
        }
    found["held_out_accuracy_of_the_majority_type"] = round(float((truth == majority).mean()), 4)
    return temperature, weight, found


def balanced(codes: np.ndarray, use: np.ndarray, n_types: int, exponent: float) -> np.ndarray:
    """(n_types,) weight of each type, its cells in `use` (n,) bool to the power of minus `exponent`; 1 in the mean over all cells (n,)."""
    weights = np.maximum(np.bincount(codes[use], minlength=n_types), 1) ** -exponent
    return weights / weights[codes].mean()


def _train(
    source: CellSource,
    encode: Any,
    network: Cell2TextNetwork,
    config: Cell2TextConfig,
    writer: Writer,
    rows: np.ndarray,
    held_out: np.ndarray,
    seed: int,
    options: dict[str, Any],
) -> FitReport:
    """One run, judged on the held-out rows where there are some."""
    data = CellDataModule(
        source, encode, batch_size=config.batch_size, rows=rows, validation=held_out, seed=seed, workers=0
    )
    watched = len(held_out) > 0
    return fit(
        Cell2TextModule(network, config, writer.before), data, max_epochs=config.epochs,
        patience=config.patience if watched else None, monitor="validation_loss" if watched else "training_loss", seed=seed,
        configuration={"epochs": config.epochs}, **options,
    )  # fmt: skip


def choose_genes(source: CellSource, rows: np.ndarray, max_genes: int, genes: Any) -> GeneVocabulary:
    """Genes that vary most in log-normalised counts, in the order of their names."""
    total, square, expressed = (np.zeros(source.n_genes) for _ in range(3))
    for cells in source.blocks(rows=rows):
        normal = log_normalise(cells.counts)
        total += np.asarray(normal.sum(axis=0)).ravel()
        square += np.asarray(normal.multiply(normal).sum(axis=0)).ravel()
        expressed += np.bincount(cells.counts.indices, minlength=source.n_genes)
    usable = expressed >= (2 if len(rows) >= 20 else 1)
    if genes is not None:
        shared = GeneVocabulary(tuple(map(str, source.genes))).match(pd.Index(genes)).ids
        among = np.zeros(source.n_genes, dtype=bool)
        among[shared[shared >= 0]] = True
        usable &= among
    variance = square / len(rows) - (total / len(rows)) ** 2
    order = np.argsort(-np.where(usable, variance, -1.0), kind="stable")[:max_genes]
    chosen = sorted(str(source.genes[i]) for i in order if usable[i])
    if len(chosen) < 3:
        raise ValueError(f"cell2text needs at least 3 genes that cells express, found {len(chosen)}.")
    return GeneVocabulary(tuple(chosen))


def _rows_of(pathways: pd.DataFrame, source: CellSource, rows: np.ndarray) -> pd.DataFrame:
    if len(pathways) != source.n_cells:
        raise ValueError(
            f"pathways must have one row for each of {source.n_cells:,} cells, in their order, found {len(pathways):,}."
        )
    return pathways.iloc[rows]


def _facts(
    obs: pd.DataFrame,
    labels: Labels,
    ontology: Ontology,
    pathways: pd.DataFrame | None,
    pathway_texts: Mapping[str, str] | None,
    config: Cell2TextConfig,
    label_key: str,
) -> tuple[list[CellFacts], Cell2TextConfig]:
    """What is said of each cell, and the configuration with all that was said."""
    definitions = tuple(
        bare_definition(ontology.definition(t)) if config.definitions and t in ontology else "" for t in labels.term_ids
    )
    facts = [
        f._replace(cell_type=labels.labels[code], definition=definitions[code])
        for f, code in zip(cell_facts(obs, pathways=pathways, label_key=label_key), labels.codes, strict=True)
    ]
    sets = sorted({p for f in facts for p in f.pathways})
    texts = dict(pathway_texts or {})
    told = [f for f in facts if f.tissue or f.sex or f.disease or f.age]
    return facts, dataclasses.replace(
        config,
        labels=labels.labels,
        term_ids=labels.term_ids,
        definition_texts=definitions,
        tissues=_values(f.tissue for f in told),
        donors=tuple(sorted({f"{f.sex}|{f.disease}" for f in told})),
        ages=_values(f.age for f in told),
        pathways=tuple(sets),
        pathway_texts=tuple(texts.get(p, pathway_text(p)) for p in sets),
    )


def _values(found: Any) -> tuple[str, ...]:
    return tuple(sorted({v for v in found if v}))


def _extra(slots: Slots) -> list[str]:
    """Text that may be written besides the descriptions of training cells."""
    return [*(p for phrases in slots.phrases.values() for p in phrases), "Description:"]


def class_table(facts: Sequence[CellFacts], config: Cell2TextConfig) -> tuple[np.ndarray, list[int]]:
    """(n, 3) int64 classes of cell type, tissue and disease, -1 where not known, and how many there are of each.

    Fields with fewer than two values have no class.
    """
    diseases = _values(d.split("|", 1)[1] for d in config.donors)
    columns, sizes = [], []
    for field, names in (("cell_type", config.labels), ("tissue", config.tissues), ("disease", diseases)):
        if len(names) > 1:
            code = {name: i for i, name in enumerate(names)}
            columns.append([code.get(getattr(f, field), -1) for f in facts])
            sizes.append(len(names))
    return np.array(columns, dtype=np.int64).T, sizes


def class_sizes(config: Cell2TextConfig) -> list[int]:
    """Classes of each head."""
    return class_table([], config)[1]


@torch.inference_mode()
def _type_scores(
    source: CellSource,
    rows: np.ndarray,
    counts: sparse.csr_matrix,
    states: GeneStates | None,
    cells: Inputs,
    decoder: Decoder,
) -> np.ndarray:
    """(n, C) log probabilities of the types of some cells."""
    found = []
    for start in range(0, len(rows), BLOCK):
        part = slice(start, start + BLOCK)
        these = cells.states(source.read(rows[part])) if states is None else GeneStates(*(a[part] for a in states))
        for first in range(0, len(these.real), 64):
            few = GeneStates(*(a[first : first + 64] for a in these))
            at = slice(start + first, start + first + len(few.real))
            found.append(decoder.first_slot(decoder.writer.pack(few, cells.values(counts[at], few))))
    return np.concatenate(found).astype(np.float64)
