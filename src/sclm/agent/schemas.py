"""Names, descriptions and JSON schemas of the tools, from their signatures and docstrings."""

from __future__ import annotations

import inspect
from typing import Any

from sclm.calls.signatures import (
    Parameter,
    Signature,
    described,
    plain,
    request_parameters,
    signature,
    tool_names,
)

# Tools of `sclm.tl` that share a name here, so that an agent reads twelve descriptions at most. A tool without a group has its own name.
GROUPS: dict[str, tuple[str, tuple[str, ...]]] = {
    "measure": (
        "Give every cell numbers: vectors, activities of pathways, proteins.",
        ("embed", "pathways", "translate"),
    ),
    "tissue": ("Say how cells lie in a tissue section, with nulls.", ("domains", "interface", "ligrec")),
}
ANALYSIS = "analysis"  # the argument that says which tool of a group
# `adopt` takes what other packages gave a user; an agent has no such thing.
NOT_FOR_AGENTS = frozenset({"adopt"})
OWN = ("check", "models", "train", "read")
MAX_TOOLS = 12
_UNSAID = {"batch_size"}  # memory is chosen by the tools
_LONG, _ARGUMENT = 700, 260  # characters of a description
_TYPES: dict[str, dict[str, Any]] = {
    "text": {"type": "string"},
    "whole": {"type": "integer"},
    "number": {"type": "number"},
    "flag": {"type": "boolean"},
    "names": {"type": "array", "items": {"type": "string"}, "minItems": 1},
    "texts": {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}]},
    "cells": {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}]},
    "shares": {"type": "object", "additionalProperties": {"type": "number"}},
    "donors": {"anyOf": [{"type": "integer"}, {"type": "array", "items": {"type": "string"}}]},
}
_PATH = "File of cells: .h5ad, .zarr or .h5mu. It is never changed."
_OUTPUT = "File to write: .h5ad, .zarr or .h5mu. It appears once it is whole."
_OVERWRITE = {"type": "boolean", "default": False, "description": "Replace the output if it is there."}
_ANSWER = {
    "type": "object",
    "properties": {
        "ok": {"type": "boolean"},
        "output": {"type": "string", "description": "The file that was written."},
        "written": {"type": "array", "items": {"type": "object"}, "description": "Each new key, with its top values, range or shape."},
        "records": {"type": "object", "description": "Model, gene overlap and tables of each result, in short."},
        "warnings": {"type": "array", "items": {"type": "string"}},
        "error": {"type": "object", "properties": {"type": {"type": "string"}, "message": {"type": "string"}}},
    },
    "required": ["ok"],
}  # fmt: skip


def tools() -> list[dict[str, Any]]:
    """What an agent can call: at most twelve tools.

    Returns
    -------
    ``{"name", "description", "input_schema", "output_schema"}`` each; the schemas are JSON Schema (draft 2020-12) without references, as
    providers of language models take them.

    Examples
    --------
    >>> [tool["name"] for tool in tools()][:4]
    ['check', 'models', 'train', 'read']
    """
    grouped = {name for _, names in GROUPS.values() for name in names}
    there = [name for name in tool_names() if name not in NOT_FOR_AGENTS]
    found = [_own(name) for name in OWN]
    found += [_single(signature(name)) for name in there if name not in grouped]
    for group, (text, names) in GROUPS.items():
        if members := [signature(name) for name in names if name in there]:
            found.append(_group(group, text, members))
    return found


def members(name: str) -> tuple[str, ...]:
    """The tools of ``sclm.tl`` behind a name."""
    if name in GROUPS:
        return tuple(tool for tool in GROUPS[name][1] if tool in tool_names())
    return (name,) if name in tool_names() and name not in NOT_FOR_AGENTS else ()


def _single(about: Signature) -> dict[str, Any]:
    properties, required = _properties(about)
    return _tool(about.name, f"{about.summary} {about.details}", properties, required)


def _group(name: str, text: str, tools: list[Signature]) -> dict[str, Any]:
    """Several tools under one name: the union of their arguments, each saying whose it is."""
    lines = [f"{about.name}: {about.summary}" for about in tools]
    properties: dict[str, Any] = {
        ANALYSIS: {"type": "string", "enum": [about.name for about in tools], "description": "Which of them."}
    }
    owners: dict[str, list[str]] = {}
    for about in tools:
        needed = {parameter.name for parameter in about.parameters if parameter.required}
        for key, value in _properties(about)[0].items():
            known = properties.setdefault(key, dict(value))
            if known.get("default") != value.get("default"):
                known.pop("default", None)
            owners.setdefault(key, []).append(f"{about.name}, needed" if key in needed else about.name)
    for key, names in owners.items():
        if len(names) < len(tools) or any("needed" in owner for owner in names):
            properties[key]["description"] = f"({'; '.join(names)}) {properties[key].get('description', '')}"
    return _tool(name, " ".join([text, *lines]), properties, [ANALYSIS, "path", "output"])


def _properties(about: Signature) -> tuple[dict[str, Any], list[str]]:
    properties: dict[str, Any] = {}
    if about.reads:
        properties["path"] = {"type": "string", "description": _PATH}
    properties["output"] = {"type": "string", "description": _OUTPUT}
    for parameter in about.parameters:
        if parameter.name not in _UNSAID:
            properties[parameter.name] = _property(parameter)
    properties["overwrite"] = _OVERWRITE
    return properties, [*(["path"] if about.reads else []), "output", *(p.name for p in about.parameters if p.required)]


def _property(parameter: Parameter) -> dict[str, Any]:
    if parameter.kind == "request":
        parts = {part.name: _property(part) for part in request_parameters()}
        fields = {
            "type": "object",
            "description": 'Metadata of all cells, such as {"tissue": "lung"}.',
            "additionalProperties": {"type": "string"},
        }
        return {
            "type": "object",
            "description": "Which cells to write.",
            "properties": {"fields": fields, **parts},
            "additionalProperties": False,
        }  # fmt: skip
    found = {**_TYPES[parameter.kind], "description": _cut(parameter.description, _ARGUMENT)}
    if parameter.kind == "cells":
        found["description"] = _cut(f"Path of a file. {parameter.description}", _ARGUMENT)
    if (
        not parameter.required
        and parameter.default is not None
        and isinstance(parameter.default, str | int | float | bool)
    ):
        found["default"] = parameter.default
    return found


def _own(name: str) -> dict[str, Any]:
    """A tool that is not of ``sclm.tl``."""
    from sclm.agent import calling

    function = getattr(calling, f"do_{name}")
    text = inspect.getdoc(function) or ""
    told = described(text)
    properties: dict[str, Any] = {}
    required = []
    for key, parameter in inspect.signature(function).parameters.items():
        properties[key] = {**calling.ARGUMENTS[name][key], "description": _cut(told[key], _ARGUMENT)}
        if parameter.default is parameter.empty:
            required.append(key)
        elif parameter.default is not None:
            properties[key]["default"] = parameter.default
    if name == "read":
        from sclm import get

        properties["result"]["enum"] = list(get.__all__)
    head = plain(text.partition("\nParameters\n")[0])
    return _tool(name, head, properties, required)


def _tool(name: str, text: str, properties: dict[str, Any], required: list[str]) -> dict[str, Any]:
    schema = {"type": "object", "properties": properties, "required": required, "additionalProperties": False}
    return {"name": name, "description": _cut(text, _LONG), "input_schema": schema, "output_schema": _ANSWER}


def _cut(text: str, length: int) -> str:
    """The first sentences that fit."""
    if len(text) <= length:
        return text
    end = max(text.rfind(". ", 0, length), text.rfind("; ", 0, length))
    return text[: end + 1] if end > length // 3 else text[: length - 1] + "…"
