"""The scGPT family: cells to vectors, in-silico perturbation, responses to perturbations; from published weights or from scratch."""

from __future__ import annotations

import dataclasses
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import pandas as pd
import torch
from torch.nn import functional

from sclm.cells import log_normalise
from sclm.cells.columns import move_columns
from sclm.models.encoder import EncoderFamily, Tokens
from sclm.models.foreign_classes import class_annotation, class_terms
from sclm.models.scgpt.attention import attention_scores
from sclm.models.scgpt.classes import class_probabilities
from sclm.models.scgpt.config import ScGPTConfig
from sclm.models.scgpt.fitting import fit_encoder
from sclm.models.scgpt.network import ScGPTNetwork
from sclm.models.scgpt.panel import move_log
from sclm.models.scgpt.response import fit_response, respond
from sclm.models.scgpt.tokens import cell_tokens, deleted, overexpressed, value_tokens
from sclm.training import running_options

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import scipy.sparse as sp

    from sclm.cells import Cells, CellSource, GeneMatch, GeneVocabulary
    from sclm.models.contract import Annotation

_PANEL_SHARE = 0.1  # of the genes that a model with zeros reads, which the data must hold


class ScGPT(EncoderFamily):
    """Cells as sets of genes with binned counts, read by a transformer (scGPT).

    Cui et al., scGPT: toward building a foundation model for single-cell multi-omics using generative AI, Nature Methods 21 (2024).
    Networks are ours, published weights are read by :func:`sclm.load`.

    Parameters
    ----------
    config, vocabulary, network, card
        As in :class:`~sclm.models.neural.NeuralFamily`. The vocabulary holds ``<pad>`` and ``<cls>``.
    """

    network: ScGPTNetwork
    config: ScGPTConfig
    family: ClassVar[str] = "scgpt"
    Config: ClassVar[type] = ScGPTConfig
    poolings: ClassVar[tuple[str, ...]] = ("cls", "mean")

    def __init__(
        self, config: ScGPTConfig, vocabulary: GeneVocabulary, network: ScGPTNetwork, card: dict[str, Any] | None = None
    ) -> None:
        super().__init__(config, vocabulary, network, card)
        self._batch: torch.Tensor | None = None  # of the cells that are read now
        self._matched: tuple[pd.Index, GeneMatch] | None = None

    @classmethod
    def build(cls, config: ScGPTConfig, vocabulary: GeneVocabulary) -> ScGPTNetwork:
        """A network of this configuration with random weights."""
        return ScGPTNetwork(config, len(vocabulary), int(vocabulary.lookup(["<pad>"])[0]))

    # Training --------------------------------------------------------------------------------------------------------

    @classmethod
    def fit(
        cls,
        source: CellSource,
        *,
        base: ScGPT | None = None,
        preset: str | None = None,
        objective: str | None = None,
        label_key: str | None = None,
        batch_key: str | None = None,
        perturbation_key: str | None = None,
        control: str | None = None,
        obs_keys: Sequence[str] | None = None,
        genes: Any = None,
        n_panel: int = 1200,
        balance_key: str | None = None,
        seed: int = 0,
        **options: Any,
    ) -> Self:
        """Train from scratch, or go on from a trained model.

        Parameters
        ----------
        source
            Raw counts, with the columns of ``.obs`` that are named here.
        base
            A model to go on from; its sizes and genes are kept. None: from scratch on the genes of the data.
        preset
            Sizes from scratch: ``"tiny"``, ``"small"`` (the default) or ``"whole-human"``.
        objective
            ``"masking"``: values of hidden genes are guessed from the other genes and from the cell's vector. ``"integration"``: the same
            on variable genes, while batches are made alike; needs `batch_key`. ``"perturbation"``: expression after
            a perturbation from control cells; needs `perturbation_key` and `control`. By default the last where a `perturbation_key`
            is given, and masking otherwise.
        label_key
            Cell types to learn on top: see :meth:`fit_labels`, which takes all other arguments.
        batch_key
            Batch of a cell. With masking whole batches are held out; with perturbations a perturbed cell is paired with a control cell
            of its batch.
        perturbation_key, control
            Column with the perturbed genes (``"JAK2"``, ``"JAK2+STAT1"``), and its label of unperturbed cells.
        obs_keys
            Not read.
        genes
            Restrict a model from scratch to the genes shared with these.
        n_panel
            Variable genes that an integrating model reads, or a perturbation model predicts, at most.
        balance_key
            Column of ``.obs`` whose values are drawn equally often, with masking and integration.
        seed
            Of everything random.
        **options
            Fields of :class:`~sclm.models.scgpt.config.ScGPTConfig`, and what :func:`sclm.training.fit` is told of the run: ``folder``
            (without `label_key`), ``max_minutes``, ``accelerator``, ``devices``, ``num_nodes``, ``strategy``, ``precision``, ``progress_bar``.

        Returns
        -------
        The model.

        Raises
        ------
        ValueError
            If there are too few cells, batches or genes, or settings contradict each other.
        TypeError
            If there is no such option, or the objective lacks its column.
        """
        if label_key is not None:
            named = {"base": base, "preset": preset, "objective": objective, "balance_key": balance_key}
            given: dict[str, Any] = {name: value for name, value in named.items() if value is not None}
            return cls.fit_labels(
                source, label_key=label_key, batch_key=batch_key, genes=genes, seed=seed, **given, **options,
            )  # fmt: skip
        if objective is None:
            objective = "masking" if perturbation_key is None else "perturbation"
        if base is not None and not isinstance(base, ScGPT):
            raise TypeError(f"base must be an scgpt model, found {type(base).__name__}. Load one with sclm.load.")
        common: dict[str, Any] = {
            "base": base, "preset": preset, "batch_key": batch_key, "genes": genes, "n_panel": n_panel, "seed": seed,
            "training": running_options(options), "options": options,
        }  # fmt: skip
        if objective == "perturbation":
            if balance_key is not None:
                raise TypeError(
                    "balance_key= is for masking and integration; a perturbation model draws its own pairs."
                )
            return fit_response(cls, source, perturbation_key=perturbation_key, control=control, **common)  # type: ignore[return-value]
        if objective not in ("masking", "integration"):
            raise ValueError(f"objective must be 'masking', 'integration' or 'perturbation', found {objective!r}.")
        return fit_encoder(cls, source, objective=objective, balance_key=balance_key, **common)  # type: ignore[return-value]

    # What the base asks for ------------------------------------------------------------------------------------------

    @property
    def n_layers(self) -> int:
        """Layers of the network."""
        return self.config.n_layers

    @property
    def width(self) -> int:
        """D, of the states."""
        return self.config.width

    @property
    def default_layer(self) -> int:
        """The last, as in the original."""
        return -1

    @property
    def default_pooling(self) -> str:
        """The state of ``<cls>``, of unit length, as in the original; the mean in models that read no ``<cls>``."""
        return "cls" if self.cls_id is not None else "mean"

    @property
    def pad_value(self) -> int:
        """Value at padding."""
        return self.config.pad_value

    @property
    def cls_id(self) -> int | None:
        """Token id of ``<cls>``; None for perturbation models, whose sequences are genes only."""
        return None if self.config.values == "log" else int(self.vocabulary.lookup(["<cls>"])[0])

    @property
    def obs_keys(self) -> tuple[str, ...]:
        """Columns of ``.obs`` that :meth:`embed` reads where they are there: the batch, for integrating models."""
        return () if self.config.batch_key is None else (self.config.batch_key,)

    def tokenise(self, cells: Cells, *, seed: int = 0) -> Tokens:
        """``<cls>`` and the cell's genes with their bins; see :func:`~sclm.models.scgpt.tokens.cell_tokens`."""
        counts, ids = self.known_counts(cells)
        room = self.config.max_length - (self.cls_id is not None)
        if self.config.include_zeros and ids.size > room:
            raise ValueError(
                f"This model reads zeros too, at most {room:,} genes, and knows {ids.size:,} of the data. Pass the variable genes that it was "
                "tuned on: a random choice would be zeros mostly."
            )
        return cell_tokens(counts, ids, self.config, cls_id=self.cls_id, seed=seed)

    def bins(self, counts: sp.csr_matrix, *, seed: int = 0) -> np.ndarray:
        """Values (nnz,) float32 at which the network reads non-zero counts."""
        return value_tokens(counts, self.config, seed=seed)

    def known_counts(self, cells: Cells) -> tuple[sp.csr_matrix, np.ndarray]:
        """Counts (or log1p values) of the genes that the model knows by token id: CSR (n_cells, n_genes), and the ids (n_genes,)."""
        if self._matched is None or not self._matched[0].equals(cells.genes):
            self._matched = (cells.genes, self.match(cells.genes))
        found = self._matched[1].ids
        ids = np.unique(found[found >= 0])
        panel = self.network.panel
        if panel is not None:
            ids = np.intersect1d(ids, panel.cpu().numpy())
            if ids.size < _PANEL_SHARE * len(panel):
                raise ValueError(
                    f"the model reads {len(panel):,} genes that were chosen when it was trained, and the data hold {ids.size:,} of them. "
                    "Pass data of the same kind, or train on these."
                )
        places = np.full(len(self.vocabulary) + 1, -1, np.int64)
        places[ids] = np.arange(ids.size)
        columns = places[found]  # -1, unknown, is the last place: -1 again
        if self.config.values == "log":
            return move_log(log_normalise(cells.counts), columns, ids.size), ids
        return move_columns(cells.counts, columns, ids.size), ids

    def states(self, ids: torch.Tensor, values: torch.Tensor | None, real: torch.Tensor, layer: int) -> torch.Tensor:
        """States (B, L, D) after `layer` layers; 0: the sum of gene and value embeddings."""
        return self.network.encode(self._inputs(ids, values, real), real, layer)

    def encode(
        self, ids: torch.Tensor, values: torch.Tensor | None, real: torch.Tensor, layer: int, pooling: str
    ) -> torch.Tensor:
        """Vectors (B, D) of a batch. Where ``<cls>`` alone is asked for, the last of the layers computes only that position."""
        first = pooling == "cls"
        states = self.network.encode(self._inputs(ids, values, real), real, layer, only_first=first)
        return self.pool(states, ids, values, real, pooling)

    def encode_first(self, ids: torch.Tensor, values: torch.Tensor | None, real: torch.Tensor) -> torch.Tensor:
        """States (B, D) of position 0 after the last layer, as they are."""
        return self.network.encode(self._inputs(ids, values, real), real, self.n_layers, only_first=True)[:, 0]

    def _inputs(self, ids: torch.Tensor, values: torch.Tensor | None, real: torch.Tensor) -> torch.Tensor:
        if values is None:
            raise ValueError("scGPT reads a value for each token, found none: make tokens with model.tokenise(cells).")
        batches = None if self._batch is None else self._batch.expand(len(ids))
        flags = None if self.network.perturbed is None else torch.zeros_like(ids)  # nothing is perturbed
        return self.network.inputs(ids, values, real, batches=batches, flags=flags)[0]

    def pool(
        self, states: torch.Tensor, ids: torch.Tensor, values: torch.Tensor | None, real: torch.Tensor, pooling: str
    ) -> torch.Tensor:
        """``"cls"``: position 0, of unit length; ``"mean"``: the mean over positions that are no padding."""
        if pooling == "cls":
            if self.cls_id is None:
                raise ValueError("This model reads no <cls>, so that it has no state. Pass pooling='mean'.")
            return functional.normalize(states[:, 0], dim=1)
        weight = real.to(states.dtype)[:, :, None]  # (B, L, 1)
        return (states * weight).sum(dim=1) / weight.sum(dim=1)

    def perturbed(self, tokens: Tokens, genes: Sequence[int], kind: str) -> tuple[np.ndarray, Tokens]:
        """Cells whose genes leave the sequence (those that express all of them), or get the highest bin (all cells)."""
        unique = np.unique(np.asarray(genes, np.int64))
        if kind == "delete":
            return deleted(tokens, unique, keep_place=self.config.include_zeros or self.config.values == "log")
        top = float(self.config.n_bins - 1) if self.config.values == "bins" else None
        return overexpressed(tokens, unique, self.vocabulary.is_gene, top)

    def gene_embeddings(self) -> pd.DataFrame:
        """Embedding of every gene as the first layer reads it, its normalisation included: genes x D, float32."""
        genes = np.flatnonzero(self.vocabulary.is_gene)
        with self.inference():
            found = self.network.genes(torch.from_numpy(genes).to(self.device)).float().cpu().numpy()
        return pd.DataFrame(found, index=pd.Index([self.vocabulary.tokens[i] for i in genes]))

    # Classes of a fine-tuned checkpoint ------------------------------------------------------------------------------

    def class_probabilities(self, cells: Cells) -> pd.DataFrame:
        """Cells x classes of the head, float32; see :func:`~sclm.models.scgpt.classes.class_probabilities`."""
        return class_probabilities(self, cells)

    def name_classes(self, names: Sequence[str]) -> None:
        """Name the classes of the head, which scGPT's files number only: `names` in the order of the numbers, kept by ``save``."""
        if len(names) != len(self.config.classes) or len(set(names)) != len(names):
            raise ValueError(
                f"names must be {len(self.config.classes)} different ones, one a class of the head, found {len(set(names))}."
            )
        self.config = dataclasses.replace(self.config, classes=tuple(map(str, names)))

    def annotate(self, cells: Cells) -> Annotation:
        """Names for a block of cells: what the model learnt (:meth:`fit_labels`), or the classes of its authors' head.

        The latter are numbers until :meth:`name_classes`; names of types get their terms of the Cell Ontology. Nothing has calibrated
        their probabilities, and novelty is NaN, since the reference is not known. ValueError if the model names no cells.
        """
        if self.head is not None or len(self.config.classes) < 2:
            return super().annotate(cells)
        found = self.class_probabilities(cells).to_numpy()
        return class_annotation(found, class_terms(self.config.classes), cells.obs.index)

    # Batches ---------------------------------------------------------------------------------------------------------

    def embed(
        self, cells: Cells, *, hidden_layer: int | None = None, pooling: str | None = None, seed: int = 0
    ) -> np.ndarray:
        """One vector a cell, as in :meth:`sclm.models.encoder.EncoderFamily.embed`.

        A model that integrates batches normalises each cell by the statistics of its batch, ``cells.obs[config.batch_key]``; cells of
        a batch that it does not know, or without that column, by those of all batches together.
        """
        tokens = self.tokenise(cells, seed=seed)
        if self.config.input_norm != "domain":
            return self.embed_tokens(tokens, hidden_layer=hidden_layer, pooling=pooling)
        codes = self.batch_codes(cells.obs)
        out = np.full((len(codes), self.width), np.nan, dtype=np.float32)
        for code in np.unique(codes):
            rows = np.flatnonzero(codes == code)
            with self._reading_batch(int(code)):
                out[rows] = self.embed_tokens(tokens.take(rows), hidden_layer=hidden_layer, pooling=pooling)
        return out

    def batch_codes(self, obs: pd.DataFrame) -> np.ndarray:
        """(n,) int64 number of each cell's batch, -1 where the model does not know it."""
        key = self.config.batch_key
        if key is None or key not in obs.columns:
            return np.full(len(obs), -1, np.int64)
        return pd.Index(self.config.batches).get_indexer(pd.Index(obs[key].astype(str))).astype(np.int64)

    def n_of_unknown_batch(self, obs: pd.DataFrame) -> int:
        """Cells that are normalised by the statistics of all batches together, for want of one that the model knows."""
        return int((self.batch_codes(obs) < 0).sum()) if self.config.input_norm == "domain" else 0

    @contextmanager
    def _reading_batch(self, code: int) -> Iterator[None]:
        """Cells are of this batch for the time of a ``with`` block."""
        before = self._batch
        self._batch = None if code < 0 else torch.tensor(code, device=self.device)
        try:
            yield
        finally:
            self._batch = before

    # Responses to perturbations --------------------------------------------------------------------------------------

    @property
    def trained_perturbations(self) -> tuple[str, ...]:
        """Names of the perturbations that it was trained on; none where it was not, or by others."""
        return self.config.perturbations

    @property
    def responds(self) -> bool:
        """Whether it was trained on perturbed cells, by us or by others."""
        return self.config.perturbation_flags > 0 and self.config.expression == "affine"

    @property
    def paired_within(self) -> str | None:
        """Column of ``.obs`` within whose batches perturbed cells were paired with control cells."""
        return self.config.paired_within or None

    def respond(self, cells: Cells, perturbations: Sequence[Sequence[str]], *, seed: int = 0) -> pd.DataFrame:
        """Mean profile of control cells after each perturbation; see :func:`~sclm.models.scgpt.response.respond`."""
        return respond(self, cells, perturbations, seed=seed)

    # Attention -------------------------------------------------------------------------------------------------------

    def attention_scores(
        self,
        cells: Cells,
        *,
        genes: Sequence[str] | None = None,
        layer: int = -1,
        groups: np.ndarray | None = None,
        seed: int = 0,
    ) -> dict[int, pd.DataFrame]:
        """How strongly genes attend to one another; see :func:`~sclm.models.scgpt.attention.attention_scores`."""
        return attention_scores(self, cells, genes=genes, layer=layer, groups=groups, seed=seed)
