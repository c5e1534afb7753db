"""Do a ligand and a receptor lie side by side more than tissue and depth explain? Residuals, and permuted receivers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numba
import numpy as np
import scipy.sparse as sp

from sclm.cells.kernels import per_cell

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import ArrayLike

_WIDTH = 32  # tests whose values stand side by side in memory: two cache lines of float32
_VALUES = 2**25  # of float32 a side that are held at a time, 128 MiB
_PERMUTATIONS = 2**23  # positions held at a time, 32 MiB
_GENES = 256  # whose residuals are worked out at a time
_SLACK = 1e-5  # standard deviations of the null within which two statistics are the same: float32 rounds


class SignalTest(NamedTuple):
    """Statistics of ligands and receptors on a graph, against permuted receivers.

    Attributes
    ----------
    statistic
        (n_tests,) float64, sum over edges of the weight times the sender's ligand times the receiver's receptor.
    z
        (n_tests,) float64, how many standard deviations of the null the statistic lies above its mean, both exact, divided
        by the inflation; NaN where the null has no spread.
    p
        (n_tests,) float64, share of permutations with a statistic at least as large, ``(1 + k) / (1 + n)``; NaN without permutations.
    """

    statistic: np.ndarray
    z: np.ndarray
    p: np.ndarray


def adjusted_scores(
    values: ArrayLike | sp.spmatrix, covariates: ArrayLike, library: ArrayLike | None = None
) -> np.ndarray:
    """What is left of each gene after covariates, in standard deviations, section by section.

    Parameters
    ----------
    values
        (n, n_genes) log-normalised expression, finite; sparse or not.
    covariates
        (n, k) what is regressed out by least squares besides a constant, such as domains and the logarithm of the depth; k may
        be 0, and columns may say the same.
    library
        (n,) section of each spot: each has coefficients and a standard deviation of its own. One section when None.

    Returns
    -------
    (n, n_genes) float32: residuals of mean 0 and standard deviation 1 in every section; 0 where a gene has no spread left.

    Raises
    ------
    ValueError
        If the lengths differ.

    Examples
    --------
    >>> depth = np.array([[0.0], [1.0], [2.0], [3.0]])
    >>> adjusted_scores(np.array([[1.0], [3.0], [3.0], [5.0]]), depth).ravel().round(2)
    array([-0.45,  1.34, -1.34,  0.45], dtype=float32)
    """
    y: Any = sp.csc_matrix(values) if sp.issparse(values) else np.asarray(values)
    design = np.asarray(covariates, dtype=np.float64)
    codes = np.zeros(y.shape[0], dtype=np.int64) if library is None else np.unique(library, return_inverse=True)[1]
    if y.ndim != 2 or design.ndim != 2 or len(design) != y.shape[0] or len(codes) != y.shape[0]:
        raise ValueError(
            f"values (n, n_genes), covariates (n, k) and library (n,) must describe the same spots, found {y.shape}, "
            f"{design.shape} and {len(codes)}."
        )
    scores = np.zeros(y.shape, dtype=np.float32)
    for code in np.unique(codes):
        rows = np.flatnonzero(codes == code)
        basis = _basis(np.column_stack([np.ones(len(rows)), design[rows]]))
        for first in range(0, y.shape[1], _GENES):  # float64 of some genes at a time
            part = y[:, first : first + _GENES][rows]
            own = np.asarray(part.toarray() if sp.issparse(part) else part, dtype=np.float64)
            left = own - basis @ (basis.T @ own)
            spread = left.std(axis=0)
            has = spread > 1e-6 * np.maximum(np.abs(own).max(axis=0), 1e-300)
            scores[rows, first : first + _GENES] = np.where(has, left / np.where(has, spread, 1.0), 0.0)
    return scores


def _basis(design: np.ndarray) -> np.ndarray:
    """Orthonormal columns that span those of the design; columns that say the same become one."""
    scale = np.linalg.norm(design, axis=0)
    u, s, _ = np.linalg.svd(design / np.where(scale > 0, scale, 1.0), full_matrices=False)
    return u[:, s > 1e-8 * s[0]]


def receiver_permutation_test(
    graph: sp.spmatrix,
    ligand: np.ndarray,
    receptor: np.ndarray,
    pairs: ArrayLike,
    *,
    source: np.ndarray | None = None,
    target: np.ndarray | None = None,
    groups: ArrayLike | None = None,
    strata: ArrayLike | None = None,
    inflation: ArrayLike = 1.0,
    n_permutations: int = 999,
    seed: int = 0,
    progress: Callable[[int], Any] = lambda done: None,
) -> SignalTest:
    r"""Test ligand-receptor pairs on the edges of a graph, with receivers permuted.

    .. math:: T = \sum_{ij} w_{ij} \, a_i x_i \, b_j y_j,

    with the ligand's score :math:`x` and the share :math:`a` of the source group at the sender, the receptor's score
    :math:`y` and the share :math:`b` of the target group at the receiver. Under the null the scores :math:`y` are those of
    other spots of the same stratum. All tests see the same permutations. Since :math:`T = \sum_j u_j y_{\pi(j)}` with
    :math:`u_j = b_j \sum_i w_{ij} a_i x_i`, a permutation costs one product a spot, whatever the number of edges, and mean and
    variance over all permutations are known exactly.

    Parameters
    ----------
    graph
        (n, n) weights of the edges from senders (rows) to receivers (columns).
    ligand, receptor
        (n, n_ligands) and (n, n_receptors) scores, as :func:`adjusted_scores` gives them.
    pairs
        (n_tests, 2) columns of ``ligand`` and ``receptor``.
    source, target
        (n, n_sources) and (n, n_targets) shares of groups; 1 everywhere when None.
    groups
        (n_tests, 2) columns of ``source`` and ``target``; the first ones when None.
    strata
        (n,) receivers are permuted within these only, such as section and dominant type.
    inflation
        What the distance of a statistic from the mean of its null is divided by, 1 or more, one number or one a test: the spread of z among
        pairs without a signal, where tissue makes it larger than 1 (genomic control, Devlin & Roeder 1999).
    n_permutations
        Number of permutations, at least 0, which gives no p; the smallest p is 1 / (1 + n_permutations).
    seed
        Of the permutations.
    progress
        Called with the number of permutations times tests that were done since the last call.

    Returns
    -------
    A :class:`SignalTest`.

    Raises
    ------
    ValueError
        If shapes do not fit, or a number is out of range.
    """
    n = graph.shape[0]
    tested = np.asarray(pairs, dtype=np.int64).reshape(-1, 2)
    a = np.ones((n, 1)) if source is None else np.asarray(source, dtype=np.float64)
    b = np.ones((n, 1)) if target is None else np.asarray(target, dtype=np.float64)
    of = np.zeros_like(tested) if groups is None else np.asarray(groups, dtype=np.int64).reshape(-1, 2)
    if graph.shape != (n, n) or any(len(x) != n for x in (ligand, receptor, a, b)) or len(of) != len(tested):
        raise ValueError(
            f"graph (n, n), ligand, receptor, source and target (n, …) must describe the same spots, and pairs and groups the "
            f"same tests; found {graph.shape}, {ligand.shape}, {receptor.shape}, {a.shape}, {b.shape}, {tested.shape} and "
            f"{of.shape}."
        )
    by = np.broadcast_to(np.asarray(inflation, dtype=np.float64), len(tested))
    if n_permutations < 0 or (by < 1).any():
        raise ValueError(
            f"n_permutations must be at least 0 and inflation at least 1, found {n_permutations} and {by.min(initial=np.inf):g}."
        )
    code = np.zeros(n, dtype=np.int64) if strata is None else np.unique(strata, return_inverse=True)[1]
    incoming = sp.csr_matrix(graph, dtype=np.float64).T.tocsr()  # (receivers, senders)
    statistic, z, p = (np.empty(len(tested)) for _ in range(3))
    chunk = max(_WIDTH, _VALUES // max(n, 1) // _WIDTH * _WIDTH)
    received = np.diff(incoming.indptr) > 0
    for group in np.unique(of[:, 1]):  # tests of one target share their receivers
        tests = np.flatnonzero(of[:, 1] == group)
        # Strata without a receiver of the group add nothing, whatever their order: only the others are looked at.
        used = np.flatnonzero(np.isin(code, code[received & (b[:, group] != 0)]))
        if not len(used):
            statistic[tests], z[tests], p[tests] = 0.0, np.nan, 1.0
            continue
        edges, own = incoming[used], np.unique(code[used], return_inverse=True)[1]
        for first in range(0, len(tests), chunk):
            rows = tests[first : first + chunk]
            sent = ligand[:, tested[rows, 0]] * a[:, of[rows, 0]]  # (n, c)
            u = (edges @ sent) * b[used][:, [group]]  # (used, c)
            y = np.asarray(receptor[used][:, tested[rows, 1]], dtype=np.float64)
            statistic[rows] = np.einsum("nc,nc->c", u, y)
            mean, sd = _moments(u, y, own)
            with np.errstate(divide="ignore", invalid="ignore"):
                z[rows] = np.where(sd > 0, (statistic[rows] - mean) / sd / by[rows], np.nan)
            least = mean + (statistic[rows] - mean) / by[rows] - _SLACK * np.maximum(sd, 1e-300)
            p[rows] = np.nan
            if n_permutations:
                p[rows] = (1 + _exceed(u, y, least, own, n_permutations, seed, progress)) / (1 + n_permutations)
    return SignalTest(statistic, z, p)


def _moments(u: np.ndarray, y: np.ndarray, code: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of the sum of u times permuted y over all permutations within strata."""
    member = sp.csr_matrix((np.ones(len(code)), (code, np.arange(len(code)))))  # (n_strata, n)
    size = np.asarray(member.sum(axis=1))  # (n_strata, 1)
    mean_u, mean_y = (member @ u) / size, (member @ y) / size  # (n_strata, c)
    square_u, square_y = (member @ ((v - m[code]) ** 2) for v, m in ((u, mean_u), (y, mean_y)))
    variance = (square_u * square_y / np.maximum(size - 1, 1)).sum(axis=0)
    return (size * mean_u * mean_y).sum(axis=0), np.sqrt(variance)


def _exceed(
    u: np.ndarray,
    y: np.ndarray,
    least: np.ndarray,
    code: np.ndarray,
    n_permutations: int,
    seed: int,
    progress: Callable[[int], Any],
) -> np.ndarray:
    """Number of permutations whose statistic is at least ``least``, (c,) int64."""
    n, c = u.shape
    n_blocks = -(-c // _WIDTH)
    receivers = np.flatnonzero((u != 0).any(axis=1)).astype(
        np.int32
    )  # of the target group, at the interface: often few
    senders, scores = (np.zeros((n_blocks, m, _WIDTH), dtype=np.float32) for m in (len(receivers), n))
    for side, values in ((senders, u[receivers]), (scores, y)):
        for k in range(n_blocks):
            part = values[:, k * _WIDTH : (k + 1) * _WIDTH]
            side[k, :, : part.shape[1]] = part
    limit = np.full((n_blocks, _WIDTH), np.inf, dtype=np.float32)
    limit.ravel()[:c] = least
    found = np.zeros((n_blocks, _WIDTH), dtype=np.int64)
    rng = np.random.default_rng(seed)
    several = max(1, min(n_permutations, 256, _PERMUTATIONS // max(n, 1)))
    strata = [np.flatnonzero(code == s) for s in range(code.max(initial=-1) + 1)]
    for start in range(0, n_permutations, several):
        m = min(several, n_permutations - start)
        order = np.empty((m, n), dtype=np.int32)
        for rows in strata:
            order[:, rows] = rng.permuted(np.tile(rows.astype(np.int32), (m, 1)), axis=1)
        _count(senders, scores, np.ascontiguousarray(order[:, receivers]), limit, found)
        progress(m * c)
    return found.ravel()[:c]


@per_cell
def _count(u: np.ndarray, y: np.ndarray, order: np.ndarray, limit: np.ndarray, found: np.ndarray) -> Any:
    """Add to ``found`` how often each test's permuted sum reaches its limit; blocks of tests in parallel.

    ``u`` (n_blocks, receivers, width), ``y`` (n_blocks, n, width), ``order`` (m, receivers): whose score each receiver gets.
    """
    n_blocks, n, width = u.shape
    for block in numba.prange(n_blocks):
        total = np.zeros(width, np.float32)
        for k in range(order.shape[0]):
            for c in range(width):
                total[c] = np.float32(0)
            for j in range(n):
                other = order[k, j]
                for c in range(width):
                    total[c] += u[block, j, c] * y[block, other, c]
            for c in range(width):
                if total[c] >= limit[block, c]:
                    found[block, c] += 1
