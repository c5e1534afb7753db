"""Fit an scGPT network to cells: from random weights or on from a trained one, with one of three objectives."""

from __future__ import annotations

import dataclasses
import logging
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from sclm.cells import GeneVocabulary
from sclm.cells.columns import move_columns
from sclm.models.scgpt.config import ScGPTConfig
from sclm.models.scgpt.module import ScGPTModule, draw_absent, hide
from sclm.models.scgpt.panel import variable_genes
from sclm.models.scgpt.tokens import cell_tokens
from sclm.nn import seeded
from sclm.training import CellDataModule, expressed_genes, fit

if TYPE_CHECKING:
    from collections.abc import Callable

    from sclm.cells import Cells, CellSource
    from sclm.models.scgpt.model import ScGPT
    from sclm.models.scgpt.network import ScGPTNetwork
    from sclm.training import FitReport

logger = logging.getLogger(__name__)

SPECIAL = ("<pad>", "<cls>", "<eoc>")
_FEWEST_CELLS = 20
_TRAINING = (
    "learning_rate",
    "weight_decay",
    "batch_size",
    "max_epochs",
    "mask_ratio",
    "validation_share",
    "patience",
    "dropout",
)


def starting_config(
    base: ScGPT | None, preset: str | None, objective: str, options: dict[str, Any], heads: dict[str, Any]
) -> ScGPTConfig:
    """Configuration of a network that is to be trained: a preset, or that of the base, with the heads of the objective.

    Raises
    ------
    ValueError
        If both a base and a preset are given.
    """
    # heads and tokens of another objective do not stay
    fresh: dict[str, Any] = {
        "objective": objective, "classes": (), "batch_labels": False, "adversary": False, "zero_probability": False,
        "perturbation_flags": 0, "expression": "mlp", "mvc": "inner product", "n_modalities": 0, "flags": 0, "generative": 0.0,
        "batch_key": None, "batches": (), "include_zeros": False, "panel_size": 0, "values": "bins", "input_norm": "none",
        "adaptive_bias": False, "affine_activation": "none", "mvc_detach": False,
        "perturbations": (), "control": "", "paired_within": "", "relative": False,
        "tune": "", "labels": (), "term_ids": (), "label_layer": 0, "label_pooling": "",
    }  # fmt: skip
    if options.get("generative"):
        fresh["flags"] = 2
    chosen = fresh | heads | options
    if base is None:
        return ScGPTConfig.preset(preset or "small", **chosen)
    if preset is not None:
        raise ValueError(
            f"preset={preset!r} is for training from scratch, and base= has its own sizes. Pass one of them."
        )
    if base.config.flags:
        chosen["flags"] = base.config.flags
    sizes = [
        k
        for k in ("width", "n_heads", "n_layers", "feed_forward")
        if options.get(k, getattr(base.config, k)) != getattr(base.config, k)
    ]
    if sizes:
        raise ValueError(
            f"{sizes[0]} is given by base=, which has {getattr(base.config, sizes[0])}, found {options[sizes[0]]}."
        )
    ScGPTConfig.preset("whole-human", **chosen)  # names of settings that do not exist are refused
    recipe = {"learning_rate": 1e-4, "max_epochs": 10, "batch_size": 32}  # of fine-tuning, unlike that of pre-training
    return dataclasses.replace(base.config, **(recipe | chosen))


def starting_network(
    build: Callable[[ScGPTConfig, GeneVocabulary], ScGPTNetwork],
    config: ScGPTConfig,
    vocabulary: GeneVocabulary,
    base: ScGPT | None,
    seed: int,
) -> ScGPTNetwork:
    """Random weights, and those of the base where names and shapes agree: encoder, decoder, whatever heads both have."""
    with seeded(seed):
        network = build(config, vocabulary)
    if base is None:
        _start_in_the_middle(network, config)
        return network
    own, known = network.state_dict(), base.network.state_dict()
    taken = {
        name: tensor
        for name, tensor in known.items()
        if name in own and own[name].shape == tensor.shape and name != "panel"
    }
    network.load_state_dict(taken, strict=False)
    fresh = sorted({name.rpartition(".")[0] for name in own.keys() - taken.keys() - {"panel"}})
    if fresh:
        logger.info("new in the network, with random weights: %s", ", ".join(fresh))
    return network


def _start_in_the_middle(network: ScGPTNetwork, config: ScGPTConfig) -> None:
    """First guesses of bins are the middle one from states, and near 0 from cells' vectors: hundreds of steps are saved."""
    heads: Any = network.decoders
    with torch.no_grad():
        if config.expression == "mlp" and config.values == "bins":
            heads["expression"].fc[-1].bias.fill_(config.n_bins / 2 / config.value_unit)
        if config.mvc == "inner product":
            heads["mvc"].project.weight.mul_(0.1)


def vocabulary_of(source: CellSource, genes: Any, more: tuple[str, ...] = ()) -> GeneVocabulary:
    """Special tokens, then the genes of the data, or those of them that others share, then some more."""
    vocabulary = GeneVocabulary(tuple(map(str, source.genes)))
    if genes is not None:
        found = vocabulary.match(genes).ids
        vocabulary = GeneVocabulary(tuple(vocabulary.tokens[i] for i in np.unique(found[found >= 0])))
    if len(vocabulary) < 3:
        raise ValueError(f"scgpt needs at least 3 genes, found {len(vocabulary)}.")
    known = set(vocabulary.tokens)
    return GeneVocabulary((*SPECIAL, *vocabulary.tokens, *dict.fromkeys(gene for gene in more if gene not in known)))


def fit_encoder(
    cls: type[ScGPT],
    source: CellSource,
    *,
    base: ScGPT | None,
    preset: str | None,
    batch_key: str | None,
    objective: str,
    genes: Any,
    n_panel: int,
    balance_key: str | None,
    seed: int,
    training: dict[str, Any],
    options: dict[str, Any],
) -> ScGPT:
    """A model that guesses hidden values (``"masking"``), or that also makes batches alike (``"integration"``)."""
    if source.n_cells < _FEWEST_CELLS:
        raise ValueError(f"scgpt needs at least {_FEWEST_CELLS} training cells, found {source.n_cells}.")
    integrates = objective == "integration"
    names, codes = _batches(source, batch_key) if integrates else ((), np.zeros(source.n_cells, np.int64))
    heads: dict[str, Any] = {}
    if integrates:
        heads = {
            "batch_key": batch_key, "batches": names, "input_norm": "domain", "batch_labels": True, "adversary": True,
            "zero_probability": True,
        }  # fmt: skip
        if options.get("include_zeros"):
            heads["cls_value"] = 0.0  # as fine-tuned models have it
        if base is None:  # a discriminator behind a reversed gradient wants smaller steps
            heads["learning_rate"] = ScGPTConfig.PRESETS.get(preset or "small", {}).get("learning_rate", 1e-4) / 2
    vocabulary = vocabulary_of(source, genes) if base is None else base.vocabulary
    config = starting_config(base, preset, objective, options, heads)
    panel = None
    if integrates:
        ids = vocabulary.match(source.genes).ids
        panel = variable_genes(source, ids, len(vocabulary), min(n_panel, config.max_length - 1), batches=codes)
        if panel.size < 3:
            raise ValueError(f"Only {panel.size} variable genes are known to the model; at least 3 are needed.")
        config = dataclasses.replace(config, panel_size=int(panel.size))
    network = starting_network(cls.build, config, vocabulary, base, seed)
    if panel is not None and network.panel is not None:
        network.panel.copy_(torch.from_numpy(panel))
    model = cls(config, vocabulary, network)
    report, data = _run(model, source, codes, batch_key, balance_key, seed, training)
    network.eval()
    model.card = _card(model, source, base, report, data, seed)
    return model


def _run(
    model: ScGPT,
    source: CellSource,
    codes: np.ndarray,
    batch_key: str | None,
    balance_key: str | None,
    seed: int,
    training: dict[str, Any],
) -> tuple[FitReport, CellDataModule]:
    config, network = model.config, model.network
    # genes that are read: of the data, and of the panel where there is one
    found = model.vocabulary.match(source.genes).ids
    columns = np.unique(found[found >= 0])
    if network.panel is not None:
        columns = np.intersect1d(columns, network.panel.numpy())
    place = np.full(len(model.vocabulary), -1, np.int64)
    place[columns] = np.arange(columns.size)
    pad_id, cls_id, names = model.pad_id, model.cls_id, pd.Index(config.batches)
    read = dataclasses.replace(config, max_length=config.training_length)

    def encode(cells: Cells, generator: np.random.Generator) -> Any:
        counts = move_columns(cells.counts, place, columns.size)  # the data module gives a column a token
        tokens = cell_tokens(counts, columns, read, cls_id=cls_id, seed=int(generator.integers(2**62)))
        of = np.zeros(cells.n_cells, np.int64)
        if len(names):
            of = names.get_indexer(pd.Index(cells.obs[config.batch_key].astype(str))).astype(np.int64)
        absent = None
        if config.absent and not config.include_zeros:
            n = round(config.absent * config.mask_ratio * int(tokens.ids.lengths.max()))
            absent = draw_absent(counts, columns, n, pad_id, generator)
        return hide(tokens, of, config, pad_id=pad_id, generator=generator, absent=absent)

    # all cells have the panel's genes where zeros are read; otherwise cells of similar length share a batch
    lengths = None
    if not config.include_zeros:
        lengths = np.minimum(expressed_genes(source, model.vocabulary, min_share=0.0), config.training_length - 1) + 1
    grouped = config.objective == "masking" and batch_key is not None and source.obs[batch_key].nunique() > 2
    data = CellDataModule(
        source, encode, vocabulary=model.vocabulary, batch_size=config.batch_size, lengths=lengths, min_share=0.0,
        validation=config.validation_share, validation_key=batch_key if grouped and config.validation_share else None, seed=seed,
        balance_key=balance_key,
    )  # fmt: skip
    module = ScGPTModule(network, config)
    configuration = {"scgpt": dataclasses.asdict(config)}
    configuration["scgpt"].pop("batch_size")  # the data say it, of all devices together
    patience = config.patience if data.validation_rows.size else None
    report = fit(
        module,
        data,
        max_epochs=config.max_epochs,
        patience=patience,
        seed=seed,
        configuration=configuration,
        **training,
    )
    return report, data


def _batches(source: CellSource, batch_key: str | None) -> tuple[tuple[str, ...], np.ndarray]:
    """Names and codes of the batches."""
    if batch_key is None:
        raise TypeError(
            'objective="integration" needs batch_key=, the column of .obs whose batches are to be made alike.'
        )
    values = source.obs[batch_key]
    if values.isna().any():
        raise ValueError(
            f"{batch_key!r} must name a batch for every cell, found {int(values.isna().sum())} cells without one."
        )
    codes, names = pd.factorize(values.astype(str), sort=True)
    if len(names) < 2:
        raise ValueError(f"{batch_key!r} must hold at least 2 batches to integrate, found {len(names)}.")
    return tuple(map(str, names)), codes.astype(np.int64)


def _card(
    model: ScGPT, source: CellSource, base: ScGPT | None, report: FitReport, data: CellDataModule, seed: int
) -> dict[str, Any]:
    config = model.config
    start = "random weights" if base is None else f"weights of {base.path or 'a model in memory'}"
    card = {
        "data": f"{source.n_cells:,} cells, {int(model.vocabulary.is_gene.sum()):,} genes"
        + (
            f", {len(config.batches)} batches of {config.batch_key}, {config.panel_size:,} variable genes"
            if config.batches
            else ""
        ),
        "start": start,
        "objective": config.objective,
        "split": f"{data.validation_rows.size:,} cells held out",
        "epochs": report.best_epoch,
        "stopped": report.stopped,
        "seed": seed,
        "limits": "vectors of cells like those of its training; compare with principal components on your own question",
    }
    if np.isfinite(report.best_score):
        card["held out loss"] = f"{report.best_score:.4f}"
    return card
