"""Nulls of shuffled labels: are treated cells other than control cells of the same batch?"""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from sclm.evidence.nulls import check_alternative

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import ArrayLike


class PermutationTest(NamedTuple):
    """A statistic against its values under shuffled labels.

    Attributes
    ----------
    statistic
        With the labels as they are.
    null
        (n_permutations,) with shuffled labels; every arrangement once where ``exact``.
    p
        Share of the null at least as extreme: ``(1 + k) / (1 + n)`` of random arrangements, ``k / n`` of all of them.
    exact
        Whether all arrangements were looked at.
    """

    statistic: float
    null: np.ndarray
    p: float
    exact: bool


def permutation_test(
    statistic: Callable[[np.ndarray], float],
    treated: ArrayLike,
    *,
    strata: ArrayLike | None = None,
    n_permutations: int = 999,
    alternative: str = "greater",
    seed: int = 0,
) -> PermutationTest:
    """Is a statistic of two groups larger than chance, with labels shuffled within batches?

    Parameters
    ----------
    statistic
        Function of a bool mask (n,) of the treated cells.
    treated
        (n,) bool.
    strata
        (n,) batch of each cell: labels are shuffled within a batch only, so that batches cannot pass for an effect.
    n_permutations
        Random arrangements; where there are no more arrangements than this, all of them are taken once.
    alternative
        ``"greater"``, ``"less"``, or ``"two-sided"`` (twice the smaller of the two).
    seed
        Of the arrangements.

    Returns
    -------
    A :class:`PermutationTest`.

    Raises
    ------
    ValueError
        If there is no batch with both treated and other cells.

    Examples
    --------
    >>> values = np.array([3.0, 4.0, 5.0, 0.0, 1.0, 2.0])
    >>> treated = np.array([True, True, True, False, False, False])
    >>> permutation_test(lambda mask: values[mask].mean(), treated).p  # 1 of 20 arrangements
    0.05
    """
    check_alternative(alternative)
    labels, codes = _groups(treated, strata, n_permutations)
    masks, exact = _arrangements(labels, codes, n_permutations, seed)
    return _judge(statistic(labels), np.array([statistic(mask) for mask in masks]), alternative, exact)


def mean_shift_test(
    points: ArrayLike,
    treated: ArrayLike,
    *,
    strata: ArrayLike | None = None,
    n_permutations: int = 999,
    seed: int = 0,
) -> PermutationTest:
    r"""Do treated cells lie elsewhere in a space than control cells of the same batch?

    The statistic is the length of the mean difference, :math:`\|\sum_b w_b (\bar x_{b1} - \bar x_{b0})\|` with
    :math:`w_b \propto n_{b1} n_{b0} / (n_{b1} + n_{b0})`, against labels shuffled within batches.

    Parameters
    ----------
    points
        (n, d) cells in a space.
    treated
        (n,) bool.
    strata
        (n,) batch of each cell; batches without both kinds of cells are left out.
    n_permutations
        Arrangements, as in :func:`permutation_test`.
    seed
        Of the arrangements.

    Returns
    -------
    A :class:`PermutationTest`, one-sided. The length of a mean of few cells is larger by chance: compare groups of different
    sizes by ``(statistic - null.mean()) / null.std()`` or by p, not by the statistic.
    """
    x = np.asarray(points, dtype=np.float64)
    labels, codes = _groups(treated, strata, n_permutations)
    if x.ndim != 2 or len(x) != len(labels):
        raise ValueError(f"points must have one row a cell, (n, d), found {x.shape} for {len(labels)} cells.")
    n_treated, n_cells = np.bincount(codes, weights=labels), np.bincount(codes)
    both = (n_treated > 0) & (n_treated < n_cells)
    used = both[codes]
    x, labels, codes = x[used], labels[used], codes[used]
    with np.errstate(divide="ignore", invalid="ignore"):
        precision = np.where(both, n_treated * (n_cells - n_treated) / n_cells, 0.0)
        share = np.where(both, precision / (n_cells - n_treated), 0.0) / precision.sum()
    # With these weights every treated cell counts the same: difference = sum of treated / sum of precisions - constant.
    x = x - x.mean(axis=0)  # rounds less
    constant = share[codes] @ x  # (d,)
    masks, exact = _arrangements(labels, codes, n_permutations, seed)

    def lengths(mask: np.ndarray) -> np.ndarray:  # (m, n) → (m,)
        return np.linalg.norm(mask.astype(np.float64) @ x / precision.sum() - constant, axis=1)

    null = []
    while block := list(itertools.islice(masks, 256)):
        null.append(lengths(np.array(block)))
    return _judge(float(lengths(labels[None])[0]), np.concatenate(null), "greater", exact)


def _groups(treated: ArrayLike, strata: ArrayLike | None, n_permutations: int) -> tuple[np.ndarray, np.ndarray]:
    """Mask of the treated cells and codes of their batches, checked."""
    mask = np.asarray(treated)
    if mask.ndim != 1 or mask.dtype != bool:
        raise ValueError(f"treated must be one bool a cell, found {mask.dtype} of shape {mask.shape}.")
    codes = np.zeros(len(mask), dtype=np.int64)
    if strata is not None:
        codes = np.unique(np.asarray(strata).astype(str), return_inverse=True)[1].astype(np.int64)
        if codes.shape != mask.shape:
            raise ValueError(f"strata must name the batch of each cell, found {len(codes)} for {len(mask)} cells.")
    if n_permutations < 1:
        raise ValueError(f"n_permutations must be at least 1, found {n_permutations}: no result goes without its null.")
    mixed = [c for c in np.unique(codes) if 0 < mask[codes == c].sum() < (codes == c).sum()]
    if not mixed:
        raise ValueError("no batch holds both treated and other cells: there is nothing to compare within a batch.")
    return mask, codes


def _arrangements(
    treated: np.ndarray, codes: np.ndarray, n_permutations: int, seed: int
) -> tuple[Iterator[np.ndarray], bool]:
    """Masks with as many treated cells in each batch: all of them where they are few, else random ones."""
    batches = [np.flatnonzero(codes == c) for c in np.unique(codes)]
    numbers = [int(treated[rows].sum()) for rows in batches]
    if math.prod(math.comb(len(rows), k) for rows, k in zip(batches, numbers, strict=True)) <= n_permutations:
        return _all_arrangements(batches, numbers, len(treated)), True
    return _random_arrangements(batches, treated, n_permutations, np.random.default_rng(seed)), False


def _all_arrangements(batches: list[np.ndarray], numbers: list[int], n: int) -> Iterator[np.ndarray]:
    choices = (itertools.combinations(rows, k) for rows, k in zip(batches, numbers, strict=True))
    for chosen in itertools.product(*choices):
        mask = np.zeros(n, dtype=bool)
        mask[list(itertools.chain.from_iterable(chosen))] = True
        yield mask


def _random_arrangements(
    batches: list[np.ndarray], treated: np.ndarray, n_permutations: int, rng: np.random.Generator
) -> Iterator[np.ndarray]:
    for _ in range(n_permutations):
        mask = np.empty(len(treated), dtype=bool)
        for rows in batches:
            mask[rows] = rng.permutation(treated[rows])
        yield mask


def _judge(statistic: float, null: np.ndarray, alternative: str, exact: bool) -> PermutationTest:
    slack = 1e-12 * max(abs(statistic), float(np.abs(null).max(initial=0.0)))  # equal up to rounding is equal
    larger, smaller = int((null >= statistic - slack).sum()), int((null <= statistic + slack).sum())
    own = 0 if exact else 1  # among all arrangements the labels as they are have their turn
    shares = [(own + k) / (own + len(null)) for k in (larger, smaller)]
    p = {"greater": shares[0], "less": shares[1], "two-sided": min(1.0, 2 * min(shares))}[alternative]
    return PermutationTest(float(statistic), null, p, exact)
