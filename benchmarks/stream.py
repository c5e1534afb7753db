"""Training and annotating from a file on disk: cells per second and peak memory, beside celltypist in memory.

Simulated cells (12 types, 2,000 genes, about 230 expressed) in a CSR h5ad. Each job runs in a process of its own, so that its
peak memory is its own. Ours reads the file block by block (``backed="r"``); *streamed* keeps no block in memory between the
passes of the optimiser. celltypist has no backed mode: it gets the same cells in memory, log-normalised.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np

GENES = 2_000
TYPES = (
    "B cell", "T cell", "monocyte", "natural killer cell", "dendritic cell", "platelet",
    "erythrocyte", "neutrophil", "basophil", "eosinophil", "mast cell", "plasma cell",
)  # fmt: skip
JOBS = ("open", "ours: train", "ours: train, streamed", "ours: annotate", "celltypist: train", "celltypist: annotate")


def simulate(path: Path, n_cells: int) -> None:
    """Write Poisson cells of 12 types."""
    import anndata
    import pandas as pd
    from scipy import sparse

    rng = np.random.default_rng(0)
    profiles = rng.gamma(0.3, 1.0, size=(len(TYPES), GENES)) * 0.5
    codes = rng.integers(0, len(TYPES), n_cells)
    blocks = [
        sparse.csr_matrix(rng.poisson(profiles[codes[i : i + 5000]]).astype(np.float32))
        for i in range(0, n_cells, 5000)
    ]
    obs = pd.DataFrame({"cell_type": pd.Categorical(np.array(TYPES)[codes])}, index=[f"c{i}" for i in range(n_cells)])
    var = pd.DataFrame(index=[f"GENE{i}" for i in range(GENES)])
    anndata.AnnData(sparse.vstack(blocks, format="csr"), obs=obs, var=var).write_h5ad(path)


def work(job: str, file: Path, folder: Path) -> dict[str, float]:
    """Do one job; seconds without imports, and the peak memory of this process in MiB."""
    import anndata

    import sclm

    warnings.simplefilter("ignore")
    os.environ["TQDM_DISABLE"] = "1"
    adata = anndata.read_h5ad(file, backed="r")
    if job.startswith("celltypist"):
        import celltypist
        import scanpy as sc
        from annotate import celltypist_train

        adata = adata.to_memory()
        sc.pp.normalize_total(adata, target_sum=1e4)
        sc.pp.log1p(adata)
    start = time.perf_counter()
    if job == "ours: train, streamed":
        from sclm.models import reference_cells as data

        data._CACHED_ENTRIES = 0
    if job.startswith("ours: train"):
        sclm.train("logistic", adata, label_key="cell_type").save(folder / "sclm", overwrite=True)
    elif job == "ours: annotate":
        sclm.tl.annotate(adata, folder / "sclm")
    elif job == "celltypist: train":
        celltypist_train(adata).write(str(folder / "celltypist.pkl"))
    elif job == "celltypist: annotate":
        celltypist.annotate(adata, model=str(folder / "celltypist.pkl"))
    return {
        "seconds": time.perf_counter() - start,
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def main() -> None:
    """Run every job in its own process and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--cells", type=int, default=50_000)
    parser.add_argument("--job", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.job:
        print(json.dumps(work(args.job, args.folder / "cells.h5ad", args.folder)))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        simulate(folder / "cells.h5ad", args.cells)
        size = (folder / "cells.h5ad").stat().st_size / 2**20
        print(f"{args.cells:,} cells x {GENES:,} genes, {size:,.0f} MiB on disk\n")
        print(f"{'job':24}{'seconds':>9}{'cells/s':>11}{'peak MiB':>11}{'over open':>11}")
        base = 0.0
        for job in JOBS:
            command = [sys.executable, __file__, "--job", job, "--folder", name]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                print(f"{job:24}failed: {done.stderr.strip().splitlines()[-1]}")
                continue
            result = json.loads(done.stdout.splitlines()[-1])
            base = base or result["peak"]
            speed = "" if job == "open" else f"{args.cells / result['seconds']:,.0f}"
            print(
                f"{job:24}{result['seconds']:>9.1f}{speed:>11}{result['peak']:>11,.0f}{result['peak'] - base:>11,.0f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
