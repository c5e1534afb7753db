"""Cells from metadata: what is written where, the same cells for the same seed, files that are written part by part."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import sclm
from sclm.cells import read_cells
from sclm.models.pgl.fields import Field, Term
from sclm.tl import _generate_file
from sclm.tl._generate_columns import categorical, group_names, guard_groups, metadata_columns

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sclm.models.family import Family

CD4, CD8 = "CD4-positive, alpha-beta T cell", "CD8-positive, alpha-beta T cell"
ZARR_V2 = pytest.mark.filterwarnings("ignore:Writing zarr v2 data:UserWarning")


@pytest.fixture(scope="module")
def request_() -> pd.DataFrame:
    """300 cells, two blocks of the smallest size: seen and general types, open donors and conditions."""
    return sclm.request(300, cell_type=["B cell", "T cell", CD8] * 100, condition=["rest", "rest", "unknown"] * 100)


@pytest.fixture(scope="module")
def cells(request_: pd.DataFrame, pgl: Family) -> ad.AnnData:
    return sclm.tl.generate(request_, pgl, seed=1)


def same(a: ad.AnnData, b: ad.AnnData) -> None:
    """Bit for bit, types included."""
    x, y = (sparse.csr_matrix(read_cells(adata).read().counts) for adata in (a, b))
    assert x.dtype == y.dtype
    assert x.shape == y.shape
    assert (x != y).nnz == 0
    pd.testing.assert_frame_equal(a.obs, b.obs)
    pd.testing.assert_frame_equal(a.var, b.var)
    assert set(a.obsm) == set(b.obsm)
    for key in a.obsm:
        assert a.obsm[key].dtype == b.obsm[key].dtype
        np.testing.assert_array_equal(a.obsm[key], b.obsm[key])
    same_tree(a.uns, b.uns)


def same_tree(a: Any, b: Any) -> None:
    if isinstance(a, dict):
        assert set(a) == set(b)
        for key in a:
            same_tree(a[key], b[key])
    elif isinstance(a, pd.DataFrame):
        pd.testing.assert_frame_equal(a, b, check_dtype=False, check_index_type=False, check_column_type=False)
    else:
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


# What is written ----------------------------------------------------------------------------------------------------


def test_it_is_raw_counts_as_scanpy_wants_them(cells: ad.AnnData, request_: pd.DataFrame, pgl: Family) -> None:
    assert isinstance(cells.X, sparse.csr_matrix)
    assert cells.X.dtype == np.float32
    assert (cells.X.data > 0).all()
    assert (cells.X.data == np.round(cells.X.data)).all()
    assert list(cells.var_names) == list(pgl.vocabulary.tokens)
    assert list(cells.obs_names) == list(request_.index)
    assert not cells.is_view
    read_cells(cells).read()  # takes raw counts only
    import scanpy as sc

    sc.pp.calculate_qc_metrics(copy := cells.copy(), percent_top=None, inplace=True)
    np.testing.assert_allclose(copy.obs["total_counts"], np.asarray(cells.X.sum(axis=1)).ravel())


def test_columns_say_what_was_asked_and_what_was_written(cells: ad.AnnData, request_: pd.DataFrame) -> None:
    obs = cells.obs
    for name in ("cell_type", "condition"):
        assert obs[name].tolist() == request_[name].tolist()
    assert obs["cell_type_written"][obs["cell_type"] == "B cell"].eq("B cell").all()
    assert set(obs["cell_type_written"][obs["cell_type"] == "T cell"]) == {CD4, CD8}
    assert "condition_written" not in obs  # left open stays open
    assert set(obs["donor_id"]) == {"d1", "d2", "d3"}  # filled in
    ids = dict(zip(obs["cell_type"], obs["cell_type_ontology_term_id"], strict=True))
    assert ids == {"B cell": "CL:0000236", "T cell": "CL:0000084", CD8: "CL:0000625"}
    written = dict(zip(obs["cell_type_written"], obs["cell_type_written_ontology_term_id"], strict=True))
    assert written == {"B cell": "CL:0000236", CD4: "CL:0000624", CD8: "CL:0000625"}
    assert "condition_ontology_term_id" not in obs
    kinds = {name: str(column.dtype) for name, column in obs.items() if name.startswith("sclm_")}
    checks = ("library_size", "zero_fraction", "markers", "exclusive_markers", "mitochondrial")
    assert kinds == {
        "sclm_log_likelihood": "float64",
        "sclm_novelty": "float32",
        "sclm_plausibility": "float64",
        "sclm_implausible": "bool",
        **{f"sclm_implausible_{check}": "bool" for check in checks},
    }
    assert all(isinstance(obs[c].dtype, pd.CategoricalDtype) for c in obs if not c.startswith("sclm_"))
    any_check = np.logical_or.reduce([obs[f"sclm_implausible_{check}"] for check in checks])
    np.testing.assert_array_equal(obs["sclm_implausible"], any_check)
    assert (obs["sclm_novelty"] == 0).all()
    assert cells.obsm["X_sclm_pgl"].shape == (300, 2)
    assert cells.obsm["X_sclm_pgl"].dtype == np.float32


def test_the_guard_judges_each_cell_by_the_condition_it_was_written_as(cells: ad.AnnData, pgl: Family) -> None:
    obs = cells.obs
    written = pd.DataFrame(
        {
            "cell_type": obs["cell_type_written"].astype(str),
            "condition": obs["condition"].astype(str),
            "donor_id": obs["donor_id"].astype(str),
        }
    )
    codes = pgl.conditions.codes(written)
    own = [
        next((g for g, row in enumerate(pgl.groups) if (row == code).all()), -1) for code in codes
    ]  # all fields matter to all groups here
    table = pgl.guard.check(read_cells(cells).read(), np.array(own))
    np.testing.assert_array_equal(table["implausible"], obs["sclm_implausible"])
    np.testing.assert_array_equal(table["plausibility"], obs["sclm_plausibility"])
    summary = sclm.get.generate_plausibility(cells)
    assert summary["group"].iloc[-1] == "all"
    assert summary["n_cells"].iloc[-1] == 300
    assert summary["implausible"].iloc[-1] == pytest.approx(obs["sclm_implausible"].mean())
    assert "B cell + rest + d1" in set(summary["group"])


def test_log_likelihood_is_that_of_the_condition_it_was_written_as(cells: ad.AnnData, pgl: Family) -> None:
    given = cells.obs[["condition", "donor_id"]].assign(cell_type=cells.obs["cell_type_written"])
    block = read_cells(cells).read()
    again = pgl.log_likelihood(block._replace(obs=given))["log_likelihood"]
    np.testing.assert_allclose(again, cells.obs["sclm_log_likelihood"], rtol=1e-6)


def test_the_record_says_what_made_it(cells: ad.AnnData, pgl: Family) -> None:
    entry = cells.uns["sclm_generate"]
    assert entry["model"]["sha256"] == pgl.provenance()["sha256"]
    assert (entry["seed"], entry["n_cells"]) == (1, 300)
    assert entry["params"] == {"guidance": 0.0, "max_novelty": 0.5}
    assert list(entry["label_keys"]) == ["cell_type", "cell_type_written", "condition", "donor_id"]
    values = sclm.get.generate_values(cells).set_index("value")
    assert values["how"].to_dict() == {
        "B cell": "seen", "T cell": "general", CD8: "seen", "rest": "seen", "unknown": "not given",
    }  # fmt: skip


def test_get_gives_tidy_columns(cells: ad.AnnData) -> None:
    table = sclm.get.generate(cells)
    assert table.index.equals(cells.obs_names)
    assert list(table.columns[:4]) == [
        "cell_type", "cell_type_ontology_term_id", "cell_type_written", "cell_type_written_ontology_term_id",
    ]  # fmt: skip
    assert {"log_likelihood", "novelty", "plausibility", "implausible", "implausible_markers"} <= set(table.columns)
    np.testing.assert_array_equal(table["novelty"], cells.obs["sclm_novelty"])
    with pytest.raises(KeyError, match="generate"):
        sclm.get.generate(cells, key="other")


def test_depths_are_those_asked_for(pgl: Family) -> None:
    request = sclm.request(cell_type=["monocyte"] * 150, n_counts=[50.0] * 75 + [400.0] * 75)
    cells = sclm.tl.generate(request, pgl, key_added="mine")
    assert cells.obs["n_counts"].tolist() == request["n_counts"].tolist()
    depth = np.asarray(cells.X.sum(axis=1)).ravel()
    assert depth[:75].mean() == pytest.approx(50, rel=0.2)
    assert depth[75:].mean() == pytest.approx(400, rel=0.2)
    assert list(cells.uns) == ["mine"]


def test_a_virtual_cohort_keeps_its_donors(pgl: Family) -> None:
    request = sclm.request(12, composition={"B cell": 0.5, "monocyte": 0.5}, donors=2)
    cells = sclm.tl.generate(request, pgl)
    assert cells.obs["virtual_donor"].value_counts().to_dict() == {"virtual_1": 6, "virtual_2": 6}


def test_a_plain_table_without_fields_asks_for_cells_as_in_training(pgl: Family) -> None:
    cells = sclm.tl.generate(pd.DataFrame(index=range(40)), pgl)
    assert list(cells.obs_names[:2]) == ["0", "1"]
    assert len(set(cells.obs["cell_type"])) > 1


@ZARR_V2
@pytest.mark.parametrize("suffix", ["h5ad", "zarr"])
def test_it_survives_writing(cells: ad.AnnData, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"cells.{suffix}"
    getattr(cells.copy(), f"write_{suffix}")(path)
    same(cells, getattr(ad, f"read_{suffix}")(path))


def test_it_can_be_drawn(pgl: Family, cohort: ad.AnnData) -> None:
    cells = sclm.tl.generate(sclm.request(like=cohort, obs_keys=["cell_type"]), pgl)
    ax = sclm.pl.generate_dropout(cells, cohort)
    assert ax.get_ylabel()


# Chance -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, 512])
def test_batches_change_nothing(cells: ad.AnnData, request_: pd.DataFrame, pgl: Family, batch_size: int) -> None:
    same(cells, sclm.tl.generate(request_, pgl, seed=1, batch_size=batch_size))


def test_the_seed_and_guidance_do(cells: ad.AnnData, request_: pd.DataFrame, pgl: Family) -> None:
    few = request_.iloc[:100]
    first = sclm.tl.generate(few, pgl, seed=1)
    assert (sclm.tl.generate(few, pgl, seed=2).X != first.X).nnz > 0
    assert (sclm.tl.generate(few, pgl, seed=1, guidance=2.0).X != first.X).nnz > 0


def test_a_saved_model_writes_the_same(
    request_: pd.DataFrame, pgl: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = request_.iloc[:60]
    monkeypatch.setattr(pgl, "path", None)  # saving sets it, and it must not be that of the next test
    folder = pgl.save(tmp_path / "model")
    a, b = sclm.tl.generate(few, pgl), sclm.tl.generate(few, folder, device="cpu")
    assert (a.X != b.X).nnz == 0
    pd.testing.assert_frame_equal(a.obs, b.obs)


# Files --------------------------------------------------------------------------------------------------------------


class Interrupted:
    """A model that is stopped after some blocks, and counts what it wrote."""

    def __init__(self, model: Any, blocks: int | None = None) -> None:
        self._model, self._blocks, self.starts, self.sizes = model, blocks, [], []
        self.conditions, self.guard, self.groups, self.card = model.conditions, model.guard, model.groups, model.card

    def provenance(self) -> dict[str, Any]:
        return self._model.provenance()

    def generate(self, request: pd.DataFrame, *, seed: int = 0) -> Any:
        raise NotImplementedError

    def write(self, request: pd.DataFrame, **options: Any) -> Iterator[Any]:
        self.starts.append(options["start"])
        for i, block in enumerate(self._model.write(request, **options)):
            if i == self._blocks:
                raise KeyboardInterrupt
            self.sizes.append(len(block.cells.obs))
            yield block


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_generate_file, "PART_CELLS", 256)


@ZARR_V2
@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("suffix", ["h5ad", "zarr"])
def test_a_file_holds_the_same_cells(
    cells: ad.AnnData, request_: pd.DataFrame, pgl: Family, tmp_path: Path, suffix: str
) -> None:
    path = tmp_path / f"cells.{suffix}"
    opened = sclm.tl.generate(request_, pgl, path=path, batch_size=256, seed=1)
    if suffix == "h5ad":
        assert opened.isbacked
        opened.file.close()
    else:
        same(cells, opened)
    same(cells, getattr(ad, f"read_{suffix}")(path))
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    with pytest.raises(FileExistsError, match="already there"):
        sclm.tl.generate(request_, pgl, path=path)


@pytest.mark.usefixtures("small_parts")
def test_an_interrupted_call_goes_on(
    cells: ad.AnnData, request_: pd.DataFrame, pgl: Family, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "cells.h5ad"
    with pytest.raises(KeyboardInterrupt):
        sclm.tl.generate(request_, Interrupted(pgl, 1), path=path, batch_size=256, seed=1)
    assert not path.exists()
    for other, options in (("seed", {"seed": 2}), ("guidance", {"seed": 1, "guidance": 1.0})):
        with pytest.raises(FileExistsError, match=f"another {other}"):
            sclm.tl.generate(request_, pgl, path=path, **options)
    with pytest.raises(FileExistsError, match="another request"):
        sclm.tl.generate(request_.assign(condition="rest"), pgl, path=path, seed=1)
    (tmp_path / "cells.h5ad.parts" / "unfinished-part-256-512.h5ad").write_bytes(b"half a part")
    rest = Interrupted(pgl)
    with caplog.at_level(logging.INFO):
        sclm.tl.generate(request_, rest, path=path, seed=1).file.close()
    assert rest.starts == [256]
    assert sum(rest.sizes) == 44
    assert "going on after 256 cells" in caplog.text
    same(cells, ad.read_h5ad(path))


class Repeating(Interrupted):
    """A model that gives the same cells again and again, at no cost."""

    def write(self, request: pd.DataFrame, **options: Any) -> Iterator[Any]:
        block = next(iter(self._model.write(request.iloc[:256], seed=0)))
        for begin in range(options["start"], len(request), 256):
            self.starts.append(begin)
            yield block._replace(cells=block.cells._replace(obs=request.iloc[begin : begin + 256]))


@pytest.mark.usefixtures("small_parts")
def test_what_is_in_memory_does_not_grow_with_the_cells(
    pgl: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Largest number of cells whose counts wait or are read at once, for few and many cells."""
    flush, read = _generate_file.Parts.flush, ad.read_h5ad
    sizes: list[int] = []

    def flushed(self: Any) -> None:
        sizes.append(sum(block[0].shape[0] for block in self._waiting))
        flush(self)

    def read_part(path: Any, *args: Any, **options: Any) -> ad.AnnData:
        found = read(path, *args, **options)
        sizes.append(0 if found.isbacked else found.n_obs)
        return found

    monkeypatch.setattr(_generate_file.Parts, "flush", flushed)
    monkeypatch.setattr(ad, "read_h5ad", read_part)
    for n in (512, 4096):
        sizes.clear()
        request = sclm.request(n, cell_type="B cell", condition="rest", donor_id="d1")
        model = Repeating(pgl)
        cells = sclm.tl.generate(request, model, path=tmp_path / f"{n}.h5ad")
        assert max(sizes) == 256
        assert len(model.starts) == n // 256
        assert cells.n_obs == n
        cells.file.close()


# Warnings -----------------------------------------------------------------------------------------------------------


def test_what_training_did_not_see_is_said_once_and_recorded(pgl: Family, caplog: pytest.LogCaptureFixture) -> None:
    request = sclm.request(
        cell_type=["naive B cell", "B cell", "monocyte", "monocyte"] * 5,
        condition=["rest", "stimulated", "rest", "rest"] * 5,
        donor_id=["d1", "d1", "new", "d1"] * 5,
    )
    with caplog.at_level(logging.WARNING):
        cells = sclm.tl.generate(request, pgl)
    obs = cells.obs
    expected = ("'naive B cell' was not in training", "no training cell has", "donor_id 'new' was not in training")
    for text in expected:
        assert caplog.text.count(text) == 1
        assert sum(text in w for w in cells.uns["sclm_generate"]["warnings"]) == 1
    assert (obs["sclm_novelty"].to_numpy()[:4] > 0).tolist() == [True, True, True, False]
    assert obs["cell_type_written"].iloc[0] == "B cell"
    assert obs["donor_id_written"].iloc[2] == "unknown"
    assert obs["cell_type_ontology_term_id"].iloc[0] == "CL:0000788"
    assert obs["cell_type_written_ontology_term_id"].iloc[0] == "CL:0000236"


def test_many_implausible_cells_are_a_warning(pgl: Family, caplog: pytest.LogCaptureFixture) -> None:
    request = sclm.request(60, cell_type="B cell", n_counts=20_000)  # training cells have some 60 counts
    with caplog.at_level(logging.INFO):
        cells = sclm.tl.generate(request, pgl)
    assert cells.obs["sclm_implausible_library_size"].mean() > 0.9
    assert caplog.text.count("of the cells are implausible") == 1
    assert "are implausible" in cells.uns["sclm_generate"]["warnings"][-1]
    assert "generated 60 cells × 60 genes" in caplog.text


# Columns ------------------------------------------------------------------------------------------------------------


def test_guard_groups_against_a_slow_search() -> None:
    rng = np.random.default_rng(0)
    groups = np.unique(rng.integers(-1, 3, (12, 3)), axis=0).astype(np.int32)
    codes = rng.integers(-1, 3, (200, 3)).astype(np.int32)
    for row, found in zip(codes, guard_groups(groups, codes), strict=True):
        fits = [
            (int((g >= 0).sum()), -i)
            for i, g in enumerate(groups)
            if (g >= 0).any() and all(a in (-1, b) for a, b in zip(g, row, strict=True))
        ]
        assert found == (-max(fits)[1] if fits else -1)


class Disease:
    """Conditions with one field."""

    term = Term("MONDO:0005148", "type 2 diabetes mellitus", (), 0)
    field = Field(
        name="disease", ontology="mondo", version="", values=("T2D", "house blend", "normal"),
        term_ids=("MONDO:0005148", "", ""), n_cells=(1, 1, 1), node_ids=("MONDO:0005148", "", ""),
        node_names=("type 2 diabetes mellitus", "house blend", "normal"), value_nodes=((0,), (1,), (2,)),
        node_lineage=((0,), (1,), (2,)), terms=(term,),
    )  # fmt: skip
    names = ("disease",)
    fields = (field,)

    def __getitem__(self, name: str) -> Field:
        return self.field


def test_no_disease_has_the_id_that_the_schema_gives_it() -> None:
    obs = pd.DataFrame({"disease": ["normal", "T2D", "house blend", "normal"]})
    values = pd.DataFrame({"field": ["disease"], "value": ["T2D"], "term_id": ["MONDO:0005148"]})
    columns = metadata_columns(obs, obs, Disease(), values)
    ids = columns["disease_ontology_term_id"].tolist()
    assert ids == ["PATO:0000461", "MONDO:0005148", "unknown", "PATO:0000461"]
    assert group_names(np.array([[2], [-1]]), Disease()) == ["normal", "unknown"]


def test_categories_are_those_that_occur() -> None:
    column = pd.Series(pd.Categorical(["late", "early"], categories=["early", "middle", "late"], ordered=True))
    assert list(categorical(column).categories) == ["early", "late"]
    assert categorical(column).ordered
    assert list(categorical(pd.Series([3, 1, 3])).categories) == ["1", "3"]
    assert list(categorical(pd.Series([" b", "a", "b"]))) == ["b", "a", "b"]
