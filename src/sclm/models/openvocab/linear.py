r"""Softmax regression whose labels may stand for several outputs: hierarchical cross-entropy, and the plain one as its special case.

.. math::

    -\sum_i w_i \Big[ (1 - m) \log \sum_{k \in \mathrm{below}(y_i)} p_{ik} + m \log p_{i y_i} \Big] + \tfrac{\lambda}{2} \lVert W \rVert^2,
    \qquad p_i = \mathrm{softmax}(W^\top x_i + b)

The part m of the cells that mean their label and nothing below it decides between a general label and a special one: without it, nothing
keeps the cells of a general label from all being called the special one.

n cells · G genes · V genes that vary most · S labels · K outputs
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse
from scipy.optimize import minimize
from threadpoolctl import threadpool_limits

if TYPE_CHECKING:
    from sclm.models.reference_cells import Reference

_GENES = (
    4000  # that vary most: with an output for every term above the labels, all genes would cost memory and say no more
)
_CELLS = 50_000  # at most, drawn within each type
_PENALISED = 3000  # λ grows with the cells up to here, as in the family "logistic"
_LENGTH = 10.0
_EXACT = 0.2  # m


def fit_softmax(
    reference: Reference,
    codes: np.ndarray,
    use: np.ndarray,
    below: np.ndarray,
    *,
    penalty: float,
    max_iter: int,
    seed: int,
) -> dict[str, np.ndarray]:
    """Learn from the cells under a mask.

    Parameters
    ----------
    reference
        Log-normalised blocks.
    codes
        (n,) labels of its cells.
    use
        (n,) bool.
    below
        (S, K) bool: outputs that count as each label; output s is that of label s itself.
    penalty
        λ is this times the number of cells, of which at most 3,000 count.
    max_iter
        Of L-BFGS.
    seed
        Of the cells that are kept where there are more than 50,000.

    Returns
    -------
    ``genes`` (V,) int64, ``weights`` (V, K) and ``intercept`` (K,) float32.
    """
    use = _capped(codes, use, np.random.default_rng([seed, 3]))
    genes = _variable(reference, use)
    x = sparse.vstack([block[use[where]][:, genes] for where, block in reference.blocks()], format="csr")
    x = sparse.diags_array(to_length(x, None)).astype(np.float32) @ x
    across = x.T.tocsr()
    y = codes[use]
    # Outputs that count as the same labels have the same weights at the optimum: one of each kind is learnt, and counted so often.
    s = len(below)
    inner, kind, times = np.unique(below[:, s:], axis=1, return_inverse=True, return_counts=True)
    kind = np.concatenate([np.arange(s), s + kind.ravel()])
    times = np.concatenate([np.ones(s), times])
    below = np.concatenate([below[:, :s], inner], axis=1)
    n, k = len(y), below.shape[1]
    weight = 1.0 / np.sqrt(np.bincount(y, minlength=len(below))[y])
    weight = (weight * n / weight.sum()).astype(np.float32)
    ridge = penalty * min(n, _PENALISED)
    allowed = below[y]  # (n, K)
    many = times.astype(np.float32)
    rows = np.arange(n)

    def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
        parameters = flat.reshape(len(genes) + 1, k)
        z = x @ parameters[:-1].astype(np.float32) + parameters[-1].astype(np.float32)
        z -= z.max(axis=1, keepdims=True)
        e = np.exp(z) * many
        total = e.sum(axis=1)
        mine = np.where(allowed, e, 0.0)
        own = np.maximum(mine.sum(axis=1), 1e-30)
        loss = float((weight * (np.log(total) - (1 - _EXACT) * np.log(own) - _EXACT * z[rows, y])).sum())
        residual = e / total[:, None] - (1 - _EXACT) * mine / own[:, None]  # (n, K)
        residual[rows, y] -= _EXACT
        residual *= weight[:, None]
        gradient = np.empty_like(parameters)
        gradient[:-1] = across @ residual + ridge * times * parameters[:-1]
        gradient[-1] = residual.sum(axis=0)
        return (loss + 0.5 * ridge * float((times * parameters[:-1] ** 2).sum())) / n, gradient.ravel() / n

    with threadpool_limits(1, user_api="blas"):
        found = minimize(
            objective, np.zeros((len(genes) + 1) * k), jac=True, method="L-BFGS-B",
            options={"maxiter": max_iter, "gtol": 1e-5, "ftol": 1e-6},
        ).x.reshape(len(genes) + 1, k)  # fmt: skip
    found = found[:, kind].astype(np.float32)
    return {"genes": genes, "weights": found[:-1], "intercept": found[-1]}


def linear_scores(learnt: dict[str, np.ndarray], lognormal: sparse.csr_matrix, fill: np.ndarray | None) -> np.ndarray:
    """(n, K) scores; ``fill`` (G,) holds the value of genes that the data lacks, 0 for the others."""
    genes, weights = learnt["genes"], learnt["weights"]
    x = lognormal[:, genes]
    some = None if fill is None else fill[genes]
    scores = x @ weights
    if some is not None:
        scores = scores + some @ weights
    return (scores * to_length(x, some)[:, None] + learnt["intercept"]).astype(np.float64)


def to_length(lognormal: sparse.csr_matrix, fill: np.ndarray | None) -> np.ndarray:
    """(n,) float32 factors that bring each cell, with the values of absent genes filled in, to length 10."""
    squares = np.asarray(lognormal.multiply(lognormal).sum(axis=1), dtype=np.float32).ravel()
    if fill is not None:
        squares = squares + fill @ fill
    return np.where(squares > 0, _LENGTH / np.sqrt(np.maximum(squares, 1e-12)), 0).astype(np.float32)


def _variable(reference: Reference, use: np.ndarray) -> np.ndarray:
    """The genes of highest variance among the cells used, (V,) int64, ascending."""
    squares = np.zeros(len(reference.vocabulary))
    mean = np.zeros(len(reference.vocabulary))
    for where, block in reference.blocks():
        mine = block[use[where]]
        mean += np.asarray(mine.sum(axis=0)).ravel()
        squares += np.asarray(mine.multiply(mine).sum(axis=0)).ravel()
    n = max(int(use.sum()), 1)
    variance = squares / n - (mean / n) ** 2
    return np.sort(np.argsort(-variance, kind="stable")[:_GENES]).astype(np.int64)


def _capped(codes: np.ndarray, use: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The mask with at most 50,000 cells, the same share of every type and one of each at least."""
    if use.sum() <= _CELLS:
        return use
    share = _CELLS / use.sum()
    kept = np.zeros(len(use), dtype=bool)
    for code in np.unique(codes[use]):
        cells = np.flatnonzero(use & (codes == code))
        kept[rng.choice(cells, max(int(share * len(cells)), 1), replace=False)] = True
    return kept
