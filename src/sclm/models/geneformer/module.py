"""The training system: some genes of each cell are hidden, and the network says which they are.

B cells · L tokens · M hidden genes · V vocabulary
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import lightning.pytorch as pl
import numpy as np
import torch

from sclm.training import adamw, planned_steps

if TYPE_CHECKING:
    from sclm.cells import Ragged
    from sclm.models.geneformer.network import GeneformerConfig, GeneformerNetwork

KEPT = -100  # target of tokens that are not asked for
_MASK = 1  # id of <mask> in every version


class Batch(NamedTuple):
    """Cells with hidden genes."""

    ids: torch.Tensor  # (B, L) int64, after masking
    real: torch.Tensor  # (B, L) bool, False at padding
    targets: torch.Tensor  # (B, L) int64: the gene where it is asked for, else KEPT


def masked_batch(tokens: Ragged, n_special: int, n_tokens: int, share: float, generator: np.random.Generator) -> Batch:
    """Hide genes after Devlin et al. (2019): each with probability `share`, at least one a cell.

    Of those, 80 % become ``<mask>``, 10 % a random gene and 10 % stay as they are. Special tokens are never hidden; the collator of the
    original knows ``<mask>`` and ``<pad>`` as special only, so that it may hide ``<cls>`` and ``<eos>`` too.

    Parameters
    ----------
    tokens
        Sequences of the cells, each with a gene.
    n_special
        Ids below are special.
    n_tokens
        V.
    share
        0 to 1.
    generator
        Of all draws.

    Returns
    -------
    The :class:`Batch`.
    """
    ids = tokens.pad(value=0).astype(np.int64)
    real = np.arange(ids.shape[1])[None, :] < tokens.lengths[:, None]
    gene = real & (ids >= n_special)
    draw = np.where(gene, generator.random(ids.shape), 2.0)
    hidden = draw < np.maximum(share, draw.min(axis=1, keepdims=True) + 1e-12)  # the lowest draw of a cell always
    hidden &= gene
    targets = np.where(hidden, ids, KEPT)
    how = generator.random(ids.shape)
    random = generator.integers(n_special, n_tokens, size=ids.shape)
    ids = np.where(hidden & (how < 0.8), _MASK, np.where(hidden & (how >= 0.9), random, ids))
    return Batch(torch.from_numpy(ids), torch.from_numpy(real), torch.from_numpy(targets))


def masked_loss(network: GeneformerNetwork, batch: Batch) -> torch.Tensor:
    """Mean cross-entropy of the hidden genes, nats; the head is asked at hidden positions only."""
    states = network.states(batch.ids, batch.real, network.config.layers)  # (B, L, D)
    asked = batch.targets != KEPT
    return torch.nn.functional.cross_entropy(network.masked_logits(states[asked]), batch.targets[asked])  # (M, V)


class GeneformerModule(pl.LightningModule):
    """Loss and optimiser of masked language modelling.

    Parameters
    ----------
    network
        With the masked head.
    config
        Learning rate, weight decay, warm-up.
    """

    def __init__(self, network: GeneformerNetwork, config: GeneformerConfig) -> None:
        super().__init__()
        self.network = network
        self.config = config

    def training_step(self, batch: Batch, index: int) -> torch.Tensor:
        """Nats a hidden gene."""
        return masked_loss(self.network, batch)

    def validation_step(self, batch: Batch, index: int) -> None:
        """The same on held-out cells, whose hidden genes are the same in every epoch, logged as ``validation_loss``."""
        n = int((batch.targets != KEPT).sum())
        self.log("validation_loss", masked_loss(self.network, batch), batch_size=n, sync_dist=True)

    def configure_optimizers(self) -> Any:
        """AdamW with warm-up and cosine decay."""
        return adamw(
            self,
            learning_rate=self.config.learning_rate,
            weight_decay=self.config.weight_decay,
            warmup=self.config.warmup,
            total_steps=planned_steps(self.trainer),
        )
