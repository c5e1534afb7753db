"""Cells in folds: whole donors each, or cells of each type at random."""

from __future__ import annotations

import numpy as np


def folds(types: np.ndarray, batches: np.ndarray | None = None, *, n_folds: int = 5, seed: int = 0) -> np.ndarray:
    """Divide cells into folds, each of which is the test part once.

    Parameters
    ----------
    types
        (n,) cell type of each cell.
    batches
        (n,) donor or batch of each cell. A batch is then in one fold as a whole, and folds have about the same number of cells; with
        no more batches than folds each batch is a fold. None: cells of each type are dealt out at random.
    n_folds
        Number of folds, at least 2.
    seed
        Of the order in which batches and cells are dealt out.

    Returns
    -------
    (n,) int64 fold of each cell, from 0.

    Raises
    ------
    ValueError
        If there are fewer than two folds, batches, or cells.

    Examples
    --------
    >>> import numpy as np
    >>> folds(np.array(["B", "T"] * 4), np.array(list("aabbccdd")), n_folds=2).reshape(4, 2)
    array([[0, 0],
           [1, 1],
           [0, 0],
           [1, 1]])
    """
    types = np.asarray(types, dtype=object)
    if isinstance(n_folds, bool) or n_folds != int(n_folds) or n_folds < 2:
        raise ValueError(f"n_folds must be a whole number of at least 2, found {n_folds!r}.")
    if len(types) < 2:
        raise ValueError(f"there must be at least two labelled cells to split, found {len(types)}.")
    rng = np.random.default_rng(seed)
    found = np.zeros(len(types), dtype=np.int64)
    if batches is None:
        first = 0  # types are dealt out one after the other, so that the remainders do not all fall into the first fold
        for name in sorted(set(types.tolist()), key=str):
            cells = rng.permutation(np.flatnonzero(types == name))
            found[cells] = (first + np.arange(len(cells))) % n_folds
            first += len(cells)
        return found
    batches = np.asarray(batches, dtype=object)
    if len(batches) != len(types):
        raise ValueError(f"there must be one batch a cell ({len(types):,}), found {len(batches):,}.")
    names, code, sizes = np.unique(batches.astype(str), return_inverse=True, return_counts=True)
    if len(names) < 2:
        raise ValueError(
            f"to leave batches out there must be at least two, found {len(names)} ({str(names[0])!r}). "
            "Leave batch_key out to split at random, which is easier than another donor is."
        )
    n_folds = min(n_folds, len(names))
    # Large ones first, but not strictly: the same order for every seed would be the same folds for every seed.
    order = np.argsort(-sizes * rng.uniform(0.5, 1.5, len(names)), kind="stable")
    fold_of, filled = np.zeros(len(names), dtype=np.int64), np.zeros(n_folds)
    for batch in order:
        fold_of[batch] = filled.argmin()
        filled[fold_of[batch]] += sizes[batch]
    return fold_of[code]
