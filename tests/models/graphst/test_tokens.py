"""Components of spots against a decomposition of the dense matrix."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from sclm.cells import read_cells
from sclm.models.graphst.tokens import learn_components, project

if TYPE_CHECKING:
    from collections.abc import Callable

    import anndata as ad


def dense_components(adata: ad.AnnData, library: np.ndarray, n_genes: int, k: int) -> np.ndarray:
    counts = np.asarray(adata.X.todense(), dtype=np.float64)
    logs = np.log1p(1e4 * counts / counts.sum(axis=1, keepdims=True))
    within = logs.copy()
    for name in np.unique(library):
        within[library == name] -= logs[library == name].mean(axis=0)
    variance = (within**2).mean(axis=0)
    usable = np.flatnonzero((counts > 0).sum(axis=0) >= 8)  # 5 % of 150
    mean = logs[:, usable].mean(axis=0)
    n_groups = len(usable) // 40
    groups = np.argsort(np.argsort(mean)) * n_groups // len(usable)
    ratio = np.log(variance[usable] / mean)
    score = np.zeros(len(usable))
    for group in range(n_groups):
        some = ratio[groups == group]
        score[groups == group] = (some - np.median(some)) / np.median(np.abs(some - np.median(some)))
    chosen = usable[np.argsort(-score, kind="stable")[:n_genes]]
    scaled = np.minimum(logs[:, chosen] / np.sqrt(variance[chosen]), 10)
    for name in np.unique(library):
        scaled[library == name] -= scaled[library == name].mean(axis=0)
    u, s, _ = np.linalg.svd(scaled, full_matrices=False)
    return u[:, :k] * s[:k]


@pytest.mark.parametrize("n_libraries", [1, 3])
def test_components_are_those_of_the_dense_matrix(
    simulate: Callable[..., ad.AnnData], monkeypatch: pytest.MonkeyPatch, n_libraries: int
) -> None:
    adata = simulate(150, seed=4)
    library = np.arange(150) % n_libraries
    expected = dense_components(adata, library, 60, 5)
    source: Any = read_cells(adata)
    rows = np.arange(150)
    for block in (4096, 64):
        monkeypatch.setattr("sclm.models.graphst.tokens._BLOCK_CELLS", block)
        learned = learn_components(source, rows, library, 60, 5)
        assert list(learned.genes) == sorted(learned.genes)
        assert len(learned.genes) == 60
        found = project(source, rows, library, learned)
        scaled = expected.copy()
        for name in range(n_libraries):
            scaled[library == name] /= np.sqrt((expected[library == name] ** 2).mean())
        signs = np.sign((found * scaled).sum(axis=0))
        np.testing.assert_allclose(found * signs, scaled, atol=2e-3)
        np.testing.assert_allclose(learned.variance, (expected**2).mean(axis=0), rtol=1e-3)


def test_a_section_without_the_genes_is_refused(simulate: Callable[..., ad.AnnData]) -> None:
    adata = simulate(60)
    rows, library = np.arange(60), np.zeros(60, dtype=np.int64)
    learned = learn_components(read_cells(adata), rows, library, 50, 4)
    with pytest.raises(ValueError, match=r"must hold the 50 genes of the model, found"):
        project(read_cells(adata[:, :40].copy()), rows, library, learned)
