"""What moved the answers of an annotator, for some cells of each type that it answered."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from sclm import models
from sclm.evidence.backoff import UNKNOWN

if TYPE_CHECKING:
    from sclm.cells import CellSource

_PAIRS = (("genes", "top genes", "random genes"), ("nodes", "top nodes", "random nodes"))


def check_explain(model: Any, explain: int) -> None:
    """Refuse a number that is none, and a model or family that does not explain.

    Raises
    ------
    ValueError
        If `explain` is no whole number of at least 0.
    TypeError
        If it is above 0 and the model has no ``explain``.
    """
    if isinstance(explain, bool) or not isinstance(explain, int | np.integer) or explain < 0:
        raise ValueError(
            f"explain must be a whole number of cells of each answered type, found {explain!r}. Use e.g. 3."
        )
    if explain and not hasattr(model, "explain"):
        able = [name for name in models.FAMILIES if hasattr(models.family_class(name), "explain")]
        raise TypeError(
            f"explain= cannot be given to {getattr(model, 'family', type(model).__name__)!r}, which does not say what moved its answers. "
            f"Families that do: {', '.join(map(repr, able))}."
        )


def explanation(
    annotator: Any, source: CellSource, label: np.ndarray, explain: int, options: dict[str, Any], seed: int
) -> dict[str, Any]:
    """Explanations of at most `explain` cells of each type, and what deletion costs on average.

    Parameters
    ----------
    annotator
        Has ``explain(cells, seed=, **options)``: a table with ``cell``, ``kind``, ``effect``.
    source, label
        The cells and the model's own answers.
    explain
        Cells a type.
    options
        As ``annotate`` was given them.
    seed
        Of the cells that are drawn.

    Returns
    -------
    ``{"explanation": table, "faithfulness": {"genes": {"shown", "random", "share", "cells"}, "nodes": …}}``: mean nats that an answer loses
    without what is shown of a cell and without as much else, and the share of cells where the first is the larger.
    """
    rng = np.random.default_rng([seed, 17])
    order = rng.permutation(len(label))
    rows = [order[label[order] == name][:explain] for name in np.unique(label[label != UNKNOWN].astype(str))]
    chosen = np.sort(np.concatenate(rows)) if rows else np.zeros(0, dtype=np.int64)
    if not len(chosen):
        return {}
    found = annotator.explain(source.read(chosen), seed=seed, **options)
    faithfulness = {}
    for what, shown, random in _PAIRS:
        pair = [found.loc[found["kind"] == kind].set_index("cell")["effect"] for kind in (shown, random)]
        if len(pair[0]):
            first, second = (effect.to_numpy(dtype=np.float64) for effect in pair)
            faithfulness[what] = {
                "shown": float(first.mean()),
                "random": float(second.mean()),
                "share": float((first > second).mean()),
                "cells": len(first),
            }
    return {"explanation": found, "faithfulness": faithfulness}
