"""The Cell2Text family: fit, write, describe, annotate, embed, save and load."""

from __future__ import annotations

import dataclasses
import json
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import pandas as pd
import torch

from sclm.cells import Cells, GeneVocabulary, align, require_overlap
from sclm.evidence import claim_table, faithfulness, softmax
from sclm.models.cell2text.checking import as_stated, checked_texts, statements_of
from sclm.models.cell2text.config import Cell2TextConfig
from sclm.models.cell2text.decoding import Decoder
from sclm.models.cell2text.fitting import class_sizes, learn
from sclm.models.cell2text.inputs import Inputs, cell_width, n_types_read
from sclm.models.cell2text.network import Cell2TextNetwork, build_lm
from sclm.models.cell2text.slots import Slots
from sclm.models.cell2text.tokens import CellValues, TypeRegression, Writer
from sclm.models.cell2text.writing import type_places, written
from sclm.models.contract import Annotation, Description
from sclm.models.encoder_novelty import CountSpace
from sclm.models.handed_encoder import pack_encoder, require_encoder, unpack_encoder
from sclm.models.labels import UNKNOWN, label_texts
from sclm.models.neural import NeuralFamily
from sclm.nn import WordVocabulary, load_own_state
from sclm.texts import CellFacts
from sclm.training import running_options

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from sclm.cells import CellSource, GeneMatch
    from sclm.evidence import Checker
    from sclm.models.cell2text.tokens import Batch
    from sclm.models.encoder import EncoderFamily
    from sclm.nn.memory import Part

_TOGETHER = 64  # cells that the language model writes about at a time
LABEL = "cell_type"  # column of obs with types that are given
_OURS = ("cell_", "types_", "vector_", "space_")


class Cell2Text(NeuralFamily):
    """Descriptions of cells by a language model that reads the states of a cell encoder, each statement checked against the data.

    The method of Cell2Text (Kharouiche et al. 2025): states of a frozen encoder for a cell's highest genes, an adapter, and a causal
    language model that writes a template of identity, origin and pathways. What is ours is listed on the family's page.

    Parameters
    ----------
    config, vocabulary, network, card
        As in :class:`~sclm.models.neural.NeuralFamily`; the vocabulary is that of the token of the whole cell.
    encoder
        The frozen encoder.
    arrays
        What is usual of the training cells: ``cell_*``, ``types_*``, ``vector_*``, ``space_*``.
    """

    network: Cell2TextNetwork
    #: Names types by itself: it is not told the names of groups unless ``label_key=`` asks for it.
    names_types: ClassVar[bool] = True
    family: ClassVar[str] = "cell2text"
    reads_streams: ClassVar[bool] = True  # sclm.train may hand it several AnnData
    Config: ClassVar[type] = Cell2TextConfig
    #: Family whose small encoder is trained on the same cells where none is handed over.
    default_encoder: ClassVar[str] = "geneformer"
    #: One row a label of the reference, after training: label, n_cells, name, term_id, kind. None for a loaded model.
    reference_labels: pd.DataFrame | None = None

    def __init__(
        self,
        config: Cell2TextConfig,
        vocabulary: GeneVocabulary,
        network: Cell2TextNetwork,
        card: dict[str, Any] | None = None,
        *,
        encoder: EncoderFamily,
        arrays: dict[str, np.ndarray],
    ) -> None:
        super().__init__(config, vocabulary, network, card)
        self.encoder = encoder
        self._arrays = arrays
        self._last: tuple[pd.Index, GeneMatch, Inputs] | None = None

    # ------------------------------------------------------------------ training

    @classmethod
    def fit(
        cls,
        source: CellSource,
        *,
        label_key: str | None = None,
        batch_key: str | None = None,
        obs_keys: Sequence[str] | None = None,
        encoder: EncoderFamily | None = None,
        pathways: pd.DataFrame | None = None,
        pathway_texts: Mapping[str, str] | None = None,
        preset: str = "small",
        genes: Any = None,
        seed: int = 0,
        **options: Any,
    ) -> Self:
        """Learn to describe labelled cells.

        Parameters
        ----------
        source
            Raw counts.
        label_key
            Column of ``.obs`` with the cell types.
        batch_key
            Donor or batch: whole ones are held out, to choose the epoch and to calibrate.
        obs_keys
            Columns that descriptions speak of, named as in the CELLxGENE schema: ``"tissue"``, ``"disease"``, ``"sex"``,
            ``"development_stage"``.
        encoder
            A Geneformer, scGPT or other encoder, frozen. :func:`sclm.train` also takes its folder or name; with the name of a family, and by
            default, a small one is trained on the same cells, without their labels.
        pathways
            Activities of gene sets, cells x sets, as :func:`sclm.get.pathways` gives them: descriptions name each cell's two highest.
        pathway_texts
            Name of a gene set → its description, a sentence's end with its full stop.
        preset
            ``"tiny"``, ``"small"``, or with a pretrained language model ``"llama-3.2-1b"`` and ``"llama-3.2-3b"``, the paper's runs.
        genes
            Restrict the token of the whole cell to the genes shared with these.
        seed
            Of everything random.
        **options
            Fields of :class:`~sclm.models.cell2text.config.Cell2TextConfig`, and ``folder``, ``max_minutes``, ``accelerator``, ``devices``,
            ``strategy``, ``precision``, ``progress_bar`` of :func:`sclm.training.fit`.

        Returns
        -------
        The model.

        Raises
        ------
        TypeError
            If there is no encoder, no label_key, or no such option.
        ValueError
            If there are too few cells or types, or rows of `pathways` do not fit.
        """
        if label_key is None:
            raise TypeError(f"{cls.family!r} needs label_key=, the column of .obs with the cell types.")
        frozen = require_encoder(encoder, cls.family)
        training = running_options(options)
        config = Cell2TextConfig.preset(preset, **options)
        found = learn(
            source, config, frozen, label_key=label_key, batch_key=batch_key, pathways=pathways, pathway_texts=pathway_texts,
            genes=genes, seed=seed, **training,
        )  # fmt: skip
        model = cls(found.config, found.vocabulary, found.network, found.card, encoder=frozen, arrays=found.arrays)
        model.reference_labels = found.original
        return model

    # ------------------------------------------------------------------ checkpoint

    def arrays(self) -> dict[str, np.ndarray]:
        """Weights that are ours, statistics, the encoder (a large one by name), and the words of the language model as JSON in bytes."""
        parts = {f"network.{name}": array for name, array in super().arrays().items()}
        if isinstance(self.network.lm.tokenizer, WordVocabulary):
            parts["words"] = np.frombuffer(json.dumps(self.network.lm.tokenizer.tokens).encode(), np.uint8)
        return parts | self._arrays | pack_encoder(self.encoder)

    @classmethod
    def from_arrays(
        cls, config: Any, vocabulary: GeneVocabulary, arrays: dict[str, np.ndarray], card: dict[str, Any]
    ) -> Self:
        """The inverse of :meth:`arrays`."""
        encoder = require_encoder(unpack_encoder(arrays), cls.family)
        words = WordVocabulary(json.loads(arrays["words"].tobytes())) if "words" in arrays else None
        network = Cell2TextNetwork(
            config, build_lm(config, words, seed=0), encoder_width=encoder.width,
            cell_width=cell_width(config, encoder, arrays["cell_components"].shape[1]), n_types=n_types_read(config), n_classes=class_sizes(config),
        )  # fmt: skip
        state = {k.removeprefix("network."): v for k, v in arrays.items() if k.startswith("network.")}
        load_own_state(network, {name: torch.tensor(array) for name, array in state.items()})
        rest = {k: v for k, v in arrays.items() if k.startswith(_OURS)}
        return cls(config, vocabulary, network, card, encoder=encoder, arrays=rest)

    def to(self, device: str | torch.device) -> Self:
        """Move the network and its encoder."""
        super().to(device)
        self.encoder.to(self.device)
        return self

    def set(self, **settings: Any) -> Self:
        """The same model with other settings (``decoding``, ``max_tokens``); the weights are shared."""
        config = dataclasses.replace(self.config, **settings)
        return type(self)(
            config, self.vocabulary, self.network, self.card, encoder=self.encoder, arrays=self._arrays
        )  # fmt: skip

    # ------------------------------------------------------------------ parts

    @cached_property
    def slots(self) -> Slots:
        """What can stand in each slot of the template."""
        return Slots(self.config)

    @cached_property
    def decoder(self) -> Decoder:
        """Asks the network."""
        return Decoder(self.network, Writer(self.network.lm), self.slots)

    @cached_property
    def _space(self) -> CountSpace:
        return CountSpace(self._arrays, self.config.space_scale)

    def match(self, genes: pd.Index) -> GeneMatch:
        """Overlap of the data's genes with those of the cell token; raises where it is too small, or the encoder knows too few."""
        return self._inputs(genes)[0]

    def _inputs(self, genes: pd.Index) -> tuple[GeneMatch, Inputs]:
        if self._last is None or self._last[0] is not genes:
            match = self.vocabulary.match(genes)
            require_overlap(genes, self.vocabulary, match)
            self.encoder.match(genes)
            values = CellValues(*(self._arrays[f"cell_{name}"] for name in CellValues._fields))
            inputs = Inputs(self.config, self.encoder, values, genes, self.vocabulary, 0)
            inputs.vector_mean, inputs.vector_scale = self._arrays["vector_mean"], self._arrays["vector_scale"]
            inputs.types = TypeRegression(self._arrays["types_weights"], self._arrays["types_intercepts"])
            self._last = genes, match, inputs
        return self._last[1:]

    def _batches(self, cells: Cells) -> Iterator[tuple[Part, Batch]]:
        """Rows with counts, as many as fit into memory, and their prompts."""
        match, inputs = self._inputs(cells.genes)
        counts = align(cells, self.vocabulary, min_share=0.0, match=match)[0]
        rows = np.flatnonzero(np.diff(counts.indptr) > 0)
        parts = (rows[start : start + _TOGETHER] for start in range(0, len(rows), _TOGETHER))
        for part in self.memory.fitting(parts):
            states = inputs.states(Cells(cells.counts[part.rows], cells.genes, cells.obs.iloc[part.rows]))
            batch = self.decoder.writer.pack(states, inputs.values(counts[part.rows], states))
            yield part, type(batch)(*(t.to(self.device) for t in batch))

    # ------------------------------------------------------------------ use

    def write(self, cells: Cells, *, reuse: bool = True) -> pd.DataFrame:
        """Descriptions as the language model makes them, not checked.

        Parameters
        ----------
        cells
            Raw counts.
        reuse
            Read what stands before a slot once; False reads it again for each slot, with the same result.

        Returns
        -------
        One row a cell: ``text``, and what it says, ``cell_type``, ``tissue``, ``sex``, ``disease``, ``age`` (empty where nothing is said),
        ``pathways`` (tuple), each with its probability in ``<field>_probability`` (NaN where there was no choice to make; of free text
        always). Cells without counts have empty texts.
        """
        facts, probabilities, texts = self._write(cells, reuse=reuse)
        table = pd.DataFrame(facts, index=cells.obs.index, columns=list(CellFacts._fields)).drop(columns="definition")
        table.insert(0, "text", texts)
        for name, values in probabilities.items():
            table[f"{name}_probability"] = values
        return table

    def _write(
        self, cells: Cells, types: np.ndarray | None = None, *, reuse: bool = True
    ) -> tuple[list[CellFacts], dict[str, np.ndarray], list[str]]:
        n, fields = cells.n_cells, ("cell_type", "tissue", "sex", "disease", "age", "pathways")
        facts, texts = [CellFacts()] * n, [""] * n
        probabilities = {name: np.full(n, np.nan) for name in fields}
        with self.inference():
            for part, batch in self._batches(cells):
                with part as rows:
                    found = written(self.decoder, batch, None if types is None else types[rows], reuse=reuse)
                    for row, of, text in zip(rows, found.facts, found.texts, strict=True):
                        facts[row], texts[row] = of, text
                    for name, values in found.chances.items():
                        probabilities[name][rows] = values
        return facts, probabilities, texts

    def pathway_scores(self, cells: Cells) -> pd.DataFrame:
        """How strongly a description claims each pathway: its chance to be named first plus that to be named second, 0 to 2.

        Parameters
        ----------
        cells
            Raw counts.

        Returns
        -------
        Cells x pathways, float64; NaN for cells without counts.
        """
        found = np.full((cells.n_cells, len(self.config.pathways)), np.nan)
        with self.inference():
            for part, batch in self._batches(cells):
                with part as rows:
                    scores = self.decoder.fill(batch).log_probs
                    found[rows] = sum(np.exp(scores[s]) for s in ("pathway_1", "pathway_2") if s in scores)
        return pd.DataFrame(found, index=cells.obs.index, columns=list(self.config.pathways))

    def describe(self, cells: Cells, *, checker: Checker, seed: int = 0) -> Description:
        """One text a cell, each statement checked against the data that `checker` was fitted on.

        Parameters
        ----------
        cells
            Raw counts. A column ``cell_type`` of ``obs`` holds types that are given: they stand in the text as if the model had named them, what
            follows is written behind them, and they are checked as all else. Empty or missing: the model names the type.
        checker
            Looks statements up: :class:`sclm.evidence.Checker`.
        seed
            Not used: nothing is drawn.

        Returns
        -------
        Texts with the share of statements that were kept, and all statements.

        Raises
        ------
        ValueError
            If a type is given that training has not seen.
        """
        given = type_places(label_texts(cells.obs[LABEL]), self.config) if LABEL in cells.obs else None
        facts, _, _ = self._write(cells, given)
        ids = dict(zip(self.config.labels, self.config.term_ids, strict=True))
        statements = statements_of(facts, ids)
        worded = cells._replace(obs=as_stated(cells.obs, facts))
        claims = checker.check(worded, statements) if statements else claim_table()
        texts = checked_texts(facts, claims, self.slots.pathway_texts)
        written = [text if of != CellFacts() else "" for text, of in zip(texts, facts, strict=True)]
        table = pd.DataFrame(
            {"text": written, "faithfulness": faithfulness(claims, cells.n_cells)}, index=cells.obs.index
        )
        return Description(table, claims)

    def embed(
        self, cells: Cells, *, hidden_layer: int | None = None, pooling: str | None = None, seed: int = 0
    ) -> np.ndarray:
        """State of the language model where it is about to name the cell's type: all that it has read of the cell.

        Parameters
        ----------
        cells
            Raw counts.
        hidden_layer, pooling, seed
            There is one state, and nothing is drawn: the first two must be None.

        Returns
        -------
        (n_cells, width of the language model) float32; NaN for cells without counts in the model's genes.
        """
        for name, value in (("hidden_layer", hidden_layer), ("pooling", pooling)):
            if value is not None:
                raise TypeError(f"{self.family!r} has no use for {name}={value!r}. Leave it out.")
        vectors = np.full((cells.n_cells, self.network.lm.width), np.nan, dtype=np.float32)
        with self.inference():
            for part, batch in self._batches(cells):
                with part as rows:
                    vectors[rows] = self.decoder.states(batch)
        return vectors

    def annotate(self, cells: Cells) -> Annotation:
        """Names for a block of cells: what stands in the description's slot of the cell type.

        Parameters
        ----------
        cells
            Raw counts.

        Returns
        -------
        Labels, terms, calibrated confidence, novelty; probabilities over the types of training.
        """
        labels, ids = np.array(self.config.labels, dtype=object), np.array(self.config.term_ids, dtype=object)
        p = np.full((cells.n_cells, len(labels)), 1 / len(labels))
        filled = np.zeros(cells.n_cells, dtype=bool)
        with self.inference():
            for part, batch in self._batches(cells):
                with part as rows:
                    p[rows], filled[rows] = softmax(self.decoder.first_slot(batch), self.config.temperature), True
        novelty = np.ones(cells.n_cells)
        if filled.any():
            match, inputs = self._inputs(cells.genes)
            counts = align(cells, self.vocabulary, min_share=0.0, match=match)[0]
            novelty[filled] = self._space.novelty(counts[filled], inputs.present)
        best = p.argmax(axis=1)
        table = pd.DataFrame(
            {
                "label": np.where(filled, labels[best], UNKNOWN),
                "ontology_term_id": np.where(filled, ids[best], UNKNOWN),
                "confidence": np.where(filled, p.max(axis=1), 0.0),
                "novelty": novelty,
            },
            index=cells.obs.index,
        )
        categories = pd.DataFrame({"label": labels, "ontology_term_id": ids})
        return Annotation(table, p.astype(np.float32), categories)
