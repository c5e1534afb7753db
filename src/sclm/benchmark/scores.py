"""Scores of out-of-fold answers, and their intervals: everything a score is made of, summed a donor, drawn with replacement.

Legend of shapes: n cells · U units (donors, or cells) · T true types · B resamples.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import scipy.sparse as sp

from sclm import metrics
from sclm.evidence.backoff import UNKNOWN

if TYPE_CHECKING:
    from sclm.knowledge import Ontology

SCORES = ("accuracy", "macro_f1", "ontology_similarity", "expected_calibration_error")
_BINS = 15  # as sclm.metrics.annotation
_CHUNK = 64  # resamples at a time


class Tallies:
    """What the scores of one method in one split are made of, (U, columns): any resample's scores are sums of rows.

    Parameters
    ----------
    truth, answer
        (n,) ids, or labels where there are none; ``"unknown"`` abstains.
    confidence
        (n,) 0-1; NaN where nothing is known.
    units
        (n,) unit of each cell, 0 to U - 1.
    ontology
        For similarity, and for what a confidence means of a general term.
    """

    def __init__(
        self, truth: np.ndarray, answer: np.ndarray, confidence: np.ndarray, units: np.ndarray, ontology: Ontology
    ) -> None:
        types, true = np.unique(truth.astype(str), return_inverse=True)
        place = {name: i for i, name in enumerate(types.tolist())}
        guess = np.array([place.get(str(name), -1) for name in answer])
        kind = metrics.match_kind(truth, answer, ontology)
        exact = kind == "exact"
        n, k = len(truth), len(types)
        self.n_types, self.sure = k, bool(np.isfinite(confidence).all())
        claimed = (kind != UNKNOWN) & self.sure
        right = np.isin(kind, ["exact", "ancestor"])
        bins = np.clip(np.ceil(np.nan_to_num(confidence) * _BINS).astype(int) - 1, 0, _BINS - 1)
        ones = np.ones(n)
        # one column of each: cells, hits, similarity, claimed; T of each: cells, answers, hits; 15: right minus confidence
        columns = (
            (0, ones), (1, exact), (2, _similarity(truth, answer, exact, ontology)), (3, claimed),
            (4 + true, ones), (4 + k + np.maximum(guess, 0), guess >= 0), (4 + 2 * k + true, exact),
            (4 + 3 * k + bins, np.where(claimed, right - np.nan_to_num(confidence), 0.0)),
        )  # fmt: skip
        parts = [sp.coo_matrix((np.asarray(v, float), (units, np.broadcast_to(c, n))), (int(units.max()) + 1, 4 + 3 * k + _BINS)) for c, v in columns]  # fmt: skip
        self.matrix = sp.csr_matrix(sum(part.tocsr() for part in parts))

    def scores(self, weights: np.ndarray | None = None) -> np.ndarray:
        """Scores of the cells, or of resamples of the units.

        Parameters
        ----------
        weights
            (B, U) how often each unit was drawn; None: each once.

        Returns
        -------
        (B, 4) float64: the columns of :data:`SCORES`.
        """
        units = self.matrix.shape[0]
        weights = np.ones((1, units)) if weights is None else weights
        total = np.asarray((self.matrix.T @ weights.T).T)  # (B, columns)
        k = self.n_types
        cells, calls, hits = (total[:, 4 + i * k : 4 + (i + 1) * k] for i in range(3))
        with np.errstate(invalid="ignore", divide="ignore"):
            f1 = np.where(cells > 0, 2 * hits / (cells + calls), np.nan)
            error = np.abs(total[:, 4 + 3 * k :]).sum(axis=1) / total[:, 3]
            return np.stack(
                [
                    total[:, 1] / total[:, 0],
                    np.nansum(f1, axis=1) / (cells > 0).sum(axis=1),  # over the types that were drawn
                    total[:, 2] / total[:, 0],
                    error if self.sure else np.full(len(error), np.nan),
                ],
                axis=1,
            )


def resampled(tallies: list[list[Tallies]], n_bootstrap: int, seed: int) -> np.ndarray:
    """Scores of the same resamples for every method, so that differences are paired.

    Parameters
    ----------
    tallies
        Of each method, those of each split.
    n_bootstrap
        Resamples of the units, with replacement.
    seed
        Of the resamples.

    Returns
    -------
    (n_methods, n_bootstrap, 4) float64: means over the splits.
    """
    units = tallies[0][0].matrix.shape[0]
    rng = np.random.default_rng(seed)
    found = np.zeros((len(tallies), n_bootstrap, len(SCORES)))
    for start in range(0, n_bootstrap, _CHUNK):
        size = min(_CHUNK, n_bootstrap - start)
        drawn = rng.integers(0, units, (size, units))
        weights = np.stack([np.bincount(row, minlength=units) for row in drawn]).astype(np.float64)
        for i, splits in enumerate(tallies):
            found[i, start : start + size] = np.mean([t.scores(weights) for t in splits], axis=0)
    return found


def interval(values: np.ndarray) -> tuple[float, float]:
    """The middle 95 % of resampled values; NaN where there are none."""
    values = values[np.isfinite(values)]
    if not len(values):
        return float("nan"), float("nan")
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)


def per_type(truth: np.ndarray, answer: np.ndarray, confidence: np.ndarray) -> pd.DataFrame:
    """Precision, recall and F1 of each true type.

    Parameters
    ----------
    truth, answer
        (n,) ids or labels.
    confidence
        (n,) 0-1.

    Returns
    -------
    One row a true type: ``type``, ``cells``, ``precision`` (NaN where it was never answered), ``recall``, ``f1``, ``confidence`` (mean of
    its cells), ``mistaken_for`` (the most frequent wrong answer).
    """
    rows = []
    for name in np.unique(truth.astype(str)):
        is_it, said = truth == name, answer == name
        hits = int((is_it & said).sum())
        wrong = pd.Series(answer[is_it & ~said], dtype=object).value_counts()
        rows.append(
            {
                "type": name, "cells": int(is_it.sum()),
                "precision": hits / said.sum() if said.any() else float("nan"), "recall": hits / is_it.sum(),
                "f1": 2 * hits / (is_it.sum() + said.sum()), "confidence": float(np.mean(confidence[is_it])),
                "mistaken_for": str(wrong.index[0]) if len(wrong) else "",
            }
        )  # fmt: skip
    return pd.DataFrame(rows)


def _similarity(truth: np.ndarray, answer: np.ndarray, exact: np.ndarray, ontology: Ontology) -> np.ndarray:
    """(n,) Lin similarity of answer and truth; 1 or 0 where one of them is no term."""
    found = exact.astype(np.float64)
    both = np.array([a in ontology and t in ontology for t, a in zip(truth, answer, strict=True)], dtype=bool)
    if both.any():
        rows, row = np.unique(answer[both].astype(str), return_inverse=True)
        columns, column = np.unique(truth[both].astype(str), return_inverse=True)
        found[both] = ontology.similarity_matrix(rows.tolist(), columns.tolist(), "lin")[row, column]
    return found
