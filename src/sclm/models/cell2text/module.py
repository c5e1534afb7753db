"""The training system: one loss on the words of descriptions, one on classes, two learning rates."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
import torch

from sclm.training import parameter_groups, planned_steps, warmup_cosine

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sclm.models.cell2text.config import Cell2TextConfig
    from sclm.models.cell2text.network import Cell2TextNetwork
    from sclm.models.cell2text.tokens import Batch


def text_loss(logits: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    r"""Weighted cross-entropy of the descriptions' tokens, :math:`\sum_t w_t \, (-\ln p_t) / \sum_t w_t`; prompts are not asked.

    Parameters
    ----------
    logits
        (B, L, V).
    targets
        (B, L) int64, -100 where nothing is asked.
    weights
        (B, L), 0 there.

    Returns
    -------
    Nats, a scalar.
    """
    each = torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), reduction="none")
    spread = weights.flatten().to(each.device)
    return (each * spread).sum() / spread.sum().clamp(min=1e-6)


def class_loss(scores: Sequence[torch.Tensor], classes: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy of the heads; cells whose class is not known (-1) are left out.

    Parameters
    ----------
    scores
        (B, classes) of each head.
    classes
        (B, F) int64.

    Returns
    -------
    Nats, summed over heads.
    """
    total = classes.new_zeros((), dtype=torch.float32)
    for i, of in enumerate(scores):
        known = classes[:, i] >= 0
        if known.any():
            total = total + torch.nn.functional.cross_entropy(of[known].float(), classes[known, i])
    return total


class Cell2TextModule(pl.LightningModule):
    """Loss and optimiser.

    Parameters
    ----------
    network
        What learns.
    config
        Rates and weights.
    before
        Tokens of the text in front of the soft tokens.
    """

    def __init__(self, network: Cell2TextNetwork, config: Cell2TextConfig, before: Sequence[int]) -> None:
        super().__init__()
        self.network, self.config, self.before = network, config, tuple(before)

    def losses(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Of the text, and of the classes where there are heads."""
        before = torch.tensor(self.before, dtype=torch.int64, device=batch.ids.device)
        logits, scores = self.network(batch, before)
        text = text_loss(logits, batch.targets, batch.weights)
        return text, class_loss(scores, batch.classes) if scores else None

    def training_step(self, batch: Batch, index: int) -> torch.Tensor:
        """The loss of a batch."""
        text, classes = self.losses(batch)
        return text if classes is None else text + self.config.class_weight * classes

    def validation_step(self, batch: Batch, index: int) -> None:
        """The loss of the text on held-out cells, logged as ``validation_loss``; that of the classes does not choose the epoch."""
        self.log("validation_loss", self.losses(batch)[0], batch_size=len(batch.ids))

    def configure_optimizers(self) -> Any:
        """AdamW, the language model at its own rate; warm-up and cosine decay of both."""
        config = self.config
        others = torch.nn.ModuleList(part for name, part in self.network.named_children() if name != "lm")
        groups = [
            {**group, "lr": rate}
            for part, rate in ((others, config.adapter_learning_rate), (self.network.lm, config.lm_learning_rate))
            if any(p.requires_grad for p in part.parameters())
            for group in parameter_groups(part, config.weight_decay)
        ]
        optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.999))
        steps = planned_steps(self.trainer)
        warmup = min(round(config.warmup * steps), steps - 1)
        schedule = warmup_cosine(optimizer, total_steps=steps, warmup_steps=warmup)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
