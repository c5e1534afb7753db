"""The network: genes of a cell → encoder → translator along the sequence → decoder → one value a protein.

Legend of shapes: ``B`` cells · ``L`` positions of genes · ``P`` positions of proteins · ``D`` width.

After Liu et al., Nat Biomed Eng 2025 (scTranslator), with the sizes of the published checkpoints as defaults. Two linear maps
of the published files, ``enc.to_out`` and ``dec.to_vector``, are never used there and do not exist here.
"""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from sclm.models.neural import NeuralConfig
from sclm.models.sctranslator.attention import FavorAttention

if TYPE_CHECKING:
    from sclm.models.sctranslator.tokens import Batch


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScTranslatorConfig(NeuralConfig):
    """Settings of a scTranslator model; the defaults of the architecture are those of the published checkpoints."""

    gene_ids: int = 85_500  # rows of the encoder's embedding; id 0 is padding
    protein_ids: int = 85_500  # rows of the decoder's
    gene_frame: int = 20_000  # L at most
    protein_frame: int = 1_000  # P at most
    translator_width: int = 4_473  # √(20000 · 1000), rounded up
    width: int = 128  # D
    encoder_layers: int = 2
    decoder_layers: int = 2
    heads: int = 8
    head_width: int = 64  # independent of the width: 8 × 64 = 512 inside the attention
    features: int = 266  # int(64 · ln 64)
    feed_forward: int = 512
    dropout: float = 0.1  # of the translator
    gene_dropout: float = (
        0.0  # share of a training cell's genes that are set to its lowest value, as sequencing loses them
    )
    padding: Literal["original", "masked"] = (
        "original"  # see FavorAttention; published weights were trained with "original"
    )
    order: Literal["data", "vocabulary"] = "data"  # of the genes in the frame: the translator knows genes by position
    scale: str = "minmax"  # of the proteins, see sclm.cells.scale_proteins
    proteins: tuple[str, ...] = ()  # that it was trained on; () for published weights, which are asked by name
    # Training. Small data overfit a table of embeddings quickly: the best epoch on held-out cells is kept.
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    batch_size: int = 32  # at most a tenth of the training cells
    max_epochs: int = 60
    patience: int = 10
    validation_share: float = 0.15  # of the training cells, for early stopping

    PRESETS: ClassVar[dict[str, dict[str, Any]]] = {
        # Gene-order invariant, no padding; frames, ids and the translator's width follow from the data.
        "tiny": {
            "gene_frame": 64, "width": 16, "encoder_layers": 1, "decoder_layers": 1, "heads": 2, "head_width": 8,
            "features": 16, "feed_forward": 32, "padding": "masked", "order": "vocabulary", "scale": "auto",
            "max_epochs": 4, "patience": 4,
        },
        "small": {
            "gene_frame": 256, "width": 32, "encoder_layers": 1, "decoder_layers": 1, "heads": 2, "head_width": 16,
            "features": 32, "feed_forward": 128, "padding": "masked", "order": "vocabulary", "scale": "auto",
            "dropout": 0.3, "gene_dropout": 0.2, "learning_rate": 5e-4, "weight_decay": 0.05,
        },
        "published": {},
    }  # fmt: skip

    def __post_init__(self) -> None:
        if self.padding not in ("original", "masked"):
            raise ValueError(f"padding must be 'original' or 'masked', found {self.padding!r}.")
        if self.order not in ("data", "vocabulary"):
            raise ValueError(f"order must be 'data' or 'vocabulary', found {self.order!r}.")


def translator_width(gene_frame: int, protein_frame: int) -> int:
    """Hidden units of the translator: the geometric mean of both frames, rounded up, as in the original."""
    return math.ceil(gene_frame / math.sqrt(gene_frame / protein_frame))


class PerformerLayer(nn.Module):
    """Pre-norm attention and feed-forward, each added to its input."""

    def __init__(self, config: ScTranslatorConfig, seed: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(config.width), nn.LayerNorm(config.width)
        self.attention = FavorAttention(config, seed)
        self.up = nn.Linear(config.width, config.feed_forward)
        self.down = nn.Linear(config.feed_forward, config.width)

    def forward(self, states: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
        """(B, L, D) → (B, L, D)."""
        states = states + self.attention(self.norm1(states), real)
        return states + self.down(F.gelu(self.up(self.norm2(states))))


class Translator(nn.Module):
    """Two layers along the sequence, from positions of genes to positions of proteins, the same for every channel.

    It knows a gene by its position alone, so the result depends on the order of the genes and, with ``padding="original"``,
    on what stands at padded positions. Shorter sequences use the first columns and rows: positions that are left out count
    as zero.
    """

    def __init__(self, config: ScTranslatorConfig) -> None:
        super().__init__()
        self.first = nn.Linear(config.gene_frame, config.translator_width)
        self.second = nn.Linear(config.translator_width, config.protein_frame)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, states: torch.Tensor, n_proteins: int) -> torch.Tensor:
        """(B, L, D) → (B, P, D)."""
        channels = states.transpose(1, 2)  # (B, D, L)
        hidden = F.linear(channels, self.first.weight[:, : channels.shape[-1]], self.first.bias)
        hidden = self.dropout(F.relu(hidden))
        found = F.linear(hidden, self.second.weight[:n_proteins], self.second.bias[:n_proteins])
        return found.transpose(1, 2)  # (B, D, P) → (B, P, D)


class ScTranslatorNetwork(nn.Module):
    """Encoder, translator, decoder.

    Parameters
    ----------
    config
        Sizes and the treatment of padding.
    seed
        Of the random features of the attention. Weights are drawn from torch's generator: build it under
        :func:`sclm.nn.seeded`.
    """

    def __init__(self, config: ScTranslatorConfig, seed: int = 0) -> None:
        super().__init__()
        self.masked = config.padding == "masked"
        self.value = nn.Linear(1, config.width)
        self.gene = nn.Embedding(config.gene_ids, config.width, padding_idx=0)
        self.encoder = nn.ModuleList(PerformerLayer(config, seed + i) for i in range(config.encoder_layers))
        self.translator = Translator(config)
        self.protein = nn.Embedding(config.protein_ids, config.width, padding_idx=0)
        self.decoder = nn.ModuleList(
            PerformerLayer(config, seed + config.encoder_layers + i) for i in range(config.decoder_layers)
        )
        self.out = nn.Linear(config.width, 1)

    def encode(self, batch: Batch) -> torch.Tensor:
        """Encodings of the genes, (B, L, D)."""
        states = self.value(batch.values[..., None]) + self.gene(batch.gene_ids)  # (B, L, 1) → (B, L, D)
        for layer in self.encoder:
            states = layer(states, batch.gene_real)
        return states.masked_fill(~batch.gene_real[..., None], 0.0) if self.masked else states

    def translate(self, encodings: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Encodings at the positions of the proteins, (B, P, D), before the decoder."""
        return self.translator(encodings, batch.protein_ids.shape[1])

    def decode(self, translated: torch.Tensor, batch: Batch) -> torch.Tensor:
        """One value a protein, (B, P); a batch of one cell keeps its axis."""
        states = translated + self.protein(batch.protein_ids)
        for layer in self.decoder:
            states = layer(states, batch.protein_real)
        return self.out(states)[..., 0]  # (B, P, 1) → (B, P)

    def forward(self, batch: Batch) -> torch.Tensor:
        """(B, P) of a batch; values at padded positions mean nothing."""
        return self.decode(self.translate(self.encode(batch), batch), batch)


def cells_at_once(config: ScTranslatorConfig, n_genes: int, budget: int = 1 << 26) -> int:
    """Cells in a batch of inference whose random features take at most `budget` numbers (256 MiB), at least one."""
    return max(1, budget // (config.heads * config.features * max(n_genes, config.protein_frame)))
