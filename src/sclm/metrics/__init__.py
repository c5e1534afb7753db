"""How good annotations are: agreement, ontology-aware scores, calibration and coverage."""

from __future__ import annotations

# Not lazy: `annotation` is the name of both the function and its file, and only an import that has already happened
# leaves the function in place. Neither file imports more than numpy.
from sclm.metrics.annotation import annotation, match_kind
from sclm.metrics.calibration import coverage_accuracy, expected_calibration_error, reliability

__all__ = ["annotation", "coverage_accuracy", "expected_calibration_error", "match_kind", "reliability"]
