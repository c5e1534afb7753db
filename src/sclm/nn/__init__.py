"""Blocks of networks that at least two families use, named by what they compute. Names are loaded on first use."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sclm.nn.bucketing import buckets
    from sclm.nn.causal_lm import CausalLM
    from sclm.nn.randomness import seeded
    from sclm.nn.state import load_own_state, own_state

_HOME = {
    "CausalLM": "causal_lm",
    "buckets": "bucketing",
    "load_own_state": "state",
    "own_state": "state",
    "seeded": "randomness",
}

__all__ = ["CausalLM", "buckets", "load_own_state", "own_state", "seeded"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
