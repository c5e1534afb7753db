"""Answers of an annotator, gathered block by block: back-off, consensus, and what is kept of wide tables of probabilities."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import sparse

from sclm import models
from sclm.evidence import Ballots, back_off
from sclm.evidence.backoff import UNKNOWN

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sclm.knowledge import Ontology
    from sclm.models.contract import Annotation

WIDE = 256  # types above which a table of probabilities is thinned: 3,300 for 100,000 cells are 1.3 GB
KEPT = 0.01  # a type stays that some cell has with this probability
_NOTHING = 0.001  # probabilities below are not written


class Gathered(NamedTuple):
    """What is known of all cells.

    Attributes
    ----------
    table
        One row a cell: label, ontology_term_id, confidence, novelty, as the model gave them.
    answer
        Columns after back-off and consensus.
    probabilities
        (n_cells, n_kept) float32, or None.
    categories
        One row a column of it.
    left_out
        Number of types without a column, and the mean over cells of the probability that is not written; empty where all is.
    """

    table: pd.DataFrame
    answer: dict[str, np.ndarray]
    probabilities: np.ndarray | None
    categories: pd.DataFrame
    left_out: dict[str, float]


class Gatherer:
    """Takes blocks of annotations in the order of the cells.

    Parameters
    ----------
    groups
        (n_cells,) name of each cell's group, None for cells of no group; or None without groups.
    min_confidence
        Threshold of the back-off, or None.
    ontology
        Where back-off looks.
    """

    def __init__(self, groups: np.ndarray | None, min_confidence: float | None, ontology: Ontology) -> None:
        self._groups, self._min_confidence, self._ontology = groups, min_confidence, ontology
        self._tables: list[pd.DataFrame] = []
        self._backed: list[Any] = []
        self._dense: list[np.ndarray] = []
        self._thin: list[sparse.csr_matrix] = []
        self._categories: pd.DataFrame | None = None
        self._labels: list[str] = []
        self._ids: list[str] = []
        self._ballots: Ballots | None = None
        self._column: dict[tuple[str, str], int] = {}
        self._highest = np.zeros(0)
        self._unwritten = 0.0
        self._n = 0

    def add(self, block: Annotation) -> None:
        """Take the next block; raises ValueError where back-off or consensus is asked of a model without a label set."""
        table, p = block.table, block.probabilities
        if p is None and (self._groups is not None or self._min_confidence is not None):
            raise ValueError("Back-off and consensus need a model with a label set; this one has none.")
        if self._categories is None:
            self._categories = block.categories
            self._labels = block.categories["label"].tolist()
            self._ids = block.categories["ontology_term_id"].tolist()
            self._column = {pair: i for i, pair in enumerate(zip(self._labels, self._ids, strict=True))}
            self._highest = np.zeros(len(self._labels))
            if self._groups is not None:
                self._ballots = Ballots(self._groups, len(self._labels))
        self._tables.append(table)
        where = slice(self._n, self._n + len(table))
        self._n += len(table)
        if p is None:
            return
        filled = table["label"].to_numpy(dtype=object) != UNKNOWN
        pairs = zip(table["label"], table["ontology_term_id"], strict=True)
        own = np.array([self._column.get(pair, -1) for pair in pairs], dtype=np.int64)
        if self._min_confidence is not None:
            self._backed.append(
                back_off(p.astype(np.float64), self._labels, self._ids, self._ontology, self._min_confidence)
            )
        if self._ballots is not None:
            self._ballots.add(where, p, own, filled)
        self._keep(p, own)

    def _keep(self, p: np.ndarray, own: np.ndarray) -> None:
        if p.shape[1] <= WIDE:
            self._dense.append(p)
            return
        if len(p):
            self._highest = np.maximum(self._highest, p.max(axis=0))
        self._highest[own[own >= 0]] = 1.0
        self._thin.append(sparse.csr_matrix(np.where(p >= _NOTHING, p, np.float32(0.0))))

    def finish(self) -> Gathered:
        """All of it."""
        table, categories = pd.concat(self._tables), self._categories
        answer = self._answer(table)
        if self._dense or not self._thin:
            p = np.concatenate(self._dense) if self._dense else None
            return Gathered(table, answer, p, categories, {})  # type: ignore[arg-type]
        kept = np.flatnonzero(self._highest >= KEPT)
        p = np.concatenate([block[:, kept].toarray() for block in self._thin])
        left_out = {"types": len(self._highest) - len(kept), "mean_probability": float(1.0 - p.sum(axis=1).mean())}
        return Gathered(table, answer, p, categories.iloc[kept].reset_index(drop=True), left_out)  # type: ignore[union-attr]

    def _answer(self, table: pd.DataFrame) -> dict[str, np.ndarray]:
        """Labels after consensus and back-off; cells without counts stay unknown."""
        own = table["label"].to_numpy(dtype=object)
        answer = {
            "label": own,
            "ontology_term_id": table["ontology_term_id"].to_numpy(dtype=object),
            "confidence": table["confidence"].to_numpy(dtype=np.float64),
        }
        filled = own != UNKNOWN
        if self._min_confidence is not None:
            label, term, confidence = (np.concatenate(parts) for parts in zip(*self._backed, strict=True))
            answer["label"] = np.where(filled, label, UNKNOWN)
            answer["ontology_term_id"] = np.where(filled, term, UNKNOWN)
            answer["confidence"] = np.where(filled, confidence, 0.0)
        if self._ballots is None:
            return answer
        # Cells without counts have nothing to vote with and stay unknown; cells without a group keep their own answer.
        voted = self._ballots.count(self._labels, self._ids, self._ontology, self._min_confidence)
        grouped = self._ballots.grouped
        for name in list(answer):
            answer[name] = np.where(grouped & filled, voted[name], answer[name])
        answer["vote_fraction"] = np.where(grouped & filled, voted["vote_fraction"], np.nan)
        return {**answer, "per_cell": own}


def vocabulary_options(model: Any, candidates: Sequence[str] | None, under: str | None) -> dict[str, Any]:
    """The arguments that choose among an open vocabulary, for a model or family whose ``annotate`` takes them.

    Raises
    ------
    TypeError
        If `candidates` is one text, or the model does not take what is given.
    """
    if isinstance(candidates, str):
        raise TypeError(
            f"candidates must be a list of names or ids, found the text {candidates!r}. Write [{candidates!r}]."
        )
    given: dict[str, Any] = {}
    if candidates is not None:
        given["candidates"] = [str(name) for name in candidates]
    if under is not None:
        given["under"] = under
    if lost := [name for name in given if not _takes(model, name)]:
        able = [name for name in models.FAMILIES if _takes(models.family_class(name), "candidates")]
        raise TypeError(
            f"{' and '.join(f'{name}=' for name in lost)} cannot be given to {getattr(model, 'family', type(model).__name__)!r}, which "
            f"names the types that it learnt. Families that choose among the terms of the Cell Ontology: {', '.join(map(repr, able))}."
        )
    return given


def _takes(model: Any, name: str) -> bool:
    method = getattr(model, "annotate", None)
    return method is not None and name in inspect.signature(method).parameters
