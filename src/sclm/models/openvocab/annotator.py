"""What the open-vocabulary baselines share: training on labelled cells, calibration, which terms may be answered."""

from __future__ import annotations

import abc
import dataclasses
import logging
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from sclm.cells import align, log_normalise, require_overlap
from sclm.evidence import ReferenceSpace, fit_temperature, softmax
from sclm.knowledge import Ontology
from sclm.models.family import Family
from sclm.models.labels import hold_out, read_labels
from sclm.models.open_labels import answer
from sclm.models.openvocab.choice import Choice, make_choice
from sclm.models.reference_cells import TARGET_SUM, Reference

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    from scipy import sparse

    from sclm.cells import Cells, CellSource, GeneMatch, GeneVocabulary
    from sclm.models.contract import Annotation

logger = logging.getLogger(__name__)

_BLOCK = 512  # cells that are compared with all terms at a time: 14 MB of float64 at 3,300 terms
_CALIBRATED_ON = 2000  # held-out cells at most: a temperature needs no more
_SPACE_CELLS = 20_000
_COMPONENTS = 50


@dataclasses.dataclass(frozen=True, kw_only=True)
class OpenConfig:
    """Settings that every open-vocabulary baseline has; labels and temperature are found in training."""

    candidates: tuple[str, ...] = ()  # names or ids that are answered by default; empty: all terms below "cell"
    labels: tuple[str, ...] = ()  # name of each training type
    term_ids: tuple[str, ...] = ()  # ontology id of each training type, "unknown" where it has none
    temperature: float = 1.0  # divisor of the scores, fitted on held-out reference cells
    space_scale: float = 1.0  # 95th percentile of held-out distances, the unit of novelty
    ontology: str = "cl"
    ontology_version: str = ""


class OpenAnnotator(Family, abc.ABC):
    """A method that gives every term of the Cell Ontology a probability.

    A subclass implements ``_learn`` (arrays from labelled blocks) and ``_scores`` (logits of answers), or ``_probabilities``.
    """

    Config: ClassVar[type] = OpenConfig
    #: Whether labels that are no term of the ontology can be answered.
    names_loose: ClassVar[bool] = True
    #: One row a label of the reference, after training: label, n_cells, name, term_id, kind. None for a loaded model.
    reference_labels: pd.DataFrame | None = None

    def __init__(
        self,
        config: Any,
        vocabulary: GeneVocabulary,
        arrays: dict[str, np.ndarray],
        card: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(config, vocabulary, card)
        self._arrays = arrays
        self._space: ReferenceSpace | None = None
        if "space_genes" in arrays:
            self._space = ReferenceSpace(
                arrays["space_genes"], arrays["space_components"], arrays["space_landmarks"], config.space_scale
            )
        self._last_match: tuple[pd.Index, GeneMatch] | None = None
        self._last_choice: tuple[Any, Choice] | None = None

    # Training -------------------------------------------------------------------------------------------------------

    @classmethod
    def fit(
        cls,
        source: CellSource,
        *,
        label_key: str | None = None,
        batch_key: str | None = None,
        genes: pd.Index | None = None,
        seed: int = 0,
        **options: Any,
    ) -> Self:
        """Learn from labelled cells: see :func:`sclm.train`.

        A fifth of the cells (whole batches with ``batch_key``) is held out, what is calibrated is fitted on them, and the method
        is then learnt again from all cells.

        Parameters
        ----------
        source
            Raw counts.
        label_key
            Column of ``.obs`` with the cell types.
        batch_key
            Donor or batch.
        genes
            Restrict the vocabulary to the genes shared with these.
        seed
            Of the held-out cells and the components.
        **options
            Fields of the family's ``Config``; ``graph=`` for ``"marker-lists"``.
        """
        knowledge = cls._knowledge(options)
        found = {f.name for f in dataclasses.fields(cls.Config)}
        open_ = (found - {f.name for f in dataclasses.fields(OpenConfig)}) | {"candidates"}
        if extra := sorted(set(options) - open_):
            raise TypeError(
                f"{cls.family!r} has no option {', '.join(map(repr, extra))}; it has: {', '.join(sorted(open_))}."
            )
        if label_key is None:
            raise TypeError(f"{cls.family!r} needs label_key=, the column of .obs with the cell types.")
        if isinstance(options.get("candidates"), str):
            raise TypeError(f"candidates must be a list of names, found the text {options['candidates']!r}.")
        options["candidates"] = tuple(options.get("candidates") or ())
        ontology = Ontology.load("cl")
        labels = read_labels(source.obs[label_key], ontology, label_key)
        config = cls.Config(ontology=ontology.name, ontology_version=ontology.version, **options)
        cls._check(config)
        reference = Reference(source, labels.rows, genes)
        if not reference.filled.all():
            labels = labels.keep(reference.filled)
            reference = Reference(source, labels.rows, genes)
        config = dataclasses.replace(config, labels=labels.labels, term_ids=labels.term_ids)
        batches = None if batch_key is None else source.obs[batch_key].astype(str).to_numpy()[labels.rows]
        rng = np.random.default_rng(seed)
        held, by_batch = hold_out(labels.codes, batches, rng)

        space = ReferenceSpace.fit(
            reference.take(_drawn(~held, _SPACE_CELLS, rng)), reference.take(_drawn(held, _SPACE_CELLS, rng)),
            n_components=_COMPONENTS, seed=seed,
        )  # fmt: skip
        config = dataclasses.replace(config, space_scale=space.scale)
        fixed = {
            "gene_share": reference.gene_share.astype(np.float32),
            "gene_mean": reference.gene_mean,
            "space_genes": space.genes,
            "space_components": space.components,
            "space_landmarks": space.landmarks,
        }
        arrays = fixed | cls._learn(config, reference, labels.codes, ~held, fixed, knowledge, seed=seed)
        draft = cls(config, reference.vocabulary, arrays)
        shown = _drawn(held, _CALIBRATED_ON, rng)
        card: dict[str, Any] = {
            "data": f"{len(labels.rows):,} labelled cells, {len(reference.vocabulary):,} genes, {len(labels.labels)} types",
            "split": f"{int(held.sum()):,} cells held out for calibration, " + (f"whole batches of {batch_key}" if by_batch else "drawn within each type"),
            "limits": "A simple method to compare with. Confidences are calibrated on types that its reference holds; names of other "
            "types are guesses from the ontology or from markers.",
        }  # fmt: skip
        tuned: dict[str, np.ndarray] = {}
        if shown.any():
            lognormal, truth = reference.take(shown), labels.codes[shown]
            config, tuned = draft._calibrated(lognormal, truth)
            draft = cls(config, reference.vocabulary, arrays | tuned)
            choice = draft._choice(None, None)
            best = draft._block(lognormal, None, choice).argmax(axis=1)
            right = choice.rolled[truth, best] == 1.0  # the label itself, or the only answer above it
            majority = np.bincount(labels.codes[~held], minlength=len(labels.labels)).argmax()
            card["held_out_accuracy"] = round(float(right.mean()), 4)
            card["held_out_accuracy_of_the_majority_type"] = round(float((truth == majority).mean()), 4)
        everything = np.ones(len(held), dtype=bool)
        arrays = fixed | cls._learn(config, reference, labels.codes, everything, fixed, knowledge, seed=seed) | tuned
        model = cls(config, reference.vocabulary, arrays, card)
        model.reference_labels = labels.original
        return model

    @classmethod
    def _knowledge(cls, options: dict[str, Any]) -> Any:
        """Take out of the options what is no setting; handed to ``_learn``."""
        return None

    @classmethod
    def _check(cls, config: Any) -> None:
        """Refuse settings outside their range, before any work."""

    @classmethod
    @abc.abstractmethod
    def _learn(
        cls,
        config: Any,
        reference: Reference,
        codes: np.ndarray,
        use: np.ndarray,
        fixed: dict[str, np.ndarray],
        knowledge: Any,
        *,
        seed: int,
    ) -> dict[str, np.ndarray]:
        """Arrays of the method from the cells under ``use``; ``fixed`` are those that all methods have."""

    def _calibrated(self, lognormal: sparse.csr_matrix, codes: np.ndarray) -> tuple[Any, dict[str, np.ndarray]]:
        """Configuration and arrays fitted on held-out cells and their types; here the temperature of the scores."""
        choice = self._choice(None, None)
        own = (choice.rolled == 1.0)[codes]  # (n, m): the answer that each cell's label is
        there = own.any(axis=1)
        if not there.any():
            return self.config, {}
        temperature = fit_temperature(self._scores(lognormal[there], None, choice), own[there].argmax(axis=1))
        return dataclasses.replace(self.config, temperature=temperature), {}

    # Use ------------------------------------------------------------------------------------------------------------

    @cached_property
    def ontology(self) -> Ontology:
        """The Cell Ontology."""
        return Ontology.load(self.config.ontology)

    def _known(self) -> tuple[Sequence[str], Sequence[str]]:
        """Labels that the method gives probabilities by itself, and their ids."""
        return self.config.labels, self.config.term_ids

    def _choice(self, candidates: Sequence[str] | None, under: str | Sequence[str] | None) -> Choice:
        """The answers that a call allows; those of the last call are kept."""
        if isinstance(candidates, str):
            raise TypeError(
                f"candidates must be a list of names, found the text {candidates!r}. Write [{candidates!r}]."
            )
        wanted = None if candidates is None else tuple(map(str, candidates))
        key = (wanted, under if under is None or isinstance(under, str) else tuple(under))
        if self._last_choice is None or self._last_choice[0] != key:
            asked = wanted if wanted is not None else (self.config.candidates or None)
            self._last_choice = (key, make_choice(self.ontology, *self._known(), asked, under, loose=self.names_loose))
        return self._last_choice[1]

    def _scores(self, lognormal: sparse.csr_matrix, fill: np.ndarray | None, choice: Choice) -> np.ndarray:
        """(n, m) logits of the answers; ``fill`` (G,) holds the value of genes that the data lacks, 0 for the others."""
        raise NotImplementedError

    def _probabilities(self, lognormal: sparse.csr_matrix, fill: np.ndarray | None, choice: Choice) -> np.ndarray:
        """(n, m) weights of the answers, not negative."""
        return softmax(self._scores(lognormal, fill, choice), self.config.temperature)

    def _block(self, lognormal: sparse.csr_matrix, fill: np.ndarray | None, choice: Choice) -> np.ndarray:
        """(n, m) float64 probabilities, block by block; rows sum to 1, equal parts where nothing speaks for any answer."""
        found = np.empty((lognormal.shape[0], len(choice.answers.labels)))
        for start in range(0, len(found), _BLOCK):
            part = slice(start, start + _BLOCK)
            found[part] = self._probabilities(lognormal[part], fill, choice)
        return normalised(found)

    def match(self, genes: pd.Index) -> GeneMatch:
        """Overlap of the data's genes with the model's; raises ValueError where it is too small to answer."""
        match = self.vocabulary.match(genes)
        self._require(genes, match)
        self._last_match = (genes, match)
        return match

    def _require(self, genes: pd.Index, match: GeneMatch) -> None:
        require_overlap(
            genes,
            self.vocabulary,
            match,
            advice="With a labelled reference, reference= and label_key= train on the genes that it shares with the data.",
        )

    def annotate(
        self, cells: Cells, *, candidates: Sequence[str] | None = None, under: str | Sequence[str] | None = None
    ) -> Annotation:
        """Names for a block of cells, also of types that no training cell had.

        Parameters
        ----------
        cells
            Raw counts.
        candidates
            Names or ids that may be answered; by default those of the configuration, else all terms of the Cell Ontology below
            "cell".
        under
            Only terms below this one (or these), and itself: ``"lymphocyte"``.

        Returns
        -------
        Labels, ids, confidences, novelty (NaN without a reference) and probabilities of all answers. Cells without counts are
        ``"unknown"`` with confidence 0.

        Raises
        ------
        ValueError
            If a candidate is no term, or none is left.
        """
        choice = self._choice(candidates, under)
        if self._last_match is None or self._last_match[0] is not cells.genes:
            self.match(cells.genes)
        match = self._last_match[1]  # type: ignore[index]
        counts, _ = align(cells, self.vocabulary, match=match, min_share=0.0)
        absent = np.ones(len(self.vocabulary), dtype=bool)
        absent[match.ids[match.ids >= 0]] = False
        fill, expected = None, 1.0
        if "gene_share" in self._arrays:
            expected = max(float(self._arrays["gene_share"][~absent].sum()), 1e-6)
            fill = np.where(absent, self._arrays["gene_mean"], 0).astype(np.float32) if absent.any() else None
        filled = np.asarray(counts.sum(axis=1)).ravel() > 0
        lognormal = log_normalise(counts, TARGET_SUM * expected)[filled]
        self._see(absent)
        probabilities = self._block(lognormal, fill, choice)
        novelty = self._space.novelty(lognormal, fill) if self._space is not None and filled.any() else None
        with np.errstate(divide="ignore"):
            scores = np.log(probabilities)
        return answer(choice.answers, scores, filled, cells.obs.index, novelty=novelty)

    def _see(self, absent: np.ndarray) -> None:
        """Told which genes (G,) bool the data of a call lack."""

    # Checkpoint -----------------------------------------------------------------------------------------------------

    def arrays(self) -> dict[str, np.ndarray]:
        """Every number that the model owns, by name."""
        return dict(self._arrays)

    @classmethod
    def from_arrays(
        cls, config: Any, vocabulary: GeneVocabulary, arrays: dict[str, np.ndarray], card: dict[str, Any]
    ) -> Self:
        """The inverse of :meth:`arrays`."""
        genes = len(arrays.get("gene_mean", vocabulary.tokens))
        if genes != len(vocabulary):
            raise ValueError(
                f"The arrays are of {genes:,} genes, the vocabulary of {len(vocabulary):,}: the checkpoint is broken."
            )
        return cls(config, vocabulary, arrays, card)


def normalised(weights: np.ndarray) -> np.ndarray:
    """Rows that sum to 1; equal parts where a row is zero."""
    total = weights.sum(axis=1, keepdims=True)
    return np.where(total > 0, weights / np.where(total > 0, total, 1.0), 1.0 / weights.shape[1])


def _drawn(mask: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """A mask of at most ``n`` of the true entries."""
    if mask.sum() <= n:
        return mask
    out = np.zeros(len(mask), dtype=bool)
    out[rng.choice(np.flatnonzero(mask), n, replace=False)] = True
    return out
