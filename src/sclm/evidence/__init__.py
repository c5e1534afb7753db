"""Statistics without networks: calibration of confidences, ontology back-off, novelty and plausibility of cells."""

from __future__ import annotations

from sclm.evidence.backoff import BackOff, back_off
from sclm.evidence.calibration import fit_temperature, softmax
from sclm.evidence.novelty import ReferenceSpace
from sclm.evidence.plausibility import PlausibilityGuard
from sclm.evidence.voting import consensus, over_cluster

__all__ = [
    "BackOff",
    "PlausibilityGuard",
    "ReferenceSpace",
    "back_off",
    "consensus",
    "fit_temperature",
    "over_cluster",
    "softmax",
]
