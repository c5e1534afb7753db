"""For agents: a dozen tools with JSON schemas, called on file paths, answering in small JSON.

No model in the middle: what a tool writes is on disk, and what it says is a few kilobytes of keys, top labels, confidences, warnings and
paths. Errors are answers as well. ``python -m sclm.agent`` (or ``sclm mcp``) serves the same over the Model Context Protocol.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sclm._lazy import lazy_names

if TYPE_CHECKING:
    from sclm.agent.calling import call
    from sclm.agent.schemas import tools

_HOME = {"call": "calling", "tools": "schemas"}

__all__ = ["call", "tools"]

__getattr__, __dir__ = lazy_names(__name__, _HOME)
