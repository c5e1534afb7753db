"""The contract that every family keeps that gives spots vectors; a new line in FAMILIES is found by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import sclm
from sclm.cells import read_cells
from sclm.models import FAMILIES, family_class
from sclm.models.contract_spots import SpotEncoder, Spots
from sclm.spatial import neighbour_graph

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

# As small as each family can be: the contract does not depend on how well it learns.
SMALLEST: dict[str, dict[str, Any]] = {"graphst": {"max_epochs": 20, "width": 16, "n_components": 12}}


def families() -> list[str]:
    verbs = sclm.models.available()["verbs"]
    return sorted(name for name in FAMILIES if "embed_spots" in verbs[name].split(", "))


def spots_of(adata: ad.AnnData, library: np.ndarray | None = None) -> Spots:
    places = np.asarray(adata.obsm["spatial"])
    return Spots(read_cells(adata), neighbour_graph(places, library=library), places, library)


@pytest.fixture(scope="module")
def section(simulate: Callable[..., ad.AnnData]) -> ad.AnnData:
    """Spots on a grid that is sheared, so that no two share a coordinate by chance. Tests must not change it."""
    adata = sclm.datasets.simulate_section(simulate(300, seed=3), "cell_type", n_spots=90, cells_per_spot=5, seed=1)
    adata.X = sparse.csr_matrix(adata.X)
    return adata


@pytest.fixture(scope="module", params=families())
def model(request: pytest.FixtureRequest) -> Any:
    return family_class(request.param).ready(**SMALLEST.get(request.param, {}))


@pytest.fixture(scope="module")
def vectors(model: Any, section: ad.AnnData) -> np.ndarray:
    return model.embed_spots(spots_of(section), seed=1, progress_bar=False)


def test_the_name_alone_is_a_model(model: Any) -> None:
    named = sclm.load(model.family)
    assert type(named) is type(model)
    assert isinstance(named, SpotEncoder)
    with pytest.raises(TypeError, match=r"no setting 'n_gene'.*n_genes"):
        type(model).ready(n_gene=5)
    with pytest.raises(TypeError, match=r"fitted on the section at hand.*sclm\.tl\.domains"):
        type(model).fit(None)


def test_vectors_keep_shape_dtype_and_order(model: Any, section: ad.AnnData, vectors: np.ndarray) -> None:
    assert vectors.dtype == np.float32
    assert vectors.shape[0] == section.n_obs
    assert np.isfinite(vectors).all()
    assert vectors.std(axis=0).min() > 0


def test_a_saved_model_gives_bitwise_equal_vectors(
    model: Any, section: ad.AnnData, vectors: np.ndarray, tmp_path: Path
) -> None:
    folder = model.save(tmp_path / "model")
    assert {p.name for p in folder.iterdir()} == {"config.json", "model.safetensors", "vocabulary.json", "README.md"}
    again: Any = sclm.load(folder)
    assert type(again) is type(model)
    assert again.config == model.config  # survives JSON
    assert again.provenance()["sha256"] == model.provenance()["sha256"]
    np.testing.assert_array_equal(again.embed_spots(spots_of(section), seed=1, progress_bar=False), vectors)


def test_the_order_of_spots_does_not_matter(model: Any, section: ad.AnnData, vectors: np.ndarray) -> None:
    order = np.random.default_rng(0).permutation(section.n_obs)
    found = model.embed_spots(spots_of(section[order].copy()), seed=1, progress_bar=False)
    np.testing.assert_array_equal(found, vectors[order])


def test_the_order_of_genes_does_not_matter(model: Any, section: ad.AnnData, vectors: np.ndarray) -> None:
    order = np.random.default_rng(0).permutation(section.n_vars)
    found = model.embed_spots(spots_of(section[:, order].copy()), seed=1, progress_bar=False)
    np.testing.assert_allclose(found, vectors, atol=1e-4)


@pytest.mark.parametrize("size", [1, 17, 89])
def test_blocks_change_nothing(model: Any, section: ad.AnnData, vectors: np.ndarray, size: int) -> None:
    found = model.embed_spots(spots_of(section), batch_size=size, seed=1, progress_bar=False)
    np.testing.assert_allclose(found, vectors, atol=2e-4)


def test_sections_are_never_mixed_and_each_is_as_alone(model: Any, section: ad.AnnData) -> None:
    """What was learnt of two sections gives each, alone, the vectors that it has beside the other; coordinates overlap."""
    from sclm.models.graphst.spot_family import in_order

    library = np.repeat([0, 1], 45)
    both = in_order(spots_of(section, library))
    learned = model.learn(both, batch_size=None, seed=0, progress_bar=False)
    together = np.zeros((90, model.apply(learned, both, batch_size=None).shape[1]), dtype=np.float32)
    together[both.rows] = model.apply(learned, both, batch_size=None)
    for name in (0, 1):
        alone = in_order(spots_of(section[library == name].copy()))
        found = model.apply(learned, alone, batch_size=None)
        np.testing.assert_allclose(found, together[library == name][alone.rows], atol=1e-5)


def test_what_a_whole_section_has_more_of_is_taken_out(model: Any, section: ad.AnnData) -> None:
    """Genes that one section counts three times as often hardly move the vectors."""
    shifted = section.copy()
    counts = shifted.X.toarray()
    rng = np.random.default_rng(0)
    counts[:, rng.permutation(section.n_vars)[:60]] *= 3
    shifted.X = sparse.csr_matrix(counts)
    two = ad.concat([section, shifted], keys=["a", "b"], index_unique="-")
    library = np.repeat([0, 1], 90)
    found = model.embed_spots(spots_of(two, library), seed=0, progress_bar=False)
    first, second = found[:90], found[90:]
    same = np.linalg.norm(first - second, axis=1).mean()
    others = np.linalg.norm(first - second[::-1], axis=1).mean()
    assert same < 0.6 * others


def test_same_seed_same_vectors(model: Any, section: ad.AnnData, vectors: np.ndarray) -> None:
    np.testing.assert_array_equal(model.embed_spots(spots_of(section), seed=1, progress_bar=False), vectors)


def test_spots_without_counts_have_no_vector_and_no_voice(model: Any, section: ad.AnnData) -> None:
    emptied = section.copy()
    counts = emptied.X.tolil()
    counts[[4, 50]] = 0
    emptied.X = sparse.csr_matrix(counts)
    found = model.embed_spots(spots_of(emptied), seed=1, progress_bar=False)
    assert np.flatnonzero(np.isnan(found).any(axis=1)).tolist() == [4, 50]
    keep = np.delete(np.arange(90), [4, 50])
    graph = spots_of(section).graph[keep][:, keep]
    left = emptied[keep].copy()
    alone = Spots(read_cells(left), graph, np.asarray(left.obsm["spatial"]), None)
    np.testing.assert_allclose(model.embed_spots(alone, seed=1, progress_bar=False), found[keep], atol=1e-5)


def test_too_little_to_learn_from_is_refused(model: Any, section: ad.AnnData) -> None:
    with pytest.raises(ValueError, match=r"at least 10 with counts, found 8"):
        model.embed_spots(spots_of(section[:8].copy()), progress_bar=False)
    flat = ad.AnnData(np.ones((30, 5), dtype=np.float32), obs=pd.DataFrame(index=[f"s{i}" for i in range(30)]))
    flat.obsm["spatial"] = np.random.default_rng(0).random((30, 2))
    with pytest.raises(ValueError, match=r"two genes must vary between spots, found 0 of 5"):
        model.embed_spots(spots_of(flat), progress_bar=False)
