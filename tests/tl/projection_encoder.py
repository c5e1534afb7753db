"""An encoder without a network: a fixed projection of log-normalised counts, in which a deletion can be worked out by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from sclm.cells import GeneVocabulary, log_normalise
from sclm.cells.columns import move_columns

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sclm.cells import Cells, GeneMatch


class ProjectionEncoder:
    """Genes weigh ``weights`` (n_genes, d) on the vector of a cell; deleting one takes its counts away."""

    family = "projection"

    def __init__(self, genes: Sequence[str], weights: np.ndarray) -> None:
        self.vocabulary = GeneVocabulary(("<pad>", *map(str, genes)))
        self.weights = np.vstack([np.zeros((1, weights.shape[1])), weights])  # (V, d)
        self.asked: list[dict[str, Any]] = []

    def find(self, names: Sequence[str]) -> GeneMatch:
        return self.vocabulary.match(names)

    def match(self, genes: pd.Index) -> GeneMatch:
        return self.find(genes)

    def provenance(self) -> dict[str, Any]:
        return {"family": self.family, "checkpoint": None, "sha256": "0"}

    def _vectors(self, counts: np.ndarray) -> np.ndarray:
        from scipy import sparse

        vectors = log_normalise(sparse.csr_matrix(counts.astype(np.float32))) @ self.weights
        vectors[counts.sum(axis=1) == 0] = np.nan
        return vectors

    def _counts(self, cells: Cells) -> np.ndarray:
        ids = self.vocabulary.match(cells.genes).ids
        return move_columns(cells.counts, ids, len(self.vocabulary)).toarray()

    def embed(
        self, cells: Cells, *, hidden_layer: int | None = None, pooling: str | None = None, seed: int = 0
    ) -> np.ndarray:
        return self._vectors(self._counts(cells)).astype(np.float32)

    def perturb(
        self,
        cells: Cells,
        perturbations: Sequence[Sequence[str]],
        *,
        kind: str = "delete",
        states: dict[str, np.ndarray] | None = None,
        hidden_layer: int | None = None,
        pooling: str | None = None,
        seed: int = 0,
        progress: Callable[[int], None] | None = None,
    ) -> pd.DataFrame:
        self.asked.append({"n": len(perturbations), "layer": hidden_layer, "pooling": pooling, "seed": seed})
        counts = self._counts(cells)
        before = self._vectors(counts)
        tables = []
        for number, names in enumerate(perturbations):
            ids = self.vocabulary.lookup(names)
            changed = counts.copy()
            rows = np.arange(len(counts))
            if kind == "delete":
                rows = np.flatnonzero((counts[:, ids] > 0).all(axis=1))
                changed[:, ids] = 0
            else:
                changed[:, ids] = counts.max(axis=1, keepdims=True)
            after = self._vectors(changed)
            table = {"cell": rows, "perturbation": number, "shift": 1 - cosine(after, before)[rows]}
            for name, state in (states or {}).items():
                table[f"towards:{name}"] = (cosine(after, state[None]) - cosine(before, state[None]))[rows]
            tables.append(pd.DataFrame(table))
            if progress is not None:
                progress(1)
        return pd.concat(tables, ignore_index=True)


def cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore"):
        return (a * b).sum(axis=1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))
