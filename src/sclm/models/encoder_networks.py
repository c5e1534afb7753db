"""Networks of genes from an encoder: genes with like embeddings, or that attend to each other.

G genes · D width · B cells of a batch · L tokens
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from sclm.evidence import strongest_edges

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sclm.cells import Cells

_BLOCK = 512  # genes that are compared with all others at once
_METHODS = ("embedding", "attention")
_MOST_ATTENDING = 5_000  # genes for which all pairs are kept: two matrices of 200 MB


class LinksGenes:
    """The part of an encoder that links genes."""

    def gene_network(
        self,
        method: str = "embedding",
        genes: Sequence[str] | None = None,
        cells: Cells | None = None,
        k: int | None = 20,
        *,
        sources: Sequence[str] | None = None,
        seed: int = 0,
    ) -> pd.DataFrame:
        r"""Edges between genes, the strongest of each gene.

        Such edges are hypotheses: they say which genes the network treats alike, or reads together. Put them beside those of
        :func:`sclm.evidence.coexpression`, which need no network.

        Parameters
        ----------
        method
            ``"embedding"``: cosine of the genes' embeddings, whose mean over `genes` is taken out; no cells are needed, and an edge
            has no direction. ``"attention"``: how strongly the source attends to the target in `cells`, by the original's rule
            where the family has one (scGPT: mean over cells and heads of ranks of ranks, 0 to 1), else the attention of the last
            layer, averaged over heads and over the cells that express both, times the number of tokens: 1 is what attention to
            everything alike gives.
        genes
            Genes of the network, by any name that the model knows; None: all that the model (and the cells) have.
        cells
            Raw counts, for ``"attention"``: up to 5,000 genes can be linked.
        k
            Edges that are kept of each source; None for all.
        sources
            Genes from which edges start, for example transcription factors; None: all of `genes`.
        seed
            Of what is drawn while cells are written as tokens.

        Returns
        -------
        One row an edge, strongest first within each source: ``source``, ``target`` (names as they were given, else the model's),
        ``weight``.

        Raises
        ------
        ValueError
            If there is no such method, cells are missing, or there are too many genes.
        KeyError
            If the model does not know a gene.
        """
        if method not in _METHODS:
            raise ValueError(f"method must be one of {', '.join(map(repr, _METHODS))}, found {method!r}.")
        if k is not None and k < 1:
            raise ValueError(f"k must be at least 1 or None, found {k}.")
        encoder: Any = self
        asked = None if genes is None else list(dict.fromkeys(genes))
        if asked is not None and len(asked) < 2:
            raise ValueError(f"genes must name at least two genes, found {len(asked)}.")
        if method == "embedding":
            names, rows = self._embedded(asked)
            unit = _unit(rows)
            return strongest_edges(lambda some: unit[some] @ unit.T, names, k=k, sources=sources)
        if cells is None:
            raise ValueError("method='attention' needs cells= that the network reads, found None.")
        if hasattr(encoder, "attention_scores"):
            found = encoder.attention_scores(cells, genes=asked, seed=seed)
            scores: pd.DataFrame = found[0] if isinstance(found, dict) else found
        else:
            scores = self._attention(cells, asked, seed)
        names = pd.Index(scores.index if asked is None else asked)
        matrix = scores.to_numpy()
        return strongest_edges(lambda some: matrix[some], names, k=k, sources=sources)

    def attention(self, ids: torch.Tensor, values: torch.Tensor | None, real: torch.Tensor) -> torch.Tensor:
        """Attention (B, L, L) of the last layer, averaged over heads: rows attend, and sum to 1."""
        raise ValueError(
            f"{getattr(self, 'family', 'this encoder')!r} does not show its attention. Use method='embedding'."
        )

    def _embedded(self, asked: list[str] | None) -> tuple[pd.Index, np.ndarray]:
        """Names, and embeddings (G, D)."""
        encoder: Any = self
        table = encoder.gene_embeddings()
        if asked is None:
            return table.index, table.to_numpy()
        ids = encoder.gene_ids([asked])[0]
        place = np.cumsum(encoder.vocabulary.is_gene) - 1  # of a token among the genes
        return pd.Index(asked), table.to_numpy()[place[ids]]

    def _attention(self, cells: Cells, asked: list[str] | None, seed: int) -> pd.DataFrame:
        """Mean attention times number of tokens (G, G), over the cells that express both; NaN for pairs that none does."""
        encoder: Any = self
        tokens = encoder.tokenise(cells, seed=seed)
        if asked is None:
            wanted = np.unique(tokens.ids.values)
            wanted = wanted[encoder.vocabulary.is_gene[wanted]]
        else:
            wanted = np.array(encoder.gene_ids([asked])[0], dtype=np.int64)
        if len(wanted) > _MOST_ATTENDING:
            raise ValueError(
                f"attention links at most {_MOST_ATTENDING:,} genes, found {len(wanted):,}. Pass genes=, for example variable ones."
            )
        n = len(wanted)
        place = np.full(len(encoder.vocabulary), n, dtype=np.int64)
        place[wanted] = np.arange(n)
        where = torch.from_numpy(place)
        total, seen = torch.zeros(n + 1, n + 1), torch.zeros(n + 1, n + 1)

        def add(rows: np.ndarray, ids: torch.Tensor, values: torch.Tensor | None, real: torch.Tensor) -> None:
            weights = encoder.attention(ids, values, real) * real.sum(dim=1)[:, None, None]
            for of_cell, these, keep in zip(weights.float().cpu(), ids.cpu(), real.cpu(), strict=True):
                at = where[these[keep]]
                inside = at < n
                at = at[inside]
                total[at[:, None], at[None, :]] += of_cell[keep][:, keep][inside][:, inside]
                seen[at[:, None], at[None, :]] += 1
            bar.update(len(rows))

        with tqdm(total=cells.n_cells, desc="attention", unit=" cells", delay=2, leave=False) as bar:
            encoder.over_batches(tokens, add)
        mean = torch.where(seen > 0, total / seen.clamp(min=1), torch.nan)[:n, :n]
        index = pd.Index([encoder.vocabulary.tokens[i] for i in wanted])
        return pd.DataFrame(mean.numpy(), index=index, columns=index)


def _unit(rows: np.ndarray) -> np.ndarray:
    """(G, D) float32 of length 1 without their mean."""
    centred = rows.astype(np.float64) - rows.mean(axis=0, dtype=np.float64)
    length = np.linalg.norm(centred, axis=1, keepdims=True)
    return (centred / np.where(length > 0, length, 1.0)).astype(np.float32)
