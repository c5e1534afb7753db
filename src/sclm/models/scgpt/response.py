"""Responses to perturbations: expression of a control cell in, expression after the perturbation out (Cui et al., 2024).

What differs from the original: a training step reads a random subset of genes as there, but always the perturbed ones; every cell of a
minibatch is paired with a control cell of its own batch where batches are given; control cells are paired with control cells, so
that a network knows what nothing does; and a model trained here predicts the control mean plus the *difference* between its
predictions with and without flags, so that what it gets wrong of every cell cancels.

P perturbations · n cells · G genes that are predicted · L tokens
"""

from __future__ import annotations

import dataclasses
import logging
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pandas as pd
import torch

from sclm.cells import log_normalise
from sclm.models.perturbations import name_of, parts_of, read_perturbations
from sclm.models.scgpt.fitting import starting_config, starting_network, vocabulary_of
from sclm.models.scgpt.panel import move_log, variable_genes
from sclm.models.scgpt.response_training import PairData, ResponseModule
from sclm.training import fit

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sclm.cells import Cells, CellSource
    from sclm.models.scgpt.model import ScGPT
    from sclm.models.scgpt.network import ScGPTNetwork

logger = logging.getLogger(__name__)

_TOKENS_ON_CPU, _TOKENS_ON_GPU = 16_384, 262_144  # of a batch


def fit_response(
    cls: type[ScGPT],
    source: CellSource,
    *,
    perturbation_key: str | None,
    control: str | None,
    base: ScGPT | None,
    preset: str | None,
    batch_key: str | None,
    genes: Any,
    n_panel: int,
    seed: int,
    training: dict[str, Any],
    options: dict[str, Any],
) -> ScGPT:
    """A model that predicts responses, from control and perturbed cells."""
    if perturbation_key is None:
        raise TypeError(
            'objective="perturbation" needs perturbation_key=, the column of .obs with the perturbed genes.'
        )
    perturbed = read_perturbations(source.obs[perturbation_key], control, perturbation_key)
    targets = tuple(sorted({gene for name in perturbed.names for gene in parts_of(name)}))
    # a gene that is perturbed and not measured still has a token, by which its perturbation is told
    vocabulary = vocabulary_of(source, genes, targets) if base is None else base.vocabulary
    heads = {
        "values": "log", "expression": "affine", "mvc": "none", "perturbation_flags": 3, "perturbations": perturbed.names,
        "control": str(control), "paired_within": batch_key or "", "relative": True,
    }  # fmt: skip
    config = starting_config(base, preset, "perturbation", options, heads)
    ids = vocabulary.match(source.genes).ids
    flagged = vocabulary.match(targets).ids
    measured = np.isin(flagged, ids[ids >= 0]) & (flagged >= 0)
    batches = np.zeros(source.n_cells, np.int64)
    if batch_key is not None:
        batches = pd.factorize(source.obs[batch_key].astype(str))[0].astype(np.int64)
    panel = variable_genes(source, ids, len(vocabulary), n_panel, batches=batches, always=flagged[measured])
    config = dataclasses.replace(config, panel_size=int(panel.size))
    network = starting_network(cls.build, config, vocabulary, base, seed)
    network.panel.copy_(torch.from_numpy(panel))  # type: ignore[union-attr]
    if base is None or base.config.expression != "affine":
        start_from_no_change(network)
    model = cls(config, vocabulary, network)
    if unknown := [gene for gene, i in zip(targets, flagged, strict=True) if i < 0]:
        logger.warning(
            "%d perturbed genes are unknown to the model and share one token: %s.", len(unknown), ", ".join(unknown[:5])
        )
    data = PairData(
        source, perturbed, batches, panel=panel, place_of=_places(vocabulary, ids, panel),
        flags={name: flag_ids(model, parts_of(name)) for name in perturbed.names}, config=config, seed=seed,
    )  # fmt: skip
    report = fit(
        ResponseModule(network, config), data, max_epochs=config.max_epochs,
        patience=config.patience if data.validation else None, seed=seed,
        configuration={"scgpt": dataclasses.asdict(config)}, **training,
    )  # fmt: skip
    network.eval()
    model.card = {
        "data": f"{data.n_perturbed:,} perturbed and {data.n_controls:,} control cells, {len(perturbed.names)} perturbations, "
        f"{panel.size:,} genes",
        "start": "random weights" if base is None else f"weights of {base.path or 'a model in memory'}",
        "objective": "perturbation",
        "split": data.split,
        "epochs": report.best_epoch,
        "stopped": report.stopped,
        "seed": seed,
        "limits": "Compare with no change, the training mean and the additive model: published networks of this kind seldom beat them.",
    }  # fmt: skip
    return model


def start_from_no_change(network: ScGPTNetwork) -> None:
    """Coefficient 1 and bias 0 whatever the state: the first prediction is the control cell itself."""
    head: Any = network.decoders["expression"]
    with torch.no_grad():
        for part, value in ((head.coefficient[-1], 1.0), (head.bias[-1], 0.0)):
            part.weight.mul_(0.1)
            part.bias.fill_(value)


def flag_ids(model: ScGPT, genes: Sequence[str]) -> np.ndarray:
    """Token ids of perturbed genes; those that the model does not know are ``<pad>``, as in the original."""
    found = model.vocabulary.match(genes).ids
    return np.unique(np.where(found >= 0, found, model.pad_id)).astype(np.int64)


def respond(model: ScGPT, cells: Cells, perturbations: Sequence[Sequence[str]], *, seed: int = 0) -> pd.DataFrame:
    """Mean profile of control cells after each perturbation.

    Parameters
    ----------
    model
        Trained on perturbations.
    cells
        Control cells, raw counts. Where there are more than ``config.response_cells``, a random choice is read.
    perturbations
        Genes that are perturbed together, one sequence a perturbation; none: the control.
    seed
        Of that choice.

    Returns
    -------
    Perturbations (genes joined by ``"+"``) x genes of the model that the data have, float32, at least 0: means of
    log1p(10,000 c / total), the totals taken over all genes of the data.

    Raises
    ------
    ValueError
        If the model was not trained on perturbations, or no cell has counts.
    """
    network = model.network
    if not model.responds:
        raise ValueError(
            f"This {model.family!r} model was not trained on perturbed cells. Train one: sclm.train('scgpt', adata, "
            "perturbation_key=..., control=..., base=model)."
        )
    flags = [flag_ids(model, tuple(genes)) for genes in perturbations]
    unknown = sum(bool((f == model.pad_id).any()) for f in flags)
    if unknown:
        logger.warning("%d perturbations hold a gene that the model does not know: they share one token.", unknown)
    values, ids = _controls(model, cells, seed)
    panel = ids if network.panel is None else network.panel.cpu().numpy()
    predicted = np.isin(ids, panel)
    means = _predict(model, values, ids, predicted, flags)
    names = [model.vocabulary.tokens[i] for i in ids[predicted]]
    return pd.DataFrame(
        np.maximum(means, 0).astype(np.float32), index=[name_of(p) for p in perturbations], columns=names
    )


def _controls(model: ScGPT, cells: Cells, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Log-normalised values (n, known genes) of the control cells that are read, and token ids (known genes,)."""
    rows = np.flatnonzero(np.diff(cells.counts.indptr) > 0)
    if not rows.size:
        raise ValueError("The control cells have no counts.")
    if rows.size > model.config.response_cells:
        rows = np.sort(np.random.default_rng(seed).choice(rows, model.config.response_cells, replace=False))
    found = model.match(cells.genes).ids
    ids = np.unique(found[found >= 0])
    place = np.full(len(model.vocabulary) + 1, -1, np.int64)
    place[ids] = np.arange(ids.size)
    return move_log(log_normalise(cells.counts[rows]), place[found], ids.size).toarray(), ids


def _predict(
    model: ScGPT, values: np.ndarray, ids: np.ndarray, predicted: np.ndarray, flags: list[np.ndarray]
) -> np.ndarray:
    """(P, G) means over cells of the predicted genes; the input that perturbations share is made once for all of them.

    A perturbed gene that is not predicted is one more token of its own perturbation, with its value in the cell, 0 if not measured.
    """
    panel, read = ids[predicted], values[:, predicted]
    column = {int(gene): i for i, gene in enumerate(ids)}
    extra = [f[~np.isin(f, panel)] for f in flags]
    own = [np.stack([values[:, column[g]] if g in column else np.zeros(len(values), np.float32) for g in genes], axis=1)
           if (genes := e.tolist()) else np.zeros((len(values), 0), np.float32) for e in extra]  # fmt: skip
    device = model.device
    places = [torch.from_numpy(np.flatnonzero(np.isin(panel, f))).to(device) for f in flags]
    bound = _TOKENS_ON_CPU if device.type == "cpu" else _TOKENS_ON_GPU
    step = max(1, bound // (panel.size + max((e.size for e in extra), default=0)))
    sums, baseline = np.zeros((len(flags), panel.size)), np.zeros(panel.size)
    network, head = model.network, cast("Any", model.network.decoders["expression"])
    weight = network.perturbed.weight  # type: ignore[union-attr]
    with model.inference():

        def inputs(tokens: np.ndarray, v: torch.Tensor) -> torch.Tensor:
            numbers = torch.from_numpy(tokens).to(device).expand(len(v), -1)
            return network.inputs(numbers, v, torch.ones_like(v, dtype=torch.bool))[0]

        def total(x: torch.Tensor, v: torch.Tensor) -> np.ndarray:
            states = network.encode(x, torch.ones_like(v, dtype=torch.bool), model.n_layers)
            return head(states, v)[:, : panel.size].double().sum(dim=0).cpu().numpy()

        for start in range(0, len(values), step):
            rows = slice(start, start + step)
            v = torch.from_numpy(np.ascontiguousarray(read[rows])).to(device)  # (B, G)
            x = inputs(panel, v) + weight[0]
            if model.config.relative:
                baseline += total(x, v)
            for p, place in enumerate(places):
                moved, v_own = x.clone(), v
                moved[:, place] += weight[1] - weight[0]
                if extra[p].size:
                    more = torch.from_numpy(own[p][rows]).to(device)
                    moved = torch.cat([moved, inputs(extra[p], more) + weight[1]], dim=1)
                    v_own = torch.cat([v, more], dim=1)
                sums[p] += total(moved, v_own)
    if not model.config.relative:
        return sums / len(values)
    return read.mean(axis=0, dtype=np.float64) + (sums - baseline) / len(values)


def _places(vocabulary: Any, ids: np.ndarray, panel: np.ndarray) -> np.ndarray:
    """(n_data_genes,) place in the panel of each gene of the data, -1 outside."""
    place = np.full(len(vocabulary) + 1, -1, np.int64)
    place[panel] = np.arange(panel.size)
    return place[ids]  # -1, unknown, is the last: -1 again
