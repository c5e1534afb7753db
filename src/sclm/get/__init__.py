"""What the tools wrote, as tidy DataFrames."""

from __future__ import annotations

from sclm.get._cells import (
    annotate,
    embed,
    generate,
    generate_plausibility,
    generate_values,
    perturb,
    perturb_null,
    perturb_profiles,
    probabilities,
    translate,
    translate_expected,
)
from sclm.get._sections import map_spatial

__all__ = [
    "annotate",
    "embed",
    "generate",
    "generate_plausibility",
    "generate_values",
    "map_spatial",
    "perturb",
    "perturb_null",
    "perturb_profiles",
    "probabilities",
    "translate",
    "translate_expected",
]
