"""A tool on a large file, shard by shard: what is known of each shard lies in ``<out>.parts`` until all are there.

``<out>.parts`` holds ``call.json`` (what was asked of which input), ``model.json`` (which model answers, and where shards end), ``model`` (where
it was trained by this call) and one ``cells-<first>-<stop>.h5`` for each finished shard. Each appears under its name when it is whole, so any
number of processes may write and be killed: a shard is there or it is not, and doing one twice gives the same file.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import logging
import os
import re
import shutil
import uuid
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from sclm.calls.files import beside

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import anndata

    from sclm.tl._stages import Part, Stages

logger = logging.getLogger(__name__)

SHARD_CELLS = 50_000  # cells of a shard, about: whole blocks, so that blocks are those of a call in memory
_CALL, _MODEL, _TRAINED, _LABELS = "call.json", "model.json", "model", "labels.h5"


class Share(NamedTuple):
    """Shards that one of several processes does: every `of`-th one from the `number`-th on, counted from 1."""

    number: int
    of: int


def share(text: str | None) -> Share | None:
    """``"2/8"`` as a share, or None.

    Raises
    ------
    ValueError
        If it is no such text.
    """
    if text is None:
        return None
    found = re.fullmatch(r"([1-9]\d*)/([1-9]\d*)", str(text).strip())
    if found is None or int(found[1]) > int(found[2]):
        raise ValueError(
            f"shard must be written i/n with i from 1 to n, such as 1/8 … 8/8 for eight processes, found {text!r}."
        )
    return Share(int(found[1]), int(found[2]))


def why_not(tool: str, adata: anndata.AnnData, given: Mapping[str, Any]) -> str | None:
    """What keeps this call from being done shard by shard, or None."""
    from sclm.tl import _stages

    stages = _stages.stages(tool)
    if stages is None:
        able = ", ".join(sorted(_stages.SHARDED))
        return f"{tool} needs all cells at once (by shards: {able})"
    bound = bound_arguments(tool, given)
    argument = stages.needs_all(bound)
    if argument is not None:
        return f"{tool} with {argument}={bound[argument]!r} needs all cells at once"
    layer = given.get("layer")
    matrix = adata.X if layer is None else adata.layers.get(layer)
    if getattr(matrix, "format", None) == "csc":
        return "the counts lie by genes (CSC), so that every shard would read the whole file: store them by cells (CSR)"
    return None


def bound_arguments(tool: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """All arguments of a tool but `adata` and `copy`, by default where they are not given."""
    from sclm import tl

    parameters = inspect.signature(getattr(tl, tool)).parameters.values()
    return {p.name: given.get(p.name, p.default) for p in parameters if p.name not in ("adata", "copy")}


class Shards:
    """Shards of one call, finished and to do.

    Parameters
    ----------
    target
        The output; the folder is named after it.
    call
        What tells the call from others, as JSON: see :func:`fingerprint`.

    Raises
    ------
    FileExistsError
        If the folder holds shards of another call, or something else.
    """

    def __init__(self, target: Path, call: Mapping[str, Any]) -> None:
        self.target, self.folder = target, target.with_name(target.name + ".parts")
        self._call = dict(call)
        if (self.folder / _CALL).is_file():
            self._compare(_CALL, self._call)
        elif _holds_something(self.folder):
            raise FileExistsError(
                f"{self.folder} holds something else than shards of {target.name}. Remove it first, or choose another output."
            )
        self.n_cells = self.cells = 0

    def _claim(self, name: str, facts: Mapping[str, Any]) -> None:
        """Write facts, or compare them with those that are there."""
        path = self.folder / name
        if not path.is_file():
            with appearing(path) as part:
                part.write_text(json.dumps(facts, indent=1), encoding="utf-8")
        self._compare(name, facts)

    def _compare(self, name: str, facts: Mapping[str, Any]) -> None:
        """Refuse shards of other facts."""
        there, facts = json.loads((self.folder / name).read_text(encoding="utf-8")), json.loads(json.dumps(facts))
        if other := list(_differences(there, facts)):
            raise FileExistsError(
                f"{self.folder} holds shards of another call: {'; '.join(other)}. Make the same call to finish it, choose another "
                "output, or remove the folder."
            )

    def prepare(
        self,
        stages: Any,
        adata: anndata.AnnData,
        arguments: Mapping[str, Any],
        reference: Any,
        late: Callable[[], bool] = lambda: False,
    ) -> Stages | None:
        """The call, prepared; a model that it trains is trained once and lies in the folder from then on.

        Parameters
        ----------
        stages
            Of :func:`sclm.tl._stages.stages`.
        adata
            The cells.
        arguments
            All arguments of the tool; a reference as its path.
        reference
            Reads the reference, called where the model is still to be trained.
        late
            Whether others have written the output by now: asked before the folder is made, and then None is returned.
        """
        trains = arguments.get("reference") is not None
        trained = self._trained() if trains else None
        if trains and trained is None:
            arguments = {**arguments, "reference": reference()}
        work: Stages = stages(adata, trained=trained, **arguments)
        if late():
            return None
        self.folder.mkdir(exist_ok=True)  # not before: a call that is refused leaves nothing
        self._claim(_CALL, self._call)
        if trains and trained is None:
            work.model = self._keep(work.model)
        provenance = work.model.provenance() if hasattr(work.model, "provenance") else {}
        block = arguments.get("batch_size") or work.source.block_size
        cells = max(block, SHARD_CELLS // block * block)
        self._claim(_MODEL, {"model": provenance.get("sha256"), "cells of a shard": cells})
        self.n_cells, self.cells = work.source.n_cells, cells
        return work

    def _trained(self) -> Any:
        """The model that this call trained before, as if it had been trained now."""
        from sclm import models

        folder = self.folder / _TRAINED
        if not folder.is_dir():
            return None
        model: Any = models.load(folder)
        model.path = None
        if (folder / _LABELS).is_file():
            model.reference_labels = read(folder / _LABELS)["labels"]
        return model

    def _keep(self, model: Any) -> Any:
        """Save a trained model; where another process was faster, its model is taken."""
        with _own(self.folder / _TRAINED) as part:
            model.save(part)
            model.path = None
            if getattr(model, "reference_labels", None) is not None:
                write(part / _LABELS, {"labels": model.reference_labels})
            try:
                part.rename(self.folder / _TRAINED)
            except OSError:
                if not (self.folder / _TRAINED).is_dir():
                    raise
        return self._trained()

    # ------------------------------------------------------------------ shards

    @property
    def bounds(self) -> list[tuple[int, int]]:
        """First row and the row after the last one of every shard."""
        return [(first, min(first + self.cells, self.n_cells)) for first in range(0, self.n_cells, self.cells)]

    def path(self, first: int, stop: int) -> Path:
        """Where what is known of a shard lies."""
        return self.folder / f"cells-{first:012d}-{stop:012d}.h5"

    def missing(self) -> list[tuple[int, int]]:
        """Shards that are still to do."""
        return [bounds for bounds in self.bounds if not self.path(*bounds).is_file()]

    def work_off(self, work: Stages, mine: Share | None) -> None:
        """Do what is missing of all shards, or of a share of them."""
        todo = set(self.missing())
        own = [b for k, b in enumerate(self.bounds) if mine is None or k % mine.of == mine.number - 1]
        done = len([bounds for bounds in own if bounds not in todo])
        if done:
            logger.info("%s: going on after %d of %d shards", self.target.name, done, len(own))
        for first, stop in own:
            if (first, stop) in todo:
                part = work.part(np.arange(first, stop))
                facts = dict(part.facts)
                write(self.path(first, stop), {"columns": part.columns, "matrices": part.matrices, "facts": facts})

    def parts(self) -> Sequence[Part]:
        """What is known of all shards, in the order of the cells; matrices are read when they are asked for."""
        from sclm.tl._stages import Part

        found = []
        for bounds in self.bounds:
            path = self.path(*bounds)
            stored = read(path, ("columns", "facts"))
            found.append(Part(stored["columns"], Matrices(path), stored["facts"]))
        return found

    def remove(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)


class Matrices(dict[str, Any]):
    """Matrices of a finished shard, read from its file each time."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __getitem__(self, name: str) -> Any:
        return read(self._path, (f"matrices/{name}",))[f"matrices/{name}"]

    def __contains__(self, name: object) -> bool:
        import h5py

        with h5py.File(self._path) as file:
            return name in file["matrices"]


def fingerprint(
    tool: str, source: Path, adata: anndata.AnnData, given: Mapping[str, Any], others: Sequence[Path]
) -> dict[str, Any]:
    """What tells a call from others, as JSON.

    Parameters
    ----------
    tool, given
        The tool and its arguments.
    source, adata
        The input.
    others
        Further files that the arguments name.
    """
    from sclm import __version__

    names = hashlib.sha256()
    for index in (adata.obs_names, adata.var_names):
        names.update(pd.util.hash_array(np.asarray(index, dtype=object), categorize=False).tobytes())
    return {
        "format": 1,
        "sclm": __version__,
        "tool": tool,
        "arguments": dict(given),
        "input": {"cells": adata.n_obs, "genes": adata.n_vars, "names": names.hexdigest(), **_state(source)},
        "files": {str(path): _state(path) for path in others},
    }


def digest(call: Mapping[str, Any]) -> str:
    """A short name for a call, from its :func:`fingerprint` and the state of the model that it names by path."""
    model = call["arguments"].get("model")
    state = _state(Path(model)) if isinstance(model, str) and Path(model).exists() else None
    return hashlib.sha256(json.dumps([call, state], sort_keys=True).encode()).hexdigest()


def write(path: Path, values: Mapping[str, Any]) -> None:
    """Nested values into an h5 file that appears when it is whole; text is kept as categories."""
    import h5py
    from anndata.io import write_elem

    from sclm.results import storable

    with appearing(path) as part, h5py.File(part, "w") as file:
        for name, value in values.items():
            if name == "columns":
                value = {n: pd.Categorical(v) if np.asarray(v).dtype == object else v for n, v in value.items()}
            else:
                value = storable(value, name)
            write_elem(file, name, value)


def read(path: Path, names: Sequence[str] = ()) -> dict[str, Any]:
    """Values of :func:`write`, all or those of some names."""
    import h5py
    from anndata.io import read_elem

    with h5py.File(path) as file:
        found = {name: read_elem(file[name]) for name in names or list(file)}
    for name, value in found.get("columns", {}).items():
        if isinstance(value, pd.Categorical):  # one object a category, not one a cell
            found["columns"][name] = np.asarray(value.categories, dtype=object)[value.codes]
    return found


@contextmanager
def appearing(path: Path) -> Iterator[Path]:
    """A name to write a file under that becomes `path` when the block ends well: after a crash too, all of it or nothing."""
    with beside(path) as part:
        yield part
        with part.open("rb+") as file:
            os.fsync(file.fileno())


@contextmanager
def _own(path: Path) -> Iterator[Path]:
    """A name beside a path that no other process or thread has; what is left of it is removed."""
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        yield part
    finally:
        if part.is_dir():
            shutil.rmtree(part, ignore_errors=True)
        else:
            part.unlink(missing_ok=True)


def _holds_something(folder: Path) -> bool:
    """Whether files lie in a folder, other than those that a process is writing or was writing when it ended."""
    return folder.is_dir() and any(not path.name.startswith(".") for path in folder.iterdir())


def _state(path: Path) -> dict[str, int]:
    """Bytes and time of the last change of a file, or of the files of a folder."""
    files = [path] if path.is_file() else [entry for entry in path.rglob("*") if entry.is_file()]
    states = [file.stat() for file in files]
    return {"bytes": sum(s.st_size for s in states), "changed": max((s.st_mtime_ns for s in states), default=0)}


def _differences(there: Any, now: Any, name: str = "") -> Iterator[str]:
    """What differs between two values, in words."""
    if isinstance(there, dict) and isinstance(now, dict):
        for key in sorted(there.keys() | now.keys()):
            yield from _differences(there.get(key), now.get(key), f"{name}, {key}" if name else key)
    elif there != now:
        yield f"{name} was {there!r:.80} and is {now!r:.80}"
