"""Real example cells and sections of tissue, and sections mixed from real cells.

What lies inside installed packages needs no download; :func:`breast_visium` and :func:`breast_xenium` do, once.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sclm.datasets._breast import breast_visium, breast_xenium
    from sclm.datasets._pbmc68k import pbmc68k
    from sclm.datasets._simulate_section import simulate_section

_HOME = {
    "breast_visium": "_breast",
    "breast_xenium": "_breast",
    "pbmc68k": "_pbmc68k",
    "simulate_section": "_simulate_section",
}

__all__ = ["breast_visium", "breast_xenium", "pbmc68k", "simulate_section"]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"sclm.datasets.{_HOME[name]}"), name)
    raise AttributeError(f"module 'sclm.datasets' has no attribute {name!r}")


def __dir__() -> list[str]:
    return list(__all__)
