"""One method on one part of the cells: trained, asked, timed; its answers kept, so that nothing finished is done again."""

from __future__ import annotations

import json
import os
import threading
import time
import zipfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from sclm import get, models, tl
from sclm.benchmark.contenders import COLUMN, TRAINED
from sclm.calls.files import beside
from sclm.evidence.backoff import UNKNOWN

if TYPE_CHECKING:
    from collections.abc import Iterator

    import anndata

    from sclm.benchmark.contenders import Contender

LABEL, BATCH = "sclm_benchmark_label", "sclm_benchmark_batch"  # columns of the cells that are handed to a training
_KEY = "sclm_benchmark"
_EVERY = 0.01  # seconds between looks at the memory


class Answers(NamedTuple):
    """What a method says of some cells, and what that cost."""

    rows: np.ndarray  # (m,) int64 rows of the cells
    answer: np.ndarray  # (m,) ids, or labels where there is none
    confidence: np.ndarray  # (m,) float64, NaN where the method says nothing
    n_train: int
    train_seconds: float  # NaN where nothing is trained
    seconds: float
    memory: float  # MiB that the process grew by at its highest; NaN where the system does not say


class Store:
    """Answers under a folder, a file each, or in memory."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self._held: dict[str, Answers] = {}

    def get(self, key: str | None, job: str) -> Answers | None:
        """What was finished before; None where it was not, is not kept, or the file is broken."""
        if key is None:
            return None
        if self.folder is None:
            return self._held.get(f"{key}/{job}")
        try:
            # opened here: numpy leaves a broken file open
            with (self.folder / key / f"{job}.npz").open("rb") as file, np.load(file, allow_pickle=False) as held:
                facts = json.loads(str(held["facts"]))
                return Answers(held["rows"], held["answer"].astype(object), held["confidence"], **facts)
        except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile):
            return None

    def put(self, key: str | None, job: str, answers: Answers) -> None:
        """Keep answers: the file is whole or not there. Without a key they are not kept."""
        if key is None:
            return
        if self.folder is None:
            self._held[f"{key}/{job}"] = answers
            return
        (self.folder / key).mkdir(parents=True, exist_ok=True)
        facts = {name: getattr(answers, name) for name in ("n_train", "train_seconds", "seconds", "memory")}
        with beside(self.folder / key / f"{job}.npz") as part:
            np.savez_compressed(
                part,
                rows=answers.rows,
                answer=answers.answer.astype(str),
                confidence=answers.confidence,
                facts=json.dumps(facts),
            )


def answers(
    contender: Contender, cells: anndata.AnnData, obs: Any, train: np.ndarray | None, test: np.ndarray, seed: int
) -> Answers:
    """Train a method where it is to be trained, and ask it.

    Parameters
    ----------
    contender
        The method.
    cells
        All cells, with :data:`LABEL`, and :data:`BATCH` where there are batches.
    obs
        The user's ``.obs``, for columns that another method wrote.
    train, test
        Rows to learn from (None: nothing is trained) and to name.
    seed
        Of the training.
    """
    asked = cells[test].copy()
    del asked.obs[LABEL]  # no method sees it
    if contender.kind == COLUMN:
        asked.obs[_KEY] = obs[contender.model].to_numpy()[test]
        sure = None if contender.confidence is None else obs[contender.confidence].to_numpy(dtype=float)[test]
        tl.adopt(asked, _KEY, sure, source=contender.name, key_added=f"{_KEY}_answer")
        return _read(asked, test, f"{_KEY}_answer", 0, float("nan"), float("nan"), float("nan"))
    with _memory() as grown:
        n_train, spent = 0, float("nan")
        model = contender.model
        start = time.perf_counter()
        if contender.kind == TRAINED and train is not None:
            batch = {"batch_key": BATCH} if BATCH in cells.obs else {}
            model = models.train(contender.model, cells[train].copy(), label_key=LABEL, **batch, seed=seed, **contender.options)  # fmt: skip
            n_train, spent = len(train), time.perf_counter() - start
        elif isinstance(model, str | Path):
            model = models.load(model)
        start = time.perf_counter()
        tl.annotate(asked, model, key_added=f"{_KEY}_answer", seed=seed)
        seconds = time.perf_counter() - start
    return _read(asked, test, f"{_KEY}_answer", n_train, spent, seconds, grown[0])


def _read(
    asked: anndata.AnnData, rows: np.ndarray, key: str, n_train: int, spent: float, seconds: float, memory: float
) -> Answers:
    table = get.annotate(asked, key=key)
    names, ids = (table[column].astype(str).to_numpy(dtype=object) for column in ("cell_type", "ontology_term_id"))
    confidence = table["confidence"].to_numpy(dtype=np.float64)
    return Answers(rows, np.where(ids == UNKNOWN, names, ids), confidence, n_train, spent, seconds, memory)


@contextmanager
def _memory() -> Iterator[list[float]]:
    """MiB by which the memory of the process grows at its highest while the block runs, looked at every hundredth of a second."""
    grown, done = [float("nan")], threading.Event()
    first = _resident()

    def look() -> None:
        while not done.wait(_EVERY):
            grown[0] = max(grown[0], _resident() - first)

    if first == first:
        grown[0] = 0.0
        watcher = threading.Thread(target=look, daemon=True)
        watcher.start()
    try:
        yield grown
    finally:
        done.set()
        if first == first:
            watcher.join()
            grown[0] = max(grown[0], _resident() - first)


def _resident() -> float:
    """MiB of memory that the process holds; NaN where the system does not say."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except (OSError, ValueError, IndexError):
        return float("nan")
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20
