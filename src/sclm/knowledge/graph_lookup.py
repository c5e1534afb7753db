"""From labels to nodes of a knowledge graph: genes by any identifier, cell types as studies write them, terms by name."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from sclm.knowledge.graph_parts import synonyms_in
from sclm.knowledge.resolve import canonical_id

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sclm.knowledge.genes import GeneIdentifiers


class Labels:
    """The nodes of one type, found by label.

    Parameters
    ----------
    kind
        Their type.
    ids, names, texts
        Of the nodes.
    identifiers
        Of genes; None takes names as they are.
    """

    def __init__(
        self,
        kind: str,
        ids: Sequence[str],
        names: Sequence[str],
        texts: Sequence[str],
        identifiers: GeneIdentifiers | None,
    ) -> None:
        self.kind, self._texts, self._names, self._identifiers = kind, texts, names, identifiers
        self._ids = {label: i for i, label in enumerate(ids)}
        # names need not be unique: the first node has it
        self._exact = {name: i for i, name in reversed(list(enumerate(names)))}

    def find(self, labels: Iterable[str]) -> np.ndarray:
        """Place of the node that each label means, (n,) int64; -1 where there is none or the label means several."""
        known: dict[str, int] = {}
        return np.array(
            [known[label] if label in known else known.setdefault(label, self._find(label)) for label in labels],
            dtype=np.int64,
        )

    def _find(self, label: str) -> int:
        label = str(label)
        if (place := self._ids.get(label, self._exact.get(label, -1))) >= 0:
            return place
        if self.kind == "gene":
            symbol = self._identifiers.to_symbol([label])[0] if self._identifiers is not None else None
            return -1 if symbol is None else self._exact.get(symbol, -1)
        if (place := self._ids.get(canonical_id(label), self._loose.get(label.casefold(), -1))) >= 0:
            return place
        if self.kind != "cell_type":
            return -1
        # retired ids, spellings and abbreviations; a match that is only alike is no match
        from sclm.knowledge.ontology import Ontology

        term = Ontology.load("cl").resolve(label, min_score=1.0).term_id
        return -1 if term is None else self._ids.get(term, -1)

    @cached_property
    def _loose(self) -> dict[str, int]:
        """Names, and synonyms of one node only, without regard to case."""
        found: dict[str, int] = {}
        for i, text in enumerate(self._texts):
            for synonym in synonyms_in(text):
                key = synonym.casefold()
                found[key] = i if found.get(key, i) == i else -1
        for i, name in reversed(list(enumerate(self._names))):
            found[name.casefold()] = i
        return found
