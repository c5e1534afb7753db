"""Cells as prompts: what is known of the cell, its sentence, and a question; and its genes as nodes of the graph.

B cells · L tokens of a prompt with its answer · N genes of a cell in the graph
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd
import torch

from sclm.cells import log_normalise, rank_values
from sclm.models.celltosg.objectives import IGNORED

if TYPE_CHECKING:
    from collections.abc import Sequence

    import scipy.sparse as sp

    from sclm.models.celltosg.neighbourhood import Neighbourhood
    from sclm.nn import PrefixLM

#: What a prompt can ask for, and the words that ask.
TASKS = {"cell_type": "Cell type:", "tissue": "Tissue:", "disease": "Disease:", "description": "Description:"}
_FIELDS = {"tissue": "Tissue", "disease": "Disease"}
_UNKNOWN = frozenset({"", "nan", "none", "na", "unknown"})


class Batch(NamedTuple):
    """Prompts with their answers."""

    ids: torch.Tensor  # (B, L) int64, padded on the right
    targets: torch.Tensor  # (B, L) int64: the tokens that are asked, IGNORED elsewhere
    prompt_lengths: torch.Tensor  # (B,) int64 tokens before the answer
    gene_nodes: torch.Tensor  # (B, N) int64 nodes of the most expressed genes, -1 none
    weights: torch.Tensor  # (B, N) float32, 1 for the cell's highest gene
    context: torch.Tensor  # (B, M) int64 nodes around these genes, -1 none
    context_weights: torch.Tensor  # (B, M) float32
    truth: torch.Tensor  # (B,) int64 training type, -1 where the answer is none


def write_sentence(symbols: Sequence[str]) -> str:
    """Genes of a cell as text."""
    return " ".join(symbols)


def write_prompt(sentence: str, task: str, *, organism: str = "", tissue: str = "", disease: str = "") -> str:
    """The question about a cell. Fields that are not known, and the one that is asked for, are left out.

    Parameters
    ----------
    sentence
        From :func:`write_sentence`; may be empty, for what the model answers without seeing a cell.
    task
        A key of :data:`TASKS`.
    organism, tissue, disease
        Empty where not known.

    Examples
    --------
    >>> write_prompt("CD3E IL7R", "cell_type", tissue="blood")
    'Tissue: blood. Genes by decreasing expression: CD3E IL7R . Cell type:'
    """
    if task not in TASKS:
        raise ValueError(f"task must be one of {', '.join(map(repr, TASKS))}, found {task!r}.")
    parts = [("Organism", organism), ("Tissue", tissue), ("Disease", disease)]
    known = [f"{name}: {value}." for name, value in parts if value and name.lower() != task]
    # the full stop stands apart, so that it is no part of the last gene's word
    return " ".join([*known, f"Genes by decreasing expression: {sentence} .".replace("  ", " "), TASKS[task]])


def fields_of(obs: pd.DataFrame) -> list[dict[str, str]]:
    """Known fields of each cell, by name."""
    found: list[dict[str, str]] = [{} for _ in range(len(obs))]
    for column in _FIELDS:
        if column in obs:
            for fields, value in zip(found, obs[column].astype(object), strict=True):
                text = "" if pd.isna(value) else str(value).strip()
                if text.lower() not in _UNKNOWN:
                    fields[column] = text
    return found


class Sentences:
    """Writes the genes of cells, most remarkable first, as words and as nodes.

    Genes stand by decreasing count relative to the gene's mean where it is expressed in the training cells: by plain counts the
    sentences of all cells begin with the same ribosomal genes. Ties fall by the order of the vocabulary.

    Parameters
    ----------
    symbols
        (G,) words of the vocabulary's genes.
    scale
        (G,) mean counts where expressed, as shares of the cell's total.
    nodes
        (G,) int64 nodes of the genes in the graph, -1 none.
    length
        Genes a sentence.
    graph_genes
        Genes of a cell in the graph channel.
    around
        Finds the nodes around a cell's genes; None for no graph channel.
    """

    def __init__(
        self,
        symbols: Sequence[str],
        scale: np.ndarray,
        nodes: np.ndarray,
        *,
        length: int,
        graph_genes: int,
        around: Neighbourhood | None,
    ) -> None:
        self.symbols = np.asarray(symbols, dtype=object)
        self.scale, self.nodes, self.length, self.graph_genes = scale, nodes, length, graph_genes
        self.around = around

    def write(self, counts: sp.csr_matrix) -> list[str]:
        """A sentence a cell, (B,)."""
        return [write_sentence(self.symbols[row]) for row in rank_values(counts, self.scale, max_length=self.length)]

    def graph(self, counts: sp.csr_matrix) -> GraphView:
        """The most expressed genes of each cell as nodes, and the nodes around them."""
        n = self.graph_genes
        columns = np.where(self.nodes >= 0, np.arange(len(self.nodes)), -1)
        ranked = rank_values(counts, self.scale, max_length=n, token_ids=columns)
        values = log_normalise(counts)
        nodes = np.full((counts.shape[0], n), -1, dtype=np.int64)
        weights = np.zeros((counts.shape[0], n), dtype=np.float32)
        for i, row in enumerate(ranked):
            first, last = values.indptr[i], values.indptr[i + 1]
            found = values.data[first:last][np.searchsorted(values.indices[first:last], row)]
            nodes[i, : len(row)] = self.nodes[row]
            weights[i, : len(row)] = found / max(float(found.max(initial=0.0)), 1e-6)
        if self.around is None:
            return GraphView(nodes, weights, nodes[:, :0], weights[:, :0])
        return GraphView(nodes, weights, *self.around(nodes, weights))


class GraphView(NamedTuple):
    """What the graph channel sees of cells: nodes (B, N) and weights (B, N), context (B, M) and its weights (B, M)."""

    nodes: np.ndarray
    weights: np.ndarray
    context: np.ndarray
    context_weights: np.ndarray


def pack(
    lm: PrefixLM,
    prompts: Sequence[str],
    answers: Sequence[str] | None,
    graph: GraphView,
    truth: np.ndarray,
    *,
    sentences_asked: bool = False,
) -> Batch:
    """Prompts and answers as tokens.

    Parameters
    ----------
    lm
        Whose tokens.
    prompts
        B texts.
    answers
        B texts, each written behind its prompt to its end; None for none.
    graph
        From :meth:`Sentences.graph`.
    truth
        (B,) int64.
    sentences_asked
        Ask the prompt's own tokens, as the anchor does, instead of the answer's.

    Returns
    -------
    The batch on the CPU.
    """
    heads = lm.encode(prompts)
    tails: list[list[int]] = [[] for _ in heads]
    if answers is not None:
        end = [] if lm.eos is None else [lm.eos]
        tails = [[*lm.encode_after(prompt, [answer])[0], *end] for prompt, answer in zip(prompts, answers, strict=True)]
    length = max(len(h) + len(t) for h, t in zip(heads, tails, strict=True))
    ids = np.zeros((len(heads), length), dtype=np.int64)
    targets = np.full_like(ids, IGNORED)
    for i, (head, tail) in enumerate(zip(heads, tails, strict=True)):
        whole = head + tail
        ids[i, : len(whole)] = whole
        asked = slice(0, len(head)) if sentences_asked else slice(len(head), len(whole))
        targets[i, asked] = whole[asked]
    lengths = np.array([len(h) for h in heads], dtype=np.int64)
    return Batch(*(torch.from_numpy(a) for a in (ids, targets, lengths, *graph, np.asarray(truth, dtype=np.int64))))
