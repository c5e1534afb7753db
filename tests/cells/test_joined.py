"""Several AnnData read as one."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from sclm.cells import JoinedSource, read_cells


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
