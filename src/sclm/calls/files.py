"""AnnData, SpatialData and MuData from files and to files: written beside, then renamed, so that no file is ever half there."""

from __future__ import annotations

import difflib
import os
import shutil
import uuid
import warnings
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sclm.cells.containers import is_mudata, is_spatialdata

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

SUFFIXES = (".h5ad", ".zarr", ".h5mu")
_ENDINGS = {"AnnData": (".h5ad", ".zarr"), "MuData": (".h5mu", ".zarr"), "SpatialData": (".zarr",)}


def read(path: str | Path) -> Any:
    """What a file holds.

    Parameters
    ----------
    path
        ``.h5ad``, ``.h5mu`` or ``.zarr`` (an AnnData, a SpatialData or a MuData: the store says which).

    Returns
    -------
    AnnData, SpatialData or MuData.

    Raises
    ------
    FileNotFoundError
        If nothing is there; names files with like names.
    ValueError
        If the name has another ending, or the file is broken or holds something else.
    ModuleNotFoundError
        If a package that reads it is not installed.
    """
    path = existing(path)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings(
                "ignore", message=".*names are not unique"
            )  # `check` says so, and tools need no unique names
            return _reader(path)()
    except (OSError, KeyError, AttributeError, TypeError, ValueError) as error:
        if isinstance(error, PermissionError):
            raise
        raise ValueError(f"{path} cannot be read as {path.suffix}: {error}. Is the file whole?") from error


def existing(path: str | Path) -> Path:
    """The path, checked: something is there, with an ending that can be read."""
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise ValueError(
            f"a file of cells must end in {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}, found {path.name!r}."
        )
    if not path.exists():
        folder = path.absolute().parent
        others = [p.name for p in folder.iterdir()] if folder.is_dir() else []
        near = difflib.get_close_matches(path.name, others, n=3, cutoff=0.6)
        hint = f" Near names: {', '.join(near)}." if near else ""
        raise FileNotFoundError(f"{path} is not there.{hint}")
    return path


def destination(path: str | Path, *, inputs: Iterable[Path] = (), overwrite: bool = False) -> Path:
    """The path to write to, checked before any work.

    Parameters
    ----------
    path
        ``.h5ad``, ``.zarr`` or ``.h5mu``.
    inputs
        Files that are read: none of them is ever replaced.
    overwrite
        Whether something that is there may be replaced, once the new file is whole.

    Raises
    ------
    FileExistsError
        If something is there and may not be replaced.
    FileNotFoundError
        If the folder does not exist.
    ValueError
        If it is an input, or has another ending.
    PermissionError
        If the folder cannot be written to.
    """
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise ValueError(f"the output must end in {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}, found {path.name!r}.")
    return free(path, inputs=inputs, overwrite=overwrite)


def free(path: Path, *, inputs: Iterable[Path] = (), overwrite: bool = False) -> Path:
    """The same for any file or folder."""
    folder = path.absolute().parent
    if not folder.is_dir():
        raise FileNotFoundError(f"the folder {folder} does not exist. Make it first.")
    for source in inputs:
        if path.absolute() == source.absolute() or (path.exists() and path.samefile(source)):
            raise ValueError(f"{path} is read: the input is never changed. Write to another file.")
        if source.resolve() in path.resolve().parents:
            raise ValueError(f"{path} lies in {source}, which is read: the input is never changed. Write beside it.")
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} is there already. Choose another name, or allow it to be replaced (overwrite).")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(f"the folder {folder} cannot be written to.")
    return path


def write(data: Any, path: Path) -> None:
    """Write beside the path, then rename: the path holds the whole result, or what it held before."""
    kind = "SpatialData" if is_spatialdata(data) else "MuData" if is_mudata(data) else "AnnData"
    check_kind(kind, path)
    with beside(path) as part:
        if kind == "SpatialData":
            data.write(part)
        elif path.suffix == ".zarr":
            data.write_zarr(part)
        elif kind == "MuData":
            data.write_h5mu(part)
        else:
            data.write_h5ad(part)


def check_kind(kind: str, path: Path) -> None:
    """Refuse a name whose ending does not fit what is to be written: `kind` is that of :func:`stored_kind`."""
    endings = _ENDINGS[kind]
    if path.suffix not in endings:
        article = "an" if kind == "AnnData" else "a"
        raise ValueError(f"{article} {kind} is written as {' or '.join(endings)}, found {path.name!r}.")


@contextmanager
def beside(path: Path) -> Iterator[Path]:
    """A name in the same folder to write to; renamed to the path when the block ends well, removed when it does not."""
    part = path.with_name(f".{path.stem}.{uuid.uuid4().hex}.part{path.suffix}")
    try:
        yield part
        replace(part, path)
    finally:
        _remove(part)


def replace(part: Path, path: Path) -> None:
    """Put a file or folder in the place of another one."""
    if path.is_dir() and not path.is_symlink():  # a folder cannot be renamed over another one
        old = path.with_name(f".{path.stem}.{uuid.uuid4().hex}.old{path.suffix}")
        path.rename(old)
        try:
            part.rename(path)
        except BaseException:
            old.rename(path)
            raise
        _remove(old)
    else:
        part.replace(path)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(FileNotFoundError):
            path.unlink()


def _reader(path: Path) -> Any:
    import anndata

    if path.suffix == ".h5mu":
        return lambda: _optional("mudata").read_h5mu(path)
    if path.suffix == ".h5ad":
        return lambda: anndata.read_h5ad(path)
    kind = stored_kind(path)
    if kind == "MuData":
        return lambda: _optional("mudata").read_zarr(path)
    if kind == "SpatialData":
        return lambda: _optional("spatialdata").read_zarr(path)
    return lambda: anndata.read_zarr(path)


def stored_kind(path: Path) -> str:
    """``"AnnData"``, ``"MuData"`` or ``"SpatialData"``, by the ending of a file or the attributes of a zarr store."""
    if path.suffix != ".zarr":
        return "MuData" if path.suffix == ".h5mu" else "AnnData"
    import zarr

    try:
        attributes = dict(zarr.open_group(str(path), mode="r").attrs)
    except (OSError, KeyError, ValueError) as error:
        raise ValueError(f"{path} is no zarr group: {error}.") from error
    if str(attributes.get("encoding-type", "")).lower() == "mudata":
        return "MuData"
    return "SpatialData" if "spatialdata_attrs" in attributes else "AnnData"


def _optional(name: str) -> Any:
    from importlib import import_module

    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"this file needs the package {name}, which is missing: pip install {name}"
        ) from error
