"""How good predicted responses to perturbations are: always of the change against control, never of whole profiles.

Whole profiles of perturbed and control cells correlate near 1, so that "no change" would look excellent. Legend of shapes:
P perturbations · G genes · n cells.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pandas as pd
    from numpy.typing import ArrayLike
    from scipy import sparse

__all__ = [
    "compare",
    "delta_pearson",
    "differential_scores",
    "discrimination",
    "overlap_of_top",
    "profile_l2",
    "top_delta_pearson",
]


def delta_pearson(predicted: ArrayLike, observed: ArrayLike, control: ArrayLike) -> np.ndarray:
    r"""Correlation of predicted and observed change over all genes, "Pearson delta".

    :math:`r_p = \mathrm{corr}_g(\hat\mu_{pg} - \mu_{0g},\; \mu_{pg} - \mu_{0g})`.

    Parameters
    ----------
    predicted, observed
        (P, G) mean log1p profiles.
    control
        (G,) mean log1p profile of the control cells.

    Returns
    -------
    (P,) float64 in [-1, 1]; NaN where a change is the same for all genes ("no change" among them).
    """
    guess, truth, start = _profiles(predicted, observed, control)
    return _correlation(_change(guess, start), _change(truth, start))


def profile_l2(predicted: ArrayLike, observed: ArrayLike, control: ArrayLike, *, n_top: int = 1000) -> np.ndarray:
    r"""Distance of predicted and observed profile over the genes that control cells express most.

    :math:`\sqrt{\sum_{g \in T} (\hat\mu_{pg} - \mu_{pg})^2}` with T the ``n_top`` genes of the highest control mean (Ahlmann-Eltze,
    Huber and Anders 2025).

    Parameters
    ----------
    predicted, observed
        (P, G) mean log1p profiles.
    control
        (G,) mean log1p profile of the control cells.
    n_top
        Number of genes; all where there are fewer.

    Returns
    -------
    (P,) float64; lower is better.
    """
    guess, truth, start = _profiles(predicted, observed, control)
    top = np.argsort(-start, kind="stable")[: _number(n_top, "n_top")]
    return np.sqrt(((guess - truth)[:, top] ** 2).sum(axis=1))


def differential_scores(lognormal: sparse.csr_matrix, codes: ArrayLike) -> np.ndarray:
    r"""Welch's t of every gene between the cells of each perturbation and the control cells.

    :math:`t_{pg} = (\bar y_{pg} - \bar y_{0g}) / \sqrt{s^2_{pg}/n_p + s^2_{0g}/n_0}`, the variances with a floor of 1e-6.

    Parameters
    ----------
    lognormal
        (n, G) log-normalised cells, CSR.
    codes
        (n,) place of each cell's perturbation, 0 … P-1; -1 control; smaller: left out.

    Returns
    -------
    (P, G) float64.

    Raises
    ------
    ValueError
        If there are fewer than two control cells, or a perturbation has fewer than two.
    """
    place = np.asarray(codes, dtype=np.int64)
    n_perturbations = int(place.max(initial=-1)) + 1
    mean, variance, counted = [], [], []
    for code in (-1, *range(n_perturbations)):
        block = lognormal[np.flatnonzero(place == code)].astype(np.float64)
        n = block.shape[0]
        if n < 2:
            name = "control" if code < 0 else f"perturbation {code}"
            raise ValueError(f"at least two cells are needed for a variance, found {n} of {name}.")
        m = np.asarray(block.mean(axis=0)).ravel()
        squares = np.asarray(block.multiply(block).mean(axis=0)).ravel()
        mean.append(m)
        variance.append(np.maximum((squares - m**2) * n / (n - 1), 1e-6))
        counted.append(n)
    errors = [v / n for v, n in zip(variance, counted, strict=True)]
    return np.array([(mean[i] - mean[0]) / np.sqrt(errors[i] + errors[0]) for i in range(1, len(mean))])


def top_delta_pearson(
    predicted: ArrayLike, observed: ArrayLike, control: ArrayLike, scores: ArrayLike, *, n_top: int = 20
) -> np.ndarray:
    """:func:`delta_pearson` over the genes that each perturbation truly changes most.

    Parameters
    ----------
    predicted, observed
        (P, G) mean log1p profiles.
    control
        (G,) mean log1p profile of the control cells.
    scores
        (P, G) of observed change, such as :func:`differential_scores`; the largest absolute ones count.
    n_top
        Genes a perturbation.

    Returns
    -------
    (P,) float64. Genes chosen by the outcome flatter every method: read it beside :func:`delta_pearson`.
    """
    guess, truth, start = _profiles(predicted, observed, control)
    top = _top(_scores(scores, truth), _number(n_top, "n_top"))
    return _correlation(*(np.take_along_axis(_change(x, start), top, axis=1) for x in (guess, truth)))


def overlap_of_top(predicted: ArrayLike, control: ArrayLike, scores: ArrayLike, *, n_top: int = 20) -> np.ndarray:
    r"""Share of the genes that change most which were predicted to be among those: overlap of differential genes.

    :math:`|T_n(|\hat\mu_p - \mu_0|) \cap T_n(|s_p|)| / n`, with :math:`T_n` the n largest.

    Parameters
    ----------
    predicted
        (P, G) mean log1p profiles.
    control
        (G,) mean log1p profile of the control cells.
    scores
        (P, G) of observed change, such as :func:`differential_scores`.
    n_top
        Genes a perturbation, at most G.

    Returns
    -------
    (P,) float64 in [0, 1], n / G by chance; NaN where no change is predicted.
    """
    guess, _, start = _profiles(predicted, predicted, control)
    n = min(_number(n_top, "n_top"), guess.shape[1])
    delta, true = _change(guess, start), _scores(scores, guess)
    chosen = (np.zeros(guess.shape, dtype=bool), np.zeros(guess.shape, dtype=bool))
    for mask, values in zip(chosen, (delta, true), strict=True):
        np.put_along_axis(mask, _top(values, n), True, axis=1)
    share = (chosen[0] & chosen[1]).sum(axis=1) / n
    return np.where(np.any(delta != 0, axis=1), share, np.nan)


def discrimination(predicted: ArrayLike, observed: ArrayLike) -> np.ndarray:
    r"""Does a prediction resemble its own perturbation more than the others?

    :math:`1 - \frac{1}{P - 1} \left(\#\{q \ne p : d_{pq} < d_{pp}\} + \tfrac12 \#\{q \ne p : d_{pq} = d_{pp}\}\right)` with
    :math:`d_{pq} = \|\hat\mu_p - \mu_q\|`. A method that predicts the same for all perturbations gets 0.5 on average, however small its
    error.

    Parameters
    ----------
    predicted, observed
        (P, G) mean log1p profiles, or changes of them.

    Returns
    -------
    (P,) float64 in [0, 1], 1 where the own perturbation is the nearest; NaN for a single perturbation.
    """
    guess, truth, _ = _profiles(predicted, observed, np.zeros(np.shape(observed)[-1]))
    # (P, P) squared distances
    d = (guess**2).sum(axis=1)[:, None] + (truth**2).sum(axis=1)[None] - 2 * guess @ truth.T
    own = np.diag(d)[:, None]
    slack = 1e-9 * np.maximum(np.abs(own), 1e-12)
    nearer = (d < own - slack).sum(axis=1)
    equal = (np.abs(d - own) <= slack).sum(axis=1) - 1
    with np.errstate(invalid="ignore", divide="ignore"):
        return 1 - (nearer + 0.5 * equal) / np.float64(len(d) - 1)


def compare(
    predictions: Mapping[str, ArrayLike],
    observed: pd.DataFrame,
    control: ArrayLike,
    *,
    scores: ArrayLike | None = None,
    n_top: int = 20,
    n_expressed: int = 1000,
) -> pd.DataFrame:
    """Score several predictions of the same perturbations.

    Parameters
    ----------
    predictions
        Name of a method → (P, G) mean log1p profiles. DataFrames are brought to the rows and columns of ``observed``.
    observed
        Perturbations x genes: observed mean log1p profiles.
    control
        (G,) mean log1p profile of the control cells.
    scores
        (P, G) of observed change, such as :func:`differential_scores`; without it the two metrics of top genes are left out.
    n_top
        Genes of :func:`top_delta_pearson` and :func:`overlap_of_top`.
    n_expressed
        Genes of :func:`profile_l2`.

    Returns
    -------
    pandas.DataFrame
        One row a method and perturbation: ``method``, ``perturbation``, ``delta_pearson``, ``l2``, ``discrimination``, and with scores
        ``top_delta_pearson`` and ``top_overlap``. Means over perturbations: ``table.groupby("method").mean(numeric_only=True)``.

    Raises
    ------
    KeyError
        If a DataFrame lacks a perturbation or a gene.
    ValueError
        If there is no prediction, or shapes differ.

    Examples
    --------
    >>> import pandas as pd
    >>> observed = pd.DataFrame([[2.0, 1.0, 0.0], [1.0, 2.0, 0.5]], index=["JAK2", "MYC"], columns=["a", "b", "c"])
    >>> table = compare({"mean": [[1.5, 1.5, 0.25]] * 2}, observed, [1.0, 1.0, 0.5])
    >>> table[["perturbation", "delta_pearson", "discrimination"]].round(2)
      perturbation  delta_pearson  discrimination
    0         JAK2           0.76             0.5
    1          MYC           0.50             0.5
    """
    import pandas as pd

    if not predictions:
        raise ValueError("predictions must hold at least one method, found none.")
    tables = []
    for method, prediction in predictions.items():
        guess = _as_observed(prediction, observed, str(method))
        columns: dict[str, Any] = {
            "method": str(method),
            "perturbation": list(observed.index),
            "delta_pearson": delta_pearson(guess, observed, control),
            "l2": profile_l2(guess, observed, control, n_top=n_expressed),
            "discrimination": discrimination(guess, observed),
        }
        if scores is not None:
            columns["top_delta_pearson"] = top_delta_pearson(guess, observed, control, scores, n_top=n_top)
            columns["top_overlap"] = overlap_of_top(guess, control, scores, n_top=n_top)
        tables.append(pd.DataFrame(columns))
    return pd.concat(tables, ignore_index=True)


def _as_observed(prediction: Any, observed: pd.DataFrame, method: str) -> np.ndarray:
    import pandas as pd

    if not isinstance(prediction, pd.DataFrame):
        return np.asarray(prediction, dtype=np.float64)
    for axis, (have, need) in enumerate(((prediction.index, observed.index), (prediction.columns, observed.columns))):
        lacking = [str(name) for name in need if name not in have]
        if lacking:
            what = ("perturbations", "genes")[axis]
            raise KeyError(f"{method!r} lacks {len(lacking)} {what} of observed: {', '.join(lacking[:5])}.")
    return prediction.loc[observed.index, observed.columns].to_numpy(dtype=np.float64)


def _profiles(
    predicted: ArrayLike, observed: ArrayLike, control: ArrayLike
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    guess, truth, start = (np.asarray(x, dtype=np.float64) for x in (predicted, observed, control))
    if guess.ndim != 2 or guess.shape != truth.shape or start.shape != guess.shape[1:]:
        raise ValueError(
            f"expected predicted and observed (P, G) and control (G,), found {guess.shape}, {truth.shape} and {start.shape}."
        )
    return guess, truth, start


def _change(profile: np.ndarray, start: np.ndarray) -> np.ndarray:
    """Change against control; what float32 cannot tell from none is none."""
    delta = profile - start
    delta[np.abs(delta) <= 1e-6 * max(1.0, float(np.abs(start).max(initial=0)))] = 0.0
    return delta


def _scores(scores: ArrayLike, like: np.ndarray) -> np.ndarray:
    values = np.asarray(scores, dtype=np.float64)
    if values.shape != like.shape:
        raise ValueError(f"scores must have the shape of the profiles, {like.shape}, found {values.shape}.")
    return values


def _number(n: int, name: str) -> int:
    if isinstance(n, bool) or not isinstance(n, int | np.integer) or n < 1:
        raise ValueError(f"{name} must be a whole number of at least 1, found {n!r}.")
    return int(n)


def _top(values: np.ndarray, n: int) -> np.ndarray:
    """(P, n) columns of the largest absolute values of each row."""
    return np.argsort(-np.abs(values), axis=1, kind="stable")[:, :n]


def _correlation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(P,) Pearson correlation of rows; NaN where one of them is constant."""
    a, b = a - a.mean(axis=1, keepdims=True), b - b.mean(axis=1, keepdims=True)
    norm = np.sqrt((a * a).sum(axis=1) * (b * b).sum(axis=1))
    tiny = 1e-12 * np.maximum(np.abs(a).max(axis=1, initial=0) * np.abs(b).max(axis=1, initial=0), 1e-300)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(norm > tiny, (a * b).sum(axis=1) / norm, np.nan)
