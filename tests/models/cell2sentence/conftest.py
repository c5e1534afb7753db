"""Tiny cell-sentence models in the layout in which the published ones lie on the hub."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import anndata

    from sclm.cells import Cells

TYPES = ["B cell", "T cell", "natural killer cell", "monocyte"]


@pytest.fixture(scope="package", params=["GPTNeoX", "Llama", "Gemma2"])
def folder(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, write_lm: Callable[..., Any]
) -> Path:
    """config.json, model.safetensors, tokenizer.json and tokenizer_config.json."""
    made = tmp_path_factory.mktemp(request.param)
    texts = [f"Cell sentence: CD3E CD79A GNLY LYZ. The cell type is: {name}." for name in TYPES]
    write_lm(made, request.param, texts, start=request.param != "GPTNeoX", max_position_embeddings=2048)
    return made


@pytest.fixture(scope="package")
def model(folder: Path) -> Any:
    """As a user opens it, for sentences of 20 genes and four types. Tests must not change it."""
    import sclm

    return sclm.load(folder).set(n_genes=20, candidates=tuple(TYPES), max_tokens=40)


@pytest.fixture(scope="package")
def cells(simulate: Callable[..., anndata.AnnData]) -> Cells:
    """Thirty cells; the third has no counts."""
    from sclm.cells import read_cells

    adata = simulate(30, seed=4)
    counts = adata.X.tolil()
    counts[2] = 0
    adata.X = counts.tocsr()
    return read_cells(adata, obs_keys=["cell_type"]).read()
