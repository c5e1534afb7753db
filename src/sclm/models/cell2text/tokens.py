"""Cells and their descriptions as a batch: states of genes, values of the cell, prompt and target.

B cells · K gene positions · E width of the encoder · C values of the cell · L tokens of prompt and description · F fields
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from scipy import sparse

from sclm.cells import log_normalise
from sclm.nn import HubTokenizer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sclm.models.cell2text.slots import Piece
    from sclm.models.handed_encoder import GeneStates
    from sclm.nn import PrefixLM

# Of the paper: what the language model is told.
SYSTEM = (
    "You are a scientific assistant specialized in analyzing single-cell gene expression data. Given the gene expression profile, "
    "describe the cell type and its characteristics clearly and concisely in professional language."
)
USER = "Gene expression embeddings: "
ASK = "Description:"
_MARK = "<<genes>>"
_LEAST = -8.0  # log probability
# Of the family "logistic": length of a cell, and λ = 0.01 times the number of cells, of which at most 3,000 count.
_LENGTH, _PENALTY, _PENALISED = 10.0, 0.01, 3000
_MOST = 20_000  # cells that a regression learns from: more change little and take long
_CLIP, _SPREAD = 10.0, 3.0  # of the values of a cell: bounds, and standard deviation of the first


class Batch(NamedTuple):
    """Cells with what is written of them."""

    states: torch.Tensor  # (B, K, E) float32
    real: torch.Tensor  # (B, K) bool
    cell: torch.Tensor  # (B, C) float32, of the whole cell
    ids: torch.Tensor  # (B, L) int64: the text behind the soft tokens, then the description, padded on the right
    prompt_lengths: torch.Tensor  # (B,) int64 tokens of that text
    targets: torch.Tensor  # (B, L) int64: token that follows each, -100 where none is asked
    weights: torch.Tensor  # (B, L) float32 of the targets
    classes: torch.Tensor  # (B, F) int64 of cell type, tissue, disease; -1 where not known


class Writer:
    """Turns prompts and descriptions into tokens, alike in training and in use.

    A model with a chat template gets the paper's system and user turns around the soft tokens. Others are asked with one word.

    Parameters
    ----------
    lm
        Whose tokens.
    """

    def __init__(self, lm: PrefixLM) -> None:
        self.lm = lm
        tokenizer = lm.tokenizer
        chat = tokenizer.chat(SYSTEM, USER + _MARK) if isinstance(tokenizer, HubTokenizer) else None
        if chat is not None:
            before, _, behind = chat.partition(_MARK)
        elif isinstance(tokenizer, HubTokenizer):
            before, behind = f"{SYSTEM}\n{USER}", f"\n{ASK}"
        else:
            before, behind = "", ASK
        ids = tokenizer.encode(before)
        start = list(tokenizer.start)
        self.before = ids[len(start) :] if start and ids[: len(start)] == start else ids  # the start comes by itself
        self.prompt = tokenizer.encode(behind)
        self._first = "" if chat is not None else " "  # in front of the description
        self._behind = behind
        self._seen: dict[tuple[str, str], list[int]] = {}

    def words(self) -> str:
        """Text besides descriptions that the vocabulary must hold."""
        return ASK

    def encode(self, text: str, context: str = "") -> list[int]:
        """Tokens of a piece as it is written behind a context; without one it is the first of a description."""
        if not context:
            context, text = self._behind, self._first + text
        context = context[-40:].rpartition("\n")[2].split(" ")[-1] or context[-1:]
        if (context, text) not in self._seen:
            self._seen[context, text] = self.lm.encode_after(context, [text])[0]
        return self._seen[context, text]

    def description(
        self, pieces: Sequence[Piece], slot_weight: float, type_weight: float = 1.0
    ) -> tuple[list[int], list[float]]:
        """Tokens of a description to its end, and the weight of each: `slot_weight` in slots, times `type_weight` in that of the type."""
        ids: list[int] = []
        weights: list[float] = []
        context = ""
        for piece in pieces:
            tokens = self.encode(piece.text, context)
            ids += tokens
            weight = slot_weight * type_weight if piece.slot == "cell_type" else slot_weight if piece.slot else 1.0
            weights += [weight] * len(tokens)
            context = piece.text
        if self.lm.eos is not None:
            ids.append(self.lm.eos)
            weights.append(1.0)
        return ids, weights

    def pack(
        self,
        genes: GeneStates,
        cell: np.ndarray,
        descriptions: Sequence[tuple[list[int], list[float]]] | None = None,
        classes: np.ndarray | None = None,
    ) -> Batch:
        """A batch on the CPU.

        Parameters
        ----------
        genes
            Of B cells.
        cell
            (B, C).
        descriptions
            From :meth:`description`; None for prompts alone.
        classes
            (B, F); None for none.
        """
        n, prompt = len(genes.states), self.prompt
        tails: Sequence[tuple[list[int], list[float]]] = descriptions or [([], [])] * n
        length = len(prompt) + max((len(ids) for ids, _ in tails), default=0)
        ids = np.zeros((n, length), dtype=np.int64)
        targets = np.full((n, length), -100, dtype=np.int64)
        weights = np.zeros((n, length), dtype=np.float32)
        at = len(prompt)
        for i, (tail, weight) in enumerate(tails):
            ids[i, :at] = prompt
            ids[i, at : at + len(tail)] = tail
            targets[i, at - 1 : at - 1 + len(tail)] = tail  # position p gives token p + 1
            weights[i, at - 1 : at - 1 + len(tail)] = weight
        arrays = (
            genes.states, genes.real, cell.astype(np.float32), ids, np.full(n, at, dtype=np.int64), targets, weights,
            np.full((n, 0), -1, dtype=np.int64) if classes is None else classes,
        )  # fmt: skip
        return Batch(*(torch.from_numpy(np.ascontiguousarray(a)) for a in arrays))


class CellValues(NamedTuple):
    r"""Principal components of a cell's log-normalised counts.

    Attributes
    ----------
    share
        (G,) float32 share of each gene in all counts of the training cells.
    mean
        (G,) float32 of log-normalised counts (counts per 10,000 of these genes).
    components
        (G, C) float32: axes, so scaled that component j of training cells has standard deviation :math:`3 \sqrt{\sigma_j / \sigma_1}`:
        between components as they are, of which the first drown the rest, and all alike, where noise does.
    """

    share: np.ndarray
    mean: np.ndarray
    components: np.ndarray

    @classmethod
    def fit(cls, counts: sparse.csr_matrix, n: int, seed: int) -> CellValues:
        """What is usual of cells (n_cells, G), and at most `n` components of it."""
        from sklearn.decomposition import PCA
        from threadpoolctl import threadpool_limits

        total = np.asarray(counts.sum(axis=0, dtype=np.float64)).ravel()
        normal = log_normalise(counts).astype(np.float64)
        n = max(1, min(n, *(side - 1 for side in normal.shape)))
        with threadpool_limits(1, user_api="blas"):  # thin matrices: threads would wait for each other
            found = PCA(n, svd_solver="arpack", random_state=np.random.RandomState(seed)).fit(normal)
        spread = np.maximum(np.sqrt(np.maximum(found.explained_variance_, 0)), 1e-3)
        parts = (
            total / max(total.sum(), 1), found.mean_, found.components_.T * (_SPREAD / np.sqrt(spread * spread[0])),
        )  # fmt: skip
        return cls(*(np.ascontiguousarray(part, dtype=np.float32) for part in parts))

    def of(self, counts: sparse.csr_matrix, present: np.ndarray) -> np.ndarray:
        """(n, C) float32 of counts (n, G); genes that the data lack, not `present` (G,), count as at their mean."""
        normal = self._normal(counts, present)
        values = normal @ self.components - (self.mean * present) @ self.components
        return np.clip(values, -_CLIP, _CLIP).astype(np.float32)

    def direction(self, counts: sparse.csr_matrix, present: np.ndarray) -> sparse.csr_matrix:
        """(n, G) log-normalised counts of counts (n, G), each cell of length 10, where a shallow and a deep cell of a type look alike.

        Genes that the data lack, not `present` (G,), count as at their mean in the length.
        """
        normal = self._normal(counts, present)
        missing = float((self.mean[~present].astype(np.float64) ** 2).sum())
        squares = np.asarray(normal.multiply(normal).sum(axis=1)).ravel() + missing
        return sparse.csr_matrix(sparse.diags_array(_LENGTH / np.sqrt(np.maximum(squares, 1e-12))) @ normal)

    def _normal(self, counts: sparse.csr_matrix, present: np.ndarray) -> sparse.csr_matrix:
        depth = float(self.share[present].sum())  # of the genes that were measured, in a usual cell
        return log_normalise(counts, 1e4 * max(depth, 1e-6))


class TypeRegression(NamedTuple):
    """Softmax regression of cell types on a cell's genes, for the token of the type.

    As the family ``"logistic"``: log-normalised counts of length 10, cells weighted by :math:`n_{type}^{-1/2}`, its penalty.

    Attributes
    ----------
    weights, intercepts
        (K, G) and (K,) float32.
    """

    weights: np.ndarray
    intercepts: np.ndarray

    @classmethod
    def fit(cls, cells: sparse.csr_matrix, codes: np.ndarray, n_types: int, seed: int = 0) -> TypeRegression:
        """Learn from cells (n, G) and types (n,); a type without a cell is as improbable as can be. Of many cells, 20,000 are drawn."""
        from sklearn.linear_model import LogisticRegression
        from threadpoolctl import threadpool_limits

        weights = np.zeros((n_types, cells.shape[1]), dtype=np.float32)
        intercepts = np.full(n_types, _LEAST, dtype=np.float32)
        if len(codes) > _MOST:
            drawn = np.random.default_rng([seed, 19]).permutation(len(codes))[:_MOST]
            drawn = np.union1d(drawn, np.unique(codes, return_index=True)[1])  # and one of each type
            cells, codes = cells[drawn], codes[drawn]
        there = np.unique(codes)
        if len(there) < 2:
            intercepts[there] = 0
            return cls(weights, intercepts)
        importance = 1 / np.sqrt(np.bincount(codes, minlength=n_types)[codes])
        importance *= len(codes) / importance.sum()
        inverse = 1 / (_PENALTY * min(len(codes), _PENALISED))
        with threadpool_limits(1, user_api="blas"):
            model = LogisticRegression(C=inverse, max_iter=300, tol=1e-3)
            found = model.fit(cells.astype(np.float64), codes, sample_weight=importance)
        if len(there) == 2:  # one row for two types
            weights[there] = np.concatenate([-found.coef_, found.coef_]) / 2
            intercepts[there] = np.concatenate([-found.intercept_, found.intercept_]) / 2
        else:
            weights[there], intercepts[there] = found.coef_, found.intercept_
        return cls(weights, intercepts)

    def log_probs(self, cells: sparse.csr_matrix) -> np.ndarray:
        """(n, K) float32 log probabilities of cells (n, G), at least -8."""
        scores = np.asarray(cells @ self.weights.T, dtype=np.float64) + self.intercepts
        scores -= np.logaddexp.reduce(scores, axis=1, keepdims=True)
        return np.maximum(scores, _LEAST).astype(np.float32)

    @classmethod
    def of_others(cls, cells: sparse.csr_matrix, codes: np.ndarray, n_types: int, seed: int) -> np.ndarray:
        """(n, K) log probabilities of each cell by a regression that has not seen it, in five parts.

        A language model that is shown what the regression says of its own training cells would learn never to doubt it.
        """
        part = np.random.default_rng([seed, 17]).permutation(len(codes)) % min(5, len(codes))
        found = np.zeros((len(codes), n_types), dtype=np.float32)
        for i in np.unique(part):
            found[part == i] = cls.fit(cells[part != i], codes[part != i], n_types, seed).log_probs(cells[part == i])
        return found
