"""Statistics without networks: calibration, ontology back-off, novelty and plausibility of cells, coverage of sections."""

from __future__ import annotations

from sclm.evidence.backoff import BackOff, back_off
from sclm.evidence.calibration import fit_temperature, softmax
from sclm.evidence.coverage import Coverage, judge_coverage, marker_scores, residual_genes, signature_markers
from sclm.evidence.novelty import ReferenceSpace
from sclm.evidence.plausibility import PlausibilityGuard
from sclm.evidence.voting import consensus, over_cluster

__all__ = [
    "BackOff",
    "Coverage",
    "PlausibilityGuard",
    "ReferenceSpace",
    "back_off",
    "consensus",
    "fit_temperature",
    "judge_coverage",
    "marker_scores",
    "over_cluster",
    "residual_genes",
    "signature_markers",
    "softmax",
]
