"""Public language models of cell sentences behind our verbs: name cells, give them vectors, write them.

n cells · B prompts of a batch · D width
"""

from __future__ import annotations

import dataclasses
import logging
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import pandas as pd
from scipy import sparse

from sclm.cells import GeneVocabulary, require_overlap
from sclm.evidence import fit_temperature
from sclm.evidence.backoff import UNKNOWN
from sclm.knowledge import Ontology
from sclm.models.cell2sentence import prompts
from sclm.models.cell2sentence.config import Cell2SentenceConfig
from sclm.models.cell2sentence.inverse import InverseRank
from sclm.models.cell2sentence.naming import affordable, free_answers, name_log_probs
from sclm.models.cell2sentence.sentences import of_data, symbols_of, write_sentences
from sclm.models.cell2sentence.vectors import POOLINGS, checked, prompt_vectors
from sclm.models.cell2sentence.writing import NOTES, cells_of, check_request, write_after
from sclm.models.contract import Annotation
from sclm.models.neural import NeuralFamily
from sclm.models.open_labels import LabelSet, answer, label_set
from sclm.nn import PrefixLM, Trie

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import torch

    from sclm.cells import Cells, GeneMatch

logger = logging.getLogger(__name__)

_MIN_SHARE = 0.1  # of the data's genes that must have a symbol


class Cell2Sentence(NeuralFamily):
    """Public language models of cell sentences (C2S Pythia, C2S-Scale), by hub name or folder: name, embed and write cells.

    The weights stay where they are: a checkpoint of this family names them, with their fingerprint, and holds the settings.
    """

    family = "cell2sentence"
    Config = Cell2SentenceConfig
    poolings: ClassVar[tuple[str, ...]] = POOLINGS

    network: PrefixLM

    def __init__(
        self, config: Any, vocabulary: GeneVocabulary, network: torch.nn.Module, card: dict[str, Any] | None = None
    ) -> None:
        super().__init__(config, vocabulary, network, card)
        self._trie: tuple[tuple[str, ...], Trie] | None = None  # of the names asked for last
        self._last_match: tuple[pd.Index, GeneVocabulary, GeneMatch] | None = None

    @classmethod
    def open(
        cls,
        base_lm: str | Path,
        *,
        revision: str | None = None,
        dtype: str | None = None,
        device_map: str | dict[str, Any] | None = None,
        **settings: Any,
    ) -> Self:
        """A language model of a hub or a folder, ready to be asked.

        Parameters
        ----------
        base_lm
            ``"hf:organisation/name"``, for example ``"hf:vandijklab/C2S-Pythia-410m-cell-type-prediction"``, or a folder with
            ``config.json``, ``*.safetensors`` and the tokenizer.
        revision
            Commit, tag or branch on the hub.
        dtype
            Of the weights, for example ``"bfloat16"``; None: as they are stored.
        device_map
            ``"auto"`` spreads a model over the GPUs that are there.
        **settings
            Fields of :class:`Cell2SentenceConfig`.

        Returns
        -------
        The model.

        Raises
        ------
        FileNotFoundError, ValueError
            If it is not to be had, or holds no language model; if a setting is out of range.
        """
        config = cls.Config(base_lm=str(base_lm), revision=revision or "", dtype=dtype or "", **settings)
        network = PrefixLM.pretrained(
            base_lm, lora_rank=0, revision=revision, dtype=dtype, device_map=device_map, fingerprint=config.fingerprint
        )
        base = network.lm.base_model or {}
        config = dataclasses.replace(config, fingerprint=network.fingerprint, revision=base.get("revision") or "")
        card = {
            "data": f"weights of {base_lm}, unchanged; see its own card",
            "split": "that of its authors",
            "limits": "Knows what its authors trained it on. Confidences are its own until calibrated on labelled cells.",
        }
        return cls(config, symbols_of(config.organism), network, card)

    @classmethod
    def build(cls, config: Any, vocabulary: GeneVocabulary) -> torch.nn.Module:
        """The language model of the configuration, from where it is."""
        return PrefixLM.pretrained(
            config.base_lm,
            lora_rank=0,
            revision=config.revision or None,
            dtype=config.dtype or None,
            fingerprint=config.fingerprint,
        )

    def set(self, **settings: Any) -> Self:
        """The same model with other settings (``candidates``, ``n_genes``, ``annotate_prompt`` …); the weights are shared."""
        config = dataclasses.replace(self.config, **settings)
        vocabulary = self.vocabulary if config.organism == self.config.organism else symbols_of(config.organism)
        return type(self)(config, vocabulary, self.network, self.card)

    # ------------------------------------------------------------------ cells to prompts

    def match(self, genes: pd.Index) -> GeneMatch:
        """Which genes of the data have a symbol that can be written.

        Raises
        ------
        ValueError
            If less than a tenth have, with the likely reason.
        """
        return self._matched(genes)[1]

    def _matched(self, genes: pd.Index) -> tuple[GeneVocabulary, GeneMatch]:
        """Symbols that are written (approved human ones; of other organisms the data's own), and the data's among them."""
        if self._last_match is None or self._last_match[0] is not genes:
            words = self.vocabulary if len(self.vocabulary) else of_data(list(genes))
            found = words.match(genes)
            require_overlap(genes, words, found, min_share=_MIN_SHARE, of="data")
            self._last_match = genes, words, found
        return self._last_match[1:]

    def sentences(self, cells: Cells, *, seed: int = 0) -> list[str]:
        """Cell sentences: upper-case symbols by decreasing count, at most ``n_genes``.

        Parameters
        ----------
        cells
            Raw counts.
        seed
            Of the order of genes with equal counts: one order for all cells.

        Returns
        -------
        One sentence a cell, empty for a cell without genes.
        """
        words, match = self._matched(cells.genes)
        return [" ".join(of) for of in write_sentences(cells, words, match, self.config.n_genes, seed)]

    def _prompts(self, sentences: Sequence[str]) -> list[list[int]]:
        """Token ids of the prompts of sentences."""
        return self.network.encode(
            [
                self.config.annotate_prompt.format(
                    cell_sentence=sentence, num_genes=sentence.count(" ") + 1, organism=self.config.organism
                )
                for sentence in sentences
            ]
        )

    # ------------------------------------------------------------------ names

    def annotate(
        self,
        cells: Cells,
        *,
        candidates: Sequence[str] | None = None,
        under: str | Sequence[str] | None = None,
        decoding: str | None = None,
        seed: int = 0,
    ) -> Annotation:
        r"""Names for a block of cells.

        The model reads each cell's sentence and scores what may be written after it: with :math:`p(y)` the probability of the text of
        a name, full stop included, the answer's probability is :math:`p(y)^{1/T} / \sum_c p(c)^{1/T}` over the candidates.

        Parameters
        ----------
        cells
            Raw counts.
        candidates
            Names or ids of the cell types that may be given. None: those of the settings, or every term of the Cell Ontology.
        under
            Only types below these terms, for example ``"lymphocyte"``.
        decoding
            ``"exhaustive"``: every candidate is scored. ``"best"``: a search finds the 16 most probable, the others get probability 0;
            for large models and many candidates. ``"free"``: the model writes, and the text is resolved to a term of the ontology, without
            candidates. None: exhaustive where that is affordable, else best.
        seed
            Of the order of genes with equal counts.

        Returns
        -------
        Labels, ids, confidences, and probabilities of the candidates (None with ``"free"``). Novelty is the share of the model's
        probability that falls on none of the names; NaN with ``"free"``, at most that much with ``"best"``.

        Raises
        ------
        ValueError
            If a setting is unknown, or candidates are given with ``"free"``.
        """
        if decoding not in (None, "exhaustive", "best", "free"):
            raise ValueError(f"decoding must be 'exhaustive', 'best', 'free' or None, found {decoding!r}.")
        sentences = self.sentences(cells, seed=seed)
        filled = np.array([bool(s) for s in sentences], dtype=bool)
        ids = self._prompts([s for s in sentences if s])
        if decoding == "free":
            if candidates is not None or under is not None:
                raise ValueError("decoding='free' writes what it likes: leave candidates= and under= out.")
            return self._free(ids, filled, cells.obs.index)
        labels = self._labels(candidates, under)
        scores = labels.scores(self._log_probs(ids, labels, decoding))
        mass = np.exp(np.logaddexp.reduce(scores, axis=1)) if len(scores) else np.zeros(0)
        return answer(
            labels,
            scores,
            filled,
            cells.obs.index,
            temperature=self.config.temperature,
            novelty=np.clip(1 - mass, 0, 1),
        )

    def calibrated(self, cells: Cells, label_key: str, *, seed: int = 0) -> Self:
        """The same model with confidences that fit labelled cells: see :func:`sclm.evidence.fit_temperature`.

        Parameters
        ----------
        cells
            Raw counts, with labels in ``.obs``; those that are no candidate are left out.
        label_key
            Column of ``.obs``.
        seed
            As in :meth:`annotate`.

        Returns
        -------
        The model, with its temperature set.

        Raises
        ------
        ValueError
            If no label is a candidate.
        """
        labels = self._labels(None, None)
        truth = labels.codes(cells.obs[label_key], Ontology.load("cl"))
        sentences = self.sentences(cells, seed=seed)
        use = np.flatnonzero((truth >= 0) & np.array([bool(s) for s in sentences]))
        if not len(use):
            raise ValueError(
                f"expected labels among the {len(labels.labels):,} candidates, found none in {label_key!r}."
            )
        scores = labels.scores(self._log_probs(self._prompts([sentences[i] for i in use]), labels, "exhaustive"))
        return self.set(temperature=fit_temperature(scores, truth[use]))

    def _labels(self, candidates: Sequence[str] | None, under: str | Sequence[str] | None) -> LabelSet:
        chosen = candidates if candidates is not None else (self.config.candidates or None)
        return label_set(Ontology.load("cl"), chosen, under, synonyms=self.config.synonyms)

    def _names(self, labels: LabelSet) -> Trie:
        """The answers as a tree; an answer that does not end with a mark of its own ends with the token of the end."""
        if self._trie is None or self._trie[0] != labels.texts:
            lm, config = self.network, self.config
            written = [config.answer.format(cell_type=text) for text in labels.texts]
            closed = bool(prompts.ending(config.answer).strip())
            sequences = lm.encode_after(prompts.ending(config.annotate_prompt), written)
            self._trie = labels.texts, Trie.build(sequences, eos=None if closed else lm.eos)
        return self._trie[1]

    def _log_probs(self, ids: Sequence[Sequence[int]], labels: LabelSet, decoding: str | None) -> np.ndarray:
        trie = self._names(labels)
        chosen = decoding or ("exhaustive" if affordable(self.network, trie) else "best")
        with self.inference():
            return name_log_probs(self.network, ids, trie, chosen, self.memory)

    def _free(self, ids: Sequence[Sequence[int]], filled: np.ndarray, index: pd.Index) -> Annotation:
        with self.inference():
            found = free_answers(self.network, ids, Ontology.load("cl"), self.memory)
        columns: dict[str, Any] = {"label": UNKNOWN, "ontology_term_id": UNKNOWN, "confidence": 0.0}
        for name, values in zip(list(columns), found, strict=True):
            columns[name] = np.full(len(filled), columns[name], dtype=values.dtype)
            columns[name][filled] = values
        table = pd.DataFrame({**columns, "novelty": np.nan}, index=index)
        return Annotation(table, None, pd.DataFrame(columns=["label", "ontology_term_id"], dtype=object))

    # ------------------------------------------------------------------ vectors

    def chosen(self, hidden_layer: int | None = None, pooling: str | None = None) -> tuple[int, str]:
        """Layer counted from the end and pooling that are used, checked; None: the last layer, and the mean."""
        return checked(self.network.n_layers, hidden_layer, pooling)

    def embed(
        self, cells: Cells, *, hidden_layer: int | None = None, pooling: str | None = None, seed: int = 0
    ) -> np.ndarray:
        """One vector a cell: the mean of the hidden states of its prompt. Padding is left out of the mean.

        Parameters
        ----------
        cells
            Raw counts.
        hidden_layer
            0 the embeddings of the tokens, -1 (None) the last layer.
        pooling
            ``"mean"`` (None) over the tokens of the prompt, or ``"last"``: the state from which the answer is written.
        seed
            Of the order of genes with equal counts.

        Returns
        -------
        (n_cells, D) float32; NaN for cells that express no gene with a symbol.
        """
        layer, pooling = self.chosen(hidden_layer, pooling)
        sentences = self.sentences(cells, seed=seed)
        at = np.flatnonzero([bool(s) for s in sentences])
        ids = self._prompts([sentences[i] for i in at])
        vectors = np.full((len(sentences), self.network.width), np.nan, dtype=np.float32)
        with self.inference():
            vectors[at] = prompt_vectors(self.network, ids, layer, pooling, self.memory)
        return vectors

    # ------------------------------------------------------------------ cells

    def with_inverse(self, cells: Cells, *, seed: int = 0) -> Self:
        """The same model with the line from ranks to expression fitted on these cells."""
        return self.set(inverse=dataclasses.astuple(InverseRank.fit(sparse.csr_matrix(cells.counts), seed=seed)))

    def writing(self) -> dict[str, Any]:
        """How cells are written, for the record: the prompt and the line from ranks to expression."""
        return {"prompt": self.config.generate_prompt, "inverse": dataclasses.asdict(self.inverse)}

    @property
    def inverse(self) -> InverseRank:
        """The line from ranks to expression."""
        names = [field.name for field in dataclasses.fields(InverseRank)]
        return InverseRank(**dict(zip(names, self.config.inverse, strict=True)))

    def generate(self, request: pd.DataFrame, *, seed: int = 0, temperature: float = 1.0) -> Cells:
        """Write cells of the types that are asked for.

        The model writes a sentence of genes; their ranks become expression by :attr:`inverse`, and whole counts at the depth. What is no
        gene keeps its rank and is left out; a gene that is repeated stands once, at the mean of its places.

        Parameters
        ----------
        request
            One row a cell: ``cell_type`` as the model should read it, and where wanted ``n_counts``, the depth.
        seed
            Of the words that are drawn; a cell depends on its row, not on the others.
        temperature
            0: always the most probable word, the same cell for the same type.

        Returns
        -------
        Counts of the genes that can be written; in ``.obs`` the request and ``sclm_words``, ``sclm_unknown_words`` and
        ``sclm_repeated_genes``, how many.

        Raises
        ------
        KeyError, ValueError
            If the request has no column ``cell_type``, no rows, or missing values.
        """
        check_request(request)
        if not len(self.vocabulary):
            raise ValueError(
                f"cells are written in human symbols, and those of {self.config.organism!r} are not on record: written() gives the "
                "sentences."
            )
        texts = self.written(request["cell_type"].astype(str).tolist(), seed=seed, temperature=temperature)
        cells = cells_of(texts, request, self.vocabulary, self.inverse)
        words, unknown, repeated = (int(cells.obs[name].sum()) for name in NOTES)
        logger.info("wrote %d words: %d are no gene, %d repeat one", words, unknown, repeated)
        return cells

    def written(self, cell_types: Sequence[str], *, seed: int = 0, temperature: float = 1.0) -> list[str]:
        """Sentences that the model writes for cell types, without the prompt."""
        config = self.config
        asked = [
            config.generate_prompt.format(cell_type=name, num_genes=config.n_genes, organism=config.organism)
            for name in cell_types
        ]
        with self.inference():
            how: dict[str, Any] = {"max_tokens": config.max_tokens, "temperature": temperature, "seed": seed}
            return write_after(self.network, asked, memory=self.memory, **how)
