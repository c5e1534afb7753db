"""tl.translate: what it writes, its record, get and the figures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import sclm
from sclm.cells import scale_proteins

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

KEY = "sclm_protein"
NAMES = ["CD3_TotalSeqB", "CD19_TotalSeqB", "CD4_TotalSeqB", "IgG1"]


def with_proteins(adata: ad.AnnData, seed: int = 0) -> ad.AnnData:
    """Proteins that follow the marker programmes of three types."""
    x = np.asarray(adata.X.todense())
    rate = [x[:, 10 * i : 10 * (i + 1)].sum(axis=1) for i in range(3)] + [np.full(adata.n_obs, 6.0)]
    values = np.random.default_rng(seed).poisson(np.column_stack(rate) + 2).astype(float)
    adata.obsm["protein"] = pd.DataFrame(values, index=adata.obs_names, columns=NAMES)
    return adata


@pytest.fixture(scope="module")
def cite(simulate: Callable[..., ad.AnnData]) -> ad.AnnData:
    """Tests must not change it."""
    return with_proteins(simulate(300, seed=4))


@pytest.fixture(scope="module")
def model(cite: ad.AnnData) -> Any:
    return sclm.train("ridge-protein", cite, protein_key="protein")


@pytest.fixture
def measured(query: ad.AnnData) -> ad.AnnData:
    return with_proteins(query, seed=9)


def test_what_is_written(measured: ad.AnnData, model: Any) -> None:
    assert sclm.tl.translate(measured, model) is None
    found = measured.obsm[KEY]
    assert found.dtype == np.float32
    assert found.shape == (120, 4)
    entry = measured.uns[KEY]
    assert list(entry["names"]) == NAMES
    assert entry["tool"] == "translate"
    assert entry["scale"] == "clr"
    assert entry["model"]["family"] == "ridge-protein"
    assert entry["genes"] == {"matched": 120, "in_model": 120, "in_data": 120}
    assert len(entry["model"]["sha256"]) == 64
    np.testing.assert_array_equal(found, model.translate(sclm.cells.read_cells(measured).read()).to_numpy())
    truth = scale_proteins(measured.obsm["protein"].to_numpy(), "clr")
    scores = sclm.metrics.translation.pearson(truth, found)
    assert scores[:3].min() > 0.7
    half = np.asarray(entry["expected"]["half_width_90"], dtype=float)
    assert 0.8 < sclm.metrics.translation.coverage(truth, found, half).mean() < 0.98


def test_the_tables(measured: ad.AnnData, model: Any) -> None:
    sclm.tl.translate(measured, model, proteins=["CD4", "CD3"], key_added="p")
    table = sclm.get.translate(measured, key="p")
    assert list(table.columns) == ["CD4", "CD3"]
    assert table.index.equals(measured.obs_names)
    expected = sclm.get.translate_expected(measured, key="p")
    assert expected["protein"].tolist() == ["CD4", "CD3"]
    assert expected["genes"].tolist() == ["CD4", "CD3D+CD3E+CD3G"]
    whole = model.expectation.set_index("protein")
    assert expected["correlation"].iloc[1] == whole.loc["CD3_TotalSeqB", "correlation"]
    with pytest.raises(KeyError, match=r"pass key="):
        sclm.get.translate(measured)


@pytest.mark.parametrize("name", ["ridge-protein", "own-gene", "mean-protein"])
def test_a_reference_is_learnt_from_first(measured: ad.AnnData, cite: ad.AnnData, name: str) -> None:
    query = measured[:, 20:].copy()  # fewer genes than the reference
    sclm.tl.translate(query, name, reference=cite, protein_key="protein", seed=3)
    entry = query.uns[KEY]
    assert entry["model"]["family"] == name
    assert entry["genes"]["in_model"] == 100
    assert entry["seed"] == 3
    assert entry["params"]["protein_key"] == "protein"


def test_the_network_learns_from_a_reference(measured: ad.AnnData, cite: ad.AnnData) -> None:
    model = sclm.train("sctranslator", cite, protein_key="protein", preset="tiny", max_epochs=2, accelerator="cpu",
                       progress_bar=False)  # fmt: skip
    sclm.tl.translate(measured, model, device="cpu")
    assert measured.uns[KEY]["model"]["family"] == "sctranslator"
    whole = measured.obsm[KEY].copy()
    sclm.tl.translate(measured, model, batch_size=7)
    np.testing.assert_allclose(measured.obsm[KEY], whole, atol=1e-5)


def test_a_saved_model_and_its_folder(measured: ad.AnnData, model: Any, tmp_path: Path) -> None:
    folder = model.save(tmp_path / "m")
    a = sclm.tl.translate(measured, model, copy=True)
    b = sclm.tl.translate(measured, folder, copy=True)
    np.testing.assert_array_equal(a.obsm[KEY], b.obsm[KEY])
    assert a.uns[KEY]["model"]["sha256"] == b.uns[KEY]["model"]["sha256"]
    assert KEY not in measured.obsm


@pytest.mark.filterwarnings("ignore:Writing zarr v2 data:UserWarning")  # anndata 0.12 on its own default
@pytest.mark.parametrize("form", ["h5ad", "zarr"])
def test_it_survives_writing(measured: ad.AnnData, model: Any, tmp_path: Path, form: str) -> None:
    sclm.tl.translate(measured, model)
    path = tmp_path / f"a.{form}"
    getattr(measured, f"write_{form}")(path)
    again = getattr(ad, f"read_{form}")(path)
    np.testing.assert_array_equal(again.obsm[KEY], measured.obsm[KEY])
    assert list(again.uns[KEY]["names"]) == NAMES
    pd.testing.assert_frame_equal(
        sclm.get.translate_expected(again), sclm.get.translate_expected(measured), check_dtype=False
    )
    # A result is itself a table of proteins with names.
    _, proteins = sclm.cells.read_proteins(again, KEY)
    assert proteins.names == tuple(NAMES)


def test_cells_without_counts_are_nan_and_said(
    measured: ad.AnnData, model: Any, caplog: pytest.LogCaptureFixture
) -> None:
    x = measured.X.toarray()
    x[[3, 8]] = 0
    measured.X = sparse.csr_matrix(x)
    with caplog.at_level("WARNING", logger="sclm"):
        sclm.tl.translate(measured, model)
    assert np.isnan(measured.obsm[KEY][[3, 8]]).all()
    assert "2 cells have no counts" in caplog.text
    assert measured.uns[KEY]["n_cells_without_genes"] == 2


def test_weak_proteins_are_said(measured: ad.AnnData, cite: ad.AnnData, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("WARNING", logger="sclm"):
        sclm.tl.translate(measured, "mean-protein", reference=cite, protein_key="protein")
    assert "4 of 4 proteins had a correlation below 0.3" in caplog.text


def test_modalities_as_a_reference(measured: ad.AnnData, cite: ad.AnnData) -> None:
    from types import SimpleNamespace

    prot = ad.AnnData(
        sparse.csr_matrix(cite.obsm["protein"].to_numpy()), obs=cite.obs[[]].copy(), var=pd.DataFrame(index=NAMES)
    )
    both = SimpleNamespace(mod={"rna": cite, "prot": prot})
    sclm.tl.translate(measured, reference=both, protein_key="prot")
    one = measured.obsm[KEY].copy()
    sclm.tl.translate(measured, reference=cite, protein_key="protein")
    np.testing.assert_allclose(measured.obsm[KEY], one, atol=1e-6)
