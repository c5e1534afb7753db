"""10,000 cells described by the evidence family, and their groups.

    python benchmarks/describe_speed.py [--cells 10000]

The cells are those of pbmc3k (13,714 genes), drawn with replacement and thinned to nine tenths of their transcripts, so that no two are
equal. Each call starts from the AnnData: it includes learning the levels of genes, the background of 92 gene sets, and the checks. Once
before, 200 cells are described, so that compiled code is there. Seconds by the clock, and seconds of the processor (the machine may be shared).
"""

from __future__ import annotations

import argparse
import os
import platform
import time
from pathlib import Path

import anndata as ad
import numba
import numpy as np
import pandas as pd
from scipy import sparse

import sclm

REAL_DATA = Path(os.environ.get("SCLM_REAL_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=10_000)
    parser.add_argument("--data", type=Path, default=REAL_DATA, help="folder with scrna/pbmc3k.h5ad (SCLM_REAL_DATA)")
    args = parser.parse_args()
    path = args.data / "scrna" / "pbmc3k.h5ad"
    if not path.is_file():
        print(f"No {path}: nothing to measure. Pass --data, or set SCLM_REAL_DATA.")
        return
    real = ad.read_h5ad(path)
    rng = np.random.default_rng(0)
    rows = rng.integers(real.n_obs, size=args.cells)
    counts = sparse.csr_matrix(real.X)[rows]
    counts.data = rng.binomial(counts.data.astype(np.int64), 0.9).astype(np.float32)
    counts.eliminate_zeros()
    obs = pd.DataFrame(
        {"group": real.obs["cell_type"].astype(str).to_numpy()[rows], "tissue": "blood"},
        index=[f"c{i}" for i in range(args.cells)],
    )
    adata = ad.AnnData(counts, obs=obs, var=real.var[[]])
    sclm.tl.describe(adata[:200].copy())
    sclm.tl.describe(adata[:200].copy(), groupby="group")
    found = {}
    for name, options in (("one text a cell", {}), ("one text a group", {"groupby": "group"})):
        clock, used = time.perf_counter(), time.process_time()
        sclm.tl.describe(adata, **options)
        found[name] = {"seconds": time.perf_counter() - clock, "CPU seconds": time.process_time() - used}
    print(
        f"{args.cells:,} cells x {adata.n_vars:,} genes; {platform.processor() or platform.machine()}, {numba.get_num_threads()} threads"
    )
    print(pd.DataFrame(found).T.round(1).to_string())


if __name__ == "__main__":
    main()
