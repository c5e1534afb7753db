"""An atlas on disk: speed and peak memory of tokenising, annotating and embedding, as the number of cells grows.

A synthetic h5ad of cells × 20,000 genes with 1,000 non-zeros a cell is written shard by shard and deleted afterwards; 1,000,000 cells
take about 8 GB, and as much again while a result is written; *scanpy* needs that much memory and more. Each job runs in a process of its own, so that its peak is its own:

* *tokenise*: rank values of every cell (the 500 highest genes), block by block; nothing is written;
* *annotate*: ``sclm annotate`` with a logistic model of 12 types, trained before on 5,000 of the cells;
* *embed*: ``sclm embed`` with a random scGPT of width 32, one layer and 32 tokens: the road of the data, not the speed of a real network;
* *scanpy*: the file read into memory, ``normalize_total`` and ``log1p``; *scanpy, PCA* also 50 principal components.

Annotate and embed write their output as the command line does: a copy of the file with the new columns or vectors.

    python benchmarks/atlas.py --folder /scratch [--cells 100000 300000 1000000] [--jobs tokenise annotate embed scanpy "scanpy, PCA"]
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np

GENES, NONZERO, SHARD = 20_000, 1_000, 10_000
TYPES = (
    "B cell", "T cell", "monocyte", "natural killer cell", "dendritic cell", "platelet",
    "erythrocyte", "neutrophil", "basophil", "eosinophil", "mast cell", "plasma cell",
)  # fmt: skip
JOBS = ("open", "tokenise", "annotate", "embed", "scanpy", "scanpy, PCA")
OUT = "out.h5ad"
LABELLED = 5_000


def simulate(path: Path, n_cells: int, seed: int = 0) -> None:
    """Write cells shard by shard: each has 1,000 genes, those of its type more often, with small counts."""
    import anndata
    import h5py
    import pandas as pd
    from anndata.io import sparse_dataset, write_elem
    from scipy import sparse

    rng = np.random.default_rng(seed)
    codes = rng.integers(0, len(TYPES), n_cells)
    obs = pd.DataFrame(
        {
            "cell_type": pd.Categorical.from_codes(codes, list(TYPES)),
            "donor_id": pd.Categorical.from_codes(rng.integers(0, 40, n_cells), [f"donor {i}" for i in range(40)]),
            "n_counts": rng.poisson(3000, n_cells).astype(np.float32),
        },
        index=[f"cell-{i:09d}" for i in range(n_cells)],
    )
    var = pd.DataFrame(index=[f"GENE{i}" for i in range(GENES)])
    # A gene in each of 1,000 neighbourhoods of 20 genes: sorted, distinct, and drawn without a sort.
    place = np.arange(NONZERO, dtype=np.int32) * (GENES // NONZERO)
    favourite = rng.integers(0, GENES // NONZERO, size=(len(TYPES), NONZERO))
    with h5py.File(path, "w") as file:
        write_elem(file, "/", anndata.AnnData(obs=obs, var=var))
        for first in range(0, n_cells, SHARD):
            n = min(SHARD, n_cells - first)
            drawn = rng.integers(0, GENES // NONZERO, size=(n, NONZERO), dtype=np.int32)
            own = rng.random((n, NONZERO), dtype=np.float32) < 0.2
            drawn[own] = favourite[codes[first : first + n]][own]
            counts = sparse.csr_matrix((n, GENES), dtype=np.float32)
            counts.indices = (place + drawn).astype(np.int32).ravel()
            counts.indptr = np.arange(n + 1, dtype=np.int32) * NONZERO
            counts.data = (1 + rng.geometric(0.5, n * NONZERO)).astype(np.float32)
            if first == 0:
                write_elem(file, "X", counts)
            else:
                sparse_dataset(file["X"]).append(counts)


def models(folder: Path) -> None:
    """A trained logistic model, and a small encoder that was hardly trained."""
    import anndata

    import sclm

    simulate(folder / "labelled.h5ad", LABELLED, seed=0)
    adata = anndata.read_h5ad(folder / "labelled.h5ad")
    sclm.train("logistic", adata, label_key="cell_type").save(folder / "logistic")
    encoder = sclm.train(
        "scgpt", adata[:200].copy(), preset="tiny", width=32, n_heads=2, n_layers=1, feed_forward=64, max_length=32, train_length=16,
        max_epochs=1, progress_bar=False, accelerator="cpu",
    )  # fmt: skip
    encoder.save(folder / "encoder")


def work(job: str, folder: Path) -> dict[str, float]:
    """Do one job; seconds without imports, and the peak memory of this process in MiB."""
    file = folder / "cells.h5ad"
    warnings.simplefilter("ignore")
    if job.startswith("scanpy"):
        import scanpy as sc

        start = time.perf_counter()
        adata = sc.read_h5ad(file)
        sc.pp.normalize_total(adata, target_sum=1e4)
        sc.pp.log1p(adata)
        if job.endswith("PCA"):
            sc.pp.pca(adata, n_comps=50, mask_var=None)
    elif job in ("annotate", "embed"):
        from sclm.calls import run

        start = time.perf_counter()
        run(job, file, folder / OUT, {"model": str(folder / {"annotate": "logistic", "embed": "encoder"}[job])})
    else:
        import anndata

        from sclm.cells import rank_values, read_cells

        start = time.perf_counter()
        source = read_cells(anndata.read_h5ad(file, backed="r"))
        if job == "tokenise":
            for cells in source.blocks():
                rank_values(cells.counts, max_length=500)
    return {
        "seconds": time.perf_counter() - start,
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def main() -> None:
    """Write a store of each size, run every job on it in a process of its own, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--folder", type=Path, required=True, help="where the stores are written and deleted: 17 GB")
    parser.add_argument("--cells", type=int, nargs="+", default=[100_000, 300_000, 1_000_000])
    parser.add_argument("--jobs", nargs="+", default=list(JOBS), choices=JOBS)
    parser.add_argument("--job", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.job == "models":
        models(args.folder)
        return
    if args.job:
        print(json.dumps(work(args.job, args.folder)))
        return
    folder = args.folder / f"sclm-atlas-{os.getpid()}"
    folder.mkdir(parents=True)
    failed = 0
    try:
        subprocess.run([sys.executable, __file__, "--job", "models", "--folder", str(folder)], check=True)
        print(f"{'cells':>10}  {'job':14}{'seconds':>10}{'cells/s':>10}{'peak MiB':>10}", flush=True)
        for n_cells in args.cells:
            start = time.perf_counter()
            simulate(folder / "cells.h5ad", n_cells)
            size = (folder / "cells.h5ad").stat().st_size / 2**30
            print(f"{n_cells:>10,}  written: {size:.1f} GiB in {time.perf_counter() - start:.0f} s", flush=True)
            for job in args.jobs:
                command = [sys.executable, __file__, "--job", job, "--folder", str(folder)]
                done = subprocess.run(command, capture_output=True, text=True, check=False)
                (folder / OUT).unlink(missing_ok=True)
                shutil.rmtree(folder / f"{OUT}.parts", ignore_errors=True)
                if done.returncode:
                    failed += 1
                    why = (done.stderr.strip().splitlines() or [f"ended with {done.returncode}"])[-1]
                    print(f"{n_cells:>10,}  {job:14}failed: {why}", flush=True)
                    continue
                result = json.loads(done.stdout.splitlines()[-1])
                speed = "" if job == "open" else f"{n_cells / result['seconds']:,.0f}"
                print(
                    f"{n_cells:>10,}  {job:14}{result['seconds']:>10.1f}{speed:>10}{result['peak']:>10,.0f}", flush=True
                )
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    sys.exit(min(failed, 1))


if __name__ == "__main__":
    main()
