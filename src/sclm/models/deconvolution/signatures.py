"""What a reference says about its types: mean profiles, how sure they are, counts a cell."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd
from scipy import sparse

from sclm.cells import GeneVocabulary

if TYPE_CHECKING:
    from sclm.cells import CellSource

logger = logging.getLogger(__name__)

_BLANK = frozenset({"", "nan", "na", "n/a", "none", "null", "unknown", "unassigned", "unlabelled", "unlabeled"})
_POOLED = 5  # cells that the other types' variance counts for
_FEW = 10  # cells below which a type's profile is mostly noise


class Signatures(NamedTuple):
    """Types of a reference.

    Legend: K types · G genes.
    """

    categories: tuple[str, ...]  # K names, sorted
    profile: np.ndarray  # (K, G) float64 mean over the type's cells of each cell's share of counts; rows sum to 1
    variance: np.ndarray  # (K, G) float64 variance of that share among the cells of the type
    n_cells: np.ndarray  # (K,) int64 cells with counts
    depth: np.ndarray  # (K,) float64 mean counts a cell
    total: np.ndarray  # (G,) float64 counts of the gene in the reference


def learn_signatures(source: CellSource, label_key: str) -> tuple[Signatures, GeneVocabulary]:
    """One pass over a labelled reference.

    Profiles are means of each cell's share of counts, not of pooled counts: a few deep cells do not decide for the others.

    Parameters
    ----------
    source
        Cells with raw counts; ``source.obs[label_key]`` holds their types. Cells without a label are left out.
    label_key
        Column of the labels.

    Returns
    -------
    The signatures and the genes of their columns.

    Raises
    ------
    ValueError
        If fewer than two types have cells with counts.
    """
    values = source.obs[label_key]
    text = values.astype(str).str.strip()
    labelled = values.notna().to_numpy() & ~text.str.lower().isin(_BLANK).to_numpy()
    found_names, codes = np.unique(text[labelled].to_numpy(dtype=str), return_inverse=True)
    names = [str(name) for name in found_names]
    if len(names) < 2:
        found = ", ".join(repr(str(n)) for n in names) or "none"
        raise ValueError(
            f".obs[{label_key!r}] of the reference must hold at least two cell types, found {len(names)} ({found}). "
            "A map of one type says nothing: pass a reference with the other types of the tissue, or another label_key."
        )
    if not labelled.all():
        logger.warning(
            "%d of %d reference cells have no label in .obs[%r] and are left out.",
            int((~labelled).sum()), len(labelled), label_key,
        )  # fmt: skip
    code = np.full(len(labelled), -1)
    code[labelled] = codes
    n_types, n_genes = len(names), source.n_genes
    share, square = np.zeros((n_types, n_genes)), np.zeros((n_types, n_genes))
    n_cells, depth, total = np.zeros(n_types, dtype=np.int64), np.zeros(n_types), np.zeros(n_genes)
    start = 0
    for cells in source.blocks():
        here = code[start : start + cells.n_cells]
        start += cells.n_cells
        counts = np.asarray(cells.counts.sum(axis=1, dtype=np.float64)).ravel()
        used = (here >= 0) & (counts > 0)
        if not used.any():
            continue
        here, counts = here[used], counts[used]
        block = cells.counts[used].astype(np.float64)
        total += np.asarray(block.sum(axis=0)).ravel()
        shares = sparse.diags_array(1 / counts) @ block
        member = sparse.csr_array((np.ones(len(here)), (here, np.arange(len(here)))), shape=(n_types, len(here)))
        share += (member @ shares).toarray()
        square += (member @ shares.multiply(shares)).toarray()
        n_cells += np.bincount(here, minlength=n_types)
        depth += np.bincount(here, weights=counts, minlength=n_types)
    if empty := [n for n, c in zip(names, n_cells, strict=True) if c == 0]:
        raise ValueError(
            f"Types of the reference must have cells with counts, found none for {', '.join(map(repr, empty[:10]))}. "
            "Leave those cells out, or check the layer."
        )
    if few := [f"{str(n)!r} ({c})" for n, c in zip(names, n_cells, strict=True) if c < _FEW]:
        logger.warning(
            "fewer than %d reference cells make the profiles of these types noisy: %s. Merge them with a relative or leave "
            "them out.",
            _FEW, ", ".join(few[:10]),
        )  # fmt: skip
    profile = share / n_cells[:, None]
    variance = np.maximum(square / n_cells[:, None] - profile**2, 0) * (n_cells / np.maximum(n_cells - 1, 1))[:, None]
    signatures = Signatures(tuple(names), profile, variance, n_cells, depth / n_cells, total)
    return signatures, GeneVocabulary(tuple(map(str, source.genes)))


def label_table(signatures: Signatures) -> pd.DataFrame:
    """One row a type: ``label``, ``n_cells``, ``counts_per_cell``."""
    return pd.DataFrame(
        {
            "label": list(signatures.categories),
            "n_cells": signatures.n_cells,
            "counts_per_cell": signatures.depth,
        }
    )


class Reliable(NamedTuple):
    """Profiles that are drawn together where the reference is unsure."""

    profile: np.ndarray  # (K, G) float64, rows sum to 1
    reliability: np.ndarray  # (G,) variance between types over the mean squared standard error; about 1: no difference
    error: np.ndarray  # (K, G) squared standard error of the profile, what drawing together has taken off left out


def reliable_profile(signatures: Signatures, genes: np.ndarray, background: float) -> Reliable:
    r"""Profiles drawn together where the reference cannot tell the types apart.

    With m_g the mean over types and v_kg the squared standard error of a type's mean, a gene's differences between types are
    kept by the share that is no noise (James & Stein 1961, a gene at a time):

    .. math:: S_{kg} = m_g + (\hat S_{kg} - m_g) \frac{\tau_g^2}{\tau_g^2 + v_{kg}}, \quad
              \tau_g^2 = \max(\mathrm{var}_k \hat S_{kg} - \bar v_g, 0)

    and all types get a share of the mean profile, as cells in a tissue do by ambient RNA.

    Parameters
    ----------
    signatures
        Of the reference.
    genes
        (G,) int64 places of the genes in use.
    background
        Weight of the mean profile beside each type's own, at least 0.

    Returns
    -------
    :class:`Reliable`.
    """
    share = signatures.profile[:, genes]
    covered = np.maximum(share.sum(axis=1, keepdims=True), 1e-12)
    share = share / covered
    n = signatures.n_cells[:, None].astype(np.float64)
    mean = share.mean(axis=0)
    # Few cells say little about their variance: it is drawn to that of the other types, relative to the mean.
    variance = signatures.variance[:, genes] / covered**2
    there = share > 0
    relative = (variance / np.maximum(share, 1e-12) ** 2 * there).sum(axis=0) / np.maximum(there.sum(axis=0), 1)
    pooled = relative * np.maximum(share, mean) ** 2
    variance = (n * variance + _POOLED * pooled) / (n + _POOLED)
    counted = signatures.n_cells * signatures.depth * covered.ravel()
    # Never surer than counting: a gene not seen in a type is not known to be absent.
    error = np.maximum(variance / n, np.maximum(share, mean) / counted[:, None])
    between = share.var(axis=0, ddof=1)
    real = np.maximum(between - error.mean(axis=0), 0)
    signal = real / (real + error + 1e-30)  # (K, G)
    kept = mean + (share - mean) * signal
    kept = np.maximum(kept, 1e-12)
    kept /= kept.sum(axis=1, keepdims=True)
    kept = (kept + background * kept.mean(axis=0)) / (1 + background)
    kept /= kept.sum(axis=1, keepdims=True)
    reliability = between / np.maximum(error.mean(axis=0), 1e-30)
    return Reliable(kept, reliability, error * signal / (1 + background) ** 2)
