"""Whether differences between groups of cells survive: fold changes, differential expression, effects of a condition.

Legend of shapes: n cells · G genes · K groups.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from sclm.metrics.generation.arrays import (
    column_means,
    count_matrix,
    count_pair,
    labels_of,
    log_scale,
    pearson,
    scale,
    spearman,
    variance,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    import scipy.sparse as sp
    from numpy.typing import ArrayLike

PSEUDOCOUNT = 1.0  # counts per 10,000
MIN_CELLS = 20  # of a group on each side: the fold changes of fewer are mostly noise
_MIN_SHARE = 0.1
_SIGNIFICANT = 0.05
_MIN_CHANGE = 1.0


class Profile(NamedTuple):
    """Of a group of cells, (G,) each: mean CP10k, variance of that mean, share of expressing cells."""

    mean: np.ndarray
    error: np.ndarray
    seen: np.ndarray


class Contrast(NamedTuple):
    """A group of cells and what it is compared with."""

    inside: Profile
    outside: Profile

    def change(self, pseudocount: float) -> np.ndarray:
        """log2 fold change of each gene, (G,)."""
        return np.log2((self.inside.mean + pseudocount) / (self.outside.mean + pseudocount))

    def error(self, pseudocount: float) -> np.ndarray:
        """Sampling variance of the log2 fold change of each gene, (G,), to first order (delta method)."""
        relative = sum(p.error / (p.mean + pseudocount) ** 2 for p in self)
        return np.asarray(relative / np.log(2.0) ** 2)


def log_fold_changes(
    counts: Any, groups: ArrayLike, *, pseudocount: float = PSEUDOCOUNT
) -> tuple[np.ndarray, np.ndarray]:
    r"""log2 fold change of each group of cells against all other cells.

    :math:`\log_2 \frac{\bar c_{in} + p}{\bar c_{out} + p}`, :math:`\bar c` the mean over cells of counts per 10,000.

    Parameters
    ----------
    counts
        Raw counts, (n, G), CSR or dense.
    groups
        The group of each cell, (n,), at least two different ones.
    pseudocount
        Added to both means, in counts per 10,000, > 0. It draws the changes of rare genes, which are mostly noise, to 0.

    Returns
    -------
    changes
        (K, G) float64, in log2 units.
    names
        (K,) str, the groups in sorted order.

    Raises
    ------
    ValueError
        If shapes do not fit, there is only one group or the pseudocount is not positive.
    """
    matrix = count_matrix(counts, "counts")
    names = labels_of(groups, matrix.shape[0], "groups")
    _check_pseudocount(pseudocount)
    unique = np.unique(names)
    if len(unique) < 2:
        raise ValueError(f"groups must hold at least 2 different groups, found only {str(unique[0])!r}.")
    scaled = scale(matrix)
    return np.stack([contrast(scaled, names == g, names != g).change(pseudocount) for g in unique]), unique


def _check_pseudocount(pseudocount: float) -> None:
    if not pseudocount > 0:
        raise ValueError(f"pseudocount must be greater than 0, found {pseudocount}.")


def contrast(scaled: sp.csr_matrix, inside: np.ndarray, outside: np.ndarray) -> Contrast:
    """A comparison of two groups of cells, from counts per 10,000 and two (n,) masks."""
    return Contrast(_profile(scaled[inside]), _profile(scaled[outside]))


def _profile(scaled: sp.csr_matrix) -> Profile:
    n = scaled.shape[0]
    mean = column_means(scaled)
    # of one cell nothing says how far its mean is off: taken as exact
    error = variance(scaled, mean) / (n - 1) if n > 1 else np.zeros_like(mean)
    return Profile(mean, np.maximum(error, 0.0), column_means(scaled > 0))


def fold_change_agreement(
    real: Any,
    generated: Any,
    real_groups: ArrayLike,
    generated_groups: ArrayLike,
    *,
    min_share: float = _MIN_SHARE,
    min_cells: int = MIN_CELLS,
    pseudocount: float = PSEUDOCOUNT,
) -> pd.DataFrame:
    r"""Whether fold changes between groups have their true size in generated cells.

    Each group is compared with all other cells, in real and in generated cells, and the generated log2 fold changes are
    regressed on the real ones by least squares: `slope` is :math:`\mathrm{cov}(x, y) / \mathrm{var}(x)`. Real fold changes
    carry noise of their own, which pulls this slope below 1 even for other real cells (regression dilution): read it beside
    that of another real half. `corrected` takes the noise out, :math:`\mathrm{cov}(x, y) / (\mathrm{var}(x) - \bar e)`,
    :math:`e` the sampling variance of each real fold change by the delta method (Fuller 1987, the method of moments for
    errors in variables), and is about 1 for other real cells; some 5 % less for groups of only ten cells, where the delta
    method falls short.

    Parameters
    ----------
    real, generated
        Raw counts, (n_real, G) and (n_generated, G), CSR or dense, the same genes in the same order.
    real_groups, generated_groups
        The group of each cell, (n_real,) and (n_generated,).
    min_share
        Genes enter that are expressed in at least this share (0–1) of the real cells of the group or of the others.
    min_cells
        Groups enter that have at least as many cells, and as many others, on both sides.
    pseudocount
        In counts per 10,000, see `log_fold_changes`.

    Returns
    -------
    pandas.DataFrame
        One row a group that both sides have: group, slope, corrected (1 is right, less: attenuated), r (Pearson), rho
        (Spearman), spread (standard deviation of generated over real changes), n_genes, n_real, n_generated. No rows where no group
        has enough cells.

    Raises
    ------
    ValueError
        If shapes do not fit or the pseudocount is not positive.
    """
    import pandas as pd

    x, y = count_pair(real, generated)
    of_x = labels_of(real_groups, x.shape[0], "real_groups")
    of_y = labels_of(generated_groups, y.shape[0], "generated_groups")
    _check_pseudocount(pseudocount)
    scaled_x, scaled_y = scale(x), scale(y)
    rows = []
    for group in enough(of_x, of_y, min_cells):
        a = contrast(scaled_x, of_x == group, of_x != group)
        b = contrast(scaled_y, of_y == group, of_y != group)
        rows.append({"group": group, **agreement_of(a, b, min_share=min_share, pseudocount=pseudocount)})
        rows[-1] |= {"n_real": int((of_x == group).sum()), "n_generated": int((of_y == group).sum())}
    columns = ["group", "slope", "corrected", "r", "rho", "spread", "n_genes", "n_real", "n_generated"]
    return pd.DataFrame(rows, columns=columns)


def agreement_of(
    real: Contrast, generated: Contrast, *, min_share: float = _MIN_SHARE, pseudocount: float = PSEUDOCOUNT
) -> dict[str, float]:
    """Slopes, correlations and spread of generated on real fold changes, over the genes that real cells express."""
    keep = np.maximum(real.inside.seen, real.outside.seen) >= min_share
    x, y = real.change(pseudocount)[keep], generated.change(pseudocount)[keep]
    result = dict.fromkeys(("slope", "corrected", "r", "rho", "spread"), float("nan")) | {"n_genes": int(keep.sum())}
    if keep.sum() < 3 or not x.std() > 0:
        return result
    covariance = float(np.mean((x - x.mean()) * (y - y.mean())))
    signal = float(x.var() - real.error(pseudocount)[keep].mean())
    result["slope"] = covariance / float(x.var())
    if signal > 0.1 * x.var():  # less: the real changes are noise, and nothing can be said of their size
        result["corrected"] = covariance / signal
    result["r"], result["rho"], result["spread"] = pearson(x, y), spearman(x, y), float(y.std() / x.std())
    return result


def enough(real: np.ndarray, generated: np.ndarray, min_cells: int) -> list[str]:
    """Groups that have at least so many cells, and so many others, on both sides."""
    return [
        str(g)
        for g in np.unique(real)
        if all(min((side == g).sum(), (side != g).sum()) >= min_cells for side in (real, generated))
    ]


def differential_recovery(
    real: Any,
    generated: Any,
    real_groups: ArrayLike,
    generated_groups: ArrayLike,
    *,
    k: Sequence[int] = (50, 100, 200),
    min_cells: int = MIN_CELLS,
    pseudocount: float = PSEUDOCOUNT,
) -> pd.DataFrame:
    """Whether generated cells show the differentially expressed genes of real ones.

    Each group against all other cells, in both: Wilcoxon rank sum test on log1p CP10k (Scanpy's), significant where the
    Benjamini-Hochberg value is below 0.05 and the log2 fold change beyond 1 in either direction, ranked by the statistic.

    Parameters
    ----------
    real, generated
        Raw counts, (n_real, G) and (n_generated, G), CSR or dense, the same genes in the same order; take as many cells of
        both: significance grows with their number.
    real_groups, generated_groups
        The group of each cell, (n_real,) and (n_generated,).
    k
        Lengths of the lists of top genes that are compared.
    min_cells
        Groups enter that have at least as many cells, and as many others, on both sides.
    pseudocount
        In counts per 10,000, see `log_fold_changes`.

    Returns
    -------
    pandas.DataFrame
        One row a group and length: group, k, precision (share of the generated top k, or of all significant ones where they
        are fewer, that are among the real top k), recall (the reverse), f1, direction (share of the real significant genes
        that change in the same direction), rho_significant (Spearman of their fold changes), n_significant_real,
        n_significant_generated. Groups without a significant gene in real cells are left out.

    Raises
    ------
    ValueError
        If shapes do not fit, a length is below 1 or the pseudocount is not positive.
    """
    import pandas as pd

    x, y = count_pair(real, generated)
    of_x = labels_of(real_groups, x.shape[0], "real_groups")
    of_y = labels_of(generated_groups, y.shape[0], "generated_groups")
    _check_pseudocount(pseudocount)
    if not k or min(k) < 1:
        raise ValueError(f"k must hold numbers of genes of at least 1, found {tuple(k)}.")
    columns = ["group", "k", "precision", "recall", "f1", "direction", "rho_significant"]
    columns += ["n_significant_real", "n_significant_generated"]
    groups = enough(of_x, of_y, min_cells)
    # a gene in fewer cells than a test can tell apart costs time and is never significant
    keep = np.flatnonzero((np.asarray((x > 0).sum(axis=0)) + np.asarray((y > 0).sum(axis=0))).ravel() >= 5)
    if not groups or not len(keep):
        return pd.DataFrame([], columns=columns)
    first = _tests(x[:, keep], of_x, groups, pseudocount)
    second = _tests(y[:, keep], of_y, groups, pseudocount)
    rows = []
    for group in groups:
        a, b = first[group], second[group]
        if not a.significant.any():
            continue
        shared = {
            "direction": float((np.sign(a.change) == np.sign(b.change))[a.significant].mean()),
            "rho_significant": spearman(a.change[a.significant], b.change[a.significant]),
            "n_significant_real": int(a.significant.sum()),
            "n_significant_generated": int(b.significant.sum()),
        }
        for length in k:
            top_a, top_b = a.top(length), b.top(length)
            hits = len(top_a & top_b)
            precision = hits / len(top_b) if top_b else 0.0
            recall = hits / len(top_a)
            f1 = 2.0 * hits / (len(top_a) + len(top_b))
            rows.append({"group": group, "k": length, "precision": precision, "recall": recall, "f1": f1, **shared})
    return pd.DataFrame(rows, columns=columns)


class _Test(NamedTuple):
    score: np.ndarray  # (G,) the rank sum statistic, in standard deviations
    change: np.ndarray  # (G,) log2 fold change
    significant: np.ndarray  # (G,) bool

    def top(self, k: int) -> set[int]:
        """The k significant genes of the largest statistic; all where they are fewer."""
        order = np.lexsort((np.arange(len(self.score)), -np.abs(self.score)))
        return {int(i) for i in order[self.significant[order]][:k]}


def _tests(counts: sp.csr_matrix, groups: np.ndarray, tested: list[str], pseudocount: float) -> dict[str, _Test]:
    """Wilcoxon tests of some groups, each against all other cells, by Scanpy."""
    import anndata
    import pandas as pd
    import scanpy as sc

    # groups and genes go in as numbers: no name that Scanpy could take for something else
    codes = pd.Categorical([str(c) for c in np.unique(groups, return_inverse=True)[1]])
    code_of = dict(zip(groups, codes, strict=True))
    names = [str(g) for g in range(counts.shape[1])]
    adata = anndata.AnnData(
        log_scale(counts),
        obs=pd.DataFrame({"group": codes}, index=[str(i) for i in range(counts.shape[0])]),
        var=pd.DataFrame(index=names),
    )
    adata.uns["log1p"] = {"base": None}
    sc.tl.rank_genes_groups(adata, "group", groups=[code_of[g] for g in tested], method="wilcoxon", use_raw=False)
    found = adata.uns["rank_genes_groups"]
    scaled = scale(counts)
    result = {}
    for group in tested:
        genes = found["names"][code_of[group]].astype(np.int64)
        score, adjusted = np.zeros(len(names)), np.ones(len(names))
        score[genes] = found["scores"][code_of[group]]
        adjusted[genes] = found["pvals_adj"][code_of[group]]
        change = contrast(scaled, groups == group, groups != group).change(pseudocount)
        result[group] = _Test(score, change, (adjusted < _SIGNIFICANT) & (np.abs(change) > _MIN_CHANGE))
    return result


def perturbation_correlation(real: Any, generated: Any, control: Any) -> float:
    r"""Whether the effect of a condition points the right way: :math:`r(\mu_{real} - \mu_{control}, \mu_{gen} - \mu_{control})`.

    :math:`\mu`: mean of each gene in log1p CP10k. The same real control stands on both sides, so that its noise raises the
    value: what ignores the condition and is only a different sample of the control is not at 0. Read it beside floor and
    ceiling, and beside the slope of `fold_change_agreement`, where each side has its own control.

    Parameters
    ----------
    real, generated, control
        Raw counts of real and of generated cells under the condition and of real control cells, (n, G) each, CSR or dense,
        the same genes in the same order.

    Returns
    -------
    float
        Pearson correlation over genes that are not zero throughout, in [-1, 1].

    Raises
    ------
    ValueError
        If shapes do not fit, a side is empty or a value is no count.
    """
    x, y = count_pair(real, generated)
    _, z = count_pair(x, control)
    a, b, c = (column_means(log_scale(m)) for m in (x, y, z))
    keep = (a + b + c) > 0
    return pearson((a - c)[keep], (b - c)[keep])
