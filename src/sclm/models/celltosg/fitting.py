"""The recipe: language, anchor, align, reinforce, each a run of :func:`sclm.training.fit` that goes on where it was stopped."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from sclm.models.celltosg.config import STAGES
from sclm.models.celltosg.module import CellToSGModule
from sclm.models.celltosg.objectives import anchor_loss
from sclm.models.celltosg.rewards import HierarchyReward
from sclm.training import CellDataModule, fit

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sclm.cells import CellSource, GeneVocabulary
    from sclm.models.celltosg.config import CellToSGConfig
    from sclm.models.celltosg.encoding import Encoder
    from sclm.models.celltosg.module import Names
    from sclm.models.celltosg.network import CellToSGNetwork

logger = logging.getLogger(__name__)


def check_stages(stages: Sequence[str]) -> tuple[str, ...]:
    """Stages in their order; ValueError for an unknown one."""
    if unknown := [s for s in stages if s not in STAGES]:
        raise ValueError(f"stages must be of {', '.join(map(repr, STAGES))}, found {unknown[0]!r}.")
    return tuple(s for s in STAGES if s in stages)


class Gate(NamedTuple):
    """Whether the graph channel is used: cost of sentences behind their own virtual tokens and behind those of another cell.

    Attributes
    ----------
    true, other
        Nats a token, means over cells.
    size
        Mean of the paired differences over their standard deviation across cells; 0 where that is 0.
    cheaper
        Share of the cells whose sentence costs less behind their own tokens.
    """

    true: float
    other: float
    size: float
    cheaper: float

    @classmethod
    def of(cls, true: np.ndarray, other: np.ndarray) -> Gate:
        """From the costs (n,) of each cell."""
        gain = other - true
        spread = float(gain.std(ddof=1)) if len(gain) > 1 else 0.0
        size = float(gain.mean()) / spread if spread > 0 else 0.0
        return cls(float(true.mean()), float(other.mean()), size, float((gain > 0).mean()))


class Trainer:
    """Runs the stages on one network.

    Parameters
    ----------
    network, config, names, encoder
        What learns, its settings, the terms, and the writer of prompts.
    source, vocabulary
        The cells and the genes that are read of them.
    rows, held_out, codes
        (n,) rows of the source with a label; (n,) bool which are held out; (n,) their types.
    folder
        Where the runs are kept, one folder a stage; None: nowhere.
    seed
        Of everything random.
    **options
        For :func:`sclm.training.fit`: ``max_minutes``, ``accelerator``, ``devices``, ``strategy`` …
    """

    def __init__(
        self,
        network: CellToSGNetwork,
        config: CellToSGConfig,
        names: Names,
        encoder: Encoder,
        source: CellSource,
        vocabulary: GeneVocabulary,
        rows: np.ndarray,
        held_out: np.ndarray,
        codes: np.ndarray,
        *,
        folder: Any,
        seed: int,
        **options: Any,
    ) -> None:
        self.network, self.config, self.names, self.encoder = network, config, names, encoder
        self.source, self.vocabulary = source, vocabulary
        self.rows, self.held_out, self.codes = rows, held_out, codes
        self.folder = None if folder is None else Path(folder)
        self.seed, self.options = seed, options
        self.card: dict[str, Any] = {}

    def run(self, stages: Sequence[str]) -> None:
        """The stages in their order; each begins with the weights of the one before."""
        for stage in stages:
            getattr(self, f"_{stage}")()

    def _anchor(self) -> None:
        if self.network.lm.lm.base_model is None:  # random weights: it must learn to read before it can be frozen
            self._fit("language", self.encoder.anchor, self.config.anchor_epochs)
        if not self.network.has_graph:
            return
        self._fit("anchor", self.encoder.anchor, self.config.anchor_epochs)
        true, other, size, cheaper = self.gate()
        self.card["anchor held out nats a token"] = round(true, 4)
        self.card["anchor held out nats a token behind another cell's graph tokens"] = round(other, 4)
        self.card["anchor effect size of the graph tokens, mean over standard deviation of cells"] = round(size, 2)
        self.card["anchor share of held-out cells whose own graph tokens help more"] = round(cheaper, 3)
        if not true < other:
            logger.warning(
                "the graph channel is not used: held-out sentences cost %.4f nats a token behind their own virtual tokens and %.4f "
                "behind those of another cell. Train the anchor longer, or with a larger learning rate.",
                true, other,
            )  # fmt: skip

    def _align(self) -> None:
        report = self._fit("align", self.encoder.align, self.config.align_epochs)
        self.card["align epochs"] = report.best_epoch

    def _reinforce(self) -> None:
        config = self.config
        known = np.array([t in self.names.row_of for t in config.term_ids], dtype=bool)
        usable = np.flatnonzero(~self.held_out & known[self.codes])
        if not usable.size:
            logger.warning("stage 'reinforce' is left out: no training type is a term that can be answered.")
            return
        # types by turns, so that rare ones are asked as often as common ones
        rng = np.random.default_rng([self.seed, 11])
        order = rng.permutation(usable)
        turn = np.zeros(len(order), dtype=np.int64)
        for code in np.unique(self.codes[order]):
            mine = self.codes[order] == code
            turn[mine] = np.arange(mine.sum())
        n = config.reinforce_steps * config.group_prompts
        chosen = order[np.lexsort((rng.random(len(order)), turn))][:n]
        data = CellDataModule(
            self.source, self.encoder.ask, vocabulary=self.vocabulary, batch_size=config.group_prompts, validation=0.0,
            rows=np.sort(self.rows[chosen]), seed=self.seed, workers=0,
        )  # fmt: skip
        module = self._module("reinforce")
        fit(module, data, max_epochs=1, folder=self._folder("reinforce"), seed=self.seed, **self.options)
        history = module.history
        if history:
            half = max(1, len(history) // 2)
            first, last = (np.mean([h["reward"] for h in part]) for part in (history[:half], history[-half:]))
            self.card["reinforce mean reward, first and last half"] = f"{first:.4f}, {last:.4f}"
            self.card["reinforce groups without a difference"] = round(
                float(np.mean([h["zero_sd"] for h in history])), 3
            )
            self.card["reinforce kl and entropy at the end"] = f"{history[-1]['kl']:.4f}, {history[-1]['entropy']:.4f}"
        self.history = history

    def _module(self, stage: str) -> CellToSGModule:
        reward = HierarchyReward(self.names.ontology, similarity=self.config.reward) if stage == "reinforce" else None
        return CellToSGModule(
            self.network, self.config, stage, self.names, self.config.term_ids, reward=reward, seed=self.seed
        )

    def _folder(self, stage: str) -> Path | None:
        return None if self.folder is None else self.folder / stage

    def _fit(self, stage: str, encode: Any, epochs: int) -> Any:
        data = CellDataModule(
            self.source, encode, vocabulary=self.vocabulary, batch_size=self.config.batch_size,
            validation=self.rows[self.held_out], rows=np.sort(self.rows), seed=self.seed, workers=0,
        )  # fmt: skip
        patience = self.config.patience if self.held_out.any() else None
        return fit(
            self._module(stage), data, max_epochs=epochs, patience=patience, folder=self._folder(stage), seed=self.seed,
            configuration={"stage": stage, "epochs": epochs}, **self.options,
        )  # fmt: skip

    @torch.no_grad()
    def gate(self) -> Gate:
        """Nats a token of held-out sentences, behind their own virtual tokens and behind those of the next cell."""
        rows = self.rows[self.held_out] if self.held_out.sum() > 1 else self.rows
        data = CellDataModule(
            self.source, self.encoder.anchor, vocabulary=self.vocabulary, batch_size=self.config.batch_size, rows=np.sort(rows),
            validation=0.0, seed=self.seed, workers=0,
        )  # fmt: skip
        training = self.network.training
        self.network.eval()
        costs: tuple[list[float], list[float]] = ([], [])
        for batch in data.train_dataloader():
            for found, others in zip(costs, (False, True), strict=True):
                logits = self.network.read(batch, others=others).logits
                found += [float(anchor_loss(logits[[i]], batch.targets[[i]])) for i in range(len(batch.ids))]
        self.network.train(training)
        return Gate.of(*(np.array(found) for found in costs))
