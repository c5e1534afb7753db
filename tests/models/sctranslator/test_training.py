"""Training from cells with proteins, and fine-tuning of published weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest

import sclm
from sclm.cells import read_cells
from sclm.cells.proteins import scale_proteins
from sclm.models.sctranslator.fitting import choose_genes

if TYPE_CHECKING:
    from pathlib import Path

    import anndata


def smallest(**options: Any) -> dict[str, Any]:
    return {"preset": "tiny", "max_epochs": 2, "accelerator": "cpu", "progress_bar": False, **options}


def test_it_learns_more_than_the_mean(cite: anndata.AnnData) -> None:
    model = sclm.train("sctranslator", cite, protein_key="protein", **smallest(max_epochs=40, patience=10))
    table = model.expectation.set_index("protein")
    assert table["correlation"].iloc[:3].min() > 0.5
    assert (table["rmse"].iloc[:3] < 0.9 * table["rmse_mean"].iloc[:3]).all()


def test_all_cells_are_read_and_no_batch_is_dropped(cite: anndata.AnnData, monkeypatch: pytest.MonkeyPatch) -> None:
    """The original scripts take the first 100 cells and drop what does not fill a batch."""
    from sclm.models.sctranslator import fitting

    seen: list[int] = []
    real = fitting.encoder

    def spy(*arguments: Any) -> Any:
        encode = real(*arguments)

        def wrapped(cells: Any, generator: Any = None) -> Any:
            seen.extend(cells.obs["row"].tolist())
            return encode(cells, generator)

        return wrapped

    monkeypatch.setattr(fitting, "encoder", spy)
    sclm.train("sctranslator", cite, protein_key="protein", **smallest(max_epochs=1, batch_size=50))
    assert set(seen) == set(range(240))


def test_held_out_cells_teach_nothing(cite: anndata.AnnData) -> None:
    """Proteins of the held-out cells may be anything: the weights are the same."""
    model = sclm.train("sctranslator", cite, protein_key="protein", **smallest())
    from sclm.cells.proteins import read_proteins
    from sclm.models.translator import prepare_targets

    targets = prepare_targets(read_proteins(cite, "protein")[1], 240, "x", scale="auto", batches=None, seed=0)
    other = cite.copy()
    other.obsm["protein"].loc[targets.held_out] = 3.0
    again = sclm.train("sctranslator", other, protein_key="protein", **smallest())
    for name, array in model.arrays().items():
        if not name.startswith("expected."):
            np.testing.assert_array_equal(array, again.arrays()[name], err_msg=name)
    assert not np.array_equal(model.arrays()["expected.rmse"], again.arrays()["expected.rmse"])


def test_proteins_that_were_not_measured_do_not_count(cite: anndata.AnnData) -> None:
    gaps = cite.copy()
    gaps.obsm["protein"].iloc[::3, 1] = np.nan
    gaps.obsm["protein"].iloc[7] = np.nan  # a cell without any
    gaps.obsm["protein"]["never"] = np.nan
    model = sclm.train("sctranslator", gaps, protein_key="protein", **smallest())
    assert "never" not in model.proteins
    assert np.isfinite(model.translate(read_cells(gaps).read()).to_numpy()).all()
    assert "239 cells" in model.card["data"]


def test_whole_batches_are_held_out(cite: anndata.AnnData) -> None:
    model = sclm.train("sctranslator", cite, protein_key="protein", batch_key="donor", **smallest())
    assert "by whole batches" in model.card["split"]


def test_genes_of_the_proteins_are_chosen_first(cite: anndata.AnnData) -> None:
    source = read_cells(cite)
    names = tuple(cite.obsm["protein"].columns)
    own = [g for g in ("CD3D", "CD3E", "CD3G", "CD19", "CD4") if g in cite.var_names]
    chosen = choose_genes(source, np.arange(100), names, 20)
    assert set(own) <= set(chosen)
    assert chosen == sorted(chosen)
    assert len(chosen) == 20
    counts = cite.X[:100].toarray()
    values = np.log1p(counts / counts.sum(axis=1, keepdims=True) * 1e4)
    best = cite.var_names[np.argsort(-values.var(axis=0))][: 20 - len(own)]
    assert len(set(best) - set(chosen)) <= len(own)


def test_published_weights_are_fine_tuned(checkpoint: Path, dictionaries: Path, cite: anndata.AnnData) -> None:
    base = sclm.load(checkpoint)
    adata = cite[:, :6].copy()
    adata.var_names = ["CD3D", "MS4A1", "CD4", "CD19", "PTPRC", "CD3E"]
    adata.obsm["protein"] = adata.obsm["protein"].drop(columns="IgG1")
    model = sclm.train("sctranslator", adata, protein_key="protein", base=checkpoint, max_epochs=2, batch_size=40,
                       accelerator="cpu", progress_bar=False)  # fmt: skip
    assert model.config.scale == "minmax"
    assert model.config.padding == "original"
    assert model.vocabulary.tokens == tuple(adata.var_names)  # the order of the data, now fixed
    assert model.panel.gene_ids.tolist() == [7, 11, 9, 12, 10, 8]
    assert model.panel.protein_ids.tolist() == [7, 12, 9]
    assert not np.array_equal(model.arrays()["network.out.weight"], base.arrays()["network.out.weight"])
    order = [3, 0, 5, 1, 2, 4]
    a, b = (model.translate(read_cells(part).read()).to_numpy() for part in (adata, adata[:, order].copy()))
    np.testing.assert_allclose(a, b, atol=1e-5)
    with pytest.raises(TypeError, match=r"width .* base="):
        sclm.train("sctranslator", adata, protein_key="protein", base=base, width=12)
    with pytest.raises(ValueError, match="published weights, found a model that was trained here"):
        sclm.train("sctranslator", adata, protein_key="protein", base=model)
    wide = adata.copy()
    wide.obsm["protein"] = pd.DataFrame(np.random.default_rng(0).poisson(5.0, (240, 8)), index=wide.obs_names)
    with pytest.raises(ValueError, match="room for 7 proteins, found 8"):
        sclm.train("sctranslator", wide, protein_key="protein", base=base)


def test_fine_tuning_starts_at_the_published_prediction(
    checkpoint: Path, dictionaries: Path, cite: anndata.AnnData
) -> None:
    """Weights that are not moved give, through the fixed order of genes, what the published ones give."""
    base = sclm.load(checkpoint)
    adata = cite[:, :6].copy()
    adata.var_names = ["CD3D", "MS4A1", "CD4", "CD19", "PTPRC", "CD3E"]
    adata.obsm["protein"] = adata.obsm["protein"].drop(columns="IgG1")
    model = sclm.train("sctranslator", adata, protein_key="protein", base=base, max_epochs=1, learning_rate=0.0,
                       accelerator="cpu", progress_bar=False)  # fmt: skip
    cells = read_cells(adata).read()
    expected = base.translate(cells, proteins=list(model.proteins)).to_numpy()
    np.testing.assert_allclose(model.translate(cells).to_numpy(), expected, atol=1e-5)


def test_scale_of_the_targets(cite: anndata.AnnData) -> None:
    for scale in ("clr", "log1p", "given", "minmax"):
        model = sclm.train("sctranslator", cite, protein_key="protein", scale=scale, **smallest(max_epochs=1))
        assert model.scale == scale
        if scale != "minmax":
            values = scale_proteins(cite.obsm["protein"].to_numpy(), scale)
            assert abs(model.panel.centre - values.mean(axis=0)).max() < values.std()
