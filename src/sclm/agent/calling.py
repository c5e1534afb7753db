"""A call by name with JSON arguments, answered in JSON; what goes wrong is an answer too."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from sclm.agent.schemas import ANALYSIS, GROUPS, OWN, members
from sclm.calls.signatures import EXPECTED

if TYPE_CHECKING:
    from collections.abc import Mapping

_ROWS, _COLUMNS = 50, 40
_TEXT, _OBJECT = {"type": "string"}, {"type": "object"}
_NAMES = {"type": "array", "items": {"type": "string"}, "minItems": 1}
# Kinds of the arguments of the tools below; their words are in the docstrings.
ARGUMENTS: dict[str, dict[str, dict[str, Any]]] = {
    "check": {"path": _TEXT, "model": _TEXT, "table_key": _TEXT, "mod": _TEXT},
    "models": {"verb": _TEXT},
    "train": {
        "family": _TEXT, "paths": _NAMES, "output": _TEXT, "arguments": _OBJECT, "options": _OBJECT, "overwrite": {"type": "boolean"},
    },
    "read": {
        "path": _TEXT, "result": _TEXT, "key": _TEXT, "options": _OBJECT, "table_key": _TEXT, "mod": _TEXT, "where": _OBJECT, "sort_by": _TEXT, "ascending": {"type": "boolean"},
        "rows": {"type": "integer", "minimum": 1, "maximum": _ROWS},
    },
}  # fmt: skip


def call(name: str, args: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Call a tool on files.

    Parameters
    ----------
    name
        Of :func:`sclm.agent.tools`.
    args
        What its ``input_schema`` says. Files are named by path; nothing else is read, and only ``output`` is written.

    Returns
    -------
    JSON, at most a few kilobytes: ``"ok": True`` and what the tool says (keys written, top labels, confidences, warnings, paths), or
    ``"ok": False`` and ``"error": {"type", "message"}``, where the message says what was expected, what was found, and what to do.
    Nothing was written then but for the finished shards in ``<output>.parts``.

    Examples
    --------
    >>> call("annotate", {"path": "no-such-file.h5ad", "output": "out.h5ad"})
    {'ok': False, 'error': {'type': 'FileNotFoundError', 'message': 'no-such-file.h5ad is not there.'}}
    """
    try:
        return {"ok": True, **_called(name, dict(args or {}))}
    except EXPECTED as error:
        message = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
        return {"ok": False, "error": {"type": type(error).__name__, "message": message}}


def do_check(
    path: str, model: str | None = None, table_key: str | None = None, mod: str | None = None
) -> dict[str, Any]:
    """Say what a file of cells is, what is wrong with it, and which tools and models fit. Call it first.

    Parameters
    ----------
    path
        File of cells: .h5ad, .zarr or .h5mu.
    model
        A trained model's folder or published name: how many of its genes the file has.
    table_key
        Table of a SpatialData.
    mod
        Modality of a MuData.
    """
    from sclm.calls import check

    report = check(path, model=model, table_key=table_key, mod=mod)
    # The agent knows the tools from their schemas: whether they fit and the models behind them are what is new.
    report["tools"] = {n: {k: v for k, v in tool.items() if k != "command"} for n, tool in report["tools"].items()}
    return report


def do_models(verb: str | None = None) -> dict[str, Any]:
    """List the model families and published checkpoints.

    Parameters
    ----------
    verb
        Only those that can do this, such as "annotate", "generate", "embed", "map", "perturb", "translate" or "describe".
    """
    from sclm.calls.training import listed

    rows = [row for row in listed() if verb is None or verb in row["verbs"].split(", ")]
    if verb is not None and not rows:
        known = sorted({v for row in listed() for v in row["verbs"].split(", ") if v})
        raise ValueError(f"no model can {verb!r}; verbs are {', '.join(known)}.")
    return {"models": rows}


def do_train(
    family: str,
    paths: list[str],
    output: str,
    arguments: dict[str, Any] | None = None,
    options: dict[str, Any] | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Train a model family on labelled cells and save it to a folder, which other tools take as model.

    Parameters
    ----------
    family
        Name of a family: see the tool models.
    paths
        Files of cells to learn from.
    output
        Folder of the model.
    arguments
        label_key (column with cell types, for annotators), obs_keys (list of metadata columns, for generators), batch_key (donor),
        perturbation_key, protein_key, layer, gene_key, seed.
    options
        Settings of the family, such as {"preset": "small", "max_epochs": 5}.
    overwrite
        Replace a model that is there.
    """
    from sclm.calls import train

    return train(family, paths, output, arguments, options=options, overwrite=overwrite)


def do_read(
    path: str,
    result: str,
    key: str | None = None,
    options: dict[str, Any] | None = None,
    table_key: str | None = None,
    mod: str | None = None,
    where: dict[str, Any] | None = None,
    sort_by: str | None = None,
    ascending: bool = False,
    rows: int = 20,
) -> dict[str, Any]:
    """Read a table of results out of a file that a tool wrote: cell types, effects of perturbations, pathways, expected proteins …

    Parameters
    ----------
    path
        The output of a tool.
    result
        Name of a table of sclm.get, most often the name of the tool: "annotate", "perturb", "map_spatial", "describe" …
    key
        key_added of that call, where it was not the default.
    options
        What else that function takes, such as {"groups": true} for groups instead of cells ("describe", "pathways").
    table_key
        Table of a SpatialData.
    mod
        Modality of a MuData.
    where
        Only rows with these values, such as {"cell_type": "B cell"}.
    sort_by
        Column to sort by, largest first.
    ascending
        Smallest first.
    rows
        Number of rows, at most 50.
    """
    from sclm import get
    from sclm.calls import brief, streaming
    from sclm.cells.containers import table_of

    if result not in get.__all__:
        raise ValueError(f"there is no table {result!r}. There are {', '.join(get.__all__)}.")
    function = getattr(get, result)
    if not isinstance(rows, int) or not 1 <= rows <= _ROWS:
        raise ValueError(f"rows must be a whole number from 1 to {_ROWS}, found {rows!r}.")
    given = {**(options or {}), **({} if key is None else {"key": key})}
    takes = list(inspect.signature(function).parameters)[1:]
    if unknown := [name for name in given if name not in takes]:
        raise TypeError(f"the table {result} takes no {unknown[0]!r}; it takes {', '.join(takes)}.")
    with streaming.matrices_left(path) as data:
        table = function(table_of(data, table_key, mod), **given)
    if not hasattr(table, "columns"):
        raise ValueError(f"{result} is no single table. It is in {path}.")
    if table.shape[1] > _COLUMNS:
        raise ValueError(
            f"{result} is a matrix of {table.shape[0]:,} x {table.shape[1]:,}, which is not read out. It is in {path}."
        )
    for column, value in (where or {}).items():
        if column not in table:
            raise KeyError(f"the table has no column {column!r}; it has {', '.join(map(str, table.columns))}.")
        table = table[table[column].astype(str) == str(value)]
    if sort_by is not None:
        if sort_by not in table:
            raise KeyError(f"the table has no column {sort_by!r}; it has {', '.join(map(str, table.columns))}.")
        table = table.sort_values(sort_by, ascending=ascending)
    return {"path": path, "columns": [str(name) for name in table.columns], **brief.table(table, rows)}


def _called(name: str, args: dict[str, Any]) -> dict[str, Any]:
    if name in OWN:
        return _own(name, args)
    tools = members(name)
    if not tools:
        from sclm.agent.schemas import tools as listed

        raise ValueError(f"there is no tool {name!r}. There are {', '.join(tool['name'] for tool in listed())}.")
    tool = name
    if name in GROUPS:
        tool = args.pop(ANALYSIS, None)
        if tool not in tools:
            raise ValueError(f"{ANALYSIS} must be one of {', '.join(tools)}, found {tool!r}.")
    from sclm.calls import run

    if "output" not in args:
        raise TypeError(f"{name} needs output: the file to write.")
    path, output, overwrite = args.pop("path", None), args.pop("output"), args.pop("overwrite", False)
    _text("path", path)
    _text("output", output)
    if not isinstance(overwrite, bool):
        raise TypeError(f"overwrite must be true or false, found {overwrite!r}.")
    return run(tool, path, output, args, overwrite=overwrite)


def _own(name: str, args: dict[str, Any]) -> dict[str, Any]:
    function = globals()[f"do_{name}"]
    takes = inspect.signature(function).parameters
    if extra := [key for key in args if key not in takes]:
        raise TypeError(f"{name} takes no argument {extra[0]!r}. It takes {', '.join(takes)}.")
    if missing := [key for key, p in takes.items() if p.default is p.empty and key not in args]:
        raise TypeError(f"{name} needs {' and '.join(missing)}.")
    kinds = {"string": str, "boolean": bool, "integer": int, "object": dict, "array": list}
    for key, value in args.items():
        expected = kinds[ARGUMENTS[name][key]["type"]]
        if value is not None and (not isinstance(value, expected) or (expected is int and isinstance(value, bool))):
            raise TypeError(f"{key} must be of type {ARGUMENTS[name][key]['type']}, found {type(value).__name__}.")
    return function(**args)


def _text(name: str, value: Any) -> None:
    if value is not None and not isinstance(value, str):
        raise TypeError(f"{name} must be the path of a file, found {type(value).__name__}.")
