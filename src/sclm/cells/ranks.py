"""Rank-value encoding (first version)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from sclm.cells.ragged import Ragged

if TYPE_CHECKING:
    import scipy.sparse as sp


def rank_values(
    counts: sp.csr_matrix,
    scale: np.ndarray | None = None,
    *,
    max_length: int | None = None,
    token_ids: np.ndarray | None = None,
) -> Ragged:
    """Genes of each cell by decreasing count / scale, ties by token id."""
    tokens = np.arange(counts.shape[1]) if token_ids is None else np.asarray(token_ids)
    rows, offsets = [], [0]
    for i in range(counts.shape[0]):
        part = slice(counts.indptr[i], counts.indptr[i + 1])
        genes = counts.indices[part]
        value = counts.data[part].astype(np.float64)
        if scale is not None:
            value = value / scale[genes]
        kept = tokens[genes] >= 0
        row = tokens[genes][kept][np.lexsort((tokens[genes][kept], -value[kept]))][:max_length]
        rows.append(row)
        offsets.append(offsets[-1] + row.size)
    return Ragged(np.concatenate(rows) if rows else np.zeros(0, np.int64), np.array(offsets, np.int64))
