"""Command line: ``sclm demo``."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path


def main(argv: list[str] | None = None) -> int:
    """Run a command.

    Parameters
    ----------
    argv
        Arguments; those of the process when None.

    Returns
    -------
    Exit status: 0, or 1 after an error that the user can mend (its text is on standard error).
    """
    from sclm import __version__

    parser = argparse.ArgumentParser(prog="sclm", description="Single-cell language models for Scanpy users.")
    parser.add_argument("--version", action="version", version=f"sclm {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    demo = commands.add_parser(
        "demo", help="annotate 700 real blood cells, write new ones, and report on both; needs no download"
    )
    demo.add_argument("--out", type=Path, default=Path("sclm-demo"), help="folder to write to (default: sclm-demo)")
    demo.add_argument("--seed", type=int, default=0, help="of everything random (default: 0)")
    demo.add_argument("-v", "--verbose", action="store_true", help="log what is done")
    args = parser.parse_args(argv)

    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger = logging.getLogger("sclm")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO if args.verbose else logging.ERROR)
    try:
        from sclm.report.demo import demo as run

        run(args.out, seed=args.seed, say=print)
    except (ValueError, KeyError, OSError) as error:
        print(f"sclm: {error}", file=sys.stderr)
        return 1
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
    return 0
