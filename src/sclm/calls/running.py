"""One tool on one file: read, run, write beside and rename, and say in small JSON what happened."""

from __future__ import annotations

import logging
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sclm.calls import arguments as said
from sclm.calls import brief, files, merging, shards, streaming
from sclm.calls.signatures import signature, tool_names
from sclm.cells.containers import table_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import anndata

    from sclm.calls.signatures import Signature

_STREAMED = 20_000  # cells from which on generated cells go to disk while they are made


def run(
    tool: str,
    path: str | Path | None,
    out: str | Path,
    arguments: Mapping[str, Any] | None = None,
    *,
    shard: str | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Call a tool of ``sclm.tl`` on a file.

    The input is never changed. The output appears under its name once it is whole; when the call fails, nothing is there that was
    not there before but for ``<out>.parts``. An AnnData (h5ad or zarr) is not read into memory: counts are read in blocks, and the output is a copy of the file with
    the new columns and matrices. Tools that treat every cell by itself (`annotate`, `embed`,
    `translate`, `pathways`) do files of more than 50,000 cells shard by shard: finished shards are kept in ``<out>.parts``, and the same call
    goes on from there after an interruption. So does `generate` beyond 20,000 cells.

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
    shard
        ``"i/n"``: do the i-th of n shares of the shards only. The same call in n processes, on one machine or several that see the folder,
        does all of them; the one that finds all shards there writes the output. A share that comes when the same call has written the output
        does nothing.
    overwrite
        Whether a file that is there under ``out`` may be replaced.

    Returns
    -------
    ``tool``, ``input``, ``output`` (None while shards of other processes are missing), ``n_cells``, ``n_genes``, ``written`` (what each new key
    holds, in short), ``records`` (model, gene overlap, parameters, tables, in short), ``warnings`` and ``seconds``; ``shards`` where there were any.
    JSON, a few kilobytes, without matrices.

    Raises
    ------
    TypeError
        If an argument is unknown, missing or of another kind.
    FileExistsError
        If ``out`` is there and may not be replaced, or ``<out>.parts`` holds shards of another call.
    FileNotFoundError
        If a file is not there.
    ValueError, KeyError
        As the tool raises them; or if ``shard`` is given and this call cannot be done in shards.
    """
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
    mine = shards.share(shard)
    late = merging.finished(tool, given, inputs, Path(out)) if about.reads and mine is not None else None
    target = files.destination(out, inputs=inputs, overwrite=overwrite or late is not None)
    with heard() as warnings:
        if late is not None:
            found = late
        elif not about.reads:
            found = _made(about, given, target, mine)
        elif target.suffix != ".h5mu" and streaming.streams(inputs[-1]):
            found = _on_disk(about, given, inputs, target, mine)
        else:
            found = _in_memory(about, given, inputs[-1], target, mine)
    return {
        "tool": tool,
        **({"input": str(path)} if path is not None else {}),
        "output": str(target),
        **found,
        "warnings": list(dict.fromkeys(warnings)),
        "seconds": round(time.perf_counter() - start, 2),
    }


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


def _on_disk(
    about: Signature, given: dict[str, Any], inputs: list[Path], target: Path, mine: shards.Share | None
) -> dict[str, Any]:
    """A tool on an AnnData whose matrices stay on disk."""
    from sclm import tl

    def arguments() -> dict[str, Any]:
        return said.loaded(about.parameters, given, given.get("seed", 0))

    source = inputs[-1]
    with streaming.opened(source, [value for value in given.values() if isinstance(value, str)]) as adata:
        table_of(adata, given.get("table_key"), given.get("mod"))
        size = {"n_cells": int(adata.n_obs), "n_genes": int(adata.n_vars)}
        why_not = shards.why_not(about.name, adata, given)
        if mine is not None and why_not is not None:
            raise ValueError(f"{why_not}. Leave shard out.")
        if why_not is None and (mine is not None or adata.n_obs > shards.SHARD_CELLS):
            found = merging.by_shards(
                about.name, adata, given, source=source, target=target, others=inputs[:-1], mine=mine, reference=lambda: arguments()["reference"],
            )  # fmt: skip
            return {**size, **found}
        before = brief.contents(adata)
        getattr(tl, about.name)(adata, **arguments())
        streaming.write(adata, before, source, target)
        return _told(adata, before)


def _in_memory(
    about: Signature, given: dict[str, Any], source: Path, target: Path, mine: shards.Share | None
) -> dict[str, Any]:
    """A tool on anything that is read as a whole: SpatialData, MuData, old layouts."""
    from sclm import tl

    if mine is not None:
        raise ValueError(
            f"shards need an AnnData as .h5ad or .zarr in today's layout, and an output as one of the two, found {source.name} and {target.name}."
        )
    files.check_kind(files.stored_kind(source), target)
    data = files.read(source)
    table = table_of(data, given.get("table_key"), given.get("mod"))
    before = brief.contents(table)
    getattr(tl, about.name)(data, **said.loaded(about.parameters, given, given.get("seed", 0)))
    files.write(data, target)
    return _told(table, before)


def _made(about: Signature, given: dict[str, Any], target: Path, mine: shards.Share | None) -> dict[str, Any]:
    """Cells that a tool makes, on disk."""
    from sclm import tl

    if mine is not None:
        raise ValueError(f"{about.name} reads no file of which a process could do a share. Leave shard out.")
    files.check_kind("AnnData", target)
    function, options = getattr(tl, about.name), said.loaded(about.parameters, given, given.get("seed", 0))
    before: dict[str, dict[str, Any]] = {slot: {} for slot in ("obs", "var", "obsm", "varm", "obsp", "layers", "uns")}
    if len(options["request"]) <= _STREAMED or target.exists():
        cells = function(**options)
        files.write(cells, target)
        return _told(cells, before)
    cells = function(**options, path=target)
    try:
        return _told(cells, before)
    finally:
        if cells.isbacked:
            cells.file.close()


def _told(table: anndata.AnnData, before: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Size, what is new, and the records of a tool."""
    return {
        "n_cells": int(table.n_obs),
        "n_genes": int(table.n_vars),
        "written": brief.written(table, before),
        "records": brief.records(table, before),
    }
