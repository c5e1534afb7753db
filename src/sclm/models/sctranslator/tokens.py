"""Cells and proteins as the network reads them: min-max values in a fixed frame of ids.

Legend of shapes: ``n`` cells · ``G`` genes of the data · ``L`` positions of the frame.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
import torch

LEAST = 1e-8  # value of a cell's lowest gene: zero is left to padding
TARGET_SUM = 1e4  # counts a cell before the logarithm


class Batch(NamedTuple):
    """Cells of a batch. B cells · L genes · P proteins."""

    values: torch.Tensor  # (B, L) float32, min-max within the cell
    gene_ids: torch.Tensor  # (B, L) int64, 0 at padded positions
    gene_real: torch.Tensor  # (B, L) bool
    protein_ids: torch.Tensor  # (B, P) int64
    protein_real: torch.Tensor  # (B, P) bool
    targets: torch.Tensor  # (B, P) float32, NaN where not measured; (B, 0) when predicting


class Frame(NamedTuple):
    """A table cut or padded to a number of positions."""

    values: np.ndarray  # (n, L) float32, 0 at padded positions
    ids: np.ndarray  # (L,) int64, 0 at padded positions
    real: np.ndarray  # (L,) bool


def min_max(values: np.ndarray | sp.csr_matrix) -> np.ndarray:
    r"""Each row brought to :math:`[10^{-8}, 1]`: :math:`10^{-8} + (1 - 10^{-8})(x - \min) / (\max - \min)`.

    Parameters
    ----------
    values
        (n, G): all genes, or all proteins, of each cell; a sparse matrix counts with its zeros. NaN is passed over and stays.

    Returns
    -------
    (n, G) float32. A row of equal values, which the original divides by zero, is NaN.
    """
    dense: np.ndarray = sp.csr_matrix(values).toarray() if sp.issparse(values) else np.asarray(values)
    dense = dense.astype(np.float32)  # a copy
    if not dense.size:
        return dense
    known = np.isfinite(dense)
    low = np.where(known, dense, np.inf).min(axis=1, keepdims=True)
    width = np.where(known, dense, -np.inf).max(axis=1, keepdims=True) - low
    width[~(width > 0) | ~np.isfinite(width)] = np.nan
    low[~np.isfinite(low)] = 0.0
    return (LEAST + (dense - low) / width * (1 - LEAST)).astype(np.float32)


def frame(values: np.ndarray | sp.csr_matrix, ids: np.ndarray, length: int, *, pad: bool = True) -> Frame:
    """The first `length` columns, after the min-max over all of them; zeros with id 0 behind the last.

    Parameters
    ----------
    values
        (n, G).
    ids
        (G,) int: id of each column.
    length
        Positions of the frame.
    pad
        Fill the frame up; without it, fewer columns make a shorter frame.

    Returns
    -------
    A :class:`Frame`.
    """
    scaled = min_max(values)[:, :length]
    n, taken = scaled.shape
    width = length if pad else taken
    out = np.zeros((n, width), dtype=np.float32)
    out[:, :taken] = scaled
    numbers = np.zeros(width, dtype=np.int64)
    numbers[:taken] = ids[:taken]
    return Frame(out, numbers, np.arange(width) < taken)


def batch_of(
    genes: Frame, protein_ids: np.ndarray, protein_real: np.ndarray, targets: np.ndarray | None = None
) -> Batch:
    """A batch from a frame of genes and the ids (P,) of the proteins; `targets` (n, P) when training."""
    n = len(genes.values)

    def repeated(array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(array).expand(n, -1)  # (L,) → (n, L) without a copy

    wanted = np.zeros((n, 0), dtype=np.float32) if targets is None else targets.astype(np.float32)
    return Batch(
        torch.from_numpy(genes.values), repeated(genes.ids), repeated(genes.real), repeated(protein_ids),
        repeated(protein_real), torch.from_numpy(wanted),
    )  # fmt: skip
