"""Names for the cells of an encoder: learnt on labelled cells with its weights frozen, adapted or tuned, or by their neighbours.

n labelled cells · D width of the vectors · K types
"""

from __future__ import annotations

import copy
import dataclasses
import logging
import warnings
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from scipy import sparse
from tqdm import tqdm

from sclm.cells import Cells
from sclm.cells.columns import move_columns
from sclm.evidence import fit_temperature
from sclm.models.encoder_classifier import (
    LabelledBatch,
    TypeLayers,
    TypeModule,
    add_adapters,
    merge_adapters,
)
from sclm.models.encoder_head import LabelHead, spread
from sclm.models.encoder_novelty import CountSpace
from sclm.models.labels import hold_out, read_labels
from sclm.nn import seeded
from sclm.training import CellDataModule, fit

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sclm.cells import CellSource
    from sclm.models.encoder import EncoderFamily
    from sclm.models.labels import Labels

logger = logging.getLogger(__name__)

TUNES = ("frozen", "lora", "full", "neighbours")
_CALIBRATED = 50  # held-out cells below which a temperature says little
_LEAST_STEPS = 200  # of the optimiser: a handful of cells is a batch or two an epoch
_EPOCHS = 10  # scGPT's number for fine-tuning
_SURVEYED = (
    20_000  # cells whose vectors are held for the unit of novelty and the standardisation, where no more are needed
)
_OF_EACH = 50  # cells of a type that are kept before more of others
_RATES = {"lora": 1e-3, "full": 1e-4}  # of the network
_SENTENCES = {
    "frozen": "logistic regression on vectors of the encoder as it was",
    "neighbours": "vote of the nearest reference cells by vectors of the encoder as it was",
    "lora": "a classification head and low-rank adapters, merged into the weights",
    "full": "a classification head and all weights",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tuning:
    """Settings of :func:`learn_labels`."""

    tune: str = "frozen"
    hidden_layer: int | None = None
    pooling: str | None = None
    balanced: bool = False
    max_cells: int = 100_000
    n_neighbors: int = 10
    penalty: float = 1.0
    lora_rank: int = 8
    head_layers: int = 3
    learning_rate: float | None = None
    head_learning_rate: float = 1e-3
    weight_decay: float = 0.01
    batch_size: int = 32
    max_epochs: int | None = None
    patience: int | None = None
    max_minutes: float | None = None
    progress_bar: bool = True
    accelerator: str = "auto"
    devices: Any = "auto"
    num_nodes: int = 1
    strategy: Any = "auto"
    precision: Any = None

    def __post_init__(self) -> None:
        if self.tune not in TUNES:
            raise ValueError(f"tune must be one of {', '.join(map(repr, TUNES))}, found {self.tune!r}.")
        whole = ("max_cells", "n_neighbors", "lora_rank", "head_layers", "batch_size", "max_epochs", "patience")
        for name in whole:
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, found {value}.")
        for name in ("penalty", "learning_rate", "head_learning_rate"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name} must be above 0, found {value}.")

    @property
    def trains(self) -> bool:
        """Whether the network changes."""
        return self.tune in ("lora", "full")

    @property
    def running(self) -> dict[str, Any]:
        """What :func:`sclm.training.fit` takes of it."""
        names = ("max_minutes", "progress_bar", "accelerator", "devices", "num_nodes", "strategy", "precision")
        return {name: getattr(self, name) for name in names}


class Survey(NamedTuple):
    """What is known of the labelled cells before anything is learnt."""

    lengths: np.ndarray  # (n,) int64 tokens
    filled: np.ndarray  # (n,) bool: expresses a gene of the model
    vectors: np.ndarray  # (n, D) float32, NaN where `sampled` is False
    sampled: np.ndarray  # (n,) bool


class Look(NamedTuple):
    """Labelled cells as an encoder sees them."""

    model: EncoderFamily
    source: CellSource
    label_key: str
    layer: int
    pooling: str
    columns: np.ndarray | None  # of the source's genes that are read; None for all
    ids: np.ndarray  # token of each gene that is read, -1 where the model does not know it

    def shown(self, cells: Cells) -> Cells:
        """A block in the genes that are read."""
        if self.columns is None:
            return cells
        return Cells(cells.counts[:, self.columns], cells.genes[self.columns], cells.obs)

    def survey(self, rows: np.ndarray, codes: np.ndarray, max_vectors: int, rng: np.random.Generator) -> Survey:
        """One pass: tokens of every cell, vectors of at most `max_vectors`."""
        n, model = len(rows), self.model
        sampled = _sample(codes, max_vectors, rng)
        lengths, filled = np.zeros(n, dtype=np.int64), np.zeros(n, dtype=bool)
        vectors = np.full((n, model.width), np.nan, dtype=np.float32)
        start = 0
        with tqdm(total=n, desc="embed", unit=" cells", delay=2, leave=False) as bar:
            for block in self.source.blocks(rows=rows):
                where = slice(start, start + block.n_cells)
                tokens = model.tokenise(self.shown(block))
                lengths[where], filled[where] = tokens.ids.lengths, model.n_genes_of(tokens) > 0
                some = np.flatnonzero(sampled[where])
                found = model.embed_tokens(tokens.take(some), hidden_layer=self.layer, pooling=self.pooling)
                vectors[start + some] = found
                start += block.n_cells
                bar.update(block.n_cells)
        return Survey(lengths, filled, vectors, sampled)

    def counts(self, rows: np.ndarray) -> sparse.csr_matrix:
        """Counts (n, V) of some cells, one column a token."""
        n_tokens = len(self.model.vocabulary)
        blocks = self.source.blocks(rows=rows) if len(rows) else []
        parts = [move_columns(self.shown(block).counts, self.ids, n_tokens) for block in blocks]
        return sparse.vstack(parts, format="csr") if parts else sparse.csr_matrix((0, n_tokens), dtype=np.float32)

    def encode(self, cells: Cells, codes: np.ndarray, seed: int) -> LabelledBatch:
        """A batch for training."""
        tokens = self.model.tokenise(self.shown(cells), seed=seed)
        padded = self.model.padded(tokens, np.arange(cells.n_cells), device="cpu")
        return LabelledBatch(*padded, torch.tensor(codes))  # a copy: of pandas 3 arrays may be read-only


def learn_labels(
    base: EncoderFamily,
    source: CellSource,
    *,
    label_key: str,
    batch_key: str | None = None,
    genes: Sequence[str] | None = None,
    seed: int = 0,
    **settings: Any,
) -> EncoderFamily:
    """A copy of an encoder that names cells: see :meth:`~sclm.models.encoder.EncoderFamily.fit_labels`."""
    from sclm.knowledge import Ontology

    how = Tuning(**settings)
    ontology = Ontology.load("cl")
    labels = read_labels(source.obs[label_key], ontology, label_key)
    rng = np.random.default_rng(seed)
    # A head reads the layer that the original's users read; where the network is trained, all of it should be.
    chosen = -1 if how.hidden_layer is None and how.trains else how.hidden_layer
    layer, pooling = base.chosen(chosen, how.pooling)
    model = copy.copy(base)
    if how.trains:
        model.network = copy.deepcopy(base.network)
    look = Look(model, source, label_key, layer, pooling, *_columns(base, source, genes))
    place = model.device
    model.to({"cuda": "cuda", "mps": "mps", "auto": "auto", "gpu": "auto"}.get(how.accelerator, "cpu"))
    try:
        survey = look.survey(labels.rows, labels.codes, _SURVEYED if how.trains else how.max_cells, rng)
        if not survey.filled.all():
            logger.warning(
                "%d of %d labelled cells express no gene of the model and are left out.",
                int((~survey.filled).sum()), len(labels.rows),
            )  # fmt: skip
            labels = labels.keep(survey.filled)
            survey = Survey(*(part[survey.filled] for part in survey))
        batches = None if batch_key is None else source.obs[batch_key].astype(str).to_numpy()[labels.rows]
        held, by_batch = hold_out(labels.codes, batches, rng)
        if how.trains:
            arrays = _train(look, labels, survey.lengths, survey.vectors[survey.sampled & ~held], held, how, seed)
            survey = look.survey(labels.rows, labels.codes, _SURVEYED, rng)
        else:
            arrays = _learn(survey, labels, survey.sampled & ~held, how)
    finally:
        model.to(place)

    tested = survey.sampled & held
    known = np.flatnonzero(~held)
    known = known if len(known) <= _SURVEYED else np.sort(rng.choice(known, _SURVEYED, replace=False))
    space, scale = CountSpace.fit(look.counts(labels.rows[known]), look.counts(labels.rows[held]), seed)
    head = LabelHead(arrays | space, len(labels.labels), how.n_neighbors, scale)
    scores, truth = head.scores(survey.vectors[tested]), labels.codes[tested]
    if len(truth) < _CALIBRATED:
        logger.warning(
            "only %d cells were held out for calibration: confidences are little more than the raw probabilities.",
            len(truth),
        )
    if not how.trains:  # cheap enough to be learnt again from all cells
        arrays = _learn(survey, labels, survey.sampled, how)
        head = LabelHead(arrays | space, len(labels.labels), how.n_neighbors, scale)
    model.config = dataclasses.replace(
        base.config,
        tune=how.tune,
        labels=labels.labels,
        term_ids=labels.term_ids,
        label_layer=layer,
        label_pooling=pooling,
        n_neighbors=how.n_neighbors,
        temperature=fit_temperature(scores, truth),
        space_scale=scale,
        ontology=ontology.name,
        ontology_version=ontology.version,
    )
    model.head, model.path, model.reference_labels = head, None, labels.original
    model.card = _card(base, labels, held, scores, truth, how, batch_key if by_batch else None)
    return model


def _columns(
    base: EncoderFamily, source: CellSource, genes: Sequence[str] | None
) -> tuple[np.ndarray | None, np.ndarray]:
    """Columns of the source whose gene the other data have too, so that its cells look as those will (None for all), and their tokens."""
    ids = base.match(source.genes).ids
    if genes is None:
        return None, ids
    theirs = base.match(pd.Index(genes)).ids
    columns = np.flatnonzero(np.isin(ids, theirs[theirs >= 0]))
    return columns, ids[columns]


def _sample(codes: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """(n_cells,) bool: at most `n` cells, some of every type before more of any."""
    if len(codes) <= n:
        return np.ones(len(codes), dtype=bool)
    order = rng.permutation(len(codes))
    by_type = order[np.argsort(codes[order], kind="stable")]
    first = np.searchsorted(codes[by_type], np.arange(codes.max() + 1))  # of each type
    rank = np.empty(len(codes), dtype=np.int64)  # of a cell within its type
    rank[by_type] = np.arange(len(codes)) - first[codes[by_type]]
    chosen = np.zeros(len(codes), dtype=bool)
    chosen[order[np.argsort(rank[order] >= _OF_EACH, kind="stable")[:n]]] = True
    return chosen


def _learn(survey: Survey, labels: Labels, use: np.ndarray, how: Tuning) -> dict[str, np.ndarray]:
    """Arrays of a head on vectors that stay as they are, from the cells under `use`."""
    vectors, codes = survey.vectors[use], labels.codes[use]
    if how.tune == "neighbours":
        return LabelHead.neighbours(vectors, codes)
    return LabelHead.linear(*_logistic(vectors, codes, len(labels.labels), how))


def _logistic(vectors: np.ndarray, codes: np.ndarray, n_types: int, how: Tuning) -> tuple[np.ndarray, np.ndarray]:
    """Weights (K, D) and intercepts (K,) of a multinomial logistic regression on standardised vectors, for vectors as they are."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from threadpoolctl import threadpool_limits

    mean, scale = spread(vectors)
    found = LogisticRegression(
        C=1.0 / how.penalty, max_iter=1000, class_weight="balanced" if how.balanced else None, tol=1e-5
    )
    with threadpool_limits(1, user_api="blas"), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # after a thousand iterations it is near enough
        found.fit(((vectors - mean) / scale).astype(np.float64), codes)
    weight, bias = found.coef_, found.intercept_
    if len(found.classes_) == 2:  # scikit-learn keeps one row for two types
        weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    all_weights = np.zeros((n_types, vectors.shape[1]))
    all_biases = np.full(n_types, bias.min() - 10.0)  # a type without a cell among those learnt from
    all_weights[found.classes_], all_biases[found.classes_] = weight / scale, bias - (weight / scale) @ mean
    return all_weights, all_biases


def _train(
    look: Look, labels: Labels, lengths: np.ndarray, vectors: np.ndarray, held: np.ndarray, how: Tuning, seed: int
) -> dict[str, np.ndarray]:
    """Train the network and a head in place; the head's arrays."""
    model, source, n_types = look.model, look.source, len(labels.labels)
    if how.tune == "lora":
        targets = model.adapted_layers()
        if not targets:
            raise ValueError(f"{model.family!r} has no linear layers for tune='lora'. Use tune='full'.")
        add_adapters(model.network, targets, how.lora_rank, seed)
    else:
        model.network.requires_grad_(True)
    with seeded(seed):
        head = TypeLayers(*spread(vectors), n_types, how.head_layers)
    counts = np.bincount(labels.codes[~held], minlength=n_types)
    module = TypeModule(
        model,
        head,
        layer=look.layer,
        pooling=look.pooling,
        learning_rate=_RATES[how.tune] if how.learning_rate is None else how.learning_rate,
        head_learning_rate=how.head_learning_rate,
        weight_decay=how.weight_decay,
        weights=(counts.sum() / n_types / np.maximum(counts, 1)) if how.balanced else None,
    )
    every = np.ones(source.n_cells, dtype=np.int64)
    every[labels.rows] = lengths
    data = CellDataModule(
        source,
        lambda cells, draws: look.encode(cells, labels.codes_of(cells.obs[look.label_key]), int(draws.integers(2**31))),
        rows=labels.rows,
        validation=labels.rows[held],
        lengths=every,
        batch_size=how.batch_size,
        seed=seed,
    )
    epochs = how.max_epochs or max(_EPOCHS, -(-_LEAST_STEPS // data.n_batches))
    patience = how.patience or max(3, epochs // 5)
    fit(module, data, max_epochs=epochs, patience=patience if held.any() else None, seed=seed, **how.running)
    if how.tune == "lora":
        merge_adapters(model.network)
    model.network.eval()
    return head.arrays()


def _card(
    base: EncoderFamily,
    labels: Labels,
    held: np.ndarray,
    scores: np.ndarray,
    truth: np.ndarray,
    how: Tuning,
    batch_key: str | None,
) -> dict[str, Any]:
    """What a reader of the checkpoint should know."""
    made = base.provenance()
    card: dict[str, Any] = {
        "data": f"{len(labels.rows):,} labelled cells, {len(labels.labels)} types",
        "split": f"{int(held.sum()):,} cells held out for calibration, " + (f"whole batches of {batch_key}" if batch_key else "drawn within each type"),
        "limits": "Names only the types of its reference; confidences are calibrated for data like the reference.",
        "tune": _SENTENCES[how.tune],
        "base": f"{base.family} from {made['checkpoint'] or 'memory'}, sha256 {made['sha256']}",
    }  # fmt: skip
    if "data" in base.card:
        card["data_of_the_base"] = base.card.get("data_of_the_base", base.card["data"])
    if len(truth):
        majority = np.bincount(labels.codes[~held], minlength=len(labels.labels)).argmax()
        card["held_out_accuracy"] = round(float((scores.argmax(axis=1) == truth).mean()), 4)
        card["held_out_accuracy_of_the_majority_type"] = round(float((truth == majority).mean()), 4)
    return card
