"""Real example cells. The ones inside installed packages need no download."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sclm.datasets._pbmc68k import pbmc68k

__all__ = ["pbmc68k"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(importlib.import_module(f"sclm.datasets._{name}"), name)
    raise AttributeError(f"module 'sclm.datasets' has no attribute {name!r}")


def __dir__() -> list[str]:
    return list(__all__)
