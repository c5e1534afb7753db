"""Edges between genes out of weights of all pairs, block by block."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_BLOCK = 512  # sources whose weights are held at once


def strongest_edges(
    weights: Callable[[np.ndarray], np.ndarray],
    genes: Sequence[str] | pd.Index,
    *,
    k: int | None = 20,
    sources: Sequence[str] | None = None,
    absolute: bool = False,
) -> pd.DataFrame:
    """The strongest edges of each gene.

    Parameters
    ----------
    weights
        Rows of sources (m,) to weights (m, n_genes), NaN where there is no edge; called with at most 512 rows.
    genes
        (n_genes,) names, each once.
    k
        Edges that are kept of each source; None for all.
    sources
        Genes from which edges start; None for all.
    absolute
        Whether strongly negative weights are strong.

    Returns
    -------
    One row an edge, by source in their order and then strongest first, ties by the target's place: ``source``, ``target``,
    ``weight`` (float64). No gene has an edge to itself.

    Raises
    ------
    KeyError
        If a source is none of the genes.
    ValueError
        If a gene stands twice.

    Examples
    --------
    >>> import numpy as np
    >>> w = np.array([[1.0, 0.2, 0.9], [0.2, 1.0, -0.5], [0.9, -0.5, 1.0]])
    >>> strongest_edges(lambda rows: w[rows], ["A", "B", "C"], k=1)
      source target  weight
    0      A      C     0.9
    1      B      A     0.2
    2      C      A     0.9
    """
    index = pd.Index(genes, dtype=object)
    if not index.is_unique:
        raise ValueError(f"genes must each stand once, found {index[index.duplicated()][0]!r} twice.")
    rows = np.arange(len(index)) if sources is None else index.get_indexer(pd.Index(list(dict.fromkeys(sources))))
    if (rows < 0).any():
        lost = [name for name, row in zip(dict.fromkeys(sources or ()), rows, strict=True) if row < 0]
        raise KeyError(f"{len(lost)} sources are none of the genes: {', '.join(map(repr, lost[:5]))}. Leave them out.")
    kept = len(index) - 1 if k is None else min(k, len(index) - 1)
    parts = []
    for start in range(0, len(rows), _BLOCK):
        some = rows[start : start + _BLOCK]
        weight = np.array(weights(some), dtype=np.float64)  # (m, n_genes)
        weight[np.arange(len(some)), some] = np.nan
        strength = np.nan_to_num(np.abs(weight) if absolute else weight, nan=-np.inf)
        best = np.argsort(-strength, axis=1, kind="stable")[:, :kept]  # (m, kept)
        found = np.take_along_axis(weight, best, axis=1)
        there = ~np.isnan(found)
        parts.append((np.repeat(some, kept)[there.ravel()], best[there], found[there]))
    source, target, weight = (np.concatenate([part[i] for part in parts]) for i in range(3))
    return pd.DataFrame({"source": index[source], "target": index[target], "weight": weight})
