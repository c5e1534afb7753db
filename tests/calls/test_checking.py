"""What `check` says about files whose content is known."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

import sclm
from sclm.calls import check, tool_names

if TYPE_CHECKING:
    from pathlib import Path

    import anndata as ad


@pytest.fixture
def looked(tmp_path: Path) -> Any:
    def look(adata: ad.AnnData, **options: Any) -> dict[str, Any]:
        adata.write_h5ad(tmp_path / "data.h5ad")
        report = check(tmp_path / "data.h5ad", **options)
        assert json.loads(json.dumps(report, allow_nan=False)) == report
        assert set(report["tools"]) == set(tool_names())
        return report

    return look


def log1p(adata: ad.AnnData) -> sp.csr_matrix:
    counts = adata.X.toarray()
    return sp.csr_matrix(np.log1p(1e4 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)).astype(np.float32))


def test_raw_counts_and_what_fits(looked: Any, query: ad.AnnData) -> None:
    report = looked(query)
    assert report["problems"] == []
    assert report["arguments"] == {}
    assert report["holds"]["counts"] == "adata.X"
    assert report["holds"]["depth"]["median"] == np.median(query.X.toarray().sum(axis=1))
    assert report["tools"]["annotate"]["fits"] is True
    assert "marker-lists" in report["tools"]["annotate"]["models"]["ready"]
    assert report["tools"]["map_spatial"] == {
        "fits": False, "why": "needs coordinates in .obsm", "models": report["tools"]["map_spatial"]["models"],
    }  # fmt: skip
    roles = {c["name"]: c["role"] for c in report["holds"]["columns"]}
    assert roles == {"cell_type": "cell types", "donor": "batch"}


def test_the_command_that_it_gives_works(looked: Any, query: ad.AnnData, tmp_path: Path) -> None:
    import shlex

    from sclm.cli import main

    query.layers["my counts"] = query.X.copy()
    query.X = log1p(query)
    query.var["symbol"] = query.var_names.to_numpy(dtype=object)
    query.var_names = [f"row{i}" for i in range(query.n_vars)]
    report = looked(query)
    assert report["arguments"] == {"layer": "my counts", "gene_key": "symbol"}
    assert "Raw counts are in a layer: pass layer='my counts'." in report["notes"]
    words = shlex.split(report["tools"]["pathways"]["command"])
    words[words.index("out.h5ad")] = str(tmp_path / "out.h5ad")
    assert main([*words[1:], "--min-genes", "1"]) == 0


def test_log1p_values(looked: Any, query: ad.AnnData) -> None:
    query.X = log1p(query)
    report = looked(query)
    assert report["arguments"] == {"invert_log1p": True}
    assert report["tools"]["annotate"]["fits"] is True
    assert report["tools"]["map_spatial"]["fits"] is False
    query.X = sp.csr_matrix(query.X.toarray() * 1.37)  # no way back
    report = looked(query)
    assert report["problems"][0].startswith("adata.X must hold raw integer counts, found ")
    assert not any(tool["fits"] for name, tool in report["tools"].items() if name != "adopt")  # which reads no counts


def test_counts_in_raw_only(looked: Any, query: ad.AnnData) -> None:
    query.raw = query.copy()
    query.X = sp.csr_matrix(query.X.toarray() - 0.37)
    report = looked(query)
    assert report["problems"][0].startswith("Raw counts are in .raw only")
    assert report["tools"]["annotate"]["fits"] is False


@pytest.mark.filterwarnings("ignore:Observation names are not unique")  # of the fixture, not of what is tested
def test_foreign_genes_empty_cells_and_slashes(looked: Any, query: ad.AnnData) -> None:
    query.var_names = [f"{name.capitalize()}a" for name in query.var_names]
    query.X = sp.diags(np.r_[0.0, np.ones(query.n_obs - 1)].astype(np.float32)).tocsr() @ query.X
    query.obs_names = ["cell0", *query.obs_names[:-1]]
    report = looked(query)
    assert any("0% that are human genes" in p and "mouse" in p for p in report["problems"])
    assert any("0.8% of the cells have no counts" in p for p in report["problems"])
    assert any("found 1 repeated" in p for p in report["problems"])


def test_a_section(looked: Any, query: ad.AnnData) -> None:
    section = sclm.datasets.simulate_section(query, "cell_type", n_spots=40, cells_per_spot=3, seed=0)
    report = looked(section)
    assert report["tools"]["map_spatial"]["fits"] is True
    assert report["holds"]["coordinates"] == ["spatial"]
    section.obsm["my_coords"] = section.obsm.pop("spatial")
    section.obsm["my_coords"][3] = np.nan
    report = looked(section)
    assert report["arguments"]["spatial_key"] == "my_coords"
    assert any("found 1 without finite coordinates" in p for p in report["problems"])
    assert "--spatial-key my_coords" in report["tools"]["map_spatial"]["command"]


def test_genes_of_a_model(looked: Any, query: ad.AnnData, reference: ad.AnnData, tmp_path: Path) -> None:
    model = sclm.train("mean", reference, label_key="cell_type")
    model.save(tmp_path / "model")
    assert looked(query, model=tmp_path / "model")["model"]["matched"] == query.n_vars
    query.var_names = pd.Index([f"x{i}" for i in range(query.n_vars)])
    report = looked(query, model=tmp_path / "model")["model"]
    assert report["fits"] is False


def test_an_empty_file_is_no_crash(looked: Any, query: ad.AnnData) -> None:
    assert looked(query[:0].copy())["problems"] == ["There must be at least one cell and one gene, found 0 x 120."]
    empty = query.copy()
    empty.X = sp.csr_matrix(query.shape, dtype=np.float32)
    assert looked(empty)["problems"][0] == "adata.X is zero everywhere: raw counts are needed."
