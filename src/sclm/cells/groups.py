"""Cells of a group as one: pseudobulk."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import sparse

from sclm.cells.cells import Cells

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import ArrayLike


def sum_groups(blocks: Iterable[Cells], groups: ArrayLike) -> Cells:
    """One cell a group, in the order of their names: summed counts, and the fields that all its cells share.

    Parameters
    ----------
    blocks
        Cells, block by block, with the same genes.
    groups
        (n,) name of each cell's group over all blocks; cells without one (None, NaN) are left out.

    Returns
    -------
    Counts CSR float32 (n_groups, n_genes); ``obs`` with the groups' names as index and objects as values, None where a group's cells differ.

    Raises
    ------
    ValueError
        If no cell has a group, or there are not as many groups as cells.
    """
    given = pd.Series(np.asarray(groups, dtype=object))
    there = given.notna().to_numpy()
    if not there.any():
        raise ValueError("groups must name the group of at least one cell, found only missing values.")
    names = np.unique(given[there].astype(str).to_numpy(dtype=str))
    codes = np.full(len(given), -1, dtype=np.int64)
    codes[there] = np.searchsorted(names, given[there].astype(str).to_numpy(dtype=str))
    total: sparse.csr_matrix | None = None
    genes, fields, n = pd.Index([]), [], 0
    for cells in blocks:
        part = codes[n : n + cells.n_cells]
        n += cells.n_cells
        if n > len(codes):
            break
        rows = np.flatnonzero(part >= 0)
        member = sparse.csr_matrix(
            (np.ones(len(rows)), (part[rows], rows)), shape=(len(names), cells.n_cells)
        )  # (n_groups, n)
        summed = member @ cells.counts
        total = summed if total is None else total + summed
        genes = cells.genes
        fields.append(cells.obs)
    if n != len(codes):
        raise ValueError(f"groups must name one group a cell ({n}), found {len(codes)}.")
    obs = pd.concat([part.astype(object) for part in fields])
    shared = {}
    for column in obs.columns:
        values = obs[column].to_numpy(dtype=object)
        found = [pd.unique(values[codes == g]) for g in range(len(names))]
        shared[column] = [of[0] if len(of) == 1 else None for of in found]
    counts = sparse.csr_matrix(total, dtype=np.float32)
    counts.sort_indices()
    return Cells(counts, genes, pd.DataFrame(shared, index=names, dtype=object))
