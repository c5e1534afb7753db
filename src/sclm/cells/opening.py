"""Files of cells, opened with their counts left on disk."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from anndata import AnnData

SPARSE = ("csr_matrix", "csc_matrix")  # encodings
_DATASET = re.compile(r"dataset_\d+")  # of an annbatch collection


def is_stored(data: Any) -> bool:
    """Whether this names cells that :func:`open_cells` opens: a path or an annbatch collection, and no object with cells in it.

    Parameters
    ----------
    data
        Anything.

    Returns
    -------
    True or False; nothing is looked up on disk.
    """
    return isinstance(data, str | Path) or (hasattr(data, "add_adatas") and hasattr(data, "__iter__"))


def open_cells(stored: Any) -> list[AnnData]:
    """AnnData of a file, a zarr store or a collection, to be read block by block: counts stay on disk, tables are read.

    Parameters
    ----------
    stored
        Path of an ``.h5ad``, of a ``.zarr`` store with an AnnData or of an annbatch collection, or an
        ``annbatch.DatasetCollection``. Collections are read without annbatch.

    Returns
    -------
    One AnnData, or one for each part of a collection, in order.

    Raises
    ------
    FileNotFoundError
        If nothing is there.
    ValueError
        If it is no AnnData and no collection.
    """
    if not isinstance(stored, str | Path):
        found = [_lazy(group) for group in stored]
        if not found:
            raise ValueError("expected a collection with cells, found one without a part. Call add_adatas first.")
        return found
    path = Path(stored)
    if not path.exists():
        raise FileNotFoundError(f"{path} is not there.")
    try:
        if path.suffix == ".h5ad":
            return [_file(path)]
        if path.suffix != ".zarr":
            raise ValueError("expected the ending .h5ad or .zarr")
        import zarr

        root = zarr.open_group(str(path), mode="r")
        parts = sorted((name for name in root if _DATASET.fullmatch(name)), key=lambda name: int(name.split("_")[1]))
        if "obs" not in root and parts:
            return [_lazy(root[name]) for name in parts]
        return [_lazy(root)]
    except (OSError, KeyError, AttributeError, TypeError, ValueError) as error:
        if isinstance(error, PermissionError):
            raise
        raise ValueError(
            f"{path} cannot be opened as cells: {error}. It should hold an AnnData; of a SpatialData or MuData pass the table."
        ) from error


def _file(path: Path) -> AnnData:
    import anndata
    import h5py

    file = h5py.File(path, "r")  # open as long as a matrix of it is in use
    if all("encoding-type" in file[name].attrs for name in ("X", "obs", "var") if name in file):
        return _lazy(file)
    file.close()
    with warnings.catch_warnings():  # of the time before anndata 0.7: layers are read there
        warnings.filterwarnings("ignore", message=".*names are not unique")
        return anndata.read_h5ad(path, backed="r")


def _lazy(group: Any) -> AnnData:
    """An AnnData whose ``.X`` and layers are read when they are indexed."""
    import anndata
    from anndata.io import read_elem

    layers = group.get("layers", {})
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*names are not unique")
        return anndata.AnnData(
            on_disk(group["X"]) if "X" in group else None,
            obs=read_elem(group["obs"]),
            var=read_elem(group["var"]),
            layers={name: on_disk(layers[name]) for name in layers},
        )


def on_disk(element: Any) -> Any:
    """A matrix of a store that is read when it is indexed; what cannot be is read."""
    from anndata.io import read_elem, sparse_dataset

    about = element.attrs.get("encoding-type")
    if about in SPARSE:
        return sparse_dataset(element)
    return element if about == "array" else read_elem(element)
