"""SpatialData and MuData: every tool finds the AnnData inside, writes into it, and says which one it cannot find."""

from __future__ import annotations

import inspect
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest

import sclm
from sclm.calls import files, run, tool_names
from sclm.cells import table_of

if TYPE_CHECKING:
    from pathlib import Path

    import anndata as ad

pytestmark = pytest.mark.filterwarnings(
    "ignore:Writing zarr v2 data:UserWarning",
    "ignore:zarr v3 autosharding:UserWarning",
    "ignore::FutureWarning",
    "ignore::DeprecationWarning",
)  # of these packages
READERS = [tool for tool in tool_names() if "adata" in inspect.signature(getattr(sclm.tl, tool)).parameters]


@pytest.fixture
def section(query: ad.AnnData) -> ad.AnnData:
    return sclm.datasets.simulate_section(query, "cell_type", n_spots=40, cells_per_spot=3, seed=0)


def spatialdata(table: ad.AnnData) -> Any:
    spatialdata = pytest.importorskip("spatialdata")
    return spatialdata.SpatialData(tables={"spots": table, "other": table[:3].copy()})


def mudata(rna: ad.AnnData, name: str = "rna") -> Any:
    mudata = pytest.importorskip("mudata")
    proteins = rna[:, :4].copy()
    proteins.var_names = ["p1", "p2", "p3", "p4"]
    older = hasattr(mudata, "set_options")  # from 0.4 on nothing is pulled up by itself
    with mudata.set_options(pull_on_update=False) if older else nullcontext():
        return mudata.MuData({name: rna, "prot": proteins})


# One small call a tool; tools without a line here are checked for their signature and their refusals.
CALLS: dict[str, dict[str, Any]] = {
    "annotate": {"model": "mean", "label_key": "cell_type"},
    "adopt": {"predictions": "types"},
    "describe": {"model": "evidence", "groupby": "types", "gene_sets": {"a": ["first"]}},
    "domains": {"n_domains": 2},
    "embed": {"model": "hop-mean"},
    "interface": {"inside": "B cell", "groups": "sclm_dominant_cell_type", "threshold": 0.1},
    "map_spatial": {"label_key": "cell_type", "method": "nnls"},
    "pathways": {"gene_sets": {"a": ["first"]}, "min_genes": 1},
    "translate": {"protein_key": "protein"},
}


def options(tool: str, section: ad.AnnData, reference: ad.AnnData) -> dict[str, Any]:
    found = dict(CALLS[tool])
    if tool in ("annotate", "map_spatial"):
        found["reference"] = reference
    if tool in ("describe", "pathways"):
        found["gene_sets"] = {"a": list(section.var_names[:10])}
    if tool == "translate":
        found["reference"] = reference.copy()
        values = reference.X[:, :3].toarray()
        found["reference"].obsm["protein"] = pd.DataFrame(values, reference.obs_names, ["p1", "p2", "p3"])
    return found


@pytest.mark.parametrize("tool", READERS)
def test_every_tool_takes_both(tool: str) -> None:
    parameters = inspect.signature(getattr(sclm.tl, tool)).parameters
    assert {"table_key", "mod"} <= set(parameters)
    assert list(parameters).index("mod") == list(parameters).index("table_key") + 1


@pytest.mark.parametrize("kind", ["spatialdata", "mudata"])
@pytest.mark.parametrize("tool", [tool for tool in READERS if tool in CALLS])
def test_the_same_result_inside(tool: str, kind: str, section: ad.AnnData, reference: ad.AnnData) -> None:
    if tool == "interface":
        sclm.tl.map_spatial(section, reference, label_key="cell_type", method="nnls")
    if tool == "describe":  # which knows real markers
        section = sclm.datasets.pbmc68k()[:80].copy()
    section.obs["types"] = np.where(np.arange(section.n_obs) % 2, "B cell", "T cell").astype(object)
    plain, given = section.copy(), options(tool, section, reference)
    function = getattr(sclm.tl, tool)
    function(plain, **given)
    inside = section.copy()
    data, where = (
        (spatialdata(inside), {"table_key": "spots"}) if kind == "spatialdata" else (mudata(inside), {"mod": "rna"})
    )
    function(data, **where, **given)
    for slot in ("obs", "obsm", "uns"):
        assert set(getattr(inside, slot)) == set(getattr(plain, slot))
    new = set(plain.obs) - set(section.obs)
    pd.testing.assert_frame_equal(inside.obs[sorted(new)], plain.obs[sorted(new)])
    for key in set(plain.obsm) - set(section.obsm):
        np.testing.assert_array_equal(np.asarray(inside.obsm[key]), np.asarray(plain.obsm[key]))
    if kind == "mudata":
        assert set(data["prot"].obs) == set(section.obs)  # nothing else is changed


def test_which_one_is_meant(section: ad.AnnData) -> None:
    assert table_of(section) is section
    data = mudata(section)
    assert table_of(data) is data["rna"]
    assert table_of(mudata(section, "GEX")) is not None
    with pytest.raises(TypeError, match=r"needs mod= .* Modalities: 'first', 'prot'"):
        table_of(mudata(section, "first"))
    with pytest.raises(ValueError, match="mod='rma' is no modality"):
        table_of(data, mod="rma")
    with pytest.raises(TypeError, match="Leave table_key= out"):
        table_of(data, table_key="spots")
    held = spatialdata(section)
    with pytest.raises(TypeError, match=r"needs table_key= .* Tables: 'spots', 'other'"):
        table_of(held)
    with pytest.raises(ValueError, match="table_key='spot' is no table"):
        table_of(held, "spot")
    with pytest.raises(TypeError, match="Leave mod= out"):
        table_of(held, mod="rna")


def test_training(section: ad.AnnData, reference: ad.AnnData) -> None:
    model = sclm.train("mean", mudata(reference.copy()), label_key="cell_type")
    other = sclm.train("mean", reference, label_key="cell_type")
    assert model.provenance()["sha256"] == other.provenance()["sha256"]
    held = spatialdata(reference.copy())
    assert sclm.train("mean", held, label_key="cell_type", table_key="spots").provenance() == other.provenance()


def test_files_of_both(section: ad.AnnData, reference: ad.AnnData, tmp_path: Path) -> None:
    """Read, annotated and written whole, with everything else that they hold."""
    reference.write_h5ad(tmp_path / "reference.h5ad")
    given = {"model": "mean", "reference": str(tmp_path / "reference.h5ad"), "label_key": "cell_type"}
    mudata(section.copy()).write_h5mu(tmp_path / "in.h5mu")
    result = run("annotate", tmp_path / "in.h5mu", tmp_path / "out.h5mu", {**given, "mod": "rna"})
    found = files.read(tmp_path / "out.h5mu")
    assert "sclm_cell_type" in found["rna"].obs
    assert list(found.mod) == ["rna", "prot"]
    assert result["n_cells"] == 40
    spatialdata(section.copy()).write(tmp_path / "in.zarr")
    run("annotate", tmp_path / "in.zarr", tmp_path / "out.zarr", {**given, "table_key": "spots"})
    found = files.read(tmp_path / "out.zarr")
    assert "sclm_cell_type" in found.tables["spots"].obs
    assert set(found.tables) == {"spots", "other"}
    with pytest.raises(ValueError, match="a SpatialData is written as"):
        run("annotate", tmp_path / "in.zarr", tmp_path / "out.h5ad", {**given, "table_key": "spots"})
    assert not (tmp_path / "out.h5ad").exists()
