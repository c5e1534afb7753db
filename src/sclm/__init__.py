"""Single-cell language models for Scanpy users: generate, annotate, describe and map cells."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sclm import agent, benchmark, datasets, export, get, knowledge, metrics, models, pl, texts, tl
    from sclm.accessor import register_accessor
    from sclm.models import load, train
    from sclm.tl import request

__version__ = "0.1.0"

__all__ = [
    "agent",
    "benchmark",
    "datasets",
    "export",
    "get",
    "knowledge",
    "load",
    "metrics",
    "models",
    "pl",
    "register_accessor",
    "request",
    "texts",
    "tl",
    "train",
]

# Names that live one level down; everything else in __all__ is a submodule. Nothing is imported before it is used (PEP 562):
# `import sclm` costs milliseconds, and a user who only annotates never pays for Lightning.
_BELOW = {
    "load": "sclm.models",
    "register_accessor": "sclm.accessor",
    "request": "sclm.tl",
    "train": "sclm.models",
}


def __getattr__(name: str) -> Any:
    if name in _BELOW:
        return getattr(importlib.import_module(_BELOW[name]), name)
    if name in __all__:
        return importlib.import_module(f"sclm.{name}")
    raise AttributeError(f"module 'sclm' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
