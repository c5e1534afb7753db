"""Can a classifier tell generated from real cells, and do labels carry over between the two."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from sclm.metrics.generation.arrays import labels_of, neighbour_count, point_pair

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import ArrayLike


def _logistic(seed: int, n_trees: int, k: int) -> Any:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=0.1, max_iter=300)


def _boosted(seed: int, n_trees: int, k: int) -> Any:
    from sklearn.ensemble import HistGradientBoostingClassifier

    return HistGradientBoostingClassifier(max_iter=100, random_state=seed)


def _forest(seed: int, n_trees: int, k: int) -> Any:
    from sklearn.ensemble import RandomForestClassifier

    return RandomForestClassifier(n_trees, random_state=seed, oob_score=True)


def _neighbours(seed: int, n_trees: int, k: int) -> Any:
    from sklearn.neighbors import KNeighborsClassifier

    return KNeighborsClassifier(k)


_METHODS: dict[str, Callable[[int, int, int], Any]] = {
    "logistic": _logistic,
    "boosted": _boosted,
    "forest": _forest,
    "neighbours": _neighbours,
}


def _classifier(method: str, *, seed: int = 0, n_trees: int = 200, k: int = 5) -> Any:
    if method not in _METHODS:
        raise ValueError(f"method must be one of {', '.join(map(repr, _METHODS))}, found {method!r}.")
    return _METHODS[method](seed, n_trees, k)


def classifier_auc(
    x: ArrayLike,
    y: ArrayLike,
    *,
    method: str = "boosted",
    n_folds: int = 5,
    n_trees: int = 200,
    k: int = 5,
    seed: int = 0,
) -> float:
    """How well a classifier tells generated from real cells: area under the ROC curve.

    A classifier two-sample test (Lopez-Paz and Oquab 2017). No cell is scored by a model that has seen it: by
    cross-validation, in a forest by the trees that were grown without the cell (out of bag), which costs a fifth. 0.5: it cannot
    tell them; 1: always. Give a weak and a strong classifier: neighbours in many dimensions may find nothing where trees
    find much. Values below 0.5 mean that cells lie nearer to the other side than to their own, as copies do.

    Parameters
    ----------
    x, y
        Real and generated cells as points, (n, d) and (m, d). Take as many of both, with the same mix of cell types.
    method
        `"boosted"` (histogram gradient boosting, 100 rounds), `"logistic"` (L2, C = 0.1), `"forest"` or `"neighbours"`.
    n_folds
        Folds of the cross-validation, stratified and shuffled; each side must hold at least as many cells.
    n_trees
        Trees of the forest, at least 50, so that every cell is out of some bags.
    k
        Neighbours of the neighbour classifier.
    seed
        Of folds and classifiers.

    Returns
    -------
    float
        In [0, 1].

    Raises
    ------
    ValueError
        If the dimensions differ, there are fewer cells than folds, the method is unknown or the trees are too few.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from threadpoolctl import threadpool_limits

    a, b = point_pair(x, y, at_least=max(2, n_folds))
    if n_trees < 50:
        raise ValueError(f"n_trees must be at least 50, found {n_trees}.")
    model = _classifier(method, seed=seed, n_trees=n_trees, k=k)
    cells, truth = np.r_[a, b], np.r_[np.zeros(len(a)), np.ones(len(b))]
    folds = StratifiedKFold(n_folds, shuffle=True, random_state=seed)
    # Some thousand cells are too few to share among threads: on a busy machine they wait for each other most of the time.
    with warnings.catch_warnings(), threadpool_limits(1):
        warnings.simplefilter("ignore", ConvergenceWarning)  # the number of steps is part of the metric
        if method == "forest":
            share = model.fit(cells, truth).oob_decision_function_[:, 1]
        else:
            share = cross_val_predict(model, cells, truth, cv=folds, method="predict_proba")[:, 1]
    return float(roc_auc_score(truth, share))


def transfer_accuracy(
    learn: ArrayLike,
    learn_labels: ArrayLike,
    test: ArrayLike,
    test_labels: ArrayLike,
    *,
    method: str = "logistic",
    k: int = 15,
) -> float:
    """Accuracy on some cells of a classifier of labels that learned on others.

    Learning on generated and testing on real cells asks whether generated cells can stand in for real ones ("train on
    synthetic, test on real"); learning on real and testing on generated ones asks whether generated cells are what was
    asked for.

    Parameters
    ----------
    learn, test
        Cells as points, (n, d) and (m, d).
    learn_labels, test_labels
        Their labels, (n,) and (m,); at least two different ones to learn.
    method
        `"logistic"` (L2, C = 0.1), `"neighbours"`, `"boosted"` or `"forest"`.
    k
        Neighbours of the neighbour classifier, at most n.

    Returns
    -------
    float
        Share of the tested cells that get their label, in [0, 1]. Labels that were not learned count as wrong.

    Raises
    ------
    ValueError
        If shapes do not fit, only one label can be learned or the method is unknown.
    """
    from sklearn.exceptions import ConvergenceWarning
    from threadpoolctl import threadpool_limits

    a, b = point_pair(learn, test)
    known, truth = labels_of(learn_labels, len(a), "learn_labels"), labels_of(test_labels, len(b), "test_labels")
    if len(np.unique(known)) < 2:
        raise ValueError(f"learn_labels must hold at least 2 different labels, found only {str(known[0])!r}.")
    model = _classifier(method, k=neighbour_count(k, len(a)) if method == "neighbours" else k)
    with warnings.catch_warnings(), threadpool_limits(1):
        warnings.simplefilter("ignore", ConvergenceWarning)
        return float((model.fit(a, known).predict(b) == truth).mean())
