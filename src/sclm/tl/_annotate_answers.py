"""Answers of an annotator, gathered block by block: back-off, consensus, and what is kept of wide tables of probabilities."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import sparse

from sclm import models
from sclm.evidence import back_off
from sclm.evidence.backoff import UNKNOWN
from sclm.tl._stages import Part

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sclm.evidence import Ballots
    from sclm.knowledge import Ontology
    from sclm.models.contract import Annotation

WIDE = 256  # types above which a table of probabilities is thinned: 3,300 for 100,000 cells are 1.3 GB
KEPT = 0.01  # a type stays that some cell has with this probability
_NOTHING = 0.001  # probabilities below are not written


class Gathered(NamedTuple):
    """What is known of all cells.

    Attributes
    ----------
    label
        (n_cells,) each cell's own type, as the model gave it.
    novelty
        (n_cells,) float64.
    answer
        Columns after back-off and consensus.
    categories
        One row a type that gets a column of probabilities.
    probabilities
        What gives these columns for a part, or None.
    left_out
        Number of types without a column, and the mean over cells of the probability that is not written; empty where all is.
    """

    label: np.ndarray
    novelty: np.ndarray
    answer: dict[str, np.ndarray]
    categories: pd.DataFrame
    probabilities: Callable[[Part], np.ndarray] | None
    left_out: dict[str, float]


class Gatherer:
    """Takes blocks of annotations of a stretch of cells, in their order.

    Parameters
    ----------
    ballots
        Where the cells vote, or None.
    min_confidence
        Threshold of the back-off, or None.
    ontology
        Where back-off looks.
    """

    def __init__(
        self, ballots: Callable[[int], Ballots] | None, min_confidence: float | None, ontology: Ontology
    ) -> None:
        self._make_ballots, self._min_confidence, self._ontology = ballots, min_confidence, ontology
        self.ballots: Ballots | None = None
        self._tables: list[pd.DataFrame] = []
        self._backed: list[Any] = []
        self._probabilities: list[Any] = []
        self._labels: list[str] | None = None
        self._ids: list[str] = []
        self._column: dict[tuple[str, str], int] = {}
        self._highest = np.zeros(0)
        self._n = 0

    def add(self, block: Annotation) -> None:
        """Take the next block; raises ValueError where back-off or consensus is asked of a model without a label set."""
        table, p = block.table, block.probabilities
        if p is None and (self._make_ballots is not None or self._min_confidence is not None):
            raise ValueError("Back-off and consensus need a model with a label set; this one has none.")
        if self._labels is None:
            self._labels = block.categories["label"].tolist()
            self._ids = block.categories["ontology_term_id"].tolist()
            self._column = {pair: i for i, pair in enumerate(zip(self._labels, self._ids, strict=True))}
            self._highest = np.zeros(len(self._labels))
            self.ballots = None if self._make_ballots is None else self._make_ballots(len(self._labels))
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
        if self.ballots is not None:
            self.ballots.add(where, p, own, filled)
        if p.shape[1] > WIDE:
            if len(p):
                self._highest = np.maximum(self._highest, p.max(axis=0))
            self._highest[own[own >= 0]] = 1.0
            p = sparse.csr_matrix(np.where(p >= _NOTHING, p, np.float32(0.0)))
        self._probabilities.append(p)

    def finish(self) -> Part:
        """The stretch: what the model said, what back-off made of it, and the probabilities, sparse where they are of many types."""
        table = pd.concat(self._tables)
        columns = {
            "label": table["label"].to_numpy(dtype=object),
            "ontology_term_id": table["ontology_term_id"].to_numpy(dtype=object),
            "confidence": table["confidence"].to_numpy(dtype=np.float64),
            "novelty": table["novelty"].to_numpy(dtype=np.float64),
        }
        if self._backed:
            named = zip(("label", "ontology_term_id", "confidence"), zip(*self._backed, strict=True), strict=True)
            columns |= {f"backed_{name}": np.concatenate(blocks) for name, blocks in named}
        blocks, self._probabilities = self._probabilities, []
        p = None
        if blocks:
            p = sparse.vstack(blocks, format="csr") if sparse.issparse(blocks[0]) else np.concatenate(blocks)
        facts = {"labels": self._labels, "ids": self._ids, "highest": self._highest}
        return Part(columns, {} if p is None else {"probabilities": p}, facts)


def gathered(
    parts: Sequence[Part], ballots: Ballots | None, min_confidence: float | None, ontology: Ontology
) -> Gathered:
    """All stretches of cells, in their order.

    Parameters
    ----------
    parts
        Of :meth:`Gatherer.finish`.
    ballots
        Of the one gatherer that took all cells, or None.
    min_confidence
        As it was given to the gatherers.
    ontology
        Where the consensus looks.
    """
    labels, ids = parts[0].facts["labels"], parts[0].facts["ids"]
    categories = pd.DataFrame({"label": list(labels), "ontology_term_id": list(ids)}, dtype=object)
    label, novelty = _column(parts, "label"), _column(parts, "novelty")
    answer = _answers(parts, label, ballots, min_confidence, ontology)
    if "probabilities" not in parts[0].matrices:
        return Gathered(label, novelty, answer, categories, None, {})
    if len(labels) <= WIDE:
        return Gathered(label, novelty, answer, categories, lambda part: part.matrices["probabilities"], {})
    highest = np.max([part.facts["highest"] for part in parts], axis=0)
    kept = np.flatnonzero(highest >= KEPT)

    def columns(part: Part) -> np.ndarray:
        return part.matrices["probabilities"][:, kept].toarray()

    # summed cell by cell first: the same whatever the stretches are
    written = np.concatenate([columns(part).sum(axis=1, dtype=np.float64) for part in parts])
    left_out = {"types": len(labels) - len(kept), "mean_probability": float(1.0 - written.mean())}
    return Gathered(label, novelty, answer, categories.iloc[kept].reset_index(drop=True), columns, left_out)


def _column(parts: Sequence[Part], name: str) -> np.ndarray:
    return np.concatenate([part.columns[name] for part in parts])


def _answers(
    parts: Sequence[Part],
    own: np.ndarray,
    ballots: Ballots | None,
    min_confidence: float | None,
    ontology: Ontology,
) -> dict[str, np.ndarray]:
    """Labels after consensus and back-off; cells without counts stay unknown."""
    answer = {"label": own, **{name: _column(parts, name) for name in ("ontology_term_id", "confidence")}}
    filled = own != UNKNOWN
    if min_confidence is not None:
        for name, empty in (("label", UNKNOWN), ("ontology_term_id", UNKNOWN), ("confidence", 0.0)):
            answer[name] = np.where(filled, _column(parts, f"backed_{name}"), empty)
    if ballots is None:
        return answer
    # Cells without counts have nothing to vote with and stay unknown; cells without a group keep their own answer.
    facts = parts[0].facts
    voted = ballots.count(list(facts["labels"]), list(facts["ids"]), ontology, min_confidence)
    for name in list(answer):
        answer[name] = np.where(ballots.grouped & filled, voted[name], answer[name])
    answer["vote_fraction"] = np.where(ballots.grouped & filled, voted["vote_fraction"], np.nan)
    return {**answer, "per_cell": own}


def vocabulary_options(
    model: Any, candidates: Sequence[str] | None, under: str | None, novel_share: float | None
) -> dict[str, Any]:
    """The arguments that choose among an open vocabulary, for a model or family whose ``annotate`` takes them.

    Raises
    ------
    TypeError
        If `candidates` is one text, or the model does not take what is given.
    ValueError
        If `novel_share` is no share.
    """
    if novel_share is not None and (isinstance(novel_share, bool | str) or not 0 <= novel_share < 1):
        raise ValueError(f"novel_share must be a number in [0, 1), found {novel_share!r}. Pass None to estimate it.")
    if isinstance(candidates, str):
        raise TypeError(
            f"candidates must be a list of names or ids, found the text {candidates!r}. Write [{candidates!r}]."
        )
    given: dict[str, Any] = {}
    if candidates is not None:
        given["candidates"] = [str(name) for name in candidates]
    if under is not None:
        given["under"] = under
    if novel_share is not None:
        given["novel_share"] = novel_share
    if lost := [name for name in given if not _takes(model, name)]:
        able = [name for name in models.FAMILIES if all(_takes(models.family_class(name), of) for of in lost)]
        raise TypeError(
            f"{' and '.join(f'{name}=' for name in lost)} cannot be given to {getattr(model, 'family', type(model).__name__)!r}, which "
            f"does not take {'it' if len(lost) == 1 else 'them'}. Families that choose among the terms of the Cell Ontology and do: "
            f"{', '.join(map(repr, able))}."
        )
    return given


def _takes(model: Any, name: str) -> bool:
    method = getattr(model, "annotate", None)
    return method is not None and name in inspect.signature(method).parameters
