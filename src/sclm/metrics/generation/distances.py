"""Distances between two clouds of cells: MMD, Wasserstein, energy and Fréchet."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from sclm.metrics.generation.arrays import column_means, count_pair, log_scale, point_pair

if TYPE_CHECKING:
    from collections.abc import Sequence

    import scipy.sparse as sp
    from numpy.typing import ArrayLike

MIXED_SIGMAS = (0.01, 0.1, 1.0, 10.0, 100.0)  # as CFGen reports


def mmd(
    x: ArrayLike,
    y: ArrayLike,
    *,
    sigmas: Sequence[float] | float | None = None,
    kernel: str = "rbf",
    unbiased: bool = True,
) -> float:
    r"""Squared maximum mean discrepancy between two clouds of cells.

    :math:`\overline{k(x, x')} + \overline{k(y, y')} - 2\,\overline{k(x, y)}` with the Gaussian kernel
    :math:`k(a, b) = \sum_\sigma \exp(-|a - b|^2 / 2\sigma^2)` (Gretton et al. 2012), or the linear one
    :math:`k(a, b) = a \cdot b`.

    Parameters
    ----------
    x, y
        Cells as points, (n, d) and (m, d), at least 2 each.
    sigmas
        Width or widths of the Gaussian kernel, in the units of the space, > 0; kernels of several widths are summed. By
        default the median distance between the cells of `x`. CFGen reports (0.01, 0.1, 1, 10, 100) on principal components.
    kernel
        `"rbf"` or `"linear"`.
    unbiased
        Leave the distance of each cell to itself out, so that the mean over samples of one distribution is 0 and single
        values may be negative; with False the value is never negative and grows as samples shrink.

    Returns
    -------
    float
        The squared discrepancy; 0 for equal distributions.

    Raises
    ------
    ValueError
        If the dimensions differ, there are fewer than 2 cells, a width is not positive or the kernel is unknown.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> x, y = rng.normal(size=(100, 2)), rng.normal(2.0, 1.0, size=(100, 2))
    >>> mmd(x, y) > 0.5 > mmd(x, rng.normal(size=(100, 2)))
    True
    """
    from scipy.spatial.distance import cdist

    a, b = point_pair(x, y, at_least=2)
    if kernel == "linear":
        return _discrepancy(a @ a.T, b @ b.T, a @ b.T, unbiased)
    if kernel != "rbf":
        raise ValueError(f'kernel must be "rbf" or "linear", found {kernel!r}.')
    xx, yy, xy = cdist(a, a, "sqeuclidean"), cdist(b, b, "sqeuclidean"), cdist(a, b, "sqeuclidean")
    if sigmas is None:
        median = float(np.sqrt(np.median(xx[np.triu_indices(len(a), 1)])))
        widths = [median if median > 0 else 1.0]  # cells that are all the same have no width of their own
    else:
        widths = [float(s) for s in np.atleast_1d(np.asarray(sigmas, dtype=np.float64))]
    if not widths or not all(s > 0 for s in widths):
        raise ValueError(f"sigmas must be greater than 0, found {sigmas}.")
    total = 0.0
    for width in widths:
        rate = -0.5 / width**2
        total += _discrepancy(np.exp(rate * xx), np.exp(rate * yy), np.exp(rate * xy), unbiased)
    return total


def _discrepancy(xx: np.ndarray, yy: np.ndarray, xy: np.ndarray, unbiased: bool) -> float:
    return _within(xx, unbiased) + _within(yy, unbiased) - 2.0 * float(xy.mean())


def _within(values: np.ndarray, unbiased: bool) -> float:
    """Mean over pairs of cells of one side, with or without each cell against itself."""
    n = len(values)
    if not unbiased:
        return float(values.mean())
    return float((values.sum() - np.trace(values)) / (n * (n - 1)))


def energy_distance(x: ArrayLike, y: ArrayLike, *, unbiased: bool = True) -> float:
    r"""Energy distance :math:`2 E|X - Y| - E|X - X'| - E|Y - Y'|` (Székely and Rizzo 2013), Euclidean.

    Parameters
    ----------
    x, y
        Cells as points, (n, d) and (m, d), at least 2 each.
    unbiased
        Leave each cell's distance to itself out, as in `mmd`.

    Returns
    -------
    float
        In the units of the space; 0 for equal distributions.

    Raises
    ------
    ValueError
        If the dimensions differ or there are fewer than 2 cells.
    """
    from scipy.spatial.distance import cdist

    a, b = point_pair(x, y, at_least=2)
    return -_discrepancy(cdist(a, a), cdist(b, b), cdist(a, b), unbiased)


def wasserstein(x: ArrayLike, y: ArrayLike, *, p: float = 1.0, seed: int = 0) -> float:
    r"""Exact Wasserstein distance between two clouds of cells, by optimal assignment.

    :math:`W_p = (\min_\pi \frac{1}{n} \sum_i |x_i - y_{\pi(i)}|^p)^{1/p}`. The larger side is brought to the size of the
    smaller one by drawing. In many dimensions the value for two samples of one distribution is far from 0 and falls slowly
    as samples grow: compare it with that of another real half of the same size.

    Parameters
    ----------
    x, y
        Cells as points, (n, d) and (m, d). Time grows with the cube of the smaller number: 2,000 take seconds.
    p
        Power of the distance, at least 1.
    seed
        Of the draw from the larger side.

    Returns
    -------
    float
        In the units of the space, at least 0.

    Raises
    ------
    ValueError
        If the dimensions differ, a side is empty or `p` is below 1.
    """
    from scipy.optimize import linear_sum_assignment
    from scipy.spatial.distance import cdist

    a, b = point_pair(x, y)
    if not p >= 1:
        raise ValueError(f"p must be at least 1, found {p}.")
    rng = np.random.default_rng(seed)
    n = min(len(a), len(b))
    a, b = (side if len(side) == n else side[rng.choice(len(side), n, replace=False)] for side in (a, b))
    cost = cdist(a, b) ** p
    rows, columns = linear_sum_assignment(cost)
    return float(cost[rows, columns].mean() ** (1.0 / p))


def sliced_wasserstein(x: ArrayLike, y: ArrayLike, *, p: float = 2.0, n_projections: int = 200, seed: int = 0) -> float:
    r"""Sliced Wasserstein distance: the mean over random directions of the distance along a line.

    :math:`(E_\theta W_p^p(\theta \cdot X, \theta \cdot Y))^{1/p}`, :math:`\theta` uniform on the sphere (Bonneel et al.
    2015). Along a line the distance is exact, for sides of different size too.

    Parameters
    ----------
    x, y
        Cells as points, (n, d) and (m, d).
    p
        Power of the distance, at least 1.
    n_projections
        Number of directions.
    seed
        Of the directions.

    Returns
    -------
    float
        In the units of the space, at least 0.

    Raises
    ------
    ValueError
        If the dimensions differ, a side is empty, `p` is below 1 or there are no directions.
    """
    a, b = point_pair(x, y)
    if n_projections < 1:
        raise ValueError(f"n_projections must be at least 1, found {n_projections}.")
    directions = np.random.default_rng(seed).normal(size=(a.shape[1], n_projections))
    directions /= np.linalg.norm(directions, axis=0)
    return float(_line_costs(a @ directions, b @ directions, p).mean() ** (1.0 / p))


def _line_costs(x: np.ndarray, y: np.ndarray, p: float) -> np.ndarray:
    """W_p^p of each column, (n, c) and (m, c) → (c,): sorted values matched at equal quantiles."""
    if not p >= 1:
        raise ValueError(f"p must be at least 1, found {p}.")
    n, m = len(x), len(y)
    low, high = np.sort(x, axis=0), np.sort(y, axis=0)
    if n == m:
        return (np.abs(low - high) ** p).mean(axis=0)
    # Quantile functions are steps at i / n and j / m: between two steps of either, both are constant. Steps are counted in
    # units of 1 / (n m), whole numbers, so that none is split by rounding.
    steps = np.union1d(np.arange(1, n + 1) * m, np.arange(1, m + 1) * n)  # (s,)
    width = np.diff(steps, prepend=0) / (n * m)
    return width @ (np.abs(low[(steps - 1) // m] - high[(steps - 1) // n]) ** p)  # (s,) @ (s, c) -> (c,)


def gene_wasserstein(real: Any, generated: Any, *, min_share: float = 0.01) -> float:
    """Wasserstein-1 distance of each gene's distribution over cells (log1p CP10k), averaged over genes.

    Parameters
    ----------
    real, generated
        Raw counts, (n_real, G) and (n_generated, G), CSR or dense, the same genes in the same order.
    min_share
        Genes expressed in more than this share of the real cells (0–1) are compared.

    Returns
    -------
    float
        In log1p CP10k, at least 0; NaN where no gene is left.

    Raises
    ------
    ValueError
        If there are no cells, the numbers of genes differ or a value is no count.
    """
    first, second = count_pair(real, generated)
    keep = np.flatnonzero(column_means(first > 0) > min_share)
    return gene_wasserstein_of(log_scale(first)[:, keep], log_scale(second)[:, keep])


def gene_wasserstein_of(x: sp.csr_matrix, y: sp.csr_matrix) -> float:
    """As `gene_wasserstein`, over all columns of log-normalised counts."""
    n_genes = x.shape[1]
    if not n_genes:
        return float("nan")
    x, y = x.tocsc(), y.tocsc()
    total = 0.0
    for start in range(0, n_genes, 1000):  # dense blocks of 1,000 genes: memory stays at some MB
        part = slice(start, start + 1000)
        total += float(_line_costs(x[:, part].toarray(), y[:, part].toarray(), 1.0).sum())
    return total / n_genes


def frechet_distance(x: ArrayLike, y: ArrayLike, *, ridge: float = 1e-6) -> float:
    r"""Fréchet distance between the Gaussians fitted to two clouds of cells.

    :math:`|\mu_x - \mu_y|^2 + \mathrm{tr}(S_x + S_y - 2 (S_x S_y)^{1/2})` (Dowson and Landau 1982). The space is yours to
    name: this is no FID and no scFID unless the points come from the network that those are defined by.

    Parameters
    ----------
    x, y
        Cells as points, (n, d) and (m, d), at least 2 each. With fewer than some ten cells a dimension the value for two
        samples of one distribution is well above 0.
    ridge
        Added to the diagonal of both covariances, at least 0.

    Returns
    -------
    float
        In squared units of the space, at least 0 up to rounding.

    Raises
    ------
    ValueError
        If the dimensions differ, there are fewer than 2 cells or the ridge is negative.
    """
    a, b = point_pair(x, y, at_least=2)
    if not ridge >= 0:
        raise ValueError(f"ridge must be at least 0, found {ridge}.")
    d = a.shape[1]
    # np.cov gives a number, not a matrix, for one dimension: (d, d) either way
    s, t = (np.cov(side, rowvar=False).reshape(d, d) + ridge * np.eye(d) for side in (a, b))
    values, vectors = np.linalg.eigh(s)
    root = (vectors * np.sqrt(np.clip(values, 0.0, None))) @ vectors.T
    # tr (S T)^(1/2) = tr (S^(1/2) T S^(1/2))^(1/2): symmetric, so its eigenvalues are real and stable
    cross = np.sqrt(np.clip(np.linalg.eigvalsh(root @ t @ root), 0.0, None)).sum()
    shift = a.mean(axis=0) - b.mean(axis=0)
    return float(shift @ shift + np.trace(s) + np.trace(t) - 2.0 * cross)
