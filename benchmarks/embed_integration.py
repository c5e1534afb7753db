"""Batches made alike: three studies of blood in one space, by principal components and by scGPT with and without integration.

Cells of pbmc3k, pbmc_facs (sorted, another chemistry) and kang (lupus, 1,287 genes measured), broad types as in annotate.py, on the genes
that all share. Every row sees the same cells; the encoders learn without labels. Scores are those of sclm.metrics.embedding: type purity
and mixing of studies among 15 neighbours (mixing: 1 as by chance within a type), silhouettes, and AvgBIO (mean of NMI, ARI and the type
silhouette scaled to 0-1) with k-means, k the number of types.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from encoder_sets import QUIET, labelled

if TYPE_CHECKING:
    import argparse

STUDIES = ("pbmc3k", "pbmc_facs", "kang")
CELLS, GENES = 700, 1200
MASKING = {"preset": "tiny", "max_epochs": 15}
# weights of its loss were chosen on seed 0 of these cells: read its row as a development row
INTEGRATION = {"preset": "tiny", "objective": "integration", "batch_key": "study", "n_panel": GENES, "max_epochs": 15}
COLUMNS = ("type_purity", "type_silhouette", "batch_mixing", "batch_silhouette", "AvgBIO")


def cells_of(args: argparse.Namespace, seed: int):
    """Cells of all studies, genes that they share; .obs["broad"], .obs["study"]."""
    import anndata

    from sclm.knowledge import Ontology

    ontology, rng = Ontology.load("cl"), np.random.default_rng(seed)
    parts = []
    for name in STUDIES:
        adata = labelled(args.data, name, ontology)
        adata = adata[np.sort(rng.permutation(adata.n_obs)[:CELLS])].copy()
        obs = adata.obs[["broad"]].assign(study=name)
        obs.index = [f"{name}-{i}" for i in range(adata.n_obs)]
        parts.append(anndata.AnnData(adata.X, obs=obs, var=adata.var[[]]))
    return anndata.concat(parts, join="inner")


def components(adata) -> np.ndarray:
    """50 principal components of log-normalised genes that vary within studies."""
    import scanpy as sc

    other = adata.copy()
    sc.pp.normalize_total(other, target_sum=1e4)
    sc.pp.log1p(other)
    sc.pp.highly_variable_genes(other, n_top_genes=GENES, batch_key="study")
    sc.pp.pca(other, n_comps=50)
    return other.obsm["X_pca"]


def scores(vectors: np.ndarray, adata, seed: int) -> list[float]:
    """The columns of the table."""
    from sklearn.cluster import KMeans
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

    from sclm.metrics import embedding

    types = adata.obs["broad"].to_numpy(dtype=str)
    found = embedding(vectors, types, batches=adata.obs["study"].to_numpy(), seed=seed)
    clusters = KMeans(len(np.unique(types)), n_init=10, random_state=seed).fit_predict(vectors)
    biology = [normalized_mutual_info_score(types, clusters), adjusted_rand_score(types, clusters)]
    found["AvgBIO"] = float(np.mean([*biology, (found["type_silhouette"] + 1) / 2]))
    return [found[name] for name in COLUMNS]


def integration(args: argparse.Namespace) -> None:
    """One row a method, mean and spread over seeds of cells and of training."""
    import sclm
    from sclm.cells import read_cells

    rows: dict[str, list[list[float]]] = {}
    seconds: dict[str, list[float]] = {}

    def add(name: str, vectors: np.ndarray, adata, seed: int, start: float) -> None:
        rows.setdefault(name, []).append(scores(vectors, adata, seed))
        seconds.setdefault(name, []).append(time.process_time() - start)

    for seed in range(args.seeds):
        adata = cells_of(args, seed)
        cells = read_cells(adata, obs_keys=["study"]).read()
        start = time.process_time()
        add("50 principal components", components(adata), adata, seed, start)
        start = time.process_time()
        plain = sclm.train("scgpt", adata, seed=seed, **MASKING, **QUIET)
        add("scGPT tiny, masking", plain.embed(cells), adata, seed, start)
        start = time.process_time()
        mixed = sclm.train("scgpt", adata, seed=seed, **INTEGRATION, **QUIET)
        add("scGPT tiny, integration", mixed.embed(cells), adata, seed, start)
        none = cells._replace(obs=cells.obs[[]])
        add("the same, studies not told", mixed.embed(none), adata, seed, start)
    print(f"\n{adata.n_obs:,} cells, {adata.n_vars:,} shared genes, {len(STUDIES)} studies, {args.seeds} seeds\n")
    print(f"| vectors | {' | '.join(COLUMNS)} | CPU s |\n|---|{'---|' * (len(COLUMNS) + 1)}")
    for name, found in rows.items():
        table = pd.DataFrame(found, columns=COLUMNS)
        spread = table.std(ddof=1) if len(table) > 1 else table.iloc[0] * np.nan
        shown = [f"{table[c].mean():.3f} ± {spread[c]:.3f}" for c in COLUMNS]
        print(f"| {name} | {' | '.join(shown)} | {np.mean(seconds[name]):.0f} |", flush=True)
