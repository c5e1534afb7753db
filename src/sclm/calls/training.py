"""A model trained on a file, and saved whole or not at all."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sclm.calls import arguments as said
from sclm.calls import brief, files
from sclm.calls.running import heard
from sclm.calls.signatures import Parameter, of_function

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def parameters() -> tuple[Parameter, ...]:
    """What ``sclm.train`` takes besides the family, the cells and the options of the family."""
    from sclm import models

    return tuple(p for p in of_function(models.train, "train").parameters if p.name != "family_name")


def train(
    family: str,
    paths: Sequence[str | Path],
    out: str | Path,
    arguments: Mapping[str, Any] | None = None,
    *,
    options: Mapping[str, Any] | None = None,
    backed: bool = False,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Train a family on files of cells and save the model; of several processes that train together the first one saves.

    Parameters
    ----------
    family
        Name of a family: see :func:`sclm.models.available`.
    paths
        One file, or several for families that read their cells as a stream; the counts of several stay on disk, and of those a
        ``.zarr`` may be an annbatch collection.
    out
        Folder of the model, made when it is trained.
    arguments
        What ``sclm.train`` takes by name: ``label_key``, ``obs_keys``, ``layer`` …
    options
        Settings of the family: ``preset``, ``max_epochs`` …
    backed
        Leave the counts of a single ``.h5ad`` or ``.zarr`` on disk too.
    overwrite
        Whether a model that is there may be replaced.

    Returns
    -------
    ``family``, ``model`` (the folder), ``inputs``, ``n_cells``, ``verbs`` (what it can do), ``warnings``, ``seconds``.

    Raises
    ------
    TypeError
        If an argument is unknown or of another kind.
    FileExistsError
        If something is in the place of the folder.
    ValueError, KeyError
        As the training raises them.
    """
    from sclm import models
    from sclm.cells import open_cells
    from sclm.models.contract import VERBS

    start = time.perf_counter()
    given = said.checked("train", parameters(), arguments or {})
    sources = [files.existing(path) for path in paths]
    if not sources:
        raise TypeError("train needs a file of cells, found none.")
    target = files.free(Path(out), inputs=sources, overwrite=overwrite)
    if target.exists() and not (target / "config.json").is_file():
        raise FileExistsError(f"{target} is there and is no model: it is not replaced. Choose another folder.")
    models.family_class(family)  # unknown names fail before anything is read
    with heard() as warnings:
        if backed or len(sources) > 1:
            data = [
                part
                for path in sources
                for part in (open_cells(path) if path.suffix != ".h5mu" else [files.read(path)])
            ]
        else:
            data = [files.read(sources[0])]
        model = models.train(family, data[0] if len(data) == 1 else data, **given, **(options or {}))
        if writes():
            with files.beside(target) as part:
                model.save(part)
    return {
        "family": family,
        "model": str(target),
        "inputs": [str(path) for path in sources],
        "n_cells": sum(int(part.n_obs) for part in data),
        "verbs": [verb for verb in VERBS if hasattr(model, verb)],
        "provenance": brief.short(model.provenance()),
        "warnings": list(dict.fromkeys(warnings)),
        "seconds": round(time.perf_counter() - start, 2),
    }


def writes() -> bool:
    """Whether this process is the one that saves and reports: under torchrun or SLURM the first of those that train together."""
    import sys

    if "torch" not in sys.modules:  # nothing was trained with it
        return True
    from sclm.training import first_process

    return first_process()


def listed() -> list[dict[str, str]]:
    """Families and published checkpoints: ``name``, ``kind``, ``verbs``, ``licence``, ``description``."""
    from sclm import models

    frame = models.available().reset_index()
    return [{str(key): str(value) for key, value in row.items()} for row in frame.to_dict("records")]
