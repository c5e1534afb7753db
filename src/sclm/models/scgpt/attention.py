"""Who attends to whom: gene networks from the attention of a layer.

B cells · H heads · L genes
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from sclm.models.scgpt.network import raw_attention
from sclm.models.scgpt.tokens import with_zeros

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sclm.cells import Cells
    from sclm.models.scgpt.model import ScGPT

_MOST = 5_000  # genes that are linked at once
_ELEMENTS = 16_000_000  # of the scores that are held at once, B x H x L x L


def attention_scores(
    model: ScGPT,
    cells: Cells,
    *,
    genes: Sequence[str] | None = None,
    layer: int = -1,
    groups: np.ndarray | None = None,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> dict[int, pd.DataFrame]:
    r"""How strongly each gene attends to each other gene, averaged over heads and cells.

    As the authors' tutorial has it: the products of queries and keys before scaling and softmax; ranks within each row, divided by the
    number of genes; ranks of these within each column, likewise (equal values share their average rank, where the original breaks
    ties by an unstable sort); the mean over heads, and over cells. The same genes are read in every cell, those with zero counts too.

    Parameters
    ----------
    model
        The network.
    cells
        Raw counts.
    genes
        Genes that are read, in this order; by default all of the data that the model knows. At most 5,000, however many a cell's
        vector is made of: their number is no part of the network.
    layer
        Layer whose attention is taken, from 0, or from the end: -1 the last.
    groups
        (n_cells,) group of each cell, whole numbers from 0: a matrix for each.
    seed
        Of ties that are spread.
    progress
        Called with the number of cells that were done.

    Returns
    -------
    Group → matrix, genes that attend x genes that are attended to, float64 from 0 to 1; without groups of the single group 0.

    Raises
    ------
    KeyError
        If the model or the data do not know a gene.
    ValueError
        If there are more genes than can be read, or no such layer.
    """
    n_layers = model.n_layers
    if not -n_layers <= layer < n_layers:
        raise ValueError(f"layer must lie between {-n_layers} and {n_layers - 1}, found {layer}.")
    layer %= n_layers
    tokens, names = dense_tokens(model, cells, genes, seed)
    codes = np.zeros(cells.n_cells, np.int64) if groups is None else np.asarray(groups)
    length = tokens[0].shape[1]
    step = max(1, _ELEMENTS // (model.config.n_heads * length * length))
    gene = slice(int(model.cls_id is not None), None)
    sums = {int(code): np.zeros((len(names), len(names))) for code in np.unique(codes)}
    reads: Any = model.network.layers[layer]
    with model.inference():
        for start in range(0, cells.n_cells, step):
            ids, values = (torch.from_numpy(part[start : start + step]).to(model.device) for part in tokens)
            real = torch.ones_like(ids, dtype=torch.bool)
            states = model.states(ids, values, real, layer)
            raw = raw_attention(reads, states)
            ranks = rank_scores(raw).mean(dim=1)[:, gene, gene].cpu().numpy()  # (B, L, L) → (B, genes, genes)
            for code, matrix in zip(codes[start : start + step], ranks, strict=True):
                sums[int(code)] += matrix
            if progress is not None:
                progress(len(ids))
    counted = {code: int((codes == code).sum()) for code in sums}
    return {code: pd.DataFrame(total / counted[code], index=names, columns=names) for code, total in sums.items()}


def dense_tokens(
    model: ScGPT, cells: Cells, genes: Sequence[str] | None, seed: int
) -> tuple[tuple[np.ndarray, np.ndarray], pd.Index]:
    """Ids and values (n, L) of the same genes in all cells, ``<cls>`` first where the model reads one; and the genes' names."""
    counts, ids = model.known_counts(cells)
    wanted = ids if genes is None else np.array(model.gene_ids([list(genes)])[0], np.int64)
    if not 2 <= wanted.size <= _MOST:
        raise ValueError(f"genes must name 2 to {_MOST:,} genes, found {wanted.size:,}. Pass the variable ones.")
    place = pd.Index(ids).get_indexer(pd.Index(wanted))
    if (place < 0).any():
        lost = [str(name) for name, p in zip(genes or (), place, strict=True) if p < 0]
        raise KeyError(f"The data lack {', '.join(map(repr, lost[:5]))}. Leave them out.")
    chosen = counts[:, place].tocsr()
    chosen.sort_indices()
    matrix = with_zeros(chosen, model.bins(chosen, seed=seed))
    token_ids = np.broadcast_to(wanted, (cells.n_cells, wanted.size))
    if model.cls_id is not None:
        token_ids = np.column_stack([np.full(cells.n_cells, model.cls_id), token_ids])
        matrix = np.column_stack([np.full(cells.n_cells, model.config.cls_value, np.float32), matrix])
    names = pd.Index([model.vocabulary.tokens[i] for i in wanted])
    return (np.ascontiguousarray(token_ids), np.ascontiguousarray(matrix, dtype=np.float32)), names


def rank_scores(raw: torch.Tensor) -> torch.Tensor:
    """Ranks of ranks (…, L, L) of raw scores (…, L, L): within rows, divided by L, then within columns of that, divided by L."""
    rows = raw.argsort(dim=-1, stable=True).argsort(dim=-1).to(torch.float32) / raw.shape[-1]
    return column_ranks(rows)


def column_ranks(values: torch.Tensor) -> torch.Tensor:
    """Ranks (…, L, L) within each column, 0 to L - 1 divided by L; equal values share their average."""
    ordered, order = values.sort(dim=-2, stable=True)
    length = values.shape[-2]
    place = torch.arange(length, device=values.device, dtype=torch.float32)
    place = place[:, None].expand_as(values)
    new = torch.ones_like(values, dtype=torch.bool)
    new[..., 1:, :] = ordered[..., 1:, :] != ordered[..., :-1, :]
    first = torch.where(new, place, torch.zeros_like(place)).cummax(dim=-2).values  # place where a run of equals begins
    ends = torch.ones_like(new)
    ends[..., :-1, :] = new[..., 1:, :]
    last = torch.where(ends, place, torch.full_like(place, length)).flip(-2).cummin(dim=-2).values.flip(-2)
    ranks = torch.empty_like(place.contiguous())
    return ranks.scatter_(-2, order, (first + last) / 2) / length
