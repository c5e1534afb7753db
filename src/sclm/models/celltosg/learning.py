"""Everything that a model learns: genes, language model, graph channel, prototypes, and the weights of its answer."""

from __future__ import annotations

import dataclasses
import logging
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import sparse

from sclm.cells import Cells, log_normalise
from sclm.evidence import ReferenceSpace, softmax
from sclm.knowledge import Ontology
from sclm.models.celltosg.answers import Answers
from sclm.models.celltosg.discriminant import Discriminant
from sclm.models.celltosg.evidence import Prototypes
from sclm.models.celltosg.fitting import Trainer, check_stages
from sclm.models.celltosg.genes import GeneTable, aligned, choose_genes
from sclm.models.celltosg.graph_tensors import graph_tensors
from sclm.models.celltosg.judging import Judge
from sclm.models.celltosg.mixture import SeenWeights
from sclm.models.celltosg.network import CellToSGNetwork, build_lm
from sclm.models.celltosg.parts import make_encoder, make_names, places_of, symbols_of, terms_of
from sclm.models.celltosg.tokens import TASKS, fields_of, write_prompt
from sclm.models.labels import hold_out, read_labels
from sclm.nn import WordVocabulary

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sclm.cells import CellSource, GeneVocabulary
    from sclm.knowledge import KnowledgeGraph
    from sclm.models.celltosg.config import CellToSGConfig
    from sclm.models.labels import Labels

logger = logging.getLogger(__name__)

_JUDGED = 2_000  # held-out cells that the weights of the answer are fitted on
_PROTOTYPED = 20_000  # cells of the prototypes
_DESCRIPTION_WORDS = 30
_COMPONENTS = 50  # of the space of novelty


class Learnt(NamedTuple):
    """Parts of a model."""

    config: CellToSGConfig
    vocabulary: GeneVocabulary
    network: CellToSGNetwork
    graph: KnowledgeGraph
    arrays: dict[str, np.ndarray]
    card: dict[str, Any]
    original: pd.DataFrame


def learn(
    source: CellSource,
    config: CellToSGConfig,
    *,
    label_key: str,
    batch_key: str | None,
    obs_keys: Sequence[str],
    graph: KnowledgeGraph,
    stages: Sequence[str],
    genes: Any,
    folder: Any,
    seed: int,
    **training: Any,
) -> Learnt:
    """See :meth:`~sclm.models.celltosg.model.CellToSG.fit`."""
    stages = check_stages(stages)
    ontology = Ontology.load(config.ontology)
    labels = read_labels(source.obs[label_key], ontology, label_key)
    table = choose_genes(source, labels.rows, graph, config.max_genes, _among(source, genes))
    counts = sparse.vstack(list(aligned(source, labels.rows, table.vocabulary)), format="csr")
    filled = np.diff(counts.indptr) > 0
    if not filled.all():
        logger.warning(
            "%d labelled cells have no counts in the genes that are used and are left out.", int((~filled).sum())
        )
        labels, counts = labels.keep(filled), counts[filled]
    batches = None if batch_key is None else source.obs[batch_key].astype(str).to_numpy()[labels.rows]
    held, by_batch = hold_out(labels.codes, batches, np.random.default_rng(seed))
    if batches is not None and by_batch:  # what was worked out from the others is their knowledge
        graph.refuse_if_derived_from(np.unique(batches[held]))

    config = dataclasses.replace(
        config, labels=labels.labels, term_ids=labels.term_ids, ontology_version=ontology.version,
        tissues=_values(source, obs_keys, "tissue"), diseases=_values(source, obs_keys, "disease"),
    )  # fmt: skip
    small = graph.subgraph(table.vocabulary.tokens)
    words = None if config.base_lm else _words(ontology, table.vocabulary, config, labels)
    lm = build_lm(config, words, seed=seed)
    network = CellToSGNetwork(config, lm, graph_tensors(small) if config.use_graph else None, seed=seed)
    if config.base_lm:
        config = dataclasses.replace(
            config, base_fingerprint=lm.fingerprint, base_revision=(lm.lm.base_model or {}).get("revision") or ""
        )
    found = make_names(ontology, small, lm)
    encoder = make_encoder(
        config, table.vocabulary, lm, small, table.scale, label_key=label_key, code_of=_code_of(labels),
        descriptions=_descriptions(ontology, labels),
    )  # fmt: skip
    trainer = Trainer(
        network, config, found, encoder, source, table.vocabulary, labels.rows, held, labels.codes, folder=folder, seed=seed,
        **training,
    )  # fmt: skip
    trainer.run(stages)
    network.eval()

    answers = Answers(network, found, encoder, config)
    arrays, config, accuracy = _weigh(
        config, table, counts, source.obs.iloc[labels.rows], labels, held, answers, small, ontology, seed
    )
    card: dict[str, Any] = {
        "data": f"{len(labels.rows):,} labelled cells, {len(table.vocabulary):,} genes, {len(labels.labels)} types",
        "split": f"{int(held.sum()):,} cells held out, " + (f"whole batches of {batch_key}" if by_batch else "drawn within each type"),
        "graph": f"{len(small):,} nodes and {small.n_edges:,} edges around these genes, sha256 {small.sha256[:16]}",
        "stages": ", ".join(stages),
        **trainer.card,
        **accuracy,
        "seed": seed,
        "limits": "Answers any term of the Cell Ontology; an answer without training cells rests on its text, its place in the "
        "ontology and the markers of its relatives, and is right less often than its relatives are.",
    }  # fmt: skip
    return Learnt(config, table.vocabulary, network, small, arrays, card, labels.original)


def _weigh(
    config: CellToSGConfig,
    table: GeneTable,
    counts: sparse.csr_matrix,
    obs: pd.DataFrame,
    labels: Labels,
    held: np.ndarray,
    answers: Answers,
    graph: KnowledgeGraph,
    ontology: Ontology,
    seed: int,
) -> tuple[dict[str, np.ndarray], CellToSGConfig, dict[str, Any]]:
    """Prototypes, weights of the answer from held-out cells, the space of novelty."""
    lognormal = log_normalise(counts)
    rng = np.random.default_rng([seed, 3])
    train = np.flatnonzero(~held)
    if len(train) > _PROTOTYPED:
        train = np.sort(rng.choice(train, _PROTOTYPED, replace=False))
    n_types = len(labels.labels)
    names = answers.names
    places = places_of(config, names)
    nodes = graph.lookup("gene", table.vocabulary.tokens)
    first = Prototypes.fit(lognormal[train], labels.codes[train], n_types)
    judge = Judge(graph, ontology, names.ids, nodes, first, places, table.share)
    scored = np.flatnonzero(held)
    if not len(scored):
        scored = train
    if len(scored) > _JUDGED:
        scored = np.sort(rng.choice(scored, _JUDGED, replace=False))
    block = Cells(counts[scored], pd.Index(table.vocabulary.tokens), obs.iloc[scored])
    language, contrast = answers.types(block)
    null = answers.null()
    truth = labels.codes[scored]
    own = judge.own(counts[scored])
    split = Discriminant.fit(lognormal[train], labels.codes[train], n_types).scores(lognormal[scored])
    parts = (language - null, contrast, own, split)
    weights = SeenWeights.fit(*parts, truth=truth)
    seen = softmax(weights.scores(*parts))
    turned = judge.rehearse(lognormal[train], labels.codes[train], seed)
    every = np.arange(len(labels.codes)) if len(labels.codes) <= _PROTOTYPED else np.union1d(train, scored)
    final = Prototypes.fit(lognormal[every], labels.codes[every], n_types)
    discriminant = Discriminant.fit(lognormal[every], labels.codes[every], n_types)
    space = ReferenceSpace.fit(lognormal[train], lognormal[scored], n_components=_COMPONENTS, seed=seed)
    majority = np.bincount(labels.codes[~held], minlength=n_types).argmax()
    card = {
        "held_out_accuracy": round(float((seen.argmax(axis=1) == truth).mean()), 4),
        "held_out_accuracy_of_the_language_model": round(float(((language - null).argmax(axis=1) == truth).mean()), 4),
        "held_out_accuracy_of_the_contrast": round(float((contrast.argmax(axis=1) == truth).mean()), 4),
        "held_out_accuracy_of_the_prototypes": round(float((own.argmax(axis=1) == truth).mean()), 4),
        "held_out_accuracy_of_the_discriminant": round(float((split.argmax(axis=1) == truth).mean()), 4),
        "held_out_accuracy_of_the_majority_type": round(float((truth == majority).mean()), 4),
    }
    arrays = {
        "scale": table.scale,
        "share": table.share,
        **{f"prototypes.{k}": v for k, v in final._asdict().items()},
        **{f"discriminant.{k}": v for k, v in discriminant._asdict().items()},
        "mean": np.asarray(lognormal[every].mean(axis=0)).ravel().astype(np.float32),
        "seen": np.array(weights, dtype=np.float64),
        "novelty": np.asarray(turned, dtype=np.float64),
        "null": null,
        "space.genes": space.genes,
        "space.components": space.components,
        "space.landmarks": space.landmarks,
    }
    return arrays, dataclasses.replace(config, space_scale=space.scale), card


def _among(source: CellSource, genes: Any) -> np.ndarray | None:
    """(n_genes,) bool: genes of the source that other data have as well; None for all."""
    if genes is None:
        return None
    from sclm.cells import GeneVocabulary

    found = GeneVocabulary(tuple(map(str, source.genes))).match(pd.Index(genes)).ids
    shared = np.zeros(source.n_genes, dtype=bool)
    shared[found[found >= 0]] = True
    return shared


def _values(source: CellSource, obs_keys: Sequence[str], column: str) -> tuple[str, ...]:
    """Values of a field that prompts may ask for."""
    if column not in obs_keys or column not in source.obs:
        return ()
    return tuple(sorted({f[column] for f in fields_of(source.obs[[column]]) if column in f}))


def _code_of(labels: Labels) -> dict[str, int]:
    type_of = {(n, t): i for i, (n, t) in enumerate(zip(labels.labels, labels.term_ids, strict=True))}
    table = labels.original
    pairs = zip(table["label"], table["name"], table["term_id"], strict=True)
    return {str(label): type_of[name, term] for label, name, term in pairs if (name, term) in type_of}


def _descriptions(ontology: Ontology, labels: Labels) -> dict[int, str]:
    """Beginnings of the definitions of the training types."""
    found = {}
    for code, term in enumerate(labels.term_ids):
        text = ontology.definition(term) if term in ontology else ""
        if text:
            found[code] = " ".join(text.split()[:_DESCRIPTION_WORDS])
    return found


def _words(ontology: Ontology, vocabulary: GeneVocabulary, config: CellToSGConfig, labels: Labels) -> WordVocabulary:
    """All words that prompts, names and descriptions need."""
    prompts = [write_prompt("", task, organism=config.organism, tissue="t", disease="d") for task in TASKS]
    names = [ontology.name_of(t) for t in terms_of(ontology)]
    texts = [
        *prompts,
        *names,
        *labels.labels,
        *config.tissues,
        *config.diseases,
        *_descriptions(ontology, labels).values(),
    ]
    return WordVocabulary.from_texts(texts, words=list(dict.fromkeys(symbols_of(vocabulary))))
