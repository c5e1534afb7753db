"""A comparison as tables (CSV), as Markdown and as a page."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from sclm.benchmark.scores import SCORES
from sclm.benchmark.summary import WORDS
from sclm.benchmark.twins import CERTAIN
from sclm.calls.files import beside
from sclm.report import html

if TYPE_CHECKING:
    from sclm.benchmark.running import Benchmark

_FEW = 10  # donors below which an interval over them is rough
_LISTS = 737_280, 6_794_880  # barcodes that a sample's are drawn from: 10x 3' v2 and v3


def write(found: Benchmark, out: str | Path) -> dict[str, Path]:
    """Write a comparison into a folder.

    Parameters
    ----------
    found
        What :func:`sclm.benchmark.run` returned.
    out
        Folder, made where it does not exist.

    Returns
    -------
    What → file: ``scores``, ``differences``, ``per type``, ``per fold``, ``leaks`` (CSV), ``report`` (HTML) and ``text`` (Markdown).
    """
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    tables = {
        "scores": found.table.reset_index(), "differences": found.differences, "per type": found.per_type,
        "per fold": found.per_fold, "leaks": found.leaks,
    }  # fmt: skip
    files = {what: out / f"{what.replace(' ', '_')}.csv" for what in tables}
    for what, table in tables.items():
        with beside(files[what]) as part:
            table.to_csv(part, index=False)
    files |= {"report": out / "report.html", "text": out / "report.md"}
    chapters = _chapters(found)
    lead = f"{found.facts['n_cells']:,} labelled cells, {found.facts['n_types']} types, {len(found.table)} methods."
    with beside(files["report"]) as part:
        html.write(part, "Which model names these cells best", lead, _page(chapters))
    with beside(files["text"]) as part:
        part.write_text(_markdown("Which model names these cells best", lead, chapters), encoding="utf-8")
    return files


def shown(found: Benchmark) -> pd.DataFrame:
    """The table for people: scores with their intervals as text, costs.

    Parameters
    ----------
    found
        A comparison.

    Returns
    -------
    One row a method.
    """
    table = found.table
    columns: dict[str, Any] = {"": table["kind"]}
    for score in SCORES:
        columns[WORDS[score]] = [
            "–" if mean != mean else f"{mean:.3f} ({low:.3f} to {high:.3f})"
            for mean, low, high in zip(table[score], table[f"{score}_low"], table[f"{score}_high"], strict=True)
        ]
    columns["seed sd"] = [_number(value, 3) for value in table["accuracy_sd"]]
    columns["training s"] = [_number(value, 2) for value in table["train_seconds"]]
    columns["cells/s"] = [_number(value, 0) for value in table["cells_per_second"]]
    columns["MiB"] = [_number(value, 0) for value in table["memory_mib"]]
    return pd.DataFrame(columns, index=table.index)


def notes(facts: dict[str, Any]) -> list[str]:
    """What has to be known to read the figures.

    Parameters
    ----------
    facts
        Of a comparison.

    Returns
    -------
    Sentences.
    """
    said = [_split(facts)]
    drawn, n = facts["drawn_over"], facts["n_batches"]
    said.append(
        f"Intervals are the middle 95 % of {facts['n_bootstrap']:,} resamples of "
        + (f"the {n} donors or batches" if n else "cells")
        + ", drawn with replacement; differences are taken within each resample. `seed sd` is the spread of the accuracy between "
        f"{facts['n_seeds']} {'seed' if facts['n_seeds'] == 1 else 'seeds'}. Intervals of the calibration error are moved by the bias that resampling has."
    )
    if drawn == "cells":
        said.append("Intervals over cells say nothing about other donors: cells of one donor are alike.")
    elif n < _FEW:
        said.append(f"With {n} donors or batches, fewer than {_FEW}, the intervals are rough, and rather too narrow.")
    if facts["n_unseen"]:
        said.append(
            f"{facts['n_unseen']:,.0f} cells are of a type that their training part lacks; no trained method can name them, and they count "
            "as wrong."
        )
    if facts["n_unlabelled"]:
        said.append(f"{facts['n_unlabelled']:,} cells without a label were left out.")
    kinds = set(facts["kinds"].values())
    if "as it is" in kinds:
        said.append(
            "Methods `as it is` were not trained here, so they know nothing of these donors, unless their own training has seen them: that is "
            "not known, and their figures are too good if it has."
        )
    if "column" in kinds:
        said.append(
            "Methods of a `column` were read from `.obs`; whether they have seen these labels is not known here."
        )
    said += [f"{name} failed and is in no table: {why}" for name, why in facts["failed"].items()]
    return said


def leak_notes(facts: dict[str, Any]) -> list[str]:
    """What was found of cells that stand on both sides of a split.

    Parameters
    ----------
    facts
        Of a comparison.

    Returns
    -------
    Sentences.
    """
    leaks, bound = facts["leaks"], facts["near_twins"]
    near = (
        f"{leaks['near']:,} a near twin (cosine of log-normalised counts of at least {bound:g}, at least 20 genes expressed)"
        if bound is not None
        else "near twins were not looked for"
    )
    said = [
        f"Of {facts['n_cells']:,} cells, {leaks['name']:,} have a cell of the same name in a training part while they are tested, "
        f"{leaks['counts']:,} a cell with exactly the same counts, {near}."
    ]
    if leaks["barcode"]:
        chance = [sum(n * -math.expm1(-others / size) for n, others in facts["n_elsewhere"]) for size in _LISTS]
        said.append(
            f"{leaks['barcode']:,} cells have the barcode of a cell in a training part. Equal barcodes of two samples occur by chance: up to "
            f"about {chance[0]:,.0f} such cells with a list of {_LISTS[0]:,} barcodes (10x 3' v2), {chance[1]:,.0f} with {_LISTS[1]:,} (v3). "
            "Many more than that are a sign of one library under two names. An equal barcode alone leaves no cell out of training."
        )
    if any(n for kind, n in leaks.items() if kind in CERTAIN):
        said.append(
            "These were left out of the training parts." if facts["drop_twins"]
            else "They were left in the training parts: drop_twins (--drop-twins) leaves them out. Rows: leaks.csv."
        )  # fmt: skip
    return said


def _split(facts: dict[str, Any]) -> str:
    if facts["n_batches"]:
        return (
            f"Each of {facts['n_batches']} donors or batches (`{facts['batch_key']}`) is in one of {facts['n_folds']} folds as a whole, so every "
            "cell is named by methods that have seen no cell of its donor."
        )
    return (
        f"Cells were dealt out at random to {facts['n_folds']} folds: every cell is named by methods that have seen other cells of the same "
        "sample, which is easier than another donor or study is. Name a column of donors to know more."
    )


def _chapters(found: Benchmark) -> list[tuple[str, list[Any]]]:
    """Titles and blocks: sentences, lists of sentences, tables."""
    spread = found.per_type.pivot_table(index="type", columns="method", values="f1", sort=False)
    spread = spread[[name for name in found.table.index if name in spread]]
    cells = found.per_type.drop_duplicates("type").set_index("type")["cells"]
    spread.insert(0, "cells", cells.reindex(spread.index).astype(str))
    wins = [s for s in found.sentences if s.startswith("The baseline")]
    verdict = (
        [] if not found.sentences
        else [f"A baseline is ahead in {len(wins)} of {len(found.sentences)} comparisons." if wins else "No baseline is ahead beyond its interval."]
    )  # fmt: skip
    best = found.table.index[0]
    mistakes = found.per_type[(found.per_type["method"] == best) & (found.per_type["mistaken_for"] != "")]
    mistakes = mistakes.set_index("type")[["recall", "precision", "confidence", "mistaken_for"]]
    return [
        ("Result", [*verdict, found.sentences, shown(found), notes(found.facts)]),
        ("Cells on both sides of a split", [leak_notes(found.facts)]),
        ("F1 of each type", [spread, f"Where `{best}`, the most accurate, goes wrong:", mistakes]),
        (
            "What the columns mean",
            [
                "`macro-F1` is the mean over types, so that rare ones count as much. `ontology similarity` is the mean Lin similarity of answer "
                "and truth in the Cell Ontology. `calibration error` is the mean gap between confidence and accuracy in 15 bins; it is low for a "
                "majority vote, which is useless. `training s` is the median of a fold, `cells/s` of naming, with reading and writing; "
                "`MiB` is by how much the process grew at its highest, in the median run."
            ],
        ),
    ]


def _page(chapters: list[tuple[str, list[Any]]]) -> list[html.Chapter]:
    def block(item: Any) -> str:
        if isinstance(item, pd.DataFrame):
            return html.table(item)
        return "".join(html.text(line) for line in item) if isinstance(item, list) else html.text(item)

    return [html.Chapter(title, [block(item) for item in blocks]) for title, blocks in chapters]


def _markdown(title: str, lead: str, chapters: list[tuple[str, list[Any]]]) -> str:
    lines = [f"# {title}", "", lead, ""]
    for name, blocks in chapters:
        lines += [f"## {name}", ""]
        for item in blocks:
            if isinstance(item, pd.DataFrame):
                lines += [*_rows(item), ""]
            elif isinstance(item, list):
                lines += [*(f"- {line}" for line in item), ""]
            else:
                lines += [item, ""]
    return "\n".join(lines).rstrip() + "\n"


def _rows(table: pd.DataFrame) -> list[str]:
    """A table in Markdown."""
    head = [str(table.index.name or ""), *map(str, table.columns)]
    rows = [
        [str(name), *(_cell(value) for value in row)]
        for name, row in zip(table.index, table.to_numpy(dtype=object), strict=True)
    ]
    escaped = [[text.replace("|", "\\|") for text in row] for row in [head, *rows]]
    return [f"| {' | '.join(row)} |" for row in [escaped[0], ["---"] * len(head), *escaped[1:]]]


def _cell(value: Any) -> str:
    return _number(value, 3) if isinstance(value, float) else str(value)


def _number(value: float, decimals: int) -> str:
    return "–" if value != value else f"{value:,.{decimals}f}"
