"""Logistic regression with hierarchical cross-entropy: outputs for the training labels and for all terms above them."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from sclm.evidence import fit_temperature, softmax
from sclm.evidence.backoff import UNKNOWN
from sclm.knowledge import Ontology
from sclm.models.openvocab.annotator import OpenAnnotator, OpenConfig
from sclm.models.openvocab.linear import fit_softmax, linear_scores

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scipy import sparse

    from sclm.models.openvocab.choice import Choice
    from sclm.models.reference_cells import Reference

_CELL = "CL:0000000"


@dataclasses.dataclass(frozen=True, kw_only=True)
class HierarchicalConfig(OpenConfig):
    """Settings of :class:`Hierarchical`."""

    penalty: float = 0.01  # of the weights, as in the family "logistic"
    max_iter: int = 150
    outputs: tuple[str, ...] = ()  # names of the outputs: the training labels, then the terms above them
    output_ids: tuple[str, ...] = ()  # their ids, "unknown" for labels that are no term


class Hierarchical(OpenAnnotator):
    r"""Logistic regression with hierarchical cross-entropy over the training labels and the terms above them.

    An output for every label and every term above one, :math:`p = \mathrm{softmax}(W^\top x + b)`; a label is as probable as all
    outputs below it together, :math:`P(v) = \sum_{u \in \mathrm{desc}(v)} p(u)`, and the loss is :math:`-0.8 \log P(y) - 0.2 \log p(y)`. So
    a cell that is labelled "T cell" may be called any kind of T cell at little cost. Terms that are neither labels nor above one
    are never answered.
    """

    family: ClassVar[str] = "hierarchical"
    Config: ClassVar[type] = HierarchicalConfig

    def __init__(self, config: Any, vocabulary: Any, arrays: Any, card: Any = None) -> None:
        if not config.outputs:
            outputs, ids = outputs_of(Ontology.load(config.ontology), config.labels, config.term_ids)
            config = dataclasses.replace(config, outputs=outputs, output_ids=ids)
        super().__init__(config, vocabulary, arrays, card)

    @classmethod
    def _check(cls, config: HierarchicalConfig) -> None:
        if not config.penalty > 0:
            raise ValueError(f"penalty must be above 0, found {config.penalty}. The default is 0.01.")
        if config.outputs or config.output_ids:
            raise TypeError("outputs and output_ids are found in training: leave them out.")

    @classmethod
    def _learn(
        cls,
        config: HierarchicalConfig,
        reference: Reference,
        codes: np.ndarray,
        use: np.ndarray,
        fixed: dict[str, np.ndarray],
        knowledge: Any,
        *,
        seed: int,
    ) -> dict[str, np.ndarray]:
        ontology = Ontology.load(config.ontology)
        outputs, ids = outputs_of(ontology, config.labels, config.term_ids)
        below = np.zeros((len(config.labels), len(outputs)), dtype=bool)
        for row, term in enumerate(config.term_ids):
            below[row, row] = True  # the outputs begin with the labels
            if term != UNKNOWN:
                kinds = ontology.descendants(term, include_self=True)
                below[row] |= [i in kinds for i in ids]
        return fit_softmax(reference, codes, use, below, penalty=config.penalty, max_iter=config.max_iter, seed=seed)

    def _known(self) -> tuple[Sequence[str], Sequence[str]]:
        return self.config.outputs, self.config.output_ids

    def _calibrated(self, lognormal: sparse.csr_matrix, codes: np.ndarray) -> tuple[Any, dict[str, np.ndarray]]:
        temperature = fit_temperature(linear_scores(self._arrays, lognormal, None), codes)
        return dataclasses.replace(self.config, temperature=temperature), {}

    def _probabilities(self, lognormal: sparse.csr_matrix, fill: np.ndarray | None, choice: Choice) -> np.ndarray:
        return softmax(linear_scores(self._arrays, lognormal, fill), self.config.temperature) @ choice.rolled


def outputs_of(
    ontology: Ontology, labels: Sequence[str], term_ids: Sequence[str]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names and ids of the labels, then of the terms above them and below "cell", by id."""
    above: set[str] = set()
    for term in term_ids:
        if term != UNKNOWN:
            above |= ontology.ancestors(term)
    inner = sorted(above & ontology.descendants(_CELL) - set(term_ids))
    return (*labels, *(ontology.name_of(term) for term in inner)), (*term_ids, *inner)
