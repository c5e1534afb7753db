"""Arguments of a tool as a command line or an agent says them, turned into what the tool takes; refused before any work."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sclm.calls import files
from sclm.calls.signatures import Parameter, request_parameters

if TYPE_CHECKING:
    import pandas as pd

_TABLES = (".csv", ".tsv", ".parquet")
_WHAT = {
    "text": "text",
    "whole": "a whole number",
    "number": "a number",
    "flag": "true or false",
    "names": "a list of text",
    "texts": "text or a list of text",
    "cells": "the path of a file of cells (.h5ad, .zarr, .h5mu)",
    "request": "the path of a table (.csv, .tsv, .parquet), or an object with fields, n_obs, composition …",
    "shares": "an object: name to share or number of cells",
    "donors": "a whole number, or a list of names",
}


def checked(tool: str, parameters: tuple[Parameter, ...], arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments with the right names and kinds; files are looked for, not read.

    Parameters
    ----------
    tool
        For messages.
    parameters
        What it takes.
    arguments
        Name → value; None is as left out.

    Returns
    -------
    The arguments that were given.

    Raises
    ------
    TypeError
        If a name is unknown (near ones are named), a value is of another kind, or one is missing that has no default.
    FileNotFoundError
        If a file is not there.
    """
    known = {parameter.name: parameter for parameter in parameters}
    for name in arguments:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
            hint = f" Did you mean {' or '.join(near)}?" if near else f" It takes {', '.join(known)}."
            raise TypeError(f"{tool} takes no argument {name!r}.{hint}")
    given = {name: _of_kind(known[name], value) for name, value in arguments.items() if value is not None}
    if missing := [p.name for p in parameters if p.required and p.name not in given]:
        first = known[missing[0]]
        raise TypeError(f"{tool} needs {' and '.join(missing)}: {first.description or _WHAT[first.kind]}")
    return given


def loaded(parameters: tuple[Parameter, ...], given: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """The same, with files of cells read and requests made."""
    kinds = {parameter.name: parameter.kind for parameter in parameters}
    found = dict(given)
    for name, value in given.items():
        if kinds[name] == "cells":
            found[name] = [files.read(v) for v in value] if isinstance(value, list) else files.read(value)
        elif kinds[name] == "request":
            found[name] = _request(value, seed)
    return found


def paths(parameters: tuple[Parameter, ...], given: Mapping[str, Any]) -> list[Path]:
    """Every file that the arguments name."""
    found: list[Path] = []
    for parameter in parameters:
        value = given.get(parameter.name)
        if parameter.kind == "cells" and value is not None:
            found += [Path(v) for v in value] if isinstance(value, list) else [Path(value)]
        elif parameter.kind == "request" and isinstance(value, Mapping) and value.get("like") is not None:
            found.append(Path(value["like"]))
        elif parameter.kind == "request" and isinstance(value, str | Path):
            found.append(Path(value))
    return found


def read_table(path: str | Path) -> pd.DataFrame:
    """A table of metadata, one row a cell or a kind of cell."""
    import pandas as pd

    path = Path(path)
    if path.suffix not in _TABLES:
        raise ValueError(f"a table must end in {', '.join(_TABLES[:-1])} or {_TABLES[-1]}, found {path.name!r}.")
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there.")
    if path.suffix == ".parquet":
        return pd.read_parquet(path)
    return pd.read_csv(path, sep="\t" if path.suffix == ".tsv" else ",")


def _of_kind(parameter: Parameter, value: Any) -> Any:
    kind = parameter.kind
    if kind == "texts" or kind == "names":
        if isinstance(value, str):
            return value if kind == "texts" else [value]
        fits = isinstance(value, list | tuple) and len(value) > 0 and all(isinstance(v, str) for v in value)
        value = list(value) if fits else value
    elif kind == "cells":
        if isinstance(value, str | Path):
            return str(files.existing(value))
        fits = isinstance(value, list) and len(value) > 0 and all(isinstance(v, str | Path) for v in value)
        value = [str(files.existing(v)) for v in value] if fits else value
    elif kind == "number":
        fits = isinstance(value, int | float) and not isinstance(value, bool)
    elif kind == "whole":
        fits = isinstance(value, int) and not isinstance(value, bool)
    elif kind == "flag":
        fits = isinstance(value, bool)
    elif kind == "text":
        fits = isinstance(value, str | Path)
        value = str(value) if fits else value
    elif kind == "shares":
        fits = isinstance(value, Mapping)
    elif kind == "donors":
        fits = isinstance(value, int | list) and not isinstance(value, bool)
    else:
        fits = isinstance(value, str | Path | Mapping)
        if isinstance(value, Mapping):
            fields = {"fields": value["fields"]} if isinstance(value.get("fields"), Mapping) else {}
            rest = {k: v for k, v in value.items() if k != "fields" or not fields}
            value = {**checked("request", request_parameters(), rest), **fields}
    if not fits:
        raise TypeError(f"{parameter.name} must be {_WHAT[kind]}, found {type(value).__name__} {value!r:.60}.")
    return value


def _request(value: Any, seed: int) -> pd.DataFrame:
    """One row a cell to write: of a table, or of fields."""
    from sclm.tl import request

    if not isinstance(value, Mapping):
        return request(like=read_table(value), seed=seed)
    options = dict(value)
    fields = options.pop("fields", {})
    if options.get("like") is not None:
        options["like"] = files.read(options["like"])
    return request(**options, **fields, seed=seed)
