"""Moved columns against scipy's own product with a selection matrix."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp

from sclm.cells.columns import move_columns


def scrambled(rng: np.random.Generator, n: int, n_genes: int, dtype: type) -> sp.csr_matrix:
    """Entries in no order, some repeated, some zero."""
    lengths = rng.integers(0, 2 * n_genes, size=n)
    counts = sp.csr_matrix((n, n_genes), dtype=dtype)
    counts.indptr = np.concatenate([[0], np.cumsum(lengths)])
    counts.indices = rng.integers(0, n_genes, size=lengths.sum())
    counts.data = rng.poisson(1.0, size=lengths.sum()).astype(dtype)
    return counts


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64, np.uint8, np.bool_])
@pytest.mark.parametrize("n_columns", [1, 63, 64, 65, 300])
def test_columns_are_summed_where_they_meet(dtype: type, n_columns: int) -> None:
    rng = np.random.default_rng(n_columns)
    counts = scrambled(rng, 7, 40, dtype)
    before = counts.copy()
    target = rng.integers(-1, n_columns, size=40)
    moved = move_columns(counts, target, n_columns)
    kept = np.flatnonzero(target >= 0)
    selector = np.zeros((40, n_columns))
    selector[kept, target[kept]] = 1
    dense = np.zeros((7, 40))
    for row in range(7):
        part = slice(counts.indptr[row], counts.indptr[row + 1])
        np.add.at(dense[row], counts.indices[part], counts.data[part].astype(np.float64))
    np.testing.assert_array_equal(moved.toarray(), dense @ selector)
    assert moved.dtype == np.float32
    assert moved.has_canonical_format
    assert (moved.data != 0).all()
    for row in range(7):
        assert (np.diff(moved.indices[moved.indptr[row] : moved.indptr[row + 1]]) > 0).all()
    assert moved.indices.dtype == moved.indptr.dtype
    for name in ("data", "indices", "indptr"):
        np.testing.assert_array_equal(getattr(counts, name), getattr(before, name))


def test_values_are_rounded_each() -> None:
    counts = sp.csr_matrix(np.array([[0.9999, 2.0001, 1e-6]]))
    assert move_columns(counts, np.array([1, 1, 0]), 2).toarray().tolist() == [[0.0, 3.0]]
    assert move_columns(counts, None, 3).toarray().tolist() == [[1.0, 2.0, 0.0]]


def test_rows_of_a_larger_matrix() -> None:
    counts = sp.csr_matrix(np.arange(12.0).reshape(4, 3))
    moved = move_columns(counts[2:], np.array([2, -1, 0]), 3)
    assert moved.toarray().tolist() == [[8.0, 0.0, 6.0], [11.0, 0.0, 9.0]]
    assert move_columns(counts[:0], np.array([2, -1, 0]), 3).shape == (0, 3)


def test_nothing_is_shared_with_the_original() -> None:
    counts = sp.csr_matrix(np.array([[1.0, 0.0, 2.0]], dtype=np.float32))
    moved = move_columns(counts, None, 3)
    moved.data[:] = 7
    moved.indices[:] = 0
    assert counts.toarray().tolist() == [[1.0, 0.0, 2.0]]
