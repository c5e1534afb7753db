"""Tools: AnnData in, results into AnnData."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sclm.tl._adopt import adopt
    from sclm.tl._annotate import annotate
    from sclm.tl._describe import describe
    from sclm.tl._domains import domains
    from sclm.tl._embed import embed
    from sclm.tl._generate import generate
    from sclm.tl._interface import interface
    from sclm.tl._ligrec import ligrec
    from sclm.tl._map_spatial import map_spatial
    from sclm.tl._pathways import pathways
    from sclm.tl._perturb import perturb
    from sclm.tl._request import request
    from sclm.tl._translate import translate

__all__ = [
    "adopt",
    "annotate",
    "describe",
    "domains",
    "embed",
    "generate",
    "interface",
    "ligrec",
    "map_spatial",
    "pathways",
    "perturb",
    "request",
    "translate",
]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(importlib.import_module(f"sclm.tl._{name}"), name)
    raise AttributeError(f"module 'sclm.tl' has no attribute {name!r}")


def __dir__() -> list[str]:
    return list(__all__)
