"""The order of an epoch: every row once, short padding, in stretches a file can be read in."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sclm.training.order import BatchOrder


def flat(order: BatchOrder, epoch: int = 0) -> np.ndarray:
    return np.concatenate([rows for batches in order.buffers(epoch) for rows in batches])


@pytest.mark.parametrize(
    "options",
    [
        {"batch_size": 7},
        {"batch_size": 7, "shuffle": False},
        {"batch_size": 64, "chunk_size": 10, "buffer_size": 100},
        {"batch_size": 64, "chunk_size": 128, "buffer_size": 50},
        {"batch_size": 2000},
        {"batch_size": 1, "max_tokens": 9000, "lengths": True},
        {"batch_size": 50, "lengths": True, "buffer_size": 300},
    ],
)
def test_every_row_once_and_another_order_each_epoch(options: dict[str, Any]) -> None:
    lengths = np.random.default_rng(0).integers(500, 8000, 1200)
    rows = np.flatnonzero(np.random.default_rng(1).random(1200) < 0.8)
    order = BatchOrder(rows, **options | ({"lengths": lengths} if "lengths" in options else {}))
    first, second = flat(order, 0), flat(order, 1)
    assert np.array_equal(np.sort(first), rows)
    assert np.array_equal(np.sort(second), rows)
    assert np.array_equal(first, flat(order, 0))
    assert np.array_equal(first, second) is not options.get("shuffle", True)
    sizes = [len(batch) for batches in order.buffers(0) for batch in batches]
    assert order.n_batches(0) == len(sizes)
    assert min(sizes) >= 1
    if "max_tokens" in options:
        assert all(lengths[b].max() * len(b) <= 9000 for batches in order.buffers(0) for b in batches)
    else:
        assert max(sizes) <= options["batch_size"]


def test_chunks_of_one_row_are_a_perfect_shuffle() -> None:
    """Each row is as likely in each tenth of the epoch: chi-square over 400 epochs."""
    from scipy.stats import chisquare

    order = BatchOrder(np.arange(100), batch_size=10, buffer_size=30)
    where = np.array([np.argsort(flat(order, epoch)) // 10 for epoch in range(400)])
    p = [chisquare(np.bincount(where[:, row], minlength=10)).pvalue for row in range(100)]
    assert min(p) > 1e-5
    assert 0.3 < np.mean(p) < 0.7


def test_files_are_read_in_stretches() -> None:
    order = BatchOrder(np.arange(10_000), batch_size=64, chunk_size=100, buffer_size=1000)
    for batches in order.buffers(0):
        rows = np.sort(np.concatenate(batches))
        assert rows.size == 1000
        assert np.all(np.diff(rows.reshape(10, 100), axis=1) == 1)  # ten stretches of a hundred
        assert np.abs(np.corrcoef(np.concatenate(batches), np.arange(1000))[0, 1]) < 0.2  # mixed


@pytest.mark.parametrize("options", [{"batch_size": 32}, {"batch_size": 1, "max_tokens": 65_536}])
def test_little_padding_on_realistic_lengths(options: dict[str, Any]) -> None:
    """Log-normal lengths between 500 and 8,000, around 2,000 expressed genes."""
    lengths = np.clip(np.random.default_rng(0).lognormal(np.log(2000), 0.6, 20_000), 500, 8000).astype(int)
    order = BatchOrder(np.arange(20_000), lengths=lengths, chunk_size=128, **options)
    batches = [b for buffer in order.buffers(0) for b in buffer]
    by_hand = 1 - lengths.sum() / sum(lengths[b].max() * len(b) for b in batches)
    assert order.padding_share(0) == pytest.approx(by_hand)
    assert order.padding_share(0) < 0.05
    firsts = [lengths[b].max() for b in batches[:100]]
    assert np.abs(np.corrcoef(firsts, np.arange(len(firsts)))[0, 1]) < 0.4  # short and long batches in turn


def test_bad_options() -> None:
    with pytest.raises(ValueError, match="found 0, 1 and 4096"):
        BatchOrder(np.arange(3), batch_size=0)
    with pytest.raises(ValueError, match="max_tokens needs lengths"):
        BatchOrder(np.arange(3), batch_size=1, max_tokens=5)
    with pytest.raises(ValueError, match="longest cell, 7 tokens, found 5"):
        BatchOrder(np.arange(3), batch_size=1, max_tokens=5, lengths=np.array([1, 7, 2]))
    with pytest.raises(ValueError, match="padding_share needs lengths"):
        BatchOrder(np.arange(3), batch_size=1).padding_share(0)
