"""AnnData out of what holds several: a table of a SpatialData, a modality of a MuData."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from anndata import AnnData

_RNA = ("rna", "gex", "gene expression", "expression", "gene", "genes", "transcriptome")


def table_of(data: Any, table_key: str | None = None, mod: str | None = None) -> AnnData:
    """The AnnData of what a user passed: itself, a table of a SpatialData, or a modality of a MuData.

    The AnnData is the one inside, not a copy: what a tool writes into it is in the SpatialData or MuData afterwards. Nothing else of
    these is changed; ``mdata.pull_obs()`` shows new columns at the top of a MuData.

    Parameters
    ----------
    data
        AnnData, SpatialData or MuData.
    table_key
        Table of a SpatialData.
    mod
        Modality of a MuData with the RNA. May be left out where there is one modality only, or one is called ``"rna"`` (or ``"gex"`` …).

    Returns
    -------
    The AnnData. Anything that is none of the three is returned as it is: :func:`sclm.cells.read_cells` says what it should have been.

    Raises
    ------
    TypeError
        If it is left open which table or modality is meant, or one is named of something that has none.
    ValueError
        If there is no such table or modality.

    Examples
    --------
    >>> import sclm
    >>> adata = sclm.datasets.pbmc68k()
    >>> table_of(adata) is adata
    True
    >>> table_of(adata, mod="rna")
    Traceback (most recent call last):
    ...
    TypeError: mod='rna' names a modality of a MuData, found AnnData. Leave mod= out.
    """
    spatial, multi = is_spatialdata(data), is_mudata(data)
    if table_key is not None and not spatial:
        raise TypeError(
            f"table_key={table_key!r} names a table of a SpatialData, found {type(data).__name__}. Leave table_key= out."
        )
    if mod is not None and not multi:
        raise TypeError(f"mod={mod!r} names a modality of a MuData, found {type(data).__name__}. Leave mod= out.")
    if spatial:
        there = ", ".join(map(repr, data.tables)) or "none"
        if table_key is None:
            raise TypeError(
                f"a SpatialData needs table_key= naming the table with the counts, found None. Tables: {there}."
            )
        if table_key not in data.tables:
            raise ValueError(f"table_key={table_key!r} is no table of the SpatialData. Tables: {there}.")
        return data.tables[table_key]
    if multi:
        there = ", ".join(map(repr, data.mod)) or "none"
        likely = list(data.mod) if len(data.mod) == 1 else [name for name in data.mod if name.lower() in _RNA]
        name = likely[0] if mod is None and len(likely) == 1 else mod
        if name is None:
            raise TypeError(f"a MuData needs mod= naming the modality with the RNA, found None. Modalities: {there}.")
        if name not in data.mod:
            raise ValueError(f"mod={name!r} is no modality of the MuData. Modalities: {there}.")
        return data.mod[name]
    return data


def is_spatialdata(data: Any) -> bool:
    """Whether it is a SpatialData, told without importing the package."""
    return hasattr(data, "tables") and hasattr(data, "images")


def is_mudata(data: Any) -> bool:
    """Whether it is a MuData, told without importing the package."""
    return hasattr(data, "mod") and hasattr(data, "obsmap")
