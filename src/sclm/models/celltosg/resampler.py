"""The resampler: a few virtual tokens for a language model, from the graph's vectors of what a cell expresses.

B cells · n genes of a cell · m context nodes of a cell · T types · K virtual tokens · D width of the graph · H heads · L width of
the language model · S = n + m + T keys
"""

from __future__ import annotations

import torch
from torch.nn import functional as F  # noqa: N812

from sclm.nn import seeded


class _CrossAttention(torch.nn.Module):
    """Pre-norm: queries look at keys, then each for itself through two linear layers."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.norm_query, self.norm_key = torch.nn.LayerNorm(width), torch.nn.LayerNorm(width)
        self.query, self.key_value = torch.nn.Linear(width, width), torch.nn.Linear(width, 2 * width)
        self.out = torch.nn.Linear(width, width)
        self.feed = torch.nn.Sequential(
            torch.nn.LayerNorm(width),
            torch.nn.Linear(width, 4 * width),
            torch.nn.GELU(),
            torch.nn.Linear(4 * width, width),
        )

    def forward(
        self, queries: torch.Tensor, keys: torch.Tensor, real: torch.Tensor, want: bool
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Queries (B, K, D) after looking at keys (B, S, D) that are real (B, S); attention (B, K, S) where it is wanted."""
        b, k, d = queries.shape
        normed = self.norm_key(keys)
        q = self.query(self.norm_query(queries)).view(b, k, self.heads, -1).transpose(1, 2)  # (B, H, K, D / H)
        key, value = (
            self.key_value(normed).view(b, keys.shape[1], 2, self.heads, -1).permute(2, 0, 3, 1, 4)
        )  # (B, H, S, D / H)
        mask = real[:, None, None, :]  # (B, 1, 1, S)
        attention = None
        if want:
            scores = (q @ key.transpose(-1, -2)) / q.shape[-1] ** 0.5
            weights = scores.masked_fill(~mask, float("-inf")).softmax(-1)  # (B, H, K, S)
            attention, seen = weights.mean(1), weights @ value
        else:
            seen = F.scaled_dot_product_attention(
                q, key, value, attn_mask=mask, dropout_p=self.dropout if self.training else 0.0
            )
        queries = queries + self.out(seen.transpose(1, 2).reshape(b, k, d))
        return queries + self.feed(queries), attention


class Resampler(torch.nn.Module):
    """K learned queries that look at the nodes of a cell's genes, at nodes around these, and at the mean of each type.

    Keys are h_v + MLP(weight) + what kind of key it is; two layers of cross-attention; then V = LayerNorm(W q) · g, where g, a
    learned number, starts at the root mean square of the language model's embeddings: virtual tokens are as loud as words.

    Parameters
    ----------
    width
        D, of the graph encoder.
    lm_width
        L, of the language model.
    rms
        Root mean square of the language model's input embeddings.
    tokens
        K.
    layers, heads
        Of cross-attention; `heads` must divide `width`.
    dropout
        Of attention, 0 to 1, in training.
    seed
        Of the first weights.

    Raises
    ------
    ValueError
        If a number is out of range.
    """

    def __init__(
        self,
        width: int,
        lm_width: int,
        *,
        rms: float,
        tokens: int = 8,
        layers: int = 2,
        heads: int = 4,
        dropout: float = 0.1,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if min(tokens, layers, heads) < 1 or width % heads:
            raise ValueError(
                f"tokens, layers and heads must be at least 1 and heads must divide width, found {tokens}, {layers}, {heads} "
                f"and width {width}."
            )
        if not rms > 0:
            raise ValueError(f"rms must be above 0, found {rms}.")
        self.tokens, self.lm_width = tokens, lm_width
        with seeded(seed):
            self.queries = torch.nn.Parameter(torch.randn(tokens, width))
            self.weigh = torch.nn.Sequential(torch.nn.Linear(1, width), torch.nn.GELU(), torch.nn.Linear(width, width))
            self.kind = torch.nn.Embedding(3, width)  # gene, context node, mean of a type
            self.layers = torch.nn.ModuleList([_CrossAttention(width, heads, dropout) for _ in range(layers)])
            self.project = torch.nn.Linear(width, lm_width)
        self.scale = torch.nn.Parameter(torch.tensor(float(rms)))

    def forward(
        self,
        states: torch.Tensor,
        type_ids: torch.Tensor,
        nodes: torch.Tensor,
        weights: torch.Tensor,
        context: torch.Tensor | None = None,
        context_weights: torch.Tensor | None = None,
        *,
        return_attention: bool = False,
    ) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """Virtual tokens of cells.

        Parameters
        ----------
        states
            (N, D) from the graph encoder.
        type_ids
            (N,) int64 type of each node, for the means of types: ``encoder.type_ids``.
        nodes
            (B, n) int64 nodes of the genes that each cell expresses most, -1 for none. Their order does not matter.
        weights
            (B, n) float32 how much, 0 to 1: log expression, 1 for the cell's highest gene.
        context, context_weights
            (B, m) int64 and float32: nodes around these genes and how near they are, 0 to 1, from
            :class:`~sclm.models.celltosg.neighbourhood.Neighbourhood`; -1 for none.
        return_attention
            Return how much each token looked at each key besides, for explanations.

        Returns
        -------
        (B, K, L) virtual tokens, which do not depend on the other cells. With ``return_attention=True`` a tuple of them and
        (B, K, S) attention, mean over layers and heads, rows sum to 1; keys are the genes, the context, the types, in this order.
        """
        keys, real = [], []
        pairs = (
            [(nodes, weights)]
            if context is None or context_weights is None
            else [(nodes, weights), (context, context_weights)]
        )
        for kind, (rows, weight) in enumerate(pairs):
            key = F.embedding(rows.clamp_min(0), states) + self.weigh(weight[..., None].to(states.dtype))  # (B, n, D)
            keys.append(key + self.kind.weight[kind])
            real.append(rows >= 0)
        means = type_means(states, type_ids) + self.kind.weight[2]  # (T, D)
        keys.append(means.expand(nodes.shape[0], -1, -1))
        real.append(torch.ones(nodes.shape[0], means.shape[0], dtype=torch.bool, device=nodes.device))
        all_keys, all_real = torch.cat(keys, 1), torch.cat(real, 1)  # (B, S, D), (B, S)
        queries = self.queries.expand(nodes.shape[0], -1, -1)  # (B, K, D)
        attentions = []
        for layer in self.layers:
            queries, attention = layer(queries, all_keys, all_real, return_attention)
            attentions.append(attention)
        projected = self.project(queries)
        result = F.layer_norm(projected, (self.lm_width,)) * self.scale  # (B, K, L)
        return (result, torch.stack(attentions).mean(0)) if return_attention else result


def type_means(states: torch.Tensor, type_ids: torch.Tensor) -> torch.Tensor:
    """Mean state of the nodes of each type, (T, D); types are numbered in the order in which their nodes come."""
    counts = torch.bincount(type_ids)
    sums = states.new_zeros(len(counts), states.shape[1]).index_add(0, type_ids, states)
    return sums / counts[:, None].to(states.dtype)
