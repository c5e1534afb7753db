"""A comparison on a file, its result as small JSON: behind the command line."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from sclm.benchmark.running import run
from sclm.benchmark.writing import leak_notes, notes, shown, write
from sclm.calls import files
from sclm.calls.running import heard

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path


def run_file(path: str | Path, out: str | Path, models: Sequence[str], arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Compare models on a file of labelled cells, and write tables and the report.

    Parameters
    ----------
    path
        File of cells, never changed.
    out
        Folder of the report.
    models
        Families, folders, published names.
    arguments
        Of :func:`sclm.benchmark.run`.

    Returns
    -------
    ``input``, ``output``, ``report``, ``n_cells``, ``methods`` (name → scores), ``differences``, ``sentences``, ``notes``, ``leaks``,
    ``failed``, ``warnings``, ``seconds``, and ``text``, the table for people. JSON.
    """
    start = time.perf_counter()
    path = files.existing(path)
    with heard() as warnings:
        found = run(files.read(path), list(models), out=out, **arguments)
        written = write(found, out)
    scores = found.table.drop(columns="kind").astype(float).round(4)
    return {
        "input": str(path),
        "output": str(out),
        "report": str(written["report"]),
        "n_cells": found.facts["n_cells"],
        "methods": {
            str(name): {"kind": found.facts["kinds"][str(name)], **{k: None if v != v else v for k, v in row.items()}}
            for name, row in scores.to_dict("index").items()
        },
        "differences": found.differences.round(4).to_dict("records"),
        "sentences": found.sentences,
        "notes": [*notes(found.facts), *leak_notes(found.facts)],
        "leaks": found.facts["leaks"],
        "failed": found.facts["failed"],
        "warnings": list(dict.fromkeys(warnings)),
        "seconds": round(time.perf_counter() - start, 2),
        "text": shown(found).to_string(),
    }
