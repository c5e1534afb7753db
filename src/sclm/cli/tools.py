"""A command made from the signature of a tool: an option a parameter, with the words of the docstring."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Annotated, Any

import typer

from sclm.calls.signatures import Parameter, Signature, in_shards, request_parameters, signature
from sclm.cli import output

_TYPES: dict[str, Any] = {
    "text": str, "whole": int, "number": float, "flag": bool, "names": list[str], "texts": list[str], "cells": list[Path],
    "shares": list[str], "donors": str,
}  # fmt: skip
_METAVARS = {
    "text": "TEXT", "whole": "NUMBER", "number": "NUMBER", "names": "TEXT", "texts": "TEXT", "cells": "FILE",
    "shares": "NAME=NUMBER", "donors": "NUMBER|NAMES",
}  # fmt: skip
# How parts of a request are called on the command line, where a tool may have a `layer` of its own.
_REQUEST_NAMES = {"layer": "like_layer", "obs_keys": "like_keys"}
_EVERYWHERE = ("overwrite", "json", "verbose")


def tool_command(name: str) -> Any:
    """The function behind a command, with the signature that typer reads."""
    about = signature(name)
    options = _options(about)

    def command(**values: Any) -> None:
        overwrite, as_json, verbose = (values.pop(key) for key in _EVERYWHERE)
        path, out, shard = values.pop("path", None), values.pop("out"), values.pop("shard", None)
        arguments = _arguments(about, values)
        from sclm.calls.running import run

        output.answer(
            lambda: run(name, path, out, arguments, shard=shard, overwrite=overwrite),
            output.of_run,
            as_json=as_json,
            verbose=verbose,
        )

    command.__doc__ = f"{about.summary}\n\n{about.details}" if about.details else about.summary
    command.__signature__ = inspect.Signature(options)  # type: ignore[attr-defined]
    command.__annotations__ = {option.name: option.annotation for option in options}
    return command


def _options(about: Signature) -> list[inspect.Parameter]:
    """Input, output, the tool's own, and those of every command."""
    found = []
    if about.reads:
        found.append(_argument("path", Path, "Cells to read (.h5ad, .zarr, .h5mu); never changed."))
    found.append(
        _option(
            "out",
            Path,
            inspect.Parameter.empty,
            "-o",
            "--out",
            help_text="File to write (.h5ad, .zarr, .h5mu).",
            metavar="FILE",
        )
    )
    for parameter in about.parameters:
        if parameter.kind == "request":
            found += _request_options(parameter)
        else:
            found.append(_of(parameter))
    if about.name in in_shards():
        text = "Do the i-th of n shares of a large file; the process that finds all of them done writes the output."
        found.append(_option("shard", str, None, "--shard", help_text=text, metavar="I/N"))
    return [*found, *everywhere()]


def everywhere() -> list[inspect.Parameter]:
    """Options that every command has."""
    return [
        _option(
            "overwrite",
            bool,
            False,
            "--overwrite",
            help_text="Replace the output if it is there, once the new one is whole.",
        ),
        _option("json", bool, False, "--json", help_text="Print one JSON object instead of text."),
        _option("verbose", bool, False, "-v", "--verbose", help_text="Log what is done, on standard error."),
    ]


def _of(parameter: Parameter, name: str | None = None) -> inspect.Parameter:
    name = name or parameter.name
    flag = f"--{name.replace('_', '-')}"
    default = parameter.default
    if parameter.kind in ("names", "texts", "cells", "shares"):
        default = list(default) if isinstance(default, list | tuple) else default
        default = [default] if isinstance(default, str) else default
        text = parameter.description + (" May be given several times." if parameter.kind != "cells" else " (a file)")
    else:
        text = parameter.description
    return _option(name, _TYPES[parameter.kind], default, flag, help_text=text, metavar=_METAVARS.get(parameter.kind))


def _request_options(request: Parameter) -> list[inspect.Parameter]:
    """What to write, said in options: a table, or fields and numbers."""
    needed = "" if request.required else " Cells are written only where one of these is given."
    found = [
        _option("request", Path, None, "--request", metavar="FILE", help_text=f"Table (.csv, .tsv, .parquet) with one row a cell to write, or a column n_obs.{needed}"),
        _option("field", list[str], None, "--field", metavar="NAME=VALUE", help_text="Metadata of all cells, such as tissue=lung. May be given several times."),
    ]  # fmt: skip
    return found + [_of(part, _REQUEST_NAMES.get(part.name, part.name)) for part in request_parameters()]


def _arguments(about: Signature, values: dict[str, Any]) -> dict[str, Any]:
    """Options as the tool's arguments."""
    found: dict[str, Any] = {}
    for parameter in about.parameters:
        if parameter.kind == "request":
            request = _request(values)
            if request is not None:
                found[parameter.name] = request
            continue
        value = values[parameter.name]
        if parameter.kind == "cells" and value:
            value = [str(path) for path in value]
            value = value[0] if len(value) == 1 else value
        elif parameter.kind == "texts" and value and len(value) == 1:
            value = value[0]
        found[parameter.name] = None if value == [] else value
    return found


def _request(values: dict[str, Any]) -> Any:
    parts = {part.name: values[_REQUEST_NAMES.get(part.name, part.name)] for part in request_parameters()}
    given = {name: value for name, value in parts.items() if value not in (None, [])}
    fields = dict(pair(text, "--field") for text in values["field"] or [])
    if values["request"] is not None:
        if given or fields:
            raise typer.BadParameter("--request is a whole table: leave out the options that describe cells.")
        return str(values["request"])
    if not given and not fields:
        return None
    if "like" in given:
        given["like"] = str(given["like"][0])
    if "composition" in given:
        shares = dict(pair(text, "--composition") for text in given["composition"])
        given["composition"] = {name: _number(value, name) for name, value in shares.items()}
    if str(given.get("donors", "")).isdecimal():
        given["donors"] = int(given["donors"])
    elif "donors" in given:
        given["donors"] = [name.strip() for name in given["donors"].split(",")]
    return {**given, "fields": fields}


def pair(text: str, option: str) -> tuple[str, str]:
    """``"name=value"`` in two."""
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise typer.BadParameter(f"{option} takes name=value, found {text!r}.")
    return name, value


def _number(text: str, name: str) -> int | float:
    try:
        return int(text) if text.isdecimal() else float(text)
    except ValueError as error:
        raise typer.BadParameter(f"--composition takes a number for {name!r}, found {text!r}.") from error


def _argument(name: str, type_: Any, text: str) -> inspect.Parameter:
    annotation = Annotated[type_, typer.Argument(help=text)]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation)


def _option(
    name: str, type_: Any, default: Any, *flags: str, help_text: str, metavar: str | None = None
) -> inspect.Parameter:
    required = default is inspect.Parameter.empty
    type_ = type_ if required or default is not None else type_ | None
    option = typer.Option(*flags, help=help_text, show_default=default not in (None, False), metavar=metavar)
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=Annotated[type_, option], default=default)
