"""Personalised PageRank over all pairs of an ontology: sclm beside networkx.

    python benchmarks/ontology.py [--seeds 100] [--skip-large]

Prints one table. networkx runs `pagerank` once a seed at its default tolerance, on a sample of seeds, and its time is
scaled to all of them; the error of both is against networkx at tolerance 1e-12. The large part asks for the 256 largest
entries of every row of UBERON where its file is at hand, and of a made-up ontology of 17,000 terms, and prints the peak
memory of the process that did it.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

ALPHA = 0.9
# A folder that may hold the ontology files of the registry; only read.
REAL_DATA = Path(os.environ.get("SCLM_REAL_DATA", Path(__file__).parents[2] / "shared" / "data"))


def best_of(times: int, function):
    """The function's result and its least wall time in seconds."""
    taken, result = [], None
    for _ in range(times):
        start = time.perf_counter()
        result = function()
        taken.append(time.perf_counter() - start)
    return result, min(taken), taken[0]


def fresh(ontology):
    """The same ontology with nothing worked out yet."""
    from sclm.knowledge.graph import TermGraph

    return TermGraph(ontology.graph.parents, ontology.ids)


def all_pairs(graph) -> np.ndarray:
    """All of it, from the parent lists to the (n, n) matrix."""
    from sclm.knowledge.pagerank import solver

    return solver(graph, ALPHA).rows(np.arange(graph.n))


def compare(n_seeds: int) -> None:
    """The Cell Ontology, all pairs."""
    import networkx as nx

    from sclm.knowledge import Ontology

    start = time.perf_counter()
    cl = Ontology.load("cl")
    loaded = time.perf_counter() - start
    n = len(cl)
    edges = nx.Graph()
    edges.add_nodes_from(range(n))
    edges.add_edges_from((child, parent) for child, above in enumerate(cl.graph.parents) for parent in above)

    ours, seconds, first = best_of(3, lambda: all_pairs(fresh(cl)))
    _, similarity_seconds, _ = best_of(3, lambda: cl.similarity_matrix(kind="pagerank"))

    seeds = np.sort(np.random.default_rng(0).choice(n, size=min(n_seeds, n), replace=False))
    nx.pagerank(edges, ALPHA, personalization={0: 1.0})  # warm
    start = time.perf_counter()
    default = [nx.pagerank(edges, ALPHA, personalization={int(seed): 1.0}) for seed in seeds]
    a_seed = (time.perf_counter() - start) / len(seeds)

    checked = seeds[:: max(1, len(seeds) // 20)]
    error_ours, error_default = 0.0, 0.0
    for seed in checked:
        exact = nx.pagerank(edges, ALPHA, personalization={int(seed): 1.0}, tol=1e-12, max_iter=5000)
        exact = np.array([exact[j] for j in range(n)])
        there = default[int(np.flatnonzero(seeds == seed)[0])]
        error_ours = max(error_ours, np.abs(ours[seed] - exact).max())
        error_default = max(error_default, np.abs(np.array([there[j] for j in range(n)]) - exact).max())

    print(f"Cell Ontology {cl.version}: {n:,} terms, loaded in {loaded:.2f} s")
    print(f"{'all pairs of personalised PageRank, alpha 0.9':<58}{'seconds':>9}{'ratio':>8}{'max error':>11}")
    nx_line = f"networkx {nx.__version__} pagerank per seed, tol 1e-6"
    print(f"{nx_line:<58}{a_seed * n:>9.1f}{1:>8}{error_default:>11.1e}")
    print(f"{'sclm, exact, best of 3':<58}{seconds:>9.2f}{a_seed * n / seconds:>8.0f}{error_ours:>11.1e}")
    print(f"{'sclm, exact, first call':<58}{first:>9.2f}{a_seed * n / first:>8.0f}{error_ours:>11.1e}")
    print(f"{'sclm, the similarity matrix (scaled), solver kept':<58}{similarity_seconds:>9.2f}")
    print(
        f"networkx: {len(seeds)} seeds timed ({a_seed * 1e3:.1f} ms each), scaled to {n:,}; errors on {len(checked)} seeds"
    )
    for text, passed in (
        ("at least 10 times faster, first call included", a_seed * n >= 10 * max(seconds, first)),
        ("equal to networkx at 1e-12 within 1e-6", error_ours <= 1e-6),
        ("under 1.5 s, first call included", first < 1.5),
    ):
        print(f"  {'yes' if passed else 'NO ':<4}{text}")


def made_up(n: int):
    """A random acyclic ontology: each term under one to three earlier ones, those met early preferred."""
    from sclm.knowledge.graph import TermGraph

    rng = np.random.default_rng(0)
    parents = [[]]
    for term in range(1, n):
        many = 1 + rng.binomial(2, 0.25)
        parents.append(sorted({int(term * rng.random() ** 1.5) for _ in range(many)}))
    return TermGraph(parents, [str(i) for i in range(n)])


def peak() -> float:
    """Most memory that this process has held, in MB."""
    status = Path("/proc/self/status")
    if status.exists():  # Linux hands a parent's ru_maxrss down to its children, but not this
        return int(status.read_text().split("VmHWM:")[1].split()[0]) / (1 << 10)
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / (1 << 20 if platform.system() == "Darwin" else 1 << 10)


def large(which: str) -> None:
    """Top rows of one large ontology; runs in a process of its own, for its peak memory."""
    from sclm.knowledge import pagerank

    if which == "uberon":
        from sclm.knowledge import Ontology

        graph = Ontology.load("uberon").graph
    else:
        graph = made_up(17_000)
    before = peak()
    start = time.perf_counter()
    walk = pagerank.solver(graph, ALPHA)
    rows = pagerank.top_rows(graph, walk, np.arange(graph.n), ALPHA, 256)
    seconds = time.perf_counter() - start
    most = peak()
    # a few rows against push, which shares nothing with the solver but the graph
    some = np.arange(0, graph.n, graph.n // 5)
    pushed = pagerank.pushed_rows(graph, some, ALPHA, 1e-8)
    kept = rows[some].toarray()
    error = np.abs(np.where(kept > 0, kept - pushed, 0)).max()
    core = graph.n - int(pagerank.independent_set(graph.undirected).sum())
    print(
        f"{which:<14}{graph.n:>8,}{core:>8,}{seconds:>9.1f}{most:>12,.0f}{before:>12,.0f}"
        f"{graph.n**2 * 8 / (1 << 20):>14,.0f}{error:>11.1e}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=100, help="seeds to time networkx on (default 100)")
    parser.add_argument("--skip-large", action="store_true", help="leave out the ontologies beyond 10,000 terms")
    parser.add_argument("--large", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.large:
        large(given.large)
        return
    print(f"Python {platform.python_version()}, numpy {np.__version__}, {os.cpu_count()} cores")
    compare(given.seeds)
    if given.skip_large:
        return
    print("\ncore: terms left for the dense inverse (at most 8,000, else forward push); before: memory before the call")
    print("beyond 10,000 terms: the 256 largest entries of every row")
    print(
        f"{'ontology':<14}{'terms':>8}{'core':>8}{'seconds':>9}{'peak MB':>12}{'before MB':>12}{'full n2 MB':>14}{'max error':>11}"
    )
    names = ["made up"]
    environment = dict(os.environ)
    if "SCLM_DATA_DIR" in environment or (REAL_DATA / "ontology").is_dir():
        environment.setdefault("SCLM_DATA_DIR", str(REAL_DATA))
        names.insert(0, "uberon")
    sys.stdout.flush()
    for name in names:
        subprocess.run([sys.executable, __file__, "--large", name], check=True, env=environment)


if __name__ == "__main__":
    main()
