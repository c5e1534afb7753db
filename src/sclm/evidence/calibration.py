"""Temperature scaling: confidences that mean what they say."""

from __future__ import annotations

import numpy as np
from scipy.optimize import minimize, minimize_scalar

# Temperatures outside this range mean scores that carry no information (or separate the held-out cells perfectly, in which
# case the likelihood keeps rising for ever colder temperatures): the search stops there.
_LOWEST, _HIGHEST = 0.25, 20.0
_PRIOR_CELLS = 10.0
_PRIOR_CELLS_OF_POOL = 1.0  # with ten, a hundred held-out cells of one donor hardly let the better model speak


def softmax(logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """Probabilities from scores.

    Parameters
    ----------
    logits
        (n_cells, n_types) scores, any real number; ``-inf`` gives probability 0.
    temperature
        Positive divisor of the scores; above 1 flattens, below 1 sharpens.

    Returns
    -------
    (n_cells, n_types) float64, rows sum to 1.
    """
    scaled = np.asarray(logits, dtype=np.float64) / temperature
    scaled = scaled - scaled.max(axis=1, keepdims=True)
    weights = np.exp(scaled)
    return weights / weights.sum(axis=1, keepdims=True)


def fit_temperature(logits: np.ndarray, truth: np.ndarray) -> float:
    r"""Temperature under which held-out cells are most likely.

    Temperature scaling (Guo et al., On calibration of modern neural networks, ICML 2017, eq. 9): one scalar :math:`T` for
    all types, :math:`p = \mathrm{softmax}(z / T)`, minimising the mean negative log-likelihood of the true types. It changes
    no ranking, so accuracy is untouched. With :math:`n` cells, :math:`10 (\log T)^2 / n` is added to the mean loss: a handful
    of cells that happen to be right must not make a model sure of itself.

    Parameters
    ----------
    logits
        (n_cells, n_types) scores of cells that the scores were not fitted on.
    truth
        (n_cells,) column of each cell's true type.

    Returns
    -------
    Temperature between 0.25 and 20. 1 when there are no cells to fit on.
    """
    if len(truth) == 0:
        return 1.0
    logits = np.asarray(logits, dtype=np.float64)
    rows = np.arange(len(truth))

    def loss(log_temperature: float) -> float:
        p = softmax(logits, float(np.exp(log_temperature)))[rows, truth]
        return float(-np.log(np.maximum(p, 1e-12)).mean()) + _PRIOR_CELLS * log_temperature**2 / len(truth)

    best = minimize_scalar(loss, bounds=(np.log(_LOWEST), np.log(_HIGHEST)), method="bounded", options={"xatol": 1e-4})
    return float(np.exp(best.x))


def fit_pool(logits: np.ndarray, beside: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    r"""Temperature and weight under which held-out cells are most likely by two models together.

    A logarithmic opinion pool (Genest and Zidek, Statistical Science 1, 1986): :math:`p = \mathrm{softmax}((z + w \log q) / T)`, where
    :math:`z` and :math:`\log q` are the scores of the two. To the mean negative log-likelihood of :math:`n` cells,
    :math:`((\log T)^2 + (w / T)^2) / n` is added, so that a handful of cells leaves the first model as it is.

    Parameters
    ----------
    logits
        (n_cells, n_types) scores of cells that they were not fitted on.
    beside
        (n_cells, n_types) log probabilities of the same cells by another model, which has not seen them either; finite.
    truth
        (n_cells,) column of each cell's true type.

    Returns
    -------
    :math:`T` between 0.25 and 20, and :math:`w`, 0 or more. 1 and 0 when there are no cells to fit on.
    """
    if len(truth) == 0:
        return 1.0, 0.0
    logits, beside = np.asarray(logits, dtype=np.float64), np.asarray(beside, dtype=np.float64)
    rows = np.arange(len(truth))

    def loss(at: np.ndarray) -> float:
        log_temperature, share = at
        p = softmax(logits * np.exp(-log_temperature) + share * beside)[rows, truth]
        prior = _PRIOR_CELLS_OF_POOL * (log_temperature**2 + share**2) / len(truth)
        return float(-np.log(np.maximum(p, 1e-12)).mean() + prior)

    bounds = [(np.log(_LOWEST), np.log(_HIGHEST)), (0.0, 5.0)]
    found = [minimize(loss, np.array([0.0, start]), method="L-BFGS-B", bounds=bounds) for start in (0.0, 1.0)]
    log_temperature, share = min(found, key=lambda result: result.fun).x
    temperature = float(np.exp(log_temperature))
    return temperature, float(share) * temperature
