"""Reading: every kind of storage gives the same cells, nothing is changed, bad input is named."""

from __future__ import annotations

import hashlib
import warnings
from typing import TYPE_CHECKING, Any

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from sclm.cells import log_normalise, read_cells
from sclm.cells import storage as storage_module

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# anndata 0.13 sets options that pandas 3 calls deprecated
pytestmark = pytest.mark.filterwarnings("ignore:The '.*' option is deprecated")

N_CELLS, N_GENES = 61, 37


def counts(seed: int = 0, n_cells: int = N_CELLS, n_genes: int = N_GENES) -> np.ndarray:
    dense = np.random.default_rng(seed).poisson(0.7, (n_cells, n_genes))
    dense[3] = 0  # an empty cell
    return dense


def table(x: Any, names: list[str] | None = None) -> anndata.AnnData:
    n, g = x.shape
    obs = pd.DataFrame({"donor": [f"d{i % 3}" for i in range(n)]}, index=[f"c{i}" for i in range(n)])
    var = pd.DataFrame(index=names or [f"GENE{j}" for j in range(g)])
    return anndata.AnnData(x, obs=obs, var=var)


def unsorted_with_duplicates(dense: np.ndarray) -> sp.csr_matrix:
    """Rows stored backwards, one entry split in two, explicit zeros."""
    data, indices, indptr = [], [], [0]
    for row in dense.astype(np.float32):
        order = np.flatnonzero(row)[::-1]
        values, columns = list(row[order]), list(order)
        if values and values[0] > 1:
            values[0] -= 1
            values.append(1.0)
            columns.append(columns[0])
        zero = int(np.flatnonzero(row == 0)[0])
        data += [*values, 0.0]
        indices += [*columns, zero]
        indptr.append(len(data))
    return sp.csr_matrix((np.array(data, np.float32), np.array(indices, np.int32), indptr), shape=dense.shape)


def dask_of(x: Any, rows: int, columns: int) -> Any:
    import dask.array as da

    return da.from_array(x, chunks=(rows, columns), asarray=False)


IN_MEMORY = {
    "csr": lambda d: sp.csr_matrix(d, dtype=np.float32),
    "csr_array": lambda d: sp.csr_array(d.astype(np.float32)),
    "csc": lambda d: sp.csc_matrix(d, dtype=np.float32),
    "csc_array": lambda d: sp.csc_array(d.astype(np.float32)),
    "dense": lambda d: d.astype(np.float32),
    "fortran": lambda d: np.asfortranarray(d.astype(np.float64)),
    "int64": lambda d: sp.csr_matrix(d.astype(np.int64)),
    "int32": lambda d: d.astype(np.int32),
    "uint16": lambda d: sp.csr_matrix(d.astype(np.uint16)),
    "float64": lambda d: sp.csr_matrix(d.astype(np.float64)),
    "unsorted": unsorted_with_duplicates,
    "dask dense": lambda d: dask_of(d.astype(np.float32), 7, 10),
    "dask sparse": lambda d: dask_of(sp.csr_matrix(d, dtype=np.float32), 25, N_GENES),
    "dask one chunk": lambda d: dask_of(sp.csr_matrix(d, dtype=np.float32), N_CELLS, N_GENES),
}
ON_DISK = ("csr", "csc", "dense")
SOURCES = [
    *IN_MEMORY,
    *(f"{kind} view" for kind in IN_MEMORY),
    *(f"backed {kind}" for kind in ON_DISK),
    *(f"backed {kind} view" for kind in ON_DISK),
    "layer",
    "layer view",
    "zarr csr",
    "lazy zarr",
]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stored")
    for kind in ON_DISK:
        table(IN_MEMORY[kind](counts())).write_h5ad(folder / f"{kind}.h5ad")
        table(IN_MEMORY[kind](doubled(counts()))).write_h5ad(folder / f"{kind}_view.h5ad")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # anndata 0.12 announces its next default format
        table(IN_MEMORY["csr"](counts())).write_zarr(folder / "csr.zarr")
    return folder


def doubled(dense: np.ndarray) -> np.ndarray:
    """A larger matrix of which rows 1, 3, 5, … and reversed columns are `dense`."""
    large = np.random.default_rng(5).poisson(0.7, (2 * dense.shape[0], dense.shape[1]))
    large[1::2, ::-1] = dense
    return large


def source(name: str, files: Path) -> anndata.AnnData:
    dense = counts()
    kind = name.removesuffix(" view").removeprefix("backed ")
    view = name.endswith(" view")
    names = [f"GENE{j}" for j in range(N_GENES)]
    if name.startswith("backed"):
        adata = anndata.read_h5ad(files / (f"{kind}_view.h5ad" if view else f"{kind}.h5ad"), backed="r")
    elif name == "zarr csr":
        import zarr

        group = zarr.open(files / "csr.zarr", mode="r")
        return anndata.AnnData(anndata.io.sparse_dataset(group["X"]), obs=table(dense).obs, var=table(dense).var)
    elif name == "lazy zarr":
        return anndata.experimental.read_lazy(files / "csr.zarr")
    elif name.startswith("layer"):
        adata = table(np.zeros((2 * N_CELLS if view else N_CELLS, N_GENES), np.float32))
        adata.layers["counts"] = sp.csr_matrix(doubled(dense) if view else dense).astype(np.float32)
    else:
        adata = table(IN_MEMORY[kind](doubled(dense) if view else dense))
    if view:
        adata = adata[1::2, ::-1]
        assert list(adata.var_names) == names[::-1]
    return adata


def expected_genes(name: str) -> list[str]:
    names = [f"GENE{j}" for j in range(N_GENES)]
    return names[::-1] if name.endswith("view") else names


def is_canonical(x: sp.csr_matrix) -> bool:
    return all((np.diff(x.indices[x.indptr[i] : x.indptr[i + 1]]) > 0).all() for i in range(x.shape[0])) and bool(
        (x.data != 0).all()
    )


@pytest.mark.parametrize("name", SOURCES)
def test_every_storage_gives_the_same_cells(name: str, files: Path) -> None:
    adata = source(name, files)
    layer = "counts" if name.startswith("layer") else None
    found = read_cells(adata, layer=layer, obs_keys=["donor"])
    dense = counts()
    assert (found.n_cells, found.n_genes) == dense.shape
    whole = found.read()
    assert isinstance(whole.counts, sp.csr_matrix)
    assert whole.counts.dtype == np.float32
    assert is_canonical(whole.counts)
    np.testing.assert_array_equal(whole.counts.toarray(), dense)
    assert list(whole.genes) == expected_genes(name)
    assert list(whole.obs.columns) == ["donor"]
    for size in (1, 8, 1000):
        blocks = list(found.blocks(size))
        assert [b.counts.shape[0] for b in blocks[:-1]] == [size] * (len(blocks) - 1)
        assert sum(b.counts.shape[0] for b in blocks) == N_CELLS
        np.testing.assert_array_equal(sp.vstack([b.counts for b in blocks]).toarray(), dense)
        assert [n for b in blocks for n in b.obs.index] == list(adata.obs_names)
        assert all(is_canonical(b.counts) for b in blocks)
    rows = np.array([40, 3, 3, 60, 0])
    np.testing.assert_array_equal(found.read(rows).counts.toarray(), dense[rows])
    assert list(found.read(rows).obs.index) == list(np.asarray(adata.obs_names)[rows])
    mask = np.random.default_rng(1).random(N_CELLS) < 0.5
    picked = list(found.blocks(5, rows=mask))
    np.testing.assert_array_equal(sp.vstack([b.counts for b in picked]).toarray(), dense[mask])


def arrays(adata: anndata.AnnData) -> Iterator[np.ndarray]:
    for matrix in (adata.X, *adata.layers.values(), adata.raw.X if adata.raw is not None else None):
        if matrix is None:
            continue
        yield from (matrix.data, matrix.indices, matrix.indptr) if sp.issparse(matrix) else (np.asarray(matrix),)


def fingerprint(adata: anndata.AnnData) -> str:
    digest = hashlib.sha256()
    for array in arrays(adata):
        digest.update(np.ascontiguousarray(array).tobytes())
    digest.update(pd.util.hash_pandas_object(adata.obs).to_numpy().tobytes())
    digest.update(
        repr((list(adata.obs.columns), list(adata.var.columns), list(adata.var_names), list(adata.uns))).encode()
    )
    return digest.hexdigest()


@pytest.mark.parametrize("kind", ["csr", "csc", "dense", "unsorted", "int64"])
def test_the_anndata_is_unchanged(kind: str) -> None:
    adata = table(IN_MEMORY[kind](counts()))
    adata.layers["log"] = log_normalise(sp.csr_matrix(counts().astype(np.float32)))
    before = fingerprint(adata)
    block = read_cells(adata, obs_keys=["donor"]).read()
    block.counts.data[:] = 7  # a block is the caller's own
    block.obs.iloc[0, 0] = "changed"
    assert fingerprint(adata) == before
    read_cells(adata, layer="log", invert_log1p=True).read()
    with pytest.raises(ValueError, match="log1p-normalised"):
        read_cells(adata, layer="log")
    assert fingerprint(adata) == before


def test_gene_order_does_not_matter() -> None:
    adata = table(IN_MEMORY["csr"](counts()))
    order = np.random.default_rng(0).permutation(N_GENES)
    a, b = read_cells(adata).read(), read_cells(adata[:, order].copy()).read()
    np.testing.assert_array_equal(a.counts.toarray()[:, order], b.counts.toarray())
    assert list(a.genes[order]) == list(b.genes)


def test_default_blocks_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    adata = table(IN_MEMORY["csr"](counts()))
    assert read_cells(adata).block_size == 8192
    monkeypatch.setattr(storage_module, "BLOCK_BYTES", 8 * 200)  # 200 non-zeros
    found = read_cells(adata)
    mean = np.count_nonzero(counts()) / N_CELLS
    assert found.block_size == int(200 // mean)
    assert max(b.counts.shape[0] for b in found.blocks()) == found.block_size


@pytest.mark.parametrize("name", ["csc", "backed csc", "csc view"])
def test_column_wise_matrices_are_turned_in_windows(name: str, files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage_module, "WINDOW_BYTES", 8 * 100)
    monkeypatch.setattr(storage_module, "_COLUMN_VALUES", 3 * N_CELLS)
    found = read_cells(source(name, files))
    windows = list(found._storage._csc_windows())
    assert len(windows) > 5
    assert max(w.nnz for w in windows) <= 100
    np.testing.assert_array_equal(sp.vstack([b.counts for b in found.blocks(9)]).toarray(), counts())


def test_dask_chunks_are_computed_once() -> None:
    import dask.array as da

    seen: list[int] = []

    def chunk(block_info: Any = None) -> np.ndarray:
        start, stop = block_info[None]["array-location"][0]
        seen.append(start)
        return counts()[start:stop].astype(np.float32)

    x = da.map_blocks(chunk, chunks=((13,) * 4 + (9,), (N_GENES,)), dtype=np.float32, meta=np.zeros((0, 0), np.float32))
    found = read_cells(table(x))
    seen.clear()
    blocks = list(found.blocks(5))
    assert sorted(seen) == [0, 13, 26, 39, 52]
    np.testing.assert_array_equal(sp.vstack([b.counts for b in blocks]).toarray(), counts())


# ---------------------------------------------------------------------- names


def test_duplicate_genes_are_summed(caplog: pytest.LogCaptureFixture) -> None:
    dense = counts(n_genes=5)
    adata = table(sp.csr_matrix(dense.astype(np.float32)))
    adata.var["symbol"] = ["CD3E", "CD3E", "NKG7", "CD3E", "LYZ"]
    with caplog.at_level("INFO", logger="sclm"):
        found = read_cells(adata, gene_key="symbol")
    assert found.duplicates == {"CD3E": 3}
    assert "CD3E" in caplog.text
    assert list(found.genes) == ["CD3E", "NKG7", "LYZ"]
    expected = np.column_stack([dense[:, [0, 1, 3]].sum(axis=1), dense[:, 2], dense[:, 4]])
    np.testing.assert_array_equal(found.read().counts.toarray(), expected)
    assert is_canonical(found.read().counts)


@pytest.mark.filterwarnings("ignore:Variable names are not unique", "ignore:Observation names are not unique")
def test_duplicate_names_of_genes_and_cells() -> None:
    adata = anndata.AnnData(
        sp.csr_matrix(np.array([[1.0, 2.0], [0.0, 4.0]], np.float32)),
        obs=pd.DataFrame(index=["c", "c"]),
        var=pd.DataFrame(index=["G", "G"]),
    )
    found = read_cells(adata).read()
    np.testing.assert_array_equal(found.counts.toarray(), [[3.0], [4.0]])
    assert list(found.obs.index) == ["c", "c"]
    assert [b.counts.sum() for b in read_cells(adata).blocks(1)] == [3.0, 4.0]


@pytest.mark.parametrize("missing", [None, np.nan, "", " "])
def test_columns_without_a_name_are_left_out(missing: Any) -> None:
    dense = counts(n_genes=4)
    adata = table(sp.csr_matrix(dense.astype(np.float32)))
    adata.var["symbol"] = pd.Series(["A", missing, "B", missing], index=adata.var_names, dtype=object)
    found = read_cells(adata, gene_key="symbol")
    assert found.unnamed == 2
    assert list(found.genes) == ["A", "B"]
    np.testing.assert_array_equal(found.read().counts.toarray(), dense[:, [0, 2]])
    adata.var["symbol"] = pd.Series([missing] * 4, index=adata.var_names, dtype=object)
    with pytest.raises(ValueError, match="gene_key='symbol' must hold gene names, found none"):
        read_cells(adata, gene_key="symbol")


def test_categorical_and_numeric_gene_names() -> None:
    adata = table(sp.csr_matrix(counts(n_genes=3).astype(np.float32)))
    adata.var["symbol"] = pd.Categorical(["B", "A", "B"])
    adata.var["entrez"] = [7157, 920, 925]
    assert list(read_cells(adata, gene_key="symbol").genes) == ["B", "A"]
    assert list(read_cells(adata, gene_key="entrez").genes) == ["7157", "920", "925"]


def test_obs_columns_keep_their_kind() -> None:
    adata = table(sp.csr_matrix(counts().astype(np.float32)))
    adata.obs["kind"] = pd.Categorical(["T/NK cell" if i % 2 else "B-Zelle µ" for i in range(N_CELLS)])
    adata.obs["age"] = np.arange(N_CELLS, dtype=float)
    obs = read_cells(adata, obs_keys=["kind", "age"]).read(np.array([5, 2])).obs
    assert list(obs["kind"]) == ["T/NK cell", "B-Zelle µ"]
    assert isinstance(obs["kind"].dtype, pd.CategoricalDtype)
    assert list(obs["age"]) == [5.0, 2.0]
    assert list(obs.index) == ["c5", "c2"]


# ---------------------------------------------------------------------- bad input


def normalised() -> sp.csr_matrix:
    x = sp.csr_matrix(counts().astype(np.float32))
    return log_normalise(x)


def scaled() -> np.ndarray:
    x = normalised().toarray()
    return ((x - x.mean(axis=0)) / (x.std(axis=0) + 1e-9)).clip(max=10)


def with_value(value: float) -> np.ndarray:
    x = counts().astype(np.float64)
    x[17, 11] = value
    return x


BAD = {
    "log1p": (normalised, r"each row's expm1 sums to 10,000.*invert_log1p=True"),
    "scaled": (scaled, r"found -.* scaled: negative values, and genes have means near 0"),
    "negative": (lambda: with_value(-2.0), r"found -2 in row 17 \(gene GENE11\).*negative values"),
    "nan": (lambda: with_value(np.nan), r"found nan in row 17 \(gene GENE11\).*missing or infinite"),
    "infinite": (lambda: with_value(np.inf), r"found inf in row 17 \(gene GENE11\).*missing or infinite"),
    "fraction": (
        lambda: with_value(2.5),
        r"found 2\.5 in row 17 \(gene GENE11\).*of the rows looked at hold whole counts",
    ),
    "cpm": (lambda: np.expm1(normalised().toarray()), r"without a logarithm \(each row sums to 10,000\)"),
}


@pytest.mark.parametrize("kind", BAD)
@pytest.mark.parametrize("stored", ["dense", "csr", "csc", "dask", "backed csr", "backed csc", "view", "layer"])
def test_values_that_are_no_counts(kind: str, stored: str, tmp_path: Path) -> None:
    make, message = BAD[kind]
    x = make()
    x = x.toarray() if sp.issparse(x) else x
    x = x.astype(np.float32)
    form = {"csr": sp.csr_matrix, "csc": sp.csc_matrix}.get(stored.removeprefix("backed "), np.asarray)
    adata = table(form(x) if stored != "dask" else dask_of(x, 20, N_GENES))
    slot = "adata.X"
    layer = None
    if stored == "layer":
        adata = table(np.zeros_like(x))
        adata.layers["other"] = x
        layer, slot = "other", r'adata\.layers\["other"\]'
    if stored == "view":
        adata = table(np.concatenate([np.zeros_like(x), x]))[N_CELLS:]
    if stored.startswith("backed"):
        adata.write_h5ad(tmp_path / "x.h5ad")
        adata = anndata.read_h5ad(tmp_path / "x.h5ad", backed="r")
    head = "" if message.startswith("found") else ".*"
    with pytest.raises(ValueError, match=rf"^{slot} must hold raw integer counts, {head}{message}"):
        read_cells(adata, layer=layer).read()
    if stored not in ("dask", "backed csr", "backed csc"):
        with pytest.raises(ValueError, match=slot):
            read_cells(adata, layer=layer)  # before any work


def test_the_error_names_a_slot_with_counts() -> None:
    adata = table(normalised())
    with pytest.raises(ValueError, match="Pass layer= naming"):
        read_cells(adata)
    adata.layers["spliced"] = normalised()
    adata.layers["umi"] = sp.csr_matrix(counts().astype(np.float32))
    with pytest.raises(ValueError, match="Pass layer='umi', which does hold counts"):
        read_cells(adata)
    raw = table(sp.csr_matrix(counts().astype(np.float32)))
    raw.raw = raw
    raw.X = normalised()
    with pytest.raises(ValueError, match=r"adata\.raw\.to_adata\(\)"):
        read_cells(raw)
    swapped = table(sp.csr_matrix(counts().astype(np.float32)))
    swapped.layers["log"] = normalised()
    with pytest.raises(ValueError, match=r"Use adata\.X \(layer=None\)"):
        read_cells(swapped, layer="log")


def test_inversion_on_request(tmp_path: Path) -> None:
    adata = table(normalised())
    # the counts of a cell come back up to their common divisor
    divisor = np.array([max(1, np.gcd.reduce(row)) for row in counts()])
    found = read_cells(adata, invert_log1p=True)
    np.testing.assert_array_equal(found.read().counts.toarray(), counts() // divisor[:, None])
    adata.write_h5ad(tmp_path / "log.h5ad")
    backed = read_cells(anndata.read_h5ad(tmp_path / "log.h5ad", backed="r"), invert_log1p=True)
    np.testing.assert_array_equal(backed.read().counts.toarray(), counts() // divisor[:, None])
    untouched = read_cells(table(sp.csr_matrix(counts().astype(np.float32))), invert_log1p=True)
    np.testing.assert_array_equal(untouched.read().counts.toarray(), counts())
    spoiled = normalised()
    spoiled.data[spoiled.indptr[20]] *= 1.01
    with pytest.raises(ValueError, match=r"cannot be inverted to raw counts exactly: expm1 of .* in row 20 \(gene"):
        read_cells(table(spoiled), invert_log1p=True)
    with pytest.raises(ValueError, match=r"in row 20 \(gene"):
        read_cells(table(dask_of(spoiled, 10, N_GENES)), invert_log1p=True).read(np.array([4, 20, 2]))


def test_empty_and_tiny() -> None:
    full = table(sp.csr_matrix(counts().astype(np.float32)))
    with pytest.raises(ValueError, match=r"found 0 x 37: there are no cells"):
        read_cells(full[:0].copy())
    with pytest.raises(ValueError, match=r"found 61 x 0: there are no genes"):
        read_cells(full[:, :0].copy())
    with pytest.raises(ValueError, match=r"adata\.X must hold raw integer counts, found None"):
        read_cells(anndata.AnnData(obs=full.obs, var=full.var))
    one = read_cells(full[5].copy()).read()
    np.testing.assert_array_equal(one.counts.toarray(), counts()[5:6])
    empty = read_cells(table(sp.csr_matrix((4, 3), dtype=np.float32))).read()
    assert empty.counts.nnz == 0
    nothing = read_cells(full).read(np.zeros(N_CELLS, bool))
    assert nothing.counts.shape == (0, N_GENES)
    assert len(nothing.obs) == 0
    assert list(read_cells(full).blocks(rows=[])) == []


def test_what_is_missing_is_named() -> None:
    adata = table(sp.csr_matrix(counts().astype(np.float32)))
    adata.layers["counts"] = adata.X
    adata.var["gene_symbol"] = adata.var_names
    with pytest.raises(KeyError, match=r"layer='count' is not in adata.layers; near names: 'counts'"):
        read_cells(adata, layer="count")
    with pytest.raises(KeyError, match=r"gene_key='gene_symbols'.*'gene_symbol'"):
        read_cells(adata, gene_key="gene_symbols")
    with pytest.raises(KeyError, match=r"'doner' is not in adata.obs; near names: 'donor'"):
        read_cells(adata, obs_keys=["doner"])
    with pytest.raises(TypeError, match=r"must be an AnnData, found scipy.sparse"):
        read_cells(adata.X)
    with pytest.raises(TypeError, match="Read the file first"):
        read_cells("pbmc.h5ad")


def test_rows_are_checked() -> None:
    found = read_cells(table(sp.csr_matrix(counts().astype(np.float32))))
    np.testing.assert_array_equal(found.read([-1]).counts.toarray(), counts()[-1:])
    with pytest.raises(IndexError, match="found 61"):
        found.read([0, 61])
    with pytest.raises(ValueError, match="one entry a cell"):
        found.read(np.ones(5, bool))
    with pytest.raises(TypeError, match="row numbers or a boolean mask"):
        found.read(np.array(["a"]))
    with pytest.raises(ValueError, match="block_size must be at least 1"):
        list(found.blocks(0))


@pytest.mark.parametrize("dtype", ["<f2", ">f4", ">i2", "bool", "uint8"])
def test_dense_dtypes_without_a_sparse_form(dtype: str) -> None:
    values = np.array([[0, 1, 0], [1, 1, 0]]).astype(dtype)
    cells = read_cells(anndata.AnnData(values)).read()
    assert cells.counts.dtype == np.float32
    np.testing.assert_array_equal(cells.counts.toarray(), values.astype(np.float32))
