"""Which pathways a text names, as a question with several right answers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from numpy.typing import ArrayLike


def pathways(
    truth: Sequence[Collection[str]],
    predicted: Sequence[Collection[str]],
    *,
    scores: ArrayLike | None = None,
    categories: Sequence[str] | None = None,
) -> dict[str, float]:
    """Named gene sets against true ones, by the measures that Cell2Text reports.

    Parameters
    ----------
    truth
        n sets: the pathways of each cell, for example its two most active ones.
    predicted
        n sets: those that its text names.
    scores
        (n, S) how strongly each pathway is claimed, higher is more, for the areas under curves; None: these are NaN.
    categories
        The S pathways, columns of `scores`. None: all that occur, sorted.

    Returns
    -------
    ``subset_accuracy`` (share of cells whose sets are equal), ``jaccard`` (mean of intersection over union, 1 where both are empty),
    ``micro_f1``, ``macro_f1`` and ``weighted_f1`` over the pathways that are true of some cell, ``auroc_macro`` and ``auprc_macro`` (mean
    over the pathways that are true of some cells and not of all), ``auroc_flat`` and ``auprc_flat`` (over all pairs of cell and
    pathway), ``n_pathways`` true of some cell. All from 0 to 1 but the last.

    Raises
    ------
    ValueError
        If numbers differ, a named pathway is no category, or there are no cells.

    Examples
    --------
    >>> pathways([{"A", "B"}, {"A"}], [{"A", "B"}, {"B"}])["subset_accuracy"]
    0.5
    """
    if len(truth) != len(predicted) or not len(truth):
        raise ValueError(
            f"expected one set for each truth and at least one, found {len(predicted):,} and {len(truth):,}."
        )
    if scores is not None and categories is None:
        raise ValueError("scores need categories=, the names of their columns, found None.")
    names = sorted({n for s in (*truth, *predicted) for n in s}) if categories is None else [str(c) for c in categories]
    place = {name: i for i, name in enumerate(names)}
    wanted, said = _table(truth, place), _table(predicted, place)
    both, either = (wanted & said).sum(axis=1), (wanted | said).sum(axis=1)
    true_of_some = wanted.any(axis=0)
    hits, meant, claimed = (wanted & said).sum(axis=0), wanted.sum(axis=0), said.sum(axis=0)
    f1 = 2 * hits / np.maximum(meant + claimed, 1)
    result = {
        "subset_accuracy": float((wanted == said).all(axis=1).mean()),
        "jaccard": float(np.where(either > 0, both / np.maximum(either, 1), 1.0).mean()),
        "micro_f1": float(2 * hits.sum() / max(meant.sum() + claimed.sum(), 1)),
        "macro_f1": float(f1[true_of_some].mean()) if true_of_some.any() else float("nan"),
        "weighted_f1": float(np.average(f1, weights=meant)) if true_of_some.any() else float("nan"),
    }
    result |= dict.fromkeys(("auroc_macro", "auprc_macro", "auroc_flat", "auprc_flat"), float("nan"))
    if scores is not None:
        table = np.asarray(scores, dtype=np.float64)
        if table.shape != wanted.shape:
            raise ValueError(f"scores must have shape {wanted.shape}, found {table.shape}.")
        result |= _areas(wanted, table)
    result["n_pathways"] = float(true_of_some.sum())
    return result


def _table(sets: Sequence[Collection[str]], place: dict[str, int]) -> np.ndarray:
    """(n, S) bool."""
    found = np.zeros((len(sets), len(place)), dtype=bool)
    for row, names in enumerate(sets):
        if isinstance(names, str):
            raise TypeError(f"expected sets of names, found the text {names!r}. Write {{name}}.")
        for name in names:
            if name not in place:
                raise ValueError(f"{name!r} is none of the {len(place)} categories.")
            found[row, place[name]] = True
    return found


def _areas(wanted: np.ndarray, scores: np.ndarray) -> dict[str, float]:
    from sklearn.metrics import average_precision_score, roc_auc_score

    mixed = wanted.any(axis=0) & ~wanted.all(axis=0)
    result = {}
    for name, area in (("auroc", roc_auc_score), ("auprc", average_precision_score)):
        each = [area(wanted[:, i], scores[:, i]) for i in np.flatnonzero(mixed)]
        result[f"{name}_macro"] = float(np.mean(each)) if each else float("nan")
        flat = wanted.ravel()
        result[f"{name}_flat"] = float(area(flat, scores.ravel())) if flat.any() and not flat.all() else float("nan")
    return result
