"""Results in the forms that other places accept."""

from __future__ import annotations

from sclm.export._cellxgene import cellxgene

__all__ = ["cellxgene"]
