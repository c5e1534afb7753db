"""``python -m sclm.agent``: the tools over standard input and output (Model Context Protocol)."""

from __future__ import annotations

import sys

from sclm.agent.server import serve

if __name__ == "__main__":
    try:
        serve()
    except ImportError as error:
        sys.stderr.write(f"sclm: {error}\n")
        sys.exit(1)
