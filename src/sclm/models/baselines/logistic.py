"""Multinomial logistic regression on log-normalised counts."""

from __future__ import annotations

import dataclasses
import logging
from typing import TYPE_CHECKING

import numpy as np
from scipy.optimize import minimize
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from sclm.models.baselines.annotator import AnnotatorConfig, BaselineAnnotator
from sclm.models.baselines.softmax import add_gradient, loss_and_residual

if TYPE_CHECKING:
    from collections.abc import Iterator

    from scipy import sparse

    from sclm.models.reference_cells import Reference

logger = logging.getLogger(__name__)

_PENALISED = 3000
_LENGTH = 10.0  # of a cell's vector: about that of log-normalised counts of a sparse cell, so that weights stay near 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class LogisticConfig(AnnotatorConfig):
    """Settings of :class:`Logistic`."""

    # λ is this times the number of cells, of which at most 3,000 count: small references need their evidence, and beyond a
    # few thousand cells more shrinkage only costs. scikit-learn's C is 1 / λ.
    penalty: float = 0.01
    max_iter: int = 300  # upper bound on L-BFGS iterations, each one pass over the reference


class Logistic(BaselineAnnotator):
    r"""Multinomial logistic regression on log-normalised counts, sparse and block by block.

    Minimises :math:`-\sum_i w_i \log \mathrm{softmax}(W^\top x_i + b)_{y_i} + \tfrac{\lambda}{2} \lVert W \rVert^2` by
    L-BFGS with exact gradients summed over blocks: the same optimum whether the reference is in memory or on disk, with
    memory bounded by a block (and the weights).

    The :math:`x_i` are log-normalised counts scaled to length 10, so that a shallow cell and a deep one of the same type
    look alike; genes are not scaled, so markers speak as loudly as they are expressed. The weights
    :math:`w_i \propto n_{y_i}^{-1/2}` (mean 1) let rare types be heard without drowning the common ones. Strong shrinkage
    costs nothing within a study and keeps the answer when the next study was sequenced otherwise.
    """

    family = "logistic"
    Config = LogisticConfig

    @classmethod
    def _check(cls, config: LogisticConfig) -> None:
        if not config.penalty > 0:
            raise ValueError(f"penalty must be above 0, found {config.penalty}. The default is 0.01.")
        if config.max_iter < 1:
            raise ValueError(f"max_iter must be at least 1, found {config.max_iter}.")

    @classmethod
    def _learn(
        cls,
        config: LogisticConfig,
        reference: Reference,
        codes: np.ndarray,
        use: np.ndarray,
        *,
        seed: int,
        start: dict | None,
    ) -> dict[str, np.ndarray]:
        n_genes, n_types = len(reference.vocabulary.tokens), len(config.labels)
        n = int(use.sum())
        ridge = config.penalty * min(n, _PENALISED)
        weight = (use / np.sqrt(np.maximum(np.bincount(codes[use], minlength=n_types), 1))[codes]).astype(np.float32)
        weight *= n / weight.sum()
        scale = np.concatenate([_to_length(block, None) for _, block in reference.blocks()])  # (n_cells,)
        # Centring the genes changes nothing at the optimum (the intercept is free) but makes it quicker to reach.
        mean = reference.gene_mean * scale.mean()
        first = np.zeros((n_genes + 1, n_types))
        if start is not None:
            first[:-1], first[-1] = start["weights"], start["intercept"] + mean @ start["weights"]

        def passes() -> Iterator[tuple[slice, sparse.csr_matrix, sparse.csc_matrix]]:
            for where, block in reference.blocks():
                yield where, block, block.tocsc()

        kept = list(passes()) if reference.cached else None

        # L-BFGS itself works on short vectors, where threads of BLAS that wait for each other cost more than the arithmetic
        # (measured: 5.4 s against 1.8 s for 8,000 cells).
        with (
            threadpool_limits(1, user_api="blas"),
            tqdm(desc="logistic regression", unit=" passes", delay=2, leave=False) as bar,
        ):

            def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
                parameters = flat.reshape(n_genes + 1, n_types)  # last row: intercept of centred genes
                weights = parameters[:-1].astype(np.float32)
                shift = (parameters[-1] - mean @ weights).astype(np.float32)
                loss, gradient = 0.0, np.zeros_like(parameters)
                for where, rows, columns in kept if kept is not None else passes():
                    residual = np.empty((rows.shape[0], n_types), dtype=np.float32)
                    loss += loss_and_residual(
                        rows.data, rows.indices, rows.indptr, scale[where], weights, shift, codes[where], weight[where], residual
                    )  # fmt: skip
                    add_gradient(columns.data, columns.indices, columns.indptr, scale[where], residual, gradient)
                    gradient[-1] += residual.sum(axis=0, dtype=np.float64)
                gradient[:-1] -= np.outer(mean, gradient[-1])
                loss += 0.5 * ridge * float((parameters[:-1] ** 2).sum())
                gradient[:-1] += ridge * parameters[:-1]
                bar.update()
                return loss / n, gradient.ravel() / n

            found = minimize(
                objective,
                first.ravel(),
                jac=True,
                method="L-BFGS-B",
                options={"maxiter": config.max_iter, "gtol": 1e-5, "ftol": 1e-6},
            )
        if not found.success:
            logger.warning("logistic regression stopped before it converged: %s. Raise max_iter.", found.message)
        best = found.x.reshape(n_genes + 1, n_types)
        weights = best[:-1].astype(np.float32)
        return {"weights": weights, "intercept": (best[-1] - mean @ weights).astype(np.float32)}

    @classmethod
    def _score(
        cls,
        config: LogisticConfig,
        learnt: dict[str, np.ndarray],
        lognormal: sparse.csr_matrix,
        fill: np.ndarray | None,
    ) -> np.ndarray:
        scores = lognormal @ learnt["weights"]
        if fill is not None:
            scores = scores + fill @ learnt["weights"]
        return scores * _to_length(lognormal, fill)[:, None] + learnt["intercept"]


def _to_length(lognormal: sparse.csr_matrix, fill: np.ndarray | None) -> np.ndarray:
    """(n,) factors that bring each cell, with the values of absent genes filled in, to length 10."""
    squares = np.asarray(lognormal.multiply(lognormal).sum(axis=1), dtype=np.float32).ravel()
    if fill is not None:
        squares = squares + fill @ fill
    # A cell without counts has no direction: factor 0 leaves it at the intercept, and out of every mean.
    return np.where(squares > 0, _LENGTH / np.sqrt(np.maximum(squares, 1e-12)), 0).astype(np.float32)
