"""Cells with a known truth for the tests."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest
from scipy import sparse

if TYPE_CHECKING:
    from collections.abc import Callable

    import anndata

TYPES = ("B cell", "T cell", "natural killer cell", "monocyte")


@pytest.fixture(scope="session", autouse=True)
def _headless() -> None:
    os.environ.setdefault("MPLBACKEND", "agg")


@pytest.fixture(scope="session")
def simulate() -> Callable[..., anndata.AnnData]:
    """Poisson counts with a marker programme of 10 genes a type; genes carry approved human symbols."""
    from sclm.knowledge import GeneIdentifiers

    candidates = pd.read_csv(
        Path(__file__).parent.parent / "src" / "sclm" / "knowledge" / "data" / "genes_human.tsv.gz", sep="\t", nrows=400
    ).iloc[:, 1]
    symbols = [
        s
        for s, known in zip(candidates, GeneIdentifiers.load("human").to_symbol(list(candidates)), strict=True)
        if s == known
    ]

    def make(
        n_cells: int = 240,
        n_genes: int = 120,
        *,
        types: tuple[str, ...] = TYPES,
        strength: float = 8.0,
        depth: float = 1.0,
        seed: int = 0,
    ) -> anndata.AnnData:
        import anndata

        rng = np.random.default_rng(seed)
        programmes = np.random.default_rng(99).gamma(0.6, 0.5, size=n_genes)[None, :].repeat(len(types), axis=0)
        for i in range(len(types)):
            programmes[i, 10 * i : 10 * (i + 1)] = strength
        codes = np.arange(n_cells) % len(types)
        counts = rng.poisson(depth * programmes[codes] * rng.gamma(8, 1 / 8, size=(n_cells, 1)))
        obs = pd.DataFrame(
            {
                "cell_type": pd.Categorical(np.array(types, dtype=object)[codes]),
                "donor": pd.Categorical(np.array(["d1", "d2", "d3"], dtype=object)[np.arange(n_cells) // 5 % 3]),
            },
            index=np.array([f"cell{i}" for i in range(n_cells)], dtype=object),
        )
        var = pd.DataFrame(index=np.array(symbols[:n_genes], dtype=object))
        return anndata.AnnData(sparse.csr_matrix(counts.astype(np.float32)), obs=obs, var=var)

    return make


@pytest.fixture(scope="session")
def reference(simulate: Callable[..., anndata.AnnData]) -> anndata.AnnData:
    """Labelled cells to learn from. Tests must not change them."""
    return simulate(400, seed=1)


@pytest.fixture
def query(simulate: Callable[..., anndata.AnnData]) -> anndata.AnnData:
    """Other cells of the same types; every test gets its own."""
    return simulate(120, seed=2)


@pytest.fixture(scope="session")
def pbmc() -> anndata.AnnData:
    """The real blood cells inside scanpy's package. Tests must not change them."""
    import sclm

    return sclm.datasets.pbmc68k()


@pytest.fixture(scope="session")
def ontology():
    """The bundled Cell Ontology."""
    from sclm.knowledge import Ontology

    return Ontology.load("cl")


@pytest.fixture(scope="session")
def golden() -> Path:
    """Folder with stored outputs of the original implementations; beside the real data, or the test is skipped."""
    data = Path(os.environ.get("SCLM_REAL_DATA", Path(__file__).parents[2] / "shared" / "data"))
    folder = data.parent / "golden"
    if not folder.is_dir():
        pytest.skip("no stored outputs of original implementations beside SCLM_REAL_DATA")
    return folder


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Converted checkpoints go to a folder of the test run, not to the user's cache."""
    os.environ.setdefault("SCLM_DATA_DIR", str(tmp_path_factory.mktemp("sclm-cache")))
