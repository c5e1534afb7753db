"""A tumour in stroma, with counts, for the tests of interfaces and signals."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
from scipy import sparse

GENES = ("CXCL12", "CXCR4", "TGFB1", "TGFBR1", "TGFBR2", "CD274", "PDCD1", "CCL5", "CCR5", "SPP1", "CD44", "EPCAM")


def tumour_section(side: int = 18, *, seed: int = 0, planted: float = 0.0, name: str = "") -> ad.AnnData:
    """A square of spots, its left part tumour with a wavy edge, genes that follow tissue and depth.

    With ``planted`` above 0, CXCL12 varies from spot to spot and CXCR4 follows the CXCL12 of neighbours across the border.
    """
    rng = np.random.default_rng(seed)
    place = np.argwhere(np.ones((side, side))).astype(float) * 100
    edge = 100 * (side / 2 + 1.5 * np.sin(place[:, 0] / 350))
    tumour = place[:, 1] < edge
    depth = np.exp(0.3 * rng.normal(size=len(place)) + 0.3 * tumour)
    names = [*GENES, *(f"GENE{i}" for i in range(60))]
    base = rng.gamma(2.0, 1.0, len(names)) + 0.5
    factor = np.exp(0.5 * rng.normal(size=(2, len(names))))
    log_mean = np.log(base)[None, :] + np.log(factor)[tumour.astype(int)] + np.log(depth)[:, None]
    if planted:
        sent = rng.normal(size=len(place))
        near = (np.abs(place[:, None] - place[None]).max(axis=2) <= 100) & (tumour[:, None] != tumour[None])
        log_mean[:, 0] += 1 + sent
        log_mean[:, 1] += 1 + planted * (near @ sent) / np.sqrt(np.maximum(near.sum(axis=1), 1))
    counts = rng.poisson(np.exp(log_mean))
    share = np.clip(np.where(tumour, 0.8, 0.1) + 0.1 * rng.normal(size=len(place)), 0, 1)
    stroma = (1 - share) * 0.7
    obs = pd.DataFrame(
        {"tissue": pd.Categorical(np.where(tumour, "tumour", "stroma")), "tumour_share": share},
        index=np.array([f"{name}spot{i}" for i in range(len(place))], dtype=object),
    )
    section = ad.AnnData(
        sparse.csr_matrix(counts.astype(np.float32)), obs=obs, var=pd.DataFrame(index=np.array(names, dtype=object))
    )
    section.obsm["spatial"] = place
    section.obsm["fractions"] = pd.DataFrame(
        {"tumour": share, "stroma": stroma, "T cell": 1 - share - stroma}, index=obs.index
    )
    return section
