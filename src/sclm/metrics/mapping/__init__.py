"""How good maps of cell types on tissue are: against known fractions, and without; names are loaded on first use.

:func:`compare` makes the table. Legend of shapes: n spots · K cell types · G genes.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sclm.metrics.mapping.fractions import aupr, jsd, pearson_by_spot, pearson_by_type, rmse
    from sclm.metrics.mapping.table import compare
    from sclm.metrics.mapping.without_truth import held_out_genes, marker_agreement, morans_i

_HOME = {
    "compare": "table",
    "jsd": "fractions",
    "rmse": "fractions",
    "pearson_by_type": "fractions",
    "pearson_by_spot": "fractions",
    "aupr": "fractions",
    "marker_agreement": "without_truth",
    "morans_i": "without_truth",
    "held_out_genes": "without_truth",
}

__all__ = [
    "aupr",
    "compare",
    "held_out_genes",
    "jsd",
    "marker_agreement",
    "morans_i",
    "pearson_by_spot",
    "pearson_by_type",
    "rmse",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
