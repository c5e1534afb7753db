"""Which genes and which nodes of the graph moved an answer: what the virtual tokens looked at, and what happens without it.

n cells · N genes of a cell in the graph channel · M nodes around them
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from sclm.cells import Cells

if TYPE_CHECKING:
    from collections.abc import Callable

    from sclm.models.celltosg.answers import Answers

COLUMNS = ["cell", "answer", "kind", "name", "attention", "effect"]


def explain(
    cells: Cells,
    answers: Answers,
    node_names: np.ndarray,
    column_of: dict[int, int],
    probabilities: Callable[[Cells], np.ndarray],
    labels: list[str],
    *,
    n_genes: int,
    n_nodes: int,
    seed: int,
) -> pd.DataFrame:
    """Attention of the virtual tokens, and the change of the answer's log probability when a gene is deleted.

    Parameters
    ----------
    cells
        Counts of the model's genes; all with counts.
    answers
        Asks the network.
    node_names
        (nodes of the graph,) names.
    column_of
        Node of a gene → column of ``cells.counts``.
    probabilities
        Cells → (n, m) probabilities of all answers.
    labels
        m names.
    n_genes, n_nodes
        Rows a cell: the genes looked at most, each deleted alone; the other nodes looked at most.
    seed
        Of the genes that are deleted for comparison.

    Returns
    -------
    Columns ``cell``, ``answer``, ``kind`` (``"gene"``, ``"node"``, ``"top genes"``, ``"random genes"``), ``name``, ``attention`` (share of
    what the tokens looked at), ``effect`` (log probability of the answer with the gene minus without it, nats; NaN for nodes). For
    each cell one row ``"top genes"`` and one ``"random genes"``: all shown genes deleted together, and as many others of the cell.
    An explanation is faithful where the first effect is the larger.
    """
    before = probabilities(cells)
    best = before.argmax(axis=1)
    rng = np.random.default_rng(seed)
    rows: list[tuple] = []
    names = cells.obs.index.to_numpy(dtype=object)
    start = 0
    for batch, attention in answers.attention(cells):
        genes, around = batch.gene_nodes.cpu().numpy(), batch.context.cpu().numpy()
        width = genes.shape[1]
        for b in range(len(genes)):
            i = start + b
            look = attention[b]
            here = np.flatnonzero(genes[b] >= 0)
            top = here[np.argsort(-look[here], kind="stable")[:n_genes]]
            columns = np.array([column_of[int(genes[b][t])] for t in top], dtype=np.int64)
            expressed = cells.counts.indices[cells.counts.indptr[i] : cells.counts.indptr[i + 1]]
            others = rng.permutation(np.setdiff1d(expressed, columns))[: len(columns)]
            deleted = [*([c] for c in columns), columns, others]
            after = probabilities(_without(cells, i, deleted))[:, best[i]]
            effect = np.log(np.maximum(before[i, best[i]], 1e-12)) - np.log(np.maximum(after, 1e-12))
            answer = labels[best[i]]
            for t, value in zip(top, effect[: len(top)], strict=True):
                rows.append((names[i], answer, "gene", node_names[genes[b][t]], float(look[t]), float(value)))
            rows.append((names[i], answer, "top genes", f"{len(top)} genes", float(look[top].sum()), float(effect[-2])))
            rows.append((names[i], answer, "random genes", f"{len(others)} genes", np.nan, float(effect[-1])))
            near = np.flatnonzero(around[b] >= 0)
            most = near[np.argsort(-look[width + near], kind="stable")[:n_nodes]]
            rows.extend(
                (names[i], answer, "node", node_names[around[b][t]], float(look[width + t]), np.nan) for t in most
            )
        start += len(genes)
    return pd.DataFrame(rows, columns=COLUMNS)


def _without(cells: Cells, row: int, deleted: list) -> Cells:
    """One cell several times, each time without some of its genes (columns)."""
    at = np.full(len(deleted), row)
    counts = cells.counts[at].tolil()
    for copy, columns in enumerate(deleted):
        counts[copy, np.asarray(columns, dtype=np.int64)] = 0
    found = counts.tocsr()
    found.eliminate_zeros()
    found.sort_indices()
    return Cells(found.astype(np.float32), cells.genes, cells.obs.iloc[at])
