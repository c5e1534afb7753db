"""Mean profile of a condition: smoothed training frequencies of genes, additive over metadata on the log scale.

This is the bias of the count head, so that a network that has learnt nothing yet already writes the independent baseline
of the condition, and a combination that no cell had is the product of its parts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.special import logsumexp

if TYPE_CHECKING:
    import scipy.sparse as sp


def fit_profile(
    totals: np.ndarray, design: sp.csr_matrix, *, n_own: int = 0, pseudocount: float = 1.0, sweeps: int = 30
) -> tuple[np.ndarray, np.ndarray]:
    r"""Log shares of genes as a base and one vector of log factors a node.

    The share of gene g in condition c is :math:`p_{cg} \propto p_g \prod_{j \in c} f_{jg}`, where the nodes j of c are the
    ontology terms of its fields and their ancestors. Each factor has a Gamma(a, a) prior, so that its update in closed form
    is

    .. math:: f_{jg} \leftarrow \frac{a + \sum_{c \ni j} x_{cg}}{a + \sum_{c \ni j} \hat x_{cg} / f_{jg}}

    (the posterior mean) with x the observed and :math:`\hat x` the expected counts: a gene that was hardly seen below a term keeps the share
    that it has below the term's parents. Factors of single combinations come last, once the
    others have settled: what types or treatments have in common must not be hidden in them.

    Parameters
    ----------
    totals
        (C conditions, G genes) float64: counts of all training cells of a condition.
    design
        CSR (C, P nodes) of 0 and 1.
    n_own
        The last columns of the design that are single combinations of values.
    pseudocount
        The prior's weight a, in counts.
    sweeps
        Passes over the other nodes.

    Returns
    -------
    ``log_base`` (G,) float32 and ``log_factors`` (P, G) float32.
    """
    totals = np.asarray(totals, dtype=np.float64)
    base = totals.sum(axis=0) + 0.5
    log_base = np.log(base / base.sum())
    log_factors = np.zeros((design.shape[1], totals.shape[1]), np.float32)
    n_shared = design.shape[1] - n_own
    shared, factors = design[:, :n_shared], log_factors[:n_shared]
    for _ in range(sweeps):
        update_profile(totals, shared, log_base, factors, None, pseudocount)
    if n_own:
        expected = _expected(totals, shared, log_base, factors)
        update_profile(totals, design[:, n_shared:], log_base, log_factors[n_shared:], expected, pseudocount)
    return log_base.astype(np.float32), log_factors


def update_profile(
    totals: np.ndarray,
    design: sp.csr_matrix,
    log_base: np.ndarray,
    log_factors: np.ndarray,
    expected: np.ndarray | None,
    pseudocount: float,
) -> None:
    """One pass over the nodes, in place.

    ``expected`` (C, G) are the counts that a model with further parts expects under the present factors, e.g. with
    programmes; those of the profile alone where None.
    """
    counts = _expected(totals, design, log_base, log_factors) if expected is None else expected.astype(np.float64)
    by_node = design.tocsc()
    everything = design.shape[0]
    for node in range(design.shape[1]):
        rows = by_node.indices[by_node.indptr[node] : by_node.indptr[node + 1]]
        if rows.size in (0, everything):
            continue  # what all conditions share is the base
        before = np.exp(log_factors[node].astype(np.float64))
        factor = (totals[rows].sum(axis=0) + pseudocount) / (counts[rows].sum(axis=0) / before + pseudocount)
        log_factors[node] = np.log(factor)
        counts[rows] *= factor / before


def refit_profile(
    totals: np.ndarray,
    design: sp.csr_matrix,
    log_base: np.ndarray,
    log_factors: np.ndarray,
    expected: np.ndarray,
    *,
    n_own: int,
    pseudocount: float,
) -> None:
    """Follow the counts (C, G) that a model with further parts expects, in place.

    The base takes what is off in all conditions. Where single combinations have factors, these take the rest and the shared
    factors stay: otherwise they would move towards what only some combinations have, and with them the combinations that no
    cell had.
    """
    ratio = (totals.sum(axis=0) + pseudocount) / (expected.sum(axis=0) + pseudocount)
    log_base += np.log(ratio).astype(log_base.dtype)
    first = design.shape[1] - n_own if n_own else 0
    update_profile(totals, design[:, first:], log_base, log_factors[first:], expected * ratio, pseudocount)


def _expected(totals: np.ndarray, design: sp.csr_matrix, log_base: np.ndarray, log_factors: np.ndarray) -> np.ndarray:
    """Counts (C, G) that the profile alone expects."""
    shares = np.exp(log_shares(design, log_base, log_factors).astype(np.float64))
    return shares * totals.sum(axis=1, keepdims=True)


def log_shares(design: sp.csr_matrix, log_base: np.ndarray, log_factors: np.ndarray) -> np.ndarray:
    """Log share of each gene in each condition: (C, G) float32, ``exp`` sums to one over genes."""
    scores = log_base[None, :] + (design @ log_factors if design.shape[1] else 0.0)
    scores = np.broadcast_to(scores, (design.shape[0], log_base.size))
    return (scores - logsumexp(scores, axis=1, keepdims=True)).astype(np.float32)
