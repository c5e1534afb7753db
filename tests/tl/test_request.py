"""Requests for cells: what the arguments mean, and what is refused."""

from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from sclm.tl._cohort import CONCENTRATION
from sclm.tl._request import request

TYPES = {"B cell": 0.3, "T cell": 0.7}


@pytest.fixture(scope="module")
def real(simulate) -> anndata.AnnData:
    adata = simulate(90, seed=5)
    adata.obs["tissue"] = pd.Categorical(np.where(np.arange(90) % 2, "blood", "lung"))
    return adata


# -- keywords ------------------------------------------------------------------------------------------------------


def test_by_keyword() -> None:
    asked = request(500, tissue="blood", disease="normal", cell_type="B cell")
    assert asked.shape == (500, 3)
    assert asked.index[[0, -1]].tolist() == ["cell_0", "cell_499"]
    assert list(asked.columns) == ["tissue", "disease", "cell_type"]
    assert (asked == ["blood", "normal", "B cell"]).all(axis=None)
    assert all(isinstance(dtype, pd.CategoricalDtype) for dtype in asked.dtypes)
    pd.testing.assert_frame_equal(
        asked, request(n_obs=np.int64(500), tissue="blood", disease="normal", cell_type="B cell")
    )


@pytest.mark.parametrize(
    "values",
    [
        ["a", "b", "a"],
        ("a", "b", "a"),
        np.array(["a", "b", "a"]),
        pd.Series(["a", "b", "a"], index=[7, 7, 8]),
        pd.Categorical(["a", "b", "a"]),
        pd.Index(["a", "b", "a"]),
    ],
)
def test_one_value_a_cell(values) -> None:
    asked = request(3, batch=values, sex="male")
    assert asked["batch"].tolist() == ["a", "b", "a"]
    pd.testing.assert_frame_equal(asked, request(batch=values, sex="male"))


def test_whole_numbers_and_booleans_become_texts() -> None:
    asked = request(2, batch=[1, 2], treated=True)
    assert asked["batch"].tolist() == ["1", "2"]
    assert asked["treated"].tolist() == ["True", "True"]


def test_depth() -> None:
    assert request(2, n_counts=1000, sex="male")["n_counts"].tolist() == [1000.0, 1000.0]
    asked = request(n_counts=[10, 20, 30])
    assert asked["n_counts"].dtype == np.float64
    assert asked["n_counts"].tolist() == [10, 20, 30]
    assert asked.columns.tolist() == ["n_counts"]


def test_nothing_but_a_number_asks_for_cells_as_they_come() -> None:
    assert request(3).shape == (3, 0)


@pytest.mark.filterwarnings("ignore:Writing zarr v2 data:UserWarning")  # anndata 0.12 on its own default
@pytest.mark.parametrize("ending", ["h5ad", "zarr"])
def test_a_request_is_an_obs(tmp_path, ending) -> None:
    asked = request(20, tissue="blood", composition=TYPES, donors=2, n_counts=500.0)
    adata = anndata.AnnData(sparse.csr_matrix((20, 2), dtype=np.float32), obs=asked)
    path = tmp_path / f"a.{ending}"
    getattr(adata, f"write_{ending}")(path)
    again = getattr(anndata, f"read_{ending}")(path)
    for column in asked:
        assert again.obs[column].tolist() == asked[column].tolist()
        assert again.obs[column].dtype == adata.obs[column].dtype
    assert again.obs_names.tolist() == asked.index.tolist()


# -- composition ---------------------------------------------------------------------------------------------------


def test_proportions_by_largest_remainder() -> None:
    asked = request(10, composition={"a": 0.25, "b": 0.25, "c": 0.5})
    assert asked["cell_type"].value_counts().to_dict() == {"c": 5, "a": 3, "b": 2}  # of equal remainders the first
    assert request(100, composition={"a": 0.29, "b": 0.71})["cell_type"].value_counts().to_dict() == {"a": 29, "b": 71}


def test_largest_remainder_is_never_a_cell_off() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        p, n = rng.dirichlet(np.ones(7)), int(rng.integers(7, 400))
        counts = request(n, composition=dict(zip("abcdefg", p, strict=True)))["cell_type"].value_counts()
        found = counts.reindex(list("abcdefg"), fill_value=0).to_numpy()
        assert found.sum() == n
        assert (np.abs(found - p * n) < 1).all()


def test_counts_say_how_many_cells() -> None:
    asked = request(composition={"B cell": 150, "T cell": 50, "monocyte": 0}, tissue="blood")
    assert asked["cell_type"].value_counts().to_dict() == {"B cell": 150, "T cell": 50}
    assert len(request(200, composition=pd.Series({"B cell": 150, "T cell": 50}))) == 200


@pytest.mark.parametrize(
    ("n_obs", "composition", "error", "match"),
    [
        (10, {}, ValueError, "at least one cell type"),
        (10, {"a": 0.5, "b": 0.6}, ValueError, "sum to 1, found 1.1"),
        (10, {"a": 0.5}, ValueError, "sum to 1, found 0.5"),
        (10, {"a": -0.5, "b": 1.5}, ValueError, "zero or more, found -0.5"),
        (10, {"a": np.nan, "b": 1.0}, ValueError, "found nan"),
        (None, {"a": 0, "b": 0}, ValueError, "zero of each type"),
        (10, {"a": 5, "b": 6}, ValueError, "n_obs says 10 cells and composition 11"),
        (10, {"a": 1}, ValueError, r"decimal numbers \(1.0\)"),
        (None, {"a": 0.5, "b": 0.5}, ValueError, "nothing says how many"),
        (10, {"a": "many"}, TypeError, "found str 'many'"),
        (10, {"a": True}, TypeError, "found bool"),
        (10, {"": 1.0}, ValueError, "composition must be given"),
        (10, {"a": 0.5, "a ": 0.5}, ValueError, "'a' twice"),
        (10, ["a", "b"], TypeError, "found list"),
    ],
)
def test_bad_compositions(n_obs, composition, error, match) -> None:
    with pytest.raises(error, match=match):
        request(n_obs, composition=composition)


def test_composition_and_cell_type_contradict() -> None:
    with pytest.raises(ValueError, match="both say the cell types"):
        request(10, composition=TYPES, cell_type="B cell")


# -- donors --------------------------------------------------------------------------------------------------------


def test_named_donors_share_cells_and_types() -> None:
    asked = request(composition={"B cell": 30, "T cell": 71}, donors=["D1", "D2", "D3"])
    table = pd.crosstab(asked["donor_id"], asked["cell_type"])
    assert table.sum().to_dict() == {"B cell": 30, "T cell": 71}
    assert set(table.sum(axis=1)) == {33, 34}
    assert (table.max() - table.min()).max() <= 1


def test_virtual_donors_vary_around_the_composition() -> None:
    k, size = 2000, 50
    asked = request(k * size, composition=TYPES, donors=k, seed=3)
    sizes = asked["virtual_donor"].value_counts()
    assert sizes.to_dict() == {f"virtual_{i + 1}": size for i in range(k)}
    assert "donor_id" not in asked
    share = (asked["cell_type"] == "B cell").groupby(asked["virtual_donor"], observed=True).mean()
    # Beta-binomial: variance of a proportion of n cells
    q, n, c = 0.3, size, CONCENTRATION
    variance = q * (1 - q) / n * (1 + (n - 1) / (c + 1))
    assert share.mean() == pytest.approx(q, abs=5 * np.sqrt(variance / k))
    assert share.var() == pytest.approx(variance, rel=0.12)


def test_virtual_donors_repeat_by_seed() -> None:
    one = request(100, composition=TYPES, donors=4, seed=1)
    pd.testing.assert_frame_equal(one, request(100, composition=TYPES, donors=4, seed=1))
    assert not one.equals(request(100, composition=TYPES, donors=4, seed=2))
    assert request(10, donors=3, tissue="lung")["virtual_donor"].value_counts().tolist() == [4, 3, 3]


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ({"donors": 0}, ValueError, "donors must be at least 1, found 0"),
        ({"donors": -2}, ValueError, "found -2"),
        ({"donors": 2.0}, TypeError, "found float"),
        ({"donors": True}, TypeError, "found bool"),
        ({"donors": 11}, ValueError, "11 virtual donors needs at least one cell, found 10"),
        ({"donors": []}, ValueError, "at least one donor"),
        ({"donors": ["D1", "D1"]}, ValueError, "twice"),
        ({"donors": ["D1", None]}, ValueError, "must be given"),
        ({"donors": [f"D{i}" for i in range(11)]}, ValueError, "11 donors needs"),
        ({"donors": "D1"}, TypeError, r"Write \['D1'\]"),
        ({"donors": 2, "donor_id": "D1"}, ValueError, "both say the donors"),
        ({"donors": 2, "cell_type": ["B cell"] * 10}, ValueError, "Pass composition="),
    ],
)
def test_bad_donors(arguments, error, match) -> None:
    with pytest.raises(error, match=match):
        request(10, **arguments)


# -- from a table --------------------------------------------------------------------------------------------------


def test_from_a_table() -> None:
    like = pd.DataFrame({"tissue": ["lung", "blood"], "n_obs": [2, 3], "n_counts": [100, 200]})
    asked = request(like=like, sex="male")
    assert asked["tissue"].tolist() == ["lung"] * 2 + ["blood"] * 3
    assert asked["n_counts"].tolist() == [100.0] * 2 + [200.0] * 3
    assert asked["sex"].tolist() == ["male"] * 5
    assert request(like=like, tissue="liver")["tissue"].tolist() == ["liver"] * 5
    assert request(like=like, n_counts=7)["n_counts"].tolist() == [7.0] * 5
    assert list(request(like=like, obs_keys=["tissue"])) == ["tissue", "n_counts"]
    assert request(5, like)["tissue"].tolist() == asked["tissue"].tolist()
    again = request(like=asked)  # a request is such a table
    pd.testing.assert_frame_equal(again, asked)


def test_rows_of_a_table_are_drawn() -> None:
    like = pd.DataFrame({"celltype": ["a", "b"], "n_counts": [1.0, 2.0]})
    asked = request(400, like, seed=1)
    assert ((asked["celltype"] == "a") == (asked["n_counts"] == 1)).all()
    assert 150 < (asked["celltype"] == "a").sum() < 250
    pd.testing.assert_frame_equal(asked, request(400, like, seed=1))


@pytest.mark.parametrize(
    ("like", "arguments", "error", "match"),
    [
        (pd.DataFrame({"tissue": []}), {}, ValueError, "at least one row"),
        (pd.DataFrame({"tissue": ["lung", None]}), {}, ValueError, "in row 1"),
        (pd.DataFrame({"tissue": ["lung", " "]}), {}, ValueError, "in row 1"),
        (pd.DataFrame({"age": [1.5]}), {}, TypeError, "decimal number"),
        (pd.DataFrame({"tissue": ["lung"], "n_obs": [0]}), {}, ValueError, "at least 1, found 0"),
        (pd.DataFrame({"tissue": ["lung"], "n_obs": [2.5]}), {}, TypeError, "whole number"),
        (pd.DataFrame({"tissue": ["lung"], "n_obs": [3]}), {"n_obs": 4}, ValueError, "contradicts"),
        (pd.DataFrame({"tissue": ["lung"], "n_counts": [0]}), {}, ValueError, "column 'n_counts' of like"),
        (pd.DataFrame({"tissue": ["lung"], "n_counts": ["x"]}), {}, ValueError, "column 'n_counts' of like"),
        (pd.DataFrame({"tissue": ["lung"]}), {"obs_keys": ["tisue"]}, KeyError, "there are 'tissue'"),
        (pd.DataFrame({"a/b": ["lung"]}), {}, ValueError, "without '/'"),
        (pd.DataFrame({"virtual_donor": ["x"]}), {}, ValueError, "cannot be a field"),
        (pd.DataFrame([["x", "y"]], columns=["a", "a"]), {}, ValueError, "stands twice"),
        (pd.DataFrame({"donor_id": ["x", "y"]}), {"donors": 2}, ValueError, "both say the donors"),
        (pd.DataFrame({"tissue": ["lung"] * 3}), {"sex": ["male"] * 2}, ValueError, "says 2 cells and like 3"),
        (pd.DataFrame({"tissue": ["lung"]}), {"layer": "counts"}, ValueError, "read from an AnnData"),
        ({"tissue": "lung"}, {}, TypeError, "found dict"),
    ],
)
def test_bad_tables(like, arguments, error, match) -> None:
    with pytest.raises(error, match=match):
        request(like=like, **arguments)


# -- as in an AnnData ----------------------------------------------------------------------------------------------


def test_as_in_an_anndata(real) -> None:
    before = real.copy()
    asked = request(like=real, obs_keys=["cell_type", "tissue"])
    depth = np.asarray(real.X.sum(axis=1)).reshape(-1)
    assert asked["n_counts"].tolist() == depth.tolist()
    for key in ("cell_type", "tissue"):
        assert asked[key].tolist() == real.obs[key].tolist()
    assert (real.X != before.X).nnz == 0
    pd.testing.assert_frame_equal(real.obs, before.obs)


def test_drawn_from_an_anndata(real) -> None:
    asked = request(300, real, obs_keys=["cell_type", "tissue"], seed=4, disease="influenza")
    assert len(asked) == 300
    rows = {
        (*row, depth)
        for *row, depth in zip(
            real.obs["cell_type"], real.obs["tissue"], np.asarray(real.X.sum(axis=1)).reshape(-1), strict=True
        )
    }
    # metadata and depth of one real cell each
    assert set(zip(asked["cell_type"], asked["tissue"], asked["n_counts"], strict=True)) <= rows
    assert (asked["disease"] == "influenza").all()
    pd.testing.assert_frame_equal(
        asked, request(300, real, obs_keys=["cell_type", "tissue"], seed=4, disease="influenza")
    )


def test_another_composition_of_the_same_cells(real) -> None:
    asked = request(100, real, obs_keys=["cell_type"], composition={"B cell": 0.9, "monocyte": 0.1})
    assert asked["cell_type"].value_counts().to_dict() == {"B cell": 90, "monocyte": 10}
    depth = pd.Series(np.asarray(real.X.sum(axis=1)).reshape(-1))
    for label in ("B cell", "monocyte"):
        own = set(depth[(real.obs["cell_type"] == label).to_numpy()])
        assert set(asked.loc[asked["cell_type"] == label, "n_counts"]) <= own
    with pytest.raises(ValueError, match="asks for 'hepatocyte'"):
        request(10, real, obs_keys=["cell_type"], composition={"hepatocyte": 1.0})
    assert len(request(10, real, obs_keys=["tissue"], composition={"hepatocyte": 1.0})) == 10


def test_a_cohort_of_the_same_cells(real) -> None:
    asked = request(80, real, obs_keys=["cell_type", "tissue"], donors=4, seed=2)
    assert asked["virtual_donor"].value_counts().tolist() == [20] * 4
    assert set(asked["cell_type"]) <= set(real.obs["cell_type"])
    own = request(80, real, obs_keys=["cell_type"], donors=4, cell_type="B cell")
    assert set(own["cell_type"]) == {"B cell"}


def test_a_layer(real) -> None:
    other = real.copy()
    other.layers["counts"] = other.X.copy()
    other.X = np.log1p(other.X.toarray())
    with pytest.raises(ValueError, match="raw"):
        request(like=other, obs_keys=["tissue"])
    asked = request(like=other, obs_keys=["tissue"], layer="counts")
    pd.testing.assert_frame_equal(asked, request(like=real, obs_keys=["tissue"]))


def test_bad_anndata(real) -> None:
    with pytest.raises(ValueError, match=r"like.obs has 'tissue', 'cell_type'"):
        request(like=real)
    with pytest.raises(KeyError, match="'tissue'"):
        request(like=real, obs_keys=["tisue"])
    empty = real.copy()
    empty.X = sparse.csr_matrix(empty.X.toarray() * (np.arange(90) != 3)[:, None])
    with pytest.raises(ValueError, match=r"found 1 without.*filter_cells"):
        request(like=empty, obs_keys=["tissue"])
    assert len(request(like=empty, obs_keys=["tissue"], n_counts=100)) == 90
    missing = real.copy()
    missing.obs["tissue"] = missing.obs["tissue"].cat.remove_categories(["lung"])
    with pytest.raises(ValueError, match=r"tissue must be given for every cell, found nan in row 0 \(45 rows\)"):
        request(like=missing, obs_keys=["tissue"])
    with pytest.raises(ValueError, match="like=, which is None"):
        request(5, obs_keys=["tissue"])


# -- what is refused -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ({}, ValueError, "nothing says how many cells"),
        ({"tissue": "lung"}, ValueError, "nothing says how many cells"),
        ({"n_obs": 0}, ValueError, "at least 1, found 0"),
        ({"n_obs": -5}, ValueError, "at least 1, found -5"),
        ({"n_obs": 2.5}, TypeError, "whole number, found float 2.5"),
        ({"n_obs": True}, TypeError, "found bool"),
        ({"n_obs": "10"}, TypeError, "found str"),
        ({"n_obs": pd.DataFrame({"tissue": ["lung"]})}, TypeError, "Pass metadata as like="),
        ({"n_obs": 3, "tissue": np.nan}, ValueError, "tissue must be given"),
        ({"n_obs": 3, "tissue": None}, ValueError, "tissue must be given"),
        ({"n_obs": 3, "tissue": ""}, ValueError, "tissue must be given"),
        ({"n_obs": 3, "tissue": ["lung", "nan", "lung"]}, ValueError, "found 'nan' in row 1"),
        ({"n_obs": 3, "tissue": ["lung", pd.NA, "lung"]}, ValueError, "in row 1"),
        ({"n_obs": 3, "tissue": ["lung"] * 2}, ValueError, "n_obs says 3 cells and tissue with one value a cell 2"),
        ({"tissue": ["lung"] * 2, "sex": ["male"] * 3}, ValueError, "says 2 cells and sex"),
        ({"tissue": []}, ValueError, "empty list"),
        ({"n_obs": 3, "age": 2.5}, TypeError, "decimal number 2.5"),
        ({"n_obs": 3, "tissue": {"lung": 1}}, TypeError, "found dict"),
        ({"n_obs": 3, "n_counts": 0}, ValueError, "n_counts must be positive, found 0"),
        ({"n_obs": 3, "n_counts": -1.5}, ValueError, "found -1.5"),
        ({"n_obs": 3, "n_counts": np.nan}, ValueError, "found nan"),
        ({"n_obs": 3, "n_counts": np.inf}, ValueError, "found inf"),
        ({"n_obs": 3, "n_counts": [1, 2, 0]}, ValueError, "found 0 in row 2"),
        ({"n_obs": 3, "n_counts": [1, 2]}, ValueError, "n_counts with one value a cell 2"),
        ({"n_obs": 3, "n_counts": "many"}, TypeError, "found str"),
        ({"n_obs": 3, "n_counts": [[1, 2, 3]]}, ValueError, r"shape \(1, 3\)"),
        ({"n_obs": 3, "virtual_donor": "x"}, ValueError, "cannot be a field"),
    ],
)
def test_bad_requests(arguments, error, match) -> None:
    with pytest.raises(error, match=match):
        request(**arguments)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("celltype", "cell_type"),
        ("cell_types", "cell_type"),
        ("tisue", "tissue"),
        ("diseases", "disease"),
        ("n_cells", "n_obs"),
        ("n_count", "n_counts"),
        ("compositon", "composition"),
        ("development_stages", "development_stage"),
    ],
)
def test_slips_are_refused(name, meant) -> None:
    with pytest.raises(ValueError, match=f"{name!r} looks like a slip of {meant!r}"):
        request(5, **{name: "x"})
    assert list(request(like=pd.DataFrame({name: ["x"]}))) == [name]


@pytest.mark.parametrize(
    "name", ["condition", "batch", "donor", "cell_type_fine", "cell_type_ontology_term_id", "time"]
)
def test_free_fields_are_not(name) -> None:
    assert list(request(5, **{name: "x"})) == [name]


def test_unknown_leaves_a_field_open() -> None:
    assert request(2, sex=["unknown", "male"])["sex"].tolist() == ["unknown", "male"]
