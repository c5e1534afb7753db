"""The training system: one module; the stage decides what learns, what a batch is asked, and which loss it pays.

B cells · C candidate terms · N answers · T answer tokens
"""

from __future__ import annotations

import logging
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
import numpy as np
import torch

from sclm.models.celltosg.negatives import allowed, sample_candidates
from sclm.models.celltosg.network import learns
from sclm.models.celltosg.objectives import align_loss, anchor_loss, group_advantages, grpo_loss
from sclm.models.celltosg.rollouts import CollapseGuard, Groups, log_probs, sample, sample_groups
from sclm.nn import Packed
from sclm.training import adamw, planned_steps

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sclm.knowledge import Ontology
    from sclm.models.celltosg.config import CellToSGConfig
    from sclm.models.celltosg.network import CellToSGNetwork
    from sclm.models.celltosg.rewards import HierarchyReward
    from sclm.models.celltosg.rollouts import Sampled
    from sclm.models.celltosg.tokens import Batch
    from sclm.nn import Trie

logger = logging.getLogger(__name__)

_SLOW = 0.1  # of the learning rate: adapters of a pretrained model while the graph channel finds its place


class Names:
    """Terms that can be answered, and the trie of their names.

    Parameters
    ----------
    ontology
        Whose terms.
    ids
        (C,) terms; row c of everything that is scored.
    trie
        Names with ``name_ids`` rows of `ids`.
    nodes
        (C,) int64 nodes of the graph, -1 where a term has none.
    """

    def __init__(self, ontology: Ontology, ids: Sequence[str], trie: Trie, nodes: np.ndarray) -> None:
        self.ontology, self.ids, self.trie, self.nodes = ontology, tuple(ids), trie, nodes
        self.row_of = {term: i for i, term in enumerate(self.ids)}
        self.with_node = frozenset(term for term, node in zip(self.ids, nodes, strict=True) if node >= 0)


class CellToSGModule(pl.LightningModule):
    """Loss and optimiser of a stage.

    Parameters
    ----------
    network
        What learns.
    config
        Rates, weights, temperatures.
    stage
        ``"language"``, ``"anchor"``, ``"align"`` or ``"reinforce"``.
    names
        Terms that can be answered.
    term_ids
        Terms of the training types, by the batch's ``truth``; ``"unknown"`` where a type has none.
    reward
        Of stage III.
    seed
        Of negatives and of sampled answers.
    """

    def __init__(
        self,
        network: CellToSGNetwork,
        config: CellToSGConfig,
        stage: str,
        names: Names,
        term_ids: Sequence[str],
        *,
        reward: HierarchyReward | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.network, self.config, self.stage = network, config, stage
        self.names, self.term_ids, self.reward, self.seed = names, tuple(term_ids), reward, seed
        self.guard = CollapseGuard()
        self.history: list[dict[str, float]] = []
        self.collapsed: str | None = None
        learns(network, stage)
        self._reference = (
            {n: p.detach().clone() for n, p in network.named_parameters() if p.requires_grad}
            if stage == "reinforce"
            else {}
        )

    # ------------------------------------------------------------------ Lightning

    def training_step(self, batch: Batch, index: int) -> torch.Tensor:
        """The stage's loss."""
        if self.stage == "reinforce":
            return self.reinforce(batch, index)
        return self.supervised(batch, np.random.default_rng([self.seed, self.global_step]))

    def validation_step(self, batch: Batch, index: int) -> None:
        """The same on held-out cells, logged as ``validation_loss``; of an anchor also behind other cells' virtual tokens."""
        n = len(batch.ids)
        if self.stage == "reinforce":
            return
        self.log("validation_loss", self.supervised(batch, np.random.default_rng([self.seed, index])), batch_size=n)
        if self.stage == "anchor" and self.network.has_graph:
            loss = anchor_loss(self.network.read(batch, others=True).logits, batch.targets)
            self.log("shuffled_loss", loss, batch_size=n)

    def configure_optimizers(self) -> Any:
        """AdamW with warm-up and cosine decay; a pretrained model's adapters learn ten times slower in the anchor."""
        rate = {
            "language": self.config.anchor_learning_rate,
            "anchor": self.config.anchor_learning_rate,
            "align": self.config.align_learning_rate,
            "reinforce": self.config.reinforce_learning_rate,
        }[self.stage]
        found = adamw(
            self, learning_rate=rate, weight_decay=self.config.weight_decay, total_steps=planned_steps(self.trainer),
            warmup=0.03,
        )  # fmt: skip
        if self.stage == "anchor":
            slow = {id(p) for n, p in self.named_parameters() if "lora_" in n}
            groups = []
            for group in found["optimizer"].param_groups:
                for share, factor in ((slow, _SLOW), (None, 1.0)):
                    mine = [p for p in group["params"] if (id(p) in slow) == (share is slow)]
                    if mine:
                        groups.append({"params": mine, "weight_decay": group["weight_decay"], "lr": rate * factor})
            if any(g["lr"] != rate for g in groups):
                found["optimizer"] = torch.optim.AdamW(groups, betas=(0.9, 0.95))
                found.pop("lr_scheduler")
        return found

    # ------------------------------------------------------------------ stages I and II

    def supervised(self, batch: Batch, generator: np.random.Generator) -> torch.Tensor:
        """Loss of the language, anchor and align stages."""
        if self.stage == "language":
            return anchor_loss(self.network.lm.logits(None, batch.ids), batch.targets)
        read = self.network.read(batch)
        if self.stage == "anchor":
            return anchor_loss(read.logits, batch.targets)
        weight = self.config.contrast_weight
        terms = [self.term_ids[t] if t >= 0 else "unknown" for t in batch.truth.tolist()]
        known = [t for t in terms if t in self.names.with_node]
        if read.nodes is None or not weight or not known:
            smooth = self.config.label_smoothing
            empty = read.logits.new_zeros(len(batch.ids), 1)
            nobody = torch.full_like(batch.truth, -1)
            return align_loss(
                read.logits, batch.targets, empty, empty[:1], nobody, empty.bool(), contrast_weight=0.0,
                label_smoothing=smooth,
            ).total  # fmt: skip
        candidates = sample_candidates(
            self.names.ontology, known, generator, per_term=self.config.contrast_relatives, among=self.names.with_node
        )
        row = {t: i for i, t in enumerate(candidates)}
        device = batch.ids.device
        truth = torch.tensor([row.get(t, -1) for t in terms], device=device)
        own = sorted(set(known))
        masks = dict(zip(own, allowed(self.names.ontology, own, candidates), strict=True))
        mask = np.stack([masks.get(t, np.ones(len(candidates), dtype=bool)) for t in terms])
        nodes = torch.from_numpy(self.names.nodes[[self.names.row_of[t] for t in candidates]]).to(device)
        return align_loss(
            read.logits, batch.targets, self.network.cells(read), self.network.terms(read.nodes, nodes), truth,
            torch.from_numpy(mask).to(device), temperature=self.network.temperature, contrast_weight=weight,
            label_smoothing=self.config.label_smoothing,
        ).total  # fmt: skip

    # ------------------------------------------------------------------ stage III

    def reinforce(self, batch: Batch, index: int) -> torch.Tensor:
        """Sample groups, judge them, and pay the loss of those that teach something."""
        config, lm = self.config, self.network.lm
        generator = torch.Generator().manual_seed(
            int(np.random.SeedSequence([self.seed, self.global_step]).generate_state(1)[0])
        )
        with self._deterministic():  # dropout off: the policy that is sampled is the one that is scored
            prefix = self.network.prefix(self._frozen_nodes(), batch)
            prompts = Packed(batch.ids, batch.prompt_lengths)
            settings: dict[str, Any] = {"group_size": config.group_size, "temperature": config.group_temperature}
            trie = None if config.group_free else self.names.trie

            def draw(rows: np.ndarray) -> Sampled:
                at = torch.from_numpy(rows)
                some = None if prefix is None else prefix[at]
                return sample(lm, some, prompts.rows(at), trie, generator=generator, **settings)

            groups = sample_groups(draw, lambda s, rows: self._judge(s, rows, batch), len(batch.ids), config.group_size)
            kept = torch.from_numpy(groups.prompts)
            if not len(kept):  # nothing to learn from: a loss without a gradient
                self._note(groups, 0.0, 0.0)
                return sum(p.sum() for p in self.network.parameters() if p.requires_grad) * 0.0  # type: ignore[return-value]
            some, asked = None if prefix is None else prefix[kept], prompts.rows(kept)
            with self._as_reference(), torch.no_grad():
                first = self.network.prefix(self._frozen_nodes(), batch)
                before, _ = log_probs(
                    lm, None if first is None else first[kept], asked, groups.sampled, trie, **settings
                )
            now, entropy = log_probs(lm, some, asked, groups.sampled, trie, **settings)
        real = groups.sampled.answers.real
        loss = grpo_loss(
            now, now.detach(), group_advantages(groups.rewards, config.group_size).to(now.device), real,
            reference_log_probs=before, kl_weight=config.kl_weight,
        )  # fmt: skip
        self._note(groups, float(loss.kl), float(entropy.sum() / real.sum()))
        return loss.total

    def _judge(self, sampled: Sampled, prompts: np.ndarray, batch: Batch) -> tuple[np.ndarray, dict[str, float]]:
        truths = [self.term_ids[t] for t in batch.truth[torch.from_numpy(prompts)].tolist()]
        truths = [t for t in truths for _ in range(self.config.group_size)]
        if self.reward is None:
            raise ValueError("stage 'reinforce' needs a reward, found None.")
        answers: list[str | None]
        if sampled.nodes is None:
            pairs = zip(sampled.answers.ids.tolist(), sampled.answers.lengths.tolist(), strict=True)
            rewards, answers = self.reward.of_texts([self.network.lm.decode(row[:n]) for row, n in pairs], truths)
        else:
            answers = [self.names.ids[r] for r in self.names.trie.name_ids[sampled.names]]
            rewards = self.reward(answers, truths)
        named = [a for a in answers if a is not None]
        return rewards, {
            "exact": float(np.mean([a == t for a, t in zip(answers, truths, strict=True)])),
            "resolvable": len(named) / len(answers),
            "depth": float(np.mean([self.names.ontology.depth(a) for a in named])) if named else 0.0,
        }

    def _note(self, groups: Groups, kl: float, entropy: float) -> None:
        """Write down the step, and stop where the policy collapses."""
        self.history.append({**groups.statistics, "kl": kl, "entropy": entropy})
        self.collapsed = self.guard.reason(kl, entropy) if len(groups.prompts) else None
        if self._trainer is None:
            return
        stop = self.collapsed is not None
        if self.trainer.world_size > 1:  # all devices stop at the same step
            stop = self.trainer.strategy.reduce_boolean_decision(stop, all=False)
        if stop:
            logger.warning("stage 'reinforce' stopped at step %d: %s", len(self.history), self.collapsed or "elsewhere")
            self.trainer.should_stop = True

    def _frozen_nodes(self) -> torch.Tensor | None:
        with torch.no_grad():
            return self.network.nodes()

    @contextmanager
    def _deterministic(self) -> Iterator[None]:
        training = self.network.training
        self.network.eval()
        try:
            yield
        finally:
            self.network.train(training)

    @contextmanager
    def _as_reference(self) -> Iterator[None]:
        """The policy of stage II for the time of a ``with`` block."""
        now = {}
        with torch.no_grad():
            for name, parameter in self.network.named_parameters():
                if name in self._reference:
                    now[name] = parameter.data
                    parameter.data = self._reference[name].to(parameter.device)
        try:
            yield
        finally:
            for name, parameter in self.network.named_parameters():
                if name in now:
                    parameter.data = now[name]
