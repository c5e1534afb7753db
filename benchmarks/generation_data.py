"""What the sections of generate.py share: real cells, halves, training and writing with ours, tables."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

HERE = Path(__file__).resolve()
REAL_DATA = Path(os.environ.get("SCLM_REAL_DATA", HERE.parents[2] / "shared" / "data"))
FILES = {
    "pbmc3k": "scrna/pbmc3k.h5ad",
    "pbmc_facs": "scrna/pbmc_facs_zheng2017.h5ad",
    "pancreas": "scrna/pancreas_baron_human175.h5ad",
    "scmixology": "scrna/scmixology_singlecells.h5ad",
    "kang": "perturb/kang_scgen_valid.h5ad",
}
FIELDS = ("tissue", "disease", "cell_type")


class Clock(NamedTuple):
    """Wall and processor seconds; of a start, or of what came after it."""

    wall: float
    cpu: float

    @classmethod
    def start(cls) -> Clock:
        return cls(time.perf_counter(), time.process_time())

    def stop(self) -> Clock:
        return Clock(time.perf_counter() - self.wall, time.process_time() - self.cpu)


def read(folder: Path, name: str):
    """Cells of a study with raw counts; blood ones get the fields tissue and disease, which the files leave out."""
    import anndata

    adata = anndata.read_h5ad(folder / FILES[name])
    if name.startswith("pbmc"):
        adata.obs = adata.obs[["cell_type"]].astype(str).assign(tissue="blood", disease="normal")
    return adata


def halves(adata, key: str, seed: int):
    """Two halves of the cells, of each label alike."""
    rng = np.random.default_rng(seed)
    labels = adata.obs[key].astype(str).to_numpy()
    first = np.zeros(adata.n_obs, dtype=bool)
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        first[members[: (len(members) + 1) // 2]] = True
    return adata[first].copy(), adata[~first].copy()


def fit(adata, keys, args, seed: int, **options: Any):
    """Our model and how long it took."""
    import sclm

    clock = Clock.start()
    model = sclm.train(
        "pgl", adata, obs_keys=list(keys), preset=args.preset, seed=seed, progress_bar=False, **options
    )  # fmt: skip
    return model, clock.stop()


def write(model, request: pd.DataFrame, seed: int, **options: Any):
    """Cells of a request as AnnData, and how long it took; terms that are far from training are written too."""
    import scipy.sparse as sp

    clock = Clock.start()
    blocks = [written.cells for written in model.write(request, seed=seed, max_novelty=1.0, **options)]
    counts = sp.vstack([block.counts for block in blocks], format="csr")
    obs = pd.concat([block.obs for block in blocks])
    return cells_of(counts, blocks[0].genes, obs), clock.stop()


def cells_of(counts, genes, obs: pd.DataFrame):
    """AnnData of raw counts with texts as metadata."""
    import anndata
    import scipy.sparse as sp

    obs = obs.drop(columns="n_counts", errors="ignore").astype(str)
    obs.index = [f"cell_{i}" for i in range(len(obs))]
    return anndata.AnnData(
        sp.csr_matrix(counts, dtype=np.float32), obs=obs, var=pd.DataFrame(index=pd.Index(genes).astype(str))
    )


def labels(adata, key: str = "cell_type") -> np.ndarray:
    return adata.obs[key].astype(str).to_numpy()


def depths(adata) -> np.ndarray:
    return np.asarray(adata.X.sum(axis=1), dtype=np.float64).ravel()


def log_counts(adata):
    """log1p of counts per 10,000 (n, G)."""
    from sclm.cells import log_normalise

    return log_normalise(adata.X)


def log_mean(adata) -> np.ndarray:
    """Mean over cells of log1p CP10k (G,)."""
    return np.asarray(log_counts(adata).mean(axis=0)).ravel()


def pearson(x: np.ndarray, y: np.ndarray) -> float:
    return float(np.corrcoef(x, y)[0, 1])


def table(rows: list[dict[str, Any]], by: list[str], digits: int = 3) -> pd.DataFrame:
    """Mean over repeats, ± standard deviation where there are several; one row a combination of `by`, in order."""
    frame = pd.DataFrame(rows)
    groups = frame.groupby(by, sort=False)
    mean, spread, n = groups.mean(numeric_only=True), groups.std(numeric_only=True), groups.size()

    def text(row, column) -> str:
        value, sd = mean.loc[row, column], spread.loc[row, column]
        if not np.isfinite(value):
            return "–"
        places = 1 if abs(value) >= 10 else digits
        return f"{value:.{places}f}" + (f" ± {sd:.{places}f}" if n[row] > 1 and np.isfinite(sd) else "")

    columns = [c for c in mean.columns if c != "seed"]
    out = pd.DataFrame([[text(row, c) for c in columns] for row in mean.index], columns=columns, index=mean.index)
    return out.reset_index()


def show(title: str, frame: pd.DataFrame) -> None:
    """A table in Markdown."""
    lines = [
        list(map(str, frame.columns)),
        ["---"] * frame.shape[1],
        *[[str(v) for v in row] for row in frame.to_numpy()],
    ]
    print(f"\n### {title}\n\n" + "\n".join("| " + " | ".join(line) + " |" for line in lines), flush=True)
