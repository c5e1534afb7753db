"""Which genes and which nodes of the graph moved an answer: what the virtual tokens looked at, and what happens without it.

n cells · N genes of a cell in the graph channel · M nodes around them
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from sclm.cells import Cells

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sclm.models.celltosg.answers import Answers

COLUMNS = ["cell", "answer", "kind", "name", "attention", "effect"]


def explain(
    cells: Cells,
    answers: Answers,
    node_names: np.ndarray,
    column_of: dict[int, int],
    probabilities: Callable[[Cells, Sequence[np.ndarray] | None], np.ndarray],
    choose: Callable[[np.ndarray], np.ndarray],
    labels: list[str],
    *,
    n_genes: int,
    n_nodes: int,
    seed: int,
) -> pd.DataFrame:
    """Attention of the virtual tokens, and the change of the answer's log probability when what they looked at is deleted.

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
        Cells, and for each the nodes that are hidden from the virtual tokens or None → (n, m) probabilities of all answers.
    choose
        Probabilities → (n,) column of each cell's answer.
    labels
        m names.
    n_genes, n_nodes
        Rows a cell: the genes and the other nodes looked at most, each deleted alone.
    seed
        Of the genes and nodes that are deleted for comparison.

    Returns
    -------
    Columns ``cell``, ``answer``, ``kind`` (``"gene"``, ``"node"``, ``"top genes"``, ``"random genes"``, ``"top nodes"``, ``"random nodes"``),
    ``name``, ``attention`` (share of what the tokens looked at), ``effect`` (log probability of the answer with the gene or node minus
    without it, nats). For each cell, ``"top genes"`` are all shown genes deleted together and ``"random genes"`` as many others of
    the cell, likewise nodes. An explanation is faithful where the first effect is the larger.
    """
    before = probabilities(cells, None)
    best = choose(before)
    rng = np.random.default_rng(seed)
    rows: list[tuple] = []
    names = cells.obs.index.to_numpy(dtype=object)
    none = np.zeros(0, dtype=np.int64)
    start = 0
    for batch, attention in answers.attention(cells):
        genes, around = batch.gene_nodes.cpu().numpy(), batch.context.cpu().numpy()
        width = genes.shape[1]
        for b in range(len(genes)):
            i, look = start + b, attention[b]
            top = _most(look, np.flatnonzero(genes[b] >= 0), n_genes)
            columns = np.array([column_of[int(node)] for node in genes[b][top]], dtype=np.int64)
            expressed = cells.counts.indices[cells.counts.indptr[i] : cells.counts.indptr[i + 1]]
            others = rng.permutation(np.setdiff1d(expressed, columns))[: len(columns)]
            near = _most(look[width:], np.flatnonzero(around[b] >= 0), n_nodes)
            nodes = around[b][near].astype(np.int64)
            far = rng.permutation(np.setdiff1d(around[b][around[b] >= 0], nodes))[: len(nodes)].astype(np.int64)
            deleted = [*([c] for c in columns), columns, others, *[none] * (len(nodes) + 2)]
            hidden = [*[none] * (len(columns) + 2), *(np.array([v]) for v in nodes), nodes, far]
            after = probabilities(_without(cells, i, deleted), hidden)[:, best[i]]
            effect = np.log(np.maximum(before[i, best[i]], 1e-12)) - np.log(np.maximum(after, 1e-12))
            of_genes, of_nodes = effect[: len(columns) + 2], effect[len(columns) + 2 :]
            said = (names[i], labels[best[i]])
            for t, value in zip(top, of_genes[:-2], strict=True):
                rows.append((*said, "gene", node_names[genes[b][t]], float(look[t]), float(value)))
            rows.append((*said, "top genes", f"{len(top)} genes", float(look[top].sum()), float(of_genes[-2])))
            rows.append((*said, "random genes", f"{len(others)} genes", np.nan, float(of_genes[-1])))
            for t, value in zip(near, of_nodes[:-2], strict=True):
                rows.append((*said, "node", node_names[around[b][t]], float(look[width + t]), float(value)))
            seen = float(look[width + near].sum())
            rows.append((*said, "top nodes", f"{len(near)} nodes", seen, float(of_nodes[-2])))
            rows.append((*said, "random nodes", f"{len(far)} nodes", np.nan, float(of_nodes[-1])))
        start += len(genes)
    return pd.DataFrame(rows, columns=COLUMNS)


def _most(look: np.ndarray, here: np.ndarray, n: int) -> np.ndarray:
    """Places among `here` that were looked at most, the most first."""
    return here[np.argsort(-look[here], kind="stable")[:n]]


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
