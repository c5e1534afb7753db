"""Training of networks: cells into batches, the one loop that fits, learning-rate schedules. Names are loaded on first use."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sclm._lazy import lazy_names

if TYPE_CHECKING:
    from sclm.training.data import CellDataModule, expressed_genes
    from sclm.training.loop import FitReport, first_process, fit, running_options
    from sclm.training.schedule import adamw, parameter_groups, planned_steps, warmup_cosine

_HOME = {
    "CellDataModule": "data",
    "FitReport": "loop",
    "adamw": "schedule",
    "expressed_genes": "data",
    "first_process": "loop",
    "fit": "loop",
    "parameter_groups": "schedule",
    "planned_steps": "schedule",
    "running_options": "loop",
    "warmup_cosine": "schedule",
}

__all__ = [
    "CellDataModule",
    "FitReport",
    "adamw",
    "expressed_genes",
    "first_process",
    "fit",
    "parameter_groups",
    "planned_steps",
    "running_options",
    "warmup_cosine",
]

__getattr__, __dir__ = lazy_names(__name__, _HOME)
