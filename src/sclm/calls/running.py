"""One tool on one file: read, run, write beside and rename, and say in small JSON what happened."""

from __future__ import annotations

import logging
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from sclm.calls import arguments as said
from sclm.calls import brief, files
from sclm.calls.signatures import signature, tool_names
from sclm.cells.containers import table_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

_STREAMED = 20_000  # cells from which on generated cells go to disk while they are made


def run(
    tool: str,
    path: str | Path | None,
    out: str | Path,
    arguments: Mapping[str, Any] | None = None,
    *,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Call a tool of ``sclm.tl`` on a file.

    The input is never changed. The output appears under its name once it is whole; when the call fails, nothing is there that was
    not there before. Generated cells beyond 20,000 are written while they are made, into ``<out>.parts``; the same call goes on from there
    after an interruption.

    Parameters
    ----------
    tool
        Name in ``sclm.tl``.
    path
        File of cells; None for `generate`.
    out
        File to write: ``.h5ad``, ``.zarr`` or ``.h5mu``.
    arguments
        Name → text, number, list of text, or path: see :func:`sclm.calls.signature`.
    overwrite
        Whether a file that is there under ``out`` may be replaced.

    Returns
    -------
    ``tool``, ``input``, ``output``, ``n_cells``, ``n_genes``, ``written`` (what each new key holds, in short), ``records`` (model, gene
    overlap, parameters, tables, in short), ``warnings`` and ``seconds``. JSON, a few kilobytes, without matrices.

    Raises
    ------
    TypeError
        If an argument is unknown, missing or of another kind.
    FileExistsError
        If ``out`` is there and may not be replaced.
    FileNotFoundError
        If a file is not there.
    ValueError, KeyError
        As the tool raises them.
    """
    from sclm import tl

    start = time.perf_counter()
    if tool not in tool_names():
        raise ValueError(f"there is no tool {tool!r}. There are {', '.join(tool_names())}.")
    about = signature(tool)
    given = said.checked(tool, about.parameters, arguments or {})
    inputs = said.paths(about.parameters, given)
    if about.reads:
        if path is None:
            raise TypeError(f"{tool} needs a file of cells, found none.")
        inputs.append(files.existing(path))
    elif path is not None:
        raise TypeError(f"{tool} makes its own cells and reads none, found {path}.")
    target = files.destination(out, inputs=inputs, overwrite=overwrite)
    function = getattr(tl, tool)
    with heard() as warnings:
        if about.reads:
            data = files.read(inputs[-1])
            table = table_of(data, given.get("table_key"), given.get("mod"))
            before = brief.contents(table)
            function(data, **said.loaded(about.parameters, given, given.get("seed", 0)))
            files.write(data, target)
        else:
            before = {slot: {} for slot in ("obs", "var", "obsm", "varm", "obsp", "layers", "uns")}
            table = _made(function, said.loaded(about.parameters, given, given.get("seed", 0)), target)
    try:
        return {
            "tool": tool,
            **({"input": str(path)} if path is not None else {}),
            "output": str(target),
            "n_cells": int(table.n_obs),
            "n_genes": int(table.n_vars),
            "written": brief.written(table, before),
            "records": brief.records(table, before),
            "warnings": list(dict.fromkeys(warnings)),
            "seconds": round(time.perf_counter() - start, 2),
        }
    finally:
        if table.isbacked:
            table.file.close()


@contextmanager
def heard() -> Iterator[list[str]]:
    """Warnings that sclm logs while the block runs."""
    messages: list[str] = []

    class Ear(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            messages.append(record.getMessage())

    ear, logger = Ear(logging.WARNING), logging.getLogger("sclm")
    logger.addHandler(ear)
    try:
        yield messages
    finally:
        logger.removeHandler(ear)


def _made(function: Any, given: dict[str, Any], target: Path) -> Any:
    """Cells that a tool makes, on disk."""
    if len(given["request"]) <= _STREAMED or target.exists():
        cells = function(**given)
        files.write(cells, target)
        return cells
    return function(**given, path=target)
