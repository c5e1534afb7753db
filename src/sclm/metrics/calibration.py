"""Whether confidences mean what they say: expected calibration error, reliability and coverage tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import ArrayLike


def _checked(correct: ArrayLike, confidence: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Both as flat arrays, (n,) bool and (n,) float64, after checks."""
    right = np.asarray(correct)
    sure = np.asarray(confidence, dtype=np.float64)
    if right.ndim != 1 or right.shape != sure.shape:
        raise ValueError(
            f"expected correct and confidence of one length, found shapes {right.shape} and {sure.shape}. "
            "Give one value a cell of each."
        )
    # sums of float32 probabilities may pass 1 by rounding; NaN is outside too
    outside = ~((sure >= -1e-6) & (sure <= 1.0 + 1e-6))
    if outside.any():
        first = int(np.flatnonzero(outside)[0])
        raise ValueError(
            f"expected confidence between 0 and 1, found {sure[first]} at position {first} ({outside.sum()} such values). "
            "Turn scores into probabilities first."
        )
    return right.astype(bool), np.clip(sure, 0.0, 1.0)


def _bins(confidence: np.ndarray, n_bins: int) -> tuple[np.ndarray, np.ndarray]:
    """Edges (n_bins + 1,) and the bin of each cell (n,); bins are (low, high], the first with 0."""
    if n_bins < 1:
        raise ValueError(f"expected n_bins of at least 1, found {n_bins}.")
    edges = np.linspace(0.0, 1.0, n_bins + 1)
    return edges, np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, n_bins - 1)


def reliability(correct: ArrayLike, confidence: ArrayLike, n_bins: int = 15) -> pd.DataFrame:
    """How often cells of like confidence are right: the table behind a reliability diagram.

    Parameters
    ----------
    correct
        (n,) bool, whether each annotation is right.
    confidence
        (n,) float in [0, 1].
    n_bins
        Number of bins of equal width; bin i holds confidences in (i / n_bins, (i + 1) / n_bins], the first also 0.

    Returns
    -------
    pandas.DataFrame
        One row a bin: bin_low, bin_high, confidence and accuracy (means, NaN in an empty bin), n.

    Raises
    ------
    ValueError
        If the lengths differ or a confidence lies outside [0, 1].
    """
    import pandas as pd

    right, sure = _checked(correct, confidence)
    edges, place = _bins(sure, n_bins)
    n = np.bincount(place, minlength=n_bins)
    with np.errstate(invalid="ignore"):  # an empty bin has no mean: NaN
        mean_confidence = np.bincount(place, weights=sure, minlength=n_bins) / n
        accuracy = np.bincount(place, weights=right, minlength=n_bins) / n
    return pd.DataFrame(
        {"bin_low": edges[:-1], "bin_high": edges[1:], "confidence": mean_confidence, "accuracy": accuracy, "n": n}
    )


def expected_calibration_error(correct: ArrayLike, confidence: ArrayLike, n_bins: int = 15) -> float:
    """Mean gap between confidence and accuracy, over bins of equal width, weighted by their cells.

    `ECE = sum_b (n_b / n) |accuracy_b - confidence_b|` (Naeini et al. 2015; Guo et al. 2017).

    Parameters
    ----------
    correct
        (n,) bool, whether each annotation is right.
    confidence
        (n,) float in [0, 1].
    n_bins
        Number of bins, as in `reliability`.

    Returns
    -------
    float
        In [0, 1]; NaN without cells.

    Raises
    ------
    ValueError
        If the lengths differ or a confidence lies outside [0, 1].
    """
    right, sure = _checked(correct, confidence)
    if not len(sure):
        return float("nan")
    _, place = _bins(sure, n_bins)
    # n_b cancels: sum_b |sum of correct in b - sum of confidence in b| / n
    return float(np.abs(np.bincount(place, weights=right - sure)).sum() / len(sure))


def coverage_accuracy(correct: ArrayLike, confidence: ArrayLike) -> pd.DataFrame:
    """Accuracy among the most confident cells, for every share of cells kept.

    Parameters
    ----------
    correct
        (n,) bool, whether each annotation is right.
    confidence
        (n,) float in [0, 1].

    Returns
    -------
    pandas.DataFrame
        One row a distinct confidence, from high to low: coverage (share of cells of at least this confidence, up to 1),
        accuracy among them, and the confidence as threshold. Cells of equal confidence enter together.

    Raises
    ------
    ValueError
        If the lengths differ or a confidence lies outside [0, 1].
    """
    import pandas as pd

    right, sure = _checked(correct, confidence)
    order = np.argsort(-sure, kind="stable")
    hits = np.cumsum(right[order])
    kept = np.arange(1, len(order) + 1)
    falling = sure[order]
    last = np.append(falling[1:] != falling[:-1], True) if len(order) else np.empty(0, dtype=bool)
    return pd.DataFrame(
        {"coverage": kept[last] / max(len(order), 1), "accuracy": hits[last] / kept[last], "threshold": falling[last]}
    )
