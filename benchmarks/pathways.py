"""AUCell over many cells: this package beside decoupler, on the same matrix in one run.

    python benchmarks/pathways.py [--cells 10000] [--genes 5000] [--sets 50] [--peer-cells 1000]

Cells are random counts with gene means from a gamma distribution; sets have 20 to 200 genes. Each way runs once before it is timed, on
few cells, so that compiled code is there. decoupler is timed on ``--peer-cells`` of the cells and its time multiplied (it goes cell by
cell); pass ``--peer-cells 10000`` to time all of them. Times are seconds of the processor, all threads together: the machine may be
shared. Agreement is measured on cells whose equal counts were told apart by a small
random number: where counts are equal, decoupler takes the order of the columns, and this package a seeded one.
"""

from __future__ import annotations

import argparse
import platform
import time

import numba
import numpy as np
import pandas as pd
from scipy import sparse

from sclm.evidence import SetBackground, aucell
from sclm.evidence.aucell import n_top_genes


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=10_000)
    parser.add_argument("--genes", type=int, default=5_000)
    parser.add_argument("--sets", type=int, default=50)
    parser.add_argument("--peer-cells", type=int, default=1_000)
    args = parser.parse_args()
    import decoupler as dc

    rng = np.random.default_rng(0)
    rate = rng.gamma(0.3, 1.2, size=args.genes)
    counts = sparse.csr_matrix(rng.poisson(rate * rng.gamma(4, 0.25, size=(args.cells, 1))).astype(np.float32))
    members = np.zeros((args.genes, args.sets), np.float32)
    for s in range(args.sets):
        members[rng.choice(args.genes, rng.integers(20, 201), replace=False), s] = 1
    members = sparse.csr_matrix(members)
    genes, names = [f"g{i}" for i in range(args.genes)], [f"s{i}" for i in range(args.sets)]
    gene, of = members.nonzero()
    net = pd.DataFrame({"source": [names[s] for s in of], "target": [genes[g] for g in gene], "weight": 1.0})
    n_top = n_top_genes(args.genes)

    def timed(call: object) -> tuple[float, object]:
        start = time.process_time()
        found = call()  # type: ignore[operator]
        return time.process_time() - start, found

    def peer(values: sparse.csr_matrix) -> pd.DataFrame:
        import anndata as ad

        data = ad.AnnData(values, var=pd.DataFrame(index=genes))
        dc.mt.aucell(data, net, tmin=1, n_up=n_top)
        return data.obsm["score_aucell"][names]

    def with_null() -> object:
        ranks = background.ranks(counts)
        return background.cells(ranks)

    peer(counts[:20])
    aucell(counts[:20], members)
    background = SetBackground(np.zeros(args.genes), members, n_top)
    seconds = {}
    seconds["sclm, scores"], _ = timed(lambda: aucell(counts, members))
    seconds["sclm, scores, p and q"], _ = timed(with_null)
    few, _ = timed(lambda: peer(counts[: args.peer_cells]))
    seconds["decoupler, scores"] = few * args.cells / args.peer_cells
    again, _ = timed(lambda: aucell(counts, members))  # before and after
    seconds["sclm, scores (again)"] = again

    apart = counts[:300].copy()
    apart.data = apart.data + rng.random(apart.nnz).astype(np.float32) / 2
    enough = np.diff(apart.indptr) >= n_top
    shown = sparse.diags(
        (np.asarray(apart.sum(axis=0)).ravel() > 0).astype(np.float32)
    )  # decoupler leaves other genes out
    difference = np.abs(aucell(apart, (shown @ members).tocsr()) - peer(apart).to_numpy())[enough].max()

    print(
        f"{args.cells:,} cells x {args.genes:,} genes x {args.sets} sets, {counts.nnz / args.cells:,.0f} genes expressed a cell"
    )
    print(f"{platform.processor() or platform.machine()}, {numba.get_num_threads()} threads")
    slow = seconds["decoupler, scores"]
    table = pd.DataFrame({"CPU seconds": seconds, "times faster": {k: slow / v for k, v in seconds.items()}}).round(2)
    print(table.to_string())
    print(f"largest difference of a score, {int(enough.sum())} cells without equal counts: {difference:.1e}")


if __name__ == "__main__":
    main()
