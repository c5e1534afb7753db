"""The network: adapter, tokens of the whole cell, language model, and heads that name classes.

B cells · K gene positions · P soft tokens · T tokens of the text before them · L tokens · D width of the language model · V vocabulary
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from sclm.models.cell2text.adapters import CellTokens, MLPAdapter, PerceiverAdapter
from sclm.nn import PrefixLM, seeded

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sclm.models.cell2text.config import Cell2TextConfig
    from sclm.models.cell2text.tokens import Batch
    from sclm.nn import WordVocabulary


class Cell2TextNetwork(torch.nn.Module):
    """``[start][text before][soft tokens of genes][soft tokens of the cell][text behind][description]``.

    The encoder is no part of it: it is frozen, and its states come with the batch.

    Parameters
    ----------
    config
        Sizes.
    lm
        The language model.
    encoder_width
        E.
    cell_width
        Values of the whole cell that are read; 0 for none.
    n_types
        K log probabilities of types that stand behind these values; 0 for no token of the type.
    n_classes
        Classes of each head (cell type, tissue, disease); heads are only made where ``class_weight`` is above 0.
    seed
        Of the first weights.
    """

    def __init__(
        self,
        config: Cell2TextConfig,
        lm: PrefixLM,
        *,
        encoder_width: int,
        cell_width: int,
        n_types: int = 0,
        n_classes: Sequence[int] = (),
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.lm = lm
        rms = lm.rms
        with seeded(seed):
            if config.adapter == "mlp":
                self.adapter: torch.nn.Module = MLPAdapter(
                    encoder_width, config.adapter_width, lm.width, dropout=config.adapter_dropout, rms=rms
                )
            else:
                self.adapter = PerceiverAdapter(
                    encoder_width, lm.width, latents=config.latents, layers=config.latent_layers, heads=config.latent_heads,
                    dropout=config.adapter_dropout, rms=rms,
                )  # fmt: skip
            self.cell: CellTokens | None = None
            if cell_width:
                self.cell = CellTokens(
                    cell_width,
                    config.cell_width,
                    lm.width,
                    tokens=config.cell_tokens,
                    dropout=config.cell_dropout,
                    rms=rms,
                )
            self.types: torch.nn.Sequential | None = None
            if n_types:
                norm = torch.nn.LayerNorm(lm.width)
                torch.nn.init.constant_(norm.weight, rms)
                self.types = torch.nn.Sequential(torch.nn.Linear(n_types, lm.width), norm)
            self.cell_width = cell_width
            self.heads = torch.nn.ModuleList()
            if config.class_weight > 0:
                features = lm.width + (config.cell_width if cell_width else 0)
                self.heads.extend(torch.nn.Linear(features, n) for n in n_classes)

    def read(self, batch: Batch, before: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """What stands before the text of a batch, (B, T + P, D), and the scores of the heads, (B, classes) each.

        `before` (T,) int64 are the tokens of the text in front of the soft tokens.
        """
        genes = self.adapter(batch.states, batch.real)  # (B, K or Q, D)
        parts = [genes]
        pooled = genes.mean(dim=1)
        if self.cell is not None:
            token, hidden = self.cell(batch.cell[:, : self.cell_width])
            parts.append(token)
            pooled = torch.cat([pooled, hidden], dim=-1)
        if self.types is not None:
            parts.append(self.types(batch.cell[:, self.cell_width :])[:, None])  # (B, K) → (B, 1, D)
        if len(before):
            text = self.lm.embed_ids(before[None].expand(len(genes), -1))
            parts.insert(0, text.to(genes.dtype))
        return torch.cat(parts, dim=1), [head(pooled) for head in self.heads]

    def forward(self, batch: Batch, before: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Scores (B, L, V) of the next token at each token of the batch, and those of the heads."""
        prefix, classes = self.read(batch, before)
        return self.lm.logits(prefix, batch.ids), classes


def build_lm(config: Cell2TextConfig, vocabulary: WordVocabulary | None, *, seed: int, **loading: Any) -> PrefixLM:
    """The language model of a configuration: pretrained, with adapters or trained in full, or from scratch with a vocabulary.

    Parameters
    ----------
    config
        Which, and its sizes.
    vocabulary
        Of one from scratch.
    seed
        Of new weights.
    **loading
        For :meth:`~sclm.nn.PrefixLM.pretrained`.

    Returns
    -------
    The model.
    """
    if config.base_lm:
        full = config.tune == "full"
        lm = PrefixLM.pretrained(
            config.base_lm, lora_rank=0 if full else config.lora_rank, lora_dropout=config.lora_dropout,
            revision=config.base_revision or None, fingerprint=config.base_fingerprint, seed=seed, **loading,
        )  # fmt: skip
        if full:
            lm.lm.train_in_full()
        return lm
    if vocabulary is None:
        raise ValueError("a language model from scratch needs a vocabulary of words, found None.")
    return PrefixLM.from_scratch(
        vocabulary=vocabulary, width=config.width, layers=config.layers, heads=config.heads, seed=seed
    )
