"""Mean profiles: the type whose average cell looks most like this one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from sclm.models.baselines.annotator import AnnotatorConfig, BaselineAnnotator

if TYPE_CHECKING:
    from scipy import sparse

    from sclm.models.reference_cells import Reference

# Correlations differ by hundredths; this brings them to the scale of logits, and calibration does the rest.
_SHARPNESS = 50.0


class MeanProfile(BaselineAnnotator):
    """Correlation with the mean log-normalised profile of each type.

    The score is Pearson-like: the cosine between the cell and the profile, both centred on the reference's mean profile.
    """

    family = "mean"

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
        n_types = len(config.labels)
        total = np.zeros((n_types, len(reference.vocabulary.tokens)))
        for where, block in reference.blocks():
            # (n_types, n_block), one-hot of the used cells
            member = np.zeros((n_types, block.shape[0]), dtype=np.float32)
            cells = np.flatnonzero(use[where])
            member[codes[where][cells], cells] = 1
            total += (block.T @ member.T).T  # (n_types, G)
        counts = np.maximum(np.bincount(codes[use], minlength=n_types), 1)
        return {"profiles": (total / counts[:, None]).astype(np.float32), "centre": reference.gene_mean}

    @classmethod
    def _score(
        cls,
        config: AnnotatorConfig,
        learnt: dict[str, np.ndarray],
        lognormal: sparse.csr_matrix,
        fill: np.ndarray | None,
    ) -> np.ndarray:
        centre = learnt["centre"].astype(np.float64)
        profiles = learnt["profiles"] - centre  # (n_types, G)
        fill = np.zeros_like(centre) if fill is None else fill.astype(np.float64)
        # (x + f - m)·p, with x sparse and f (values of absent genes) on genes where x is zero: never made dense.
        dot = lognormal @ profiles.T + (fill - centre) @ profiles.T  # (n, n_types)
        squares = np.asarray(lognormal.multiply(lognormal).sum(axis=1)).ravel() + fill @ fill
        length = squares - 2 * (lognormal @ centre + fill @ centre) + centre @ centre
        norms = (
            np.sqrt(np.maximum(length, 1e-12))[:, None] * np.maximum(np.linalg.norm(profiles, axis=1), 1e-12)[None, :]
        )
        return _SHARPNESS * dot / norms
