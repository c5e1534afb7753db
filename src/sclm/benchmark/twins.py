"""Cells that stand in the data twice: under one name or barcode, with the same counts, or nearly so."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd

from sclm.cells import log_normalise
from sclm.cells.hashes import cell_hashes

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import scipy.sparse as sp

KINDS = ("name", "barcode", "counts", "near")
CERTAIN = ("name", "counts", "near")  # kinds that do not come about by chance
_BARCODE = re.compile(r"[ACGT]{12,}")
_GENES = 20  # expressed genes below which two cells are alike by chance
_ALL_PAIRS = 3000  # cells up to which every pair is looked at
_COMPONENTS, _CANDIDATES = 50, 30
_BLOCK = 512


class Twins(NamedTuple):
    """Cells that stand in the data more than once.

    Attributes
    ----------
    names, barcodes, counts
        (n,) int64: cells of one number have the same name, the same barcode, or exactly the same counts; -1 for cells without a twin.
        A cell whose name holds a barcode, which is 12 or more of A, C, G and T in a row, is known by that and not by its name: what
        stands around it changes when samples are put together. Two samples share barcodes by chance.
    near
        (p, 2) int64 rows of pairs whose log-normalised counts have a cosine of at least the bound, without those of equal counts.
    similarity
        (p,) float64 cosine of each pair.
    bound
        The bound on the cosine; NaN where near twins were not looked for.
    """

    names: np.ndarray
    barcodes: np.ndarray
    counts: np.ndarray
    near: np.ndarray
    similarity: np.ndarray
    bound: float

    def across(self, test: np.ndarray) -> pd.DataFrame:
        """Cells of the test part with a twin in the training part.

        Parameters
        ----------
        test
            (n,) bool, whether a cell is in the test part.

        Returns
        -------
        One row a test cell and kind: ``cell``, ``twin`` (rows; the most similar twin or the first), ``kind`` (``"name"``,
        ``"barcode"``, ``"counts"``, ``"near"``), ``similarity`` (1 for equal counts, NaN for equal names and barcodes).
        """
        rows = []
        for kind, codes in (("name", self.names), ("barcode", self.barcodes), ("counts", self.counts)):
            there = np.flatnonzero(~test & (codes >= 0))
            first = dict(zip(codes[there][::-1].tolist(), there[::-1].tolist(), strict=True))
            hit = [i for i in np.flatnonzero(test & (codes >= 0)).tolist() if int(codes[i]) in first]
            value = 1.0 if kind == "counts" else np.nan
            rows += [(i, first[int(codes[i])], kind, value) for i in hit]
        best: dict[int, tuple[float, int]] = {}
        for (a, b), value in zip(self.near.tolist(), self.similarity.tolist(), strict=True):
            for cell, twin in ((a, b), (b, a)):
                if test[cell] and not test[twin] and value > best.get(cell, (-1.0, 0))[0]:
                    best[cell] = (value, twin)
        rows += [(cell, twin, "near", value) for cell, (value, twin) in sorted(best.items())]
        return pd.DataFrame(rows, columns=["cell", "twin", "kind", "similarity"]).astype(
            {"cell": np.int64, "twin": np.int64, "kind": object, "similarity": np.float64}
        )


def find_twins(
    counts: sp.csr_matrix, names: Sequence[str] | np.ndarray | None = None, *, bound: float | None = 0.95
) -> Twins:
    """Find cells that stand in the data twice.

    Two draws from one library are alike beyond what two cells of a type are: on 700 blood cells of 765 variable genes, the most alike
    two have a cosine of 0.83, and a cell thinned to 80 % of its counts has 0.93 to 0.97 with itself.

    Parameters
    ----------
    counts
        CSR (n, n_genes) raw counts. Cells without counts are nobody's twins.
    names
        (n,) names of the cells, such as barcodes; None: not compared.
    bound
        Cosine of two log-normalised cells from which they are near twins, in (0, 1]; cells of fewer than 20 expressed genes are left out.
        Of more than 3,000 cells, those are compared that are among each other's 30 nearest by 50 components. None: not looked for.

    Returns
    -------
    The twins.

    Raises
    ------
    ValueError
        If the bound is out of range or there is not one name a cell.
    """
    if bound is not None and not 0 < bound <= 1:
        raise ValueError(f"the bound on the cosine of near twins must lie in (0, 1], found {bound!r}.")
    n = counts.shape[0]
    if names is not None and len(names) != n:
        raise ValueError(f"there must be one name a cell ({n:,}), found {len(names):,}.")
    counts = counts.copy()
    counts.eliminate_zeros()
    n_genes = np.diff(counts.indptr)
    of_name, of_barcode = np.full(n, -1), np.full(n, -1)
    if names is not None:
        known = barcodes(names)
        has = known != ""
        of_name = np.where(has, -1, _repeated(np.asarray(names, dtype=object).astype(str)))
        of_barcode = np.where(has, _repeated(known), -1)
    of_counts = _repeated(cell_hashes(counts))
    of_counts[n_genes == 0] = -1
    near, similarity = _near(counts, n_genes, bound)
    equal = (of_counts[near[:, 0]] >= 0) & (of_counts[near[:, 0]] == of_counts[near[:, 1]])
    return Twins(
        of_name, of_barcode, of_counts, near[~equal], similarity[~equal], np.nan if bound is None else float(bound)
    )


def barcodes(names: Sequence[str] | np.ndarray) -> np.ndarray:
    """(n,) barcode in each name, without what samples and tools put around it; empty where there is none."""
    found = [_BARCODE.search(str(name)) for name in names]
    return np.array([hit.group() if hit else "" for hit in found], dtype=str)


def _repeated(values: np.ndarray) -> np.ndarray:
    """(n,) a number for each value that occurs more than once, -1 for the others."""
    _, code, size = np.unique(values, return_inverse=True, return_counts=True)
    return np.where(size[code] > 1, code, -1).astype(np.int64)


def _near(counts: sp.csr_matrix, n_genes: np.ndarray, bound: float | None) -> tuple[np.ndarray, np.ndarray]:
    """Pairs (p, 2), the smaller row first, and their cosines."""
    use = np.flatnonzero(n_genes >= _GENES)
    if bound is None or len(use) < 2:
        return np.zeros((0, 2), dtype=np.int64), np.zeros(0)
    from sklearn.preprocessing import normalize

    unit = normalize(log_normalise(counts[use]).astype(np.float64))
    pairs, found = [], []
    for first, second in _candidates(unit, bound):
        cosine = np.asarray(unit[first].multiply(unit[second]).sum(axis=1)).ravel()
        hit = cosine >= bound - 1e-9
        pairs.append(np.stack([use[first[hit]], use[second[hit]]], axis=1))
        found.append(np.minimum(cosine[hit], 1.0))
    near, place = np.unique(
        np.concatenate(pairs).astype(np.int64), axis=0, return_index=True
    )  # some are seen from both sides
    return near, np.concatenate(found)[place]


def _candidates(unit: sp.csr_matrix, bound: float) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs worth a look, in blocks of two arrays: all of a small set, near ones by components of a large one."""
    n = unit.shape[0]
    if n <= _ALL_PAIRS:
        for start in range(0, n, _BLOCK):
            product = (unit[start : start + _BLOCK] @ unit.T).tocoo()
            keep = (product.data >= bound - 1e-6) & (product.row + start < product.col)
            yield product.row[keep].astype(np.int64) + start, product.col[keep].astype(np.int64)
        return
    from sklearn.decomposition import TruncatedSVD

    n_components = min(_COMPONENTS, unit.shape[1] - 1)
    space = TruncatedSVD(n_components, random_state=0).fit_transform(unit).astype(np.float32)
    square = (space**2).sum(axis=1)
    for start in range(0, n, _BLOCK):
        rows = np.arange(start, min(start + _BLOCK, n))
        apart = square[rows, None] + square - 2 * (space[rows] @ space.T)  # (block, n) squared distances
        apart[rows - start, rows] = np.inf  # not itself
        best = np.argpartition(apart, _CANDIDATES, axis=1)[:, :_CANDIDATES]
        first, second = np.repeat(rows, _CANDIDATES), best.ravel()
        # In components cells lie no farther apart than in genes, where unit vectors of this cosine are sqrt(2 - 2 cosine) apart.
        close = apart[first - start, second] <= 2 - 2 * bound + 1e-4
        first, second = first[close], second[close]
        yield np.minimum(first, second), np.maximum(first, second)
