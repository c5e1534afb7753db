"""How good maps of cell types on tissue are: against known fractions, and without; names are loaded on first use.

:func:`compare` makes the table. Legend of shapes: n spots · K cell types · G genes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sclm._lazy import lazy_names

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

__getattr__, __dir__ = lazy_names(__name__, _HOME)
