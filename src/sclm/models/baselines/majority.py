"""The majority type: what any annotator has to beat."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from sclm.models.baselines.annotator import AnnotatorConfig, BaselineAnnotator

if TYPE_CHECKING:
    from scipy import sparse

    from sclm.models.reference_cells import Reference


class Majority(BaselineAnnotator):
    """The reference's most frequent type for every cell, its share as confidence."""

    family = "majority"

    @classmethod
    def _learn(
        cls,
        config: AnnotatorConfig,
        reference: Reference,
        codes: np.ndarray,
        use: np.ndarray,
        *,
        seed: int,
        start: dict | None,
    ) -> dict[str, np.ndarray]:
        counts = np.bincount(codes[use], minlength=len(config.labels))
        return {"log_share": np.log(np.maximum(counts, 0.5) / counts.sum()).astype(np.float32)}

    @classmethod
    def _score(
        cls,
        config: AnnotatorConfig,
        learnt: dict[str, np.ndarray],
        lognormal: sparse.csr_matrix,
        fill: np.ndarray | None,
    ) -> np.ndarray:
        return np.tile(learnt["log_share"], (lognormal.shape[0], 1))
