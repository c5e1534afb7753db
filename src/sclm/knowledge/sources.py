"""Where ontologies come from: the bundled snapshot, an installed guide, a pinned download, or a user's file."""

from __future__ import annotations

import importlib.util
import logging
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from sclm.knowledge import terms
from sclm.knowledge.downloads import RESOURCES, fetch, find_local

if TYPE_CHECKING:
    from collections.abc import Sequence

logger = logging.getLogger(__name__)

BUNDLED = Path(__file__).with_name("data") / "cl.obo.gz"

# Name as a user may write it, to name in the registry.
NAMES = {
    "cl": "cl",
    "cell ontology": "cl",
    "uberon": "uberon",
    "mondo": "mondo",
    "efo": "efo",
    "hsapdv": "hsapdv",
}


class Source(NamedTuple):
    """Terms, and where they are from."""

    table: terms.TermTable
    name: str
    source: str
    licence: str


def named(name: str) -> Source:
    """Read an ontology of the registry: CL from the package, others from where their pinned file can be had."""
    resource = RESOURCES[name]
    if name == "cl":
        # our own file needs no strict reader: the line parser takes 0.08 s of it, pronto 0.3 s and an import
        return Source(terms.read_obo(BUNDLED), name, resource.url, resource.licence)
    guide = importlib.util.find_spec("cellxgene_ontology_guide")
    folder = Path(guide.origin).parent / "data" if guide is not None and guide.origin else None
    # the same bytes wherever they come from: another release in an installed guide is passed over
    path = (find_local(resource, folder) if folder is not None else None) or fetch(name)
    table = terms.read_terms(path)
    table.version = terms.release_in_name(path.name)
    return Source(table, name, resource.url, resource.licence)


def from_file(path: Path) -> Source:
    """Read an ontology from a user's file."""
    if not path.suffix and not path.exists():
        raise ValueError(
            f"expected an ontology name ({', '.join(sorted(NAMES))}) or the path of an .obo, .owl or .json.zst file, "
            f"found {str(path)!r}."
        )
    table = terms.read_terms(path)
    return Source(table, table.ontology or path.name.split(".")[0], str(path), "")


def with_prefixes(table: terms.TermTable, prefixes: Sequence[str] | None) -> list[str]:
    """The ids of a table that belong to the ontology itself, not to those that it imports."""
    found = {term.partition(":")[0] for term in table.names}
    if prefixes is None:
        prefixes = [prefix for prefix in found if prefix.lower() == table.ontology.lower()] or list(found)
    wanted = {prefix.rstrip(":_") for prefix in prefixes}
    kept = [term for term in table.names if term.partition(":")[0] in wanted]
    if not kept:
        raise ValueError(f"no term has a prefix of {sorted(wanted)}; the file's prefixes are {sorted(found)}.")
    if len(kept) < len(table.names):
        logger.info("Kept %s of %s terms, those of %s.", f"{len(kept):,}", f"{len(table.names):,}", sorted(wanted))
    return kept
