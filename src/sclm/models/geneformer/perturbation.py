"""Genes deleted or overexpressed in rank order, and what of a cell is compared afterwards.

n cells · m changed cells · B cells of a batch · L tokens · D width · V vocabulary
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from sclm.cells import Ragged
from sclm.models.encoder import Tokens, take_ragged
from sclm.models.geneformer.dictionaries import SPECIAL
from sclm.models.geneformer.tokens import framed_by
from sclm.nn import buckets

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sclm.models.geneformer.model import Geneformer

# Tokens of changed cells in a batch, padding included; those of their originals come on top.
_TOGETHER_ON_CPU, _TOGETHER_ON_GPU = 4_096, 65_536


def perturbed_tokens(
    ids: Ragged, genes: Sequence[int], kind: str, version: str, max_length: int
) -> tuple[np.ndarray, Ragged, Ragged]:
    """Cells with some genes perturbed together.

    Deleted genes leave the sequence; only cells that express all of them are perturbed, and are left with another gene. Overexpressed
    genes come to its front in the order of `genes`, those that the cell does not express included; what then is longer than the
    network reads loses its last genes. Cells that overexpression does not change are left out.

    Parameters
    ----------
    ids
        Tokens of n cells.
    genes
        Token ids.
    kind
        ``"delete"`` or ``"overexpress"``.
    version
        ``"V1"`` or ``"V2"``.
    max_length
        Tokens that the network reads.

    Returns
    -------
    rows
        (m,) int64 of the cells that are perturbed.
    changed
        Their tokens.
    remaining
        float32 with the offsets of `changed`: 1 at genes that were not perturbed, 0 elsewhere.
    """
    listed = np.array(list(dict.fromkeys(genes)), dtype=ids.values.dtype)
    capacity = max_length - (2 if version == "V2" else 0)
    if listed.size > capacity:
        raise ValueError(f"at most {capacity:,} genes can be perturbed together, found {listed.size:,}.")
    sequences = _genes_only(ids, len(SPECIAL[version]))
    hit = np.isin(sequences.values, listed)
    n_hit = _sums(hit, sequences.offsets)
    n_rest = sequences.lengths - n_hit
    if kind == "delete":
        rows = np.flatnonzero((n_hit == listed.size) & (n_rest > 0))
    else:
        movable = sequences.lengths > 0
        if (
            listed.size == 1
        ):  # a gene that is first already cannot move, and the original leaves such cells out; of a group it keeps them
            movable &= ~_leads(sequences, listed)
        rows = np.flatnonzero(movable)
    some = take_ragged(sequences, rows)
    kept = take_ragged(Ragged(~hit, sequences.offsets), rows).values
    rest = Ragged(some.values[kept], np.concatenate([[0], np.cumsum(n_rest[rows])]))
    if kind == "delete":
        changed, remaining = rest, Ragged(np.ones(rest.values.size, np.float32), rest.offsets)
    else:
        changed, remaining = _in_front(listed, rest, capacity)
    if version == "V1":
        return rows, changed, remaining
    framed = framed_by(changed)
    marks = framed_by(Ragged(remaining.values.astype(framed.values.dtype), remaining.offsets))
    marks.values[framed.values < len(SPECIAL[version])] = 0
    return rows, framed, Ragged(marks.values.astype(np.float32), marks.offsets)


def _genes_only(ids: Ragged, n_special: int) -> Ragged:
    gene = ids.values >= n_special
    return Ragged(ids.values[gene], np.concatenate([[0], np.cumsum(_sums(gene, ids.offsets))]))


def _sums(flags: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """(n,) number of True in each sequence."""
    return np.diff(np.concatenate([[0], np.cumsum(flags)])[offsets])


def _leads(sequences: Ragged, listed: np.ndarray) -> np.ndarray:
    """(n,) whether a sequence begins with `listed`."""
    leads = sequences.lengths >= listed.size
    long = np.flatnonzero(leads)
    first = sequences.values[sequences.offsets[long][:, None] + np.arange(listed.size)]  # (n_long, n_listed)
    leads[long] = (first == listed).all(axis=1)
    return leads


def _in_front(listed: np.ndarray, rest: Ragged, capacity: int) -> tuple[Ragged, Ragged]:
    lengths = np.minimum(rest.lengths, capacity - listed.size)
    offsets = np.concatenate([[0], np.cumsum(lengths + listed.size)])
    place = np.arange(offsets[-1]) - np.repeat(offsets[:-1], lengths + listed.size)  # within the sequence
    of_rest = place >= listed.size
    values = np.empty(offsets[-1], dtype=listed.dtype)
    values[~of_rest] = listed[place[~of_rest]]
    values[of_rest] = rest.values[np.repeat(rest.offsets[:-1], lengths) + place[of_rest] - listed.size]
    return Ragged(values, offsets), Ragged(of_rest.astype(np.float32), offsets)


def references(ids: Ragged, rows: np.ndarray, changed: Tokens, max_length: int) -> tuple[Ragged, np.ndarray]:
    """What each changed cell is compared with: its original, which loses the genes that had to make room for inserted ones.

    The original implementation cuts one gene more where the inserted ones would just have fitted; here exactly those are cut that the
    changed cell lost.

    Returns
    -------
    originals
        The sequences `ids`, and behind them the cut ones.
    which
        (m,) int64: the original of each changed cell.
    """
    which = rows.copy()
    cut: list[np.ndarray] = []
    for i in np.flatnonzero(changed.ids.lengths == max_length):
        before, after = ids[int(rows[i])], changed.ids[int(i)]
        lost = ~np.isin(before, after)
        if lost.any():
            which[i] = len(ids) + len(cut)
            cut.append(before[~lost])
    if not cut:
        return ids, which
    lengths = np.concatenate([ids.lengths, [part.size for part in cut]])
    return Ragged(np.concatenate([ids.values, *cut]), np.concatenate([[0], np.cumsum(lengths)])), which


def gene_cosines(
    model: Geneformer, originals: Ragged, which: np.ndarray, changed: Tokens, layer: int
) -> tuple[np.ndarray, np.ndarray]:
    """Mean over the remaining genes of the cosine of each one's state before and after, and the mean state afterwards.

    Parameters
    ----------
    model
        Whose states are compared.
    originals, which
        Of :func:`references`.
    changed
        With the marks of :func:`perturbed_tokens` as values.
    layer
        Of the states, 0 to ``n_layers``.

    Returns
    -------
    cosine
        (m,) float64.
    vectors
        (m, D) float32.
    """
    m = len(changed.ids)
    cosine, vectors = np.full(m, np.nan), np.full((m, model.width), np.nan, dtype=np.float32)
    before = Tokens(originals, None)
    # Forms of one cell stand together, so that its states before are computed once a batch.
    order = np.argsort(which, kind="stable")
    together = _TOGETHER_ON_CPU if model.device.type == "cpu" else _TOGETHER_ON_GPU
    with model.inference():
        parts = (order[part] for part in buckets(changed.ids.lengths[order], together))
        for part in model.memory.fitting(parts, lambda some: len(some) * int(changed.ids.lengths[some].max())):
            with part as rows:
                cells, index = np.unique(which[rows], return_inverse=True)
                ids, marks, real = model.padded(changed, rows)
                marked = real if marks is None else marks > 0  # (B, L)
                after = model.states(ids, None, real, layer)  # (B, L, D)
                old_ids, _, old_real = model.padded(before, cells)
                old = model.states(old_ids, None, old_real, layer)  # (cells, L', D)
                cosine[rows] = _compare(after, ids, marked, old, old_ids, torch.from_numpy(index).to(ids.device))
                vectors[rows] = model.pool(after, ids, None, real, "mean").float().cpu().numpy()
    return cosine, vectors


def _compare(
    after: torch.Tensor,
    ids: torch.Tensor,
    marked: torch.Tensor,
    old: torch.Tensor,
    old_ids: torch.Tensor,
    index: torch.Tensor,
) -> np.ndarray:
    """(B,) float64 mean cosine of the genes that are marked; they stand in the same order before and after."""
    remains = torch.zeros(
        (len(ids), 1 + int(torch.maximum(ids.max(), old_ids.max()))), dtype=torch.bool, device=ids.device
    )
    row, place = marked.nonzero(as_tuple=True)
    remains[row, ids[row, place]] = True
    old_row, old_place = remains.gather(1, old_ids[index]).nonzero(as_tuple=True)  # as many, in the same order
    found = torch.nn.functional.cosine_similarity(after[row, place], old[index[old_row], old_place], dim=-1)
    total = torch.zeros(len(ids), dtype=torch.float64, device=found.device).index_add_(0, row, found.double())
    return (total / marked.sum(dim=1)).cpu().numpy()
