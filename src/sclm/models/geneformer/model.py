"""Geneformer as a model of this package: cells and genes to vectors, genes perturbed in rank order."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import pandas as pd
import torch

from sclm.cells import align
from sclm.models.encoder import EncoderFamily, Tokens, take_ragged
from sclm.models.foreign_classes import class_annotation, class_terms
from sclm.models.geneformer.dictionaries import SPECIAL, Dictionaries
from sclm.models.geneformer.network import GeneformerConfig, GeneformerNetwork
from sclm.models.geneformer.perturbation import gene_cosines, perturbed_tokens, references
from sclm.models.geneformer.tokens import match_genes, rank_tokens, token_counts
from sclm.nn import load_own_state

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import scipy.sparse as sp

    from sclm.cells import Cells, CellSource, GeneMatch, GeneVocabulary, Ragged
    from sclm.models.contract import Annotation


class Geneformer(EncoderFamily):
    """Geneformer: a cell as its genes from the most to the least remarkable, read by BERT.

    Theodoris et al., Transfer learning enables predictions in network biology, Nature 618 (2023); V2: Chen et al., bioRxiv
    2024.08.16.608180. Reads the published checkpoints, and trains from scratch on cells of one's own.

    Parameters
    ----------
    config
        Sizes, head and training.
    vocabulary
        Tokens by id.
    network
        BERT with its head.
    card
        Data, split, limits.
    dictionaries
        The same vocabulary with medians, retired ids and symbols.
    """

    config: GeneformerConfig
    network: GeneformerNetwork
    family: ClassVar[str] = "geneformer"
    Config: ClassVar[type] = GeneformerConfig
    poolings: ClassVar[tuple[str, ...]] = ("cls", "mean")

    def __init__(
        self,
        config: GeneformerConfig,
        vocabulary: GeneVocabulary,
        network: GeneformerNetwork,
        card: dict[str, Any] | None = None,
        *,
        dictionaries: Dictionaries,
    ) -> None:
        super().__init__(config, vocabulary, network, card)
        self.dictionaries = dictionaries
        self._matched: tuple[pd.Index, GeneMatch] | None = None

    # A checkpoint ----------------------------------------------------------------------------------------------------

    @classmethod
    def build(cls, config: GeneformerConfig, vocabulary: GeneVocabulary) -> GeneformerNetwork:
        """A network of this configuration."""
        return GeneformerNetwork(config, len(vocabulary))

    def arrays(self) -> dict[str, np.ndarray]:
        """Weights and dictionaries, by name."""
        return super().arrays() | self.dictionaries.arrays()

    @classmethod
    def from_arrays(
        cls, config: GeneformerConfig, vocabulary: GeneVocabulary, arrays: dict[str, np.ndarray], card: dict[str, Any]
    ) -> Self:
        """The inverse of :meth:`arrays`, on the CPU."""
        arrays = dict(arrays)
        head = cls.take_head(config, arrays)
        dictionaries = Dictionaries.from_arrays(vocabulary, arrays)
        network = cls.build(config, vocabulary)
        load_own_state(network, {name: torch.tensor(array) for name, array in arrays.items()})
        model = cls(config, vocabulary, network, card, dictionaries=dictionaries)
        model.head = head
        return model

    @classmethod
    def fit(
        cls,
        source: CellSource,
        *,
        label_key: str | None = None,
        preset: str = "small",
        genes: Any = None,
        seed: int = 0,
        **options: Any,
    ) -> Self:
        """Pre-train on the cells of a source: see :func:`sclm.models.geneformer.fitting.fit_geneformer`.

        With `label_key` the model learns to name cells: see :meth:`~sclm.models.encoder.EncoderFamily.fit_labels`.
        """
        from sclm.models.geneformer.fitting import fit_geneformer

        if label_key is not None:
            if options.get("base") is None:
                options["preset"] = preset
            return cls.fit_labels(source, label_key=label_key, genes=genes, seed=seed, **options)
        return fit_geneformer(cls, source, preset=preset, genes=genes, seed=seed, **options)

    # What it is ------------------------------------------------------------------------------------------------------

    @property
    def version(self) -> str:
        """``"V1"`` without, ``"V2"`` with ``<cls>`` and ``<eos>`` around a cell's genes."""
        return self.dictionaries.version

    @property
    def n_layers(self) -> int:
        """Layers of the network."""
        return self.config.layers

    @property
    def width(self) -> int:
        """Of the states."""
        return self.config.width

    @property
    def default_layer(self) -> int:
        """The second to last: the last is the most specific to the masked genes (the original's ``emb_layer=-1``)."""
        return -2

    @property
    def default_pooling(self) -> str:
        """The state of ``<cls>`` in V2, the mean over genes in V1."""
        return "cls" if self.version == "V2" else "mean"

    def chosen(self, hidden_layer: int | None, pooling: str | None) -> tuple[int, str]:
        """Layer and pooling with the defaults filled in; ValueError where there is none such."""
        layer, pooling = super().chosen(hidden_layer, pooling)
        if pooling == "cls" and self.version == "V1":
            raise ValueError("pooling='cls' needs a model with <cls>, and Geneformer V1 has none. Pass pooling='mean'.")
        return layer, pooling

    # Cells to tokens -------------------------------------------------------------------------------------------------

    def find(self, names: Iterable[str]) -> GeneMatch:
        """Genes by name, retired ids and the model's own symbols included: :func:`~sclm.models.geneformer.tokens.match_genes`."""
        return match_genes(names, self.dictionaries)

    def tokenise(self, cells: Cells, *, seed: int = 0) -> Tokens:
        """Rank-value tokens of every cell, in their order: see :func:`~sclm.models.geneformer.tokens.rank_tokens`.

        Parameters
        ----------
        cells
            Raw counts of all genes that were measured.
        seed
            Not used: nothing is drawn.

        Returns
        -------
        :class:`~sclm.models.encoder.Tokens` without values; a cell without genes of the model has no token.
        """
        return Tokens(rank_tokens(self._counts(cells), self.dictionaries, self.config.max_length), None)

    def token_counts(self, cells: Cells) -> Ragged:
        """Counts per 10,000 of each token of :meth:`tokenise`, float64: the original's ``keep_counts``; 0 at special tokens."""
        counts = self._counts(cells)
        totals = np.asarray(cells.counts.sum(axis=1, dtype=np.float64)).ravel()
        return token_counts(rank_tokens(counts, self.dictionaries, self.config.max_length), counts, totals)

    def _counts(self, cells: Cells) -> sp.csr_matrix:
        """Counts (n, V) of the tokens; a stream of blocks is matched once."""
        if self._matched is None or not self._matched[0].equals(cells.genes):
            self._matched = (cells.genes, self.match(cells.genes))
        return align(cells, self.vocabulary, min_share=0.0, match=self._matched[1])[0]

    # Tokens to vectors -----------------------------------------------------------------------------------------------

    def states(self, ids: torch.Tensor, values: torch.Tensor | None, real: torch.Tensor, layer: int) -> torch.Tensor:
        """States (B, L, D) after `layer` layers."""
        return self.network.states(ids, real, layer)

    def pool(
        self, states: torch.Tensor, ids: torch.Tensor, values: torch.Tensor | None, real: torch.Tensor, pooling: str
    ) -> torch.Tensor:
        """Vectors (B, D): the first token's state, or the mean over the genes' (``<cls>`` and ``<eos>`` are none)."""
        if pooling == "cls":
            return states[:, 0]
        gene = (real & (ids >= len(SPECIAL[self.version])))[..., None]  # (B, L, 1)
        return (states * gene).sum(dim=1) / gene.sum(dim=1).clamp(min=1)

    def encode(
        self, ids: torch.Tensor, values: torch.Tensor | None, real: torch.Tensor, layer: int, pooling: str
    ) -> torch.Tensor:
        """Vectors (B, D) of a padded batch; for ``<cls>`` the last layer is asked for one token only."""
        if pooling == "cls":
            return self.network.states(ids, real, layer, first_only=True)[:, 0]
        return super().encode(ids, values, real, layer, pooling)

    def gene_embeddings(self) -> pd.DataFrame:
        """Word embeddings of the genes, as the first layer reads them: genes x D, float32, indexed by Ensembl id."""
        table = self.network.bert_model.bert.embeddings.word_embeddings.weight.detach().float().cpu().numpy()
        some = self.vocabulary.is_gene
        return pd.DataFrame(table[some], index=pd.Index(self.vocabulary.tokens)[some])

    def attention(self, ids: torch.Tensor, values: torch.Tensor | None, real: torch.Tensor) -> torch.Tensor:
        """Attention (B, L, L) of the last layer, averaged over heads."""
        return self.network.attention(ids, real, self.n_layers)

    # Classes of fine-tuned checkpoints -------------------------------------------------------------------------------

    def class_probabilities(self, cells: Cells) -> pd.DataFrame:
        """Probabilities of each cell's class, from the head of a fine-tuned cell classifier of the original.

        Parameters
        ----------
        cells
            Raw counts.

        Returns
        -------
        Cells x classes, float32, rows sum to 1; NaN for cells without genes of the model. The original asks the state of the first
        token, ``<cls>`` in V2 and the highest-ranked gene in V1.

        Raises
        ------
        TypeError
            If the model is no cell classifier.
        """
        self._require_head("cell")
        return pd.DataFrame(
            self._cell_probabilities(self.tokenise(cells)), index=cells.obs.index, columns=list(self.config.classes)
        )

    def gene_class_probabilities(self, cells: Cells) -> pd.DataFrame:
        """Probabilities of each expressed gene's class, from the head of a fine-tuned gene classifier of the original.

        Parameters
        ----------
        cells
            Raw counts.

        Returns
        -------
        One row a cell and gene, in rank order: ``cell`` (row of the cell), ``gene`` (Ensembl id), then a float32 column a class. The
        mean over cells, ``table.groupby("gene").mean()``, is a gene's class.

        Raises
        ------
        TypeError
            If the model is no gene classifier.
        """
        self._require_head("gene")
        tokens = self.tokenise(cells)
        out = np.zeros((tokens.ids.values.size, len(self.config.classes)), dtype=np.float32)

        def keep(rows: np.ndarray, ids: torch.Tensor, values: torch.Tensor | None, real: torch.Tensor) -> None:
            logits = self.network.gene_logits(self.network.states(ids, real, self.n_layers))  # (B, L, C)
            places = [np.arange(tokens.ids.offsets[row], tokens.ids.offsets[row + 1]) for row in rows]
            out[np.concatenate(places)] = logits.softmax(dim=-1)[real].float().cpu().numpy()

        self.over_batches(tokens, keep)
        gene = self.vocabulary.is_gene[tokens.ids.values]
        cell = np.repeat(np.arange(len(tokens.ids)), tokens.ids.lengths)[gene]
        names = np.asarray(self.vocabulary.tokens, dtype=object)[tokens.ids.values[gene]]
        table = pd.DataFrame({"cell": cell, "gene": names})
        return table.join(pd.DataFrame(out[gene], columns=list(self.config.classes)))

    def annotate(self, cells: Cells) -> Annotation:
        """Names for a block of cells: what the model learnt, or the classes of a fine-tuned cell classifier of the original.

        The original's classes are resolved to terms of the Cell Ontology where they are names of types; their confidence is the
        network's probability, which nothing has calibrated, and their novelty is NaN: the reference is not known.

        Parameters
        ----------
        cells
            Raw counts.

        Returns
        -------
        Labels, ids, confidences and probabilities.

        Raises
        ------
        ValueError
            If the model names no cells.
        """
        if self.head is not None or self.config.head != "cell":
            return super().annotate(cells)
        found = self._cell_probabilities(self.tokenise(cells))
        return class_annotation(found, class_terms(self.config.classes), cells.obs.index)

    def _require_head(self, head: str) -> None:
        if self.config.head != head:
            of = {"masked": "masked genes", "cell": "classes of cells", "gene": "classes of genes"}
            raise TypeError(
                f"This model has a head of {of[self.config.head]}, not of {of[head]}. Load a fine-tuned checkpoint of the original that "
                "has one."
            )

    def _cell_probabilities(self, tokens: Tokens) -> np.ndarray:
        """(n, C) float32, NaN for cells without genes."""
        out = np.full((len(tokens.ids), len(self.config.classes)), np.nan, dtype=np.float32)

        def keep(rows: np.ndarray, ids: torch.Tensor, values: torch.Tensor | None, real: torch.Tensor) -> None:
            first = self.network.states(ids, real, self.n_layers, first_only=True)  # (B, 1, D)
            out[rows] = self.network.cell_logits(first).softmax(dim=-1).float().cpu().numpy()

        self.over_batches(tokens, keep)
        return out

    # Perturbed genes -------------------------------------------------------------------------------------------------

    def perturbed(self, tokens: Tokens, genes: Sequence[int], kind: str) -> tuple[np.ndarray, Tokens]:
        """Cells without their `genes`, or with them in front: see :func:`~sclm.models.geneformer.perturbation.perturbed_tokens`.

        The values of the changed tokens mark the genes that were not perturbed; the network does not read them.
        """
        rows, changed, remaining = perturbed_tokens(tokens.ids, genes, kind, self.version, self.config.max_length)
        return rows, Tokens(changed, remaining)

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
        """Likeness (m,) of cells before and after, and their vectors (m, D) after, as the original compares them.

        With ``"cls"`` the cosine of the vectors; with ``"mean"`` the mean, over the genes that were not perturbed, of the cosine of
        each one's state. A cell that lost its last genes to inserted ones is compared with its original without these.
        """
        layer, pooling = self.chosen(hidden_layer, pooling)
        originals, which = references(tokens.ids, rows, changed, self.config.max_length)
        if pooling == "mean":
            return gene_cosines(self, originals, which, changed, layer)
        n = len(tokens.ids)
        if len(originals) > n:
            cut = take_ragged(originals, np.arange(n, len(originals)))
            before = np.concatenate([before, self.embed_tokens(Tokens(cut, None), hidden_layer=layer, pooling=pooling)])
        return super().similarity(tokens, which, changed, before, hidden_layer=layer, pooling=pooling)
