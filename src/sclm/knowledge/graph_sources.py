"""Sources of a knowledge graph: ontologies, links between ontologies, gene sets, and tables of pairs."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import lzma
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from sclm.knowledge.graph_parts import Links, Origin, Part, ends, node_table, write_text
from sclm.knowledge.ontology import Ontology

if TYPE_CHECKING:
    from collections.abc import Iterable

_NO_NODES = node_table([], "", [], [])


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class _Described:
    """What every source can be told about itself; found by itself where it is a file."""

    name: str = ""
    licence: str = ""
    version: str = ""

    def _origin(self, content: object, made_from: str = "", derived_from: Iterable[str] = ()) -> Origin:
        """Name, licence and hash of a path or a table in memory."""
        if isinstance(content, str | Path):
            path = Path(content)
            sha256, made_from, name = hashlib.sha256(path.read_bytes()).hexdigest(), made_from or path.name, path.stem
        else:
            sha256, made_from, name = "", made_from or "a table in memory", type(self).__name__
        return Origin(
            self.name or name, self.licence, self.version, sha256, made_from, frozenset(map(str, derived_from))
        )


@dataclasses.dataclass(frozen=True, eq=False)
class Terms(_Described):
    """The terms of an ontology, as nodes of one type with ``<type>-is_a-<type>`` links.

    Parameters
    ----------
    ontology
        An :class:`~sclm.knowledge.Ontology`, or what ``Ontology.load`` takes (``"cl"``, ``"uberon"``, ``"mondo"``, a file).
    type
        Of the nodes: ``"cell_type"``, ``"tissue"``, ``"disease"``, or one of your own.
    under
        Keep only this term and those below it.
    name, licence, version
        For the table of sources; by default those of the ontology.
    """

    ontology: Ontology | str | Path
    type: str
    under: str | None = None

    def read(self) -> Part:
        """Nodes and parent links."""
        known = self.ontology if isinstance(self.ontology, Ontology) else Ontology.load(self.ontology)
        kept = list(known.ids) if self.under is None else sorted(known.descendants(self.under, include_self=True))
        there = set(kept)
        texts = [write_text(known.definition(term), known.synonyms(term)) for term in kept]
        pairs = [(term, parent) for term in kept for parent in known.parents(term) if parent in there]
        pairs_array = np.array(pairs, dtype=object).reshape(-1, 2)
        origin = Origin(
            self.name or known.name, self.licence or known.licence, self.version or known.version,
            _hash_of_names(known), known.source,
        )  # fmt: skip
        links = [Links(f"{self.type}-is_a-{self.type}", pairs_array[:, 0], pairs_array[:, 1])] if pairs else []
        return Part(origin, node_table(kept, self.type, map(known.name_of, kept), texts), links)


def _hash_of_names(ontology: Ontology) -> str:
    """What an ontology says, whatever file it was read from."""
    digest = hashlib.sha256()
    for term, name in zip(ontology.ids, ontology.names, strict=True):
        digest.update(f"{term}\t{name}\t{' '.join(ontology.parents(term))}\n".encode())
    return digest.hexdigest()


# has soma location, and part of: "in which tissue" for neurons and for other cells
_PLACES = ("part_of", "BFO:0000050", "RO:0002100")
_CLAUSE = re.compile(r"^(?:relationship|intersection_of): (\S+) ([A-Za-z]+:\S+)(?: \{[^}]*\})?(?: ! (.*))?$")


@dataclasses.dataclass(frozen=True, eq=False)
class TermLinks(_Described):
    """What an OBO file says about terms besides their parents, such as the tissue that a cell type is part of.

    Parameters
    ----------
    path
        An ``.obo`` or ``.obo.gz`` file: its clauses ``relationship`` and ``intersection_of`` are read.
    relation
        What the links are in the graph.
    properties
        Which properties of the file are meant, by default those for places.
    prefix
        Targets are terms whose ids begin so.
    name, licence, version
        For the table of sources.
    """

    path: str | Path
    relation: str = "cell_type-part_of-tissue"
    properties: Sequence[str] = _PLACES
    prefix: str = "UBERON:"

    def read(self) -> Part:
        """The links; targets are nodes of their own, named as the file's comments name them."""
        pairs: list[tuple[str, str]] = []
        names: dict[str, str] = {}
        term = ""
        for line in read_text(Path(self.path)).splitlines():
            if line.startswith("id: "):
                term = line[4:].strip()
            elif (match := _CLAUSE.match(line)) and match[1] in self.properties and match[2].startswith(self.prefix):
                pairs.append((term, match[2]))
                if match[3]:
                    names.setdefault(match[2], match[3].strip())
        found = np.array(pairs, dtype=object).reshape(-1, 2)
        targets = sorted(set(found[:, 1]))
        nodes = node_table(
            targets, ends(self.relation)[1], [_short(names.get(t, t)) for t in targets], [""] * len(targets)
        )
        return Part(self._origin(self.path), nodes, [Links(self.relation, found[:, 0], found[:, 1])])


def _short(comment: str) -> str:
    """The term in a comment that names the property as well: `part of lung` → `lung`."""
    return re.sub(r"^(part of|has soma location|part_of) ", "", comment)


@dataclasses.dataclass(frozen=True, eq=False)
class GeneSets(_Described):
    """Named sets of genes: pathways, places in the cell, functions.

    Parameters
    ----------
    sets
        A GMT file (name, description, genes; tab-separated; also ``.gz``), or a mapping of names to genes.
    type
        Of the nodes: ``"pathway"``, ``"compartment"``, ``"function"``, or one of your own.
    relation
        By default ``"gene-localises-compartment"`` for compartments and ``"gene-in-<type>"`` for the others.
    prefix
        Is taken off the names, such as ``"GOCC_"``; names in capitals and underscores are then written as words.
    name, licence, version
        For the table of sources.
    """

    sets: str | Path | Mapping[str, Sequence[str]]
    type: str = "pathway"
    relation: str | None = None
    prefix: str = ""

    def read(self) -> Part:
        """One node a set, one link a gene of it."""
        relation = self.relation or (
            "gene-localises-compartment" if self.type == "compartment" else f"gene-in-{self.type}"
        )
        if isinstance(self.sets, Mapping):
            rows = [(key, "", list(genes)) for key, genes in self.sets.items()]
        else:
            lines = (line.split("\t") for line in read_text(Path(self.sets)).splitlines() if line.strip())
            rows = [(key, about, [g for g in genes if g]) for key, about, *genes in lines]
        ids = [about if re.fullmatch(r"R-[A-Z]{3}-\d+|GO:\d{7}|WP\d+", about) else key for key, about, _ in rows]
        names = [self._words(key) for key, _, _ in rows]
        lengths = [len(genes) for _, _, genes in rows]
        genes = np.array([gene for _, _, genes in rows for gene in genes], dtype=object)
        targets = np.repeat(np.array(ids, dtype=object), lengths)
        nodes = node_table(ids, self.type, names, [""] * len(ids))
        origin = self._origin({} if isinstance(self.sets, Mapping) else self.sets)
        return Part(origin, nodes, [Links(relation, genes, targets)], only_linked=True)

    def _words(self, key: str) -> str:
        """`GOCC_CELL_CORTEX` → `cell cortex`, with the prefix that is to be taken off; other names stay."""
        return key[len(self.prefix) :].replace("_", " ").lower() if self.prefix and key.startswith(self.prefix) else key


@dataclasses.dataclass(frozen=True, eq=False)
class Pairs(_Described):
    """A table of pairs: interactions, targets of transcription factors, ligands with receptors, markers of cell types.

    Genes are found by symbol, Ensembl id, or earlier symbol; cell types by id, name, synonym or a label as studies write
    them; other terms by id, name or synonym. Pairs with an end that is not found are left out and counted.

    Parameters
    ----------
    table
        A DataFrame, or a ``.csv``, ``.tsv`` or ``.txt`` file, also ``.gz`` or ``.xz``.
    relation
        ``"gene-interacts-gene"``, ``"gene-regulates-gene"``, ``"ligand-binds-receptor"``, ``"gene-marks-cell_type"``,
        ``"gene-associated-disease"``, or any other of the form ``type-verb-type``.
    columns
        Of the start and the end of a link; of each, several may be given as a tuple: the first that is filled is taken.
        By default the first two columns.
    where
        Keep rows whose column has one of these values, such as ``{"confidence": ["A", "B"]}``.
    separator
        Splits a cell of the table into several labels, each of which is linked, such as ``"&"`` in ``TGFBR1&TGFBR2``.
    derived_from
        Cells or donors whose counts the table was worked out from, for example the training cells that markers were
        computed on. Recorded; see :meth:`~sclm.knowledge.KnowledgeGraph.refuse_if_derived_from`.
    name, licence, version
        For the table of sources.
    """

    table: pd.DataFrame | str | Path
    relation: str
    columns: tuple[str | tuple[str, ...], str | tuple[str, ...]] | None = None
    where: Mapping[str, Sequence[str]] | None = None
    separator: str | None = None
    derived_from: Iterable[str] = ()

    def read(self) -> Part:
        """The links; no nodes of its own."""
        ends(self.relation)
        if isinstance(self.derived_from, str):
            raise TypeError(f"derived_from is a list of cells or donors, found the text {self.derived_from!r}.")
        table = self.table if isinstance(self.table, pd.DataFrame) else read_table(Path(self.table))
        columns = self.columns or (table.columns[0], table.columns[1])
        for column in [c for end in columns for c in _several(end)] + list(self.where or ()):
            if column not in table.columns:
                raise ValueError(f"the table has no column {column!r}, found {', '.join(map(repr, table.columns))}.")
        for column, values in (self.where or {}).items():
            table = table[table[column].astype(str).isin([str(v) for v in values])]
        left, right = (_first_filled(table, _several(end)) for end in columns)
        filled = (left != "") & (right != "")
        pairs = left[filled], right[filled]
        if self.separator is not None:
            pairs = _split(*pairs, self.separator)
        origin = self._origin(self.table, derived_from=self.derived_from)
        return Part(origin, _NO_NODES, [Links(self.relation, *pairs)])


def _several(end: str | tuple[str, ...]) -> tuple[str, ...]:
    return (end,) if isinstance(end, str) else tuple(end)


def _first_filled(table: pd.DataFrame, columns: tuple[str, ...]) -> np.ndarray:
    """The first column that is filled, row by row, (n,) object; empty where none is."""
    result = np.full(len(table), "", dtype=object)
    for column in columns:
        values = table[column].astype(object).to_numpy()
        empty = result == ""
        result[empty] = np.array(
            ["" if v is None or v != v or str(v) in {"", "NA"} else str(v).strip() for v in values[empty]], dtype=object
        )
    return result


def _split(left: np.ndarray, right: np.ndarray, separator: str) -> tuple[np.ndarray, np.ndarray]:
    """Every label of the left cell with every label of the right one."""
    parts: list[list[list[str]]] = [
        [[label.strip(" []") for label in cell.split(separator) if label.strip(" []")] for cell in side]
        for side in (left, right)
    ]
    pairs = [(a, b) for many_a, many_b in zip(*parts, strict=True) for a in many_a for b in many_b]
    found = np.array(pairs, dtype=object).reshape(-1, 2)
    return found[:, 0], found[:, 1]


def read_table(path: Path) -> pd.DataFrame:
    """A table of text, comma- or tab-separated as its first line says; nothing in it is taken for missing."""
    text = read_text(path).lstrip("\ufeff")
    first = text[: text.find("\n")] if "\n" in text else text
    import io

    return pd.read_csv(io.StringIO(text), sep="\t" if "\t" in first else ",", dtype=str, keep_default_na=False)


def read_text(path: Path) -> str:
    """A plain, gzip- or xz-compressed text file."""
    if not path.is_file():
        raise FileNotFoundError(
            f"no file {path}. Give the path of a file, or the name of a source that can be downloaded."
        )
    data = path.read_bytes()
    if path.suffix == ".gz":
        data = gzip.decompress(data)
    elif path.suffix == ".xz":
        data = lzma.decompress(data)
    return data.decode("utf-8", errors="replace")
