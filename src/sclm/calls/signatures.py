"""What a tool takes, read from its signature and its docstring."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import re
from pathlib import Path
from typing import Any, NamedTuple

# What a user or an agent can mend; anything else is a mistake of ours and keeps its traceback.
EXPECTED = (ValueError, TypeError, LookupError, OSError, ImportError, ArithmeticError, RuntimeError, MemoryError)
_NO_CALL = {"request"}  # a table, made on the way to `generate`
REQUIRED = inspect.Parameter.empty
KINDS = ("text", "whole", "number", "flag", "names", "texts", "cells", "request")
# Where a file says it: the data are the input, a copy is the output. `path` of generate is the output as well.
_SAID_BY_FILES = {"adata", "copy", "path"}
# Its `request` is not one value: it is what `sclm.request` takes, minus what is the tool's own.
_OF_REQUEST = {"seed"}


class Parameter(NamedTuple):
    """One argument of a tool, as text, numbers and paths.

    Attributes
    ----------
    name
        As in Python.
    kind
        ``"text"``, ``"whole"`` (int), ``"number"`` (float), ``"flag"`` (bool), ``"names"`` (list of text), ``"texts"`` (text or list
        of text), ``"cells"`` (path of an h5ad, zarr or h5mu), ``"request"`` (what to write: a table's path, or fields).
    default
        What it is when left out; ``inspect.Parameter.empty`` where it may not be left out.
    description
        From the docstring, in one line of plain text.
    """

    name: str
    kind: str
    default: Any
    description: str

    @property
    def required(self) -> bool:
        """Whether there is no default."""
        return self.default is REQUIRED


class Signature(NamedTuple):
    """What a tool is for, and what it takes.

    Attributes
    ----------
    name
        In ``sclm.tl``.
    summary
        First sentence of the docstring.
    details
        What follows it, before the parameters.
    reads
        Whether it takes cells (``adata``); `generate` does not.
    parameters
        Those that can be given as text, numbers and paths, in the order of the signature.
    """

    name: str
    summary: str
    details: str
    reads: bool
    parameters: tuple[Parameter, ...]


def tool_names() -> list[str]:
    """Tools that can be called on files, sorted: all of ``sclm.tl`` that write into cells or make them."""
    from sclm import tl

    return sorted(set(tl.__all__) - _NO_CALL)


def in_shards() -> tuple[str, ...]:
    """Tools that can do a large file in shares, since they treat every cell by itself."""
    from sclm.tl._stages import SHARDED

    return tuple(SHARDED)


def summary(tool: str) -> str:
    """First sentence of a tool's docstring, read from its source: a list of tools costs no import.

    Parameters
    ----------
    tool
        Name in ``sclm.tl``.

    Returns
    -------
    Plain text.

    Examples
    --------
    >>> summary("annotate")
    'Name the cell type of every cell, in the words of the Cell Ontology.'
    """
    spec = importlib.util.find_spec(f"sclm.tl._{tool}")
    if spec is None or spec.origin is None:
        raise ValueError(f"sclm.tl has no {tool!r}.")
    for node in ast.parse(Path(spec.origin).read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef) and node.name == tool:
            return plain((ast.get_docstring(node) or "").partition("\n\n")[0])
    return ""


def signature(tool: str) -> Signature:
    """What a tool takes.

    Parameters
    ----------
    tool
        Name in ``sclm.tl``.

    Returns
    -------
    A :class:`Signature`.

    Raises
    ------
    ValueError
        If a parameter that may not be left out is neither text, number nor path.

    Examples
    --------
    >>> {p.name: p.kind for p in signature("annotate").parameters}["reference"]
    'cells'
    """
    from sclm import tl

    return of_function(getattr(tl, tool), tool)


def of_function(function: Any, name: str) -> Signature:
    """The same of any documented function."""
    text = inspect.getdoc(function) or ""
    head = re.split(r"(?m)^[A-Z][A-Za-z ]+\n-{3,}$", text)[0]
    first, _, rest = head.partition("\n\n")
    told = described(text)
    found = []
    parameters = inspect.signature(function).parameters
    for parameter in parameters.values():
        if parameter.name in _SAID_BY_FILES or parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
            continue
        kind = _kind(parameter.name, str(parameter.annotation))
        if kind is None:
            if parameter.default is REQUIRED:
                raise ValueError(
                    f"{name} takes {parameter.name} as {parameter.annotation}, which no file or text can say."
                )
            continue
        found.append(Parameter(parameter.name, kind, parameter.default, told.get(parameter.name, "")))
    return Signature(name, plain(first), plain(rest), "adata" in parameters, tuple(found))


def request_parameters() -> tuple[Parameter, ...]:
    """What a request is made from, out of the signature of ``sclm.request``: without `fields`, which have any name."""
    from sclm.tl import request

    told = described(inspect.getdoc(request) or "")
    kinds = {"n_obs": "whole", "like": "cells", "n_counts": "number", "obs_keys": "names", "layer": "text"}
    kinds |= {"composition": "shares", "donors": "donors"}
    return tuple(
        Parameter(name, kinds[name], None, told.get(name, ""))
        for name in inspect.signature(request).parameters
        if name in kinds and name not in _OF_REQUEST
    )


def described(docstring: str) -> dict[str, str]:
    """Parameter → its description in one line, of a numpy-style docstring."""
    section = re.search(r"(?ms)^Parameters\n-{3,}\n(.*?)(?=^[A-Z][A-Za-z ]+\n-{3,}$|\Z)", docstring)
    found: dict[str, str] = {}
    if section is None:
        return found
    for names, text in re.findall(r"(?m)^(\S[^\n]*)\n((?:(?:[ ]+[^\n]*)?\n?)*?)(?=^\S|\Z)", section[1]):
        for name in names.split(","):
            found[name.strip().lstrip("*")] = plain(text)
    return found


def plain(text: str) -> str:
    """Text of a docstring without markup, in one line."""
    text = re.sub(r":\w+:`~?(?:sclm\.)?([^`<]+)`", r"\1", text)
    text = re.sub(r":math:`([^`]*)`", r"\1", text)
    return " ".join(text.replace("``", "").replace("`", "").split())


def _kind(name: str, annotation: str) -> str | None:
    """How an argument is said, or None where it cannot be."""
    parts = [part.strip() for part in _alternatives(annotation)]
    parts = [part for part in parts if part != "None"]
    if name == "request":
        return "request"
    if name == "reference" or any(part.endswith("AnnData") for part in parts):
        return "cells"
    lists = [part for part in parts if re.match(r"(Sequence|Iterable|list|tuple|Collection)\[\s*(str|tuple)\b", part)]
    if lists:
        return "texts" if "str" in parts else "names"
    for type_, kind in (("str", "text"), ("Path", "text"), ("float", "number"), ("int", "whole"), ("bool", "flag")):
        if type_ in parts or any(part.startswith("Literal[") for part in parts if type_ == "str"):
            return kind
    return None


def _alternatives(annotation: str) -> list[str]:
    """``"A | B[C | D]"`` → ``["A", "B[C | D]"]``."""
    parts, depth, start = [], 0, 0
    for i, character in enumerate(annotation):
        depth += (character == "[") - (character == "]")
        if character == "|" and depth == 0:
            parts.append(annotation[start:i])
            start = i + 1
    return [*parts, annotation[start:]]
