"""The rows of the table: which metrics there are, in which space, with what ideal, and how each is computed of a pair."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from sclm.metrics.generation.agreement import correlation_of, moments_of
from sclm.metrics.generation.arrays import log_scale, scale
from sclm.metrics.generation.classifiers import classifier_auc, transfer_accuracy
from sclm.metrics.generation.differential import (
    MIN_CELLS,
    agreement_of,
    contrast,
    differential_recovery,
    fold_change_agreement,
    perturbation_correlation,
)
from sclm.metrics.generation.distances import (
    MIXED_SIGMAS,
    energy_distance,
    frechet_distance,
    gene_wasserstein_of,
    mmd,
    sliced_wasserstein,
    wasserstein,
)
from sclm.metrics.generation.mixing import inverse_simpson, label_homogeneity, neighbour_mixing, real_neighbours
from sclm.metrics.generation.neighbours import memorisation, prdc
from sclm.metrics.generation.spaces import N_GENES, Space

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import ArrayLike

    from sclm.metrics.generation.pairs import Pair, Sample

_N_CORRELATED = 200
_MIN_LABEL_CELLS = 30  # of a label on each side, for correlations and distances within it
_FOLDS = 5


class Context(NamedTuple):
    """What all columns of a table share: training cells, control condition, seed."""

    train: Sample | None
    control: str | None
    seed: int


class Group(NamedTuple):
    """Metrics that are computed together.

    `measure` gives a value a metric (and `"<metric> ideal"` where the ideal depends on the data), or the reason why it
    cannot. `of_unseen_cells`: training cells cannot stand in for generated ones.
    """

    ideals: dict[str, float]
    measure: Callable[[Pair, Context], dict[str, float] | str]
    space: Callable[[str, Context], str]
    of_unseen_cells: bool = False


# -- spaces, in words ----------------------------------------------------------------------------------------------


def _joint(metric: str, context: Context) -> str:
    return "SVD 50 + depth" if metric == "c2st_gb" else "SVD 50"


def _gene_space(metric: str, context: Context) -> str:
    if metric.endswith("_ratio") or metric.startswith("zero"):
        return "counts"
    return f"log1p CP10k, top {_N_CORRELATED}" if metric.startswith("genegene") else "log1p CP10k"


# -- genes ---------------------------------------------------------------------------------------------------------


def _moments(pair: Pair, context: Context) -> dict[str, float] | str:
    return moments_of(pair.real.counts, pair.other.counts, *pair.logs)


def _correlation(pair: Pair, context: Context) -> dict[str, float] | str:
    if pair.n < 3:
        return f"needs 3 cells a side, found {pair.n}"
    genes = pair.variable[:_N_CORRELATED]
    within = [correlation_of(pair.logs[0][a], pair.logs[1][b], genes) for a, b in _labels(pair, _MIN_LABEL_CELLS)]
    mean = _mean(within)
    return {"genegene_r": correlation_of(*pair.logs, genes), "genegene_label_r": mean}


def _labels(pair: Pair, at_least: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Rows of each label on both sides, for labels with so many cells on both."""
    for label in np.unique(pair.real.label):
        rows = np.flatnonzero(pair.real.label == label), np.flatnonzero(pair.other.label == label)
        if min(map(len, rows)) >= at_least:
            yield rows


# -- clouds --------------------------------------------------------------------------------------------------------


def _distances(pair: Pair, context: Context) -> dict[str, float] | str:
    if pair.n < 2:
        return f"needs 2 cells a side, found {pair.n}"
    x, y = pair.joint
    within = [energy_distance(x[a], y[b]) for a, b in _labels(pair, _MIN_LABEL_CELLS)]
    return {
        "mmd_mix": mmd(x, y, sigmas=MIXED_SIGMAS),
        "mmd_median": mmd(x, y),
        "mmd_linear": mmd(x, y, kernel="linear"),
        "sliced_w2": sliced_wasserstein(x, y, seed=context.seed),
        "w1": wasserstein(x, y, p=1.0, seed=context.seed),
        "w2": wasserstein(x, y, p=2.0, seed=context.seed),
        "energy": energy_distance(x, y),
        "energy_label": _mean(within),
        "frechet": frechet_distance(x, y),
    }


def _gene_distance(pair: Pair, context: Context) -> dict[str, float] | str:
    return {"gene_w1": gene_wasserstein_of(*(log[:, pair.expressed] for log in pair.logs))}


def _manifolds(pair: Pair, context: Context) -> dict[str, float] | str:
    if pair.n < 6:
        return f"needs 6 cells a side, found {pair.n}"
    return prdc(*pair.joint)


# -- classifiers and neighbours ------------------------------------------------------------------------------------


def _told_apart(pair: Pair, context: Context) -> dict[str, float] | str:
    if pair.n < 2 * _FOLDS:
        return f"needs {2 * _FOLDS} cells a side, found {pair.n}"
    x, y = pair.joint
    deep = np.c_[x, pair.depths[0]], np.c_[y, pair.depths[1]]
    return {
        "c2st_lr": classifier_auc(x, y, method="logistic", seed=context.seed),
        "c2st_gb": classifier_auc(*deep, method="boosted", seed=context.seed),
        "c2st_knn": classifier_auc(x, y, method="neighbours", seed=context.seed),
        "c2st_rf": classifier_auc(x, y, method="forest", seed=context.seed),
    }


def _mixing(pair: Pair, context: Context) -> dict[str, float] | str:
    if pair.n < 16:
        return f"needs 16 cells a side, found {pair.n}"
    x, y = pair.joint
    return {
        "mixing": neighbour_mixing(x, y),
        "real_neighbours": real_neighbours(x, y),
        "ilisi": inverse_simpson(x, y, labels=(pair.real.label, pair.other.label)),
    }


def _transfer(pair: Pair, context: Context) -> dict[str, float] | str:
    if len(np.unique(pair.real.label)) < 2:
        return "needs 2 labels, found 1"
    x, y = pair.joint
    return {"tstr": transfer_accuracy(y, pair.other.label, x, pair.real.label)}


def _fidelity(pair: Pair, context: Context) -> dict[str, float] | str:
    if len(np.unique(pair.real.label)) < 2:
        return "needs 2 labels, found 1"
    if pair.n < 16:
        return f"needs 16 cells a side, found {pair.n}"
    from sklearn.neighbors import KNeighborsClassifier

    x, y = pair.joint
    # predict(None): each cell by its neighbours without itself
    among_real = KNeighborsClassifier(15).fit(x, pair.real.label).predict(None) == pair.real.label
    return {
        "pknn ideal": float(among_real.mean()),
        "pknn": transfer_accuracy(x, pair.real.label, y, pair.other.label, method="neighbours"),
        "sknn": label_homogeneity(y, pair.other.label),
        "sknn ideal": label_homogeneity(x, pair.real.label),
    }


# -- differences ---------------------------------------------------------------------------------------------------


def _differential(pair: Pair, context: Context) -> dict[str, float] | str:
    if len(np.unique(pair.real.label)) < 2:
        return "needs 2 labels, found 1"
    table = differential_recovery(pair.real.counts, pair.other.counts, pair.real.label, pair.other.label)
    if table.empty:
        return f"no label has {MIN_CELLS} cells and a significant gene"
    at = {k: table[table["k"] == k].mean(numeric_only=True) for k in (50, 100, 200)}
    n_real, n_generated = at[100]["n_significant_real"], at[100]["n_significant_generated"]
    return {
        "de_precision_100": float(at[100]["precision"]),
        "de_recall_100": float(at[100]["recall"]),
        **{f"de_f1_{k}": float(part["f1"]) for k, part in at.items()},
        "de_direction": float(at[100]["direction"]),
        "de_rho": float(at[100]["rho_significant"]),
        "de_number_ratio": float(n_generated / n_real),
    }


def _fold_changes(pair: Pair, context: Context) -> dict[str, float] | str:
    if len(np.unique(pair.real.label)) < 2:
        return "needs 2 labels, found 1"
    table = fold_change_agreement(pair.real.counts, pair.other.counts, pair.real.label, pair.other.label)
    if table.empty:
        return f"no label has {MIN_CELLS} cells a side"
    return {f"lfc_{name}": _mean(table[name]) for name in ("slope", "corrected", "r", "spread")}


def _conditions(pair: Pair, context: Context) -> dict[str, float] | str:
    real, other = pair.real, pair.other
    if real.condition is None or other.condition is None:
        return "no condition_key"
    scaled = scale(real.counts), scale(other.counts)
    found = []
    for label in np.unique(real.label):
        for condition in np.unique(real.condition):
            if condition == context.control:
                continue
            # masks of the condition and of what it is compared with, on each side
            masks = [
                (
                    (side.label == label) & (side.condition == condition),
                    (side.label == label)
                    & (side.condition != condition if context.control is None else side.condition == context.control),
                )
                for side in (real, other)
                if side.condition is not None
            ]
            if min(int(m.sum()) for pair_of_masks in masks for m in pair_of_masks) < MIN_CELLS:
                continue
            effect = agreement_of(contrast(scaled[0], *masks[0]), contrast(scaled[1], *masks[1]))
            r = perturbation_correlation(real.counts[masks[0][0]], other.counts[masks[1][0]], real.counts[masks[0][1]])
            found.append([*(effect[name] for name in ("slope", "corrected", "r", "spread")), r])
    if not found:
        return f"no label has {MIN_CELLS} cells of two conditions a side"
    return dict(zip(_CONDITION_METRICS, map(_mean, np.transpose(found)), strict=True))


def _mean(values: ArrayLike) -> float:
    """Mean of the values that are defined; NaN where none is."""
    array = np.asarray(values, dtype=np.float64)
    return float(array[np.isfinite(array)].mean()) if np.isfinite(array).any() else float("nan")


# -- memorisation --------------------------------------------------------------------------------------------------


def _memorisation(pair: Pair, context: Context) -> dict[str, float] | str:
    if context.train is None:
        return "no train"
    import scipy.sparse as sp

    log, genes = log_scale(context.train.counts), pair.variable[:N_GENES]
    space = Space.fit(log, genes, seed=context.seed)
    first = memorisation(*(space.transform(side) for side in (pair.logs[1], pair.logs[0], log)), seed=context.seed)
    # To tell which of two sets is nearer, the space must not favour one: fitted on as many cells of both, those very cells.
    rows = np.random.default_rng([context.seed, 3]).permutation(log.shape[0])[: pair.n]
    space = Space.fit(sp.vstack([log[rows], pair.logs[0]]).tocsr(), genes, seed=context.seed)
    second = memorisation(
        *(space.transform(side) for side in (pair.logs[1], pair.logs[0], log[rows])), seed=context.seed
    )
    return first._asdict() | {"train_heldout_ratio": second.train_heldout_ratio}


_CONDITION_METRICS = (
    "condition_lfc_slope",
    "condition_lfc_corrected",
    "condition_lfc_r",
    "condition_lfc_spread",
    "perturbation_r",
)
_FIDELITY_IDEALS = dict.fromkeys(("pknn", "sknn"), float("nan"))  # the value of the real cells

GROUPS: tuple[Group, ...] = (
    Group(
        {
            "depth_ratio": 1.0,
            "nnz_ratio": 1.0,
            "mean_r": 1.0,
            "mean_rho": 1.0,
            "var_r": 1.0,
            "var_rho": 1.0,
            "zero_r": 1.0,
            "zero_rho": 1.0,
            "zero_rmse": 0.0,
        },
        _moments,
        _gene_space,
    ),
    Group({"genegene_r": 1.0, "genegene_label_r": 1.0}, _correlation, _gene_space),
    Group(
        dict.fromkeys(
            ("mmd_mix", "mmd_median", "mmd_linear", "sliced_w2", "w1", "w2", "energy", "energy_label", "frechet"), 0.0
        ),
        _distances,
        _joint,
    ),
    Group({"gene_w1": 0.0}, _gene_distance, _gene_space),
    Group(dict.fromkeys(("c2st_lr", "c2st_gb", "c2st_knn", "c2st_rf"), 0.5), _told_apart, _joint),
    Group(dict.fromkeys(("mixing", "real_neighbours", "ilisi"), 1.0), _mixing, _joint),
    Group({"tstr": 1.0}, _transfer, _joint),
    Group(_FIDELITY_IDEALS, _fidelity, _joint),
    Group(dict.fromkeys(("precision", "recall", "density", "coverage"), 1.0), _manifolds, _joint),
    Group(
        dict.fromkeys(
            (
                "de_precision_100",
                "de_recall_100",
                "de_f1_50",
                "de_f1_100",
                "de_f1_200",
                "de_direction",
                "de_rho",
                "de_number_ratio",
            ),
            1.0,
        ),
        _differential,
        lambda metric, context: "log1p CP10k",
    ),
    Group(
        dict.fromkeys(("lfc_slope", "lfc_corrected", "lfc_r", "lfc_spread"), 1.0),
        _fold_changes,
        lambda metric, context: "log2 CP10k",
    ),
    Group(
        dict.fromkeys(_CONDITION_METRICS, 1.0),
        _conditions,
        lambda metric, context: "log1p CP10k" if metric == "perturbation_r" else "log2 CP10k",
    ),
    Group(
        {"nn_ratio": 1.0, "copied_share": 0.01, "train_heldout_ratio": 1.0},
        _memorisation,
        lambda metric, context: "SVD 50 of train" if metric != "train_heldout_ratio" else "SVD 50 of train + real",
        of_unseen_cells=True,
    ),
)
