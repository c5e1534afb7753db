"""`tl.pathways`: planted activity is found, absent activity is not, and blocks do not matter."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import sclm

if TYPE_CHECKING:
    from pathlib import Path

N_GENES = 600


@pytest.fixture(scope="module")
def planted() -> ad.AnnData:
    """120 cells; the genes of set "on" are raised in group b, those of "off" nowhere, "house" is high everywhere."""
    rng = np.random.default_rng(0)
    rate = rng.gamma(0.5, 1.0, size=N_GENES)
    rate[:20] *= 10
    rates = np.tile(rate, (120, 1))
    rates[60:, 100:120] = rates[60:, 100:120] * 4 + 1.5
    group = np.repeat(["a", "b"], 60)
    return ad.AnnData(
        sparse.csr_matrix(rng.poisson(rates).astype(np.float32)),
        obs=pd.DataFrame({"group": pd.Categorical(group)}, index=[f"c{i}" for i in range(120)]),
        var=pd.DataFrame(index=[f"G{i}" for i in range(N_GENES)]),
    )


SETS = {
    "on": [f"G{i}" for i in range(100, 120)],
    "off": [f"G{i}" for i in range(300, 330)],
    "house": [f"G{i}" for i in range(20)],
    "tiny": ["G1", "G2"],
}


def test_a_planted_set_is_found_in_its_group_and_in_its_cells(planted: ad.AnnData) -> None:
    adata = planted.copy()
    sclm.tl.pathways(adata, SETS, groupby="group")
    groups = sclm.get.pathways(adata, groups=True).set_index(["group", "name"])
    assert groups["q"][("b", "on")] < 1e-3
    assert groups["q"][[("a", "on"), ("a", "off"), ("b", "off"), ("b", "house")]].min() > 0.05
    assert groups["score"][("b", "on")] > groups["other"][("b", "on")]
    q = sclm.get.pathways(adata, value="q")
    assert list(q.columns) == ["on", "off", "house"]
    assert (q["on"][60:] < 0.05).mean() > 0.4
    assert (q["on"][:60] < 0.05).mean() < 0.05
    # high in all cells: a high score, and active in none
    assert sclm.get.pathways(adata)["house"].min() > 0.3
    assert (q["house"][60:] < 0.05).mean() < 0.05


@pytest.mark.parametrize("batch_size", [1, 7])
def test_cells_do_not_depend_on_their_blocks_or_the_order_of_genes(planted: ad.AnnData, batch_size: int) -> None:
    small = planted[:15].copy()
    whole = sclm.tl.pathways(small, SETS, copy=True)
    blocks = sclm.tl.pathways(small, SETS, batch_size=batch_size, copy=True)
    for key in ("sclm_pathways", "sclm_pathways_p", "sclm_pathways_q"):
        np.testing.assert_allclose(whole.obsm[key], blocks.obsm[key], rtol=1e-6)
    assert "sclm_pathways" not in small.obsm


@pytest.mark.filterwarnings("ignore:Writing zarr v2 data:UserWarning")  # anndata 0.12 on its own default
def test_results_survive_files(planted: ad.AnnData, tmp_path: Path) -> None:
    adata = planted.copy()
    sclm.tl.pathways(adata, SETS, groupby="group", key_added="act")
    adata.write_h5ad(tmp_path / "a.h5ad")
    adata.write_zarr(tmp_path / "a.zarr")
    for back in (ad.read_h5ad(tmp_path / "a.h5ad"), ad.read_zarr(tmp_path / "a.zarr")):
        np.testing.assert_array_equal(back.obsm["act"], adata.obsm["act"])
        pd.testing.assert_frame_equal(
            sclm.get.pathways(back, key="act", groups=True),
            sclm.get.pathways(adata, key="act", groups=True),
            check_dtype=False,
        )


def test_a_cell_without_counts_has_nothing_active(planted: ad.AnnData) -> None:
    adata = planted[:10].copy()
    adata.X = sparse.vstack([adata.X[:9], sparse.csr_matrix((1, N_GENES), dtype=np.float32)]).tocsr()
    sclm.tl.pathways(adata, SETS)
    assert (adata.obsm["sclm_pathways"][9] == 0).all()
    assert (adata.obsm["sclm_pathways_q"][9] == 1).all()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"groupby": "no"}, KeyError, "no"),
        ({"groupby": "one"}, ValueError, "at least 2 groups, found 1"),
        ({"groupby": "each"}, ValueError, "must hold groups of cells"),
        ({"top": 0.0}, ValueError, "top must be a share"),
        ({"min_genes": 99}, ValueError, "at least 99 genes of a set"),
        ({"gene_sets": "no-such"}, FileNotFoundError, "must be one of"),
    ],
)
def test_what_cannot_be_done_is_refused(
    planted: ad.AnnData, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    adata = planted.copy()
    adata.obs["one"], adata.obs["each"] = "x", adata.obs_names
    with pytest.raises(error, match=message):
        sclm.tl.pathways(adata, options.pop("gene_sets", SETS), **options)
    assert not adata.obsm
    with pytest.raises(KeyError, match=r"Run sclm\.tl\.pathways first"):
        sclm.get.pathways(adata)


def test_real_blood_shows_what_is_known_of_its_cells() -> None:
    adata = sclm.datasets.pbmc68k()
    sclm.tl.pathways(adata, groupby="cell_type")
    groups = sclm.get.pathways(adata, groups=True)
    best = groups.sort_values("p").groupby("group", sort=False).head(3).groupby("group")["name"].agg(list)
    assert "MHC class II antigen presentation" in best["dendritic cell"]
    assert "Signaling by the B Cell Receptor (BCR)" in best["B cell"]
    assert "Neutrophil degranulation" in best["CD14-positive monocyte"]
