"""Any AnnData: a tool refuses it in words and leaves it as it was, or writes a result that survives the disk."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from scipy import sparse

import sclm

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.filterwarnings("ignore:.*names are not unique:UserWarning")

PLAIN = {
    "n_cells": 40, "n_genes": 120, "dtype": "float32", "layout": "csr", "values": "counts", "var_names": "plain", "obs_names": "plain",
    "labels": "plain", "seed": 0,
}  # fmt: skip
CHOICES = {
    "n_cells": [0, 1, 2, 3, 9, 25, 40],
    "n_genes": [0, 1, 4, 60, 120, 120, 120],
    "dtype": ["uint8", "int16", "uint32", "int64", "float16", "float32", "float64", ">f4", "bool"],
    "layout": ["csr", "csc", "dense", "fortran", "unsorted", "repeated", "explicit zeros", "view", "backed", "backed csc", "dask"],
    "values": ["counts", "counts", "counts", "empty genes", "empty cells", "zeros", "a fraction", "negative", "missing", "log"],
    "var_names": ["plain", "plain", "repeated", "unknown", "not ascii", "lower case", "blank"],
    "obs_names": ["plain", "repeated", "odd"],
    "labels": ["plain", "unused", "missing", "not ascii", "one", "all missing", "numbers", "truth", "text", "a cell each"],
    "seed": [0, 1, 2],
}  # fmt: skip
SPECS = st.fixed_dictionaries({name: st.sampled_from(values) for name, values in CHOICES.items()})
# Most of everything plain, so that not all examples end at the first refusal.
NEARLY_PLAIN = st.tuples(SPECS, st.sets(st.sampled_from(sorted(CHOICES)), min_size=1, max_size=3)).map(
    lambda drawn: PLAIN | {name: drawn[0][name] for name in drawn[1]}
)
FEW = settings(
    max_examples=14,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
    print_blob=False,
)


def build(spec: dict[str, Any], known: list[str], folder: Path) -> ad.AnnData:
    """The AnnData of a specification."""
    rng = np.random.default_rng(spec["seed"])
    n, m = spec["n_cells"], spec["n_genes"]
    types = np.arange(n) % 3
    rate = np.full((n, m), 0.8)
    for t in range(3):
        rate[np.ix_(types == t, np.arange(m) // 10 == t)] = 6
    counts = rng.poisson(rate)
    if spec["values"] == "empty genes":
        counts[:, ::2] = 0
    elif spec["values"] == "empty cells":
        counts[::3] = 0
    elif spec["values"] == "zeros":
        counts[:] = 0
    odd = counts.astype(np.float64)
    if odd.size and spec["values"] in ("a fraction", "negative", "missing"):
        odd[-1, -1] = {"a fraction": 0.5, "negative": -1, "missing": np.nan}[spec["values"]]
        counts = odd
    elif spec["values"] == "log":
        counts = np.log1p(odd)
    dtype = np.dtype(spec["dtype"])
    with np.errstate(invalid="ignore"):
        values = counts.astype(dtype if dtype.kind == "f" or np.all(counts == np.round(counts)) else np.float32)
    obs = pd.DataFrame(index=_obs_names(spec["obs_names"], n))
    obs["label"] = _labels(spec["labels"], types)
    var = pd.DataFrame(index=_var_names(spec["var_names"], known[:m]))
    adata = ad.AnnData(_stored(values, spec["layout"], dtype), obs=obs, var=var)
    place = np.empty(n, dtype=int)
    place[np.argsort(types, kind="stable")] = np.arange(n)  # types lie together
    adata.obsm["spatial"] = np.stack([place % 5, place // 5], axis=1).astype(float)
    if spec["layout"] == "view":
        whole = ad.concat([adata, adata]) if n else adata
        whole.var_names, whole.obs_names = adata.var_names, [*adata.obs_names, *adata.obs_names][: whole.n_obs]
        return whole[:n]
    if spec["layout"].startswith("backed"):
        adata.write_h5ad(folder / "cells.h5ad")
        return ad.read_h5ad(folder / "cells.h5ad", backed="r")
    return adata


def _stored(values: np.ndarray, layout: str, dtype: np.dtype) -> Any:
    if layout == "fortran":
        return np.asfortranarray(values)
    if layout == "dense" or dtype in (np.dtype("float16"), np.dtype(">f4")):  # these have no sparse form
        return values
    if layout == "dask":
        import dask.array

        return dask.array.from_array(values, chunks=(max(len(values) // 2, 1), -1)) if values.size else values
    stored = sparse.csr_matrix(values)
    if layout in ("csc", "backed csc"):
        return stored.tocsc()
    if layout == "unsorted":
        for i in range(stored.shape[0]):
            part = slice(stored.indptr[i], stored.indptr[i + 1])
            stored.indices[part], stored.data[part] = stored.indices[part][::-1].copy(), stored.data[part][::-1].copy()
        stored.has_sorted_indices = False
    elif layout == "repeated" and stored.nnz and values.dtype != bool:  # every entry twice, of which one is 0
        pointers = stored.indptr * 2
        data = np.stack([stored.data, np.zeros_like(stored.data)], axis=1).ravel()
        stored = sparse.csr_matrix((data, np.repeat(stored.indices, 2), pointers), shape=stored.shape)
    elif layout == "explicit zeros":
        stored.data[::2] = 0
    return stored


def _obs_names(kind: str, n: int) -> list[str]:
    if kind == "repeated":
        return [f"cell{i // 2}" for i in range(n)]
    odd = ["", " ", "a/b", "Zelle ä", "細胞", "1", "nan", "../x"]
    return [odd[i] if kind == "odd" and i < len(odd) else f"cell{i}" for i in range(n)]


def _var_names(kind: str, names: list[str]) -> list[str]:
    if kind == "repeated":
        return [names[i // 2 * 2] for i in range(len(names))]
    if kind == "unknown":
        return [f"no-gene-{i}" for i in range(len(names))]
    changed = {"not ascii": "β-Globin-{}", "blank": " ", "lower case": ""}.get(kind)
    if kind == "lower case":
        return [name.lower() for name in names]
    return names if changed is None else [changed.format(i) if i % 5 == 0 else name for i, name in enumerate(names)]


def _labels(kind: str, types: np.ndarray) -> Any:
    names = np.array(["B cell", "T cell", "monocyte"], dtype=object)[types]
    hole = np.arange(len(types)) % 4 == 0
    if kind == "unused":
        return pd.Categorical(names, categories=["neuron", "B cell", "T cell", "monocyte", "hepatocyte"])
    if kind == "missing":
        return pd.Categorical(np.where(hole, None, names), categories=["B cell", "T cell", "monocyte"])
    if kind == "text":
        return np.where(hole, "nan", names).astype(object)
    if kind == "numbers":
        return types
    if kind == "truth":
        return types == 0
    if kind == "a cell each":
        return pd.Categorical([f"type {i}" for i in range(len(types))])
    made = {"not ascii": names + " β/γ 細胞", "one": np.full(len(types), "B cell", dtype=object)}
    if kind == "all missing":
        return pd.Categorical([None] * len(types), categories=["B cell"])
    return pd.Categorical(made.get(kind, names))


def harmless(spec: dict[str, Any]) -> bool:
    """Whether the same counts as in `PLAIN`, or others drawn alike, are only stored or named in another way: nothing to refuse."""
    differs = {name for name in spec if spec[name] != PLAIN[name]}
    return differs <= {"layout", "dtype", "obs_names", "seed"} and spec["dtype"] != "bool"


def check(
    name: str,
    spec: dict[str, Any],
    tools: dict[str, Callable],
    known: list[str],
    fingerprint: Callable,
    contents: Callable,
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        adata = build(spec, known, Path(folder))
        try:
            before, matrix, kept = fingerprint(adata), contents(adata.X), contents(adata.obs)
            old = {slot: set(getattr(adata, slot)) for slot in ("obs", "obsm", "obsp", "uns")}
            try:
                assert tools[name](adata) is None
                refused = None
            except (ValueError, TypeError, KeyError) as error:
                refused = str(error)
            if refused is not None:
                assert len(refused) > 20
                assert fingerprint(adata) == before
                assert not harmless(spec), refused
                return
            assert contents(adata.X) == matrix
            assert contents(adata.obs[[c for c in adata.obs if c in old["obs"]]]) == kept
            new = {slot: set(getattr(adata, slot)) - names for slot, names in old.items()}
            assert new["uns"]
            for key in new["obsm"]:
                assert adata.obsm[key].shape[0] == adata.n_obs
            memory = adata.to_memory() if adata.isbacked else adata
            memory.write_h5ad(Path(folder) / "out.h5ad")
            again = ad.read_h5ad(Path(folder) / "out.h5ad")
            for slot, names in new.items():
                for key in names:
                    one, other = (_plain(getattr(a, slot)[key], contents) for a in (memory, again))
                    assert one == other, (slot, key)
        finally:
            if adata.isbacked:
                adata.file.close()


def _plain(value: Any, contents: Callable) -> Any:
    """Contents without what a disk may change: the class of text, the order of memory."""
    if isinstance(value, pd.Series):
        value = value.array if isinstance(value.dtype, pd.CategoricalDtype) else value.to_numpy()
    if isinstance(value, np.ndarray) and value.dtype != object and value.dtype.kind in "biuf":
        return value.shape, str(value.dtype), np.nan_to_num(value, nan=-9.5).tolist()
    if hasattr(value, "items") and not isinstance(value, pd.DataFrame):
        return {str(k): _plain(v, contents) for k, v in value.items()}
    if isinstance(value, bool | int | float | np.number | np.bool_):
        return str(float(value))
    if isinstance(value, pd.DataFrame):
        return [(str(c), _plain(value[c], contents)) for c in value.columns]
    if isinstance(value, np.ndarray | list):
        return [str(v) for v in value]
    return contents(value)


def test_a_tool_refuses_in_words_or_writes_what_lasts(
    tool: str, tools: dict[str, Callable], known: list[str], fingerprint: Callable, contents: Callable
) -> None:
    @settings(FEW, max_examples=12)
    @given(spec=NEARLY_PLAIN)
    @example(spec=PLAIN)
    @example(spec=PLAIN | {"layout": "dask", "dtype": "int16", "obs_names": "odd"})
    @example(spec=PLAIN | {"layout": "backed csc", "obs_names": "repeated"})
    @example(spec=PLAIN | {"n_cells": 0})
    @example(spec=PLAIN | {"n_genes": 0})
    @example(spec=PLAIN | {"n_cells": 1, "layout": "dense", "dtype": "uint8"})
    @example(spec=PLAIN | {"values": "zeros"})
    @example(spec=PLAIN | {"obs_names": "odd", "labels": "not ascii"})
    def run(spec: dict[str, Any]) -> None:
        check(tool, spec, tools, known, fingerprint, contents)

    run()


def test_the_list_of_tools_is_complete(tools: dict[str, Callable]) -> None:
    assert {name.split()[0] for name in tools} == set(sclm.tl.__all__) - {"generate", "request"}


@FEW
@given(
    table=st.lists(
        st.fixed_dictionaries(
            {
                "cell_type": st.sampled_from(["B cell", "monocyte", "lymphocyte", "neuron", "", None, "β", "a/b", 3]),
                "n_counts": st.sampled_from([0, 1, 200, 1e6, -1, float("nan"), float("inf")]),
                "donor": st.sampled_from(["d1", "d2", "no one", None]),
            }
        ),
        max_size=4,
    ),
    keep=st.sets(st.sampled_from(["cell_type", "n_counts", "donor"])),
)
@example(table=[{"cell_type": "B cell", "n_counts": 200, "donor": "d1"}] * 3, keep={"cell_type", "n_counts", "donor"})
def test_generate_refuses_in_words_or_writes_what_lasts(trained: dict[str, Any], table: list, keep: set[str]) -> None:
    request = pd.DataFrame(table, columns=["cell_type", "n_counts", "donor"])[sorted(keep)]
    before = request.copy()
    cells, refused = None, ""
    try:
        cells = sclm.tl.generate(request, trained["pgl"])
    except (ValueError, TypeError, KeyError) as error:
        refused = str(error)
    pd.testing.assert_frame_equal(request, before)
    if cells is None:
        assert len(refused) > 20
        assert table != [{"cell_type": "B cell", "n_counts": 200, "donor": "d1"}] * 3, refused
        return
    assert cells.n_obs == len(request)
    assert (cells.X.data == np.round(cells.X.data)).all()
    assert (cells.X.data > 0).all()
    with tempfile.TemporaryDirectory() as folder:
        cells.write_h5ad(Path(folder) / "out.h5ad")
        again = ad.read_h5ad(Path(folder) / "out.h5ad")
    assert (again.X != cells.X).nnz == 0
    pd.testing.assert_frame_equal(again.obs, cells.obs, check_dtype=False, check_categorical=False)
