"""What can be said of a map without known fractions: markers, smoothness on tissue, genes that were left out.

Legend of shapes: n spots · K cell types · G genes · m variables.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pandas as pd
    from numpy.typing import ArrayLike

_BLOCK = 1 << 24  # values of dense columns worked on at a time


def marker_agreement(
    counts: Any,
    genes: Sequence[str],
    fraction: ArrayLike,
    categories: Sequence[str],
    markers: Mapping[str, Sequence[str]],
) -> pd.DataFrame:
    """Whether a cell type is mapped to where its marker genes are expressed.

    For each type, the Spearman correlation over spots of its fraction with the sum of its markers' log-normalised
    expression, log(1 + counts per 10,000). Markers that were not used for the map are the stronger check.

    Parameters
    ----------
    counts
        (n, G) raw counts, sparse or dense.
    genes
        Names of the G genes.
    fraction
        (n, K) fractions; spots with a missing value, and spots without counts, are left out.
    categories
        Names of the K types.
    markers
        Type → its marker genes. Markers that are not among `genes` are left out.

    Returns
    -------
    pandas.DataFrame
        One row a type of `categories`: `cell_type`; `spearman`, NaN for a type without markers here, or whose fraction
        or markers are the same in all spots; `n_markers` found among `genes`; `n_spots`. The mean of `spearman` is one
        figure for the map.

    Raises
    ------
    KeyError
        If `markers` names a type that is not in `categories`.
    ValueError
        If shapes do not fit.
    """
    import pandas as pd
    from scipy.stats import rankdata

    from sclm.cells import log_normalise

    matrix, share = _counts(counts, "counts"), _columns(fraction, "fraction")
    columns, types = [str(g) for g in genes], [str(c) for c in categories]
    if matrix.shape != (len(share), len(columns)):
        raise ValueError(
            f"counts must be of shape ({len(share):,}, {len(columns):,}), the spots of fraction and the names in genes, "
            f"found {matrix.shape}."
        )
    _require_names(types, share.shape[1], "categories", "columns of fraction")
    stray = [t for t in markers if t not in types]
    if stray:
        raise KeyError(f"markers must name types of categories, found {stray[0]!r}; there are {', '.join(types[:10])}.")
    here = np.isfinite(share).all(axis=1) & (np.asarray(matrix.sum(axis=1)).ravel() > 0)
    log, share = log_normalise(matrix[here]), share[here]
    column_of = {gene: i for i, gene in enumerate(columns)}
    rows = []
    for k, name in enumerate(types):
        # a set: a marker that is listed twice is one
        found = sorted({column_of[g] for g in map(str, markers.get(name, ())) if g in column_of})
        expression = np.asarray(log[:, found].sum(axis=1, dtype=np.float64)).ravel()
        # (n, 1) each: ranks, ties at their mean
        value = _correlation(rankdata(share[:, k])[:, None], rankdata(expression)[:, None])[0] if found else np.nan
        rows.append((name, float(value), len(found), len(share)))
    return pd.DataFrame(rows, columns=["cell_type", "spearman", "n_markers", "n_spots"])


def morans_i(values: ArrayLike, graph: Any) -> np.ndarray:
    r"""Moran's I: how alike neighbouring spots are, of many variables at once.

    .. math:: I = \frac{n}{\sum_{ij} w_{ij}} \frac{\sum_{ij} w_{ij} z_i z_j}{\sum_i z_i^2}, \qquad z_i = x_i - \bar x

    (Moran, Biometrika 1950), equal to ``scanpy.metrics.morans_i`` where no spot has a missing value.

    Parameters
    ----------
    values
        (n, m) such as fractions, or (n,) for one variable. Spots with a missing value in any variable are left out with
        their edges.
    graph
        (n, n) sparse weights :math:`w_{ij}`, such as of :func:`sclm.spatial.neighbour_graph`.

    Returns
    -------
    numpy.ndarray
        (m,) float64: about :math:`-1 / (n - 1)` where values do not depend on place, towards 1 where neighbours are
        alike, negative where they differ more than others. NaN for a variable that does not vary, or without edges.

    Raises
    ------
    TypeError
        If `graph` is not sparse.
    ValueError
        If shapes do not fit.

    Examples
    --------
    >>> from sclm.spatial import neighbour_graph
    >>> line = [[float(i), 0.0] for i in range(6)]
    >>> morans_i([0, 0, 0, 1, 1, 1], neighbour_graph(line, n_neighbours=2))
    array([0.6])
    """
    array = np.asarray(values, dtype=np.float64)
    if array.ndim == 1:
        array = array[:, None]  # (n,) -> (n, 1)
    array = _columns(array, "values")
    if not sp.issparse(graph):
        raise TypeError(
            f"graph must be a scipy sparse matrix, found {type(graph).__name__}. sclm.spatial.neighbour_graph makes one."
        )
    if graph.shape != (len(array), len(array)):
        raise ValueError(
            f"graph must be of shape ({len(array)}, {len(array)}), a row and a column a spot of values, found {graph.shape}."
        )
    weights = sp.csr_matrix(graph, dtype=np.float64)
    here = np.isfinite(array).all(axis=1)
    if not here.all():
        array, weights = array[here], weights[here][:, here]
    total = weights.sum()
    result = np.full(array.shape[1], np.nan)
    if not len(array) or total == 0:
        return result
    width = max(1, _BLOCK // len(array))
    for start in range(0, array.shape[1], width):
        part = slice(start, start + width)
        varies = np.ptp(array[:, part], axis=0) > 0
        z = array[:, part] - array[:, part].mean(axis=0)
        np.divide((z * (weights @ z)).sum(axis=0), (z**2).sum(axis=0), out=result[part], where=varies)
    return result * (len(array) / total)


def held_out_genes(
    counts: Any, signatures: ArrayLike, abundance: ArrayLike, genes: Sequence[str] | None = None
) -> pd.DataFrame:
    """Whether a map predicts genes that it has not seen.

    The expected counts of gene g in spot s are the sum over types of abundance times signature. They are correlated with
    the observed ones over spots, gene by gene, beside a baseline that knows the spots' depth only (the sum of the
    abundances): what a map knows of the types is what it adds to that.

    Parameters
    ----------
    counts
        (n, G) raw counts of the genes that were left out, sparse or dense.
    signatures
        (K, G) expression of these genes in each type, per unit of abundance.
    abundance
        (n, K) amount of each type in each spot (not fractions, which have lost the depth), such as expected counts. Spots
        with a missing value are left out.
    genes
        Names of the G genes, by default their numbers.

    Returns
    -------
    pandas.DataFrame
        One row a gene: `gene`; `pearson`, of predicted and observed counts; `pearson_depth`, of the baseline; `total`
        observed counts; `n_spots`. A correlation is NaN where a side does not vary.

    Raises
    ------
    ValueError
        If shapes do not fit.
    """
    import pandas as pd

    matrix = _counts(counts, "counts")
    amount, profile = _columns(abundance, "abundance"), _columns(signatures, "signatures")
    if profile.shape != (amount.shape[1], matrix.shape[1]):
        raise ValueError(
            f"signatures must be of shape ({amount.shape[1]}, {matrix.shape[1]:,}), the types of abundance and the genes "
            f"of counts, found {profile.shape}."
        )
    if len(amount) != matrix.shape[0]:
        raise ValueError(f"abundance must have a row for each of {matrix.shape[0]:,} spots, found {len(amount):,}.")
    names: list[Any] = list(range(matrix.shape[1])) if genes is None else list(genes)
    _require_names(names, matrix.shape[1], "genes", "columns of counts")
    here = np.isfinite(amount).all(axis=1)
    matrix, amount = sp.csc_matrix(matrix[here]), amount[here]
    depth = amount.sum(axis=1, keepdims=True)
    model, baseline = np.full((2, matrix.shape[1]), np.nan)
    width = max(1, _BLOCK // max(1, len(amount)))
    for start in range(0, matrix.shape[1], width):
        part = slice(start, start + width)
        observed = matrix[:, part].toarray().astype(np.float64)  # (n, width)
        model[part] = _correlation(amount @ profile[:, part], observed)
        baseline[part] = _correlation(depth, observed)
    return pd.DataFrame(
        {
            "gene": names,
            "pearson": model,
            "pearson_depth": baseline,
            "total": np.asarray(matrix.sum(axis=0)).ravel(),
            "n_spots": len(amount),
        }
    )


# -- shared ----------------------------------------------------------------------------------------------------------


def _columns(values: ArrayLike, name: str) -> np.ndarray:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 2:
        raise ValueError(f"{name} must have two dimensions, found shape {array.shape}.")
    return array


def _counts(values: Any, name: str) -> sp.csr_matrix:
    matrix = sp.csr_matrix(values)
    if matrix.nnz and not (np.isfinite(matrix.data) & (matrix.data >= 0)).all():
        raise ValueError(f"{name} must hold raw counts, found values that are missing or below 0.")
    return matrix


def _require_names(names: Sequence[Any], n: int, what: str, of: str) -> None:
    if len(names) != n:
        raise ValueError(f"{what} must name the {n:,} {of}, found {len(names):,} names.")


def _correlation(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Pearson correlation of the columns of x and y, (n, m) or (n, 1) each; NaN where one does not vary."""
    if len(x) < 2:
        return np.full(max(x.shape[1], y.shape[1]), np.nan)
    varies = (np.ptp(x, axis=0) > 0) & (np.ptp(y, axis=0) > 0)
    a, b = x - x.mean(axis=0), y - y.mean(axis=0)
    scale = np.sqrt((a**2).sum(axis=0)) * np.sqrt((b**2).sum(axis=0))
    result = np.full(varies.shape, np.nan)
    return np.divide((a * b).sum(axis=0), scale, out=result, where=varies & (scale > 0))
