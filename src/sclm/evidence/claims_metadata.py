"""Statements about tissue and disease, against what the metadata say: expression neither confirms nor denies them."""

from __future__ import annotations

import re
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sclm.knowledge import KnowledgeGraph

FIELDS = ("tissue", "disease")
_HEALTHY = frozenset(
    ["normal", "healthy", "control", "ctrl", "none", "no disease", "non diseased", "healthy control", "healthy donor", "pato 0000461"]
)  # fmt: skip
_MISSING = frozenset(["", "nan", "none", "na", "n a", "unknown", "not available", "not applicable", "unassigned"])
_MOST, SOME = 0.5, 0.05  # share of a group's annotated cells for "kept", and for "softened"


class MetadataVerdict(NamedTuple):
    """What the metadata say of one statement: verdict, share of the annotated cells (NaN where there are none), and the reason."""

    verdict: str
    share: float
    id: str
    reason: str


class MetadataTerms:
    """Words of tissues and diseases, compared as text and as terms of a knowledge graph.

    Parameters
    ----------
    graph
        With nodes of the types tissue and disease, and their ``is_a`` edges.
    """

    def __init__(self, graph: KnowledgeGraph) -> None:
        self._graph = graph
        self._nodes: dict[tuple[str, str], int] = {}

    @cached_property
    def _types(self) -> frozenset[str]:
        return frozenset(self._graph.nodes["type"].unique())

    def node(self, field: str, text: str) -> int:
        """Node that a text means, -1 where it is none."""
        key = (field, text)
        if key not in self._nodes:
            self._nodes[key] = int(self._graph.lookup(field, [text])[0]) if field in self._types else -1
        return self._nodes[key]

    def id(self, field: str, text: str) -> str:
        """Ontology id of a text, ``"unknown"`` where there is none; ``"PATO:0000461"`` for the absence of disease."""
        if field == "disease" and is_healthy(text):
            return "PATO:0000461"
        node = self.node(field, text)
        return str(self._graph.nodes["id"].iat[node]) if node >= 0 else "unknown"

    def covers(self, field: str, stated: str, known: str) -> bool:
        """Whether a known value makes a stated one true: the same, or more special."""
        if plain(stated) == plain(known):
            return True
        if field == "disease" and (is_healthy(stated) or is_healthy(known)):
            return is_healthy(stated) and is_healthy(known)
        a, b = self.node(field, stated), self.node(field, known)
        return a >= 0 and b >= 0 and (a == b or a in self._above(field, b))

    def _above(self, field: str, node: int) -> set[int]:
        edges = self._graph.edges.get(f"{field}-is_a-{field}")
        found: set[int] = set()
        front = {node}
        while edges is not None and front:
            front = {int(t) for f in front for t in edges[1][edges[0] == f]} - found
            found |= front
        return found

    def judge(self, field: str, stated: str, shares: Mapping[str, float] | None) -> MetadataVerdict:
        """Verdict on a statement.

        Parameters
        ----------
        field
            ``"tissue"`` or ``"disease"``.
        stated
            As the text has it.
        shares
            Values of the metadata with the share of all cells that have them; None or empty where nothing is known. Where they sum to less
            than half, at most "softened" is said.
        """
        known = {
            value: share
            for value, share in (shares or {}).items()
            if plain(value) not in _MISSING or (field == "disease" and is_healthy(value))
        }
        term = self.id(field, stated)
        if not known:
            return MetadataVerdict(
                "not verifiable", float("nan"), term, f"not verifiable from these cells: the metadata name no {field}"
            )
        annotated = sum(known.values())
        share = sum(s for value, s in known.items() if self.covers(field, stated, value)) / annotated
        most = max(known, key=lambda value: known[value])
        which, rest = "the cells", ""
        if annotated < 0.995:
            which, rest = "the annotated cells", f"; {1 - annotated:.0%} of all are not annotated"
        if share >= _MOST:
            verdict = "kept" if annotated >= _MOST else "softened"
            return MetadataVerdict(verdict, share, term, f"annotated in the metadata for {share:.0%} of {which}{rest}")
        if share >= SOME:
            reason = f"annotated for {share:.0%} of {which} only; most are {most}{rest}"
            return MetadataVerdict("softened", share, term, reason)
        if self.covers(field, most, stated):
            reason = f"the metadata say {most}, which is less specific{rest}"
            return MetadataVerdict("softened", share, term, reason)
        return MetadataVerdict("removed", share, term, f"the metadata say {most}{rest}")


def plain(text: str) -> str:
    """Small letters, single spaces, no punctuation."""
    return re.sub(r"[\W_]+", " ", str(text).lower()).strip()


def is_healthy(value: str) -> bool:
    """Whether a value of a column of diseases says that there is none."""
    return plain(value) in _HEALTHY


def common_values(shares: Mapping[str, float]) -> dict[str, float]:
    """Values that a statement may name: those of at least :data:`SOME` of the annotated cells."""
    least = SOME * sum(shares.values())
    return {value: share for value, share in shares.items() if share >= least}


def value_shares(values: object) -> dict[str, float]:
    """Values of a column with their shares of all cells, most common first; missing values are left out: shares then sum to less than 1."""
    import pandas as pd

    column = pd.Series(values).astype(object)
    n = max(len(column), 1)
    column = column[column.notna()].astype(str)
    column = column[[plain(v) not in _MISSING for v in column]]
    return {str(k): float(v) / n for k, v in column.value_counts(sort=True).items()}
