"""The CellTosg2Sequence family: fit, annotate in an open vocabulary, explain, save and load."""

from __future__ import annotations

import json
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import pandas as pd
import torch

from sclm.cells import Cells, GeneVocabulary, align, log_normalise, require_overlap, sum_groups
from sclm.evidence import ReferenceSpace
from sclm.knowledge import KnowledgeGraph, Ontology
from sclm.models.celltosg.answers import Answers
from sclm.models.celltosg.config import STAGES, CellToSGConfig
from sclm.models.celltosg.evidence import Prototypes
from sclm.models.celltosg.explaining import explain
from sclm.models.celltosg.graph_tensors import graph_tensors
from sclm.models.celltosg.judging import Judge
from sclm.models.celltosg.learning import learn
from sclm.models.celltosg.mixture import choose
from sclm.models.celltosg.network import CellToSGNetwork, build_lm
from sclm.models.celltosg.parts import load_graph, make_encoder, make_names, places_of
from sclm.models.celltosg.reporting import report
from sclm.models.celltosg.voices import Voices, parts_of
from sclm.models.labels import UNKNOWN
from sclm.models.neural import NeuralFamily
from sclm.nn import WordVocabulary, load_own_state
from sclm.training import running_options

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sclm.cells import CellSource, GeneMatch
    from sclm.models.celltosg.encoding import Encoder
    from sclm.models.celltosg.module import Names
    from sclm.models.contract import Annotation


class CellToSG(NeuralFamily):
    """Cell types in an open vocabulary: a language model behind virtual tokens of a knowledge graph.

    Re-implementation from the public abstract of CellTosg2Sequence (Chen et al. 2026), whose text, code, weights and sizes are not
    public; what it leaves open is our choice: see the family's page.

    Parameters
    ----------
    config, vocabulary, network, card
        As in :class:`~sclm.models.neural.NeuralFamily`.
    graph
        Knowledge around the vocabulary's genes.
    arrays
        Statistics of the training cells and weights of the answer: ``scale``, ``share``, ``prototypes.*``, ``discriminant.*``, ``mean``, ``seen``, ``novelty``,
        ``space.*``, ``null`` (what the language model says of the training types without a cell).
    """

    network: CellToSGNetwork
    family: ClassVar[str] = "celltosg"
    reads_streams: ClassVar[bool] = True  # sclm.train may hand it several AnnData
    Config: ClassVar[type] = CellToSGConfig
    #: One row a label of the reference, after training: label, n_cells, name, term_id, kind. None for a loaded model.
    reference_labels: pd.DataFrame | None = None

    def __init__(
        self,
        config: CellToSGConfig,
        vocabulary: GeneVocabulary,
        network: CellToSGNetwork,
        card: dict[str, Any] | None = None,
        *,
        graph: KnowledgeGraph,
        arrays: dict[str, np.ndarray],
    ) -> None:
        super().__init__(config, vocabulary, network, card)
        self.graph = graph
        self._arrays = arrays
        self._last_match: tuple[pd.Index, GeneMatch] | None = None

    # ------------------------------------------------------------------ training

    @classmethod
    def fit(
        cls,
        source: CellSource,
        *,
        label_key: str | None = None,
        batch_key: str | None = None,
        obs_keys: Sequence[str] | None = None,
        graph: Any = None,
        stages: Sequence[str] = STAGES,
        preset: str = "small",
        genes: Any = None,
        seed: int = 0,
        **options: Any,
    ) -> Self:
        """Learn from labelled cells.

        Parameters
        ----------
        source
            Raw counts.
        label_key
            Column of ``.obs`` with the cell types.
        batch_key
            Donor or batch: whole ones are held out for calibration.
        obs_keys
            Columns that prompts name and ask for: ``"tissue"``, ``"disease"``.
        graph
            A :class:`~sclm.knowledge.KnowledgeGraph`, its folder, or None for the one that comes with the package. Where cell types
            are held out for a test, hand ``graph.without_markers_of(types)``.
        stages
            Of ``"anchor"``, ``"align"``, ``"reinforce"``.
        preset
            ``"tiny"``, ``"small"`` or ``"base"``.
        genes
            Restrict the vocabulary to the genes shared with these.
        seed
            Of everything random.
        **options
            Fields of :class:`~sclm.models.celltosg.config.CellToSGConfig`, and what :func:`sclm.training.fit` is told of each stage:
            ``folder`` (a folder a stage inside), ``max_minutes``, ``accelerator``, ``devices``, ``num_nodes``, ``strategy``,
            ``precision``, ``progress_bar``.

        Raises
        ------
        ValueError
            If a stage is unknown, there are too few cells or types, or no counts.
        TypeError
            If there is no such option.
        """
        if label_key is None:
            raise TypeError(f"{cls.family!r} needs label_key=, the column of .obs with the cell types.")
        running = running_options(options)
        config = CellToSGConfig.preset(preset, **options)
        learnt = learn(
            source, config, label_key=label_key, batch_key=batch_key, obs_keys=obs_keys or (), graph=load_graph(graph),
            stages=stages, genes=genes, folder=running.pop("folder", None), seed=seed, **running,
        )  # fmt: skip
        model = cls(
            learnt.config, learnt.vocabulary, learnt.network, learnt.card, graph=learnt.graph, arrays=learnt.arrays
        )
        model.reference_labels = learnt.original
        return model

    # ------------------------------------------------------------------ checkpoint

    def arrays(self) -> dict[str, np.ndarray]:
        """Weights that are ours, the graph, statistics, and the words of the language model as JSON in bytes."""
        parts = {f"network.{name}": array for name, array in super().arrays().items()}
        parts |= {f"graph.{name}": array for name, array in self.graph.to_arrays().items()}
        if isinstance(self.network.lm.tokenizer, WordVocabulary):
            parts["words"] = np.frombuffer(json.dumps(self.network.lm.tokenizer.tokens).encode(), np.uint8)
        return parts | self._arrays

    @classmethod
    def from_arrays(
        cls, config: Any, vocabulary: GeneVocabulary, arrays: dict[str, np.ndarray], card: dict[str, Any]
    ) -> Self:
        """The inverse of :meth:`arrays`."""

        def part(group: str) -> dict[str, np.ndarray]:
            return {k.removeprefix(f"{group}."): v for k, v in arrays.items() if k.startswith(f"{group}.")}

        graph = KnowledgeGraph.from_arrays(part("graph"))
        words = WordVocabulary(json.loads(arrays["words"].tobytes())) if "words" in arrays else None
        state = part("network")
        tensors = graph_tensors(graph, features=state["encoder.features"]) if config.use_graph else None
        network = CellToSGNetwork(config, build_lm(config, words, seed=0), tensors)
        load_own_state(network, {name: torch.tensor(array) for name, array in state.items()})
        rest = {k: v for k, v in arrays.items() if not k.startswith(("graph.", "network.")) and k != "words"}
        return cls(config, vocabulary, network, card, graph=graph, arrays=rest)

    # ---- parts, made when they are first asked for

    @cached_property
    def ontology(self) -> Ontology:
        """The Cell Ontology."""
        return Ontology.load(self.config.ontology)

    @cached_property
    def _gene_nodes(self) -> np.ndarray:
        return self.graph.lookup("gene", self.vocabulary.tokens)

    @cached_property
    def encoder(self) -> Encoder:
        """Writes prompts."""
        return make_encoder(self.config, self.vocabulary, self.network.lm, self.graph, self._arrays["scale"])

    @cached_property
    def names(self) -> Names:
        """All terms that can be answered, and the trie of their names."""
        return make_names(self.ontology, self.graph, self.network.lm)

    @cached_property
    def judge(self) -> Judge:
        """Compares cells with all terms."""
        parts = Prototypes(*(self._arrays[f"prototypes.{name}"] for name in Prototypes._fields))
        return Judge(
            self.graph, self.ontology, self.names.ids, self._gene_nodes, parts, places_of(self.config, self.names),
            self._arrays["share"],
        )  # fmt: skip

    @cached_property
    def answers(self) -> Answers:
        """What language model and contrast say."""
        return Answers(self.network, self.names, self.encoder, self.config)

    @cached_property
    def _voices(self) -> Voices:
        return Voices(self.answers, self.judge, self._arrays)

    @cached_property
    def _space(self) -> ReferenceSpace:
        genes, components, landmarks = (self._arrays[f"space.{n}"] for n in ("genes", "components", "landmarks"))
        return ReferenceSpace(genes, components, landmarks, self.config.space_scale)

    # ------------------------------------------------------------------ use

    @property
    def obs_keys(self) -> tuple[str, ...]:
        """Columns of ``.obs`` that prompts name, where they are there."""
        return self.config.fields

    def match(self, genes: pd.Index) -> GeneMatch:
        """Overlap of the data's genes with the model's; raises ValueError where it is too small to answer."""
        match = self.vocabulary.match(genes)
        require_overlap(genes, self.vocabulary, match)
        self._last_match = (genes, match)
        return match

    def annotate(
        self,
        cells: Cells,
        *,
        candidates: Sequence[str] | None = None,
        under: str | None = None,
        mode: str = "evidence",
        novel_share: float | None = None,
    ) -> Annotation:
        """Names for a block of cells, also of types that no training cell had.

        Parameters
        ----------
        cells
            Raw counts; ``tissue`` and ``disease`` of ``obs`` enter the prompt where the model was trained with them.
        candidates
            Names or ids that may be answered; by default all terms of the Cell Ontology below "cell".
        under
            Only terms below this one, and itself: ``"lymphocyte"``.
        mode
            ``"evidence"``: language model, contrast, and the graph's expectation of every term's genes together. ``"names"``: the
            language model's own probability of every name, by exhaustive scoring of the trie.
        novel_share
            Share of the cells that are expected to be of types without training cells, 0 to 1; of the configuration by default.
            :meth:`estimate_novel_share` works it out of all cells at once, as :func:`sclm.tl.annotate` does.

        Returns
        -------
        Labels, ids, calibrated confidences, novelty; probabilities over all candidates.

        Raises
        ------
        ValueError
            If a candidate is no term, none is left, a number is out of range, or the graph is derived from one of the cells.
        """
        share = self.config.novel_share if novel_share is None else novel_share
        if not 0 <= share < 1:
            raise ValueError(f"novel_share must lie in [0, 1), found {share}.")
        if mode not in ("evidence", "names"):
            raise ValueError(f"mode must be 'evidence' or 'names', found {mode!r}.")
        block, rows, absent = self._filled(cells)
        columns, loose, labels, ids = self._possible(candidates, under)
        filled = np.isin(np.arange(cells.n_cells), rows)
        probabilities = np.full((len(filled), len(labels)), 1.0 / len(labels))
        best = np.zeros(len(filled), dtype=np.int64)
        kin = self.judge.kinship(columns, len(loose))
        for part, some in parts_of(block):
            p = self._block(some, absent, columns, loose, share, mode)
            probabilities[rows[part]] = p
            best[rows[part]] = choose(p, kin, self.config.answer_kinship if mode == "evidence" else 0.0)
        novelty = np.ones(len(filled))
        if len(rows):
            novelty[rows] = self._space.novelty(log_normalise(block.counts))
        return report(self.ontology, cells.obs.index, filled, probabilities, best, novelty, labels, ids)

    def annotate_groups(self, cells: Cells, groups: np.ndarray, **how: Any) -> Annotation:
        """One answer a group: its counts are summed, and the sentence of the sum is that of the group's most remarkable genes.

        Parameters
        ----------
        cells, groups
            Raw counts; (n,) name of each cell's group, None or NaN for cells that are in none and are left out.
        **how
            As :meth:`annotate` takes them.

        Returns
        -------
        An annotation with a row a group, in the order of their names. Fields of ``obs`` are those that all cells of a group share.
        """
        self.graph.refuse_if_derived_from(cells.obs.index)
        return self.annotate(sum_groups([cells], groups), **how)

    def estimate_novel_share(
        self, cells: Cells, *, candidates: Sequence[str] | None = None, under: str | None = None
    ) -> float:
        """Share of the cells that are of types without training cells, 0 to 0.5, as :meth:`annotate` takes it.

        See :func:`~sclm.models.celltosg.mixture.expected_share`. A few hundred cells are enough; the estimate is for all of them together.
        """
        block, _, absent = self._filled(cells)
        columns, loose, _, _ = self._possible(candidates, under)
        return self._voices.expected_share(block, absent, columns, loose)

    def ask(self, cells: Cells, task: str = "cell_type") -> list[str]:
        """Free answers of the language model to a question: ``"cell_type"``, ``"tissue"``, ``"disease"`` or ``"description"``.

        Names of types in free text become terms by ``Ontology.resolve``. Cells without counts get an empty answer.
        """
        block, rows, _ = self._filled(cells)
        found = [""] * cells.n_cells
        for row, text in zip(rows, self.answers.texts(block, task), strict=True):
            found[row] = text
        return found

    def explain(
        self,
        cells: Cells,
        *,
        candidates: Sequence[str] | None = None,
        under: str | None = None,
        novel_share: float | None = None,
        n_genes: int = 5,
        n_nodes: int = 3,
        seed: int = 0,
    ) -> pd.DataFrame:
        """Which genes and nodes of the graph moved the answers: see :func:`~sclm.models.celltosg.explaining.explain`.

        Parameters
        ----------
        cells
            Raw counts; a few, since what is shown is deleted piece by piece. Those without counts have no rows.
        candidates, under, novel_share, n_genes, n_nodes, seed
            As :meth:`annotate` takes them; rows a cell; of the comparison.
        """
        block, _, absent = self._filled(cells)
        columns, loose, labels, _ = self._possible(candidates, under)
        kin, weight = self.judge.kinship(columns, len(loose)), self.config.answer_kinship
        share = self.config.novel_share if novel_share is None else novel_share
        return explain(
            block, self.answers, self.graph.nodes["name"].to_numpy(dtype=object),
            {int(node): i for i, node in enumerate(self._gene_nodes) if node >= 0},
            lambda some, hidden: self._block(some, absent, columns, loose, share, "evidence", hidden),
            lambda p: choose(p, kin, weight), labels, n_genes=n_genes, n_nodes=n_nodes, seed=seed,
        )  # fmt: skip

    def _possible(
        self, candidates: Sequence[str] | None, under: str | None
    ) -> tuple[np.ndarray, list[int], list[str], list[str]]:
        """Rows of the terms that may be answered, training types that are no term and may be, names and ids of both."""
        columns, loose = self.answers.columns(candidates, under, self.judge.places)
        terms = [self.names.ids[c] for c in columns]
        labels = [*map(self.ontology.name_of, terms), *(self.config.labels[s] for s in loose)]
        return columns, loose, labels, terms + [UNKNOWN] * len(loose)

    def _block(
        self,
        block: Cells,
        absent: np.ndarray | None,
        columns: np.ndarray,
        loose: list[int],
        share: float,
        mode: str,
        hidden: Sequence[np.ndarray] | None = None,
    ) -> np.ndarray:
        """(n, m) probabilities of a block of filled cells, with some nodes hidden from the virtual tokens."""
        if mode == "names":
            p = np.exp(self.answers.names_log_probs(block)[:, columns])
            p = np.concatenate([p, np.zeros((len(p), len(loose)))], axis=1)
            return p / np.maximum(p.sum(axis=1, keepdims=True), 1e-30)
        return self._voices.probabilities(block, absent, columns, loose, share, hidden)

    def _filled(self, cells: Cells) -> tuple[Cells, np.ndarray, np.ndarray | None]:
        """Cells with counts in the model's genes, their rows, and which of the genes the data lack (None: none)."""
        self.graph.refuse_if_derived_from(cells.obs.index)
        if self._last_match is None or self._last_match[0] is not cells.genes:
            self.match(cells.genes)
        match = self._last_match[1]  # type: ignore[index]
        counts, _ = align(cells, self.vocabulary, match=match)
        absent = np.ones(len(self.vocabulary.tokens), dtype=bool)
        absent[match.ids[match.ids >= 0]] = False
        rows = np.flatnonzero(np.diff(counts.indptr) > 0)
        block = Cells(counts[rows], pd.Index(self.vocabulary.tokens), cells.obs.iloc[rows])
        return block, rows, absent if absent.any() else None
