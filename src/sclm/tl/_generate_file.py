"""Generated cells to disk while they are made: parts that an interrupted call goes on from, then one file."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from sclm import results

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import anndata
    import scipy.sparse as sp

logger = logging.getLogger(__name__)

PART_CELLS = 4096  # about 100 MB of whole transcriptomes
_SUFFIXES = (".h5ad", ".zarr")
_MANIFEST = "request.json"
_PART = re.compile(r"part-(\d+)-(\d+)\.h5ad")


def destination(path: str | Path) -> Path:
    """The file to write, checked: nothing is there, its folder is, and its name says the format."""
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"path must be the name of a file, found {type(path).__name__}.")
    path = Path(path)
    if path.suffix not in _SUFFIXES:
        raise ValueError(f"path must end in .h5ad or .zarr, found {path.name!r}.")
    if path.exists():
        raise FileExistsError(f"{path} is already there. Choose another path, or remove it first.")
    if not path.absolute().parent.is_dir():
        raise FileNotFoundError(f"the folder {path.absolute().parent} of path does not exist. Make it first.")
    return path


class Parts:
    """Finished parts of a file, in the folder ``<path>.parts``; made by :meth:`open`.

    Each part is an h5ad file that appears under its name only when it is whole. Where parts begin and end does not
    matter to the result, since a cell does not depend on its neighbours.
    """

    def __init__(self, target: Path, call: dict[str, Any], n_cells: int) -> None:
        self.target, self.call, self.n_cells = target, call, n_cells
        self._waiting: list[tuple[sp.csr_matrix, pd.DataFrame, dict[str, np.ndarray]]] = []
        self._genes = pd.Index([])

    @property
    def folder(self) -> Path:
        """Where the parts are."""
        return self.target.with_name(self.target.name + ".parts")

    @classmethod
    def open(cls, target: Path, request: pd.DataFrame, call: Mapping[str, Any]) -> Parts:
        """Parts of this call: those that are there, or none yet. Nothing is written.

        Raises
        ------
        FileExistsError
            If the parts are those of another call.
        """
        parts = cls(target, {"n_cells": len(request), "request": _digest(request), **call}, 0)
        if not parts.folder.exists():
            return parts
        manifest = parts.folder / _MANIFEST
        if not manifest.is_file():
            if any(parts.folder.iterdir()):
                raise FileExistsError(
                    f"{parts.folder} holds something else than parts of {target.name}. Remove it first."
                )
            return parts
        there = json.loads(manifest.read_text(encoding="utf-8"))
        other = [name for name in parts.call if there.get(name) != parts.call[name]]
        if other:
            raise FileExistsError(
                f"{parts.folder} holds parts of another call: it had another {', '.join(other)}. Make the same call to "
                "finish it, choose another path, or remove the folder."
            )
        for _, begin, end in parts._found():
            if begin == parts.n_cells:  # a gap ends what can be used; what comes after is written again
                parts.n_cells = end
        if parts.n_cells:
            logger.info("%s: going on after %s cells", target.name, f"{parts.n_cells:,}")
        return parts

    def add(self, counts: sp.csr_matrix, obs: pd.DataFrame, obsm: dict[str, np.ndarray], genes: pd.Index) -> None:
        """Take the next cells; they are on disk once a part is full."""
        self._waiting.append((counts, obs, obsm))
        self._genes = pd.Index(np.asarray(genes, dtype=object))
        if sum(len(block[1]) for block in self._waiting) >= PART_CELLS:
            self.flush()

    def flush(self) -> None:
        """Write the cells that wait as a part."""
        import anndata
        import scipy.sparse as sp

        if not self._waiting:
            return
        if not (self.folder / _MANIFEST).exists():
            self.folder.mkdir(exist_ok=True)
            _replace(self.folder / _MANIFEST, lambda path: path.write_text(json.dumps(self.call), encoding="utf-8"))
        counts = sp.vstack([block[0] for block in self._waiting], format="csr")
        obs = pd.concat([block[1] for block in self._waiting])
        obsm = {name: np.concatenate([block[2][name] for block in self._waiting]) for name in self._waiting[0][2]}
        part = anndata.AnnData(counts, obs=obs, var=pd.DataFrame(index=self._genes), obsm=obsm)
        end = self.n_cells + len(obs)
        _replace(self.folder / f"part-{self.n_cells:012d}-{end:012d}.h5ad", part.write_h5ad)
        self.n_cells, self._waiting = end, []

    def obs(self) -> pd.DataFrame:
        """Columns of all cells, from the parts."""
        import h5py
        from anndata.io import read_elem

        tables = []
        for path in self._used():
            with h5py.File(path) as file:
                tables.append(read_elem(file["obs"]))
        return pd.concat(tables)

    def finish(self, shell: anndata.AnnData) -> anndata.AnnData:
        """Put the parts into one file and remove them.

        Parameters
        ----------
        shell
            The result without ``.X`` and ``.obsm``.

        Returns
        -------
        The file, opened for reading.
        """
        whole = self.folder / f"whole{self.target.suffix}"
        _remove(whole)
        with empty_store(whole) as store:
            self._merge(shell, store)
        whole.replace(self.target)
        shutil.rmtree(self.folder)
        logger.info("generate wrote %s", self.target)
        return _opened(self.target)

    def _merge(self, shell: anndata.AnnData, store: Any) -> None:
        import anndata
        from anndata.io import sparse_dataset, write_elem

        write_elem(store, "/", shell)
        for i, path in enumerate(self._used()):
            part = anndata.read_h5ad(path)
            if i == 0:
                # millions of cells have more than 2³¹ stored counts
                write_elem(store, "X", part.X, dataset_kwargs={"indptr_dtype": np.int64})
            else:
                sparse_dataset(store["X"]).append(part.X)
            for name, values in part.obsm.items():
                results.extend(store["obsm"], name, values, first=i == 0)

    def _found(self) -> list[tuple[Path, int, int]]:
        found = [(path, _PART.fullmatch(path.name)) for path in self.folder.iterdir()]
        return sorted(((path, int(m[1]), int(m[2])) for path, m in found if m), key=lambda part: (part[1], -part[2]))

    def _used(self) -> Iterator[Path]:
        """Parts that follow each other from the first cell to the last written one."""
        end = 0
        for path, begin, stop in self._found():
            if begin == end:
                end = stop
                yield path


def _digest(request: pd.DataFrame) -> str:
    """Of columns, values and index."""
    digest = hashlib.sha256(json.dumps([str(name) for name in request.columns]).encode())
    for values in (request.index, *(request[name] for name in request.columns)):
        digest.update(pd.util.hash_array(np.asarray(values)).tobytes())
    return digest.hexdigest()


def _replace(path: Path, write: Any) -> None:
    """Write a file so that it has its name only when it is whole."""
    temporary = path.with_name(f"unfinished-{path.name}")
    write(temporary)
    temporary.replace(path)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def empty_store(path: Path) -> Any:
    """An empty h5 file or zarr group, closed by a ``with`` block."""
    if path.suffix == ".h5ad":
        import h5py

        return h5py.File(path, "w")
    import warnings
    from contextlib import nullcontext

    import anndata
    import zarr

    with warnings.catch_warnings():  # anndata 0.13 says that 0.14 will have format 3 only
        warnings.simplefilter("ignore", DeprecationWarning)
        version: Any = getattr(anndata.settings, "zarr_write_format", 3)
    return nullcontext(zarr.open_group(str(path), mode="w", zarr_format=version))


def _opened(path: Path) -> anndata.AnnData:
    import anndata
    from anndata.io import read_elem, sparse_dataset

    if path.suffix == ".h5ad":
        return anndata.read_h5ad(path, backed="r")
    import zarr

    group = zarr.open_group(str(path), mode="r")
    rest = {name: read_elem(group[name]) for name in ("obs", "var", "obsm", "uns")}
    return anndata.AnnData(sparse_dataset(group["X"]), **rest)
