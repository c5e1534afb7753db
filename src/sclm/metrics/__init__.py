"""How good annotations are: agreement, ontology-aware scores, calibration and coverage."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sclm.metrics.annotation import annotation as annotation
    from sclm.metrics.annotation import match_kind
    from sclm.metrics.calibration import coverage_accuracy, expected_calibration_error, reliability

__all__ = ["annotation", "coverage_accuracy", "expected_calibration_error", "match_kind", "reliability"]

_HOMES = {
    "coverage_accuracy": "calibration",
    "expected_calibration_error": "calibration",
    "match_kind": "annotation",
    "reliability": "calibration",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"sclm.metrics.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'sclm.metrics' has no attribute {name!r}")
