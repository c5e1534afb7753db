"""Models and baselines on the user's own labelled cells."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
from tqdm import tqdm

from sclm.benchmark.answers import BATCH, LABEL, Store, answers
from sclm.benchmark.contenders import TRAINED, contenders
from sclm.benchmark.folds import folds
from sclm.benchmark.summary import summarise
from sclm.benchmark.twins import CERTAIN, KINDS, barcodes, find_twins
from sclm.calls.files import beside
from sclm.calls.signatures import EXPECTED
from sclm.cells import read_cells, table_of
from sclm.knowledge import Ontology
from sclm.models.labels import UNKNOWN, read_labels

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import anndata

    from sclm.benchmark.answers import Answers
    from sclm.benchmark.contenders import Contender
    from sclm.benchmark.twins import Twins

logger = logging.getLogger(__name__)

_SETTINGS, _RUNS = "settings.json", "runs"


class Benchmark(NamedTuple):
    """What a comparison found.

    Attributes
    ----------
    table
        One row a method, most accurate first: ``kind``, and for each score its mean over the seeds, ``_low`` and ``_high`` (95 % interval) and
        ``_sd`` (between seeds); ``unknown_share``; medians of ``train_seconds`` (a fold),
        ``cells_per_second`` and ``memory_mib`` (by how much the process grew).
    differences
        One row a method and score beside the best baseline of that score: ``difference`` with its interval (paired), ``verdict``.
    per_type
        One row a method and type: cells, precision, recall, F1, mean confidence, most frequent mistake.
    per_fold
        One row a method, seed and fold: cells, scores, seconds.
    leaks
        One row a cell of a test part with a twin in its training part: see :meth:`sclm.benchmark.Twins.across`.
    sentences
        What the figures say, in words.
    facts
        Numbers and settings: cells, types, donors, folds, seeds, what the intervals are drawn over, failures.
    """

    table: pd.DataFrame
    differences: pd.DataFrame
    per_type: pd.DataFrame
    per_fold: pd.DataFrame
    leaks: pd.DataFrame
    sentences: list[str]
    facts: dict[str, Any]


def run(
    adata: anndata.AnnData,
    models: Sequence[Any] | Mapping[str, Any] = (),
    *,
    label_key: str,
    batch_key: str | None = None,
    predictions: Sequence[str] | Mapping[str, str | None] = (),
    options: Mapping[str, Mapping[str, Any]] | None = None,
    n_folds: int = 5,
    n_seeds: int = 3,
    near_twins: float | None = 0.95,
    drop_twins: bool = False,
    n_bootstrap: int = 1000,
    out: str | Path | None = None,
    overwrite: bool = False,
    table_key: str | None = None,
    mod: str | None = None,
    layer: str | None = None,
    gene_key: str | None = None,
    seed: int = 0,
) -> Benchmark:
    """Compare models that name cell types on your own labelled cells.

    Each cell is named once a seed by a model that was not trained on it: the folds are whole donors where `batch_key` names them, else cells
    drawn at random. The baselines ``"majority"``, ``"logistic"`` and ``"knn"`` are always among the methods. Nothing is tuned on a test
    part: whatever a family calibrates or stops early on, it holds out of its training part. No method sees the labels of the cells that it
    names.

    Parameters
    ----------
    adata
        Labelled cells with raw counts; or a SpatialData or MuData. It is not changed. Cells without a label are left out.
    models
        Families to train by name (``"scgpt"``, ``"celltosg"``), and models as they are: objects, folders, published names. Or a dict of name
        in the table → one of these.
    label_key
        Column of ``.obs`` with the true types.
    batch_key
        Column of ``.obs`` with the donor or batch.
    predictions
        Columns of ``.obs`` with the labels that other methods gave (scANVI, celltypist …), or a dict of column → column with the
        confidences.
    options
        Name in the table → settings of that family's training, for example ``{"scgpt": {"preset": "tiny"}}``.
    n_folds
        Number of folds; with fewer batches, each batch is one.
    n_seeds
        How often everything is repeated, with other folds and other random numbers.
    near_twins
        Cosine of log-normalised counts from which two cells are near twins; None: not looked for. See :func:`sclm.benchmark.find_twins`.
    drop_twins
        Leave cells that have a twin in the test part out of the training part; an equal barcode alone is no reason.
    n_bootstrap
        Resamples behind the intervals: of donors, or of cells where there are no batches.
    out
        Folder for the answers, so that the same call goes on where it was interrupted, and for nothing else: see
        :func:`sclm.benchmark.write` for tables and the report.
    overwrite
        Whether a comparison of other cells or with other settings that is there under ``out`` may be replaced.
    table_key
        Table of a SpatialData.
    mod
        Modality of a MuData with the RNA.
    layer
        Layer with the raw counts; ``.X`` where None.
    gene_key
        Column of ``.var`` with symbols or Ensembl ids; ``.var_names`` where None.
    seed
        First of the seeds.

    Returns
    -------
    The comparison. A method that fails is left out of the tables and named in ``facts["failed"]``.

    Raises
    ------
    ValueError
        If the counts are not raw, there are fewer than two types or batches, a cell has no batch, an argument is out of range, or no method
        could be run.
    KeyError
        If a column or layer does not exist.
    FileNotFoundError
        If there is no such model.
    FileExistsError
        If ``out`` holds something else.

    Examples
    --------
    >>> import sclm
    >>> adata = sclm.datasets.pbmc68k()
    >>> found = sclm.benchmark.run(adata, ["mean"], label_key="cell_type", n_folds=2, n_seeds=1)
    >>> sorted(found.table.index)
    ['knn', 'logistic', 'majority', 'mean']
    """
    for name, value, least in (("n_seeds", n_seeds, 1), ("n_bootstrap", n_bootstrap, 100)):
        if isinstance(value, bool) or value != int(value) or value < least:
            raise ValueError(f"{name} must be a whole number of at least {least}, found {value!r}.")
    listed = contenders(models, predictions, options or {})
    adata = table_of(adata, table_key, mod)
    columns = [c for contender in listed if contender.kind == "column" for c in (contender.model, contender.confidence) if c]  # fmt: skip
    keys = [label_key, *([batch_key] if batch_key else []), *columns]
    source = read_cells(adata, layer=layer, gene_key=gene_key, obs_keys=keys)
    ontology = Ontology.load("cl")
    labels = read_labels(source.obs[label_key], ontology, label_key)
    rows = labels.rows
    block = source.read(rows)
    truth = np.array([i if i != UNKNOWN else n for n, i in zip(labels.labels, labels.term_ids, strict=True)], dtype=object)[labels.codes]  # fmt: skip
    batches = None if batch_key is None else _batches(source.obs[batch_key].iloc[rows], batch_key)
    split = [folds(truth, batches, n_folds=n_folds, seed=seed + s) for s in range(n_seeds)]
    twins = find_twins(block.counts, source.obs.index[rows].to_numpy(dtype=object), bound=near_twins)
    cells = _cells(adata, rows, block, source.obs[label_key].iloc[rows], batches, batch_key, [label_key, *columns])
    settings = {
        "n_folds": n_folds, "seed": seed, "drop_twins": drop_twins, "near_twins": near_twins if drop_twins else None,
        "data": _digest(block, truth, batches), "obs": _digest_obs(cells.obs), "label_key": label_key, "batch_key": batch_key,
    }  # fmt: skip
    store = Store(None if out is None else _folder(Path(out), settings, overwrite))
    found, failed = _answered(listed, cells, source.obs.iloc[rows], split, twins, drop_twins, store, seed)
    if not found:
        raise ValueError("no method could be run: " + "; ".join(f"{name}: {why}" for name, why in failed.items()))
    names = dict(zip(truth.tolist(), np.array(labels.labels, dtype=object)[labels.codes].tolist(), strict=True))
    leaks = _leaks(twins, split, source.obs.index[rows], batches)
    facts: dict[str, Any] = {
        "n_cells": len(truth), "n_unlabelled": source.n_cells - len(truth), "n_genes": source.n_genes, "n_types": len(names),
        "n_batches": 0 if batches is None else len(set(batches)), "batch_key": batch_key, "label_key": label_key,
        "n_folds": int(split[0].max()) + 1, "n_seeds": n_seeds, "seed": seed, "n_bootstrap": n_bootstrap,
        "drawn_over": "cells" if batches is None else "donors or batches", "near_twins": near_twins, "drop_twins": drop_twins,
        "leaks": {kind: int(leaks.loc[leaks["kind"] == kind, "row"].nunique()) for kind in KINDS},
        "n_elsewhere": _elsewhere(barcodes(source.obs.index[rows].to_numpy(dtype=object)) != "", batches),
        "n_unseen": _unseen(truth, split), "failed": failed, "kinds": {c.name: c.kind for c in listed},
    }  # fmt: skip
    tables = summarise(found, {c.name: c for c in listed}, truth, batches, split, names, ontology, n_bootstrap, seed)
    return Benchmark(**tables, leaks=leaks, facts=facts)


def _batches(column: pd.Series, key: str) -> np.ndarray:
    missing = int(column.isna().sum())
    if missing:
        raise ValueError(
            f"every labelled cell must have a batch in .obs[{key!r}], found {missing:,} without. Leave these cells out first."
        )
    return column.astype(str).to_numpy(dtype=object)


def _cells(
    adata: anndata.AnnData,
    rows: np.ndarray,
    block: Any,
    labels: pd.Series,
    batches: np.ndarray | None,
    batch_key: str | None,
    hidden: list[str],
) -> anndata.AnnData:
    """Counts, the label, the batch, and what else a model may read (tissue, disease …) that does not give the label away."""
    import anndata

    obs = adata.obs.iloc[rows].drop(columns=hidden)
    code = pd.factorize(labels)[0]
    for column in list(obs.columns):
        try:
            values = pd.factorize(obs[column])[0]
        except TypeError:  # values that cannot be compared
            values = code
        pairs = len(set(zip(values.tolist(), code.tolist(), strict=True)))
        n_values = len(set(values.tolist()))
        # Another name of each label, or finer labels; a value for nearly every cell (a total, a name) says nothing of others.
        if (
            pairs == n_values
            and (n_values == len(set(code.tolist())) or 2 * n_values < len(code))
            and column != batch_key
        ):
            del obs[column]
    obs.index = pd.Index([str(i) for i in range(len(rows))])
    obs[LABEL] = pd.Categorical(labels.astype(str))
    if batches is not None:
        obs[BATCH] = pd.Categorical(batches)
    return anndata.AnnData(block.counts, obs=obs, var=pd.DataFrame(index=block.genes.astype(str)))


def _answered(
    listed: list[Contender],
    cells: anndata.AnnData,
    obs: pd.DataFrame,
    split: list[np.ndarray],
    twins: Twins,
    drop: bool,
    store: Store,
    seed: int,
) -> tuple[dict[str, list[list[Answers]]], dict[str, str]]:
    """Method → for each seed the answers of its folds (of all cells, where nothing is trained); and why others failed."""
    found: dict[str, list[list[Answers]]] = {}
    failed: dict[str, str] = {}
    total = sum(sum(int(f.max()) + 1 for f in split) if c.kind == TRAINED else 1 for c in listed)
    with tqdm(total=total, desc="benchmark", unit=" runs", delay=2) as bar:
        for contender in listed:
            bar.set_postfix_str(contender.name)
            try:
                if contender.kind == TRAINED:
                    found[contender.name] = []
                    for s, fold in enumerate(split):
                        done = []
                        for f in range(int(fold.max()) + 1):
                            done.append(_one(contender, cells, obs, fold == f, (seed + s, f), twins, drop, store))
                            bar.update()
                        found[contender.name].append(done)
                else:
                    everything = np.ones(cells.n_obs, dtype=bool)
                    answer = _one(contender, cells, obs, everything, None, twins, drop, store)
                    found[contender.name] = [[answer]] * len(split)
                    bar.update()
            except EXPECTED as error:
                found.pop(contender.name, None)
                failed[contender.name] = f"{type(error).__name__}: {error}"
                logger.warning("%s failed and is left out: %s", contender.name, error)
    return found, failed


def _one(
    contender: Contender,
    cells: anndata.AnnData,
    obs: pd.DataFrame,
    test: np.ndarray,
    place: tuple[int, int] | None,
    twins: Twins,
    drop: bool,
    store: Store,
) -> Answers:
    """Answers of one method for one test part, done now or before."""
    job = "all" if place is None else f"seed{place[0]}-fold{place[1]}"
    before = store.get(contender.key, job)
    if before is not None and np.array_equal(before.rows, np.flatnonzero(test)):
        return before
    train = ~test
    if drop and place is not None:
        found = twins.across(~test)
        train[np.unique(found.loc[found["kind"].isin(CERTAIN), "cell"])] = (
            False  # cells to train on with a twin in the test part
        )
    seed = 0 if place is None else place[0]
    done = answers(contender, cells, obs, None if place is None else np.flatnonzero(train), np.flatnonzero(test), seed)
    store.put(contender.key, job, done)
    return done


def _leaks(twins: Twins, split: list[np.ndarray], names: pd.Index, batches: np.ndarray | None) -> pd.DataFrame:
    """One row a seed, test cell and kind of twin: also the names and batches of both cells."""
    parts = []
    for s, fold in enumerate(split):
        for f in range(int(fold.max()) + 1):
            found = twins.across(fold == f)
            found.insert(0, "split", s)
            found.insert(1, "fold", f)
            parts.append(found)
    table = pd.concat(parts, ignore_index=True).rename(columns={"cell": "row", "twin": "twin_row"})
    for side in ("row", "twin_row"):
        what = side.replace("row", "")
        table[f"{what}cell"] = np.asarray(names, dtype=object)[table[side]]
        if batches is not None:
            table[f"{what}batch"] = batches[table[side]]
    return table


def _unseen(truth: np.ndarray, split: list[np.ndarray]) -> float:
    """Cells a split, on the mean, whose type is in no cell of the training part: no method that learns there can name them."""
    counts = [
        sum(int((~np.isin(truth[fold == f], truth[fold != f])).sum()) for f in range(int(fold.max()) + 1))
        for fold in split
    ]
    return float(np.mean(counts))


def _elsewhere(has: np.ndarray, batches: np.ndarray | None) -> list[tuple[int, int]]:
    """Of each batch: cells with a barcode, and such cells of the other batches; of all cells where there are no batches."""
    code = np.zeros(len(has), dtype=np.int64) if batches is None else pd.factorize(batches)[0]
    sizes = np.bincount(code[has], minlength=code.max() + 1).tolist()
    return [(size, sum(sizes) - (0 if batches is None else size)) for size in sizes]


def _digest(block: Any, truth: np.ndarray, batches: np.ndarray | None) -> str:
    digest = hashlib.sha256("\n".join([*map(str, block.genes), *truth, *([] if batches is None else batches)]).encode())
    for array in (block.counts.indptr, block.counts.indices, block.counts.data):
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _digest_obs(obs: pd.DataFrame) -> str:
    """Of what models may read beside the counts."""
    digest = hashlib.sha256()
    for name in sorted(obs.columns, key=str):
        digest.update("\n".join([repr(name), *obs[name].astype(str).tolist()]).encode())
    return digest.hexdigest()


def _folder(out: Path, settings: dict[str, Any], overwrite: bool) -> Path:
    """Where answers are kept; refused where it holds something else."""
    out = Path(out)
    path = out / _SETTINGS
    same = path.is_file() and json.loads(path.read_text(encoding="utf-8")) == settings
    if path.is_file():
        if not same:
            if not overwrite:
                raise FileExistsError(
                    f"{out} holds a comparison of other cells or with other settings, or of cells with other columns in .obs. Choose another folder, or allow it to be "
                    "replaced (overwrite)."
                )
            shutil.rmtree(out / _RUNS, ignore_errors=True)
    elif out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FileExistsError(f"{out} is there and holds no comparison. Choose another folder.")
    (out / _RUNS).mkdir(parents=True, exist_ok=True)
    if not same:
        with beside(path) as part:  # whole or not there, wherever a call is interrupted
            part.write_text(json.dumps(settings, indent=1), encoding="utf-8")
    return out / _RUNS
