"""Shards of a call put together: the input copied, new columns beside its own, matrices appended shard by shard."""

from __future__ import annotations

import logging
import uuid
from typing import TYPE_CHECKING, Any

from sclm import results
from sclm.calls import brief, files, streaming
from sclm.calls.shards import Shards, bound_arguments, digest, fingerprint

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    import anndata

    from sclm.calls.shards import Share
    from sclm.tl._stages import Stages

logger = logging.getLogger(__name__)


def by_shards(
    tool: str,
    adata: anndata.AnnData,
    given: Mapping[str, Any],
    *,
    source: Path,
    target: Path,
    others: Sequence[Path],
    mine: Share | None,
    reference: Callable[[], Any],
) -> dict[str, Any]:
    """A tool on a large file: the shards that are missing, or a share of them, and the output once all are there.

    Parameters
    ----------
    tool, given
        The tool and its arguments; a reference as its path.
    adata
        The input, from :func:`sclm.calls.streaming.opened`.
    source, target, others
        Input, output, and further files that the arguments name.
    mine
        The share of this process, or None for all that is missing.
    reference
        Reads the reference.

    Returns
    -------
    ``output`` (None while shards are missing), ``shards`` (how many there are, are done, and whose folder), ``written``, ``records``.
    """
    from sclm.tl._stages import stages

    there_before = target.exists()
    call = fingerprint(tool, source, adata, given, others)
    shards, signature = Shards(target, call), digest(call)
    before = brief.contents(adata)

    def late() -> bool:
        return mine is not None and _written_by(signature, target) is not None

    try:
        work = shards.prepare(stages(tool), adata, bound_arguments(tool, given), reference, late)
        if work is None:
            return _late(target, signature)
        shards.work_off(work, mine)
        todo = shards.missing()
        n = len(shards.bounds)
        counted = {"of": n, "done": n - len(todo), "cells": shards.cells}
        if todo:
            logger.info("%s: %d of %d shards are done", target.name, counted["done"], n)
            return {"output": None, "shards": {**counted, "folder": str(shards.folder)}, "written": [], "records": {}}
        shapes = _merge(shards, work, adata, before, source, signature, there_before)
    except FileNotFoundError:
        if _written_by(signature, target) is None:
            raise
        # Another process found all shards at the same time and has put them together before this one could.
        return _late(target, signature)
    return {
        "output": str(target),
        "shards": counted,
        "written": [
            *brief.written(adata, before),
            *({"where": f".obsm[{k!r}]", "shape": s} for k, s in shapes.items()),
        ],
        "records": brief.records(adata, before),
    }


def finished(tool: str, given: Mapping[str, Any], inputs: Sequence[Path], target: Path) -> dict[str, Any] | None:
    """What a share says that comes when the same call, in shards, has written the output; None where it has not.

    Parameters
    ----------
    tool, given
        The tool and its arguments; a reference as its path.
    inputs, target
        Further files that the arguments name and, last, the input; the output.
    """
    *others, source = inputs
    if streaming.signed(target) is None or not streaming.streams(source):
        return None
    with streaming.opened(source) as adata:
        signature = digest(fingerprint(tool, source, adata, given, others))
        size = {"n_cells": int(adata.n_obs), "n_genes": int(adata.n_vars)}
    if _written_by(signature, target) is None:
        return None
    logger.info("%s: this call has written it before", target.name)
    return {**size, **_late(target, signature)}


def _written_by(signature: str, target: Path) -> int | None:
    """In how many shards a call has written the output, or None."""
    noted = streaming.signed(target)
    return noted[1] if noted is not None and noted[0] == signature else None


def _late(target: Path, signature: str) -> dict[str, Any]:
    n = _written_by(signature, target)
    return {"output": str(target), "shards": {"of": n, "done": n}, "written": [], "records": {}}


def _merge(
    shards: Shards,
    work: Stages,
    adata: anndata.AnnData,
    before: Mapping[str, Mapping[str, Any]],
    source: Path,
    signature: str,
    there_before: bool,
) -> dict[str, list[int]]:
    """Write the output and remove the shards; gives the shapes of the new matrices."""
    parts = shards.parts()
    whole = work.whole(parts)
    gone = {name: None for name, rows in whole.obsm.items() if rows is None}
    results.write(adata, whole.key, whole.entry, obs=whole.obs, obsm=gone)  # of the tables in memory; no file changes
    new = {name: rows for name, rows in whole.obsm.items() if rows is not None}
    shapes: dict[str, list[int]] = {}
    # Inside the folder: what a killed process leaves goes with the shards.
    path = shards.folder / f".whole-{uuid.uuid4().hex}{shards.target.suffix}"
    streaming.copied(source, path)
    with streaming.group(path, "r+") as store:
        streaming.sign(store, signature, len(parts))
        for slot, name, value in streaming.changes(adata, before):
            streaming.put(store, slot, name, value)
        for name, rows in new.items():
            streaming.put(store, "obsm", name, None)
            for i, part in enumerate(parts):
                block = rows(part)
                results.extend(store["obsm"], name, block, first=i == 0)
                shapes[name] = [work.source.n_cells, *map(int, block.shape[1:])]
    if there_before or not shards.target.exists():  # else another process found all shards as well, and was faster
        files.replace(path, shards.target)
    shards.remove()
    return shapes
