"""Five figures of a cell that tell a real profile from an invented one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp

from sclm.evidence.markers import count_pairs

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pandas as pd

CHECKS = ("library_size", "zero_fraction", "markers", "exclusive_markers", "mitochondrial")
# Smallest spread of each: log10 counts, log10 genes, log-normalised expression, 2·sqrt(pairs), arcsin sqrt(share).
FLOOR = {
    "library_size": 0.01,
    "zero_fraction": 0.003,
    "markers": 0.02,
    "exclusive_markers": 0.5,
    "mitochondrial": 0.005,
}
SUMMED = 10  # markers a group in the sum: enough for one that dropout of single genes does not decide
# The 13 protein-coding genes of the human mitochondrial genome, by Ensembl gene id.
_MITOCHONDRIAL = {
    "ENSG00000198888": "MT-ND1",
    "ENSG00000198763": "MT-ND2",
    "ENSG00000198804": "MT-CO1",
    "ENSG00000198712": "MT-CO2",
    "ENSG00000228253": "MT-ATP8",
    "ENSG00000198899": "MT-ATP6",
    "ENSG00000198938": "MT-CO3",
    "ENSG00000198840": "MT-ND3",
    "ENSG00000212907": "MT-ND4L",
    "ENSG00000198886": "MT-ND4",
    "ENSG00000198786": "MT-ND5",
    "ENSG00000198695": "MT-ND6",
    "ENSG00000198727": "MT-CYB",
}


def cell_figures(counts: sp.csr_matrix, arrays: Mapping[str, np.ndarray]) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Figures of each cell by check, and log10 library size; ``markers`` is (n, n_groups), the others (n,)."""
    total = np.asarray(counts.sum(axis=1, dtype=np.float64)).ravel()
    depth = np.log10(np.maximum(total, 0.5))  # a cell without counts: below all others, and finite
    expressed = np.diff(counts.indptr).astype(np.float64)
    figures = {"library_size": depth, "zero_fraction": np.log10(np.maximum(expressed, 0.5))}
    markers = arrays["markers"][:, :SUMMED]
    group, place = np.nonzero(markers >= 0)
    if len(group):
        genes, column = np.unique(markers[group, place], return_inverse=True)
        share = (1 / (markers >= 0).sum(axis=1).clip(1))[group]
        weights = sp.csr_matrix((share, (column, group)), (len(genes), len(markers)))
        # The part of log_normalise that is needed: totals are those of all genes.
        level = sp.diags(1e4 / np.maximum(total, 1)) @ counts[:, genes]
        figures["markers"] = (level.log1p() @ weights).toarray()
    if len(arrays["pairs"]):
        # Twice the root of a count has a variance near 1 whatever its mean.
        figures["exclusive_markers"] = 2 * np.sqrt(count_pairs(counts, arrays["pairs"]) + 0.375)
    if len(arrays["mitochondrial"]):
        part = np.asarray(counts[:, arrays["mitochondrial"]].sum(axis=1, dtype=np.float64)).ravel()
        figures["mitochondrial"] = np.arcsin(np.sqrt(np.clip(part / np.maximum(total, 1), 0, 1)))
    return figures, depth


def mitochondrial_genes(genes: pd.Index) -> np.ndarray:
    """Columns of mitochondrial genes: symbols that begin with MT-, or Ensembl ids of the 13 human protein-coding ones."""
    names = [str(gene).upper() for gene in genes]
    return np.array(
        [i for i, n in enumerate(names) if n.startswith("MT-") or n.partition(".")[0] in _MITOCHONDRIAL], dtype=np.int32
    )
