"""Reading ontology files into one plain table, whatever their format.

Four readers give the same `TermTable`: pronto (OBO, OBO graphs, OWL), a tolerant line parser for OBO files that pronto
refuses, the JSON layout of the cellxgene ontology guide, and the same compressed with zstandard.
"""

from __future__ import annotations

import gzip
import json
import logging
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

logger = logging.getLogger(__name__)


@dataclass
class TermTable:
    """The terms of one ontology file, as read: active terms by id, and where each retired id leads.

    Attributes
    ----------
    names, definitions, synonyms, parents
        By term id. `synonyms` holds exact synonyms only; `parents` superclasses (is_a), possibly outside the table.
    replaced
        Retired id (obsolete term or alternative id) to its successor, or to `""` where the file names none.
    ontology, version
        The ontology that the file says it is (`"cl"`) and its release, else empty.
    """

    names: dict[str, str] = field(default_factory=dict)
    definitions: dict[str, str] = field(default_factory=dict)
    synonyms: dict[str, tuple[str, ...]] = field(default_factory=dict)
    parents: dict[str, tuple[str, ...]] = field(default_factory=dict)
    replaced: dict[str, str] = field(default_factory=dict)
    ontology: str = ""
    version: str = ""

    def add(self, term: str, name: str, definition: str, synonyms: Iterable[str], parents: Iterable[str]) -> None:
        """Add one active term; repeated synonyms and parents are kept once, in order."""
        self.names[term] = name or term
        self.definitions[term] = definition
        self.synonyms[term] = tuple(dict.fromkeys(s for s in synonyms if s and s != name))
        self.parents[term] = tuple(dict.fromkeys(p for p in parents if p != term))


def read_terms(path: Path) -> TermTable:
    """Read an ontology file: `.obo`, `.obo.gz`, `.owl`, `.json` or `.json.zst`.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the ending is none of these, or the file holds no terms.
    ImportError
        If a `.zst` file is given and `zstandard` is not installed.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no ontology file {path}. Give the path of an .obo, .obo.gz, .owl or .json.zst file.")
    name = path.name.lower()
    if name.endswith((".json", ".json.gz", ".json.zst")):
        table = _read_json(path)
    elif name.endswith((".obo", ".obo.gz")):
        lines = read_obo(path)
        try:
            table = _without_conditional(read_with_pronto(path), lines)
        except Exception as error:  # noqa: BLE001
            # Many kinds of error here: fastobo is strict about xrefs, pronto about undeclared synonym types and
            # targets. Whole public releases fail to load for one such line, which we do not even use.
            logger.info(
                "pronto could not read %s (%s: %s); reading it line by line.", path, type(error).__name__, error
            )
            table = lines
    elif name.endswith((".owl", ".owl.gz", ".owx", ".xml")):
        table = read_with_pronto(path)
    else:
        raise ValueError(
            f"expected an ontology file ending in .obo, .obo.gz, .owl, .json or .json.zst, found {path.name!r}. "
            "Convert it, or give an ontology name such as 'cl' or 'uberon'."
        )
    if not table.names:
        raise ValueError(f"{path} holds no active terms. Is it an ontology in the format that its name says?")
    return table


def _without_conditional(table: TermTable, lines: TermTable) -> TermTable:
    """Drop the parents that hold under a condition only: pronto does not tell them from the others, the lines do."""
    for term, parents in table.parents.items():
        table.parents[term] = tuple(p for p in parents if p in lines.parents.get(term, parents))
    return table


def read_with_pronto(path: Path) -> TermTable:
    """Read an OBO, OBO graph or OWL file with pronto, without following its imports.

    Raises whatever pronto raises on files it does not understand.
    """
    import warnings

    import pronto

    with warnings.catch_warnings():
        # pronto warns about every construct that it skips (hundreds in CL); none of them concerns what is kept here
        warnings.simplefilter("ignore")
        ontology = pronto.Ontology(str(path), import_depth=0)
        metadata = ontology.metadata
        table = TermTable(ontology=_ontology(metadata.ontology or ""), version=_release(metadata.data_version or ""))
        for term in ontology.terms():
            if term.obsolete:
                try:
                    table.replaced[term.id] = next((other.id for other in term.replaced_by), "")
                except KeyError:  # its successor lives in another ontology
                    table.replaced[term.id] = ""
                continue
            exact = sorted(s.description for s in term.synonyms if s.scope == "EXACT")
            above = sorted(parent.id for parent in term.superclasses(distance=1, with_self=False))
            table.add(term.id, (term.name or "").strip(), str(term.definition or ""), exact, above)
            for other in term.alternate_ids:
                table.replaced.setdefault(other, term.id)
    return table


_ESCAPE = re.compile(r"\\(.)")
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"\s*(\w*)')
_TRAILING = re.compile(r"\s*(?<!\\)(?:\{[^{}]*\}\s*)?(?:(?<!\\)!.*)?$")
_ESCAPED = {"n": "\n", "t": "\t", "W": " "}


def _unescape(text: str) -> str:
    return _ESCAPE.sub(lambda match: _ESCAPED.get(match[1], match[1]), text)


def _value(text: str) -> str:
    """The value of an unquoted clause, without its qualifiers `{…}` and its comment `! …`."""
    return _unescape(_TRAILING.sub("", text, count=1)).strip()


def _holds_always(clause: str) -> bool:
    """Whether an `is_a` holds for all: with `gci_filler` it is only so in that place (a cell type in one tissue)."""
    return "gci_filler" not in clause


def _quoted(text: str) -> tuple[str, str]:
    """The text of a quoted clause and the word behind it: `"T-cell" EXACT []` gives `("T-cell", "EXACT")`."""
    match = _QUOTED.match(text)
    return (_unescape(match[1]), match[2]) if match else (_value(text), "")


def parse_obo(lines: Iterable[str]) -> TermTable:
    """Read OBO 1.2 or 1.4 line by line, keeping what sclm uses and passing over everything else.

    Understands `id`, `name`, `def`, `synonym` (scope EXACT), `is_a`, `alt_id`, `is_obsolete` and `replaced_by` of
    `[Term]` stanzas and `ontology` and `data-version` of the header. Nothing else in a line can make it fail.
    """
    table = TermTable()
    for header, stanza in _stanzas(lines):
        if header == "":
            table.version = _release(next(iter(stanza.get("data-version", ())), ""))
            table.ontology = _ontology(next(iter(stanza.get("ontology", ())), ""))
        if header != "Term" or "id" not in stanza:
            continue
        term = _value(stanza["id"][0])
        if _value(stanza.get("is_obsolete", ["false"])[0]) == "true":
            table.replaced[term] = _value(stanza["replaced_by"][0]) if "replaced_by" in stanza else ""
            continue
        synonyms = (_quoted(value) for value in stanza.get("synonym", ()))
        table.add(
            term,
            _value(stanza["name"][0]) if "name" in stanza else "",
            _quoted(stanza["def"][0])[0] if "def" in stanza else "",
            (text for text, scope in synonyms if scope == "EXACT"),
            map(_value, filter(_holds_always, stanza.get("is_a", ()))),
        )
        for other in map(_value, stanza.get("alt_id", ())):
            table.replaced.setdefault(other, term)
    return table


def _stanzas(lines: Iterable[str]) -> Iterator[tuple[str, dict[str, list[str]]]]:
    """Yield (kind, clauses) of each stanza; the file's header has the kind `""`."""
    kind = ""
    clauses: dict[str, list[str]] = {}
    for line in lines:
        line = line.strip()
        if line.startswith("[") and line.endswith("]"):
            yield kind, clauses
            kind, clauses = line[1:-1], {}
        elif line and not line.startswith("!"):
            key, separator, value = line.partition(":")
            if separator:
                clauses.setdefault(key.strip(), []).append(value.strip())
    yield kind, clauses


def _lines(path: Path) -> list[str]:
    """The lines of a plain or gzip-compressed text file; bytes that are no UTF-8 become replacement characters."""
    data = path.read_bytes()
    if path.suffix == ".gz":
        data = gzip.decompress(data)
    return data.decode("utf-8", errors="replace").splitlines()


def read_obo(path: Path) -> TermTable:
    """Read an OBO file with the tolerant line parser alone (used for the bundled snapshot: ten times faster)."""
    return parse_obo(_lines(path))


def _read_json(path: Path) -> TermTable:
    """Read the JSON layout of the cellxgene ontology guide, plain or compressed."""
    data = path.read_bytes()
    if path.suffix == ".gz":
        data = gzip.decompress(data)
    elif path.suffix == ".zst":
        data = _decompress(data, path)
    terms = json.loads(data)
    if not isinstance(terms, dict) or not all(isinstance(v, dict) and "label" in v for v in terms.values()):
        raise ValueError(
            f"{path} is not in the layout of the cellxgene ontology guide ({{id: {{'label': …, 'ancestors': …}}}}). "
            "For other JSON, give the ontology as .obo or .owl."
        )
    return from_guide(terms)


def from_guide(terms: dict[str, dict[str, Any]]) -> TermTable:
    """Turn the cellxgene ontology guide's `{id: entry}` into a table; parents are the ancestors at distance 1.

    This layout does not tell is_a from part_of: both are parents here.
    """
    table = TermTable()
    for term, entry in terms.items():
        if entry.get("deprecated"):
            table.replaced[term] = entry.get("replaced_by") or ""
            continue
        parents = sorted(parent for parent, steps in entry.get("ancestors", {}).items() if steps == 1)
        table.add(term, entry["label"], entry.get("description") or "", entry.get("synonyms") or (), parents)
    return table


def _decompress(data: bytes, path: Path) -> bytes:
    try:
        import zstandard
    except ImportError as error:
        raise ImportError(f"reading {path.name} needs zstandard. Install it: pip install zstandard") from error
    # decompressobj: the frames of the guide do not state their size, which plain decompress() asks for
    return zstandard.ZstdDecompressor().decompressobj().decompress(data)


def _release(text: str) -> str:
    """The date of a data-version such as `releases/2026-03-26` or `cl/releases/2026-03-26/cl.obo`, else the text."""
    match = re.search(r"\d{4}-\d{2}-\d{2}", text)
    return match[0] if match else text.strip()


def release_in_name(file: str) -> str:
    """The release that a file name of the cellxgene ontology guide states: `UBERON-ontology-v2026-04-01.json.zst`."""
    match = re.search(r"-v?([0-9][0-9A-Za-z.-]*?)\.json", file)
    return match[1] if match else ""


def _ontology(text: str) -> str:
    """`cl` of `cl`, `cl/cl-base` or `http://purl.obolibrary.org/obo/cl.owl`."""
    return text.rsplit("/obo/", 1)[-1].split("/")[0].split(".")[0].strip()
