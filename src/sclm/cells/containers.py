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
        Table of a SpatialData. May be left out where it has one table only.
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
        return _picked(data.tables, table_key, "table_key", "table", "a SpatialData", "the table with the counts")
    if multi:
        name = mod
        if name is None:
            called = [part for part in data.mod if part.lower() in _RNA]
            name = called[0] if len(called) == 1 else None
        return _picked(data.mod, name, "mod", "modality", "a MuData", "the modality with the RNA")
    return data


def is_spatialdata(data: Any) -> bool:
    """Whether it is a SpatialData, told without importing the package."""
    return hasattr(data, "tables") and hasattr(data, "images")


def is_mudata(data: Any) -> bool:
    """Whether it is a MuData, told without importing the package."""
    return hasattr(data, "mod") and hasattr(data, "obsmap")


def _picked(parts: Any, name: str | None, argument: str, part: str, holder: str, what: str) -> Any:
    there = ", ".join(map(repr, parts)) or "none"
    if name is None:
        if len(parts) != 1:
            raise TypeError(
                f"{holder} with {len(parts)} parts needs {argument}= naming {what}, found None. There are: {there}."
            )
        return next(iter(parts.values()))
    if name not in parts:
        raise ValueError(f"{argument}={name!r} is no {part} of the {holder.split()[-1]}. There are: {there}.")
    return parts[name]
