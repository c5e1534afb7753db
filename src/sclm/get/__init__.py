"""What the tools wrote, as tidy DataFrames."""

from __future__ import annotations

from sclm.get._cells import (
    annotate,
    annotate_explanation,
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
from sclm.get._descriptions import describe, describe_evidence, pathways
from sclm.get._sections import domains, domains_stability, map_spatial
from sclm.get._signals import interface, interface_profile, ligrec, ligrec_edges, ligrec_spots, ligrec_squidpy

__all__ = [
    "annotate",
    "annotate_explanation",
    "describe",
    "describe_evidence",
    "domains",
    "domains_stability",
    "embed",
    "generate",
    "generate_plausibility",
    "generate_values",
    "interface",
    "interface_profile",
    "ligrec",
    "ligrec_edges",
    "ligrec_spots",
    "ligrec_squidpy",
    "map_spatial",
    "pathways",
    "perturb",
    "perturb_null",
    "perturb_profiles",
    "probabilities",
    "translate",
    "translate_expected",
]
