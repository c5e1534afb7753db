"""The cells that are compared: read from AnnData, brought to shared genes, as many of each label on both sides."""

from __future__ import annotations

import logging
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from sclm.metrics.generation.agreement import variable_genes
from sclm.metrics.generation.arrays import column_means, log_scale

if TYPE_CHECKING:
    import pandas as pd
    import scipy.sparse as sp
    from anndata import AnnData

logger = logging.getLogger(__name__)

_MIN_GENES = 10
_MIN_GENE_SHARE = 0.1


class Sample(NamedTuple):
    """Cells of one side: counts (n, G), label (n,) str, condition (n,) str or None, and label and condition as one."""

    counts: sp.csr_matrix
    label: np.ndarray
    condition: np.ndarray | None
    group: np.ndarray

    def take(self, rows: np.ndarray) -> Sample:
        """The cells of these rows."""
        condition = None if self.condition is None else self.condition[rows]
        return Sample(self.counts[rows], self.label[rows], condition, self.group[rows])


def sample(counts: sp.csr_matrix, label: np.ndarray, condition: np.ndarray | None) -> Sample:
    """Cells with their labels; a group is a label, or a label under a condition."""
    # a separator that no label holds keeps "a", "b c" apart from "a b", "c"
    group = label if condition is None else np.array([f"{a}\x1f{b}" for a, b in zip(label, condition, strict=True)])
    return Sample(counts, label, condition, group)


def read_samples(
    adatas: dict[str, AnnData],
    *,
    label_key: str,
    condition_key: str | None = None,
    layer: str | None = None,
    gene_key: str | None = None,
) -> tuple[dict[str, Sample], pd.Index]:
    """Read every AnnData of raw counts and keep the genes that all have, in the order of the first.

    Layer and column of gene names hold for all that have them: generated cells usually keep their counts in `.X` and
    their genes in `.var_names`, whatever the real ones do. Cells without label or condition are left out.
    """
    from sclm.cells import read_cells

    keys = [label_key] if condition_key is None else [label_key, condition_key]
    read = {}
    for name, adata in adatas.items():
        is_generated = name == "generated"
        slot = None if is_generated and layer is not None and layer not in getattr(adata, "layers", ()) else layer
        column = gene_key
        if is_generated and gene_key is not None and gene_key not in getattr(adata, "var", ()):
            column = None
        read[name] = read_cells(adata, layer=slot, gene_key=column, obs_keys=keys).read()
    first = next(iter(read.values())).genes
    shared = first
    for cells in read.values():
        shared = shared[shared.isin(cells.genes)]
    fewest = min(len(cells.genes) for cells in read.values())
    if len(shared) < max(_MIN_GENES, _MIN_GENE_SHARE * fewest):
        found = "; ".join(f"{name} {len(c.genes):,} ({', '.join(map(str, c.genes[:3]))} …)" for name, c in read.items())
        raise ValueError(
            f"at least {_MIN_GENES} genes and {_MIN_GENE_SHARE:.0%} of the smallest set must be shared, found {len(shared):,}: "
            f"{found}. Pass gene_key= naming the column of .var whose names they have in common."
        )
    result = {}
    for name, cells in read.items():
        present = cells.obs.notna().all(axis=1).to_numpy()
        if not present.all():
            logger.info("%d cells of %s without %s are left out", (~present).sum(), name, " or ".join(keys))
        if not present.any():
            raise ValueError(f"{name}.obs must name {' and '.join(keys)} of its cells, found none that has.")
        columns = cells.genes.get_indexer(shared)
        counts = cells.counts[np.flatnonzero(present)][:, columns].tocsr()
        counts.sort_indices()
        obs = cells.obs[present].astype(str)
        condition = None if condition_key is None else obs[condition_key].to_numpy(dtype=object).astype(str)
        result[name] = sample(counts, obs[label_key].to_numpy(dtype=object).astype(str), condition)
    return result, shared


def quota(real: Sample, other: Sample, n_max: int) -> dict[str, int]:
    """How many cells of each group are compared: as many as both sides have, scaled down to `n_max` in all."""
    sizes = [dict(zip(*np.unique(side.group, return_counts=True), strict=True)) for side in (real, other)]
    shared = {str(g): int(min(n, sizes[1][g])) for g, n in sizes[0].items() if g in sizes[1]}
    total = sum(shared.values())
    return shared if total <= n_max else {g: max(1, n * n_max // total) for g, n in shared.items()}


class Pair:
    """As many real cells as others of each group, with what several metrics need worked out once."""

    def __init__(self, real: Sample, other: Sample, wanted: dict[str, int], *, seed: int) -> None:
        rng = np.random.default_rng(seed)
        rows: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
        for group in np.unique(real.group):
            members = [np.flatnonzero(side.group == group) for side in (real, other)]
            n = min(wanted.get(str(group), 0), *map(len, members))
            if n:
                for chosen, cells in zip(rows, members, strict=True):
                    chosen.append(rng.choice(cells, n, replace=False))
        self.real, self.other = (
            side.take(np.concatenate(chosen) if chosen else np.zeros(0, np.int64))
            for side, chosen in zip((real, other), rows, strict=True)
        )
        self.seed = seed
        self.n = len(self.real.label)

    @cached_property
    def logs(self) -> tuple[sp.csr_matrix, sp.csr_matrix]:
        """log1p CP10k of both sides, CSR float64."""
        return log_scale(self.real.counts), log_scale(self.other.counts)

    @cached_property
    def variable(self) -> np.ndarray:
        """Genes by falling variance in the real cells, (G,)."""
        return variable_genes(self.logs[0], self.logs[0].shape[1])

    @cached_property
    def expressed(self) -> np.ndarray:
        """Genes that more than 1 % of the real cells express."""
        return np.flatnonzero(column_means(self.real.counts > 0) > 0.01)

    @cached_property
    def joint(self) -> tuple[np.ndarray, np.ndarray]:
        """Both sides in the truncated singular vectors of both together, (n, D) each."""
        import scipy.sparse as sp
        from sklearn.decomposition import TruncatedSVD

        from sclm.metrics.generation.spaces import N_COMPONENTS, N_GENES

        both = sp.vstack(self.logs).tocsr()[:, self.variable[:N_GENES]]
        n_components = min(N_COMPONENTS, *both.shape)
        cells = TruncatedSVD(n_components, random_state=self.seed).fit_transform(both)
        return cells[: self.n], cells[self.n :]

    @cached_property
    def depths(self) -> tuple[np.ndarray, np.ndarray]:
        """log1p of the total and number of expressed genes of each cell, (n, 2) of each side."""
        first, second = (
            np.c_[
                np.log1p(np.asarray(side.counts.sum(axis=1, dtype=np.float64)).ravel()),
                np.diff(side.counts.indptr),
            ]
            for side in (self.real, self.other)
        )
        return first, second


def halves(cells: Sample, seed: int) -> tuple[Sample, Sample]:
    """A random split into two, each with half the cells of every group; an odd cell is left out."""
    rng = np.random.default_rng([seed, 1])
    first, second = [], []
    for group in np.unique(cells.group):
        order = rng.permutation(np.flatnonzero(cells.group == group))
        n = len(order) // 2
        first.append(order[:n])
        second.append(order[n : 2 * n])
    return cells.take(np.concatenate(first)), cells.take(np.concatenate(second))
