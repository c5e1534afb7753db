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
    _, codes = np.unique(groups.astype(str), return_inverse=True)
    n_groups, n_types = codes.max() + 1, probabilities.shape[1]
    member = sparse.csr_matrix(
        (filled.astype(np.float64), (codes, np.arange(len(codes)))), shape=(n_groups, len(codes))
    )
    size = np.maximum(np.asarray(member.sum(axis=1)).ravel(), 1.0)
    mean = (member @ probabilities) / size[:, None]  # (n_groups, n_types)
    best = probabilities.argmax(axis=1)
    votes = np.zeros((n_groups, n_types))
    np.add.at(votes, (codes[filled], best[filled]), 1.0)

    if min_confidence is None:
        # Votes are whole numbers and mean probabilities at most 1: half of them breaks ties and nothing else.
        winner = (votes + 0.5 * mean).argmax(axis=1)
        label, term = np.array(labels, dtype=object)[winner], np.array(term_ids, dtype=object)[winner]
        confidence = mean[np.arange(n_groups), winner]
    else:
        label, term, confidence = back_off(mean, labels, term_ids, ontology, min_confidence)
    agree = np.zeros(n_groups)
    for g in range(n_groups):
        below = [
            lab == label[g] or (t in ontology and term[g] in ontology.ancestors(t))
            for lab, t in zip(labels, term_ids, strict=True)
        ]
        agree[g] = votes[g][np.array(below)].sum()
    nobody = np.asarray(member.sum(axis=1)).ravel() == 0
    label, term = np.where(nobody, UNKNOWN, label), np.where(nobody, UNKNOWN, term)
    return {
        "label": label[codes],
        "ontology_term_id": term[codes],
        "confidence": np.where(nobody, 0.0, confidence)[codes].astype(np.float64),
        "vote_fraction": (agree / size)[codes],
    }


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
