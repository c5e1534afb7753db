"""Cells and small encoders for the benchmarks of encoders: data sets with broad types, and encoders that saw none of their cells.

The encoders are trained here from scratch, without labels, on blood of other studies than those they are judged on: the five sets of
pbmc_10sets whose values are counts, and the RNA of citefuse_pbmc500 and of pbmc_10k_protein_v3_200; 2,200 cells, in the 2,000 genes
that vary most within studies. They are kept in --encoders, so that they are trained once.

One core is enough, and two cores that others use too are slower than one: threads wait for each other. Set OMP_NUM_THREADS=1 and
NUMBA_NUM_THREADS=1.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
from annotate import BROAD, FILES, read

HERE = Path(__file__).resolve()
REAL_DATA = Path(os.environ.get("SCLM_REAL_DATA", HERE.parents[2] / "shared" / "data"))
FAMILIES = ("scgpt", "geneformer")
# Genes, epochs and rates were chosen on pbmc3k: types told from vectors of few labelled cells of it.
VARIABLE_GENES = 2000
SETTINGS = {
    "scgpt": {"preset": "tiny", "max_epochs": 40, "patience": 40, "learning_rate": 1e-3},
    "geneformer": {"preset": "tiny", "max_epochs": 30},
}
QUIET = {"progress_bar": False, "accelerator": "cpu"}


def unlabelled(folder: Path):
    """Blood cells of other studies in their variable genes, by symbol, at zero where a set lacks one; .obs["study"]."""
    import anndata
    import scanpy as sc

    ten = anndata.read_h5ad(folder / "scrna" / "pbmc_10sets_3000.h5ad")
    ten = ten[ten.obs["integer_counts"].astype(str) == "True"].copy()
    parts = {"pbmc_10sets": ten}
    for name in ("citefuse_pbmc500", "pbmc_10k_protein_v3_200"):
        parts[name] = anndata.read_h5ad(folder / "cite" / f"{name}.h5ad")
    parts["citefuse_pbmc500"].var_names = parts["citefuse_pbmc500"].var["symbol"].astype(str)
    for name, adata in parts.items():
        adata.obs["study"] = adata.obs["dataset"].astype(str) if "dataset" in adata.obs else name
        adata.obs = adata.obs[["study"]]
        adata.obs_names = [f"{name}-{i}" for i in range(adata.n_obs)]
        for field in (adata.obsm, adata.layers, adata.uns):
            field.clear()
        parts[name] = adata[:, ~adata.var_names.duplicated()].copy()
    cells = anndata.concat(list(parts.values()), join="outer", fill_value=0)
    shown = sc.pp.log1p(sc.pp.normalize_total(cells, target_sum=1e4, copy=True), copy=True)
    sc.pp.highly_variable_genes(shown, n_top_genes=VARIABLE_GENES, batch_key="study")
    return cells[:, shown.var["highly_variable"].to_numpy()].copy()


def encoder(family: str, seed: int, folder: Path, kept: Path):
    """A small encoder of blood cells, trained now or read from `kept`."""
    import sclm

    path = kept / f"{family}-{seed}"
    if not (path / "config.json").is_file():
        start = time.perf_counter()
        model = sclm.train(family, unlabelled(folder), seed=seed, **SETTINGS[family], **QUIET)
        print(f"{family}, seed {seed}: trained in {time.perf_counter() - start:.0f} s", flush=True)
        model.save(path)
    return sclm.load(path)


def random_encoder(model):
    """The same encoder with the weights that it started from or might have."""
    import copy

    import torch

    from sclm.nn import seeded

    other = copy.copy(model)
    with seeded(1):
        other.network = type(model).build(model.config, model.vocabulary).eval()
    with torch.no_grad():
        for name, tensor in other.network.named_buffers():  # what was measured in training, no weights
            tensor.copy_(dict(model.network.named_buffers())[name])
    return other


def labelled(folder: Path, name: str, ontology):
    """A study with .obs["cell_type"] and .obs["broad"], the broad type that benchmarks/annotate.py judges by; others are left out."""
    adata = read(folder, name)
    resolved = ontology.resolve_many(list(adata.obs["cell_type"].unique())).set_index("text")["term_id"]
    broad = {
        label: next((n for n, b in BROAD.items() if b in ontology.ancestors(term, include_self=True)), "other")
        for label, term in resolved.items()
    }
    adata.obs["broad"] = adata.obs["cell_type"].astype(str).map(broad).to_numpy(dtype=object)
    return adata[adata.obs["broad"] != "other"].copy()


def few(adata, n: int, seed: int):
    """`n` cells of each fine type, or all where there are fewer."""
    rng = np.random.default_rng(seed)
    names = adata.obs["cell_type"].astype(str).to_numpy()
    rows = [
        rng.choice(np.flatnonzero(names == t), min(n, int((names == t).sum())), replace=False) for t in np.unique(names)
    ]
    return adata[np.sort(np.concatenate(rows))].copy()


__all__ = [
    "BROAD",
    "FAMILIES",
    "FILES",
    "QUIET",
    "REAL_DATA",
    "SETTINGS",
    "encoder",
    "few",
    "labelled",
    "random_encoder",
    "unlabelled",
]
