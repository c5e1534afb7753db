"""Rows of the tables of mapping.py: ours and peers under one call, timed after imports and compilation, peers' answers kept."""

from __future__ import annotations

import importlib
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
from generation_data import Clock, labels
from mapping_peers import COMPILED, MODULES, OF_CELLS, PEERS, quiet

if TYPE_CHECKING:
    from mapping_sets import MappingSet

KEY_ADDED = "mapped"
OURS = "sclm"


def one_thread() -> None:
    """Of BLAS, torch and numba in this process."""
    import numba
    import threadpoolctl
    import torch

    threadpoolctl.threadpool_limits(1)
    torch.set_num_threads(1)
    numba.set_num_threads(1)


class Answer(NamedTuple):
    """Shares of each type in the mRNA of each spot, and what they took."""

    fraction: np.ndarray  # (spots, types), columns as in the truth
    cpu: float  # seconds of processor
    wall: float


def options_of(row: str) -> dict[str, Any]:
    """Arguments of map_spatial in "sclm:smooth=0.05,method=nnls"."""
    out: dict[str, Any] = {}
    for part in filter(None, row.partition(":")[2].split(",")):
        name, _, value = part.partition("=")
        try:
            out[name] = int(value) if value.lstrip("-").isdigit() else float(value)
        except ValueError:
            out[name] = {"none": None, "true": True, "false": False}.get(value.lower(), value)
    return out


def mapped(given: MappingSet, **options: Any):
    """The section with what map_spatial wrote."""
    import sclm

    options = {"resolution": given.resolution, "key_added": KEY_ADDED, **options}
    return sclm.tl.map_spatial(given.section, given.reference, label_key=given.label_key, copy=True, **options)


def fraction_of(section, types: pd.Index) -> np.ndarray:
    """Shares (spots, types) that map_spatial wrote, in the order of `types`."""
    found = pd.DataFrame(section.obsm[KEY_ADDED], columns=list(section.uns[KEY_ADDED]["categories"]))
    values = found.reindex(columns=types).to_numpy(dtype=float)
    return np.where(np.isnan(values).all(axis=1, keepdims=True), 1.0 / values.shape[1], values)


def few(given: MappingSet, n: int = 40) -> MappingSet:
    """The same with few spots: what compiles a method."""
    return given._replace(section=given.section[:n].copy(), truth=given.truth.iloc[:n])


def fingerprint(given: MappingSet) -> int:
    """Of the counts and labels, so that no answer is read for other data."""
    section, reference = given.section.X.tocsr(), given.reference.X.tocsr()
    value = 0
    for array in (section.data, section.indices, section.indptr, reference.data, reference.indices, reference.indptr):
        value = zlib.crc32(np.ascontiguousarray(array).astype(np.int64).tobytes(), value)
    return zlib.crc32("\n".join([*labels(given.reference, given.label_key), *given.truth.columns]).encode(), value)


class Rows:
    """Answers of rows; those of peers come from `cache` where they are kept for the same data."""

    def __init__(self, cache: Path | None = None) -> None:
        self.cache = None if cache is None else Path(cache)
        self._compiled: set[str] = set()

    def applies(self, row: str, given: MappingSet) -> bool:
        """Whether a row is meant for sections of this resolution."""
        return row not in OF_CELLS or given.resolution == "cell"

    def answer(self, row: str, given: MappingSet, seed: int) -> Answer | None:
        """Of a row, or None where its package is not installed."""
        if row.partition(":")[0] == OURS:
            return self._ours(row, given)
        kept, mark = self._file(row, given, seed), fingerprint(given)
        if kept is not None and kept.exists():
            with np.load(kept) as stored:
                if int(stored["fingerprint"]) == mark and list(stored["types"]) == list(given.truth.columns):
                    return Answer(stored["fraction"], float(stored["cpu"]), float(stored["wall"]))
        found = self._peer(row, given)
        if found is not None and kept is not None:
            kept.parent.mkdir(parents=True, exist_ok=True)
            np.savez_compressed(
                kept, fraction=found.fraction, cpu=found.cpu, wall=found.wall, fingerprint=mark,
                types=np.array(list(given.truth.columns)),
            )  # fmt: skip
        return found

    def _file(self, row: str, given: MappingSet, seed: int) -> Path | None:
        return None if self.cache is None else self.cache / f"{given.name}-{seed}-{row.replace(' ', '_')}.npz"

    def _peer(self, row: str, given: MappingSet) -> Answer | None:
        try:
            with quiet():
                importlib.import_module(MODULES.get(row, "numpy"))
        except ModuleNotFoundError:
            return None
        if row in COMPILED and row not in self._compiled:
            PEERS[row](few(given))
            self._compiled.add(row)
        clock = Clock.start()
        found = PEERS[row](given)
        took = clock.stop()
        return Answer(found.to_numpy(dtype=float), took.cpu, took.wall)

    def _ours(self, row: str, given: MappingSet) -> Answer:
        options = options_of(row)
        kind = f"{options.get('method', 'deconvolution')} {given.resolution}"
        if kind not in self._compiled:
            mapped(few(given), **options)
            self._compiled.add(kind)
        clock = Clock.start()
        section = mapped(given, **options)
        took = clock.stop()
        return Answer(fraction_of(section, given.truth.columns), took.cpu, took.wall)
