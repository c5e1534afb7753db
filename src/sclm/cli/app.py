"""The command `sclm`: which commands there are, made when they are asked for, so that help costs no import of a tool."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from sclm.calls.signatures import summary, tool_names

# Commands that are no tool, in the order of a first session; the tools come between `check` and `train`.
_BEFORE, _AFTER = ("demo", "check"), ("train", "benchmark", "models", "mcp")


class Commands(TyperGroup):
    """Commands by name: those of :mod:`sclm.cli.own`, and one for each tool."""

    def list_commands(self, ctx: Any) -> list[str]:
        """All names."""
        return [*_BEFORE, *(tool.replace("_", "-") for tool in tool_names()), *_AFTER]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command, made now; in a list of commands, one that only knows its help."""
        if cmd_name in (*_BEFORE, *_AFTER):
            from sclm.cli import own

            return _command(cmd_name, getattr(own, cmd_name))
        tool = cmd_name.replace("-", "_")
        if tool not in tool_names():
            return None
        if ctx.meta.get("sclm.listing"):
            return _command(cmd_name, _only_help(summary(tool)))
        from sclm.cli.tools import tool_command

        return _command(cmd_name, tool_command(tool))

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Help of all commands without making them."""
        ctx.meta["sclm.listing"] = True
        super().format_help(ctx, formatter)


app = typer.Typer(
    name="sclm",
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(asked: bool) -> None:
    if asked:
        from sclm import __version__

        typer.echo(f"sclm {__version__}")
        raise typer.Exit


@app.callback(
    epilog="Each command explains itself: sclm annotate --help. Results go to a new file; the input is never changed."
)
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    """Single-cell language models for Scanpy users: files of cells in (h5ad, zarr), files of cells out."""


def _command(name: str, function: Any) -> Any:
    """A function as a command."""
    small = typer.Typer(rich_markup_mode=None, pretty_exceptions_enable=False, add_completion=False)
    small.command(name, context_settings={"help_option_names": ["-h", "--help"]})(function)
    return typer.main.get_command(small)


def _only_help(text: str) -> Any:
    def nothing() -> None:
        pass

    nothing.__doc__ = text
    return nothing
