"""Sequences of similar length together, so that a batch holds little padding."""

from __future__ import annotations

import numpy as np


def buckets(lengths: np.ndarray, max_tokens: int) -> list[np.ndarray]:
    """Cut sequences into batches of similar length.

    Parameters
    ----------
    lengths
        (n,) tokens of each sequence, at least 0.
    max_tokens
        Bound on the number of sequences times the longest of them; a sequence that is longer than the bound is alone.

    Returns
    -------
    Row numbers of each batch, int64, longest sequences first: each row once.

    Raises
    ------
    ValueError
        If `max_tokens` is less than 1.

    Examples
    --------
    >>> import numpy as np
    >>> [rows.tolist() for rows in buckets(np.array([2, 9, 8, 1]), max_tokens=18)]
    [[1, 2], [0, 3]]
    """
    if max_tokens < 1:
        raise ValueError(f"max_tokens must be at least 1, found {max_tokens}.")
    order = np.argsort(-np.asarray(lengths), kind="stable")
    batches = []
    start = 0
    while start < order.size:
        fit = max(1, max_tokens // max(1, int(lengths[order[start]])))
        batches.append(order[start : start + fit])
        start += fit
    return batches
