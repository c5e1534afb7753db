"""The network of Geneformer: BERT with positions for ranks, from transformers.

B cells · L tokens · D width · H heads · V vocabulary · C classes
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import torch
from transformers import BertConfig, BertForMaskedLM, BertForSequenceClassification, BertForTokenClassification

from sclm.models.encoder_config import EncoderConfig
from sclm.nn import seeded

# Head → class of transformers, as the original's config.json names it.
HEADS: dict[str, Any] = {
    "masked": BertForMaskedLM,
    "cell": BertForSequenceClassification,
    "gene": BertForTokenClassification,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class GeneformerConfig(EncoderConfig):
    """Settings of the network and of its pre-training."""

    layers: int = 4
    width: int = 128
    heads: int = 4
    feed_forward: int = 256
    max_length: int = 1024  # positions; tokens of a cell, special tokens included
    activation: str = "relu"  # of the feed-forward layers and the masked head
    dropout: float = 0.02
    attention_dropout: float = (
        0.0  # torch's fused attention on the CPU knows none; the published models had that of dropout
    )
    token_types: int = 2  # BERT's segments; the first is always used
    norm_epsilon: float = 1e-12
    initializer_range: float = 0.02

    head: str = "masked"  # "cell": classes of cells, "gene": classes of genes; from fine-tuned checkpoints
    classes: tuple[str, ...] = ()  # their names

    masked_share: float = 0.15  # of a cell's genes that are to be recovered; BERT's 80 % <mask>, 10 % random, 10 % kept
    learning_rate: float = 1e-3  # Theodoris et al. (2023)
    weight_decay: float = 0.001
    warmup: float = 0.1  # share of the steps
    max_tokens: int = 8192  # of a batch, padding included
    max_epochs: int = 30
    patience: int = 5  # epochs without a better loss of held-out cells
    validation_share: float = 0.1

    PRESETS: ClassVar[dict[str, dict[str, Any]]] = {
        "tiny": {
            "layers": 2, "width": 64, "heads": 2, "feed_forward": 128, "max_length": 512, "dropout": 0.0,
            "learning_rate": 3e-3, "max_tokens": 2048, "max_epochs": 8,
        },
        "small": {},
        "V1-10M": {
            "layers": 6, "width": 256, "heads": 4, "feed_forward": 512, "max_length": 2048, "attention_dropout": 0.02,
            "max_epochs": 3,
        },
        "V2-104M": {
            "layers": 12, "width": 768, "heads": 12, "feed_forward": 3072, "max_length": 4096, "dropout": 0.1,
            "attention_dropout": 0.1, "learning_rate": 2e-4, "max_epochs": 3,
        },
        "V2-316M": {
            "layers": 18, "width": 1152, "heads": 18, "feed_forward": 4608, "max_length": 4096, "dropout": 0.1,
            "attention_dropout": 0.1, "learning_rate": 2e-4, "max_epochs": 3,
        },
    }  # fmt: skip

    def __post_init__(self) -> None:
        if self.head not in HEADS:
            raise ValueError(f"head must be one of {', '.join(map(repr, HEADS))}, found {self.head!r}.")
        if self.width % self.heads:
            raise ValueError(f"width must be a multiple of heads={self.heads}, found {self.width}.")
        if (self.head == "masked") == bool(self.classes):
            raise ValueError(
                f"classes belong to the heads 'cell' and 'gene', found {self.head!r} with {len(self.classes)}."
            )
        if not 0 < self.masked_share < 1:
            raise ValueError(f"masked_share must lie between 0 and 1, found {self.masked_share}.")


class GeneformerNetwork(torch.nn.Module):
    r"""BERT after Devlin et al. (2019): post-norm layers over genes in rank order, and a head.

    :math:`x^0_i = \mathrm{LN}(E_{t_i} + P_i + T_0)`; each layer :math:`x \leftarrow \mathrm{LN}(x + W_o\,\mathrm{attention}(x))`,
    :math:`x \leftarrow \mathrm{LN}(x + W_2\,\mathrm{relu}(W_1 x))`.

    Parameters
    ----------
    config
        Its settings.
    n_tokens
        V.
    seed
        Of the first weights.
    """

    bert_model: Any  # of transformers, with a head

    def __init__(self, config: GeneformerConfig, n_tokens: int, seed: int = 0) -> None:
        super().__init__()
        self.config = config
        with seeded(seed):
            self.bert_model = HEADS[config.head](bert_config(config, n_tokens))

    def borrowed_names(self) -> set[str]:
        """The masked head's output weights are those of the embeddings: stored once."""
        tied = ("weight", "bias") if self.config.head == "masked" else ()
        return {f"bert_model.cls.predictions.decoder.{name}" for name in tied}

    def states(self, ids: torch.Tensor, real: torch.Tensor, layer: int, *, first_only: bool = False) -> torch.Tensor:
        """States after `layer` layers.

        Parameters
        ----------
        ids
            (B, L) int64.
        real
            (B, L) bool, False at padding.
        layer
            0 … layers.
        first_only
            Only those of the first token: the last layer then asks for one query a cell.

        Returns
        -------
        (B, L, D), or (B, 1, D).
        """
        bert = self.bert_model.bert
        x = bert.embeddings(input_ids=ids)  # (B, L, D)
        mask = None if bool(real.all()) else real[:, None, None, :]  # (B, 1, 1, L)
        blocks = list(bert.encoder.layer)[:layer]
        if first_only and blocks:
            for block in blocks[:-1]:
                x = block(x, mask)
            return _first(blocks[-1], x, mask)
        for block in blocks:
            x = block(x, mask)
        return x[:, :1] if first_only else x

    def attention(self, ids: torch.Tensor, real: torch.Tensor, layer: int) -> torch.Tensor:
        """Attention (B, L, L) of a layer, 1 … layers, averaged over heads: from each token (rows) to each (columns)."""
        x = self.states(ids, real, layer - 1)
        part = self.bert_model.bert.encoder.layer[layer - 1].attention.self
        n = part.num_attention_heads
        query, key = _heads(part.query(x), n), _heads(part.key(x), n)
        mean = x.new_zeros(len(ids), ids.shape[1], ids.shape[1])
        for head in range(n):  # one at a time: all of them take H times the memory
            scores = query[:, head] @ key[:, head].transpose(1, 2) * part.attention_head_size**-0.5  # (B, L, L)
            mean += scores.masked_fill(~real[:, None, :], -torch.inf).softmax(dim=-1)
        return mean / n

    def masked_logits(self, states: torch.Tensor) -> torch.Tensor:
        """Logits (…, V) of the token at each position from last states (…, D)."""
        return self.bert_model.cls(states)

    def cell_logits(self, first: torch.Tensor) -> torch.Tensor:
        """Logits (B, C) of the cell's class from last states (B, 1 or L, D): the first token's, whatever the version."""
        model = self.bert_model
        return model.classifier(model.dropout(model.bert.pooler(first)))

    def gene_logits(self, states: torch.Tensor) -> torch.Tensor:
        """Logits (B, L, C) of each gene's class from last states (B, L, D)."""
        return self.bert_model.classifier(self.bert_model.dropout(states))


def _first(block: Any, x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """State (B, 1, D) of the first token after a layer: keys and values of all tokens, one query."""
    part, first = block.attention.self, x[:, :1]
    n = part.num_attention_heads
    query, key, value = _heads(part.query(first), n), _heads(part.key(x), n), _heads(part.value(x), n)
    drop = part.dropout.p if block.training else 0.0
    found = torch.nn.functional.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, dropout_p=drop
    )  # (B, H, 1, D / H)
    mixed = block.attention.output(found.transpose(1, 2).reshape(first.shape), first)  # (B, 1, D)
    return block.output(block.intermediate(mixed), mixed)


def _heads(x: torch.Tensor, n_heads: int) -> torch.Tensor:
    """(B, L, D) → (B, H, L, D / H)."""
    return x.view(x.shape[0], x.shape[1], n_heads, -1).transpose(1, 2)


def bert_config(config: GeneformerConfig, n_tokens: int) -> BertConfig:
    """The settings as transformers names them, with attention by ``scaled_dot_product_attention``."""
    names = dict(enumerate(config.classes))
    classes: dict[str, Any] = {"id2label": names, "label2id": {name: i for i, name in names.items()}} if names else {}
    settings: dict[str, Any] = {"attn_implementation": "sdpa"} | classes
    return BertConfig(
        vocab_size=n_tokens,
        hidden_size=config.width,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        intermediate_size=config.feed_forward,
        hidden_act=config.activation,
        hidden_dropout_prob=config.dropout,
        attention_probs_dropout_prob=config.attention_dropout,
        max_position_embeddings=config.max_length,
        type_vocab_size=config.token_types,
        layer_norm_eps=config.norm_epsilon,
        initializer_range=config.initializer_range,
        pad_token_id=0,
        **settings,
    )
