"""How a spot is written: principal components of its log counts, learnt block by block, on the scale of its section."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from sclm.cells import log_normalise
from sclm.cells.dispersion import standardised_dispersion

if TYPE_CHECKING:
    from collections.abc import Iterator

    import scipy.sparse as sp

    from sclm.cells import CellSource

_FEWEST_SPOTS = 10  # spots with counts that components are learnt from
_COUNTED = 10  # spots that must have counted a gene, or 5 % of them where there are fewer than 200
_BLOCK_VALUES = 16 << 20  # float32 values of a block that is made dense: 64 MiB
_BLOCK_CELLS = 4096  # the same blocks whatever the file looks like, so that sums are rounded alike


class Components(NamedTuple):
    """What turns log counts into components. Legend: G genes in use · k components.

    Attributes
    ----------
    genes
        Names of the genes in use, in alphabetical order.
    scale
        (G,) float32 standard deviation of each gene within libraries, or 1; log counts are divided by it and cut at 10.
    loadings
        (G, k) float32, columns of unit length, the first with most variance. The largest entry of a column is positive.
    variance
        (k,) float64 of the components, within libraries.
    """

    genes: tuple[str, ...]
    scale: np.ndarray
    loadings: np.ndarray
    variance: np.ndarray


def filled_spots(source: CellSource) -> np.ndarray:
    """(n,) bool: spots with counts."""
    return np.concatenate([np.diff(cells.counts.indptr) > 0 for cells in source.blocks()])


def learn_components(
    source: CellSource,
    rows: np.ndarray,
    library: np.ndarray,
    n_genes: int,
    n_components: int,
    *,
    scale_genes: bool = True,
) -> Components:
    """Principal components of variable genes within libraries, in three passes and the memory of a block.

    Genes are those whose log-normalised counts vary most within libraries among genes of similar mean
    (:func:`sclm.cells.dispersion.standardised_dispersion`). They are divided by their standard deviation, and components are eigenvectors of their covariance within libraries, so that what differs between sections only is no component.

    Parameters
    ----------
    source
        Raw counts.
    rows
        (n,) rows of the spots with counts, in the order in which they are added up.
    library
        (n,) int64 number of the section of each of `rows`.
    n_genes, n_components
        At most so many.
    scale_genes
        Divide genes by their standard deviation; else they weigh by it.

    Raises
    ------
    ValueError
        If there are fewer than ten spots, or fewer than two genes vary.
    """
    if len(rows) < _FEWEST_SPOTS:
        raise ValueError(
            f"A spatial embedding is learnt from the spots of a section, at least {_FEWEST_SPOTS} with counts, found {len(rows)}."
        )
    chosen, scale = _variable(source, rows, library, n_genes)
    if not scale_genes:
        scale = np.ones_like(scale)
    size = len(chosen)
    n_libraries = int(library.max()) + 1
    sums, gram = np.zeros((n_libraries, size)), np.zeros((size, size))
    for start, block in _blocks(source, rows, chosen, scale):
        own = library[start : start + len(block)]
        for name in np.unique(own):
            sums[name] += block[own == name].sum(axis=0, dtype=np.float64)
        gram += block.T @ block  # in float32 within a block, in float64 over blocks
    counted = np.bincount(library, minlength=n_libraries)
    covariance = (gram - (sums / np.maximum(counted, 1)[:, None]).T @ sums) / len(rows)
    k = min(n_components, size, len(rows) - 1)
    variance, loadings = _leading(covariance, k)
    names = tuple(str(source.genes[i]) for i in chosen)
    return Components(names, scale.astype(np.float32), loadings.astype(np.float32), variance)


def project(source: CellSource, rows: np.ndarray, library: np.ndarray, components: Components) -> np.ndarray:
    """(n, k) float32 components of spots, each library with mean 0 and, over all components, mean square 1.

    The spots of one library alone decide its values. Without the second, a section with strong differences gets nearly all domains where
    several are divided together.
    """
    place = source.genes.get_indexer(list(components.genes))
    if (place < 0).any():
        raise ValueError(
            f"The section must hold the {len(place):,} genes of the model, found {int((place >= 0).sum()):,}. Fit it anew."
        )
    out = np.empty((len(rows), components.loadings.shape[1]), dtype=np.float32)
    for start, block in _blocks(source, rows, place, components.scale):
        out[start : start + len(block)] = block @ components.loadings
    for name in np.unique(library):
        own = library == name
        values = out[own].astype(np.float64)
        values -= values.mean(axis=0)
        out[own] = values / max(float(np.sqrt(np.mean(values**2))), 1e-12)
    return out


# Parts --------------------------------------------------------------------------------------------------------------


def _variable(source: CellSource, rows: np.ndarray, library: np.ndarray, n_genes: int) -> tuple[np.ndarray, np.ndarray]:
    """Columns of the genes to use, by name, and their standard deviations."""
    seen, mean, variance = _moments(source, rows, library)
    least = min(_COUNTED, max(2, round(0.05 * len(rows))))
    usable = (seen >= least) & (variance > 1e-12)
    if usable.sum() < 2:
        raise ValueError(
            f"At least two genes must vary between spots, found {int(usable.sum())} of {source.n_genes:,} that are counted in "
            f"{least} spots or more. Check the counts, or the filter that left these spots."
        )
    score = np.full(source.n_genes, -np.inf)
    score[usable] = standardised_dispersion(mean[usable], variance[usable] + mean[usable] ** 2)
    names = np.asarray(source.genes.astype(str), dtype=str)
    order = np.lexsort((names, -score))[: min(n_genes, int(usable.sum()))]
    chosen = order[np.argsort(names[order], kind="stable")]
    return chosen, np.sqrt(variance[chosen]).astype(np.float32)


def _moments(source: CellSource, rows: np.ndarray, library: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Spots that counted each gene, and mean and variance within libraries of its log counts."""
    n_libraries = int(library.max()) + 1
    seen, squares = np.zeros(source.n_genes), np.zeros(source.n_genes)
    sums = np.zeros((n_libraries, source.n_genes))
    for start, logs in _logs(source, rows, None):
        own = library[start : start + logs.shape[0]]
        seen += np.bincount(logs.indices, minlength=source.n_genes)
        squares += np.bincount(logs.indices, logs.data.astype(np.float64) ** 2, minlength=source.n_genes)
        for name in np.unique(own):
            sums[name] += np.asarray(logs[own == name].sum(axis=0, dtype=np.float64)).ravel()
    counted = np.bincount(library, minlength=n_libraries)
    between = (sums**2 / np.maximum(counted, 1)[:, None]).sum(axis=0)
    return seen, sums.sum(axis=0) / len(rows), np.maximum(squares - between, 0) / len(rows)


def _logs(source: CellSource, rows: np.ndarray, columns: np.ndarray | None) -> Iterator[tuple[int, sp.csr_matrix]]:
    """Log-normalised counts of all or some genes, block by block; totals are those of all genes."""
    start = 0
    width = source.n_genes if columns is None else len(columns)
    for cells in source.blocks(max(64, min(_BLOCK_CELLS, _BLOCK_VALUES // width)), rows=rows):
        logs = log_normalise(cells.counts)
        yield start, logs if columns is None else logs[:, columns]
        start += cells.n_cells


def _blocks(
    source: CellSource, rows: np.ndarray, columns: np.ndarray, scale: np.ndarray
) -> Iterator[tuple[int, np.ndarray]]:
    """Dense float32 blocks of the values in use: log counts over their spread, at most 10."""
    inverse = (1 / np.maximum(scale, 1e-6)).astype(np.float32)
    for start, logs in _logs(source, rows, columns):
        block = logs.toarray()
        block *= inverse
        np.minimum(block, 10, out=block)
        yield start, block


def _leading(covariance: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k largest eigenvalues and their vectors, the sign of each set by its largest entry."""
    from scipy.linalg import eigh
    from scipy.sparse.linalg import eigsh

    size = len(covariance)
    if k > size // 4:
        values, vectors = eigh(covariance, subset_by_index=(size - k, size - 1))
    else:
        values, vectors = eigsh(covariance, k=k, v0=np.ones(size), tol=1e-10)
    order = np.argsort(-values, kind="stable")
    values, vectors = np.maximum(values[order], 0), vectors[:, order]
    top = np.abs(vectors).argmax(axis=0)
    return values, vectors * np.where(vectors[top, np.arange(k)] < 0, -1.0, 1.0)
