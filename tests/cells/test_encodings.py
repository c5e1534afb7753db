"""Quantile bins, count levels, log-normalised values and ragged sequences against numpy, scanpy and stored outputs."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp

from sclm.cells import Ragged, bin_values, count_levels, log_normalise
from sclm.cells.bins import _edges_of, bin_bounds
from sclm.cells.hashes import cell_hashes, gene_hashes
from sclm.cells.levels import COUNT_EDGES

GOLDEN = Path(os.environ.get("SCLM_REAL_DATA", Path(__file__).parents[2] / ".." / "shared" / "data")).parent / "golden"


def poisson(seed: int, n: int = 30, g: int = 60, mean: float = 1.0) -> sp.csr_matrix:
    x = np.random.default_rng(seed).poisson(mean, (n, g)).astype(np.float32)
    x[2] = 0
    x[3] = 0
    x[3, 7] = 4
    x[4] = 1
    return sp.csr_matrix(x)


@pytest.mark.parametrize("n_bins", [3, 4, 11, 51, 200])
@pytest.mark.parametrize("kind", ["counts", "deep", "log", "continuous"])
def test_bins_are_numpys(n_bins: int, kind: str) -> None:
    x = poisson(0, mean=200.0 if kind == "deep" else 1.0)
    if kind == "log":
        x = log_normalise(x)
    if kind == "continuous":
        x.data += np.random.default_rng(0).uniform(-0.4, 0.4, x.nnz).astype(np.float32)
    found = bin_values(x, n_bins)
    assert found.dtype == np.int32
    for i in range(x.shape[0]):
        part = slice(x.indptr[i], x.indptr[i + 1])
        values = x.data[part]
        if values.size:
            edges = np.quantile(values, np.linspace(0, 1, n_bins - 1))
            np.testing.assert_array_equal(found[part], np.digitize(values, edges))
            assert found[part].max() == n_bins - 1
            assert found[part].min() >= 1
    # a cell's bins do not depend on the order of genes
    order = np.random.default_rng(1).permutation(x.shape[1])
    shuffled = x[:, order].sorted_indices()
    back = sp.csr_matrix((bin_values(shuffled, n_bins), shuffled.indices, shuffled.indptr), x.shape).toarray()
    np.testing.assert_array_equal(back, sp.csr_matrix((found, x.indices, x.indptr), x.shape).toarray()[:, order])


def edges_of(x: sp.csr_matrix) -> np.ndarray:
    """(n_cells, 50) edges of the bins of each cell, as the binning has them inside."""
    found = np.empty((x.shape[0], 50))
    for row, out in zip(np.split(x.data.astype(np.float32), x.indptr[1:-1]), found, strict=True):
        _edges_of(np.sort(row), np.linspace(0, 1, 50), out)
    return found


def replayed(lower: np.ndarray, upper: np.ndarray) -> np.ndarray:
    """Bins as the original draws them after np.random.seed(0): one uniform number for every non-zero value, ties or not."""
    return np.ceil(np.random.RandomState(0).rand(lower.size) * (lower - upper) + upper)


@pytest.mark.parity
def test_bins_are_those_of_scgpt() -> None:
    folder = GOLDEN / "scgpt"
    if not (folder / "binning.npz").exists():
        pytest.skip("no stored outputs of scGPT beside SCLM_REAL_DATA")
    with (
        np.load(folder / "inputs.npz", allow_pickle=False) as inputs,
        np.load(folder / "binning.npz", allow_pickle=False) as golden,
    ):
        for name in ("counts", "tiefree"):
            x = sp.csr_matrix(inputs[name][:, inputs["in_vocab"]].astype(np.float32))
            np.testing.assert_array_equal(x.indptr, golden[f"{name}_offsets"])
            found = bin_values(x, 51)
            np.testing.assert_array_equal(found, golden[f"{name}_hi"])
            np.testing.assert_array_equal(found, golden[f"{name}_digits_one"])
            lower, upper = bin_bounds(x, 51)
            np.testing.assert_array_equal(lower, golden[f"{name}_lo_exclusive"])
            np.testing.assert_array_equal(upper, found)
            np.testing.assert_array_equal(edges_of(x), golden[f"{name}_edges"])
            np.testing.assert_array_equal(replayed(lower, upper), golden[f"{name}_digits_seed0"])
            spread = bin_values(x, 51, ties="spread", seed=3)
            assert ((spread > lower) | (lower == upper)).all()
            assert (spread <= upper).all()
            if name == "tiefree":
                np.testing.assert_array_equal(spread, golden["tiefree_digits_seed0"])


@pytest.mark.parity
def test_normalising_and_binning_are_scgpts_preprocessor() -> None:
    folder = GOLDEN / "scgpt"
    if not (folder / "binning.npz").exists():
        pytest.skip("no stored outputs of scGPT beside SCLM_REAL_DATA")
    with (
        np.load(folder / "inputs.npz", allow_pickle=False) as inputs,
        np.load(folder / "binning.npz", allow_pickle=False) as golden,
    ):
        for prefix, name in (("pre_", "counts"), ("pre_tiefree_", "tiefree")):
            x = log_normalise(sp.csr_matrix(inputs[name][:, inputs["in_vocab"]].astype(np.float32)))
            np.testing.assert_allclose(x.toarray(), golden[f"{prefix}X_log1p"], rtol=3e-6)
            if name == "counts":  # the original takes the logarithm in place: its normalised layer holds it too
                np.testing.assert_allclose(x.toarray(), golden["pre_X_normed"], rtol=3e-6)
            theirs = golden[f"{prefix}X_binned" + ("_seed0" if name == "counts" else "")]
            # on their own log-normalised values, whose last bits differ from ours
            x = sp.csr_matrix(golden[f"{prefix}X_log1p"])
            lower, upper = bin_bounds(x, 51)
            found = theirs[x.nonzero()]
            if name == "tiefree":
                np.testing.assert_array_equal(upper, found)
            else:
                assert ((lower < found) | (lower == upper)).all()
                assert (found <= upper).all()
                np.testing.assert_array_equal(replayed(lower, upper), found)
                np.testing.assert_array_equal(edges_of(x), golden["pre_bin_edges"][:, 1:])
                assert (golden["pre_bin_edges"][:, 0] == 0).all()


def test_ties_are_spread_evenly_over_the_bins_that_they_cover() -> None:
    x = poisson(5, n=400, g=300)
    lower, upper = bin_bounds(x)
    found = bin_values(x, ties="spread", seed=1)
    wide = upper - lower >= 10
    place = ((found - lower - 0.5)[wide]) / (upper - lower)[wide]
    assert wide.sum() > 10_000
    np.testing.assert_allclose(np.histogram(place, 5, (0, 1))[0] / place.size, 0.2, atol=0.012)
    assert abs(np.corrcoef(place[:-1], place[1:])[0, 1]) < 0.02
    assert (bin_values(x, ties="spread", seed=2) != found).mean() > 0.5
    np.testing.assert_array_equal(bin_values(x, ties="spread", seed=1), found)
    untied = x.copy()
    untied.data += np.linspace(-0.4, 0.4, x.nnz, dtype=np.float32)  # no two equal
    untied = untied[np.diff(x.indptr) > 1]  # a cell's only gene covers all bins
    np.testing.assert_array_equal(bin_values(untied, ties="spread"), bin_values(untied))


def test_spread_ties_depend_on_the_cell_alone() -> None:
    x = poisson(6)
    found = sp.csr_matrix((bin_values(x, ties="spread", seed=1), x.indices, x.indptr), x.shape).toarray()
    rows = np.random.default_rng(1).permutation(x.shape[0])[:11]
    some = x[rows].copy()
    some = sp.csr_matrix((bin_values(some, ties="spread", seed=1), some.indices, some.indptr), some.shape)
    np.testing.assert_array_equal(some.toarray(), found[rows])
    # the order in which a cell's genes are stored is no property of the cell
    turned = x.copy()
    for i in range(x.shape[0]):
        part = slice(x.indptr[i], x.indptr[i + 1])
        turned.indices[part], turned.data[part] = x.indices[part][::-1], x.data[part][::-1]
    assert not turned.has_canonical_format
    binned = sp.csr_matrix((bin_values(turned, ties="spread", seed=1), turned.indices, turned.indptr), x.shape)
    np.testing.assert_array_equal(binned.toarray(), found)


def test_hashes_of_cells() -> None:
    x = poisson(7, n=2000)
    keys = cell_hashes(x, 5)
    assert keys.dtype == np.uint64
    assert np.unique(keys).size == np.unique(x.toarray(), axis=0).shape[0]
    bits = np.unpackbits(keys.view(np.uint8)).reshape(-1, 64)
    np.testing.assert_allclose(bits.mean(axis=0), 0.5, atol=0.06)
    assert not (cell_hashes(x, 6) == keys).any()
    first = gene_hashes(x)[x.indptr[5] : x.indptr[6]]
    np.testing.assert_array_equal(gene_hashes(x[5:6]), first)
    assert np.unique(first).size == first.size
    with pytest.raises(ValueError, match=r"seed must lie between 0 and 2\*\*64 - 1, found -1"):
        cell_hashes(x, -1)


def test_bins_refuse_unknown_ties() -> None:
    with pytest.raises(ValueError, match="ties must be 'upper' or 'spread', found 'lower'"):
        bin_values(poisson(0), ties="lower")


def test_levels() -> None:
    x = poisson(1, mean=30.0)
    x.data[:20] = np.r_[0.5, COUNT_EDGES]
    np.testing.assert_array_equal(count_levels(x), np.digitize(x.data, COUNT_EDGES))
    edges = [1, 2, 4, 8.5]
    np.testing.assert_array_equal(count_levels(x, edges), np.digitize(x.data, edges))
    assert count_levels(x).dtype == np.int32
    assert count_levels(sp.csr_matrix((3, 4), dtype=np.float32)).size == 0
    for wrong in ([], [2, 1], [1, 1], [1, np.nan], [[1, 2]]):
        with pytest.raises(ValueError, match="edges must be a non-empty increasing sequence"):
            count_levels(x, wrong)


def test_bins_refuse() -> None:
    with pytest.raises(ValueError, match="n_bins must be at least 3"):
        bin_values(poisson(0), 2)
    assert bin_values(sp.csr_matrix((3, 4), dtype=np.float32)).size == 0


@pytest.mark.parametrize("target", [1e4, 1.0, 1e6])
def test_log_normalisation(target: float) -> None:
    x = poisson(2)
    before = x.copy()
    found = log_normalise(x, target)
    dense = x.toarray().astype(np.float64)
    totals = dense.sum(axis=1, keepdims=True)
    expected = np.log1p(np.divide(dense * target, totals, where=totals > 0, out=np.zeros_like(dense)))
    np.testing.assert_allclose(found.toarray(), expected, rtol=2e-7)
    assert found.dtype == np.float32
    assert (x != before).nnz == 0
    assert not np.shares_memory(found.indices, x.indices)
    with pytest.raises(ValueError, match="target_sum must be greater than 0"):
        log_normalise(x, 0.0)


def test_ragged() -> None:
    rng = np.random.default_rng(0)
    rows = [rng.integers(1, 99, n) for n in (3, 0, 5, 1, 0)]
    ragged = Ragged(np.concatenate(rows), np.cumsum([0, *map(len, rows)]))
    assert len(ragged) == 5
    assert [r.tolist() for r in ragged] == [r.tolist() for r in rows]
    assert ragged[-2].tolist() == rows[3].tolist()
    assert ragged.lengths.tolist() == [3, 0, 5, 1, 0]
    for length in (None, 0, 2, 5, 9):
        width = 5 if length is None else length
        expected = [[*r[:width], *[-7] * (width - len(r))] for r in rows]
        padded = ragged.pad(length, value=-7)
        assert padded.shape == (5, width)
        assert padded.tolist() == expected
    with pytest.raises(IndexError, match="sequence 5 is asked for, there are 5"):
        ragged[5]
    with pytest.raises(ValueError, match="length must be at least 0"):
        ragged.pad(-1)
    assert Ragged(np.zeros(0, np.int32), np.zeros(1, np.int64)).pad().shape == (0, 0)


@pytest.mark.parametrize("encode", [bin_values, count_levels])
def test_bins_and_levels_refuse_what_they_would_misread(encode) -> None:
    good = sp.csr_matrix(np.array([[1.0, 0, 3], [2, 2, 0]], dtype=np.float32))
    assert len(encode(good)) == 4
    for bad in (good.tocsc(), good.toarray()):
        with pytest.raises(TypeError, match="must be a CSR matrix"):
            encode(bad)
    for value in (np.nan, -1.0, np.inf):
        broken = good.copy()
        broken.data[2] = value
        with pytest.raises(ValueError, match=f"{value:.4g} in row 1"):
            encode(broken)
