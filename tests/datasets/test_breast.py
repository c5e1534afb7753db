"""The breast sections: the reader on tables made here, and which files are believed. Nothing is downloaded."""

from __future__ import annotations

import gzip
import hashlib
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from sclm import datasets
from sclm.datasets import _breast

if TYPE_CHECKING:
    from collections.abc import Callable

DATA = Path(os.environ.get("SCLM_REAL_DATA", "no such folder"))
GENES = ["CD4", "HLA.A", "AL391650.1", "NKX3.2", "no.gene"]
COUNTS = np.array([[0, 3, 0, 1, 2], [5, 0, 0, 0, 0], [0, 0, 5230, 0, 7]])
PLACES = np.array([[1097.12113664, 807.38], [1080.5, 807.47299747], [1063.25, 808.0]])


def visium_table() -> pd.DataFrame:
    """The layout of the file: row names, barcode, coordinates, a column a gene."""
    table = pd.DataFrame(COUNTS, columns=GENES)
    table.insert(0, "barcode", ["TCTTAGATGCCTCCGA-1", "GCCGGCGAACCATTGT-1", "CCATAGTATTGTCTGC-1"])
    table.insert(1, "aligned_x", PLACES[:, 0])
    table.insert(2, "aligned_y", PLACES[:, 1])
    return table.set_axis(["1", "2", "3"])


def xenium_table() -> pd.DataFrame:
    table = visium_table().rename(columns={"barcode": "cell_id"})
    table["cell_id"] = [6032, 6033, 6034]
    table.insert(1, "cell_area", [352.25, 124.0, 472.5])
    table.insert(2, "nucleus_area", [66.75, 30.75, 39.5])
    return table


@pytest.fixture
def put(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Path]:
    """Write a table as one of the two files, and pin that file instead of the real one."""
    monkeypatch.setenv("SCLM_DATA_DIR", str(tmp_path))

    def write(table: pd.DataFrame, which: str = "_VISIUM", folder: str = ".", **changes: Any) -> Path:
        pinned = getattr(_breast, which)
        path = tmp_path / folder / pinned.name
        path.parent.mkdir(exist_ok=True)
        content = gzip.compress(table.to_csv().encode(), mtime=0)
        path.write_bytes(content)
        facts = {
            "size": len(content),
            "sha256": hashlib.sha256(content).hexdigest()[:16],
            "shape": (len(table), table.shape[1] - len(pinned.columns)),
        } | changes
        monkeypatch.setattr(_breast, which, pinned._replace(**facts))
        return path

    return write


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    import pooch

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError("no network in tests")

    monkeypatch.setattr(pooch, "retrieve", refuse)


@pytest.mark.parametrize("folder", [".", "breast"])
def test_spots(put: Callable[..., Path], folder: str) -> None:
    put(visium_table(), folder=folder)
    section = datasets.breast_visium()
    assert section.X.format == "csr"
    assert section.X.dtype == np.float32
    np.testing.assert_array_equal(section.X.toarray(), COUNTS)
    np.testing.assert_array_equal(section.obsm["spatial"], PLACES)
    assert section.obsm["spatial"].dtype == np.float64
    assert section.obs_names.tolist() == visium_table()["barcode"].tolist()
    assert section.obs["assay"].unique().tolist() == ["Visium"]


def test_cells(put: Callable[..., Path]) -> None:
    put(xenium_table(), "_XENIUM")
    section = datasets.breast_xenium()
    np.testing.assert_array_equal(section.X.toarray(), COUNTS)
    np.testing.assert_array_equal(section.obsm["spatial"], PLACES)
    assert section.obs_names.tolist() == ["6032", "6033", "6034"]
    assert section.obs["cell_area"].tolist() == [352.25, 124.0, 472.5]
    assert section.obs["nucleus_area"].tolist() == [66.75, 30.75, 39.5]


def test_dots_of_r_become_hyphens_where_a_gene_has_them(put: Callable[..., Path]) -> None:
    put(visium_table())
    section = datasets.breast_visium()
    assert section.var_names.tolist() == ["CD4", "HLA-A", "AL391650.1", "NKX3-2", "no.gene"]
    assert section.var["name_in_file"].tolist() == GENES


def test_hyphens_of_the_file_stay(put: Callable[..., Path]) -> None:
    put(visium_table().rename(columns={"HLA.A": "HLA-A"}))
    assert datasets.breast_visium().var_names[1] == "HLA-A"


def test_survives_files(put: Callable[..., Path], tmp_path: Path) -> None:
    put(xenium_table(), "_XENIUM")
    section = datasets.breast_xenium()
    section.write_h5ad(tmp_path / "section.h5ad")
    again = ad.read_h5ad(tmp_path / "section.h5ad")
    pd.testing.assert_frame_equal(again.obs, section.obs)
    np.testing.assert_array_equal(again.obsm["spatial"], section.obsm["spatial"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda t: t.rename(columns={"aligned_x": "x"}),
            "must begin with a column without a title and barcode, aligned_x",
        ),
        (lambda t: t.set_index("barcode"), "must begin with a column without a title and barcode"),
        (lambda t: t.assign(CD4=[0.5, 1, 2]), "must hold whole counts"),
        (lambda t: t.assign(CD4=[-1, 1, 2]), "must hold whole counts"),
        (lambda t: t.assign(CD4=[np.nan, 1, 2]), "must hold whole counts"),
        (lambda t: t.rename(columns={"no.gene": "CD4"}), "found CD4 more than once"),
    ],
    ids=["other name", "no row names", "fractions", "negative", "missing", "a gene twice"],
)
def test_other_layouts_are_refused(
    put: Callable[..., Path], change: Callable[[pd.DataFrame], pd.DataFrame], message: str
) -> None:
    put(change(visium_table()), shape=(3, 5))
    with pytest.raises(ValueError, match=message):
        datasets.breast_visium()


def test_another_size_of_table_is_refused(put: Callable[..., Path]) -> None:
    put(visium_table(), shape=(709, 18_085))
    with pytest.raises(ValueError, match=r"must hold \(709, 18085\) rows and genes, found \(3, 5\)"):
        datasets.breast_visium()


@pytest.mark.parametrize(
    ("facts", "message"),
    [({"size": 4_103_749}, "4,103,749 bytes"), ({"sha256": "4690248ce04737f0"}, "4690248ce04737f0")],
)
def test_another_file_of_that_name_is_not_used(
    put: Callable[..., Path], caplog: pytest.LogCaptureFixture, facts: dict[str, Any], message: str
) -> None:
    path = put(visium_table(), **facts)
    with (
        caplog.at_level(logging.WARNING, "sclm"),
        pytest.raises(ConnectionError, match=r"eevee.csv.gz .*no network.*SCLM_DATA_DIR"),
    ):
        datasets.breast_visium()
    assert message in caplog.text
    assert path.is_file()


def test_a_download_is_checked_and_named(
    put: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import pooch

    content = put(visium_table()).read_bytes()
    (tmp_path / "eevee.csv.gz").unlink()
    sent = [b"something else", content]

    def retrieve(url: str, *, known_hash: None, fname: str, path: Path, progressbar: bool) -> str:
        assert url.startswith("https://")
        assert url.endswith("/eevee.csv.gz")
        (path / fname).write_bytes(sent.pop(0))
        return str(path / fname)

    monkeypatch.setattr(pooch, "retrieve", retrieve)
    with pytest.raises(ValueError, match="bytes"):
        datasets.breast_visium()
    assert not list(tmp_path.iterdir())
    assert datasets.breast_visium().shape == (3, 5)
    assert [p.name for p in tmp_path.iterdir()] == ["eevee.csv.gz"]
    assert datasets.breast_visium().shape == (3, 5)  # without another download: nothing is left to send


def test_what_is_pinned() -> None:
    for pinned in (_breast._VISIUM, _breast._XENIUM):
        assert pinned.url.startswith("https://")
        assert len(pinned.sha256) == 16
        assert int(pinned.sha256, 16) > 0


@pytest.mark.real
@pytest.mark.parametrize(
    ("which", "file", "call"),
    [
        ("_VISIUM", "visium_breast_eevee709.h5ad", datasets.breast_visium),
        ("_XENIUM", "xenium_breast_pikachu17136.h5ad", datasets.breast_xenium),
    ],
)
def test_real_rows(put: Callable[..., Path], which: str, file: str, call: Callable[[], ad.AnnData]) -> None:
    """Some rows of the published numbers, in the layout of the file: the file itself is not at hand."""
    path = DATA / "spatial" / file
    if not path.is_file():
        pytest.skip(f"SCLM_REAL_DATA holds no spatial/{file}")
    copy = ad.read_h5ad(path)[:50].copy()
    table = copy.to_df().astype(int)
    columns = {name: copy.obs[name].to_numpy() for name in copy.obs.columns}
    columns |= {"aligned_x": copy.obsm["spatial"][:, 0], "aligned_y": copy.obsm["spatial"][:, 1]}
    table = pd.concat([pd.DataFrame(columns, index=table.index), table], axis=1).set_axis(range(1, len(table) + 1))
    put(table, which)
    section = call()
    assert (section.X != copy.X).nnz == 0
    np.testing.assert_allclose(section.obsm["spatial"], copy.obsm["spatial"], rtol=1e-12)
    if which == "_VISIUM":
        assert {"MT-ND1", "NKX3-2", "AL391650.1"} <= set(section.var_names)
