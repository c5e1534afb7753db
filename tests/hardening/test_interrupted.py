"""A tool that is interrupted anywhere leaves the AnnData as it was, or has done all of its work."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from collections.abc import Callable

    import anndata as ad

TIMES = 5


class Interrupt:
    """Counts the calls of sclm's own functions while it is on, and interrupts at one of them."""

    def __init__(self, at: int | None) -> None:
        self.at, self.n = at, 0

    def __call__(self, frame: Any, event: str, _: Any) -> None:
        if event == "call" and "/sclm/" in frame.f_code.co_filename:
            self.n += 1
            if self.n == self.at:
                sys.setprofile(None)
                raise KeyboardInterrupt

    def __enter__(self) -> Interrupt:
        sys.setprofile(self)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)


def test_an_interrupted_tool_leaves_the_cells_whole(
    tool: str, tools: dict[str, Callable], query: ad.AnnData, fingerprint: Callable
) -> None:
    adata = query
    adata.obs["label"] = pd.Categorical(adata.obs["cell_type"].astype(str))
    place = np.empty(40, dtype=int)
    place[np.argsort(adata.obs["label"].cat.codes, kind="stable")] = np.arange(40)
    adata.obsm["spatial"] = np.stack([place % 5, place // 5], axis=1).astype(float)
    before, done = fingerprint(adata), adata.copy()
    tools[tool](done)  # once for what is compiled and cached
    done = adata.copy()
    with Interrupt(None) as counted:
        tools[tool](done)
    after = fingerprint(done)
    assert after != before
    # Anywhere, and among the last calls, where results are written.
    rng = np.random.default_rng(0)
    places = [
        *rng.integers(1, counted.n + 1, TIMES).tolist(),
        *(counted.n - rng.integers(0, min(30, counted.n), TIMES)).tolist(),
    ]
    for place in places:
        part = adata.copy()
        with contextlib.suppress(KeyboardInterrupt), Interrupt(int(place)):
            tools[tool](part)
        assert fingerprint(part) in (before, after), place
    tools[tool](part)
    assert fingerprint(part) == after
