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
    """How the answer's log probability changes when a gene or a node is deleted, beside the attention of the virtual tokens.

    Attention alone would not do: it is nearly even over a cell's genes, and much of an answer does not pass through the virtual
    tokens. So every gene of the graph channel and every node around them is deleted once, and what matters most is shown.

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
        Rows a cell: the genes and the other nodes whose deletion costs most.
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
            here, near = np.flatnonzero(genes[b] >= 0), np.flatnonzero(around[b] >= 0)
            columns = np.array([column_of[int(node)] for node in genes[b][here]], dtype=np.int64)
            nodes = around[b][near].astype(np.int64)

            def cost(deleted: list, hidden: list, i: int = i) -> np.ndarray:
                after = probabilities(_without(cells, i, deleted), hidden)[:, best[i]]
                return np.log(np.maximum(before[i, best[i]], 1e-12)) - np.log(np.maximum(after, 1e-12))

            singly = cost(
                [*([c] for c in columns), *[none] * len(nodes)],
                [*[none] * len(columns), *(np.array([v]) for v in nodes)],
            )
            of_genes, of_nodes = singly[: len(columns)], singly[len(columns) :]
            top = np.argsort(-of_genes, kind="stable")[:n_genes]
            most = np.argsort(-of_nodes, kind="stable")[:n_nodes]
            expressed = cells.counts.indices[cells.counts.indptr[i] : cells.counts.indptr[i + 1]]
            others = rng.permutation(np.setdiff1d(expressed, columns[top]))[: len(top)]
            far = rng.permutation(np.setdiff1d(nodes, nodes[most]))[: len(most)]
            together = cost([columns[top], others, none, none], [none, none, nodes[most], far])
            said = (names[i], labels[best[i]])
            for shown, rest, places, kind, effects, joint in (
                (top, others, here, "gene", of_genes, together[:2]),
                (most, far, width + near, "node", of_nodes, together[2:]),
            ):
                named = genes[b][here] if kind == "gene" else nodes
                rows.extend(
                    (*said, kind, node_names[named[t]], float(look[places[t]]), float(effects[t])) for t in shown
                )
                seen = float(look[places[shown]].sum())
                rows.append((*said, f"top {kind}s", f"{len(shown)} {kind}s", seen, float(joint[0])))
                rows.append((*said, f"random {kind}s", f"{len(rest)} {kind}s", np.nan, float(joint[1])))
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
