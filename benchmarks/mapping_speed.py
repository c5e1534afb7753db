"""Section `speed` of mapping.py: time and memory of ours beside peers on simulated counts, in one run.

Sizes are those of a Visium section (1,000 spots, 2,000 genes, 11 types), of large ones, and of an imaged one (300 genes, one
cell each). All methods see the same genes. Times are after compilation; peak memory is what the process held above the section
and the reference while it mapped (Linux counts it).
"""

from __future__ import annotations

import multiprocessing
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from generation_data import Clock, show
from mapping_peers import PEERS, Q_FILE, q_matrices, tangram_clusters
from mapping_rows import OURS, Rows, mapped, one_thread
from mapping_sets import MappingSet

if TYPE_CHECKING:
    import argparse

N_GENES, N_TYPES, CELLS_A_TYPE = 2000, 11, 60
REPEATS = 3  # of ours; the fastest counts
PEAK_SPOTS = 20_000
ROWS = (OURS, "sclm:method=nnls", "FlashDeconv", "TACCO", "RCTD full", "Tangram clusters")


def simulated(n_spots: int, *, n_genes: int = N_GENES, n_types: int = N_TYPES, cells_per_spot: float, median: float):
    """A set of simulated cells: log-normal profiles with marker genes; a section of at most 5,000 spots, then repeated."""
    import anndata
    import scipy.sparse as sp

    import sclm

    rng = np.random.default_rng(0)
    share = np.exp(rng.normal(0, 1.2, n_genes)) * np.exp(0.8 * rng.standard_normal((n_types, n_genes)))
    share /= share.sum(axis=1, keepdims=True)
    code = np.arange(2 * CELLS_A_TYPE * n_types) % n_types
    counts = rng.poisson(share[code] * rng.lognormal(np.log(2500), 0.3, (len(code), 1)))
    types = [f"type {k + 1:02d}" for k in range(n_types)]
    obs = pd.DataFrame({"cell_type": np.array(types)[code]}, index=[f"cell_{i}" for i in range(len(code))])
    cells = anndata.AnnData(sp.csr_matrix(counts, dtype=np.float32), obs=obs)
    cells.var_names = [f"gene_{i}" for i in range(n_genes)]
    reference, spots = cells[: len(code) // 2].copy(), cells[len(code) // 2 :].copy()
    small = sclm.datasets.simulate_section(
        spots, "cell_type", n_spots=min(n_spots, 5000), cells_per_spot=cells_per_spot, umi_per_spot=median, seed=0
    )
    rows = np.resize(np.arange(small.n_obs), n_spots)
    index = [f"spot_{i}" for i in range(n_spots)]
    section = anndata.AnnData(small.X[rows].astype(np.float32), obs=pd.DataFrame(index=index), var=small.var[[]])
    shift = 1e5 * (np.arange(n_spots) // small.n_obs)
    section.obsm["spatial"] = small.obsm["spatial"][rows] + shift[:, None] * np.array([1.0, 0.0])
    truth = pd.DataFrame(small.obsm["fraction"][rows], index=index, columns=small.uns["simulation"]["categories"])
    resolution = "cell" if cells_per_spot == 1 else "spot"
    return MappingSet("simulated", section, reference, "cell_type", truth, resolution, False)


def beside_peers(args: argparse.Namespace) -> None:
    given = simulated(1000, cells_per_spot=8.0, median=5000.0)
    asked = [row for row in ROWS if row.partition(":")[0] == OURS or row in args.rows]
    rows, lines, ours = Rows(), [], None
    if "RCTD full" in asked:
        _tables_of_rctd()
    for row in asked:
        peer = PEERS.get(row)
        if row == "Tangram clusters":  # its markers would be fewer genes than the others see
            PEERS[row] = lambda g: tangram_clusters(g, markers=None)
        try:
            n = REPEATS if row.partition(":")[0] == OURS else 1
            answers = [rows.answer(row, given, 0) for _ in range(n)]
        finally:
            if peer is not None:
                PEERS[row] = peer
        if answers[0] is None:
            lines.append({"row": row, "CPU s": "not installed", "wall s": "", "times ours": ""})
            continue
        best = min(answers, key=lambda a: a.cpu)
        ours = best.cpu if row == OURS else ours
        lines.append(
            {"row": row, "CPU s": f"{best.cpu:.2f}", "wall s": f"{best.wall:.2f}",
             "times ours": f"{best.cpu / ours:.1f}"}
        )  # fmt: skip
    show(f"1,000 spots × {N_GENES:,} genes × {N_TYPES} types, one thread", pd.DataFrame(lines))


def _tables_of_rctd() -> None:
    """Its likelihood tables, so that making them is not timed."""
    try:
        q_matrices(Q_FILE)
    except ModuleNotFoundError:
        return


def growth(args: argparse.Namespace) -> None:
    lines = []
    mapped(simulated(50, cells_per_spot=8.0, median=5000.0))
    for n in args.spots:
        given = simulated(n, cells_per_spot=8.0, median=5000.0)
        clock = Clock.start()
        mapped(given)
        took = clock.stop()
        lines.append(
            {"spots": f"{n:,}", "CPU s": f"{took.cpu:.1f}", "wall s": f"{took.wall:.1f}",
             "ms a spot": f"{1e3 * took.cpu / n:.2f}"}
        )  # fmt: skip
        del given
    show(f"More spots, {N_GENES:,} genes × {N_TYPES} types, one thread", pd.DataFrame(lines))


def imaged(args: argparse.Namespace) -> None:
    options: dict[str, Any] = {"n_genes": 300, "cells_per_spot": 1.0, "median": 100.0}
    mapped(simulated(200, **options))
    given = simulated(args.n_cells, **options)
    clock = Clock.start()
    mapped(given)
    took = clock.stop()
    show(
        f"{args.n_cells:,} cells × 300 genes × {N_TYPES} types, single-cell resolution, one thread",
        pd.DataFrame([{"CPU s": f"{took.cpu:.1f}", "wall s": f"{took.wall:.1f}"}]),
    )


def _status(name: str) -> float:
    """A line of /proc/self/status in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) / 1024 for line in lines if line.startswith(name))


def _peak(folder: str, row: str, out: Any) -> None:
    """Run in a process of its own: memory above what it held before it mapped."""
    import anndata

    import sclm

    one_thread()
    section, reference = (anndata.read_h5ad(Path(folder) / f"{name}.h5ad") for name in ("section", "reference"))
    types = pd.Index(sorted(reference.obs["cell_type"].unique()))
    truth = pd.DataFrame(1.0 / len(types), index=section.obs_names, columns=types)
    given = MappingSet("simulated", section, reference, "cell_type", truth, "spot", False)
    few = given._replace(section=section[:50].copy(), truth=truth.iloc[:50])
    rows = Rows()
    if rows.answer(row, few, 0) is None:
        out.put(None)
        return
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = _status("VmRSS")
    if row == OURS:  # in place: a copy of the section is not the method's
        sclm.tl.map_spatial(section, reference, label_key="cell_type", resolution="spot", key_added="mapped")
    else:
        rows.answer(row, given, 0)
    out.put((before, _status("VmHWM") - before))


def memory(args: argparse.Namespace) -> None:
    if not Path("/proc/self/clear_refs").exists():
        print("\nPeak memory: counted on Linux only")
        return
    given, lines = simulated(PEAK_SPOTS, cells_per_spot=8.0, median=5000.0), []
    with tempfile.TemporaryDirectory() as folder:
        given.section.write_h5ad(Path(folder) / "section.h5ad")
        given.reference.write_h5ad(Path(folder) / "reference.h5ad")
        counts = given.section.X.data.nbytes + given.section.X.indices.nbytes
        context = multiprocessing.get_context("spawn")
        for row in [r for r in (OURS, "FlashDeconv", "TACCO") if r == OURS or r in args.rows]:
            queue = context.Queue()
            process = context.Process(target=_peak, args=(folder, row, queue))
            process.start()
            process.join()
            found = queue.get(timeout=10) if process.exitcode == 0 else None
            said = "not installed" if found is None else f"{found[1]:.0f}"
            lines.append({"row": row, "MB above the start": said})
    show(f"Peak memory, {PEAK_SPOTS:,} spots × {N_GENES:,} genes (counts {counts / 2**20:.0f} MB)", pd.DataFrame(lines))


def run(args: argparse.Namespace) -> None:
    beside_peers(args)
    growth(args)
    imaged(args)
    memory(args)
