"""Pseudobulk of groups, whatever the blocks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest

from sclm.cells import Cells, read_cells, sum_groups

if TYPE_CHECKING:
    from collections.abc import Callable

    import anndata


def test_counts_of_a_group_are_summed_over_blocks(simulate: Callable[..., anndata.AnnData]) -> None:
    adata = simulate(30, seed=3)
    adata.obs["tissue"] = pd.Categorical(["blood"] * 29 + ["lung"])
    source = read_cells(adata, obs_keys=["tissue"])
    groups = np.array([["b", "a", None][i % 3] for i in range(30)], dtype=object)
    summed = sum_groups(source.blocks(7), groups)
    assert summed.obs.index.tolist() == ["a", "b"]
    dense = adata.X.toarray()
    np.testing.assert_array_equal(summed.counts.toarray(), [dense[1::3].sum(axis=0), dense[::3].sum(axis=0)])
    assert summed.obs["tissue"].tolist() == ["blood", "blood"]  # the lung cell is in no group
    assert summed.counts.dtype == np.float32
    whole = sum_groups([source.read()], groups)
    np.testing.assert_array_equal(whole.counts.toarray(), summed.counts.toarray())


def test_cells_without_a_group_are_in_none(simulate: Callable[..., anndata.AnnData]) -> None:
    cells = read_cells(simulate(24, seed=5)).read()
    groups = np.array(["a", np.nan, "b", None, *["a"] * 20], dtype=object)
    summed = sum_groups([cells], groups)
    assert summed.obs.index.tolist() == ["a", "b"]
    np.testing.assert_allclose(summed.counts.toarray()[1], cells.counts[2].toarray()[0])
    with pytest.raises(ValueError, match="only missing values"):
        sum_groups([cells], np.full(24, None))
    for wrong in (["a", "b"], ["a"] * 25):
        with pytest.raises(ValueError, match=f"found {len(wrong)}"):
            sum_groups([cells], np.array(wrong))


def test_what_differs_in_a_group_is_missing(simulate: Callable[..., anndata.AnnData]) -> None:
    cells = read_cells(simulate(4, seed=1)).read()
    cells = Cells(cells.counts, cells.genes, cells.obs.assign(disease=["x", "x", "x", "y"]))
    assert sum_groups([cells], ["a", "a", "b", "b"]).obs["disease"].tolist() == ["x", None]
