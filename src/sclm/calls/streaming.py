"""AnnData files whose matrices stay on disk: opened by their tables alone, and copied together with what a tool wrote."""

from __future__ import annotations

import os
import shutil
import warnings
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from sclm.calls import files
from sclm.cells.opening import SPARSE, on_disk

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    import anndata

_SMALL = (
    16 << 20
)  # bytes up to which an array of .obsm or .obsp is read: coordinates of a section, not vectors of an atlas
_DONE = "sclm-shards"  # attribute of a store: the call in shards that wrote it
LEFT = (*SPARSE, "array")  # kinds of elements that can be left on disk
MATRICES = ("layers", "obsm", "varm", "obsp", "varp")
_DISK = ("obs", "var", "obsm", "varm", "obsp", "layers", "uns")  # what a tool may write into
_TABLE = "dataframe"


def streams(path: Path) -> bool:
    """Whether a file is an AnnData of today's layout, which can be read and added to element by element."""
    if path.suffix not in (".h5ad", ".zarr"):
        return False
    try:
        with group(path) as store:
            about = store.attrs.get("encoding-type")
            return about == "anndata" and all(
                name in store and store[name].attrs.get("encoding-type") == _TABLE for name in ("obs", "var")
            )
    except (OSError, KeyError, ValueError):
        return False  # the reader of whole files says what is wrong


@contextmanager
def group(path: Path, mode: Literal["r", "r+"] = "r") -> Iterator[Any]:
    """The root of an h5ad or zarr store; what a block adds to a zarr store is in its consolidated metadata afterwards."""
    if path.suffix == ".h5ad":
        import h5py

        with h5py.File(path, mode) as store:
            yield store
        return
    import zarr

    if mode == "r":
        yield zarr.open_group(str(path), mode="r")
        return
    root = zarr.open_group(str(path), mode=mode, use_consolidated=False)
    yield root
    if _consolidated(path):
        consolidate(path)


def consolidate(path: Path) -> None:
    """Put the metadata of a zarr store together, as anndata does."""
    import zarr

    with warnings.catch_warnings():  # also where format 3 does not know it yet
        warnings.filterwarnings("ignore", message=".*[Cc]onsolidated metadata", category=UserWarning)
        zarr.consolidate_metadata(str(path))


@contextmanager
def opened(path: Path, named: Collection[str] | None = ()) -> Iterator[anndata.AnnData]:
    """An AnnData whose counts, layers and large matrices stay on disk while the block runs; tables and ``.uns`` are read.

    Parameters
    ----------
    path
        ``.h5ad`` or ``.zarr`` for which :func:`streams` is true.
    named
        Names of entries of ``.obsm`` and ``.obsp`` that are read however large they are; None for all.

    Yields
    ------
    An AnnData in memory that may be written to; the file is not changed by that.
    """
    import anndata
    from anndata.io import read_elem

    with ExitStack() as stack:
        try:
            store = stack.enter_context(group(path))
            parts: dict[str, Any] = {name: read_elem(store[name]) for name in ("obs", "var")}
            parts["uns"] = read_elem(store["uns"]) if "uns" in store else {}
            for slot in MATRICES:
                if slot in store:
                    parts[slot] = {name: _left(store[slot][name], slot, name, named) for name in store[slot]}
            if (
                "raw" in store and hasattr(store["raw"], "keys") and "X" in store["raw"]
            ):  # else a mark that there is none
                parts["raw"] = {"X": on_disk(store["raw"]["X"]), "var": read_elem(store["raw"]["var"])}
            x = on_disk(store["X"]) if "X" in store else None
        except (OSError, KeyError, AttributeError, TypeError, ValueError) as error:
            if isinstance(error, PermissionError):
                raise
            raise ValueError(f"{path} cannot be read as {path.suffix}: {error}. Is the file whole?") from error
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*names are not unique")  # `check` says so
            adata = anndata.AnnData(x, **parts)
        yield adata


@contextmanager
def matrices_left(path: str | Path) -> Iterator[Any]:
    """What a file holds, to look at: of an AnnData counts and layers stay on disk while the block runs, anything else is read."""
    path = files.existing(path)
    if streams(path):
        with opened(path, None) as adata:
            yield adata
    else:
        yield files.read(path)


def write(adata: anndata.AnnData, before: Mapping[str, Mapping[str, Any]], source: Path, target: Path) -> None:
    """The input's file with what a tool changed, under another name: copied or converted beside, added to, then renamed.

    Parameters
    ----------
    adata
        From :func:`opened`, after the tool.
    before
        :func:`sclm.calls.brief.contents` of it before the tool.
    source, target
        Input and output.
    """
    with files.beside(target) as part:
        copied(source, part)
        with group(part, "r+") as store:
            if _DONE in store.attrs:  # of the call that wrote the input
                del store.attrs[_DONE]
            for slot, name, value in changes(adata, before):
                put(store, slot, name, value)


def changes(adata: anndata.AnnData, before: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, str, Any]]:
    """Slot, name and value of what is new or other than before; the value None stands for what is gone."""
    for slot in _DISK:
        holder, old = getattr(adata, slot), before[slot]
        for name in old:
            if name not in holder:
                yield slot, name, None
        for name in holder:
            if name is None:  # of layers, what stands for .X
                continue
            value = holder[name]
            if name not in old or not (
                old[name].equals(value) if slot in ("obs", "var") and old[name] is not value else old[name] is value
            ):
                yield slot, name, value


def put(store: Any, slot: str, name: str, value: Any) -> None:
    """Write one column, matrix or entry of ``.uns`` into a store as anndata does, or remove it where it is None."""
    from anndata.io import write_elem

    if slot not in store:
        write_elem(store, slot, {})
    holder = store[slot]
    if name in holder:
        del holder[name]
    if slot in ("obs", "var"):
        order = [str(column) for column in holder.attrs["column-order"] if column != name]
        if value is not None:
            write_elem(holder, name, _column(value))
            order.append(name)
        if store.__class__.__module__.startswith("h5py"):
            from h5py import string_dtype

            holder.attrs["column-order"] = np.array(order, dtype=string_dtype())
        else:
            holder.attrs["column-order"] = order
    elif value is not None:
        write_elem(holder, name, value)


def sign(store: Any, call: str, n_shards: int) -> None:
    """Note in a store which call wrote it, and in how many shards."""
    store.attrs[_DONE] = f"{call} {n_shards}"


def signed(path: Path) -> tuple[str, int] | None:
    """The call and number of shards that :func:`sign` noted, or None."""
    if not streams(path):
        return None
    with group(path) as store:
        noted = str(store.attrs.get(_DONE, "")).split()
    return (noted[0], int(noted[1])) if len(noted) == 2 and noted[1].isdigit() else None


def copied(source: Path, target: Path) -> None:
    """Copy a file or a folder of files, or write the other format of the two.

    Contents alone are copied, since a read-only input must not make a read-only output.
    """
    if source.suffix != target.suffix:
        from sclm.calls.converting import converted

        converted(source, target)
        return
    if not source.is_dir():
        shutil.copyfile(source, target)
        return
    for folder, _, names in os.walk(source):
        there = target / os.path.relpath(folder, source)
        there.mkdir(parents=True, exist_ok=True)
        for name in names:
            shutil.copyfile(Path(folder) / name, there / name)


def _column(values: Any) -> Any:
    """Values as anndata writes them: text that repeats becomes a categorical, as in ``write_h5ad``."""
    import anndata

    frame = pd.DataFrame({"values": pd.Series(values).reset_index(drop=True)})
    anndata.AnnData().strings_to_categoricals(frame)
    column = frame["values"]
    return column.to_numpy() if isinstance(column.dtype, np.dtype) else column.array


def _left(element: Any, slot: str, name: str, named: Collection[str] | None) -> Any:
    """An entry of a mapping of matrices: read where it is small or asked for, else left on disk."""
    from anndata.io import read_elem

    about = element.attrs.get("encoding-type")
    asked = named is None or name in named or name.startswith("spatial")
    wanted = slot != "layers" and (asked or stored_bytes(element) <= _SMALL)
    return read_elem(element) if wanted or about not in LEFT else on_disk(element)


def stored_bytes(element: Any) -> int:
    """Bytes of an array or of the arrays of a sparse matrix, uncompressed."""
    parts = [element] if hasattr(element, "dtype") else [element[name] for name in element]
    return sum(int(np.prod(part.shape)) * part.dtype.itemsize for part in parts if hasattr(part, "dtype"))


def _consolidated(path: Path) -> bool:
    import json

    if (path / ".zmetadata").is_file():
        return True
    about = path / "zarr.json"
    return about.is_file() and json.loads(about.read_text(encoding="utf-8")).get("consolidated_metadata") is not None
