"""Plots of what the tools wrote. They read the AnnData only, never a model, and return Axes."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sclm.pl._annotate import annotate, annotate_agreement, annotate_reliability
    from sclm.pl._describe import describe
    from sclm.pl._describe_html import describe_html
    from sclm.pl._domains import domains
    from sclm.pl._embed import embed
    from sclm.pl._generate import (
        generate,
        generate_dropout,
        generate_markers,
        generate_mean_variance,
        generate_umap,
    )
    from sclm.pl._interface import interface
    from sclm.pl._ligrec import ligrec
    from sclm.pl._map_spatial import map_spatial
    from sclm.pl._perturb import perturb, perturb_profiles, perturb_ranks
    from sclm.pl._translate import translate, translate_expected

__all__ = [
    "annotate",
    "annotate_agreement",
    "annotate_reliability",
    "describe",
    "describe_html",
    "domains",
    "embed",
    "generate",
    "generate_dropout",
    "generate_markers",
    "generate_mean_variance",
    "generate_umap",
    "interface",
    "ligrec",
    "map_spatial",
    "perturb",
    "perturb_profiles",
    "perturb_ranks",
    "translate",
    "translate_expected",
]

_TOOLS = (
    "annotate",
    "describe_html",
    "describe",
    "domains",
    "embed",
    "generate",
    "interface",
    "ligrec",
    "map_spatial",
    "perturb",
    "translate",
)
_HOMES = {
    name: next(f"_{tool}" for tool in _TOOLS if name.startswith(tool)) for name in __all__
}  # the file of the tool


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"sclm.pl.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'sclm.pl' has no attribute {name!r}")


def __dir__() -> list[str]:
    return list(__all__)
