"""The network: graph encoder, resampler, language model, and the two heads of the contrast.

B cells · K virtual tokens · L tokens · D width of the language model · d width of the graph · c width of the contrast · V vocabulary
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from sclm.models.celltosg.graph_encoder import GraphEncoder, GraphEncoderConfig
from sclm.models.celltosg.resampler import Resampler
from sclm.nn import PrefixLM, seeded

if TYPE_CHECKING:
    from sclm.models.celltosg.config import CellToSGConfig
    from sclm.models.celltosg.graph_tensors import GraphTensors
    from sclm.models.celltosg.tokens import Batch
    from sclm.nn import WordVocabulary


class Read(NamedTuple):
    """What the network makes of a batch."""

    logits: torch.Tensor  # (B, L, V) of the next token
    hidden: torch.Tensor  # (B, D) at the prompt's last token
    nodes: torch.Tensor | None  # (N, d) of the graph


class CellToSGNetwork(torch.nn.Module):
    """A language model that reads a cell's sentence behind virtual tokens of a knowledge graph.

    ``[start][V_1 … V_K][prompt][answer]``. The virtual tokens come from the graph's vectors of what the cell expresses; the
    contrast compares a vector of the cell, W_c (hidden state at the end of the prompt, mean virtual token), with one of each term, W_k h.

    Parameters
    ----------
    config
        Sizes.
    lm
        The language model.
    graph
        The graph for the encoder; None without graph channel.
    seed
        Of the first weights.
    """

    def __init__(self, config: CellToSGConfig, lm: PrefixLM, graph: GraphTensors | None, *, seed: int = 0) -> None:
        super().__init__()
        self.lm = lm
        self.encoder: GraphEncoder | None = None
        self.resampler: Resampler | None = None
        if graph is None:
            return
        sizes = GraphEncoderConfig(width=config.graph_width, layers=config.graph_layers, bases=config.graph_bases)
        self.encoder = GraphEncoder(graph, sizes, seed=seed)
        self.resampler = Resampler(
            config.graph_width,
            lm.width,
            rms=lm.rms,
            tokens=config.virtual_tokens,
            heads=max(1, config.graph_width // 8),
            seed=seed,
        )
        with seeded(seed):
            self.cell_head = torch.nn.Linear(2 * lm.width, config.contrast_width)
            self.term_head = torch.nn.Linear(config.graph_width, config.contrast_width)
        self.temperature = torch.nn.Parameter(torch.tensor(float(config.contrast_temperature)))

    @property
    def has_graph(self) -> bool:
        """Whether there is a graph channel."""
        return self.encoder is not None

    def nodes(self) -> torch.Tensor | None:
        """Vectors of all nodes, (N, d); None without graph channel."""
        return None if self.encoder is None else self.encoder()

    def prefix(self, nodes: torch.Tensor | None, batch: Batch, *, others: bool = False) -> torch.Tensor | None:
        """Virtual tokens (B, K, D) of a batch, None without graph channel; with `others` those of the next cell instead."""
        if nodes is None or self.resampler is None or self.encoder is None:
            return None
        seen = (batch.gene_nodes, batch.weights, batch.context, batch.context_weights)
        if others:
            seen = tuple(torch.roll(x, 1, dims=0) for x in seen)  # type: ignore[assignment]
        made = self.resampler(nodes, self.encoder.type_ids, *seen)
        return made if isinstance(made, torch.Tensor) else made[0]

    def attention(self, batch: Batch) -> torch.Tensor:
        """How much the virtual tokens looked at each gene, each node around and each mean of a type, (B, N + M + T); rows sum to 1."""
        if self.resampler is None or self.encoder is None:
            raise ValueError("this model has no graph channel (use_graph=False), so there is no attention to it.")
        seen = (batch.gene_nodes, batch.weights, batch.context, batch.context_weights)
        _, found = self.resampler(self.encoder(), self.encoder.type_ids, *seen, return_attention=True)
        return found.mean(dim=1)  # (B, K, S) → (B, S)

    def read(self, batch: Batch, *, others: bool = False) -> Read:
        """Read prompts and answers; with `others` behind the virtual tokens of another cell."""
        nodes = self.nodes()
        prefix = self.prefix(nodes, batch, others=others)
        states = self.lm.states(prefix, batch.ids)
        before = self.lm.before(prefix)
        rows = torch.arange(len(states), device=states.device)
        hidden = states[rows, before + batch.prompt_lengths - 1]
        if prefix is not None:
            hidden = torch.cat([hidden, prefix.mean(dim=1).to(hidden.dtype)], dim=-1)  # (B, 2 D)
        return Read(self.lm.lm.logits(states[:, before:]), hidden, nodes)

    def cells(self, read: Read) -> torch.Tensor:
        """Vectors of cells for the contrast, (B, c)."""
        return self.cell_head(read.hidden.float())

    def terms(self, nodes: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """Vectors of terms for the contrast, (C, c), from their nodes (C,)."""
        return self.term_head(nodes[rows])

    def forward(self, batch: Batch) -> torch.Tensor:
        """Scores (B, L, V) of the next token."""
        return self.read(batch).logits


def build_lm(config: CellToSGConfig, vocabulary: WordVocabulary | None, *, seed: int, **loading: Any) -> PrefixLM:
    """The language model of a configuration: pretrained with adapters, or from scratch with a vocabulary."""
    if config.base_lm:
        return PrefixLM.pretrained(
            config.base_lm, lora_rank=config.lora_rank, revision=config.base_revision or None,
            fingerprint=config.base_fingerprint, seed=seed, **loading,
        )  # fmt: skip
    if vocabulary is None:
        raise ValueError("a language model from scratch needs a vocabulary of words, found None.")
    return PrefixLM.from_scratch(
        vocabulary=vocabulary, width=config.width, layers=config.layers, heads=config.heads, seed=seed
    )


def learns(network: CellToSGNetwork, stage: str) -> None:
    """Switch gradients on for what a stage trains, and off for the rest.

    ``"language"`` (a model from scratch learns to read at all): the language model. ``"anchor"``: encoder, resampler, and the
    adapters of a pretrained model; the language model itself is frozen. ``"align"``: all but a pretrained model's own weights.
    ``"reinforce"``: what writes the answer; the graph's vectors and the contrast stay.
    """
    pretrained = network.lm.lm.base_model is not None
    for name, parameter in network.named_parameters():
        part, _, rest = name.partition(".")
        adapter = "lora_" in name
        if part == "lm":
            can = adapter if pretrained else stage != "anchor"
        elif part in ("encoder",):
            can = stage in ("anchor", "align")
        elif part == "resampler":
            can = stage != "language"
        else:
            can = stage == "align"
        parameter.requires_grad_(can and bool(rest or part))
