"""Several AnnData read as one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from sclm.cells import JoinedSource, read_cells

if TYPE_CHECKING:
    from collections.abc import Callable


def data(genes: list[str], n: int, seed: int) -> ad.AnnData:
    rng = np.random.default_rng(seed)
    obs = pd.DataFrame({"kind": pd.Categorical(rng.choice(["a", "b"], n))}, index=[f"{seed}_{i}" for i in range(n)])
    counts = sp.csr_matrix(rng.poisson(1.0, (n, len(genes))).astype(np.float32))
    return ad.AnnData(counts, obs=obs, var=pd.DataFrame(index=genes))


def test_blocks_are_those_of_the_concatenation() -> None:
    parts = [data(["g1", "g2", "g3", "g4"], 70, 0), data(["g4", "x", "g2", "g3"], 50, 1)]
    joined = JoinedSource([read_cells(a, obs_keys=["kind"]) for a in parts])
    together = ad.concat(parts, join="inner")
    assert list(joined.genes) == ["g2", "g3", "g4"]
    assert joined.n_cells == 120
    blocks = list(joined.blocks(32))
    assert max(b.counts.shape[0] for b in blocks) == 32
    counts = sp.vstack([b.counts for b in blocks]).toarray()
    np.testing.assert_array_equal(counts, together[:, list(joined.genes)].X.toarray())
    names = pd.concat([b.obs for b in blocks])
    assert list(names.index) == list(together.obs_names)
    assert list(names["kind"]) == list(together.obs["kind"])
    assert list(joined.obs["kind"]) == list(together.obs["kind"])


def test_without_common_genes_it_says_so() -> None:
    parts = [data(["g1", "g2"], 5, 0), data(["ENSG1", "ENSG2"], 5, 1)]
    with pytest.raises(ValueError, match="found 0 names in all of them"):
        JoinedSource([read_cells(a) for a in parts])
    with pytest.raises(ValueError, match="at least one AnnData"):
        JoinedSource([])


def test_rows_in_any_order_are_those_of_the_cells_in_a_row(simulate: Callable[..., ad.AnnData]) -> None:
    whole = simulate(60, 30, seed=5)
    parts = [whole[:20].copy(), whole[20:23, ::-1].copy(), whole[23:].copy()]
    joined = JoinedSource([read_cells(part, obs_keys=["donor"]) for part in parts])
    assert joined.in_memory
    for rows in ([59, 0, 21, 20, 20, 5], np.arange(60), np.arange(60) % 7 == 0, [-1, 3], []):
        block = joined.read(rows)
        expected = whole[np.asarray(rows, dtype=int) if np.asarray(rows).dtype != bool else rows]
        np.testing.assert_array_equal(block.counts.toarray(), expected[:, list(joined.genes)].X.toarray())
        assert list(block.obs.index) == list(expected.obs_names)
        assert block.obs["donor"].tolist() == expected.obs["donor"].tolist()
    blocks = list(joined.blocks(4, rows=[58, 1, 22, 2, 30, 0]))
    assert [block.n_cells for block in blocks] == [4, 2]
    assert [name for block in blocks for name in block.obs.index] == [f"cell{i}" for i in (58, 1, 22, 2, 30, 0)]
    with pytest.raises(IndexError, match="rows must lie between 0 and 59, found 60"):
        joined.read([60])
