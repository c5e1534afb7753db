"""One field of metadata: its training values, the ontology terms that they are kinds of, and both as sparse rows."""

from __future__ import annotations

import importlib.util
import logging
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np

from sclm.knowledge.abbreviations import MISLEADING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import scipy.sparse as sp

    from sclm.knowledge import Ontology

logger = logging.getLogger(__name__)

# Fields of the CELLxGENE schema and the ontology whose terms they hold; every other column is a field without one.
SCHEMA: dict[str, str | None] = {
    "organism": None,
    "tissue": "uberon",
    "disease": "mondo",
    "cell_type": "cl",
    "assay": "efo",
    "sex": None,
    "development_stage": "hsapdv",
    "donor_id": None,
}
HEALTHY = "normal"  # what the schema's disease column holds for no disease: a term of PATO, not of MONDO
MAX_VALUES = 10_000  # of one field; barcodes and other names of single cells are no metadata to learn from


class Term(NamedTuple):
    """An ontology term that a field knows, and the node that stands for it."""

    id: str
    name: str
    synonyms: tuple[str, ...]  # exact ones that mean nothing else in the ontology
    node: int


@dataclass(frozen=True)
class Field:
    """What a model knows of one column of metadata.

    A node is a set of training values that some ontology term stands above: the terms of a chain that stand above the
    same values are one node, named after the lowest of them. A value without a term is a node of its own, and so is each
    of several values that mean the same term ("T cell 1", "T cell 2"), below that term's node.

    Attributes
    ----------
    name
        Column of ``.obs``.
    ontology, version
        Name (``"cl"``) and release of the ontology, None and ``""`` where values are used as they are.
    values
        Texts of training, sorted; the code of a value is its position.
    term_ids
        Ontology id of each value, ``""`` where it has none.
    n_cells
        Training cells of each value.
    node_ids, node_names
        Of each node its ontology id (``""`` for a plain value) and name; a node comes after all nodes above it.
    value_nodes
        For each value the nodes that hold it, ascending: its own and all above.
    node_lineage
        For each node itself and all nodes above it, ascending.
    terms
        Every ontology term that is a value's term or stands above one, sorted by id.
    """

    name: str
    ontology: str | None
    version: str
    values: tuple[str, ...]
    term_ids: tuple[str, ...]
    n_cells: tuple[int, ...]
    node_ids: tuple[str, ...]
    node_names: tuple[str, ...]
    value_nodes: tuple[tuple[int, ...], ...]
    node_lineage: tuple[tuple[int, ...], ...]
    terms: tuple[Term, ...]

    @property
    def n_values(self) -> int:
        """Number of training values."""
        return len(self.values)

    @property
    def n_nodes(self) -> int:
        """Number of nodes."""
        return len(self.node_ids)

    @cached_property
    def membership(self) -> sp.csr_matrix:
        """(n_values, n_nodes) CSR float32 of ones: the nodes of each value."""
        return ones(self.value_nodes, self.n_nodes)

    @cached_property
    def values_of_node(self) -> tuple[np.ndarray, ...]:
        """For each node the codes of the values below it, int64, ascending."""
        turned = self.membership.tocsc()
        turned.sort_indices()
        return tuple(rows.astype(np.int64) for rows in np.split(turned.indices, turned.indptr[1:-1]))

    @cached_property
    def code_of(self) -> dict[str, int]:
        """Text of a value to its code."""
        return {value: code for code, value in enumerate(self.values)}

    @cached_property
    def codes_of_folded(self) -> dict[str, list[int]]:
        """Text of a value without regard to case, to its codes."""
        return _grouped((value.casefold(), code) for code, value in enumerate(self.values))

    @cached_property
    def codes_of_term(self) -> dict[str, list[int]]:
        """Ontology id to the codes of the values that mean it."""
        return _grouped((term, code) for code, term in enumerate(self.term_ids) if term)

    @cached_property
    def term_of(self) -> dict[str, Term]:
        """Ontology id to term."""
        return {term.id: term for term in self.terms}

    @cached_property
    def term_of_folded(self) -> dict[str, Term]:
        """Name or synonym of a term without regard to case, to the term; names come before synonyms."""
        names = {term.name.casefold(): term for term in self.terms}
        return {s.casefold(): term for term in self.terms for s in term.synonyms} | names

    def to_dict(self) -> dict[str, Any]:
        """JSON scalars and lists that :meth:`from_dict` reads."""
        content = asdict(self)
        content["terms"] = [list(term) for term in self.terms]
        return content

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> Self:
        """Field from what :meth:`to_dict` gave, through JSON or not."""
        flat: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in content.items()}
        for key in ("value_nodes", "node_lineage"):
            flat[key] = tuple(map(tuple, content[key]))
        flat["terms"] = tuple(Term(i, name, tuple(synonyms), node) for i, name, synonyms, node in content["terms"])
        return cls(**flat)


def fit_field(name: str, values: Sequence[str], n_cells: Sequence[int], ontology: Ontology | None) -> Field:
    """Place the values of a field under the terms of an ontology.

    Parameters
    ----------
    name
        Column of ``.obs``.
    values, n_cells
        Distinct texts, sorted, and the cells of each.
    ontology
        Where values are looked up by id, name, synonym or abbreviation; a merely similar name is no match. None uses all
        values as they are.

    Returns
    -------
    Field
    """
    term_ids = [""] * len(values)
    meanings = {} if ontology is None else _meanings(ontology)
    if ontology is not None:
        term_ids = [_term_of(value, ontology, meanings) for value in values]
        plain = [value for value, term in zip(values, term_ids, strict=True) if not term]
        if plain:
            logger.info(
                "%s: %d of %d values are no term of %s and are used as they are: %s%s",
                name, len(plain), len(values), ontology.name, ", ".join(plain[:5]), ", …" if len(plain) > 5 else "",
            )  # fmt: skip
    sharing = _grouped((term, code) for code, term in enumerate(term_ids) if term)
    own = [code for code, term in enumerate(term_ids) if not term or len(sharing[term]) > 1]

    # Terms with the same values below them say the same about the training cells: they become one node.
    groups: dict[tuple[int, ...], list[str]] = {(code,): [] for code in own}
    if ontology is not None and sharing:
        coded = np.flatnonzero([bool(term) for term in term_ids])
        above = ontology.ancestor_matrix([term_ids[code] for code in coded]).tocsc()
        above.sort_indices()
        for position in np.flatnonzero(np.diff(above.indptr)):
            below = coded[above.indices[above.indptr[position] : above.indptr[position + 1]]]
            groups.setdefault(tuple(below.tolist()), []).append(ontology.ids[position])

    lowest = {below: _lowest(terms, ontology) for below, terms in groups.items()}
    # A node above another one stands above more values: this order puts it first.
    order = sorted(groups, key=lambda below: (-len(below), lowest[below], below))
    node_of = {term: node for node, below in enumerate(order) for term in groups[below]}
    value_nodes: list[list[int]] = [[] for _ in values]
    for node, below in enumerate(order):
        for code in below:
            value_nodes[code].append(node)
    lineage = [
        sorted({node_of[term] for term in ontology.ancestors(lowest[below], include_self=True)})
        if ontology is not None and lowest[below]
        else value_nodes[below[0]]
        for below in order
    ]
    names = dict(zip(ontology.ids, ontology.names, strict=True)) if ontology is not None else {}
    return Field(
        name=name,
        ontology=None if ontology is None else ontology.name,
        version="" if ontology is None else ontology.version,
        values=tuple(values),
        term_ids=tuple(term_ids),
        n_cells=tuple(int(n) for n in n_cells),
        node_ids=tuple(lowest[below] for below in order),
        node_names=tuple(names[lowest[below]] if lowest[below] else values[below[0]] for below in order),
        value_nodes=tuple(map(tuple, value_nodes)),
        node_lineage=tuple(map(tuple, lineage)),
        terms=tuple(
            Term(t, names[t], _certain_synonyms(t, ontology, meanings), node_of[t])
            for t in sorted(node_of)
            if ontology is not None
        ),
    )


def _lowest(terms: Sequence[str], ontology: Ontology | None) -> str:
    """The term farthest from the root; of equally far ones the more specific, then the first; "" of none."""
    if not terms or ontology is None:
        return ""
    depth, content = ontology.graph.depth, ontology.information_content()
    return min(terms, key=lambda term: (-depth[i := ontology.index(term)], -content[i], term))


def _term_of(value: str, ontology: Ontology, meanings: dict[str, dict[str, None]]) -> str:
    """The id that a training value means, "" for none; a name that is merely similar means nothing."""
    if value in ontology:
        return value
    if value == HEALTHY:
        return ""
    exact = [term for term in meanings.get(value.casefold(), ()) if ontology.name_of(term) == value]
    # The index that `resolve` builds takes seconds for the larger ontologies: only what is no name of a term needs it.
    return exact[0] if len(exact) == 1 else ontology.resolve(value, min_score=1.0).term_id or ""


def _meanings(ontology: Ontology) -> dict[str, dict[str, None]]:
    """Every name and exact synonym without regard to case, to the ids that it may mean."""
    found: dict[str, dict[str, None]] = {}
    for term, name in zip(ontology.ids, ontology.names, strict=True):
        for text in (name, *ontology.synonyms(term)):
            found.setdefault(text.casefold(), {})[term] = None
    return found


def _certain_synonyms(term: str, ontology: Ontology, meanings: dict[str, dict[str, None]]) -> tuple[str, ...]:
    """Synonyms that mean no other term, without those of at most three letters, which are acronyms of other things too."""
    return tuple(
        s for s in ontology.synonyms(term) if len(s) > 3 and s not in MISLEADING and len(meanings[s.casefold()]) == 1
    )


def _grouped(pairs: Iterable[tuple[str, int]]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for text, code in pairs:
        found.setdefault(text, []).append(code)
    return found


def ones(rows: Sequence[Sequence[int]], n_columns: int) -> sp.csr_matrix:
    """CSR float32 with ones at these columns of each row."""
    import scipy.sparse as sp

    offsets = np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int32)
    columns = np.array([column for row in rows for column in row], dtype=np.int32)
    return sp.csr_matrix((np.ones(len(columns), np.float32), columns, offsets), shape=(len(rows), n_columns))


def local_ontology(name: str) -> Ontology | None:
    """A named ontology if it can be had without network, else None; nothing is ever downloaded.

    The Cell Ontology comes with sclm. The others are read from an installed ``cellxgene-ontology-guide`` or from the
    data folder, where :func:`sclm.knowledge.fetch` puts them.
    """
    from sclm.knowledge import Ontology
    from sclm.knowledge.downloads import RESOURCES, data_dir, find_local

    if name not in RESOURCES:
        return None  # the user's own file: only the user can hand it over again
    if name != "cl":
        guide = importlib.util.find_spec("cellxgene_ontology_guide")
        folders = [Path(guide.origin).parent / "data"] if guide is not None and guide.origin else []
        if all(find_local(RESOURCES[name], folder) is None for folder in [*folders, data_dir()]):
            return None
    try:
        return Ontology.load(name)
    except ImportError as error:  # a .zst file without zstandard
        logger.info("%s", error)
        return None
