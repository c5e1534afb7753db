"""Cells as token sequences and back."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp

from sclm.cells import Ragged, count_levels
from sclm.models.pgl.sampling import uniforms
from sclm.models.pgl.tokens import EDGES, GeneTokens, _uniform


def cells(seed: int, n: int = 12, n_genes: int = 60) -> sp.csr_matrix:
    generator = np.random.default_rng(seed)
    counts = generator.negative_binomial(0.4, generator.uniform(0.001, 0.4, n_genes), size=(n, n_genes))
    counts[0] = 0  # a cell without counts
    counts[1] = np.arange(n_genes) + 1  # and one with all genes
    return sp.csr_matrix(counts.astype(np.float32))


def slow_encode(row: np.ndarray, edges: tuple[int, ...]) -> list[int]:
    """The canonical order, as its definition says it."""
    level = np.searchsorted(edges, row, side="right")
    tokens = []
    for present in sorted(set(level[level > 0]), reverse=True):
        tokens += [row.size + present - 1, *np.flatnonzero(level == present)]
    return [*tokens, row.size + len(edges)]


def test_the_vocabulary() -> None:
    tokens = GeneTokens(14_000)
    assert tokens.edges[:4] == (1, 2, 3, 4)
    assert (tokens.end, tokens.size) == (14_000 + len(EDGES), 14_001 + len(EDGES))
    ratios = np.divide(EDGES[6:], EDGES[5:-1])
    assert (np.abs(ratios - 1.46) < 0.03).all()


@pytest.mark.parametrize("seed", range(3))
def test_the_canonical_order_is_that_of_its_definition(seed: int) -> None:
    counts = cells(seed)
    tokens = GeneTokens(counts.shape[1])
    sequences = tokens.encode(counts)
    assert sequences.values.dtype == np.int32
    for sequence, row in zip(sequences, counts.toarray(), strict=True):
        assert sequence.tolist() == slow_encode(row, tokens.edges)
    np.testing.assert_array_equal(tokens.lengths(counts), sequences.lengths)


@pytest.mark.parametrize("order", GeneTokens.ORDERS)
@pytest.mark.parametrize("seed", range(3))
def test_round_trip(order: str, seed: int) -> None:
    counts = cells(seed)
    tokens = GeneTokens(counts.shape[1])
    back = tokens.decode(tokens.encode(counts, order, seed=seed), order, seed=seed + 1)
    np.testing.assert_array_equal(back.indptr, counts.indptr)
    np.testing.assert_array_equal(back.indices, counts.indices)
    small = counts.data <= 3
    np.testing.assert_array_equal(back.data[small], counts.data[small])
    np.testing.assert_array_equal(count_levels(back, EDGES), count_levels(counts, EDGES))
    np.testing.assert_array_equal(back.data, np.rint(back.data))


def test_rank_order_falls_and_shuffles_ties() -> None:
    counts = cells(3)
    tokens = GeneTokens(counts.shape[1])
    one, other = (tokens.encode(counts, "rank", seed=seed) for seed in (0, 1))
    dense = counts.toarray()
    for i, sequence in enumerate(one):
        genes = sequence[sequence < counts.shape[1]]
        assert (np.diff(dense[i, genes]) <= 0).all()
        assert (np.diff(sequence[(sequence >= counts.shape[1])]) != 0).all()  # a marker only where the level changes
    assert any((a.size == b.size) and (a != b).any() for a, b in zip(one, other, strict=True))


def test_random_order_gives_each_gene_a_marker() -> None:
    counts = cells(4)
    n_genes = counts.shape[1]
    for i, sequence in enumerate(GeneTokens(n_genes).encode(counts, "random", seed=5)):
        markers, genes = sequence[:-1:2], sequence[1::2]
        assert sorted(genes) == counts[i].indices.tolist()
        levels = np.searchsorted(EDGES, counts[i].toarray()[0, genes], side="right")
        np.testing.assert_array_equal(markers - n_genes + 1, levels)


def test_first_genes_of_the_random_order_are_even() -> None:
    n = 4000
    counts = sp.csr_matrix(np.ones((n, 5), np.float32))
    sequences = GeneTokens(5).encode(counts, "random", seed=0)
    first = np.bincount([s[1] for s in sequences], minlength=5)
    assert np.abs(first - n / 5).max() < 4 * np.sqrt(n / 5)


def test_random_numbers_go_with_the_cell() -> None:
    counts = cells(6)
    tokens = GeneTokens(counts.shape[1])
    sequences = tokens.encode(counts, "rank", seed=9)
    part = tokens.encode(counts[5:9], "rank", seed=9, cells=np.arange(5, 9))
    np.testing.assert_array_equal(part.values, sequences.values[sequences.offsets[5] : sequences.offsets[9]])
    whole = tokens.decode(sequences, "rank", seed=2)
    np.testing.assert_array_equal(
        tokens.decode(part, "rank", seed=2, cells=np.arange(5, 9)).toarray(), whole[5:9].toarray()
    )
    assert _uniform.py_func is not None
    assert _uniform(np.uint64(7), np.uint64(3), np.uint64(11)) == uniforms(7, np.array([3]), 11, 1)[0, 0]


def test_counts_inside_a_level_are_log_uniform() -> None:
    n = 20_000
    tokens = GeneTokens(1)
    level = 5  # 6, 7, 8 counts
    sequences = Ragged(np.tile(np.array([level, 0, tokens.end], np.int32), n), np.arange(n + 1) * 3)
    drawn = tokens.decode(sequences, seed=1).toarray().ravel()
    expected = np.diff(np.log([6, 7, 8, 9])) / np.log(9 / 6)
    np.testing.assert_allclose(np.bincount(drawn.astype(int), minlength=9)[6:] / n, expected, atol=0.012)
    top = Ragged(np.tile(np.array([tokens.end - 1, 0, tokens.end], np.int32), n), np.arange(n + 1) * 3)
    drawn = tokens.decode(top, seed=1).toarray().ravel()
    assert drawn.min() >= EDGES[-1]
    assert drawn.max() < 1.5 * EDGES[-1]


@pytest.mark.parametrize(
    ("sequence", "order", "fault"),
    [
        ([10, 0, 1], "level", "no end at position 3"),
        ([], "level", "no end"),
        ([0, 35], "level", "before any level marker at position 0"),
        ([11, 2, 2, 35], "level", "came before"),
        ([11, 3, 2, 35], "level", "does not rise inside its level at position 2"),
        ([10, 3, 11, 4, 35], "level", "does not fall"),
        ([11, 3, 11, 4, 35], "level", "does not fall"),
        ([11, 3, 10, 3, 35], "level", "came before"),
        ([11, 10, 3, 35], "level", "marker without a gene"),
        ([11, 35], "rank", "marker without a gene"),
        ([11, 3, 35, 4], "level", "after the end"),
        ([11, 3, 36], "level", "outside the vocabulary"),
        ([11, -1, 35], "level", "outside the vocabulary"),
        ([11, 3, 4, 35], "random", "marker of its own"),
        ([10, 3, 11, 4, 35], "rank", "does not fall"),
    ],
)
def test_sequences_that_break_the_rules_are_refused(sequence: list[int], order: str, fault: str) -> None:
    tokens = GeneTokens(10)
    assert tokens.end == 35
    good = tokens.encode(sp.csr_matrix((1, 10), dtype=np.float32)).values  # the end alone
    values = np.concatenate([good, np.array(sequence, np.int32)])
    with pytest.raises(ValueError, match=f"Sequence 1 .*{fault}"):
        tokens.decode(Ragged(values, np.array([0, 1, values.size])), order)


def test_what_other_orders_allow() -> None:
    tokens = GeneTokens(10)
    rank = Ragged(np.array([11, 3, 2, 35], np.int32), np.array([0, 4]))
    assert tokens.decode(rank, "rank").toarray()[0].tolist() == [0, 0, 2, 2, 0, 0, 0, 0, 0, 0]
    free = Ragged(np.array([10, 3, 11, 2, 35], np.int32), np.array([0, 5]))
    assert tokens.decode(free, "random").toarray()[0].tolist() == [0, 0, 2, 1, 0, 0, 0, 0, 0, 0]


def test_bad_input_is_refused() -> None:
    tokens = GeneTokens(3)
    with pytest.raises(ValueError, match=r"whole numbers of at least 1 where stored, found 0\.5"):
        tokens.encode(sp.csr_matrix([[0.5, 0, 0]]))
    with pytest.raises(ValueError, match="must have 3 genes, found 2"):
        tokens.encode(sp.csr_matrix([[1.0, 0]]))
    with pytest.raises(ValueError, match="order must be one of 'level', 'rank', 'random', found 'depth'"):
        tokens.encode(sp.csr_matrix([[1.0, 0, 0]]), "depth")
    with pytest.raises(ValueError, match="order must be one of"):
        tokens.decode(tokens.encode(sp.csr_matrix(np.eye(1, 3, dtype=np.float32))), "depth")
    with pytest.raises(ValueError, match="sorted gene indices"):
        tokens.encode(sp.csr_matrix((np.ones(2), np.array([2, 0]), np.array([0, 2])), shape=(1, 3)))
    with pytest.raises(ValueError, match="n_genes must be at least 1"):
        GeneTokens(0)
    with pytest.raises(ValueError, match="edges must be whole numbers that increase from 1"):
        GeneTokens(3, (2, 3))
