"""Knowledge graphs: how long they take to build, keep and encode, and how much memory.

    SCLM_REAL_DATA=... python benchmarks/knowledge_graph.py [--skip-encode]

Three graphs: the default one, one from all files of the registry (where they are at hand), and a made-up one of 62,507 nodes
and 1,000,000 edges. Every line is a process of its own, so that its peak memory is its own.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd

REAL_DATA = Path(os.environ.get("SCLM_REAL_DATA", Path(__file__).parents[2] / "shared" / "data"))
N_NODES, N_EDGES = 62_507, 1_000_000


def synthetic():
    """A graph of exactly the size that the literature states, from tables and an ontology in memory."""
    from sclm.knowledge import GeneIdentifiers, GeneSets, KnowledgeGraph, Ontology, Pairs, Terms

    rng = np.random.default_rng(0)
    identifiers = GeneIdentifiers.load("human")
    symbols = np.array(sorted(identifiers._symbols), dtype=object)
    cl = Ontology.load("cl")
    genes = rng.permutation(symbols)
    n_sets = N_NODES - len(cl) - len(genes)
    in_ontology = sum(len(cl.parents(term)) for term in cl.ids)
    n_interactions, n_regulations, n_markers = 400_000, 300_000, 50_000
    n_members = N_EDGES - in_ontology - n_interactions - n_regulations - n_markers

    def pairs(n: int, others: np.ndarray, symmetric: bool = False) -> pd.DataFrame:
        """Exactly n different pairs, in which each of the others is at least once."""
        a, b = rng.integers(0, len(genes), 2 * n), rng.integers(0, len(others), 2 * n)
        b[: len(others)] = np.arange(len(others))
        keep = (a != b) if others is genes else np.ones(len(a), dtype=bool)
        a, b = a[keep], b[keep]
        key = np.minimum(a, b) * len(genes) + np.maximum(a, b) if symmetric else a * len(others) + b
        _, first = np.unique(key, return_index=True)
        first = np.sort(first)[:n]
        return pd.DataFrame({"a": genes[a[first]], "b": others[b[first]]})

    tables = {
        "gene-interacts-gene": pairs(n_interactions, genes, symmetric=True),
        "gene-regulates-gene": pairs(n_regulations, genes),
        "gene-marks-cell_type": pairs(n_markers, np.array(cl.ids, dtype=object)),
    }
    members = pairs(n_members, np.array([f"set {i}" for i in range(n_sets)], dtype=object))
    sets = {key: part.tolist() for key, part in members.groupby("b")["a"]}
    start = time.perf_counter()
    graph = KnowledgeGraph.build(
        Terms("cl", "cell_type"),
        GeneSets(sets),
        *(Pairs(table, relation, name=relation) for relation, table in tables.items()),
    )
    return graph, time.perf_counter() - start


def real():
    """All that the registry names, and DoRothEA."""
    from sclm.knowledge import KnowledgeGraph, Pairs, graph_sources_available

    os.environ["SCLM_DATA_DIR"] = str(REAL_DATA)
    names = [name for name in graph_sources_available()["name"] if name != "default"]
    dorothea = Pairs(REAL_DATA / "kg" / "dorothea_hs.csv.gz", "gene-regulates-gene", columns=("tf", "target"))
    start = time.perf_counter()
    graph = KnowledgeGraph.build(*names, dorothea)
    return graph, time.perf_counter() - start


def default():
    from sclm.knowledge import KnowledgeGraph

    start = time.perf_counter()
    graph = KnowledgeGraph.default()
    return graph, time.perf_counter() - start


GRAPHS = {"default": default, "real": real, "synthetic": synthetic}


def timed(function, times: int = 1):
    """The function's result, its least wall time and its least processor time in seconds."""
    walls, processor, result = [], [], None
    for _ in range(times):
        start, used = time.perf_counter(), time.process_time()
        result = function()
        walls.append(time.perf_counter() - start)
        processor.append(time.process_time() - used)
    return result, min(walls), min(processor)


def peak() -> float:
    """Peak memory of this process in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(name: str, encode: bool) -> None:
    """One graph, one line a step."""
    graph, built = GRAPHS[name]()
    print(f"{name:<10} build            {built:7.2f} s   peak {peak():7.0f} MB   {graph!r}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        _, saved, _ = timed(lambda: graph.save(Path(folder) / "graph"))
        _, loaded, _ = timed(lambda: type(graph).load(Path(folder) / "graph"))
        size = sum(p.stat().st_size for p in (Path(folder) / "graph").iterdir()) / 1e6
    print(f"{name:<10} save, load       {saved:7.2f} s, {loaded:.2f} s, {size:.1f} MB on disk", flush=True)
    if encode:
        encode_graph(name, graph)


def encode_graph(name: str, graph) -> None:
    """Text features, forward and backward passes of the encoder."""
    import torch

    from sclm.models.celltosg.graph_encoder import GraphEncoder, GraphEncoderConfig, graph_tensors

    torch.set_num_threads(1)  # on a shared machine threads that wait for each other measure the others
    tensors, wall, used = timed(lambda: graph_tensors(graph))
    print(f"{name:<10} text features    {wall:7.2f} s ({used:.2f} s of processor)   peak {peak():7.0f} MB", flush=True)
    for width in (64, 256):
        encoder = GraphEncoder(tensors, GraphEncoderConfig(width=width), seed=0)
        encoder.eval()
        with torch.no_grad():
            _, forward, forward_used = timed(encoder.uncached, 4)
            encoder()
            _, cached, _ = timed(encoder, 4)
        encoder.train()

        def step(encoder=encoder) -> None:
            encoder().square().mean().backward()

        _, both, both_used = timed(step, 4)
        print(
            f"{name:<10} encoder d={width:<4}   forward {forward:.2f} s ({forward_used:.2f} s of processor), cached "
            f"{1e6 * cached:.0f} µs, forward and backward {both:.2f} s ({both_used:.2f} s)   peak {peak():7.0f} MB",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--graph", choices=GRAPHS, help="this graph only, in this process")
    parser.add_argument("--skip-encode", action="store_true")
    given = parser.parse_args()
    if given.graph:
        measure(given.graph, not given.skip_encode)
        return
    print(
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}",
        flush=True,
    )
    for name in GRAPHS:
        if name == "real" and not REAL_DATA.is_dir():
            print("real       skipped: set SCLM_REAL_DATA to a folder with the files of the registry")
            continue
        command = [sys.executable, __file__, "--graph", name, *(["--skip-encode"] if given.skip_encode else [])]
        subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
