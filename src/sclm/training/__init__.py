"""Training of networks: cells into batches, the one loop that fits, learning-rate schedules. Names are loaded on first use."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sclm.training.data import CellDataModule, expressed_genes
    from sclm.training.loop import FitReport, fit
    from sclm.training.schedule import adamw, parameter_groups, planned_steps, warmup_cosine

_HOME = {
    "CellDataModule": "data",
    "FitReport": "loop",
    "adamw": "schedule",
    "expressed_genes": "data",
    "fit": "loop",
    "parameter_groups": "schedule",
    "planned_steps": "schedule",
    "warmup_cosine": "schedule",
}

__all__ = [
    "CellDataModule",
    "FitReport",
    "adamw",
    "expressed_genes",
    "fit",
    "parameter_groups",
    "planned_steps",
    "warmup_cosine",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
