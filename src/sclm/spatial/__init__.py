"""Which spots of a section lie side by side, and where two tissues meet. Names are loaded on first use."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sclm.spatial.graph import neighbour_graph, section_graph
    from sclm.spatial.interface import Interface, find_interface, otsu_threshold, ring_width

_HOME = {
    "Interface": "interface",
    "find_interface": "interface",
    "neighbour_graph": "graph",
    "otsu_threshold": "interface",
    "ring_width": "interface",
    "section_graph": "graph",
}

__all__ = ["Interface", "find_interface", "neighbour_graph", "otsu_threshold", "ring_width", "section_graph"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
