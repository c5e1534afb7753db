"""Tools called on files: what they take, read from their signatures, and what they wrote, as small JSON.

The command line and agents are two ways to say the same: the name of a tool, the path of a file, arguments as text and
numbers. Nothing here knows a tool by name where the signature says enough, so a new tool is there without a line.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sclm._lazy import lazy_names

if TYPE_CHECKING:
    from sclm.calls.checking import check
    from sclm.calls.running import run
    from sclm.calls.signatures import Parameter, Signature, signature, summary, tool_names
    from sclm.calls.training import train

_HOME = {
    "Parameter": "signatures",
    "Signature": "signatures",
    "check": "checking",
    "run": "running",
    "signature": "signatures",
    "summary": "signatures",
    "tool_names": "signatures",
    "train": "training",
}

__all__ = ["Parameter", "Signature", "check", "run", "signature", "summary", "tool_names", "train"]

__getattr__, __dir__ = lazy_names(__name__, _HOME)
