"""A corpus of descriptions on disk: one JSON line a cell, split by donors."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from sclm.cells import read_cells
from sclm.texts.quotas import SPLITS, choose_cells, split_donors
from sclm.texts.template import cell_facts, describe_template

if TYPE_CHECKING:
    from collections.abc import Mapping

    import anndata

    from sclm.knowledge import Ontology

logger = logging.getLogger(__name__)

_BLOCK = 10_000  # texts that are made at a time
_FIELDS = ("tissue", "tissue_general", "disease", "sex", "development_stage", "age")
_FACTS = "corpus.json"


class Corpus(NamedTuple):
    """Where a corpus is, and what is in it.

    Attributes
    ----------
    folder
        With ``train.jsonl``, ``validation.jsonl``, ``test.jsonl`` and ``corpus.json``.
    table
        One row a split: ``n_cells``, ``n_donors``, ``n_types``, and how evenly the corpus is spread over cell types, tissues and
        diseases: ``diversity_<field>``, the Shannon entropy over its largest value, 0 to 1 (1 for a single value; NaN without the
        field).
    """

    folder: Path
    table: pd.DataFrame


def write_corpus(
    adata: anndata.AnnData,
    folder: str | Path,
    *,
    n_cells: int | None = None,
    label_key: str = "cell_type",
    donor_key: str = "donor_id",
    ontology: Ontology | None = None,
    pathways: pd.DataFrame | None = None,
    pathway_texts: Mapping[str, str] | None = None,
    shares: tuple[float, float, float] = (0.8, 0.1, 0.1),
    seed: int = 0,
) -> Corpus:
    """Write descriptions of cells by the template, for the training of a language model.

    Parameters
    ----------
    adata
        Cells with metadata as the CELLxGENE schema names them; it is only read, and may be backed.
    folder
        Made where it does not exist; must hold no corpus.
    n_cells
        Draw so many cells by :func:`~sclm.texts.choose_cells`; None takes all.
    label_key, donor_key
        Columns of ``.obs`` with the cell types and the donors, by whom the corpus is split: :func:`~sclm.texts.split_donors`.
    ontology
        Of the cell types, for their names and definitions.
    pathways
        Activities, cells of `adata` x gene sets, as :func:`sclm.get.pathways` gives them: the two highest of a cell are described.
    pathway_texts
        Name of a gene set → its description.
    shares
        Of training, validation and test.
    seed
        Of the draws.

    Returns
    -------
    The :class:`Corpus`. Each line holds ``cell`` (its name), ``row`` (in `adata`), ``text``, and what it says: ``cell_type``, ``tissue``,
    ``sex``, ``disease``, ``age``, ``pathways``. Cells without a label are left out.

    Raises
    ------
    FileExistsError
        If the folder holds a corpus.
    KeyError
        If a column is missing.
    ValueError
        If no cell has a label, or `pathways` has other rows than `adata`.

    Examples
    --------
    >>> import tempfile
    >>> import sclm
    >>> from sclm.texts import write_corpus
    >>> adata = sclm.datasets.pbmc68k()
    >>> adata.obs["donor_id"] = [f"part {i % 10}" for i in range(adata.n_obs)]
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_corpus(adata, folder).table["n_donors"].tolist()
    [8, 1, 1]
    """
    folder = Path(folder)
    if (folder / _FACTS).exists():
        raise FileExistsError(f"{folder} already holds a corpus. Choose another folder.")
    if pathways is not None and len(pathways) != adata.n_obs:
        raise ValueError(f"pathways must have one row for each of {adata.n_obs:,} cells, found {len(pathways):,}.")
    there = [name for name in _FIELDS if name in adata.obs.columns]
    obs = read_cells(adata, obs_keys=[label_key, donor_key, *there]).obs
    labelled = obs[label_key].astype(str).str.strip().str.lower()
    rows = np.flatnonzero(obs[label_key].notna().to_numpy() & ~labelled.isin(["", "nan", "unknown", "none"]).to_numpy())
    if not len(rows):
        raise ValueError(f".obs[{label_key!r}] must hold cell types, found none.")
    if n_cells is not None:
        drawn = choose_cells(obs.iloc[rows], n_cells, donor_key=donor_key, label_key=label_key, seed=seed)
        rows = rows[drawn]
    chosen = obs.iloc[rows]
    fields = (label_key, "disease", "tissue_general", "tissue", "development_stage")
    split = split_donors(chosen, donor_key=donor_key, fields=fields, shares=shares, seed=seed)

    folder.mkdir(parents=True, exist_ok=True)
    names = {s: folder / f"{s}.jsonl" for s in SPLITS}
    files = {s: path.with_suffix(".part").open("w", encoding="utf-8") for s, path in names.items()}
    try:
        for start in tqdm(range(0, len(rows), _BLOCK), desc="texts", unit="block", disable=len(rows) <= _BLOCK):
            part = slice(start, start + _BLOCK)
            scores = None if pathways is None else pathways.iloc[rows[part]]
            found = cell_facts(chosen.iloc[part], ontology=ontology, pathways=scores, label_key=label_key)
            for name, row, where, facts in zip(
                chosen.index[part], rows[part], split[part], found, strict=True
            ):  # fmt: skip
                said = {k: v for k, v in facts._asdict().items() if k != "definition"}
                text = describe_template(facts, pathway_texts=pathway_texts)
                line = {"cell": str(name), "row": int(row), "text": text, **said}
                files[where].write(json.dumps(line, ensure_ascii=False) + "\n")
    finally:
        for file in files.values():
            file.close()
    for path in names.values():  # an interrupted corpus has no file of its final name
        path.with_suffix(".part").replace(path)
    table = _facts(chosen, split, label_key, donor_key)
    facts_ = {"seed": seed, "shares": list(shares), "splits": table.reset_index().to_dict(orient="records")}
    (folder / _FACTS).write_text(json.dumps(facts_, indent=2, ensure_ascii=False), encoding="utf-8")
    logger.info("wrote %d descriptions to %s", len(rows), folder)
    return Corpus(folder, table)


def _facts(obs: pd.DataFrame, split: np.ndarray, label_key: str, donor_key: str) -> pd.DataFrame:
    found: dict[str, dict[str, Any]] = {}
    for name in SPLITS:
        part = obs[split == name]
        found[name] = {
            "n_cells": len(part),
            "n_donors": int(part[donor_key].astype(str).nunique()),
            "n_types": int(part[label_key].astype(str).nunique()),
        }
        for field in (label_key, "tissue", "disease"):
            named = "cell_type" if field == label_key else field
            found[name][f"diversity_{named}"] = _diversity(part[field]) if field in part else float("nan")
    return pd.DataFrame.from_dict(found, orient="index").rename_axis("split")


def _diversity(values: pd.Series) -> float:
    """Shannon entropy over that of as many values that are equally frequent; 1 for a single value, NaN for none."""
    shares = values.astype(str).value_counts(normalize=True).to_numpy()
    if not len(shares):
        return float("nan")
    return 1.0 if len(shares) == 1 else float(-(shares * np.log(shares)).sum() / np.log(len(shares)))


def read_corpus(folder: str | Path, split: str = "train") -> pd.DataFrame:
    """One split of a corpus.

    Parameters
    ----------
    folder
        From :func:`write_corpus`.
    split
        ``"train"``, ``"validation"`` or ``"test"``.

    Returns
    -------
    One row a cell, as the lines have it.

    Raises
    ------
    FileNotFoundError
        If there is no corpus.
    ValueError
        If there is no such split.
    """
    if split not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(map(repr, SPLITS))}, found {split!r}.")
    path = Path(folder) / f"{split}.jsonl"
    if not path.is_file():
        raise FileNotFoundError(f"{folder} holds no corpus: there is no {path.name}. Make one with write_corpus.")
    with path.open(encoding="utf-8") as lines:
        return pd.DataFrame([json.loads(line) for line in lines])
