"""The base of families whose network reads a cell as a sequence of genes: scGPT, Geneformer.

n cells · B cells of a batch · L tokens · D width
"""

from __future__ import annotations

import abc
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
import pandas as pd
import torch

from sclm.cells import Ragged, require_overlap
from sclm.models.encoder_naming import NamesCells
from sclm.models.encoder_networks import LinksGenes
from sclm.nn import buckets

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from sclm.cells import Cells, GeneMatch

_TOKENS_ON_CPU, _TOKENS_ON_GPU = 8_192, 131_072  # of a batch, padding included: what fits caches and fills a GPU
_PERTURBED_TOGETHER = 4_096  # changed cells that are sorted by length together
_MIN_SHARE = 0.1  # of the data's genes that the model must know


class Tokens(NamedTuple):
    """Cells as an encoder reads them.

    Attributes
    ----------
    ids
        Token ids, special tokens included: one sequence a cell.
    values
        float32 value of each token, with the same offsets; None where the family reads the order only.
    """

    ids: Ragged
    values: Ragged | None

    def take(self, rows: np.ndarray) -> Tokens:
        """The sequences of some cells, in the order of `rows`."""
        return Tokens(*(None if part is None else take_ragged(part, rows) for part in self))  # type: ignore[arg-type]


class EncoderFamily(NamesCells, LinksGenes, abc.ABC):
    """A family whose network gives one state a gene, and from these one vector a cell.

    A subclass says how cells become tokens (:meth:`tokenise`), what the network makes of them (:meth:`states`), how a cell's vector
    is taken from its states (:meth:`pool`), and what a perturbed gene does to the tokens (:meth:`perturbed`). The verbs are here.
    """

    reads_streams: ClassVar[bool] = True  # sclm.train may hand it several AnnData
    #: Ways of taking a cell's vector from its states.
    poolings: ClassVar[tuple[str, ...]]

    # What a family says ----------------------------------------------------------------------------------------------

    @property
    @abc.abstractmethod
    def n_layers(self) -> int:
        """Layers of the network."""

    @property
    @abc.abstractmethod
    def width(self) -> int:
        """D, of the states."""

    @property
    @abc.abstractmethod
    def default_layer(self) -> int:
        """Layer whose states the original takes, counted from the end: -1 is the last."""

    @property
    @abc.abstractmethod
    def default_pooling(self) -> str:
        """How the original takes a cell's vector."""

    @abc.abstractmethod
    def tokenise(self, cells: Cells, *, seed: int = 0) -> Tokens:
        """Tokens of every cell, in their order; `seed` where a cell is longer than the network reads, or ties are drawn."""

    @abc.abstractmethod
    def states(self, ids: torch.Tensor, values: torch.Tensor | None, real: torch.Tensor, layer: int) -> torch.Tensor:
        """States (B, L, D) after `layer` layers, 0 … n_layers; ids (B, L) int64, values (B, L), real (B, L) False at padding."""

    @abc.abstractmethod
    def pool(
        self, states: torch.Tensor, ids: torch.Tensor, values: torch.Tensor | None, real: torch.Tensor, pooling: str
    ) -> torch.Tensor:
        """Vectors (B, D) of cells from their states (B, L, D)."""

    @abc.abstractmethod
    def perturbed(self, tokens: Tokens, genes: Sequence[int], kind: str) -> tuple[np.ndarray, Tokens]:
        """Rows of the cells that can be perturbed (all `genes`, token ids, together), and their changed tokens."""

    @abc.abstractmethod
    def gene_embeddings(self) -> pd.DataFrame:
        """Embedding of every gene as the network's first layer reads it: genes x D, float32."""

    # Cells to vectors ------------------------------------------------------------------------------------------------

    def find(self, names: Iterable[str]) -> GeneMatch:
        """Genes by name; a family with names of its own replaces it."""
        return self.vocabulary.match(names)

    def match(self, genes: pd.Index) -> GeneMatch:
        """Overlap of the data's genes with the model's.

        Raises
        ------
        ValueError
            If the model knows less than a tenth of the data's genes, with the likely reason. That the data lack most of the model's
            genes is usual: a network for sixty thousand genes reads those that a cell expresses.
        """
        match = self.find(genes)
        require_overlap(genes, self.vocabulary, match, min_share=_MIN_SHARE, of="data")
        return match

    def embed(
        self, cells: Cells, *, hidden_layer: int | None = None, pooling: str | None = None, seed: int = 0
    ) -> np.ndarray:
        """One vector a cell.

        Parameters
        ----------
        cells
            Raw counts.
        hidden_layer
            Layer whose states are taken: 0 the embeddings of the tokens, ``n_layers`` the last layer, or from the end as Python counts
            (-1 the last). None: the original's, :attr:`default_layer`.
        pooling
            One of :attr:`poolings`; None: the original's, :attr:`default_pooling`.
        seed
            Of what is drawn while cells are written as tokens; it depends on the cell alone, not on its neighbours.

        Returns
        -------
        (n_cells, D) float32 in the order of the cells; NaN for cells that express no gene of the model.

        Raises
        ------
        ValueError
            If the layer or the pooling does not exist.
        """
        return self.embed_tokens(self.tokenise(cells, seed=seed), hidden_layer=hidden_layer, pooling=pooling)

    def embed_tokens(
        self, tokens: Tokens, *, hidden_layer: int | None = None, pooling: str | None = None
    ) -> np.ndarray:
        """Vectors of cells that are tokens already: as :meth:`embed`."""
        layer, pooling = self.chosen(hidden_layer, pooling)
        out = np.full((len(tokens.ids), self.width), np.nan, dtype=np.float32)

        def keep(rows: np.ndarray, ids: torch.Tensor, values: torch.Tensor | None, real: torch.Tensor) -> None:
            out[rows] = self.encode(ids, values, real, layer, pooling).float().cpu().numpy()

        self.over_batches(tokens, keep)
        return out

    def encode(
        self, ids: torch.Tensor, values: torch.Tensor | None, real: torch.Tensor, layer: int, pooling: str
    ) -> torch.Tensor:
        """Vectors (B, D) of a padded batch; a family may spare work that the pooling does not need."""
        return self.pool(self.states(ids, values, real, layer), ids, values, real, pooling)

    def over_batches(
        self,
        tokens: Tokens,
        use: Callable[[np.ndarray, torch.Tensor, torch.Tensor | None, torch.Tensor], None],
    ) -> None:
        """Call ``use(rows, ids, values, real)`` for padded batches of cells of similar length; cells without genes are left out."""
        rows = np.flatnonzero(self.n_genes_of(tokens) > 0)
        bound = _TOKENS_ON_CPU if self.device.type == "cpu" else _TOKENS_ON_GPU
        with self.inference():
            parts = (rows[part] for part in buckets(tokens.ids.lengths[rows], bound))
            for part in self.memory.fitting(parts, lambda some: len(some) * int(tokens.ids.lengths[some].max())):
                with part as some:
                    use(some, *self.padded(tokens, some))

    def padded(
        self, tokens: Tokens, rows: np.ndarray, device: str | None = None
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor]:
        """Ids (B, L) int64, values (B, L) float32 or None, real (B, L) bool of some cells, by default on the network's device."""
        some = tokens.take(rows)
        ids = torch.from_numpy(some.ids.pad(value=self.pad_id).astype(np.int64))
        real = torch.arange(ids.shape[1])[None, :] < torch.from_numpy(some.ids.lengths)[:, None]  # (1, L) < (B, 1)
        values = None if some.values is None else torch.from_numpy(some.values.pad(value=self.pad_value))
        where = self.device if device is None else device
        return ids.to(where), None if values is None else values.float().to(where), real.to(where)

    @property
    def pad_id(self) -> int:
        """Token id of padding."""
        return int(self.vocabulary.lookup(["<pad>"])[0])

    @property
    def pad_value(self) -> int:
        """Value at padding."""
        return 0

    def n_genes_of(self, tokens: Tokens) -> np.ndarray:
        """(n,) number of genes of each cell, special tokens not counted."""
        gene = self.vocabulary.is_gene[tokens.ids.values].astype(np.int64)
        return np.diff(np.concatenate([[0], np.cumsum(gene)])[tokens.ids.offsets])

    def chosen(self, hidden_layer: int | None, pooling: str | None) -> tuple[int, str]:
        """Layer as a number from 0 to ``n_layers`` and pooling, with the defaults filled in; ValueError where there is none such."""
        layer = self.default_layer if hidden_layer is None else hidden_layer
        if (
            isinstance(layer, bool)
            or not isinstance(layer, int | np.integer)
            or not -self.n_layers - 1 <= layer <= self.n_layers
        ):
            raise ValueError(
                f"hidden_layer must be a whole number from {-self.n_layers - 1} to {self.n_layers} (0 the embeddings of the tokens, "
                f"{self.n_layers} or -1 the last layer), found {hidden_layer!r}."
            )
        pooling = self.default_pooling if pooling is None else pooling
        if pooling not in self.poolings:
            raise ValueError(f"pooling must be one of {', '.join(map(repr, self.poolings))}, found {pooling!r}.")
        return int(layer) % (self.n_layers + 1), pooling

    # Perturbed genes -------------------------------------------------------------------------------------------------

    def perturb(
        self,
        cells: Cells,
        perturbations: Sequence[Sequence[str]],
        *,
        kind: str = "delete",
        states: dict[str, np.ndarray] | None = None,
        hidden_layer: int | None = None,
        pooling: str | None = None,
        seed: int = 0,
        progress: Callable[[int], None] | None = None,
    ) -> pd.DataFrame:
        r"""Move cells in silico: delete or overexpress genes in their tokens, and see how far their vectors go.

        Parameters
        ----------
        cells
            Raw counts.
        perturbations
            Genes that are perturbed together, one sequence a perturbation; symbols or Ensembl ids.
        kind
            ``"delete"`` or ``"overexpress"``.
        states
            Name → (D,) vector of a state: how much nearer the cells come to it.
        hidden_layer, pooling, seed
            As in :meth:`embed`.
        progress
            Called with the number of perturbations that were done.

        Returns
        -------
        One row for each cell and perturbation that applies to it: ``cell`` (row of the cell), ``perturbation`` (number in the list),
        ``shift`` (:math:`1 - \cos(e', e)` of the cell's vector after and before, float64, 0 to 2), and for each state s
        ``towards:<s>``, :math:`\cos(e', s) - \cos(e, s)`.

        Raises
        ------
        KeyError
            If the model does not know a gene.
        ValueError
            If `kind`, the layer or the pooling does not exist.
        """
        if kind not in ("delete", "overexpress"):
            raise ValueError(f"kind must be 'delete' or 'overexpress', found {kind!r}.")
        options: dict[str, Any] = {"hidden_layer": hidden_layer, "pooling": pooling}
        self.chosen(**options)
        genes = self.gene_ids(perturbations)
        tokens = self.tokenise(cells, seed=seed)
        before = self.embed_tokens(tokens, **options)
        towards = {
            name: _cosine(before, np.broadcast_to(vector, before.shape)) for name, vector in (states or {}).items()
        }
        tables: list[pd.DataFrame] = []
        waiting: list[tuple[int, np.ndarray, Tokens]] = []

        def work() -> None:
            rows = np.concatenate([w[1] for w in waiting])
            changed = _joined([w[2] for w in waiting])
            cosine, after = self.similarity(tokens, rows, changed, before, **options)
            table = {"cell": rows, "perturbation": np.repeat([w[0] for w in waiting], [w[1].size for w in waiting])}
            table["shift"] = 1.0 - cosine
            for name, vector in (states or {}).items():
                table[f"towards:{name}"] = _cosine(after, np.broadcast_to(vector, after.shape)) - towards[name][rows]
            tables.append(pd.DataFrame(table))
            if progress is not None:
                progress(len(waiting))
            waiting.clear()

        for number, together in enumerate(genes):
            rows, changed = self.perturbed(tokens, together, kind)
            waiting.append((number, rows, changed))
            if sum(w[1].size for w in waiting) >= _PERTURBED_TOGETHER:
                work()
        if waiting:
            work()
        return pd.concat(tables, ignore_index=True)

    def similarity(
        self,
        tokens: Tokens,
        rows: np.ndarray,
        changed: Tokens,
        before: np.ndarray,
        *,
        hidden_layer: int | None,
        pooling: str | None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Likeness (m,) float64 of cells `rows` of `tokens` and their m `changed` forms, and the vectors (m, D) of these.

        Here the cosine of the vectors; `before` (n, D) are those of `tokens`. A family whose original compares otherwise replaces it.
        """
        after = self.embed_tokens(changed, hidden_layer=hidden_layer, pooling=pooling)
        return _cosine(after, before[rows]), after

    def gene_ids(self, groups: Sequence[Sequence[str]]) -> list[list[int]]:
        """Token ids of genes by name; KeyError names those that the model does not know."""
        names = list(dict.fromkeys(name for group in groups for name in group))
        ids = dict(zip(names, self.find(names).ids.tolist(), strict=True))
        unknown = [name for name in names if ids[name] < 0]
        if unknown:
            raise KeyError(
                f"The model knows {int(self.vocabulary.is_gene.sum()):,} genes, and not {', '.join(map(repr, unknown[:5]))}"
                f"{f' and {len(unknown) - 5} more' if len(unknown) > 5 else ''}. Leave them out or check their names."
            )
        return [[ids[name] for name in group] for group in groups]


def take_ragged(part: Ragged, rows: np.ndarray) -> Ragged:
    """Some sequences, in the order of `rows`."""
    lengths = part.lengths[rows]
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    places = np.arange(offsets[-1]) + np.repeat(part.offsets[:-1][rows] - offsets[:-1], lengths)
    return Ragged(part.values[places], offsets)


def _joined(parts: list[Tokens]) -> Tokens:
    """Sequences of several blocks in a row."""

    def join(ragged: list[Ragged]) -> Ragged:
        lengths = np.concatenate([part.lengths for part in ragged])
        return Ragged(np.concatenate([part.values for part in ragged]), np.concatenate([[0], np.cumsum(lengths)]))

    values = [part.values for part in parts if part.values is not None]
    return Tokens(join([part.ids for part in parts]), join(values) if values else None)


def _cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(n,) float64 cosine of the rows."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    norm = np.sqrt((a * a).sum(axis=1) * (b * b).sum(axis=1))
    return (a * b).sum(axis=1) / np.where(norm > 0, norm, 1.0)
