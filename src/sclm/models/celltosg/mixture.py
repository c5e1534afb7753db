r"""From scores to probabilities: a type that training cells showed, or one that they did not.

.. math:: p(c \mid x) = (1 - \nu(x))\, p_{seen}(c \mid x) + \nu(x)\, p_{open}(c \mid x)

n cells · C terms · S training types
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy.optimize import minimize

from sclm.evidence import softmax

if TYPE_CHECKING:
    from sclm.models.celltosg.evidence import Fit

# Weights of an answer that no training cell has: of the profile, the texts, the markers, genes named after it, the usage prior, and of
# kinship with the training types that the cell resembles. Fitted once by conditional logistic regression on leave-types-out splits
# of five data sets of blood and pancreas, together with those of the company: see the family's page.
OPEN_WEIGHTS = np.array([0.011, 0.37, 0.27, 0.76, 0.55, 0.36])
# Of a constant, the gain of the best new term, the fit of the training types, their indecision: from the same splits.
NOVELTY_WEIGHTS = np.array([-1.3, 0.67, -0.1, 0.66])
_GAIN_WEIGHTS = (0.03, 0.4, 0.3)  # of profile, text and markers in novelty
_RIVAL = -4.0  # log usage
_KINSHIP_FLOOR = 1e-3
_PRIOR_STRENGTH = 10.0  # of weights towards their defaults, in cells
_EXPECTED = 0.3  # share of new types before any cell is seen
_EXPECTED_CELLS = 5.0  # cells that this expectation is worth
_MOST = (
    0.5  # the largest share that is believed: above, cells of known types lose their names (on the development data)
)
_ROUNDS = 500


class SeenWeights(NamedTuple):
    """Weights of what is said of the training types: by the language model, the contrast, the profiles, the discriminant."""

    language: float
    contrast: float
    profile: float
    discriminant: float

    def scores(self, *parts: np.ndarray) -> np.ndarray:
        """(n, S) scores whose softmax are the probabilities; four `parts` (n, S) in the order of the weights."""
        return sum(w * part for w, part in zip(self, parts, strict=True))  # type: ignore[return-value]

    @classmethod
    def fit(cls, *parts: np.ndarray, truth: np.ndarray) -> SeenWeights:
        """Weights under which held-out cells (n,) are most likely, not negative; pulled towards the discriminant alone."""
        whole = np.stack(parts, axis=2).astype(np.float64)  # (n, S, 4)
        whole = whole - whole.mean(axis=1, keepdims=True)
        unit = np.maximum(whole.std(axis=(0, 1)), 1e-6)
        scaled = whole / unit
        rows = np.arange(len(truth))
        first = np.array([0.0, 0.0, 0.0, unit[3]])  # as the discriminant was fitted

        def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
            p = softmax(scaled @ weights)
            gap = np.einsum("nsk,ns->nk", scaled, p) - scaled[rows, truth]
            value = -np.log(np.maximum(p[rows, truth], 1e-12)).mean()
            pull = _PRIOR_STRENGTH / len(truth)
            return value + pull * ((weights - first) ** 2).sum() / 2, gap.mean(axis=0) + pull * (weights - first)

        found = minimize(loss, first, jac=True, bounds=[(0.0, 30.0)] * 4, method="L-BFGS-B").x
        return cls(*(found / unit).tolist())


def open_scores(
    fit: Fit,
    prior: np.ndarray,
    company: np.ndarray,
    seen: np.ndarray,
    similarity: np.ndarray,
    weights: np.ndarray = OPEN_WEIGHTS,
) -> np.ndarray:
    """Scores of terms as answers that no training cell has.

    Parameters
    ----------
    fit
        Of the cells to the C terms.
    prior
        (C,) usage of the terms.
    company
        (C,) log odds beside the training types.
    seen
        (n, S) probabilities among the training types.
    similarity
        (C, S) kinship: Lin similarity to the sixth power.
    weights
        Of profile, text, markers, named genes, prior, kinship.

    Returns
    -------
    (n, C) float64.
    """
    kin = np.log(seen @ similarity.T + _KINSHIP_FLOOR)
    return (
        weights[0] * fit.profile
        + weights[1] * fit.text
        + weights[2] * fit.markers
        + weights[3] * fit.named
        + weights[4] * prior
        + weights[5] * kin
        + company
    ).astype(np.float64)


def novelty_features(
    fit: Fit, prior: np.ndarray, fresh: np.ndarray, places: np.ndarray, seen: np.ndarray
) -> np.ndarray:
    """What tells a cell of a new type from one of a type that is known.

    Parameters
    ----------
    fit
        Of the cells to all terms.
    prior
        (C,) usage of the terms: what hardly anybody answers is no rival.
    fresh
        (C,) bool terms without training cells that may be answered.
    places
        (S,) rows of the training types among the terms, -1 for types that are none.
    seen
        (n, S) probabilities.

    Returns
    -------
    (n, 4) float64: a constant, how much better the best new term fits than the training types that are expected, how well these
    fit, and how undecided they are.
    """
    own = places >= 0
    weight = seen[:, own] / np.maximum(seen[:, own].sum(axis=1, keepdims=True), 1e-12)

    def expected(values: np.ndarray) -> np.ndarray:
        return (weight * values[:, places[own]]).sum(axis=1)

    a, b, c = _GAIN_WEIGHTS
    whole = a * fit.profile + b * fit.text + c * fit.markers
    rivals = fresh & (prior > _RIVAL) if (fresh & (prior > _RIVAL)).any() else fresh
    gain = whole[:, rivals].max(axis=1) - expected(whole)
    fitting = expected(fit.profile) / 30.0
    parts = [np.clip(x, -6.0, 6.0) for x in (gain, fitting, 1.0 - seen.max(axis=1))]
    return np.column_stack([np.ones(len(gain)), *parts]).astype(np.float64)


def fit_novelty(features: np.ndarray, new: np.ndarray) -> np.ndarray:
    """Weights (4,) of a logistic regression, classes equally heavy, pulled towards :data:`NOVELTY_WEIGHTS`."""
    if not len(new) or new.all() or not new.any():
        return NOVELTY_WEIGHTS.copy()
    weight = np.where(new, 0.5 / new.sum(), 0.5 / (~new).sum())

    def loss(w: np.ndarray) -> tuple[float, np.ndarray]:
        z = features @ w
        p = 1.0 / (1.0 + np.exp(-np.clip(z, -30, 30)))
        value = (weight * np.logaddexp(0.0, np.where(new, -z, z))).sum() + 0.05 * ((w - NOVELTY_WEIGHTS) ** 2).sum()
        return value, features.T @ (weight * (p - new)) + 0.1 * (w - NOVELTY_WEIGHTS)

    return minimize(loss, NOVELTY_WEIGHTS, jac=True, method="L-BFGS-B").x


def novelty(features: np.ndarray, weights: np.ndarray, share: float) -> np.ndarray:
    """ν (n,): chance of a new type where a share of the cells, 0 to 1, is expected to be."""
    prior = np.log(share / (1.0 - share))
    return 1.0 / (1.0 + np.exp(-np.clip(features @ weights + prior, -30, 30)))


def expected_share(features: np.ndarray, weights: np.ndarray) -> float:
    r"""Share of cells of new types among some cells, from their features alone.

    Expectation maximisation of a class prior (Saerens et al., Neural Computation 2002, eq. 2.2-2.3) with a few cells' worth of prior:

    .. math:: \pi \leftarrow \frac{\sum_i \nu_\pi(x_i) + a \pi_0}{n + a}

    Parameters
    ----------
    features
        (n, 4) from :func:`novelty_features`.
    weights
        (4,) from :func:`fit_novelty`.

    Returns
    -------
    0 to 0.5; 0.3 without cells.
    """
    share = _EXPECTED
    for _ in range(_ROUNDS):
        expected = novelty(features, weights, min(max(share, 1e-4), 0.99)).sum()
        new = float(expected + _EXPECTED_CELLS * _EXPECTED) / (len(features) + _EXPECTED_CELLS)
        if abs(new - share) < 1e-6:
            break
        share = new
    return min(share, _MOST)


def choose(probabilities: np.ndarray, similarity: np.ndarray, weight: float) -> np.ndarray:
    """Answers (n,) with the highest expected worth: 1 for the truth, and `weight` times the similarity (C, C) for what is near it.

    A cell that is one of several kinds of T cell is better called what stands nearest to all of them.
    """
    worth = probabilities + weight * (probabilities @ similarity.astype(probabilities.dtype))
    return worth.argmax(axis=1)
