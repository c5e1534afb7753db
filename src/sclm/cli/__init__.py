"""Command line: one command a tool, made from its signature, and a few of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Parameters
    ----------
    argv
        Arguments; those of the process when None.

    Returns
    -------
    Exit status: 0 done, 1 failed (the reason is on standard error), 2 not understood (an unknown command or option).
    """
    from sclm.cli.app import app

    try:
        app(args=None if argv is None else list(argv), prog_name="sclm")
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 1
    return 0
