"""What a source gives to a knowledge graph: nodes, links between labels, and where they are from; and how nodes are written.

A relation is named after the types at its ends: ``"gene-in-pathway"`` leads from a gene to a pathway.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple, Protocol

import pandas as pd

if TYPE_CHECKING:
    from collections.abc import Iterable

    import numpy as np

# The order of the nodes of a graph; other types come after these, by name.
TYPES = ("gene", "cell_type", "tissue", "disease", "pathway", "compartment", "function")

# Ends of relations that are named by their role, and the type that plays it.
_ROLES = {"ligand": "gene", "receptor": "gene"}

# Relations that say the same of both ends: each pair is kept once, and its inverse is the other direction.
SYMMETRIC = frozenset({"gene-interacts-gene"})

_RELATION = re.compile(r"[a-z][a-z0-9_]*-[a-z][a-z0-9_]*-[a-z][a-z0-9_]*")
_SYNONYMS = " Synonyms: "


class Origin(NamedTuple):
    """Where a source is from."""

    name: str
    licence: str
    version: str
    sha256: str
    made_from: str
    derived_from: frozenset[str] = frozenset()  # cells or donors whose counts its links were worked out from


class Links(NamedTuple):
    """Links of one relation between labels: what these mean is found when the graph is built."""

    relation: str
    sources: np.ndarray  # (E,) object
    targets: np.ndarray  # (E,) object


class Part(NamedTuple):
    """What one source gives."""

    origin: Origin
    nodes: pd.DataFrame  # columns id, type, name, text; genes by any identifier
    links: list[Links]
    only_linked: bool = False  # nodes without a link to a gene of the graph are left out, such as sets of other genes


class GraphSource(Protocol):
    """Anything that :meth:`~sclm.knowledge.KnowledgeGraph.build` can read."""

    def read(self) -> Part:
        """Read it."""
        ...


def ends(relation: str) -> tuple[str, str]:
    """The types of the nodes at the start and the end of a relation.

    Raises
    ------
    ValueError
        If the name has not the form ``type-verb-type``.

    Examples
    --------
    >>> ends("cell_type-part_of-tissue"), ends("ligand-binds-receptor")
    (('cell_type', 'tissue'), ('gene', 'gene'))
    """
    if _RELATION.fullmatch(relation) is None:
        raise ValueError(
            f"a relation is named 'type-verb-type' in small letters, such as 'gene-in-pathway', found {relation!r}."
        )
    start, _, end = relation.split("-")
    return _ROLES.get(start, start), _ROLES.get(end, end)


def node_table(ids: Iterable[str], kind: str, names: Iterable[str], texts: Iterable[str]) -> pd.DataFrame:
    """Nodes of one type as a table with the columns id, type, name, text."""
    table = pd.DataFrame({"id": list(ids), "type": kind, "name": list(names), "text": list(texts)}, dtype=object)
    return table[["id", "type", "name", "text"]]


def write_text(definition: str, synonyms: Iterable[str]) -> str:
    """The text of a node: its definition, then its synonyms, on one line."""
    listed = "; ".join(" ".join(synonym.split()) for synonym in synonyms)
    return " ".join(definition.split()) + (_SYNONYMS + listed if listed else "")


def synonyms_in(text: str) -> list[str]:
    """The synonyms that :func:`write_text` wrote.

    Examples
    --------
    >>> synonyms_in(write_text("A cell.", ["WBC", "leucocyte"]))
    ['WBC', 'leucocyte']
    """
    _, found, listed = text.partition(_SYNONYMS)
    return listed.split("; ") if found else []
