"""Plots of what the tools wrote. They read the AnnData only, never a model, and return Axes."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sclm.pl._annotate import annotate, annotate_agreement, annotate_reliability

__all__ = ["annotate", "annotate_agreement", "annotate_reliability"]

_HOMES = dict.fromkeys(__all__, "_annotate")


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"sclm.pl.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'sclm.pl' has no attribute {name!r}")


def __dir__() -> list[str]:
    return list(__all__)
