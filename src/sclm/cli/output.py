"""What a command prints: progress and messages on standard error, results on standard output, one JSON object if asked."""

from __future__ import annotations

import contextlib
import json
import logging
import sys
from typing import TYPE_CHECKING, Any

import typer

from sclm.calls.signatures import EXPECTED

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

FAILED = 1


def answer(
    work: Callable[[], dict[str, Any]], show: Callable[[dict[str, Any]], str], *, as_json: bool, verbose: bool
) -> None:
    """Do the work of a command and print its result; exit with 1 and one line when it fails.

    Parameters
    ----------
    work
        Gives the result. Whatever it prints goes to standard error.
    show
        The result as text for people.
    as_json
        Print one JSON object instead, also when the work fails (``{"error": {"type", "message"}}``).
    verbose
        Log what is done, not warnings only.
    """
    try:
        with logged(verbose), contextlib.redirect_stdout(sys.stderr):
            result = work()
    except EXPECTED as error:
        message = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
        typer.echo(f"sclm: {message or type(error).__name__}", err=True)
        if as_json:
            typer.echo(json.dumps({"error": {"type": type(error).__name__, "message": message}}))
        raise typer.Exit(FAILED) from error
    typer.echo(json.dumps(result, ensure_ascii=False) if as_json else show(result))


@contextlib.contextmanager
def logged(verbose: bool) -> Iterator[None]:
    """What sclm logs, on standard error: warnings, or everything."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger = logging.getLogger("sclm")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO if verbose else logging.WARNING)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


def of_run(result: dict[str, Any]) -> str:
    """A tool's result in a few lines."""
    if result["output"] is None:
        shards = result["shards"]
        return (
            f"{shards['folder']}: {shards['done']} of {shards['of']} shards are done, {result['seconds']} s. The process that finds "
            "all of them there writes the output."
        )
    lines = [f"{result['output']}: {result['n_cells']:,} cells x {result['n_genes']:,} genes, {result['seconds']} s"]
    lines += [f"  {entry['where']}  {_in_words(entry)}" for entry in result["written"]]
    for key, record in result["records"].items():
        lines.append(f"  .uns[{key!r}]")
        for name, value in record.items():
            if isinstance(value, dict) and value.get("rows") and isinstance(value.get("first"), list):
                lines.append(f"    {name}: {value['rows']} rows")
    return "\n".join(lines)


def of_training(result: dict[str, Any]) -> str:
    """A trained model in a line."""
    return (
        f"{result['model']}: {result['family']}, trained on {result['n_cells']:,} cells in {result['seconds']} s; "
        f"it can {', '.join(result['verbs'])}"
    )


def of_check(result: dict[str, Any]) -> str:
    """What a file holds, is short of, and fits, as text."""
    holds = result["holds"]
    lines = [f"{result['file']}: {result['kind']}, {holds['cells']:,} cells x {holds['genes']:,} genes", ""]
    lines += [f"  {m['where']:<24} {m['values']} ({m['layout']})" for m in holds["matrices"]]
    names = holds["gene_names"]
    lines.append(f"  genes                    {names['kind']} in {names['where']}, {names['human']:.0%} human")
    if holds["depth"]:
        lines.append(
            f"  counts a cell            median {holds['depth']['median']:,.0f}, {holds['depth']['min']:,.0f} to {holds['depth']['max']:,.0f}"
        )
    roles: dict[str, list[str]] = {}
    for column in holds["columns"]:
        roles.setdefault(column["role"], []).append(f"{column['name']} ({column['n_values']})")
    for role, columns in roles.items():
        lines.append(f"  {role:<24} {', '.join(columns[:6])}")
    for what, name in (("coordinates", "coordinates"), ("proteins", "proteins"), ("embeddings", "vectors")):
        lines += [f"  {name:<24} {', '.join(holds[what])}"] if holds[what] else []
    if holds["results"]:
        lines.append(f"  {'results of sclm':<24} {', '.join(f'{k} ({v})' for k, v in holds['results'].items())}")
    for title in ("problems", "notes"):
        lines += ["", f"{title}:", *(f"  - {text}" for text in result[title])] if result[title] else []
    if not result["problems"]:
        lines += ["", "no problems found"]
    if "model" in result:
        model = result["model"]
        fits = (
            f"{model['matched']:,} of {model['in_model']:,} genes of the model are there"
            if model["fits"]
            else model["why"]
        )
        lines += ["", f"model {model['model']}: {fits}"]
    lines += ["", "tools:"]
    for name, tool in result["tools"].items():
        mark = {True: "yes", False: "no ", None: "-  "}[tool["fits"]]
        lines.append(f"  {mark} {name:<12} {tool.get('command', tool['why'])}")
        for kind, text in (("ready", "ready"), ("to_train", "after training"), ("published", "published")):
            if tool["fits"] is not False and tool["models"].get(kind):
                lines.append(f"      {'':<12} {text}: {', '.join(tool['models'][kind])}")
    return "\n".join(lines)


def of_benchmark(result: dict[str, Any]) -> str:
    """A comparison: what it says, the table, where the report is."""
    return "\n".join(
        ["", result["text"], "", *result["sentences"], "", *result["notes"], "", f"report: {result['report']}"]
    )


def of_models(result: dict[str, Any]) -> str:
    """Families and checkpoints, one a line."""
    rows = result["models"]
    width = max(len(row["name"]) for row in rows)
    return "\n".join(
        f"{row['name']:<{width}}  {row['kind']:<10}  {row['verbs']:<28}  {row['description']}" for row in rows
    )


def _in_words(entry: dict[str, Any]) -> str:
    if "top" in entry:
        return ", ".join(f"{top['value']} {top['share']:.0%}" for top in entry["top"][:4]) + (
            f" … ({entry['n_values']} values)" if entry["n_values"] > 4 else ""
        )
    if "shape" in entry:
        return " x ".join(map(str, entry["shape"]))
    if "true" in entry:
        return f"{entry['true']:,} of {entry['of']:,}"
    if entry.get("mean") is not None:
        return f"mean {entry['mean']:.3g}, {entry['min']:.3g} to {entry['max']:.3g}"
    return entry["first"][0][:70] if entry.get("first") else ""
