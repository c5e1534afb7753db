"""Tools that treat every cell by itself, in three steps: prepared once, asked for stretches of cells, put together at the end.

A call in memory takes all cells as one stretch. A call on a large file takes a stretch after the other, in one process or several, and keeps
what is known of each on disk: the same code gives the same result.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from sclm import results

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import anndata
    import numpy as np

    from sclm.cells import CellSource

SHARDED = {
    "annotate": "sclm.tl._annotate_stages:Annotating",
    "embed": "sclm.tl._embed:Embedding",
    "pathways": "sclm.tl._pathways:Scoring",
    "translate": "sclm.tl._translate:Translating",
}


class Part(NamedTuple):
    """What is known of a stretch of cells.

    Attributes
    ----------
    columns
        Name → (n,) one value a cell: text, numbers or bool.
    matrices
        Name → (n, width) numpy array or CSR matrix.
    facts
        Numbers, text, lists of these and (width,) arrays about the whole stretch.
    """

    columns: Mapping[str, np.ndarray]
    matrices: Mapping[str, Any]
    facts: Mapping[str, Any]


class Whole(NamedTuple):
    """What a tool writes.

    Attributes
    ----------
    key, entry
        The record and its key in ``.uns``.
    obs
        Columns of all cells.
    obsm
        Name → what gives the rows of a stretch from its :class:`Part`; None where an entry of an earlier call is to go.
    """

    key: str
    entry: dict[str, Any]
    obs: dict[str, Any]
    obsm: dict[str, Callable[[Part], np.ndarray] | None]


class Stages(Protocol):
    """A call of a tool, prepared: made from the arguments of the tool, without `copy`.

    Attributes
    ----------
    source
        The cells.
    model
        The model, loaded or trained; None for a tool without one.
    """

    source: CellSource
    model: Any

    def part(self, rows: np.ndarray | None = None) -> Part:
        """The cells of these rows, or all."""

    def whole(self, parts: Sequence[Part]) -> Whole:
        """All parts, in the order of the cells."""


def stages(tool: str) -> Any:
    """What makes :class:`Stages` of a tool, or None where a tool needs all cells at once.

    It has ``needs_all(arguments)``: the argument with which a cell's result depends on the others, or None.
    """
    if tool not in SHARDED:
        return None
    module, _, name = SHARDED[tool].partition(":")
    return getattr(importlib.import_module(module), name)


def in_one_go(adata: anndata.AnnData, work: Stages, copy: bool) -> anndata.AnnData | None:
    """All cells as one stretch, written into the AnnData or its copy."""
    part = work.part()
    whole = work.whole([part])
    target = adata.copy() if copy and not adata.isbacked else adata.to_memory() if copy else adata
    obsm = {name: None if rows is None else rows(part) for name, rows in whole.obsm.items()}
    results.write(target, whole.key, whole.entry, obs=whole.obs, obsm=obsm)
    return target if copy else None
