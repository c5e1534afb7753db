"""What a large corpus costs on one core: bytes on disk a cell, cells a second read in random order, trained on and embedded.

Synthetic cells of 20,000 genes with 1,000 non-zeros each (small counts, as in ``benchmarks/atlas.py``). *Read* goes through
``CellDataModule`` in a shuffled order (stretches of 128 rows, buffers of 4,096 cells) and does nothing with the counts but sum them.
*Train* and *embed* run networks of the published sizes with random weights, whose speed does not depend on the weights: seconds of the
processor, one thread, of one step with many cells less those of one with few, so that what is done once does not count.

    python benchmarks/planning.py [--cells 20000] [--parts disk networks]
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

GENES, NONZERO = 20_000, 1_000
SIZES = {  # family, preset, cells in a small and in a large step
    "scGPT, whole-human": ("scgpt", {"preset": "whole-human"}, 2, 6),
    "Geneformer V1-10M": ("geneformer", {"preset": "V1-10M", "version": "V1"}, 2, 10),
    "scGPT small": ("scgpt", {"preset": "small"}, 4, 24),
    "Geneformer small": ("geneformer", {"preset": "small"}, 4, 24),
}


def simulate(n_cells: int, seed: int = 0) -> Any:
    """Cells with 1,000 distinct genes each, in sorted columns, and small counts."""
    import anndata
    import pandas as pd
    from scipy import sparse

    rng = np.random.default_rng(seed)
    step = GENES // NONZERO
    indices = (np.arange(NONZERO) * step + rng.integers(0, step, (n_cells, NONZERO))).astype(np.int32)
    data = (rng.geometric(0.45, indices.shape)).astype(np.float32)
    counts = sparse.csr_matrix(
        (data.ravel(), indices.ravel(), np.arange(0, indices.size + 1, NONZERO)), shape=(n_cells, GENES)
    )
    obs = pd.DataFrame(
        {"cell_type": pd.Categorical(rng.choice(list("abcdefgh"), n_cells))}, index=[f"c{i}" for i in range(n_cells)]
    )
    return anndata.AnnData(counts, obs=obs, var=pd.DataFrame(index=[f"GENE{i}" for i in range(GENES)]))


class Sums(NamedTuple):
    totals: Any


def size(path: Path) -> int:
    return sum(p.stat().st_size for p in path.rglob("*") if p.is_file()) if path.is_dir() else path.stat().st_size


def disk(n_cells: int) -> None:
    import torch

    from sclm.cells import JoinedSource, open_cells, read_cells
    from sclm.training import CellDataModule

    adata = simulate(n_cells)

    def read(parts: list[Any]) -> float:
        sources = [read_cells(part, obs_keys=["cell_type"]) for part in parts]
        data = CellDataModule(
            JoinedSource(sources), lambda cells, _: Sums(torch.from_numpy(np.asarray(cells.counts.sum(axis=1)))), validation=0,
            batch_size=64, chunk_size=128, workers=1,
        )  # fmt: skip
        start = time.perf_counter()
        n = sum(len(batch.totals) for batch in data.train_dataloader())
        return n / (time.perf_counter() - start)

    print(f"{'store':<34}{'bytes/cell':>12}{'cells/s read':>14}")
    print(f"{'in memory':<34}{NONZERO * 8:>12,}{read([adata]):>14,.0f}")
    with tempfile.TemporaryDirectory() as folder:
        for name, ending, options in (
            ("h5ad, not compressed", "h5ad", {}),
            ("h5ad, lzf", "h5ad", {"compression": "lzf"}),
            ("h5ad, gzip", "h5ad", {"compression": "gzip"}),
            ("zarr, its default compression", "zarr", {}),
        ):
            path = Path(folder) / f"{len(os.listdir(folder))}.{ending}"  # noqa: PTH208
            (adata.write_h5ad if ending == "h5ad" else adata.write_zarr)(path, **options)
            print(f"{name:<34}{size(path) / n_cells:>12,.0f}{read(open_cells(path)):>14,.0f}")
        try:
            from annbatch import DatasetCollection
        except ImportError:
            print("annbatch is not installed (Python 3.12 and newer)")
            return
        path = Path(folder) / "collection.zarr"
        source = Path(folder) / "0.h5ad"
        DatasetCollection(path).add_adatas([source], shuffle=True)
        print(f"{'annbatch collection':<34}{size(path) / n_cells:>12,.0f}{read(open_cells(path)):>14,.0f}")


def networks() -> None:
    import torch

    import sclm
    from sclm.cells import Cells, read_cells

    torch.set_num_threads(1)
    once = {
        "progress_bar": False,
        "accelerator": "cpu",
        "devices": 1,
        "validation_share": 0.0,
        "max_epochs": 1,
        "max_minutes": 0.0,
    }
    adata = simulate(24, seed=1)
    cells = read_cells(adata).read()
    print(f"{'network':<28}{'train, cells/s':>16}{'embed, cells/s':>16}")
    for name, (family, options, few, many) in SIZES.items():
        model: Any = None
        seconds: dict[str, list[float]] = {"train": [], "embed": []}
        for n in (few, many):
            step = {"batch_size": n} if family == "scgpt" else {"max_tokens": n * (NONZERO + 2)}
            start = time.process_time()
            model = sclm.train(family, adata, seed=0, **options, **step, **once)  # one step, then no time is left
            seconds["train"].append(time.process_time() - start)
            part = Cells(cells.counts[:n], cells.genes, cells.obs.iloc[:n])
            start = time.process_time()
            model.embed(part)
            seconds["embed"].append(time.process_time() - start)
        rates = {of: (many - few) / (found[1] - found[0]) for of, found in seconds.items()}
        print(f"{name:<28}{rates['train']:>16.3g}{rates['embed']:>16.3g}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=20_000)
    parser.add_argument("--parts", nargs="+", default=["disk", "networks"], choices=["disk", "networks"])
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    if "disk" in args.parts:
        disk(args.cells)
    if "networks" in args.parts:
        networks()


if __name__ == "__main__":
    main()
