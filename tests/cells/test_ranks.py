"""Rank-value encoding against a slow sort, and cell sentences."""

from __future__ import annotations

import multiprocessing
import threading
from typing import TYPE_CHECKING

import numba
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from sclm.cells import Cells, Ragged, cell_sentences, rank_values

if TYPE_CHECKING:
    from collections.abc import Callable


def slow(
    counts: sp.csr_matrix,
    scale: np.ndarray | None = None,
    max_length: int | None = None,
    token_ids: np.ndarray | None = None,
) -> list[list[int]]:
    """Sort each row by falling float64 quotient, then by token."""
    tokens = np.arange(counts.shape[1]) if token_ids is None else token_ids
    rows = []
    for i in range(counts.shape[0]):
        dense = counts[[i]].toarray().ravel().astype(np.float32)
        genes = np.flatnonzero((dense > 0) & (tokens >= 0))
        values = dense[genes].astype(np.float64) / (1.0 if scale is None else scale[genes])
        rows.append(tokens[genes][np.lexsort((tokens[genes], -values))][:max_length].tolist())
    return rows


def same(found: Ragged, expected: list[list[int]]) -> None:
    assert len(found) == len(expected)
    for i, row in enumerate(expected):
        assert found[i].tolist() == row, i


def sparse(rng: np.random.Generator, n: int, g: int, share: float, values: Callable[..., np.ndarray]) -> sp.csr_matrix:
    x = sp.random(n, g, density=share, format="csr", random_state=rng, dtype=np.float64)
    x.data = values(x.nnz).astype(np.float32)
    x.eliminate_zeros()
    return sp.csr_matrix(x, dtype=np.float32)


COUNTS: dict[str, Callable[[np.random.Generator], Callable[[int], np.ndarray]]] = {
    "small": lambda rng: lambda n: 1 + rng.poisson(0.5, n),
    "all one": lambda rng: lambda n: np.ones(n),
    "deep": lambda rng: lambda n: 1 + rng.poisson(rng.gamma(0.3, 2000, n)),
    "beyond 16 bits": lambda rng: lambda n: rng.integers(60_000, 16_000_000, n),
    "around the largest digit": lambda rng: lambda n: rng.integers(2040, 2056, n),
    "fractions": lambda rng: lambda n: np.log1p(rng.integers(1, 9, n)),
    "full range": lambda rng: lambda n: np.exp(rng.uniform(-80, 80, n)),
}
SCALES: dict[str, Callable[[np.random.Generator, int], np.ndarray | None]] = {
    "none": lambda rng, g: None,
    "one": lambda rng, g: np.ones(g),
    "log-normal": lambda rng, g: np.exp(rng.normal(0, 1, g)),
    "few values": lambda rng, g: rng.choice([0.5, 1.0, 3.0, 7.0, 49.0], g),
    "whole": lambda rng, g: rng.integers(1, 60, g).astype(float),
    "nearly equal": lambda rng, g: 1.0 + rng.integers(0, 5, g) * 2.0**-52,
    "one ulp of float32": lambda rng, g: 3.0 + rng.integers(0, 9, g) * 2.0**-22 + rng.integers(0, 3, g) * 2.0**-30,
    "an outlier": lambda rng, g: np.where(np.arange(g) == 3, 1e-30, rng.uniform(1, 1.001, g)),
    "tiny and huge": lambda rng, g: 10.0 ** rng.uniform(-200, 200, g),
    "overflowing": lambda rng, g: 10.0 ** rng.uniform(-45, 45, g),
}


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("values", COUNTS)
def test_equal_to_a_slow_sort(values: str, scale: str) -> None:
    rng = np.random.default_rng(len(values) * 100 + len(scale))
    for n, g, share in ((9, 300, 0.3), (3, 3000, 0.7), (20, 40, 0.05), (6, 1, 0.5)):
        counts = sparse(rng, n, g, share, COUNTS[values](rng))
        divisor = SCALES[scale](rng, g)
        same(rank_values(counts, divisor), slow(counts, divisor))
        for length in (0, 1, 7, 100):
            same(rank_values(counts, divisor, max_length=length), slow(counts, divisor, length))


def test_keys_in_few_bits() -> None:
    """Many genes leave few bits for the key; the exact quotients then decide almost everything."""
    rng = np.random.default_rng(0)
    counts = sparse(rng, 2, 90_000, 0.8, lambda n: 1 + rng.poisson(1.0, n))
    assert np.diff(counts.indptr).min() > 65_536
    scale = np.exp(rng.normal(0, 0.5, 90_000))
    same(rank_values(counts, scale), slow(counts, scale))
    same(rank_values(counts), slow(counts))
    same(rank_values(counts, scale, max_length=2048), slow(counts, scale, 2048))


def test_token_ids() -> None:
    rng = np.random.default_rng(1)
    counts = sparse(rng, 8, 200, 0.4, lambda n: 1 + rng.poisson(0.5, n))
    scale = rng.choice([1.0, 2.0], 200)
    tokens = rng.permutation(1000)[:200]
    for divisor in (None, scale):
        same(rank_values(counts, divisor, token_ids=tokens), slow(counts, divisor, None, tokens))
        left_out = np.where(rng.random(200) < 0.3, -1, tokens)
        same(rank_values(counts, divisor, token_ids=left_out, max_length=20), slow(counts, divisor, 20, left_out))
        rising = np.sort(tokens)
        same(rank_values(counts, divisor, token_ids=rising), slow(counts, divisor, None, rising))
    large = tokens.astype(np.int64) + 2**40
    assert rank_values(counts, token_ids=large).values.dtype == np.int64  # noqa: PD011
    same(rank_values(counts, token_ids=large), slow(counts, None, None, large))
    assert rank_values(counts).values.dtype == np.int32  # noqa: PD011
    unusable = scale.copy()
    unusable[5] = np.nan
    tokens[5] = -1
    same(rank_values(counts, unusable, token_ids=tokens), slow(counts, scale, None, tokens))


def test_the_order_of_genes_does_not_matter() -> None:
    rng = np.random.default_rng(2)
    counts = sparse(rng, 8, 200, 0.4, lambda n: 1 + rng.poisson(0.5, n))
    scale, tokens, order = rng.choice([1.0, 2.0, 5.0], 200), rng.permutation(200), rng.permutation(200)
    a = rank_values(counts, scale, token_ids=tokens)
    b = rank_values(counts[:, order], scale[order], token_ids=tokens[order])
    np.testing.assert_array_equal(a.values, b.values)


def test_a_cell_does_not_depend_on_its_block() -> None:
    rng = np.random.default_rng(3)
    counts = sparse(rng, 50, 300, 0.3, lambda n: 1 + rng.poisson(1, n))
    scale = np.exp(rng.normal(0, 1, 300))
    whole = rank_values(counts, scale)
    for i in range(50):
        assert rank_values(counts[i], scale)[0].tolist() == whole[i].tolist()


def test_unsorted_zeros_empty_cells_and_nothing_changed() -> None:
    counts = sp.csr_matrix(
        (np.array([2, 0, 5, 1, 1], np.float32), np.array([4, 1, 0, 3, 3], np.int32), np.array([0, 3, 3, 5])),
        shape=(3, 6),
    )
    before = [a.copy() for a in (counts.data, counts.indices, counts.indptr)]
    same(rank_values(counts), [[0, 4], [], [3]])
    for a, b in zip(before, (counts.data, counts.indices, counts.indptr), strict=True):
        np.testing.assert_array_equal(a, b)
    assert len(rank_values(sp.csr_matrix((0, 5), dtype=np.float32))) == 0
    same(rank_values(sp.csr_matrix((2, 0), dtype=np.float32)), [[], []])
    same(rank_values(sp.csr_matrix(np.array([[0, 3, 1]])), [1.0, 1.0, 1.0]), [[1, 2]])


def test_bad_arguments() -> None:
    counts = sp.csr_matrix(np.array([[1.0, 2.0], [0.0, 3.0]], np.float32))
    for value in (-1.0, np.nan, np.inf):
        spoiled = counts.copy()
        spoiled.data[2] = value
        for scale in (None, [1.0, 1.0]):
            with pytest.raises(ValueError, match=r"counts must be positive and finite, found .* in row 1"):
                rank_values(spoiled, scale)
    for scale in ([1.0, 0.0], [1.0, np.nan], [1.0, -2.0]):
        with pytest.raises(ValueError, match=r"scale must be positive and finite, found .* for gene 1"):
            rank_values(counts, scale)
    with pytest.raises(ValueError, match="scale must hold 2 values"):
        rank_values(counts, [1.0])
    with pytest.raises(ValueError, match="token_ids must be 2 integers"):
        rank_values(counts, token_ids=[0.5, 1.0])
    with pytest.raises(ValueError, match="found token 3 twice"):
        rank_values(counts, token_ids=[3, 3])
    with pytest.raises(ValueError, match="max_length must be at least 0"):
        rank_values(counts, max_length=-1)


def test_threads_do_not_change_the_result() -> None:
    rng = np.random.default_rng(4)
    counts = sparse(rng, 100, 500, 0.3, lambda n: 1 + rng.poisson(1, n))
    scale = np.exp(rng.normal(0, 1, 500))
    before = numba.get_num_threads()
    try:
        results = []
        for threads in sorted({1, numba.config.NUMBA_NUM_THREADS}):
            numba.set_num_threads(threads)
            results.append(rank_values(counts, scale))
    finally:
        numba.set_num_threads(before)
    found: list[Ragged] = []
    workers = [threading.Thread(target=lambda: found.append(rank_values(counts, scale))) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for other in [*results, *found]:
        np.testing.assert_array_equal(other.values, results[0].values)
    assert len(found) == 3


def _values_of(counts: sp.csr_matrix) -> np.ndarray:
    return rank_values(counts).values  # noqa: PD011


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded, use of fork")
def test_forked_workers_encode() -> None:
    """GNU OpenMP ends a forked child that enters a parallel region; workers must not."""
    if "fork" not in multiprocessing.get_all_start_methods():
        pytest.skip("no fork here")
    rng = np.random.default_rng(5)
    counts = sparse(rng, 20, 100, 0.3, lambda n: 1 + rng.poisson(1, n))
    expected = rank_values(counts).values  # noqa: PD011 - the parent has used its threads
    with multiprocessing.get_context("fork").Pool(1) as pool:
        np.testing.assert_array_equal(pool.apply_async(_values_of, (counts,)).get(timeout=60), expected)


def test_sentences() -> None:
    rng = np.random.default_rng(6)
    counts = sparse(rng, 12, 30, 0.4, lambda n: 1 + rng.poisson(1, n))
    counts = sp.vstack([counts, sp.csr_matrix((1, 30))], format="csr", dtype=np.float32)
    names = [f"G{i}" for i in rng.permutation(30)]
    cells = Cells(counts, pd.Index(names), pd.DataFrame(index=[str(i) for i in range(13)]))
    for length in (None, 5):
        expected = []
        for row in counts.toarray():
            genes = sorted(np.flatnonzero(row), key=lambda g: (-row[g], g))[:length]
            expected.append(" ".join(names[g] for g in genes))
        assert cell_sentences(cells, length) == expected
    assert cell_sentences(cells)[-1] == ""
