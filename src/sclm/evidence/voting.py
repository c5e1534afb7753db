"""Consensus of groups of cells, and small clusters to vote in."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

from sclm.evidence.backoff import UNKNOWN, back_off
from sclm.evidence.novelty import ReferenceSpace

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sclm.cells import CellSource
    from sclm.knowledge import Ontology

_CELLS_A_CLUSTER = 50
_FITTED_ON = 20_000


class Ballots:
    """Votes and probabilities of groups of cells, gathered block by block.

    The group's type is the one that most of its cells have as their own, ties going to the higher mean probability; with
    ``min_confidence`` it is the ontology back-off of the mean probabilities.

    Parameters
    ----------
    groups
        (n_cells,) name of each cell's group; None for cells of no group.
    n_types
        Number of types.
    """

    def __init__(self, groups: np.ndarray, n_types: int) -> None:
        self.grouped = np.array([g is not None for g in groups], dtype=bool)
        names, codes = np.unique(np.asarray(groups)[self.grouped].astype(str), return_inverse=True)
        self._codes = np.full(len(groups), -1, dtype=np.int64)
        self._codes[self.grouped] = codes
        self._sum = np.zeros((len(names), n_types))
        self._votes = np.zeros((len(names), n_types))
        self._size = np.zeros(len(names))

    def add(self, cells: slice, probabilities: np.ndarray, best: np.ndarray, filled: np.ndarray) -> None:
        """Add a block of cells.

        Parameters
        ----------
        cells
            Where the block lies among all cells.
        probabilities
            (n_block, n_types).
        best
            (n_block,) column of each cell's own type.
        filled
            (n_block,) bool; other cells do not vote.
        """
        codes = self._codes[cells]
        voting = filled & (codes >= 0)
        member = sparse.csr_matrix(
            (voting.astype(np.float64), (np.maximum(codes, 0), np.arange(len(codes)))),
            shape=(len(self._size), len(codes)),
        )
        self._sum += member @ probabilities
        self._size += np.asarray(member.sum(axis=1)).ravel()
        np.add.at(self._votes, (codes[voting], best[voting]), 1.0)

    def count(
        self, labels: Sequence[str], term_ids: Sequence[str], ontology: Ontology, min_confidence: float | None
    ) -> dict[str, np.ndarray]:
        """The answers.

        Parameters
        ----------
        labels, term_ids
            n_types names and ontology ids.
        ontology
            Where the ids come from.
        min_confidence
            Threshold of the back-off, or None.

        Returns
        -------
        As :func:`consensus`, (n_cells,) each; ``"unknown"``, 0 and NaN for cells of no group.
        """
        n_groups = len(self._size)
        size = np.maximum(self._size, 1.0)
        mean = self._sum / size[:, None]  # (n_groups, n_types)
        if min_confidence is None:
            # Votes are whole numbers and mean probabilities at most 1: half of them breaks ties and nothing else.
            winner = (self._votes + 0.5 * mean).argmax(axis=1)
            label, term = np.array(labels, dtype=object)[winner], np.array(term_ids, dtype=object)[winner]
            confidence = mean[np.arange(n_groups), winner]
        else:
            label, term, confidence = back_off(mean, labels, term_ids, ontology, min_confidence)
        place = {t: i for i, t in enumerate(term_ids) if t in ontology}
        agree = np.zeros(n_groups)
        for g in range(n_groups):
            below = np.array(labels, dtype=object) == label[g]
            if term[g] in ontology:
                below[[place[t] for t in ontology.descendants(term[g]) if t in place]] = True
            agree[g] = self._votes[g][below].sum()
        nobody = self._size == 0
        answers = {
            "label": np.where(nobody, UNKNOWN, label),
            "ontology_term_id": np.where(nobody, UNKNOWN, term),
            "confidence": np.where(nobody, 0.0, confidence).astype(np.float64),
            "vote_fraction": agree / size,
        }
        empty = {"label": UNKNOWN, "ontology_term_id": UNKNOWN, "confidence": 0.0, "vote_fraction": np.nan}
        found = {}
        for name, values in answers.items():
            found[name] = np.full(len(self._codes), empty[name], dtype=values.dtype)
            found[name][self.grouped] = values[self._codes[self.grouped]]
        return found


def consensus(
    probabilities: np.ndarray,
    groups: np.ndarray,
    filled: np.ndarray,
    labels: Sequence[str],
    term_ids: Sequence[str],
    ontology: Ontology,
    min_confidence: float | None,
) -> dict[str, np.ndarray]:
    """One answer a group of cells.

    The group's type is the one that most of its cells have as their most probable type, ties going to the higher mean
    probability; with ``min_confidence`` it is the ontology back-off of the mean probabilities.

    Parameters
    ----------
    probabilities
        (n_cells, n_types).
    groups
        (n_cells,) name of each cell's group.
    filled
        (n_cells,) bool; other cells neither vote nor, in a group without voters, get an answer.
    labels, term_ids
        n_types names and ontology ids.
    ontology
        Where the ids come from.
    min_confidence
        Threshold of the back-off, or None.

    Returns
    -------
    ``label``, ``ontology_term_id``, ``confidence`` (mean probability of the answer over the group) and ``vote_fraction``
    (share of the group's cells whose own type is the answer or lies below it), each (n_cells,).
    """
    ballots = Ballots(groups, probabilities.shape[1])
    ballots.add(slice(0, len(groups)), probabilities, probabilities.argmax(axis=1), filled)
    return ballots.count(labels, term_ids, ontology, min_confidence)


def over_cluster(source: CellSource, *, seed: int) -> np.ndarray:
    """Small clusters to vote in: k-means on 50 principal components of log-normalised counts.

    Parameters
    ----------
    source
        The cells; they stream through, and only their coordinates are kept.
    seed
        Of the components and the clusters.

    Returns
    -------
    (n_cells,) text, about 50 cells a cluster, fewer in small data.
    """
    from sklearn.cluster import MiniBatchKMeans

    from sclm.cells import log_normalise

    rng = np.random.default_rng(seed)
    rows = np.arange(source.n_cells)
    if source.n_cells > _FITTED_ON:
        rows = np.sort(rng.choice(rows, _FITTED_ON, replace=False))
    sample = log_normalise(source.read(rows).counts)
    space = ReferenceSpace.fit(sample, sample[:0], n_components=50, seed=seed)
    points = np.concatenate([space.project(log_normalise(cells.counts)) for cells in source.blocks()])
    # Ten clusters at least where there are cells for them: a hundred cells hold more than two types.
    n_clusters = max(1, len(points) // _CELLS_A_CLUSTER, min(10, len(points) // 10))
    means = MiniBatchKMeans(n_clusters, random_state=np.random.RandomState(seed), n_init=3, batch_size=4096)
    return np.array([f"cluster {c}" for c in means.fit_predict(points)], dtype=object)
