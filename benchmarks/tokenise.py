"""Rank-value encoding of 20,000 cells x 20,000 genes at 2,000 expressed genes a cell, against numpy's argsort.

Prints cells per second of ``sclm.cells.rank_values`` and of a per-row ``numpy.argsort``, on one core and on all (threads
here, a pool of processes for numpy), with the ratio of ours to each.  Numpy is measured in several ways:

- *stable*: ``kind="stable"``, which gives our result exactly, ties by token id;
- *quick*: numpy's default, which leaves ties in any order;
- *returned*: the pool hands its results over, as a pool does; *shared*: it writes them into shared memory set up
  beforehand, so that no array is ever sent (the most that processes can do; the input is shared in all of them).

Each block of cells is simulated once and measured by every method in turn; a ratio is the median over the blocks.  Use an
idle machine.

    python benchmarks/tokenise.py [--cells 20000] [--block 2000]
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import sys
import time
from itertools import pairwise
from multiprocessing.shared_memory import SharedMemory
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import scipy.sparse as sp

if TYPE_CHECKING:
    from collections.abc import Callable

GENES = 20_000
EXPRESSED = 2_000


class Arena(NamedTuple):
    """Names of the shared arrays of one block."""

    data: str
    indices: str
    tokens: str
    scale: str
    cells: int


_ARRAYS: dict[str, np.ndarray] = {}
_MEMORY: list[SharedMemory] = []


def share(name: str, shape: tuple[int, ...], dtype: Any, create: bool) -> tuple[np.ndarray, str]:
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    memory = SharedMemory(create=True, size=size) if create else SharedMemory(name=name)
    _MEMORY.append(memory)  # the array lives as long as this
    return np.ndarray(shape, dtype, buffer=memory.buf), memory.name


def attach(arena: Arena) -> None:
    n = arena.cells * EXPRESSED
    _ARRAYS["data"], _ = share(arena.data, (n,), np.float32, create=False)
    _ARRAYS["indices"], _ = share(arena.indices, (n,), np.int32, create=False)
    _ARRAYS["tokens"], _ = share(arena.tokens, (n,), np.int32, create=False)
    _ARRAYS["scale"], _ = share(arena.scale, (GENES,), np.float64, create=False)


def argsort_shared(task: tuple[int, int, str]) -> None:
    """The rival: numpy's argsort of each row's values; the genes go to the shared array."""
    start, stop, kind = task
    data, indices, tokens, scale = (_ARRAYS[name] for name in ("data", "indices", "tokens", "scale"))
    for row in range(start, stop):
        part = slice(row * EXPRESSED, (row + 1) * EXPRESSED)
        genes = indices[part]
        tokens[part] = genes[np.argsort(-(data[part] / scale[genes]), kind=kind)]


def argsort_returned(task: tuple[int, int, str]) -> list[np.ndarray]:
    """The same, the genes of each row returned."""
    start, stop, kind = task
    data, indices, scale = (_ARRAYS[name] for name in ("data", "indices", "scale"))
    rows = []
    for row in range(start, stop):
        part = slice(row * EXPRESSED, (row + 1) * EXPRESSED)
        genes = indices[part]
        rows.append(genes[np.argsort(-(data[part] / scale[genes]), kind=kind)])
    return rows


def simulate(rng: np.random.Generator, mean: np.ndarray, arrays: dict[str, np.ndarray], cells: int) -> None:
    """Write a block of cells: genes detected in proportion to their mean, counts around it."""
    for first in range(0, cells, 250):
        n = min(250, cells - first)
        # the largest of log weight + Gumbel noise: a weighted sample without replacement
        keys = np.log(mean).astype(np.float32) - np.log(rng.exponential(size=(n, GENES)).astype(np.float32))
        genes = np.sort(np.argpartition(keys, GENES - EXPRESSED, axis=1)[:, -EXPRESSED:], axis=1)
        part = slice(first * EXPRESSED, (first + n) * EXPRESSED)
        arrays["indices"][part] = genes.ravel()
        arrays["data"][part] = 1 + rng.poisson(mean[genes.ravel()])


def seconds(work: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


def peak_memory() -> float:
    """MiB of this process at its highest."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1024 if sys.platform != "darwin" else peak / 1024**2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cells", type=int, default=20_000)
    parser.add_argument("--block", type=int, default=2_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    block = options.block
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

    arrays = {}
    arrays["data"], data_name = share("", (block * EXPRESSED,), np.float32, create=True)
    arrays["indices"], indices_name = share("", (block * EXPRESSED,), np.int32, create=True)
    arrays["tokens"], tokens_name = share("", (block * EXPRESSED,), np.int32, create=True)
    arrays["scale"], scale_name = share("", (GENES,), np.float64, create=True)
    _ARRAYS.update(arrays)
    arena = Arena(data_name, indices_name, tokens_name, scale_name, block)
    ends = np.linspace(0, block, cores * 4 + 1).astype(int).tolist()

    def tasks(kind: str) -> list[tuple[int, int, str]]:
        return [(start, stop, kind) for start, stop in pairwise(ends)]

    # started before numba's threads, so that the fork is clean
    with multiprocessing.get_context("fork").Pool(cores, initializer=attach, initargs=(arena,)) as pool:
        import numba

        from sclm.cells import rank_values

        rng = np.random.default_rng(options.seed)
        mean = np.exp(rng.normal(0.0, 1.2, GENES))
        arrays["scale"][:] = (1 + mean) * np.exp(rng.normal(0.0, 0.3, GENES))
        indptr = np.arange(block + 1) * EXPRESSED

        def ours(threads: int, max_length: int | None = None, scaled: bool = True) -> Any:
            numba.set_num_threads(threads)
            counts = sp.csr_matrix((block, GENES), dtype=np.float32)
            counts.data, counts.indices, counts.indptr = arrays["data"], arrays["indices"], indptr
            return rank_values(counts, arrays["scale"] if scaled else None, max_length=max_length)

        methods: dict[str, Callable[[], Any]] = {
            "all: numpy stable, returned": lambda: pool.map(argsort_returned, tasks("stable"), chunksize=1),
            "all: numpy stable, shared": lambda: pool.map(argsort_shared, tasks("stable"), chunksize=1),
            "all: numpy quick, returned": lambda: pool.map(argsort_returned, tasks("quicksort"), chunksize=1),
            "all: numpy quick, shared": lambda: pool.map(argsort_shared, tasks("quicksort"), chunksize=1),
            "all: ours": lambda: ours(cores),
            "all: ours, max_length=1000": lambda: ours(cores, 1000),
            "one: numpy stable": lambda: argsort_shared((0, block, "stable")),
            "one: numpy quick": lambda: argsort_shared((0, block, "quicksort")),
            "one: ours": lambda: ours(1),
            "one: ours, max_length=1000": lambda: ours(1, 1000),
        }
        simulate(rng, mean, arrays, block)
        for work in methods.values():  # compile, start, touch the memory
            work()
        before = peak_memory()
        took: dict[str, list[float]] = {name: [] for name in methods}
        equal = 0
        for _ in range(max(1, options.cells // block)):
            simulate(rng, mean, arrays, block)
            for name, work in methods.items():
                elapsed, result = seconds(work)
                took[name].append(elapsed)
                if name == "all: ours":
                    equal += check(result, arrays)
                del result
        after = peak_memory()

    rows = {name: np.array(times) for name, times in took.items()}
    print(f"rank-value encoding, {options.cells:,} cells x {GENES:,} genes, {EXPRESSED:,} expressed, per-gene scale")
    print(f"all = {cores} cores, one = one core; {equal:,} cells compared with numpy.lexsort: equal\n")
    print(f"{'cores: method':<32}{'cells/s':>12}{'ours is faster by':>20}")
    for name, times in rows.items():
        ratio = np.median(times / rows["all: ours" if name.startswith("all") else "one: ours"])
        faster = f"{ratio:.1f}" if "numpy" in name else ""
        print(f"{name:<32}{block / np.median(times):>12,.0f}{faster:>20}")
    print(f"\npeak memory: {after:,.0f} MiB, of it {after - before:,.0f} MiB after the first block of {block:,} cells")
    for array in list(_ARRAYS):
        del _ARRAYS[array]
    arrays.clear()
    for memory in _MEMORY:
        memory.unlink()


def check(result: Any, arrays: dict[str, np.ndarray]) -> int:
    compared = range(0, len(result), 97)
    for row in compared:
        part = slice(row * EXPRESSED, (row + 1) * EXPRESSED)
        genes = arrays["indices"][part]
        values = arrays["data"][part] / arrays["scale"][genes]
        if not np.array_equal(result[row], genes[np.lexsort((genes, -values))]):
            msg = f"cell {row} differs from numpy.lexsort"
            raise ValueError(msg)
    return len(compared)


if __name__ == "__main__":
    main()
