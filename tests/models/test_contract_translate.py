"""The contract that every family keeps that predicts proteins; a new line in FAMILIES is found by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import sclm
from sclm.cells import read_cells
from sclm.models import FAMILIES
from sclm.models.contract import Translator

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

# As small as each family can be: the contract does not depend on how well it learns.
SMALLEST: dict[str, dict[str, Any]] = {
    "sctranslator": {"preset": "tiny", "max_epochs": 2, "progress_bar": False, "accelerator": "cpu"}
}
NAMES = ["CD3_TotalSeqB", "CD19_TotalSeqB", "CD4_TotalSeqB", "IgG1"]


def families() -> list[str]:
    verbs = sclm.models.available()["verbs"]
    return sorted(name for name in FAMILIES if "translate" in verbs[name].split(", "))


@pytest.fixture(scope="module")
def cite(simulate: Callable[..., ad.AnnData]) -> ad.AnnData:
    """Proteins that follow the marker programmes of three types, and an isotype control. Tests must not change it."""
    adata = simulate(260, seed=4)
    rng = np.random.default_rng(0)
    x = np.asarray(adata.X.todense())
    rate = np.column_stack([x[:, 10 * i : 10 * (i + 1)].sum(axis=1) for i in range(3)] + [np.full(260, 6.0)])
    values = rng.poisson(rate + 2).astype(float)
    values[5, 1] = np.nan  # not measured there
    adata.obsm["protein"] = pd.DataFrame(values, index=adata.obs_names, columns=NAMES)
    return adata


def train(name: str, adata: ad.AnnData) -> Any:
    return sclm.train(name, adata, protein_key="protein", seed=1, **SMALLEST.get(name, {}))


@pytest.fixture(scope="module", params=families())
def model(request: pytest.FixtureRequest, cite: ad.AnnData) -> Any:
    return train(request.param, cite)


def test_a_saved_model_gives_bitwise_equal_proteins(model: Any, query: ad.AnnData, tmp_path: Path) -> None:
    folder = model.save(tmp_path / "model")
    assert {p.name for p in folder.iterdir()} == {"config.json", "model.safetensors", "vocabulary.json", "README.md"}
    again = sclm.load(folder)
    assert type(again) is type(model)
    assert again.config == model.config  # survives JSON
    assert again.card == model.card
    assert again.provenance()["sha256"] == model.provenance()["sha256"]
    cells = read_cells(query).read()
    pd.testing.assert_frame_equal(model.translate(cells), again.translate(cells), check_exact=True)
    pd.testing.assert_frame_equal(model.expectation, again.expectation, check_exact=True)
    text = (folder / "README.md").read_text()
    for word in ("data", "split", "limits", "held out correlation", "ridge-protein", "mean-protein"):
        assert word in text


def test_proteins_keep_index_dtype_and_names(model: Any, query: ad.AnnData) -> None:
    assert isinstance(model, Translator)
    assert list(model.proteins) == NAMES
    assert model.scale == "clr"
    cells = read_cells(query).read()
    found = model.translate(cells)
    assert found.index.equals(cells.obs.index)
    assert list(found.columns) == NAMES
    assert (found.dtypes == np.float32).all()
    assert np.isfinite(found.to_numpy()).all()
    some = model.translate(cells, proteins=["IgG1", "CD3"])  # by another name of it
    assert list(some.columns) == ["IgG1", "CD3"]
    np.testing.assert_array_equal(some.to_numpy(), found[["IgG1", "CD3_TotalSeqB"]].to_numpy())
    with pytest.raises(KeyError, match="CD1000"):
        model.translate(cells, proteins=["CD1000"])


def test_the_expectation_stands_beside_the_baselines(model: Any) -> None:
    table = model.expectation
    assert table["protein"].tolist() == NAMES
    assert table["genes"].tolist() == ["CD3D+CD3E+CD3G", "CD19", "CD4", ""]
    assert (table["n_cells"] >= 51).all()
    assert (table["half_width_90"] > 0).all()
    assert table["correlation_ridge"].iloc[:3].min() > 0.6
    assert table["correlation_mean"].isna().all()
    assert np.isfinite(table[["rmse", "rmse_ridge", "rmse_own_gene", "rmse_mean"]].to_numpy()).all()


def test_a_cell_does_not_depend_on_its_batch_mates(model: Any, query: ad.AnnData) -> None:
    source = read_cells(query)
    whole, alone = model.translate(source.read()), model.translate(source.read([17]))
    np.testing.assert_allclose(alone.to_numpy()[0], whole.to_numpy()[17], atol=1e-5)


def test_gene_order_does_not_matter(model: Any, query: ad.AnnData) -> None:
    order = np.random.default_rng(0).permutation(query.n_vars)
    a, b = (model.translate(read_cells(part).read()).to_numpy() for part in (query, query[:, order]))
    np.testing.assert_allclose(a, b, atol=1e-5)


def test_gene_order_of_the_training_cells_does_not_matter_to_the_panel(model: Any, cite: ad.AnnData) -> None:
    """The same genes are chosen, in an order of the model's own."""
    order = np.random.default_rng(1).permutation(cite.n_vars)
    turned = train(model.family, cite[:, order].copy())
    assert turned.proteins == model.proteins
    if model.family == "sctranslator":
        assert turned.vocabulary == model.vocabulary
        for name, array in model.arrays().items():
            np.testing.assert_allclose(turned.arrays()[name], array, atol=1e-5, err_msg=name)


def test_unknown_and_missing_genes(model: Any, query: ad.AnnData) -> None:
    strange = ad.AnnData(
        np.full((120, 3), 50, dtype=np.float32), obs=query.obs[[]], var=pd.DataFrame(index=["x1", "x2", "x3"])
    )
    wide = ad.concat([query, strange], axis=1)
    a, b = (model.translate(read_cells(part).read()).to_numpy() for part in (query, wide))
    np.testing.assert_allclose(a, b, atol=1e-5)
    fewer = model.translate(read_cells(query[:, 3:]).read()).to_numpy()
    assert np.isfinite(fewer).all()
    with pytest.raises(ValueError, match=r"model's genes"):
        model.translate(read_cells(strange).read())


def test_cells_without_counts_are_nan(model: Any, query: ad.AnnData) -> None:
    x = query.X.toarray()
    x[4] = 0
    query.X = x
    found = model.translate(read_cells(query).read()).to_numpy()
    assert np.isnan(found[4]).all()
    assert np.isfinite(np.delete(found, 4, axis=0)).all()


def test_same_seed_same_model(model: Any, cite: ad.AnnData) -> None:
    again = train(model.family, cite)
    assert again.config == model.config
    for name, array in model.arrays().items():
        np.testing.assert_array_equal(again.arrays()[name], array, err_msg=name)


@pytest.mark.parametrize("name", families())
def test_training_says_what_it_lacks(name: str, cite: ad.AnnData) -> None:
    options = SMALLEST.get(name, {})
    with pytest.raises(TypeError, match="protein_key="):
        sclm.train(name, cite, **options)
    with pytest.raises(KeyError, match="'protein'"):
        sclm.train(name, cite, protein_key="proteins", **options)
    with pytest.raises(ValueError, match=r"at least 20 cells with proteins.*found 15"):
        sclm.train(name, cite[:15].copy(), protein_key="protein", **options)
    with pytest.raises(TypeError, match="no_such_option"):
        sclm.train(name, cite, protein_key="protein", no_such_option=1, **options)
