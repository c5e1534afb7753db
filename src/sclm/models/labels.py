"""Labels of a reference: resolved to ontology terms, counted, split into cells to learn from and cells to calibrate on."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd

from sclm.evidence.backoff import UNKNOWN

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sclm.knowledge import Ontology

logger = logging.getLogger(__name__)

_BLANK = frozenset({"", "nan", "na", "n/a", "none", "null", "unknown", "unassigned", "unlabelled", "unlabeled"})
_HELD_OUT_SHARE = 0.2
_HELD_OUT_CELLS = 20_000  # calibration and novelty need no more; the rest goes to training


def label_texts(values: Iterable[object]) -> list[str]:
    """Labels as text: empty where one is missing or says that there is none, whole numbers without a decimal point."""

    def one(value: object) -> str:
        if isinstance(value, float | np.floating):
            value = "" if np.isnan(value) else int(value) if float(value).is_integer() else value
        text = "" if value is None or value is pd.NA else str(value).strip()
        return "" if text.lower() in _BLANK else text

    return [one(value) for value in values]


class Labels(NamedTuple):
    """What a reference is labelled with."""

    rows: np.ndarray  # (n,) int64: cells of the reference that have a label
    codes: np.ndarray  # (n,) int64: their type
    labels: tuple[str, ...]  # name of each type: the ontology's where resolved, else the reference's own
    term_ids: tuple[str, ...]  # ontology id of each type, or "unknown"
    original: pd.DataFrame  # one row a label of the reference: label, n_cells, name, term_id, kind

    def codes_of(self, values: pd.Series) -> np.ndarray:
        """(m,) int64 type of each of some labels of the reference, as they are written in its column."""
        code = {pair: i for i, pair in enumerate(zip(self.labels, self.term_ids, strict=True))}
        names = zip(self.original["label"], self.original["name"], self.original["term_id"], strict=True)
        code_of_label = {label: code[name, term] for label, name, term in names if (name, term) in code}
        return values.astype(str).map(code_of_label).to_numpy(dtype=np.int64)

    def keep(self, cells: np.ndarray) -> Labels:
        """Only these cells, (n,) bool; types without a cell left go."""
        types, codes = np.unique(self.codes[cells], return_inverse=True)
        if len(types) < 2:
            raise ValueError(
                f"The reference must hold at least two cell types with counts in the genes that are used, found {len(types)}. "
                "Check that its genes and those of the data overlap."
            )
        return self._replace(
            rows=self.rows[cells],
            codes=codes.astype(np.int64),
            labels=tuple(self.labels[t] for t in types),
            term_ids=tuple(self.term_ids[t] for t in types),
        )


def read_labels(values: pd.Series, ontology: Ontology, key: str) -> Labels:
    """Resolve the labels of a reference; labels of one term are merged, unresolved ones reported and kept.

    Raises
    ------
    ValueError
        If fewer than two types are left.
    """
    # Half the files in the wild write a missing label as text.
    blank = values.astype(str).str.strip().str.lower().isin(_BLANK).to_numpy()
    present = values.notna().to_numpy() & ~blank
    text = values[present].astype(str)
    counts = text.value_counts()
    table = ontology.resolve_many(list(counts.index))
    # A fuzzy match is a suggestion, not an answer: such a label keeps its own name.
    sure = ~table["kind"].isin(["fuzzy", "none"]).to_numpy()
    original = pd.DataFrame(
        {
            "label": list(counts.index),
            "n_cells": counts.to_numpy(),
            "name": np.where(sure, table["name"], counts.index),
            "term_id": np.where(sure, table["term_id"], UNKNOWN),
            "kind": np.where(sure, table["kind"], "none"),
        }
    )
    if not sure.all():
        lost = [
            f"{t.text!r}" + (f" (perhaps {t.name!r})" if isinstance(t.term_id, str) else "")
            for t, s in zip(table.itertuples(index=False), sure, strict=True)
            if not s
        ]
        logger.warning(
            "%d of %d labels in .obs[%r] are no term of the ontology and keep their own name: %s. Rename them to a term's name "
            "or id to get ontology ids and back-off.",
            len(lost), len(counts), key, ", ".join(lost[:10]) + (" …" if len(lost) > 10 else ""),
        )  # fmt: skip
    if not present.all():
        logger.info("%d cells of the reference have no label in .obs[%r] and are left out.", int((~present).sum()), key)

    types = original.drop_duplicates(["name", "term_id"]).sort_values("name", kind="stable")
    if len(types) < 2:
        found = ", ".join(map(repr, types["name"])) or "none"
        raise ValueError(
            f".obs[{key!r}] of the reference must hold at least two cell types, found {len(types)} ({found}). "
            "Pass a reference with the types to tell apart, or another label_key."
        )
    labels = Labels(
        rows=np.flatnonzero(present).astype(np.int64),
        codes=np.zeros(0, dtype=np.int64),
        labels=tuple(map(str, types["name"])),
        term_ids=tuple(map(str, types["term_id"])),
        original=original,
    )
    labels = labels._replace(codes=labels.codes_of(text))
    once = [n for n, c in zip(types["name"], np.bincount(labels.codes, minlength=len(types)), strict=True) if c == 1]
    if once:
        logger.warning(
            "%d types have a single reference cell and cannot be calibrated: %s.", len(once), ", ".join(once[:10])
        )
    return labels


def hold_out(codes: np.ndarray, batches: np.ndarray | None, rng: np.random.Generator) -> tuple[np.ndarray, bool]:
    """Choose about a fifth of the cells for calibration.

    Parameters
    ----------
    codes
        (n,) type of each cell.
    batches
        (n,) donor or batch of each cell; whole batches are then held out where there are at least two. None draws cells
        within each type.
    rng
        Source of randomness.

    Returns
    -------
    (n,) bool, and whether whole batches were held out. Every type keeps at least one cell to learn from.
    """
    n = len(codes)
    wanted = min(_HELD_OUT_SHARE * n, _HELD_OUT_CELLS)
    held = np.zeros(n, dtype=bool)
    by_batch = batches is not None and len(np.unique(batches)) > 1
    if by_batch:
        names, sizes = np.unique(np.asarray(batches), return_counts=True)
        taken = 0
        # In random order, each batch that brings the total nearer to what is wanted; the smallest where none does.
        for i in rng.permutation(len(names)):
            if abs(taken + sizes[i] - wanted) < abs(taken - wanted):
                held |= np.asarray(batches) == names[i]
                taken += int(sizes[i])
        if not taken:
            held = np.asarray(batches) == names[sizes.argmin()]
    else:
        for code in np.unique(codes):
            cells = np.flatnonzero(codes == code)
            share = min(round(len(cells) * wanted / n), len(cells) - 1)
            held[rng.choice(cells, max(share, 0), replace=False)] = True
    # Types that live in held-out batches alone must be learnt: their cells go back.
    only_held = np.setdiff1d(codes[held], codes[~held])
    return held & ~np.isin(codes, only_held), by_batch
