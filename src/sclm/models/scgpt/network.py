"""The scGPT encoder in plain PyTorch (Cui et al., 2024).

B cells · L tokens · D width · H heads · V vocabulary · N batches

What differs from the original: attention is PyTorch's scaled_dot_product_attention, without a mask where no cell is padded; the
statistics of domain-specific normalisation belong to each cell's own batch, not to that of the first cell, and padding does not
enter them; the encoder of whole bins is computed once for each bin; where only ``<cls>`` is wanted, the last layer
computes only that position.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import nn
from torch.nn import functional

from sclm.models.scgpt.heads import LabelEncoder, decoders, reversed_gradient

if TYPE_CHECKING:
    from sclm.models.scgpt.config import ScGPTConfig

_LARGEST = 512.0  # values above are cut
_NORM_EPS = 6.1e-5


class Outputs(NamedTuple):
    """What the heads say; None where a network lacks the head.

    Attributes
    ----------
    states
        (B, L, D) after the last layer.
    cell
        (B, D): the state of position 0.
    expression, expressed
        (B, L) predicted values, and probabilities that they are not zero.
    mvc, mvc_expressed
        (B, L) the same from the cell's vector.
    classes
        (B, C) logits of classes.
    batches
        (B, N) logits of batches, with reversed gradient.
    """

    states: torch.Tensor
    cell: torch.Tensor
    expression: torch.Tensor | None = None
    expressed: torch.Tensor | None = None
    mvc: torch.Tensor | None = None
    mvc_expressed: torch.Tensor | None = None
    classes: torch.Tensor | None = None
    batches: torch.Tensor | None = None


class GeneEncoder(nn.Module):
    """Embedding of genes, normalised; the row of ``<pad>`` starts at zero and stays."""

    def __init__(self, n_tokens: int, width: int, pad: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(n_tokens, width, padding_idx=pad)
        nn.init.uniform_(self.embedding.weight, -0.1, 0.1)
        with torch.no_grad():
            self.embedding.weight[pad] = 0
        self.norm = nn.LayerNorm(width)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """(…, D) of ids (…) int64."""
        return self.norm(self.embedding(ids))


class ValueEncoder(nn.Module):
    """Embedding of a value, any number up to 512: two linear layers with ReLU between, normalised."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.linear1 = nn.Linear(1, width)
        self.linear2 = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """(B, L, D) of values (B, L); whole values are encoded once each when nothing is learnt."""
        if self.training or values.numel() < _LARGEST:
            return self._encode(values)
        low, high = values.min(), values.max()
        if high - low >= _LARGEST or not torch.equal(values, values.round()):
            return self._encode(values)
        table = self._encode(torch.arange(int(low), int(high) + 1, device=values.device, dtype=values.dtype))
        return functional.embedding((values - low).long(), table)

    def _encode(self, values: torch.Tensor) -> torch.Tensor:
        hidden = functional.relu(self.linear1(values.clamp(max=_LARGEST).unsqueeze(-1)))
        return self.dropout(self.norm(self.linear2(hidden)))


class FeatureNorm(nn.Module):
    """Batch normalisation of the summed input, with one set of running statistics for each of N batches of cells.

    Parameters
    ----------
    n_sets
        N.
    width
        D.
    affine
        Whether a scale and a shift are learnt.
    """

    mean: torch.Tensor
    variance: torch.Tensor

    def __init__(self, n_sets: int, width: int, *, affine: bool) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(n_sets, width))
        self.register_buffer("variance", torch.ones(n_sets, width))
        self.scale = nn.Parameter(torch.ones(width)) if affine else None
        self.shift = nn.Parameter(torch.zeros(width)) if affine else None

    def forward(self, x: torch.Tensor, real: torch.Tensor, sets: torch.Tensor | None) -> torch.Tensor:
        """Normalise inputs (B, L, D) by the statistics of each cell's set (B,); without sets by those of all sets together.

        In training the statistics are those of the batch of cells; but where there are several sets and the cells' are not named, as
        while types are learnt on top of an integrating network, they stay as they are: those of no set can be learnt.
        """
        if self.training and (sets is not None or len(self.mean) == 1):
            if sets is None:
                sets = x.new_zeros(len(x), dtype=torch.long)
            x = self._learn(x, real, sets)
        else:
            if sets is None:
                mean = self.mean.mean(dim=0)  # (D,)
                variance = (self.variance + self.mean**2).mean(dim=0) - mean**2
            else:
                mean, variance = self.mean[sets][:, None, :], self.variance[sets][:, None, :]  # (B, 1, D)
            x = (x - mean) * torch.rsqrt(variance + _NORM_EPS)
        return x if self.scale is None or self.shift is None else x * self.scale + self.shift

    def _learn(self, x: torch.Tensor, real: torch.Tensor, sets: torch.Tensor) -> torch.Tensor:
        out = torch.zeros_like(x)
        for number in sets.unique().tolist():
            here = (sets == number)[:, None] & real  # (B, L)
            # one batch norm over the (tokens of this batch, D); its running statistics are changed in place
            out[here] = functional.batch_norm(
                x[here], self.mean[number], self.variance[number], training=True, momentum=0.1, eps=_NORM_EPS
            )
        return out


class Attention(nn.Module):
    """Multi-head self-attention; rows of ``qkv`` are all queries, all keys, all values, heads contiguous in each."""

    def __init__(self, width: int, n_heads: int, dropout: float) -> None:
        super().__init__()
        self.n_heads, self.dropout = n_heads, dropout
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def heads(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Queries, keys, values (B, H, L, D / H) of states (B, L, D)."""
        n, length, width = x.shape
        split = self.qkv(x).view(n, length, 3, self.n_heads, width // self.n_heads).permute(2, 0, 3, 1, 4)
        return split[0], split[1], split[2]

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None, *, first: bool = False) -> torch.Tensor:
        """(B, L, D), or (B, 1, D) of position 0 where `first`; mask (B, 1, 1, L) True at real keys."""
        query, key, value = self.heads(x)
        if first:
            query = query[:, :, :1]
        dropout = self.dropout if self.training else 0.0
        context = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout)
        return self.out(context.transpose(1, 2).flatten(2))  # (B, H, L, D / H) → (B, L, H, D / H) → (B, L, D)


class Layer(nn.Module):
    """Attention and feed-forward, each normalised after its residual sum."""

    def __init__(self, config: ScGPTConfig) -> None:
        super().__init__()
        self.attention = Attention(config.width, config.n_heads, config.attention_dropout)
        self.norm1 = nn.LayerNorm(config.width)
        self.linear1 = nn.Linear(config.width, config.feed_forward)
        self.linear2 = nn.Linear(config.feed_forward, config.width)
        self.norm2 = nn.LayerNorm(config.width)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None, *, first: bool = False) -> torch.Tensor:
        """States after the layer, of all positions or of the first."""
        context = self.attention(x, mask, first=first)
        return self.after(x[:, :1] if first else x, context)

    def after(self, x: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        """The rest of the layer, of states and what attention found for them."""
        x = self.norm1(x + self.dropout(context))
        return self.norm2(x + self.dropout(self.linear2(self.dropout(functional.relu(self.linear1(x))))))


class ScGPTNetwork(nn.Module):
    """Encoder and heads.

    Parameters
    ----------
    config
        Sizes and heads.
    n_tokens
        V.
    pad
        Token id of padding.
    """

    panel: torch.Tensor | None

    def __init__(self, config: ScGPTConfig, n_tokens: int, pad: int) -> None:
        super().__init__()
        self.config, self.pad_id = config, pad
        width = config.width
        # genes that are read, where zeros are: token ids in increasing order
        self.register_buffer("panel", torch.zeros(config.panel_size, dtype=torch.long) if config.panel_size else None)
        self.genes = GeneEncoder(n_tokens, width, pad)
        self.values = ValueEncoder(width, config.dropout)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.n_layers))
        self.flags = nn.Embedding(config.flags, width) if config.flags else None
        self.perturbed = (
            nn.Embedding(config.perturbation_flags, width, padding_idx=0) if config.perturbation_flags else None
        )
        n_batches = len(config.batches)
        kind = config.input_norm
        self.norm = (
            None if kind == "none" else FeatureNorm(n_batches if kind == "domain" else 1, width, affine=kind == "batch")
        )
        self.batches = LabelEncoder(n_batches, width) if config.batch_labels else None
        self.modalities = LabelEncoder(config.n_modalities, width) if config.n_modalities else None
        self.decoders = decoders(config)

    def inputs(
        self,
        ids: torch.Tensor,
        values: torch.Tensor,
        real: torch.Tensor,
        *,
        batches: torch.Tensor | None = None,
        flags: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The sum (B, L, D) that the first layer reads, and the gene embeddings (B, L, D) in it."""
        genes = self.genes(ids)
        x = genes + self.values(values)
        if flags is not None and self.perturbed is not None:
            x = x + self.perturbed(flags)
        if self.norm is not None:
            x = self.norm(x, real, batches if self.config.input_norm == "domain" else None)
        return x, genes

    def encode(self, x: torch.Tensor, real: torch.Tensor, n_layers: int, *, only_first: bool = False) -> torch.Tensor:
        """States after `n_layers` layers; (B, 1, D) of position 0 where `only_first`."""
        mask = attention_mask(real)
        for number in range(n_layers):
            x = self.layers[number](x, mask, first=only_first and number == n_layers - 1)
        return x[:, :1] if only_first else x

    def forward(
        self,
        ids: torch.Tensor,
        values: torch.Tensor,
        real: torch.Tensor,
        *,
        batches: torch.Tensor | None = None,
        modalities: torch.Tensor | None = None,
        flags: torch.Tensor | None = None,
    ) -> Outputs:
        """All heads.

        Parameters
        ----------
        ids
            (B, L) int64 token ids; position 0 gives the cell's vector.
        values
            (B, L) float32.
        real
            (B, L) bool, False at padding.
        batches
            (B,) int64 batch of each cell.
        modalities
            (B, L) int64 modality of each token.
        flags
            (B, L) int64: 1 at perturbed genes.

        Returns
        -------
        The :class:`Outputs`.
        """
        x, genes = self.inputs(ids, values, real, batches=batches, flags=flags)
        return self.read(self.encode(x, real, len(self.layers)), genes, values, batches=batches, modalities=modalities)

    def read(
        self,
        states: torch.Tensor,
        genes: torch.Tensor,
        values: torch.Tensor,
        *,
        batches: torch.Tensor | None = None,
        modalities: torch.Tensor | None = None,
    ) -> Outputs:
        """What the heads say of states (B, L, D), gene embeddings (B, L, D) and input values (B, L)."""
        cell = states[:, 0]
        found: dict[str, torch.Tensor | None] = {}
        labels = self._labels(states, batches, modalities)  # (B, L, D)
        heads = self.decoders
        if self.config.expression == "mlp":
            read = states if labels is None else torch.cat([states, labels], dim=-1)
            found["expression"], found["expressed"] = heads["expression"](read)
        elif self.config.expression == "affine":
            found["expression"] = heads["expression"](states, values)
        if "mvc" in heads:
            asked = genes if self.modalities is None or labels is None else torch.cat([genes, labels], dim=-1)
            whole = (
                cell if labels is None else torch.cat([cell, labels[:, 0]], dim=-1)
            )  # and the modality of position 0
            found["mvc"], found["mvc_expressed"] = heads["mvc"](whole, asked)
        if "classes" in heads:
            found["classes"] = heads["classes"](cell)
        if "adversary" in heads:
            found["batches"] = heads["adversary"](reversed_gradient(cell))
        return Outputs(states, cell, **found)

    def from_cells(
        self, cell: torch.Tensor, genes: torch.Tensor, batches: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Values (B, M) of any genes (B, M, D), and probabilities of being expressed, from vectors of cells (B, D) and their batch (B,)."""
        whole = cell if self.batches is None else torch.cat([cell, self.batches(batches)], dim=-1)
        return self.decoders["mvc"](whole, genes)

    def _labels(
        self, states: torch.Tensor, batches: torch.Tensor | None, modalities: torch.Tensor | None
    ) -> torch.Tensor | None:
        """Embedding of batch and modality (B, L, D) that the decoders read beside the states."""
        labels: torch.Tensor | None = None
        if self.batches is not None:
            if batches is None:
                raise ValueError("The decoders of this network read the batch of each cell, found none: pass batches=.")
            labels = self.batches(batches)[:, None, :].expand_as(states)
        if self.modalities is not None:
            if modalities is None:
                raise ValueError(
                    "The decoders of this network read a modality for each token, found none: pass modalities=."
                )
            labels = self.modalities(modalities) if labels is None else labels + self.modalities(modalities)
        return labels


def attention_mask(real: torch.Tensor) -> torch.Tensor | None:
    """Mask (B, 1, 1, L) of the keys that may be attended to, None where none is padded."""
    return None if bool(real.all()) else real[:, None, None, :]


def average_pool(states: torch.Tensor) -> torch.Tensor:
    """Mean (B, D) over all positions of states (B, L, D), padding included: the original's "avg-pool"."""
    return states.mean(dim=1)


def weighted_pool(states: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Sum (B, D) of states (B, L, D) times their values (B, L), of unit length: the original's "w-pool"."""
    return functional.normalize(torch.einsum("bld,bl->bd", states, values), dim=1)


def raw_attention(layer: Layer, x: torch.Tensor) -> torch.Tensor:
    """Products (B, H, L, L) of queries and keys, before scaling and softmax, of the states (B, L, D) that a layer reads."""
    query, key, _ = layer.attention.heads(x)
    return query @ key.transpose(2, 3)
