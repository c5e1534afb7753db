"""An AnnData from h5ad to zarr or back, in bounded memory: tables at once, large matrices block by block."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from sclm import results
from sclm.calls import streaming

if TYPE_CHECKING:
    from pathlib import Path

_BLOCK = 64 << 20  # bytes that are read at a time
_MOST = np.iinfo(np.int32).max  # stored values whose places fit 32 bits


def converted(source: Path, target: Path) -> None:
    """Write what a file holds in the other format.

    Parameters
    ----------
    source
        ``.h5ad`` or ``.zarr`` for which :func:`sclm.calls.streaming.streams` is true.
    target
        The other; nothing is there.
    """
    import anndata
    from anndata.io import read_elem, write_elem

    from sclm.tl._generate_file import empty_store

    with streaming.group(source) as old, empty_store(target) as new:
        shell = anndata.AnnData(**{name: read_elem(old[name]) for name in ("obs", "var", "uns") if name in old})
        write_elem(new, "/", shell)
        for slot in streaming.MATRICES:
            for name in old.get(slot, ()):
                _copy(old[slot][name], new[slot], name)
        if "raw" in old and hasattr(old["raw"], "keys"):
            if "raw" in new:  # a mark that there is none
                del new["raw"]
            new.create_group("raw").attrs.update({"encoding-type": "raw", "encoding-version": "0.1.0"})
            for name in old["raw"]:
                _copy(old["raw"][name], new["raw"], name)
        if "X" in old:
            if "X" in new:
                del new["X"]
            _copy(old["X"], new, "X")
    if target.suffix == ".zarr":
        streaming.consolidate(target)


def _copy(element: Any, group: Any, name: str) -> None:
    """Write one element as it is: in blocks where it is a large matrix."""
    from anndata.io import read_elem, sparse_dataset, write_elem

    size = streaming.stored_bytes(element)
    about = element.attrs.get("encoding-type")
    if size <= _BLOCK or about not in streaming.LEFT:
        write_elem(group, name, read_elem(element))
        return
    sparse = about != "array"
    stored = sparse_dataset(element) if sparse else element
    by_columns = about == "csc_matrix"
    n = stored.shape[int(by_columns)]
    step = max(1, int(n * _BLOCK / size))
    for first in range(0, n, step):
        part = slice(first, min(first + step, n))
        block = stored[:, part] if by_columns else stored[part]
        if not sparse:
            results.extend(group, name, np.asarray(block), first=first == 0)
        elif first == 0:
            wide = {"indptr_dtype": np.int64} if element["data"].shape[0] > _MOST else {}
            write_elem(group, name, block, dataset_kwargs=wide)
        else:
            sparse_dataset(group[name]).append(block)
