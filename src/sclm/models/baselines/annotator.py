"""What the simple annotators share: labels, calibration on held-out cells, novelty, the answer's form."""

from __future__ import annotations

import abc
import dataclasses
import logging
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pandas as pd

from sclm.cells import align, log_normalise, require_overlap
from sclm.evidence import ReferenceSpace, fit_temperature, softmax
from sclm.models.contract import Annotation
from sclm.models.family import Family
from sclm.models.labels import UNKNOWN, hold_out, read_labels
from sclm.models.reference_cells import TARGET_SUM, Reference

if TYPE_CHECKING:
    from scipy import sparse

    from sclm.cells import Cells, CellSource, GeneMatch, GeneVocabulary

logger = logging.getLogger(__name__)

_NOVELTY_COMPONENTS = 50
_CALIBRATED = 50  # held-out cells below which a temperature says little


@dataclasses.dataclass(frozen=True, kw_only=True)
class AnnotatorConfig:
    """Settings that every simple annotator has; the label set and the temperature are found in training."""

    labels: tuple[str, ...] = ()  # name of each type, the order of the probabilities' columns
    term_ids: tuple[str, ...] = ()  # ontology id of each type, "unknown" where it has none
    temperature: float = 1.0  # divisor of the scores, fitted on held-out reference cells
    space_scale: float = 1.0  # 95th percentile of held-out distances, the unit of novelty
    ontology: str = "cl"
    ontology_version: str = ""


class BaselineAnnotator(Family, abc.ABC):
    """A method that scores each type for log-normalised cells.

    A subclass implements ``_learn`` (arrays from labelled blocks) and ``_score`` (log-normalised cells to scores).
    """

    Config = AnnotatorConfig

    def __init__(
        self,
        config: AnnotatorConfig,
        vocabulary: GeneVocabulary,
        arrays: dict[str, np.ndarray],
        card: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(config, vocabulary, card)
        self._arrays = arrays
        self._space = ReferenceSpace(
            arrays["space_genes"], arrays["space_components"], arrays["space_landmarks"], config.space_scale
        )
        self._last_match: tuple[pd.Index, GeneMatch] | None = None

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

        A fifth of the cells (whole batches with ``batch_key``) is held out, the temperature and the unit of novelty are
        fitted on them, and the method is then learnt again from all cells.
        """
        from sclm.knowledge import Ontology

        fields = {f.name for f in dataclasses.fields(cls.Config)} - {
            f.name for f in dataclasses.fields(AnnotatorConfig)
        }
        if extra := sorted(set(options) - fields):
            raise TypeError(
                f"{cls.family!r} has no option {', '.join(map(repr, extra))}; it has: {', '.join(sorted(fields)) or 'none'}."
            )
        if label_key is None:
            raise TypeError(f"{cls.family!r} needs label_key=, the column of .obs with the cell types.")
        ontology = Ontology.load("cl")
        labels = read_labels(source.obs[label_key], ontology, label_key)
        cls._check(cls.Config(**options))
        reference = Reference(source, labels.rows, genes)
        if not reference.filled.all():
            logger.warning(
                "%d of %d labelled cells have no counts in the %d genes that are used and are left out.",
                int((~reference.filled).sum()), len(labels.rows), len(reference.vocabulary.tokens),
            )  # fmt: skip
            labels = labels.keep(reference.filled)
            reference = Reference(source, labels.rows, genes)
        batches = None if batch_key is None else source.obs[batch_key].astype(str).to_numpy()[labels.rows]
        rng = np.random.default_rng(seed)
        config = cls.Config(
            labels=labels.labels,
            term_ids=labels.term_ids,
            ontology=ontology.name,
            ontology_version=ontology.version,
            **options,
        )
        held, by_batch = hold_out(labels.codes, batches, rng)

        learnt = cls._learn(config, reference, labels.codes, ~held, seed=seed, start=None)
        scores = reference.over(lambda block: cls._score(config, learnt, block, None), held) if held.any() else None
        truth = labels.codes[held]
        temperature = 1.0 if scores is None else fit_temperature(scores, truth)
        space_rows = ~held if (~held).sum() <= 20_000 else _subset(~held, 20_000, rng)
        space = ReferenceSpace.fit(
            reference.take(space_rows), reference.take(held), n_components=_NOVELTY_COMPONENTS, seed=seed
        )
        card: dict[str, Any] = {
            "data": f"{len(labels.rows):,} labelled cells, {len(reference.vocabulary.tokens):,} genes, {len(labels.labels)} types",
            "split": f"{int(held.sum()):,} cells held out for calibration, " + (f"whole batches of {batch_key}" if by_batch else "drawn within each type"),
            "limits": "Names only the types of its reference; confidences are calibrated for data like the reference.",
        }  # fmt: skip
        if scores is not None and len(truth):
            majority = np.bincount(labels.codes[~held], minlength=len(labels.labels)).argmax()
            card["held_out_accuracy"] = round(float((scores.argmax(axis=1) == truth).mean()), 4)
            card["held_out_accuracy_of_the_majority_type"] = round(float((truth == majority).mean()), 4)
        if held.sum() < _CALIBRATED:
            logger.warning(
                "only %d cells were held out for calibration: confidences are little more than the raw probabilities.",
                int(held.sum()),
            )
        learnt = cls._learn(config, reference, labels.codes, np.ones(len(held), dtype=bool), seed=seed, start=learnt)
        arrays = {
            **learnt,
            "gene_share": reference.gene_share.astype(np.float32),
            "gene_mean": reference.gene_mean,
            "space_genes": space.genes,
            "space_components": space.components,
            "space_landmarks": space.landmarks,
        }
        config = dataclasses.replace(config, temperature=temperature, space_scale=space.scale)
        model = cls(config, reference.vocabulary, arrays, card)
        model.reference_labels = labels.original
        return model

    #: One row a label of the reference, after training: label, n_cells, name, term_id, kind. None for a loaded model.
    reference_labels: pd.DataFrame | None = None

    @classmethod
    def _check(cls, config: Any) -> None:
        """Refuse settings outside their range, before any work."""

    @classmethod
    @abc.abstractmethod
    def _learn(
        cls, config: Any, reference: Reference, codes: np.ndarray, use: np.ndarray, *, seed: int, start: dict | None
    ) -> dict[str, np.ndarray]:
        """Arrays of the method from the cells under ``use``; ``start`` is what was learnt from a part of them."""

    @classmethod
    @abc.abstractmethod
    def _score(
        cls, config: Any, learnt: dict[str, np.ndarray], lognormal: sparse.csr_matrix, fill: np.ndarray | None
    ) -> np.ndarray:
        """(n, n_types) scores; ``fill`` (G,) holds the value of genes that the data lacks, 0 for those that it has."""

    # Use ------------------------------------------------------------------------------------------------------------

    def match(self, genes: pd.Index) -> GeneMatch:
        """Overlap of the data's genes with the model's; raises ValueError where it is too small to answer."""
        match = self.vocabulary.match(genes)
        require_overlap(
            genes,
            self.vocabulary,
            match,
            advice="With a labelled reference, reference= and label_key= train on the genes that it shares with the data.",
        )
        self._last_match = (genes, match)
        return match

    def annotate(self, cells: Cells) -> Annotation:
        """Names for a block of cells.

        Genes of the model that the data lacks are taken at their mean in the reference, and depth is corrected for the
        share of counts that they would have held. Cells without counts are ``"unknown"`` with confidence 0.

        Parameters
        ----------
        cells
            Raw counts.

        Returns
        -------
        Labels, ids, confidences and probabilities.
        """
        if self._last_match is None or self._last_match[0] is not cells.genes:
            self.match(cells.genes)
        match = self._last_match[1]  # type: ignore[index]
        counts, _ = align(cells, self.vocabulary, match=match)
        absent = np.ones(len(self.vocabulary.tokens), dtype=bool)
        absent[match.ids[match.ids >= 0]] = False
        expected = float(self._arrays["gene_share"][~absent].sum())
        fill = np.where(absent, self._arrays["gene_mean"], 0).astype(np.float32) if absent.any() else None
        lognormal = log_normalise(counts, TARGET_SUM * max(expected, 1e-6))
        filled = np.asarray(counts.sum(axis=1)).ravel() > 0

        n_types = len(self.config.labels)
        probabilities = np.full((len(filled), n_types), 1.0 / n_types, dtype=np.float32)
        novelty = np.ones(len(filled))
        if filled.any():
            scores = self._score(self.config, self._arrays, lognormal[filled], fill)
            probabilities[filled] = softmax(scores, self.config.temperature)
            novelty[filled] = self._space.novelty(lognormal[filled], fill)
        best = probabilities.argmax(axis=1)
        table = pd.DataFrame(
            {
                "label": np.where(filled, np.array(self.config.labels, dtype=object)[best], UNKNOWN),
                "ontology_term_id": np.where(filled, np.array(self.config.term_ids, dtype=object)[best], UNKNOWN),
                "confidence": np.where(filled, probabilities[np.arange(len(best)), best].astype(np.float64), 0.0),
                "novelty": novelty,
            },
            index=cells.obs.index,
        )
        categories = pd.DataFrame({"label": list(self.config.labels), "ontology_term_id": list(self.config.term_ids)})
        return Annotation(table, probabilities, categories)

    # Checkpoint -----------------------------------------------------------------------------------------------------

    def arrays(self) -> dict[str, np.ndarray]:
        """Every number that the model owns, by name."""
        return dict(self._arrays)

    @classmethod
    def from_arrays(
        cls, config: AnnotatorConfig, vocabulary: GeneVocabulary, arrays: dict[str, np.ndarray], card: dict[str, Any]
    ) -> Self:
        """The inverse of :meth:`arrays`."""
        genes = len(arrays.get("gene_share", ()))
        if genes != len(vocabulary):
            raise ValueError(
                f"The arrays are of {genes:,} genes, the vocabulary of {len(vocabulary):,}: the checkpoint is broken."
            )
        return cls(config, vocabulary, arrays, card)


def _subset(mask: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """A mask of ``n`` of the true entries."""
    out = np.zeros(len(mask), dtype=bool)
    out[rng.choice(np.flatnonzero(mask), n, replace=False)] = True
    return out
