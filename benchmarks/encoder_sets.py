"""Cells and small encoders for the benchmarks of encoders: data sets with broad types, and encoders that saw none of their cells.

The encoders are trained here from scratch, without labels, on blood of other studies than those they are judged on: seven sets of
pbmc_10sets (2,100 cells; the three whose values are no counts are left out), the RNA of citefuse_pbmc500 and of
pbmc_10k_protein_v3_200. They are kept in --encoders, so that they are trained once.
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
# Epochs were chosen by the loss of held-out cells of the training sets.
SETTINGS = {
    "scgpt": {"preset": "tiny", "max_epochs": 12},
    "geneformer": {"preset": "tiny", "max_epochs": 12},
}
QUIET = {"progress_bar": False, "accelerator": "cpu"}


def unlabelled(folder: Path):
    """Blood cells of other studies, genes by symbol, genes that a set lacks at zero; .obs["study"]."""
    import anndata

    ten = anndata.read_h5ad(folder / "scrna" / "pbmc_10sets_3000.h5ad")
    ten = ten[ten.obs["integer_counts"].astype(str) == "True"].copy()
    parts = {"pbmc_10sets": ten}
    for name in ("citefuse_pbmc500", "pbmc_10k_protein_v3_200"):
        parts[name] = anndata.read_h5ad(folder / "cite" / f"{name}.h5ad")
    for name, adata in parts.items():
        adata.obs["study"] = adata.obs["dataset"].astype(str) if "dataset" in adata.obs else name
        adata.obs = adata.obs[["study"]]
        adata.obs_names = [f"{name}-{i}" for i in range(adata.n_obs)]
        for field in (adata.obsm, adata.layers, adata.uns):
            field.clear()
        parts[name] = adata[:, ~adata.var_names.duplicated()].copy()
    return anndata.concat(list(parts.values()), join="outer", fill_value=0)


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
