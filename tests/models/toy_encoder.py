"""The smallest encoder of cells: embeddings, a projection of values, one attention layer. For tests of what encoders share."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import pandas as pd
import torch

from sclm.cells import GeneVocabulary, Ragged, log_normalise
from sclm.cells.columns import move_columns
from sclm.models.encoder import EncoderFamily, Tokens
from sclm.models.encoder_config import EncoderConfig
from sclm.nn import seeded

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sclm.cells import Cells, CellSource

# B cells · L tokens · D width · V vocabulary


@dataclasses.dataclass(frozen=True, kw_only=True)
class ToyConfig(EncoderConfig):
    PRESETS: ClassVar[dict[str, dict[str, Any]]] = {"tiny": {}}
    width: int = 24


class Layer(torch.nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.query_key_value = torch.nn.Linear(width, 3 * width)
        self.out = torch.nn.Linear(width, width)
        self.norm = torch.nn.LayerNorm(width)
        self.forward1, self.forward2 = torch.nn.Linear(width, 2 * width), torch.nn.Linear(2 * width, width)
        self.dropout = torch.nn.Dropout(0.1)

    def scores(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        query, key, value = self.query_key_value(x).chunk(3, dim=-1)
        return query @ key.transpose(1, 2) / x.shape[-1] ** 0.5, value  # (B, L, L), (B, L, D)

    def forward(self, x: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
        scores, value = self.scores(x)
        weights = scores.masked_fill(~real[:, None, :], float("-inf")).softmax(dim=-1)
        x = x + self.dropout(self.out(weights @ value))
        return self.norm(x + self.dropout(self.forward2(torch.relu(self.forward1(x)))))


class ToyNetwork(torch.nn.Module):
    def __init__(self, n_tokens: int, width: int) -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding(n_tokens, width)
        self.value = torch.nn.Linear(1, width)
        self.layers = torch.nn.ModuleList([Layer(width)])


class ToyEncoder(EncoderFamily):
    """A random network: what is learnt is the head, and the network where it is tuned."""

    family = "toy"
    Config = ToyConfig
    poolings = ("cls", "mean")
    n_layers, default_layer, default_pooling = 1, -1, "mean"
    network: ToyNetwork

    @property
    def width(self) -> int:
        return self.config.width

    @classmethod
    def fit(
        cls,
        source: CellSource,
        *,
        label_key: str | None = None,
        batch_key: str | None = None,
        base: Any = None,
        tune: str = "frozen",
        genes: Any = None,
        seed: int = 0,
        **options: Any,
    ) -> Self:
        if label_key is not None:
            labelled = {"label_key": label_key, "batch_key": batch_key, "base": base, "tune": tune}
            return cls.fit_labels(source, **labelled, genes=genes, seed=seed, **options)
        shown = source.genes if genes is None else source.genes[source.genes.isin(genes)]
        config = ToyConfig.preset("tiny", **options)
        vocabulary = GeneVocabulary(("<pad>", "<cls>", *sorted(map(str, shown))))
        with seeded(seed):
            return cls(config, vocabulary, cls.build(config, vocabulary), {"data": f"{source.n_cells} cells"})

    @classmethod
    def build(cls, config: ToyConfig, vocabulary: GeneVocabulary) -> ToyNetwork:
        return ToyNetwork(len(vocabulary), config.width)

    def tokenise(self, cells: Cells, *, seed: int = 0) -> Tokens:
        ids = self.vocabulary.match(cells.genes).ids
        counts = log_normalise(move_columns(cells.counts, ids, len(self.vocabulary)), 1e4)
        counts.sort_indices()
        lengths = np.diff(counts.indptr) + 1
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        first = np.zeros(offsets[-1], dtype=bool)
        first[offsets[:-1]] = True
        tokens, values = np.ones(offsets[-1], dtype=np.int32), np.zeros(offsets[-1], dtype=np.float32)
        tokens[~first], values[~first] = counts.indices, counts.data
        return Tokens(Ragged(tokens, offsets), Ragged(values, offsets))

    def states(self, ids: torch.Tensor, values: torch.Tensor | None, real: torch.Tensor, layer: int) -> torch.Tensor:
        assert values is not None
        x = self.network.embedding(ids) + self.network.value(values[..., None])
        for part in self.network.layers[:layer]:
            x = part(x, real)
        return x

    def pool(
        self, states: torch.Tensor, ids: torch.Tensor, values: torch.Tensor | None, real: torch.Tensor, pooling: str
    ) -> torch.Tensor:
        if pooling == "cls":
            return states[:, 0]
        return (states * real[..., None]).sum(1) / real.sum(1, keepdim=True)

    def attention(self, ids: torch.Tensor, values: torch.Tensor | None, real: torch.Tensor) -> torch.Tensor:
        """(B, L, L)."""
        assert values is not None
        scores, _ = self.network.layers[0].scores(self.states(ids, values, real, 0))
        return scores.masked_fill(~real[:, None, :], float("-inf")).softmax(dim=-1)

    def perturbed(self, tokens: Tokens, genes: Sequence[int], kind: str) -> tuple[np.ndarray, Tokens]:
        raise NotImplementedError

    def gene_embeddings(self) -> pd.DataFrame:
        table = self.network.embedding.weight.detach().numpy()
        return pd.DataFrame(table, index=list(self.vocabulary.tokens)).loc[self.vocabulary.is_gene]
