"""How good annotations, embeddings, generated cells, maps, predicted responses, proteins and texts are, against a known truth."""

from __future__ import annotations

# Not lazy: `annotation` is the name of both the function and its file, and only an import that has already happened
# leaves the function in place. None of these imports more than numpy; `generation`, `mapping` and `text` load
# their files on first use.
from sclm.metrics import generation, mapping, perturbation, text, translation
from sclm.metrics.annotation import annotation, match_kind
from sclm.metrics.calibration import coverage_accuracy, expected_calibration_error, reliability
from sclm.metrics.embedding import embedding

__all__ = [
    "annotation",
    "coverage_accuracy",
    "embedding",
    "expected_calibration_error",
    "generation",
    "mapping",
    "match_kind",
    "perturbation",
    "reliability",
    "text",
    "translation",
]
