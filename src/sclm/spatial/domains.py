"""Domains of a section: a Gaussian mixture over vectors of spots, how many there are, and where their labels are unsure."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from sclm.spatial.neighbourhoods import neighbour_means

if TYPE_CHECKING:
    from collections.abc import Sequence

    import scipy.sparse as sp

logger = logging.getLogger(__name__)

_MOST_FITTED = 20_000  # spots that a mixture is fitted on; the others are assigned
_MOST_COMPARED = 4_000  # the same where many mixtures are compared
_RUNS = 6  # mixtures of each number that are compared
_SHARE = 0.8  # of the spots that one of them sees
_STABLE = 0.95  # of the agreement that the most stable number has


class Domains(NamedTuple):
    """Domains of spots.

    Attributes
    ----------
    codes
        (n,) int64 number of each spot's domain, 0 the largest.
    probability
        (n,) float32 of the domain under the mixture, 0-1. In many dimensions it is close to 1 nearly everywhere.
    """

    codes: np.ndarray
    probability: np.ndarray


def gaussian_domains(vectors: np.ndarray, n_domains: int, *, n_starts: int = 5, seed: int = 0) -> Domains:
    """Divide spots by a mixture of Gaussians with one covariance.

    One covariance for all domains is the model ``EEE`` of mclust, which the publications of this field use. Where there are more
    than 20,000 spots, the mixture is fitted on as many, drawn at random, and all are assigned.

    Parameters
    ----------
    vectors
        (n, k) numbers without missing ones.
    n_domains
        Number of domains, at least 1 and at most n.
    n_starts
        Starts of the fit, of which the most probable is kept.
    seed
        Of the starts and of the draw.

    Returns
    -------
    The :class:`Domains`, the largest first; domains of the same size are in the order of their first spot. A domain that no spot
    falls into is left out, so there may be fewer than were asked for.

    Raises
    ------
    ValueError
        `n_domains` is out of range, or there are missing values.

    Examples
    --------
    >>> import numpy as np
    >>> gaussian_domains(np.array([[0.0], [0.1], [9.0], [0.2], [9.1]]), 2).codes.tolist()
    [0, 0, 1, 0, 1]
    """
    found = _finite(vectors)
    if not 1 <= n_domains <= len(found):
        raise ValueError(f"n_domains must lie between 1 and the number of spots ({len(found):,}), found {n_domains}.")
    rng = np.random.default_rng(seed)
    rows = _some(len(found), _MOST_FITTED, rng)
    mixture = _mixture(found[rows], n_domains, n_starts, rng)
    probability = mixture.predict_proba(found)
    codes = by_size(probability.argmax(axis=1))
    return Domains(codes, probability.max(axis=1).astype(np.float32))


def leading_components(vectors: np.ndarray, n_components: int = 20) -> np.ndarray:
    """Principal components of vectors, as the publications of this field take them before they divide spots.

    Parameters
    ----------
    vectors
        (n, k) numbers without missing ones.
    n_components
        At most so many.

    Returns
    -------
    (n, min(n_components, k)) float64, the first with most variance; the vectors themselves, at mean 0, where they have no more
    columns.

    Raises
    ------
    ValueError
        If there are missing values.
    """
    from sklearn.decomposition import PCA

    found = _finite(vectors)
    found = found - found.mean(axis=0)
    if found.shape[1] <= n_components:
        return found
    return PCA(min(n_components, len(found)), svd_solver="covariance_eigh").fit_transform(found)


def domain_stability(
    vectors: np.ndarray, numbers: Sequence[int], *, seed: int = 0, progress_bar: bool = True
) -> pd.DataFrame:
    """How well divisions into each number of domains agree with one another.

    For each number, six mixtures are fitted, each on another random 80 % of the spots, and all spots are assigned by each. The score
    is the mean adjusted Rand index over pairs of them: near 1 where the data, not the draw, decide. Comparing clusterings of
    subsamples is the method of Ben-Hur, Elisseeff & Guyon (Pacific Symposium on Biocomputing 2002).

    Parameters
    ----------
    vectors
        (n, k) numbers without missing ones; of more than 4,000 spots as many, drawn at random, are used.
    numbers
        Numbers of domains to try.
    seed
        Of everything random.
    progress_bar
        Show which number is tried.

    Returns
    -------
    One row a number: ``n_domains``, ``agreement`` (mean over pairs), ``spread`` (standard deviation over pairs).

    Raises
    ------
    ValueError
        If a number is out of range, or there are missing values.
    """
    from sklearn.metrics import adjusted_rand_score
    from tqdm import tqdm

    found = _finite(vectors)
    rng = np.random.default_rng(seed)
    found = found[_some(len(found), _MOST_COMPARED, rng)]
    size = max(2, round(_SHARE * len(found)))
    wrong = [k for k in numbers if not 1 <= k <= size]
    if wrong:
        raise ValueError(f"numbers must lie between 1 and {size:,}, found {wrong[0]}.")
    rows = []
    for k in tqdm(numbers, desc="number of domains", delay=2, leave=False, disable=not progress_bar):
        codes = []
        for _ in range(_RUNS):
            seen = rng.choice(len(found), size, replace=False)
            codes.append(_mixture(found[seen], k, 2, rng).predict(found))
        pairs = [adjusted_rand_score(codes[i], codes[j]) for i in range(_RUNS) for j in range(i)]
        rows.append((int(k), float(np.mean(pairs)), float(np.std(pairs))))
    return pd.DataFrame(rows, columns=["n_domains", "agreement", "spread"])


def stable_number(stability: pd.DataFrame) -> int:
    """The largest number of domains that is nearly as stable as the most stable one.

    Few domains are nearly always the most stable; so the largest number is taken whose agreement reaches 95 % of the highest.

    Parameters
    ----------
    stability
        As :func:`domain_stability` gives it.

    Returns
    -------
    The number.

    Examples
    --------
    >>> import pandas as pd
    >>> stable_number(pd.DataFrame({"n_domains": [2, 3, 4], "agreement": [0.94, 0.95, 0.6]}))
    3
    """
    best = stability["agreement"].max()  # below 0 where subsamples agree less than by chance
    enough = stability["agreement"] >= best - (1 - _STABLE) * abs(best)
    return int(stability.loc[enough, "n_domains"].max())


def label_votes(codes: np.ndarray, graph: sp.spmatrix, *, n_hops: int = 3) -> np.ndarray:
    """Shares of the labels around each spot, near ones weighing more.

    Parameters
    ----------
    codes
        (n,) whole numbers from 0; -1 for spots without a label, which do not vote.
    graph
        Sparse (n, n) of neighbours.
    n_hops
        Steps within which spots vote.

    Returns
    -------
    (n, n_labels) float32, rows sum to 1; zeros where nobody around has a label. The spot itself votes too.
    """
    n_labels = int(codes.max(initial=-1)) + 1
    votes = np.zeros((len(codes), max(n_labels, 1)), dtype=np.float32)
    known = np.flatnonzero(codes >= 0)
    votes[known, codes[known]] = 1
    means = neighbour_means(graph)
    for _ in range(n_hops):
        votes = means @ votes
    total = votes.sum(axis=1, keepdims=True)
    return np.divide(votes, total, out=np.zeros_like(votes), where=total > 0)


def label_entropy(votes: np.ndarray) -> np.ndarray:
    """Entropy of the labels around each spot, as a share of the highest possible.

    Parameters
    ----------
    votes
        As :func:`label_votes` gives them.

    Returns
    -------
    (n,) float32, 0 (one label all around) to 1 (all labels alike).

    Examples
    --------
    >>> import numpy as np
    >>> label_entropy(np.array([[1.0, 0.0], [0.5, 0.5]])).tolist()
    [0.0, 1.0]
    """
    if votes.shape[1] < 2:
        return np.zeros(len(votes), dtype=np.float32)
    logs = np.log(np.where(votes > 0, votes, 1))
    entropy = np.abs((votes * logs).sum(axis=1)) / np.log(votes.shape[1])
    return np.clip(entropy, 0, 1).astype(np.float32)


def refine_labels(codes: np.ndarray, graph: sp.spmatrix, threshold: float, *, n_hops: int = 3) -> np.ndarray:
    """Give spots in mixed surroundings the label of the majority around them.

    Parameters
    ----------
    codes
        (n,) whole numbers from 0, -1 without a label.
    graph
        Sparse (n, n) of neighbours.
    threshold
        Label entropy, 0-1, from which on a spot takes the majority's label: 0 all spots, above 1 none.
    n_hops
        Steps within which spots vote.

    Returns
    -------
    (n,) int64 labels; spots without one stay without.
    """
    votes = label_votes(codes, graph, n_hops=n_hops)
    change = (label_entropy(votes) >= threshold) & (codes >= 0)
    return np.where(change, votes.argmax(axis=1), codes).astype(np.int64)


# Parts --------------------------------------------------------------------------------------------------------------


def _finite(vectors: np.ndarray) -> np.ndarray:
    found = np.asarray(vectors, dtype=np.float64)
    if found.ndim != 2 or not len(found):
        raise ValueError(f"vectors must be of shape (spots, width), found {found.shape}.")
    missing = int((~np.isfinite(found)).any(axis=1).sum())
    if missing:
        raise ValueError(f"vectors must be finite, found {missing:,} of {len(found):,} spots without.")
    return found


def _some(n: int, most: int, rng: np.random.Generator) -> np.ndarray:
    """Rows, at most so many, in their order."""
    return np.arange(n) if n <= most else np.sort(rng.choice(n, most, replace=False))


def _mixture(vectors: np.ndarray, k: int, n_starts: int, rng: np.random.Generator) -> Any:
    """A fitted mixture; the ridge keeps the covariance regular where there are fewer spots than columns."""
    import warnings

    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    ridge = 1e-6 + 1e-3 * float(vectors.var(axis=0).mean())
    state = int(rng.integers(2**31 - 1))
    mixture = GaussianMixture(k, covariance_type="tied", n_init=n_starts, reg_covar=ridge, random_state=state)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a hundred steps: the labels no longer change much
        return mixture.fit(vectors)


def by_size(codes: np.ndarray) -> np.ndarray:
    """Labels renumbered: the largest is 0, ties by their first row."""
    names, first, inverse, counts = np.unique(codes, return_index=True, return_inverse=True, return_counts=True)
    order = np.lexsort((first, -counts))
    place = np.empty(len(names), dtype=np.int64)
    place[order] = np.arange(len(names))
    return place[inverse]
