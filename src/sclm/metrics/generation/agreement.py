"""Agreement of genes: means, variances, zeros, depth and gene-gene correlation, real against generated."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from sclm.metrics.generation.arrays import column_means, count_pair, log_scale, pearson, spearman, variance

if TYPE_CHECKING:
    import scipy.sparse as sp


def moments(real: Any, generated: Any, *, min_share: float = 0.01) -> dict[str, float]:
    """Whether genes have the means, variances and zeros of real cells.

    Parameters
    ----------
    real, generated
        Raw counts, (n_real, G) and (n_generated, G), CSR or dense, the same genes in the same order.
    min_share
        Genes expressed in more than this share of the real cells (0–1) are compared.

    Returns
    -------
    dict of str to float
        `depth_ratio` and `nnz_ratio`: counts, and expressed genes, of a generated cell over those of a real one, on average
        (1 is right). `mean_r`, `var_r`: Pearson correlation over genes of means and of variances of log1p CP10k;
        `mean_rho`, `var_rho`: Spearman. `zero_r`, `zero_rho`: of the share of cells without the gene; `zero_rmse`: root mean
        squared difference of that share. Correlations of nearly 1 are usual and say little; the ceiling tells how near.

    Raises
    ------
    ValueError
        If there are no cells, the numbers of genes differ or a value is no count.

    Examples
    --------
    >>> import numpy as np
    >>> cells = np.random.default_rng(0).poisson(np.linspace(0.1, 3, 40), size=(200, 40))
    >>> result = moments(cells[:100], cells[100:])
    >>> result["mean_r"] > 0.95, abs(result["depth_ratio"] - 1) < 0.1
    (True, True)
    """
    first, second = count_pair(real, generated)
    return moments_of(first, second, log_scale(first), log_scale(second), min_share=min_share)


def moments_of(
    real: sp.csr_matrix,
    generated: sp.csr_matrix,
    log_real: sp.csr_matrix,
    log_generated: sp.csr_matrix,
    *,
    min_share: float = 0.01,
) -> dict[str, float]:
    """As `moments`, for those who have the log-normalised counts already."""
    seen_real, seen_generated = column_means(real > 0), column_means(generated > 0)
    keep = seen_real > min_share
    mean_real, mean_generated = column_means(log_real), column_means(log_generated)
    var_real, var_generated = variance(log_real, mean_real), variance(log_generated, mean_generated)
    result = {
        "depth_ratio": _ratio(_per_cell(generated), _per_cell(real)),
        "nnz_ratio": _ratio(generated.nnz / generated.shape[0], real.nnz / real.shape[0]),
    }
    for name, x, y in (
        ("mean", mean_real, mean_generated),
        ("var", var_real, var_generated),
        ("zero", 1.0 - seen_real, 1.0 - seen_generated),
    ):
        result[f"{name}_r"] = pearson(x[keep], y[keep])
        result[f"{name}_rho"] = spearman(x[keep], y[keep])
    gap = seen_real[keep] - seen_generated[keep]
    result["zero_rmse"] = float(np.sqrt(np.mean(gap**2))) if keep.any() else float("nan")
    return result


def _per_cell(counts: sp.csr_matrix) -> float:
    return float(counts.sum(dtype=np.float64)) / counts.shape[0]


def _ratio(x: float, y: float) -> float:
    return x / y if y > 0 else float("nan")


def gene_correlation(real: Any, generated: Any, *, n_genes: int = 200) -> float:
    """Whether genes go together as in real cells: Pearson correlation of the two gene-gene correlation matrices.

    Over the pairs of the genes of highest variance of log1p CP10k in the real cells (upper triangles, pairs without a
    correlation on one side left out).

    Parameters
    ----------
    real, generated
        Raw counts, (n_real, G) and (n_generated, G), CSR or dense, the same genes in the same order.
    n_genes
        How many genes are taken, at least 3.

    Returns
    -------
    float
        In [-1, 1]; NaN where there are fewer than two pairs. Few cells lower it: read it beside the ceiling.

    Raises
    ------
    ValueError
        If there are no cells, the numbers of genes differ, a value is no count or `n_genes` is below 3.
    """
    first, second = (log_scale(m) for m in count_pair(real, generated))
    if n_genes < 3:
        raise ValueError(f"n_genes must be at least 3, found {n_genes}.")
    return correlation_of(first, second, variable_genes(first, n_genes))


def variable_genes(log: sp.csr_matrix, n: int) -> np.ndarray:
    """The genes of highest variance, highest first, (min(n, G),) int64."""
    return np.argsort(-variance(log, column_means(log)))[:n]


def correlation_of(log_real: sp.csr_matrix, log_generated: sp.csr_matrix, genes: np.ndarray) -> float:
    """As `gene_correlation`, over genes that are given."""
    upper = np.triu_indices(len(genes), 1)
    with np.errstate(invalid="ignore", divide="ignore"):  # a gene that does not vary has no correlation: NaN
        x = np.corrcoef(log_real[:, genes].toarray().T)[upper]
        y = np.corrcoef(log_generated[:, genes].toarray().T)[upper]
    both = np.isfinite(x) & np.isfinite(y)
    return pearson(x[both], y[both])
