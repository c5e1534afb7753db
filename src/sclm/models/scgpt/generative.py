"""Generative pre-training: genes that a cell's other genes are asked for (Cui et al., 2024).

A cell's genes are split in two. Perceived ones (P) have their values and attend to one another; generated ones (G) have a flag
instead of a value, and each attends to all of P and to itself, never to another of G. In the original code the stream of G has no
output projection of the attention: its context goes straight into the residual sum. Published weights were trained so, and so it is here.

B cells · P, G tokens of either kind · D width · H heads
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch.nn import functional

from sclm.models.scgpt.network import attention_mask

if TYPE_CHECKING:
    from sclm.models.scgpt.network import Layer, ScGPTNetwork


class Written(NamedTuple):
    """What generative pre-training compares.

    Attributes
    ----------
    perceived, generated
        (B, P, D) and (B, G, D) states after the last layer.
    cell
        (B, D): the state of the first perceived token.
    perceived_values, generated_values
        (B, P) and (B, G) values by the expression decoder.
    mvc
        (B, P + G) values of all genes from the cell's vector; None without that head.
    """

    perceived: torch.Tensor
    generated: torch.Tensor
    cell: torch.Tensor
    perceived_values: torch.Tensor
    generated_values: torch.Tensor
    mvc: torch.Tensor | None


def generate(
    network: ScGPTNetwork,
    ids: torch.Tensor,
    values: torch.Tensor,
    real: torch.Tensor,
    asked: torch.Tensor,
    *,
    cell: torch.Tensor | None = None,
) -> Written:
    """Predict the values of genes from the other genes of the cell.

    Parameters
    ----------
    network
        With flags and an expression decoder.
    ids, values, real
        (B, P) int64 perceived tokens with ``<cls>`` first, float32, bool False at padding.
    asked
        (B, G) int64 genes to write; padded ones are written too, and ignored.
    cell
        (B, D) vectors that stand at position 0 instead of the input there: the second pass of training.

    Returns
    -------
    The :class:`Written`.

    Raises
    ------
    ValueError
        If the network has no flags.
    """
    if network.flags is None:
        raise ValueError("The network has no flags: it was not trained to write genes. Build it with flags=2.")
    x, genes = network.inputs(ids, values, real)
    if cell is not None:
        x = torch.cat([cell[:, None, :], x[:, 1:]], dim=1)
    asked_genes = network.genes(asked)
    y = asked_genes + network.flags.weight[1]
    mask = attention_mask(real)
    for layer in network.layers:
        x, y = _both(layer, x, y, mask)  # type: ignore[arg-type]
    decoder = network.decoders["expression"]
    mvc = (
        network.decoders["mvc"](x[:, 0], torch.cat([genes, asked_genes], dim=1))[0]
        if "mvc" in network.decoders
        else None
    )
    return Written(x, y, x[:, 0], decoder(x)[0], decoder(y)[0], mvc)


def _both(
    layer: Layer, x: torch.Tensor, y: torch.Tensor, mask: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Perceived and generated states after a layer."""
    attention = layer.attention
    query, key, value = attention.heads(x)
    dropout = attention.dropout if attention.training else 0.0
    context = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout)
    own_query, own_key, own_value = attention.heads(y)  # (B, H, G, D / H)
    scale = own_query.shape[-1] ** -0.5
    scores = own_query @ key.transpose(2, 3)  # (B, H, G, P)
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    itself = (own_query * own_key).sum(dim=-1, keepdim=True)  # (B, H, G, 1)
    weights = functional.dropout((scale * torch.cat([scores, itself], dim=-1)).softmax(dim=-1), dropout)
    found = weights[..., :-1] @ value + weights[..., -1:] * own_value
    return (
        layer.after(x, attention.out(context.transpose(1, 2).flatten(2))),
        layer.after(y, found.transpose(1, 2).flatten(2)),  # no output projection
    )
