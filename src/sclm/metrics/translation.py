"""How good predicted proteins are: correlation across cells, errors, the cosine of the scTranslator paper, coverage of intervals.

Legend of shapes: n cells · P proteins. NaN in the truth, not measured, is left out everywhere.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pandas as pd
    from numpy.typing import ArrayLike

__all__ = ["compare", "coverage", "flat_scores", "pearson", "rmse"]

_LEAST = 3  # cells of a correlation


def pearson(truth: ArrayLike, predicted: ArrayLike) -> np.ndarray:
    """Pearson correlation of each protein across cells: does the model know which cells have more of it?

    Parameters
    ----------
    truth, predicted
        (n, P), any scale.

    Returns
    -------
    (P,) float64; NaN with fewer than three cells, or where the truth or the prediction does not vary.

    Examples
    --------
    >>> pearson([[0.0, 1.0], [1.0, 1.0], [2.0, 1.0]], [[1.0, 5.0], [3.0, 6.0], [5.0, 7.0]])
    array([ 1., nan])
    """
    t, p, known = _pair(truth, predicted)
    n = known.sum(axis=0)
    t = np.where(known, t - _mean(t, known), 0)
    p = np.where(known, p - _mean(p, known), 0)
    size = np.sqrt((t**2).sum(axis=0) * (p**2).sum(axis=0))
    flat = (np.abs(t).max(axis=0, initial=0) < 1e-9) | (np.abs(p).max(axis=0, initial=0) < 1e-9)
    return np.where((n >= _LEAST) & ~flat, (t * p).sum(axis=0) / np.where(size > 0, size, 1), np.nan)


def rmse(truth: ArrayLike, predicted: ArrayLike) -> np.ndarray:
    """Root mean squared error of each protein, in the scale of the values.

    Parameters
    ----------
    truth, predicted
        (n, P).

    Returns
    -------
    (P,) float64; NaN where a protein was measured in no cell.
    """
    t, p, known = _pair(truth, predicted)
    n = known.sum(axis=0)
    error = np.where(known, t - p, 0)
    return np.where(n > 0, np.sqrt((error**2).sum(axis=0) / np.maximum(n, 1)), np.nan)


def flat_scores(truth: ArrayLike, predicted: ArrayLike, *, batch_size: int | None = None) -> tuple[float, float]:
    r"""Mean squared error and cosine similarity as the scTranslator paper counts them (there called CCC).

    Both are taken over all measured values of a batch of cells at once, and averaged over batches. Proteins differ in level far
    more than cells do, so that the cosine of every cell's prediction by the training mean is high: read it beside that of the
    mean, and read :func:`pearson`.

    Parameters
    ----------
    truth, predicted
        (n, P), min-maxed within the cell in the paper.
    batch_size
        Cells in a batch; all where None.

    Returns
    -------
    Mean squared error; cosine, :math:`\langle t, p \rangle / (\lVert t \rVert \lVert p \rVert)`.

    Examples
    --------
    >>> flat_scores([[0.0, 1.0], [0.2, 1.0]], [[0.0, 1.0], [0.2, 1.0]])
    (0.0, 1.0)
    """
    t, p, known = _pair(truth, predicted)
    size = len(t) if batch_size is None else batch_size
    if size < 1:
        raise ValueError(f"batch_size must be at least 1, found {batch_size}, and there must be cells, found {len(t)}.")
    errors, cosines = [], []
    for start in range(0, len(t), size):
        here = known[start : start + size]
        a, b = t[start : start + size][here], p[start : start + size][here]
        if not a.size:
            continue
        errors.append(float(((a - b) ** 2).mean()))
        cosines.append(float(a @ b / max(np.linalg.norm(a) * np.linalg.norm(b), 1e-12)))
    if not errors:
        raise ValueError("truth must hold measured values, found none.")
    return float(np.mean(errors)), float(np.mean(cosines))


def coverage(truth: ArrayLike, predicted: ArrayLike, half_width: ArrayLike) -> np.ndarray:
    """Share of cells whose protein lies in its prediction interval.

    Parameters
    ----------
    truth, predicted
        (n, P).
    half_width
        (P,) or (n, P) half widths of the intervals.

    Returns
    -------
    (P,) float64, 0 to 1: compare with the level that the intervals promise. NaN where nothing was measured.
    """
    t, p, known = _pair(truth, predicted)
    width = np.broadcast_to(np.asarray(half_width, dtype=np.float64), t.shape)
    n = known.sum(axis=0)
    inside = (np.where(known, np.abs(t - p), np.inf) <= width) & known
    return np.where(n > 0, inside.sum(axis=0) / np.maximum(n, 1), np.nan)


def compare(
    truth: ArrayLike,
    predictions: Mapping[str, ArrayLike],
    names: Sequence[str],
    *,
    training_mean: ArrayLike | None = None,
) -> pd.DataFrame:
    """One row a method: correlation, errors and cosine, beside each protein's training mean.

    Parameters
    ----------
    truth
        (n, P).
    predictions
        Method → (n, P).
    names
        Of the proteins.
    training_mean
        (P,): adds the row ``"mean-protein"``, unless `predictions` has one.

    Returns
    -------
    pandas.DataFrame
        ``method``; ``pearson`` (mean over the proteins that vary among these cells) and ``pearson_median``; ``rmse`` (mean over
        proteins); ``mse`` and ``cosine`` over all values at once; ``n_proteins`` that vary; ``pearson: <protein>`` for each. A
        prediction that says the same of every cell, as the mean does, counts as correlation 0.
    """
    import pandas as pd

    methods = dict(predictions)
    truth = np.asarray(truth, dtype=np.float64)
    if truth.ndim != 2 or truth.shape[1] != len(names):
        raise ValueError(f"names must name the columns of truth, shape {truth.shape}, found {len(names)} names.")
    if training_mean is not None and "mean-protein" not in methods:
        methods["mean-protein"] = np.tile(np.asarray(training_mean, dtype=np.float64), (len(truth), 1))
    varies = np.isfinite(pearson(truth, truth))  # (P,)
    rows = []
    for method, predicted in methods.items():
        by_protein = pearson(truth, predicted)
        # What varies in the truth and not in the prediction was not predicted: 0, and not left out of the mean.
        by_protein = np.where(varies, np.nan_to_num(by_protein), np.nan)
        mse, cosine = flat_scores(truth, predicted)
        known = by_protein[np.isfinite(by_protein)]
        rows.append(
            {
                "method": method,
                "pearson": float(known.mean()) if known.size else np.nan,
                "pearson_median": float(np.median(known)) if known.size else np.nan,
                "rmse": float(np.nanmean(rmse(truth, predicted))),
                "mse": mse,
                "cosine": cosine,
                "n_proteins": int(known.size),
                **{f"pearson: {name}": float(r) for name, r in zip(names, by_protein, strict=True)},
            }
        )
    return pd.DataFrame(rows)


def _pair(truth: ArrayLike, predicted: ArrayLike) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Both as (n, P) float64, and where both are known."""
    t, p = np.asarray(truth, dtype=np.float64), np.asarray(predicted, dtype=np.float64)
    if t.ndim != 2 or t.shape != p.shape:
        raise ValueError(
            f"truth and predicted must have one shape (n_cells, n_proteins), found {t.shape} and {p.shape}."
        )
    known = np.isfinite(t) & np.isfinite(p)
    return t, p, known


def _mean(values: np.ndarray, known: np.ndarray) -> np.ndarray:
    """(P,) over known values."""
    return np.where(known, values, 0).sum(axis=0) / np.maximum(known.sum(axis=0), 1)
