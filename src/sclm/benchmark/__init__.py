"""Which model names your cells best: models and baselines compared on your own labelled cells, by folds that share no donor."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sclm._lazy import lazy_names

if TYPE_CHECKING:
    from sclm.benchmark.contenders import BASELINES
    from sclm.benchmark.folds import folds
    from sclm.benchmark.running import Benchmark, run
    from sclm.benchmark.twins import Twins, find_twins
    from sclm.benchmark.writing import write

_HOME = {
    "BASELINES": "contenders",
    "Benchmark": "running",
    "Twins": "twins",
    "find_twins": "twins",
    "folds": "folds",
    "run": "running",
    "write": "writing",
}

__all__ = ["BASELINES", "Benchmark", "Twins", "find_twins", "folds", "run", "write"]

__getattr__, __dir__ = lazy_names(__name__, _HOME)
