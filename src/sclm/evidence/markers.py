"""Marker genes of groups of cells, and pairs of them that no cell expresses together."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp

from sclm.cells import log_normalise

if TYPE_CHECKING:
    from collections.abc import Iterator

N_MARKERS = 20  # a group, most of them for pairs: more genes catch a second programme in shallow cells
_MIN_MARKERS = 3  # fewer say more about single genes than about a programme
_DETECTED = 0.25  # share of the group's cells
_FOLD = 0.7  # natural logarithm: twice the mean expression of the rest
_EFFECT = 0.5  # standard deviations between the group and the rest
MIN_CELLS = 10  # a smaller group has no markers of its own
_MAX_GENES = 1500  # genes among which pairs are looked for: their co-detections are a dense matrix
_MAX_PAIRS = 20_000  # pairs kept: 160 kB in a checkpoint
_RATIO = 0.3  # co-detection that counts as nearly absent, in units of what independence gives
_PARTNERS = 6  # of one gene that count: a single stray transcript must not fill the sum
_EXPECTED = 0.08  # co-detection under independence from which on a pair tells something about one cell


def marker_genes(counts: sp.csr_matrix, groups: np.ndarray, n_groups: int) -> np.ndarray:
    r"""Up-regulated genes of each group, by Cohen's effect size of log-normalised counts against all other cells.

    :math:`d = (\bar y_g - \bar y_{\neg g}) / \sqrt{(v_g + v_{\neg g}) / 2}`; only genes detected in a quarter of the group,
    with twice the mean of the rest and :math:`d \ge 0.5`.

    Parameters
    ----------
    counts
        (n_cells, n_genes) raw counts.
    groups
        (n_cells,) codes in [0, n_groups).
    n_groups
        Number of groups.

    Returns
    -------
    (n_groups, 20) int32 columns of ``counts``, best first, padded with -1; all -1 where fewer than 3 genes qualify or the
    group has fewer than 10 cells.
    """
    y = log_normalise(counts).astype(np.float64)
    n_cells = counts.shape[0]
    member = _members(groups, n_groups)
    n = np.bincount(groups, minlength=n_groups)
    total, squares = np.asarray(y.sum(axis=0)).ravel(), np.asarray(y.multiply(y).sum(axis=0)).ravel()
    markers = np.full((n_groups, N_MARKERS), -1, dtype=np.int32)
    for g in range(n_groups):
        if n[g] < MIN_CELLS or n[g] == n_cells:
            continue
        own = y[member[g].indices]
        sums, own_squares = np.asarray(own.sum(axis=0)).ravel(), np.asarray(own.multiply(own).sum(axis=0)).ravel()
        mean, rest = sums / n[g], (total - sums) / (n_cells - n[g])
        variance = own_squares / n[g] - mean**2 + (squares - own_squares) / (n_cells - n[g]) - rest**2
        effect = (mean - rest) / np.sqrt(np.maximum(variance / 2, 1e-4))
        detected = np.bincount(own.indices, minlength=y.shape[1]) / n[g]
        # Means of logarithms understate the fold where a gene is rare, so the mean itself is compared.
        fold = np.log(np.expm1(mean) + 1e-3) - np.log(np.expm1(rest) + 1e-3)
        able = np.flatnonzero((detected >= _DETECTED) & (fold >= _FOLD) & (effect >= _EFFECT))
        best = able[np.argsort(-effect[able], kind="stable")[:N_MARKERS]]
        if len(best) >= _MIN_MARKERS:
            markers[g, : len(best)] = best
    return markers


def exclusive_pairs(counts: sp.csr_matrix, groups: np.ndarray, markers: np.ndarray) -> np.ndarray:
    r"""Pairs of markers of two groups that are hardly ever detected in one cell.

    With :math:`p_{ga}` the share of group :math:`g` that expresses gene :math:`a` and :math:`c_{gab}` the share that
    expresses both, genes :math:`a, b`, most frequent in groups :math:`i \ne j`, are exclusive when
    :math:`\max_g c_{gab} \le 0.3\, p_{ia} p_{jb}`: in no group do they meet as often as a third of what a cell with both
    programmes, independent of each other, would show. Small groups count with 10 cells more than they have.

    Parameters
    ----------
    counts
        (n_cells, n_genes) raw counts.
    groups
        (n_cells,) codes of the groups.
    markers
        As :func:`marker_genes` gives them.

    Returns
    -------
    (n_pairs, 2) int32 columns of ``counts``, at most 20,000, those first that a mixed cell shows most often.
    """
    n_groups = len(markers)
    depth = max(_MIN_MARKERS, min(N_MARKERS, _MAX_GENES // n_groups))
    genes = np.unique(markers[:, :depth])
    genes = genes[genes >= 0]
    if len(genes) < 2:
        return np.zeros((0, 2), dtype=np.int32)
    detected = counts[:, genes]
    detected = sp.csr_matrix((np.ones(detected.nnz, np.float32), detected.indices, detected.indptr), detected.shape)
    share = np.zeros((n_groups, len(genes)), dtype=np.float32)
    together = np.zeros((len(genes), len(genes)), dtype=np.float32)
    for g, rows in enumerate(_rows(groups, n_groups)):
        if len(rows):
            block = detected[rows]
            both = (block.T @ block).toarray()  # (n_genes, n_genes), the diagonal holds single detections
            share[g] = both.diagonal() / len(rows) if len(rows) >= MIN_CELLS else 0
            np.maximum(together, both / (len(rows) + 10), out=together)
    home = share.argmax(axis=0)
    expected = np.outer(share.max(axis=0), share.max(axis=0))
    chosen = np.triu((home[:, None] != home[None, :]) & (together <= _RATIO * expected) & (expected >= _EXPECTED), 1)
    first, second = np.nonzero(chosen)
    best = np.argsort(-expected[first, second], kind="stable")[:_MAX_PAIRS]
    return np.column_stack([genes[first[best]], genes[second[best]]]).astype(np.int32)


def count_pairs(counts: sp.csr_matrix, pairs: np.ndarray) -> np.ndarray:
    r"""Expressed genes of a cell that exclude each other: :math:`\sum_a \min(n_a, 6)` over its genes :math:`a`.

    :math:`n_a` is the number of expressed genes that exclude gene :math:`a`. Without the bound, one stray transcript would
    count as often as its opposite programme has genes.

    Parameters
    ----------
    counts
        (n_cells, n_genes) raw counts.
    pairs
        As :func:`exclusive_pairs` gives them.

    Returns
    -------
    (n_cells,) float64.
    """
    genes, where = np.unique(pairs, return_inverse=True)
    where = where.reshape(-1, 2)  # (n_pairs * 2,) → (n_pairs, 2), positions in `genes`
    detected = counts[:, genes]
    detected = sp.csr_matrix((np.ones(detected.nnz), detected.indices, detected.indptr), detected.shape)
    partner = sp.csr_matrix((np.ones(len(where)), (where[:, 0], where[:, 1])), (len(genes), len(genes)))
    met = (
        (detected @ (partner + partner.T)).multiply(detected).tocsr()
    )  # (n_cells, n_genes) partners of expressed genes
    met.data = np.minimum(met.data, _PARTNERS)
    return np.asarray(met.sum(axis=1)).ravel()


def _members(groups: np.ndarray, n_groups: int) -> sp.csr_matrix:
    """(n_groups, n_cells) one-hot."""
    cells = np.arange(len(groups))
    return sp.csr_matrix((np.ones(len(groups)), (groups, cells)), (n_groups, len(groups)))


def _rows(groups: np.ndarray, n_groups: int) -> Iterator[np.ndarray]:
    """Rows of each group, ascending."""
    member = _members(groups, n_groups)
    for g in range(n_groups):
        yield member.indices[member.indptr[g] : member.indptr[g + 1]]
