"""Precision, recall, density and coverage of generated cells, and whether they copy training cells."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from sclm.metrics.generation.arrays import neighbour_count, point_pair, points

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


def prdc(real: ArrayLike, generated: ArrayLike, *, k: int = 5) -> dict[str, float]:
    """Precision, recall, density and coverage by k-nearest-neighbour balls.

    Around each real cell lies a ball that reaches to its k-th nearest other real cell, around each generated cell likewise
    (Kynkäänniemi et al. 2019 for the first two, Naeem et al. 2020 for the last two).

    Parameters
    ----------
    real, generated
        Cells as points, (n, d) and (m, d); take as many of both.
    k
        The neighbour that gives the radius, less than n and m.

    Returns
    -------
    dict of str to float
        `precision`: share of generated cells inside some real ball. `recall`: share of real cells inside some generated
        ball. `density`: mean number of real balls around a generated cell, over k; about 1 is right, more means that
        generated cells crowd where real ones do. `coverage`: share of real balls with a generated cell inside. None
        reaches its ideal for two real samples in many dimensions: read them beside the ceiling.

    Raises
    ------
    ValueError
        If the dimensions differ or there are not enough cells.
    """
    from scipy.spatial.distance import cdist

    a, b = point_pair(real, generated, at_least=2)
    k = neighbour_count(k, min(len(a), len(b)) - 1)
    radius_real, radius_generated = _radius(a, k), _radius(b, k)
    distance = cdist(a, b)  # (n, m)
    in_real = distance < radius_real[:, None]
    return {
        "precision": float(in_real.any(axis=0).mean()),
        "recall": float((distance < radius_generated[None, :]).any(axis=1).mean()),
        "density": float(in_real.sum(axis=0).mean() / k),
        "coverage": float(in_real.any(axis=1).mean()),
    }


def _radius(cells: np.ndarray, k: int) -> np.ndarray:
    """Distance of each cell to its k-th nearest other, (n,)."""
    from scipy.spatial.distance import cdist

    # column 0 of the sorted distances is the cell itself
    return np.partition(cdist(cells, cells), k, axis=1)[:, k]


class Memorisation(NamedTuple):
    """Whether generated cells lie nearer to training cells than unseen real cells do; made by `memorisation`.

    Attributes
    ----------
    nn_ratio
        Median distance of generated cells to their nearest training cell over that of held-out real cells: about 1 is
        right, well below 1 copies (0 for exact copies), above 1 strays.
    copied_share
        Share of generated cells nearer to a training cell than all but 1 % of held-out real cells are: about 0.01 is right.
    train_heldout_ratio
        Median distance of generated cells to the nearest training cell over that to the nearest held-out cell, with as many
        cells of both: about 1 is right, below 1 the training cells are favoured.
    """

    nn_ratio: float
    copied_share: float
    train_heldout_ratio: float


def memorisation(generated: ArrayLike, held_out: ArrayLike, train: ArrayLike, *, seed: int = 0) -> Memorisation:
    """Whether generated cells are copies of training cells.

    Parameters
    ----------
    generated, held_out, train
        Cells as points, (m, d), (n, d), (t, d): generated ones; real ones that no model has seen, of the same mix of cell
        types; and those that the generator learned from.
    seed
        Of the draw that brings train and held-out cells to one number for `train_heldout_ratio`.

    Returns
    -------
    Memorisation
        Three figures, NaN where a distance to divide by is 0.

    Raises
    ------
    ValueError
        If the dimensions differ or a side is empty.
    """
    made, unseen = point_pair(generated, held_out)
    learned = points(train, "train")
    point_pair(made, learned)
    of_made, of_unseen = nearest_distance(made, learned), nearest_distance(unseen, learned)
    rng = np.random.default_rng(seed)
    n = min(len(unseen), len(learned))
    to_train = nearest_distance(made, learned[rng.permutation(len(learned))[:n]])
    to_unseen = nearest_distance(made, unseen[rng.permutation(len(unseen))[:n]])
    return Memorisation(
        _ratio(np.median(of_made), np.median(of_unseen)),
        float((of_made < np.quantile(of_unseen, 0.01)).mean()),
        _ratio(np.median(to_train), np.median(to_unseen)),
    )


def nearest_distance(cells: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Distance of each cell to the nearest of the others, (n,)."""
    from sklearn.neighbors import NearestNeighbors

    return NearestNeighbors(n_neighbors=1).fit(others).kneighbors(cells)[0].ravel()


def _ratio(x: np.floating, y: np.floating) -> float:
    return float(x / y) if y > 0 else float("nan")
