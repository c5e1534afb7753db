"""The token decoder: the genes of a cell one after the other, behind the metadata, the depth and the programmes.

The sequence of a cell is ``[BOS] field₁ … field_F slot₁ … slot_S`` and then the tokens of
:class:`~sclm.models.pgl.tokens.GeneTokens` in the canonical order. The next token's distribution is that of independent genes
(:mod:`sclm.models.pgl.gene_base`), corrected by what the transformer has read so far; before training nothing is corrected.

Legend of shapes: ``B`` cells · ``F`` fields · ``S`` slots · ``L`` tokens · ``N`` positions · ``Q`` count levels · ``G`` genes ·
``V`` tokens of the vocabulary · ``D`` width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch.nn import functional as F  # noqa: N812

from sclm.models.pgl.gene_base import log_hazard, next_tokens, sequence_states
from sclm.models.pgl.tokens import GeneTokens
from sclm.nn import seeded

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sclm.models.pgl.network import Memberships, PGLNetwork

_POSITIONS = 256  # whose logits over all tokens stand in memory at once, where none are left out


class TokenBatch(NamedTuple):
    """A batch of cells with their genes as tokens."""

    fields: torch.Tensor  # (B, F) int64 row of each field's memberships, -1: left open
    asked: torch.Tensor  # (B, F) int64 training value to predict where the field was left open, -1: none
    values: torch.Tensor  # (B, S) float32 slot values
    bins: torch.Tensor  # (B, S) int64
    tokens: torch.Tensor  # (B, L) int64, padded with the end token
    lengths: torch.Tensor  # (B,) int64 with the end token
    hazards: torch.Tensor  # (B, Q, G) float32 of the base
    gene_levels: torch.Tensor  # (B, G) uint8 level of each gene, 0: not expressed
    positions: torch.Tensor  # (B, P) int64 tokens that count in the loss; P = 0: all


class GeneDecoder(torch.nn.Module):
    """Embeddings of genes, level markers and the end, tied to the output.

    Parameters
    ----------
    width
        D.
    n_genes
        G.
    seed
        Of the embeddings.
    """

    def __init__(self, width: int, n_genes: int, seed: int) -> None:
        super().__init__()
        self.vocabulary = GeneTokens(n_genes)
        with seeded(seed):
            self.embeddings = torch.nn.Parameter(0.5 * torch.randn(self.vocabulary.size, width))
        # At zero: the first predictions are those of the base.
        self.output = torch.nn.Parameter(torch.zeros(width, width))

    def embed(self, tokens: torch.Tensor) -> torch.Tensor:
        """Embeddings (…, D) of tokens (…)."""
        return F.embedding(tokens, self.embeddings)

    def logits(self, hidden: torch.Tensor, base: torch.Tensor) -> torch.Tensor:
        """Logits (N, V) of the next token from hidden states (N, D) and the logits (N, V) of the base."""
        return torch.addmm(base, (hidden @ self.output).to(base.dtype), self.embeddings.T.to(base.dtype))


def forward(
    network: PGLNetwork, batch: TokenBatch, memberships: list[Memberships]
) -> tuple[torch.Tensor, list[torch.Tensor], torch.Tensor]:
    """One pass over whole sequences, teacher-forced.

    Returns
    -------
    Log probabilities of all slots (B, S, Q') and of the values of each field (B, n_values), as the network without genes
    gives them, and the hidden states (B, L, D) before each token.
    """
    prefix, mean, spread = network.condition(batch.fields, memberships)
    slots = network.embed_levels(batch.values)
    genes = network.genes.embed(batch.tokens[:, :-1])
    hidden = network.body(torch.cat([prefix, slots, genes], dim=1))
    at_slots = hidden[:, network.n_fields : network.n_fields + network.n_slots].float()
    log_p = network.predict(mean, spread, batch.values, at_slots)
    return log_p, network.field_predictions(at_slots[:, 0]), hidden[:, network.n_fields + network.n_slots :]


def gene_nats(
    decoder: GeneDecoder, hidden: torch.Tensor | None, batch: TokenBatch, chunk: int = _POSITIONS
) -> torch.Tensor:
    """Negative log likelihood of each cell's tokens, nats: (B,).

    The softmax over all tokens is taken for ``batch.positions`` only, whose mean times the cell's length estimates the sum
    without bias, or, if there are none, for all positions, a few at a time.

    Parameters
    ----------
    decoder
        Embeddings and output.
    hidden
        (B, L, D) from :func:`forward`; None for the base alone.
    batch
        The cells.
    chunk
        Positions at a time.
    """
    with torch.no_grad():
        states = (*sequence_states(batch.tokens, batch.hazards), log_hazard(batch.hazards))
    n_cells, n_sampled = batch.positions.shape
    if n_sampled:
        cell = torch.arange(n_cells, device=batch.tokens.device).repeat_interleave(n_sampled)
        nats = _position_nats(decoder, hidden, batch, states, cell, batch.positions.flatten())
        return nats.view(n_cells, n_sampled).mean(1) * batch.lengths  # (B · P,) back to (B, P)
    total = torch.zeros(n_cells, device=batch.tokens.device)
    for cell, position in _all_positions(batch.lengths, chunk):
        total = total.index_add(0, cell, _position_nats(decoder, hidden, batch, states, cell, position).to(total.dtype))
    return total


def _all_positions(lengths: torch.Tensor, chunk: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Cell (n,) and position (n,) of every token, `chunk` at a time."""
    cell = torch.repeat_interleave(torch.arange(len(lengths), device=lengths.device), lengths)
    start = torch.cumsum(lengths, 0) - lengths
    position = torch.arange(len(cell), device=lengths.device) - start[cell]
    yield from zip(cell.split(chunk), position.split(chunk), strict=True)


def _position_nats(
    decoder: GeneDecoder,
    hidden: torch.Tensor | None,
    batch: TokenBatch,
    states: tuple[torch.Tensor, ...],
    cell: torch.Tensor,
    position: torch.Tensor,
) -> torch.Tensor:
    level, last, left = (state[cell, position] for state in states[:3])
    with torch.no_grad():
        row = (level - 1).clamp(0, batch.hazards.shape[1] - 1)
        eligible = batch.gene_levels[cell] <= level[:, None]
        base = next_tokens(batch.hazards[cell, row], states[3][cell, row], eligible, level, last, left)
    logits = base if hidden is None else decoder.logits(hidden[cell, position], base)
    # In float32 whatever the precision of the body: differences of probabilities over many tokens are small.
    return F.cross_entropy(logits.float(), batch.tokens[cell, position], reduction="none")
