"""Nearest neighbours in a principal subspace."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from sclm.evidence import ReferenceSpace
from sclm.models.baselines.annotator import AnnotatorConfig, BaselineAnnotator

if TYPE_CHECKING:
    from typing import Any

    from scipy import sparse

    from sclm.models.reference_cells import Reference

_FITTED_ON = 20_000  # cells that the principal components are fitted on
_SMOOTHING = 0.1  # votes added to every type, so that a type without votes keeps a small probability


@dataclasses.dataclass(frozen=True, kw_only=True)
class NearestNeighboursConfig(AnnotatorConfig):
    """Settings of :class:`NearestNeighbours`."""

    n_neighbors: int = 15  # scanpy's default neighbourhood
    n_components: int = 50  # scanpy's default number of principal components
    max_cells: int = 100_000  # reference cells searched exactly; larger references are sampled down


class NearestNeighbours(BaselineAnnotator):
    """Vote of the k nearest reference cells on principal components of log-normalised counts."""

    family = "knn"
    Config = NearestNeighboursConfig

    @classmethod
    def _check(cls, config: NearestNeighboursConfig) -> None:
        for name in ("n_neighbors", "n_components", "max_cells"):
            if getattr(config, name) < 1:
                raise ValueError(f"{name} must be at least 1, found {getattr(config, name)}.")

    @classmethod
    def _learn(
        cls,
        config: NearestNeighboursConfig,
        reference: Reference,
        codes: np.ndarray,
        use: np.ndarray,
        *,
        seed: int,
        start: dict | None,
    ) -> dict[str, np.ndarray]:
        rng = np.random.default_rng(seed)
        rows = np.flatnonzero(use)
        kept = np.sort(rng.choice(rows, config.max_cells, replace=False)) if len(rows) > config.max_cells else rows
        fitted = np.sort(rng.choice(kept, _FITTED_ON, replace=False)) if len(kept) > _FITTED_ON else kept
        mask = np.zeros(len(use), dtype=bool)
        mask[fitted] = True
        sample = reference.take(mask)
        space = ReferenceSpace.fit(sample, sample[:0], n_components=config.n_components, seed=seed)
        mask[:] = False
        mask[kept] = True
        points = reference.over(space.project, mask)
        return {
            "knn_genes": space.genes,
            "knn_components": space.components,
            "knn_points": points,
            "knn_codes": codes[kept].astype(np.int32),
        }

    @classmethod
    def _score(
        cls,
        config: NearestNeighboursConfig,
        learnt: dict[str, Any],
        lognormal: sparse.csr_matrix,
        fill: np.ndarray | None,
    ) -> np.ndarray:
        from sklearn.neighbors import NearestNeighbors as Search

        space = ReferenceSpace(learnt["knn_genes"], learnt["knn_components"], learnt["knn_points"], 1.0)
        n = min(config.n_neighbors, len(space.landmarks))
        nearest = Search(n_neighbors=n, algorithm="brute").fit(space.landmarks)
        neighbours = nearest.kneighbors(space.project(lognormal, fill), return_distance=False)  # (n_cells, n)
        votes = np.zeros((lognormal.shape[0], len(config.labels)))
        np.add.at(votes, (np.arange(len(votes))[:, None], learnt["knn_codes"][neighbours]), 1.0)
        return np.log(votes + _SMOOTHING)
