"""The network: a causal transformer that reads metadata and writes depth and programmes, one level after the other.

Legend of shapes: ``B`` cells · ``F`` fields · ``S`` slots (depth, then programmes) · ``Q`` levels of a slot · ``D`` width.
The sequence of a cell is ``[BOS] field₁ … field_F slot₁ … slot_S``; the position before a slot predicts it, and the last
field's position predicts, besides the depth, the values of fields that were left open.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import torch
from torch.nn import functional as F  # noqa: N812

from sclm.models.neural import NeuralConfig
from sclm.models.pgl.gene_tokens import GeneDecoder
from sclm.models.pgl.tokens import GeneTokens
from sclm.nn import CausalLM, seeded

if TYPE_CHECKING:
    from sclm.models.pgl.levels import Levels

_FEATURES = (-2.5, -1.5, -0.5, 0.5, 1.5, 2.5)  # centres of the bumps that embed a value
_FLOOR = 1e-3  # share of a slot's probability that is spread evenly over its levels


@dataclasses.dataclass(frozen=True, kw_only=True)
class PGLConfig(NeuralConfig):
    """Settings of a PGL model; the preprint gives no backbone and no sizes, so all of these are ours."""

    width: int = 128  # D
    layers: int = 4
    heads: int = 4
    base_model: str | None = None  # "hf:organisation/name": a pretrained causal LM with LoRA instead of random weights
    lora_rank: int = 16
    n_programmes: int = 16  # K; more of them are noise with a thousand cells
    n_programme_genes: int = 3000  # the genes with most counts determine the programmes
    programme_iterations: int = 25
    n_levels: int = 32  # Q
    n_components: int = 4  # of the mixture that gives a slot its distribution
    max_cells: int = 10_000  # from which programmes, levels and dispersions are learnt
    pseudocount: float = 1.0  # weight of a parent's profile in a term's, in counts
    field_dropout: float = 0.15  # share of fields left open, each for itself
    only_context: float = 0.1  # share of cells that keep tissue and disease only
    dropout: float = 0.1
    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    batch_size: int = 128
    max_epochs: int = 120
    patience: int = 20  # epochs without progress on held-out cells
    validation_share: float = 0.1
    gene_tokens: bool = False  # besides, a decoder that writes genes one after the other: the slow reference
    token_epochs: int = 0  # of its training, after the set decoder's; 0: its base of independent genes stays as it is
    token_positions: int = 64  # tokens a cell that count in a training step's softmax over all genes
    max_tokens: int = 16_384  # cells times the longest cell's tokens of its batches

    PRESETS: ClassVar[dict[str, dict[str, Any]]] = {
        "tiny": {
            "width": 32, "layers": 2, "heads": 2, "n_programmes": 6, "n_programme_genes": 500, "programme_iterations": 8,
            "n_levels": 16, "max_epochs": 4, "patience": 2, "batch_size": 64,
        },
        "small": {},
        "base": {"width": 512, "layers": 12, "heads": 8, "n_programmes": 32, "n_levels": 64, "learning_rate": 3e-4},
    }  # fmt: skip


class Batch(NamedTuple):
    """A batch of cells as the network reads them."""

    fields: torch.Tensor  # (B, F) int64 row of each field's memberships, -1: left open
    asked: torch.Tensor  # (B, F) int64 training value to predict where the field was left open, -1: none
    values: torch.Tensor  # (B, S) float32 slot values
    bins: torch.Tensor  # (B, S) int64


class Memberships(NamedTuple):
    """Nodes of the values of a field, as ``embedding_bag`` reads them."""

    nodes: torch.Tensor  # (n_entries,) int64
    offsets: torch.Tensor  # (n_rows,) int64


class PGLNetwork(torch.nn.Module):
    """Transformer body, embeddings of metadata and levels, heads that correct a Gaussian guess.

    Parameters
    ----------
    config
        Sizes.
    n_nodes
        Nodes of each field.
    frequencies
        For each field the log frequency of its training values, (n_values,).
    levels
        Edges and guess; not trained.
    seed
        Of the first weights.
    n_genes
        Of the vocabulary; needed where ``config.gene_tokens``.
    """

    edges: torch.Tensor  # (S, Q + 1)
    fine: torch.Tensor  # (S, 8 Q + 1)
    mean_weight: torch.Tensor
    previous_weight: torch.Tensor
    spread_weight: torch.Tensor
    genes: Any  # a GeneDecoder where the configuration asks for one, else None

    def __init__(
        self,
        config: PGLConfig,
        n_nodes: tuple[int, ...],
        frequencies: tuple[torch.Tensor, ...],
        levels: Levels,
        seed: int,
        n_genes: int = 0,
    ) -> None:
        super().__init__()
        self.n_fields, self.n_slots, self.n_levels = len(n_nodes), levels.edges.shape[0], levels.edges.shape[1] - 1
        self.n_components = config.n_components
        tokens = GeneTokens(n_genes).size if config.gene_tokens else 0
        if config.base_model is None:
            self.body = CausalLM.from_scratch(
                width=config.width, layers=config.layers, heads=config.heads,
                max_length=1 + self.n_fields + self.n_slots + tokens, dropout=config.dropout, seed=seed,
            )  # fmt: skip
        else:
            self.body = CausalLM.pretrained(config.base_model, lora_rank=config.lora_rank, seed=seed)
        width = self.body.width
        with seeded(seed + 1):
            self.start = torch.nn.Parameter(0.5 * torch.randn(width))
            self.field_place = torch.nn.Parameter(0.5 * torch.randn(self.n_fields, width))
            self.left_open = torch.nn.Parameter(0.5 * torch.randn(self.n_fields, width))
            self.node_embeddings = torch.nn.ParameterList([0.5 * torch.randn(n, width) for n in n_nodes])
            self.level_embeddings = torch.nn.Parameter(0.5 * torch.randn(self.n_slots, len(_FEATURES) + 3, width))
        # Heads start at zero: the first prediction is the guess from training frequencies.
        self.level_head = torch.nn.Parameter(torch.zeros(self.n_slots, width, 3 * self.n_components))
        self.field_heads = torch.nn.ParameterList([torch.zeros(width, len(f)) for f in frequencies])
        for f, frequency in enumerate(frequencies):
            self.register_buffer(f"frequency_{f}", frequency.clone())
        for name in ("edges", "fine", "mean_weight", "previous_weight", "spread_weight"):
            self.register_buffer(name, torch.from_numpy(getattr(levels, name)).clone())
        starts = torch.tensor([1, *n_nodes]).cumsum(0).tolist()
        self.node_columns = [slice(starts[f], starts[f + 1]) for f in range(self.n_fields)]
        self.missing_columns = starts[-1]
        self.genes = GeneDecoder(width, n_genes, seed + 2).requires_grad_(False) if config.gene_tokens else None

    # ------------------------------------------------------------------ metadata

    def condition(self, fields: torch.Tensor, memberships: list[Memberships]) -> tuple[torch.Tensor, ...]:
        """Prefix (B, 1 + F, D), and mean (B, S) and log spread (B, S) of the guess before any slot is known."""
        n = fields.shape[0]
        prefix = [self.start.expand(n, 1, -1)]
        mean, spread = self.mean_weight[0].expand(n, -1), self.spread_weight[0].expand(n, -1)
        for f, (nodes, offsets) in enumerate(memberships):
            rows, columns = fields[:, f], self.node_columns[f]
            given = (rows >= 0)[:, None]
            row = rows.clamp_min(0)
            tables = (self.node_embeddings[f], self.mean_weight[columns], self.spread_weight[columns])
            embedded, mean_f, spread_f = (F.embedding_bag(nodes, t, offsets, mode="sum")[row] for t in tables)
            missing = self.missing_columns + f
            prefix.append((torch.where(given, embedded, self.left_open[f]) + self.field_place[f])[:, None])
            mean = mean + torch.where(given, mean_f, self.mean_weight[missing])
            spread = spread + torch.where(given, spread_f, self.spread_weight[missing])
        return torch.cat(prefix, dim=1), mean, spread

    # ------------------------------------------------------------------ prediction

    def predict(
        self,
        mean: torch.Tensor,
        spread: torch.Tensor,
        values: torch.Tensor,
        hidden: torch.Tensor,
        slots: slice = slice(None),
    ) -> torch.Tensor:
        """Log probabilities (B, s, Q) of the levels of some slots.

        A slot's value is a mixture of normal distributions around the Gaussian guess, whose weights, shifts and widths
        (in units of the guess's own) are linear in the hidden state; a level's probability is the mixture's between its
        edges. With a head of zeros the mixture is nearly the guess.

        Parameters
        ----------
        mean, spread
            (B, S) of the guess, from :meth:`condition`.
        values
            (B, S) slot values; those before a slot are read.
        hidden
            (B, s, D) at the positions before the slots.
        slots
            Which.
        """
        centre = mean[:, slots] + values @ self.previous_weight[slots].T
        scale = torch.exp(spread[:, slots]).clamp(0.05, 20.0)
        head = torch.einsum("bsd,sdm->bsm", hidden, self.level_head[slots])
        weight, shift, width = head.chunk(3, dim=-1)  # (B, s, M) each
        apart = torch.linspace(-0.6, 0.6, self.n_components, device=head.device)
        within = torch.exp(width - 0.11)  # 0.4² + 0.9² is about 1
        inner = (self.edges[slots, 1:-1] - centre[..., None]) / scale[..., None]  # (B, s, Q - 1)
        z = (inner[:, :, None] - (shift + apart)[..., None]) / within.clamp(0.05, 20.0)[..., None]  # (B, s, M, Q - 1)
        below = (torch.softmax(weight, dim=-1)[..., None] * torch.special.ndtr(z)).sum(2)
        below = F.pad(below, (1, 0), value=0.0)
        share = F.pad(below[..., 1:], (0, 1), value=1.0) - below
        return torch.log((1.0 - _FLOOR) * share.clamp_min(0.0) + _FLOOR / self.n_levels)

    def forward(self, batch: Batch, memberships: list[Memberships]) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Log probabilities of all slots (B, S, Q), and of the values of each field (B, n_values), teacher-forced."""
        prefix, mean, spread = self.condition(batch.fields, memberships)
        hidden = self.body(torch.cat([prefix, self.embed_levels(batch.values)[:, :-1]], dim=1))
        at_slots = hidden[:, self.n_fields :].float()  # (B, S, D): the last field's position and those of slots 1 … S-1
        return self.predict(mean, spread, batch.values, at_slots), self.field_predictions(at_slots[:, 0])

    def embed_levels(self, values: torch.Tensor, slots: slice = slice(None)) -> torch.Tensor:
        """Embeddings (B, s, D) of slot values (B, s): smooth, so that neighbouring levels mean nearly the same."""
        v = values.clamp(-4.0, 4.0)[..., None]
        bumps = torch.exp(-0.5 * (v - v.new_tensor(_FEATURES)) ** 2)
        features = torch.cat([torch.ones_like(v), v, v**2 / 4, bumps], dim=-1)  # (B, s, 3 + bumps)
        return torch.einsum("bsf,sfd->bsd", features, self.level_embeddings[slots])

    def field_predictions(self, hidden: torch.Tensor) -> list[torch.Tensor]:
        """Log probabilities of each field's values from the hidden states (B, D) of the last field."""
        return [
            F.log_softmax(getattr(self, f"frequency_{f}") + hidden @ head, dim=-1)
            for f, head in enumerate(self.field_heads)
        ]
