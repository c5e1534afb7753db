"""Cells: raw counts of single cells, read from AnnData, matched to a model's genes and turned into tokens.

Everything below this package works on :class:`Cells`, never on AnnData.  Names are loaded on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sclm._lazy import lazy_names

if TYPE_CHECKING:
    from sclm.cells.alignment import align, require_overlap
    from sclm.cells.bins import bin_values
    from sclm.cells.cells import Cells
    from sclm.cells.containers import table_of
    from sclm.cells.counts import CountReport, inspect_counts, invert_log1p, require_counts
    from sclm.cells.groups import sum_groups
    from sclm.cells.joined import JoinedSource
    from sclm.cells.levels import count_levels
    from sclm.cells.normalise import log_normalise
    from sclm.cells.opening import is_stored, open_cells
    from sclm.cells.proteins import Proteins, read_proteins, scale_proteins
    from sclm.cells.ragged import Ragged
    from sclm.cells.ranks import rank_values
    from sclm.cells.read import CellSource, read_cells
    from sclm.cells.sentences import cell_sentences
    from sclm.cells.vocabulary import GeneMatch, GeneVocabulary

_HOME = {
    "Cells": "cells",
    "CellSource": "read",
    "read_cells": "read",
    "CountReport": "counts",
    "inspect_counts": "counts",
    "require_counts": "counts",
    "invert_log1p": "counts",
    "sum_groups": "groups",
    "JoinedSource": "joined",
    "Proteins": "proteins",
    "read_proteins": "proteins",
    "scale_proteins": "proteins",
    "GeneVocabulary": "vocabulary",
    "GeneMatch": "vocabulary",
    "align": "alignment",
    "require_overlap": "alignment",
    "Ragged": "ragged",
    "rank_values": "ranks",
    "bin_values": "bins",
    "count_levels": "levels",
    "cell_sentences": "sentences",
    "log_normalise": "normalise",
    "is_stored": "opening",
    "open_cells": "opening",
    "table_of": "containers",
}

__all__ = [
    "CellSource",
    "Cells",
    "CountReport",
    "GeneMatch",
    "GeneVocabulary",
    "JoinedSource",
    "Proteins",
    "Ragged",
    "align",
    "bin_values",
    "cell_sentences",
    "count_levels",
    "inspect_counts",
    "invert_log1p",
    "is_stored",
    "log_normalise",
    "open_cells",
    "rank_values",
    "read_cells",
    "read_proteins",
    "require_counts",
    "require_overlap",
    "scale_proteins",
    "sum_groups",
    "table_of",
]

__getattr__, __dir__ = lazy_names(__name__, _HOME)
