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

# Weights of an answer that no training cell has: of the profile, the texts, the markers, the usage prior, and of kinship with the
# training types that the cell resembles. Chosen once, on leave-types-out splits of blood and pancreas cells.
OPEN_WEIGHTS = np.array([0.03, 0.4, 0.3, 1.0, 0.5])
_KINSHIP_FLOOR = 1e-3
_PRIOR_STRENGTH = 1.0  # of weights towards their defaults, in cells


class SeenWeights(NamedTuple):
    """Weights of the language model's score, the contrast and the profile among the training types; temperature included."""

    language: float
    contrast: float
    profile: float

    def scores(self, language: np.ndarray, contrast: np.ndarray, profile: np.ndarray) -> np.ndarray:
        """(n, S) scores whose softmax are the probabilities."""
        return self.language * language + self.contrast * contrast + self.profile * profile

    @classmethod
    def fit(cls, language: np.ndarray, contrast: np.ndarray, profile: np.ndarray, truth: np.ndarray) -> SeenWeights:
        """Weights under which held-out cells (n,) are most likely, not negative; pulled a little towards small ones."""
        parts = np.stack([language, contrast, profile], axis=2).astype(np.float64)  # (n, S, 3)
        parts = parts - parts.mean(axis=1, keepdims=True)
        unit = np.maximum(parts.std(axis=(0, 1)), 1e-6)
        rows = np.arange(len(truth))

        def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
            scaled = parts / unit
            p = softmax(scaled @ weights)
            gap = np.einsum("nsk,ns->nk", scaled, p) - scaled[rows, truth]
            value = -np.log(np.maximum(p[rows, truth], 1e-12)).mean()
            pull = _PRIOR_STRENGTH / len(truth)
            return value + pull * (weights**2).sum() / 2, gap.mean(axis=0) + pull * weights

        found = minimize(loss, np.ones(3), jac=True, bounds=[(0.0, 30.0)] * 3, method="L-BFGS-B").x
        return cls(*(found / unit).tolist())


def open_scores(
    fit: Fit, prior: np.ndarray, seen: np.ndarray, similarity: np.ndarray, weights: np.ndarray = OPEN_WEIGHTS
) -> np.ndarray:
    """Scores of terms as answers that no training cell has.

    Parameters
    ----------
    fit
        Of the cells to the C terms.
    prior
        (C,) usage of the terms.
    seen
        (n, S) probabilities among the training types.
    similarity
        (C, S) kinship: Lin similarity to the sixth power.
    weights
        Of profile, text, markers, prior, kinship.

    Returns
    -------
    (n, C) float64.
    """
    kin = np.log(seen @ similarity.T + _KINSHIP_FLOOR)
    return (
        weights[0] * fit.profile
        + weights[1] * fit.text
        + weights[2] * fit.markers
        + weights[3] * prior
        + weights[4] * kin
    ).astype(np.float64)


def novelty_features(open_: np.ndarray, fit: Fit, places: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """What tells a cell of a new type from one of a type that is known.

    Parameters
    ----------
    open_
        (n, C) scores of terms without training cells, ``-inf`` at those with.
    fit
        Of the cells to all terms.
    places
        (S,) rows of the training types among the terms, -1 for types that are none.
    seen
        (n, S) probabilities.

    Returns
    -------
    (n, 4) float64: a constant, how much better the best new term fits the profile than the training types expected, the same of
    texts and markers, and how undecided the training types are.
    """
    best = open_.argmax(axis=1)
    rows = np.arange(len(best))
    own = places >= 0
    weight = seen[:, own] / np.maximum(seen[:, own].sum(axis=1, keepdims=True), 1e-12)

    def gain(values: np.ndarray) -> np.ndarray:
        return values[rows, best] - (weight * values[:, places[own]]).sum(axis=1)

    undecided = 1.0 - seen.max(axis=1)
    profile = np.clip(gain(fit.profile) / 30.0, -4.0, 4.0)
    return np.column_stack([np.ones(len(best)), profile, gain(fit.text) + gain(fit.markers), undecided])


def fit_novelty(features: np.ndarray, new: np.ndarray) -> np.ndarray:
    """Weights (4,) of a logistic regression, classes equally heavy, shrunken."""
    if new.all() or not new.any():
        return np.array([-5.0, 0.0, 0.0, 0.0])
    weight = np.where(new, 0.5 / new.sum(), 0.5 / (~new).sum())

    def loss(w: np.ndarray) -> tuple[float, np.ndarray]:
        z = features @ w
        p = 1.0 / (1.0 + np.exp(-np.clip(z, -30, 30)))
        value = (weight * np.logaddexp(0.0, np.where(new, -z, z))).sum() + 0.005 * (w[1:] ** 2).sum()
        return value, features.T @ (weight * (p - new)) + 0.01 * np.concatenate([[0.0], w[1:]])

    return minimize(loss, np.zeros(features.shape[1]), jac=True, method="L-BFGS-B").x


def novelty(features: np.ndarray, weights: np.ndarray, share: float) -> np.ndarray:
    """ν (n,): chance of a new type where a share of the cells, 0 to 1, is expected to be."""
    prior = np.log(share / (1.0 - share))
    return 1.0 / (1.0 + np.exp(-np.clip(features @ weights + prior, -30, 30)))


def choose(probabilities: np.ndarray, similarity: np.ndarray, weight: float) -> np.ndarray:
    """Answers (n,) with the highest expected worth: 1 for the truth, and `weight` times the similarity (C, C) for what is near it.

    A cell that is one of several kinds of T cell is better called what stands nearest to all of them.
    """
    worth = probabilities + weight * (probabilities @ similarity.astype(probabilities.dtype))
    return worth.argmax(axis=1)
