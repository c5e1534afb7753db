"""`Pathways`: collections of gene sets, bundled, by registry, from a GMT file or a table."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from sclm.knowledge.downloads import RESOURCES, fetch
from sclm.knowledge.graph_sources import read_text

if TYPE_CHECKING:
    from collections.abc import Iterable

BUNDLED = ("default", "reactome", "wikipathways")
BY_REGISTRY = ("go_cc", "go_mf")
_ID = re.compile(r"R-[A-Z]{3}-\d+|GO:\d{7}|WP\d+")
# What collections put before the names of their sets.
_PREFIX = re.compile(r"^(HALLMARK|REACTOME|KEGG(_MEDICUS)?|WP|GOBP|GOCC|GOMF|BIOCARTA|PID|HP)_")
_HALLMARK = (
    "The Hallmark collection is not bundled: its licence asks users to fetch it themselves. Download h.all.*.Hs.symbols.gmt from "
    "www.gsea-msigdb.org and pass its path."
)


@dataclass(frozen=True, eq=False, repr=False)
class Pathways:
    """A collection of gene sets.

    Attributes
    ----------
    name
        Of the collection: ``"default"``, ``"reactome"``, the name of a file.
    ids, names
        Of the sets: ids are unique (``"R-HSA-909733"``, ``"HALLMARK_HYPOXIA"``), names are what a reader sees.
    phrases
        How a sentence names each set: ``"the type I interferon response"``.
    genes
        Gene symbols of each set, each once.
    licence
        Of the collection, ``""`` where unknown.

    Examples
    --------
    >>> from sclm.knowledge import Pathways
    >>> sets = Pathways.load("default")
    >>> sets.phrases[sets.ids.index("R-HSA-909733")]
    'the type I interferon response'
    """

    name: str
    ids: tuple[str, ...]
    names: tuple[str, ...]
    phrases: tuple[str, ...]
    genes: tuple[tuple[str, ...], ...]
    licence: str = ""

    @classmethod
    def load(cls, source: str | Path | Mapping[str, Iterable[str]] | pd.DataFrame | Pathways = "default") -> Pathways:
        """Read gene sets.

        Parameters
        ----------
        source
            ``"default"``: a choice of Reactome pathways that tell something of a cell; ``"reactome"`` and ``"wikipathways"``: those of the
            bundled knowledge graph (CC0; no network). ``"go_cc"``, ``"go_mf"``: by registry, downloaded once
            (:func:`sclm.knowledge.fetch`). The path of a GMT file (name, description, genes; tab-separated; also ``.gz`` or ``.xz``),
            such as MSigDB's Hallmark. A mapping of names to genes. A table with the columns ``source`` and ``target``, as decoupler
            has them. A `Pathways` is given back.

        Returns
        -------
        The collection, sets in the order of the source.

        Raises
        ------
        ValueError
            If the name is unknown, or there are no sets, or two of one name.
        FileNotFoundError
            If there is no such file.
        """
        if isinstance(source, Pathways):
            return source
        if isinstance(source, pd.DataFrame):
            return _table(source)
        if isinstance(source, Mapping):
            return _collection("mapping", [(str(k), "", list(genes)) for k, genes in source.items()])
        if isinstance(source, str) and source in BUNDLED:
            return _bundled(source)
        if isinstance(source, str) and source in BY_REGISTRY:
            return _collection(source, _read(fetch(source)), licence=RESOURCES[source].licence)
        path = Path(source).expanduser()
        if not path.is_file():
            known = ", ".join(map(repr, (*BUNDLED, *BY_REGISTRY)))
            hint = f" {_HALLMARK}" if "hallmark" in str(source).lower() or str(source).startswith("h.all") else ""
            raise FileNotFoundError(f"gene sets must be one of {known}, or a GMT file; found no file {source!r}.{hint}")
        return _collection(path.name.removesuffix(".gz").removesuffix(".xz").removesuffix(".gmt"), _read(path))

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        return f"Pathways({self.name!r}, {len(self):,} sets)"

    def find(self, text: str) -> int:
        """Place of the set that an id, a name or a phrase means, without regard to case; -1 where there is none."""
        return self._places.get(_key(text), -1)

    @cached_property
    def _places(self) -> dict[str, int]:
        found: dict[str, int] = {}
        for texts in (self.phrases, self.names, self.ids):  # ids last: they decide
            found.update({_key(text): i for i, text in enumerate(texts)})
        return found


def _key(text: str) -> str:
    """Text without regard to case, underscores, spelling of signalling, and a leading article."""
    words = re.sub(r"[\s_]+", " ", text.lower().replace("signalling", "signaling")).strip(" .")
    return words.removeprefix("the ")


def phrase(name: str) -> str:
    """A name as a sentence writes it: ``"HALLMARK_TNFA_SIGNALING_VIA_NFKB"`` → ``"TNFA signaling via NFKB"``."""
    bare = _PREFIX.sub("", name)
    if "_" not in bare and bare != bare.upper():
        return bare
    words = bare.replace("_", " ").split()
    # Words with digits, and short ones that are no English words, are names of genes.
    return " ".join(w if re.search(r"\d", w) or (len(w) <= 5 and not _WORD.fullmatch(w)) else w.lower() for w in words)


_WORD = re.compile(
    r"(?:OF|IN|TO|BY|VIA|AND|THE|FOR|UP|DN|ACID|BILE|BETA|ALPHA|GAMMA|LATE|EARLY|HEME|CELL|CELLS|CYCLE|OXIDE|FATTY|TYPE|DEATH)"
)


def _read(path: Path) -> list[tuple[str, str, list[str]]]:
    rows = []
    for number, line in enumerate(read_text(path).splitlines(), 1):
        if not line.strip():
            continue
        key, *rest = line.split("\t")
        if len(rest) < 2:
            raise ValueError(
                f"{path} must be a GMT file (name, description and genes, tab-separated), found {len(rest) + 1} column(s) in line "
                f"{number}."
            )
        rows.append((key.strip(), rest[0].strip(), rest[1:]))
    return rows


def _table(table: pd.DataFrame) -> Pathways:
    missing = [c for c in ("source", "target") if c not in table]
    if missing:
        raise ValueError(
            f"a table of gene sets must have the columns 'source' and 'target', found {list(table.columns)}."
        )
    groups = table.groupby("source", sort=False, observed=True)["target"]
    return _collection("table", [(str(k), "", list(v)) for k, v in groups])


def _collection(name: str, rows: list[tuple[str, str, list[str]]], *, licence: str = "") -> Pathways:
    kept = [
        (key, about, tuple(dict.fromkeys(str(g).strip() for g in genes if str(g).strip())))
        for key, about, genes in rows
    ]
    if not kept:
        raise ValueError(f"gene sets must hold at least one set, found none in {name!r}.")
    ids = [about if _ID.fullmatch(about) else key for key, about, _ in kept]
    if len(set(ids)) < len(ids):
        twice = next(i for i in ids if ids.count(i) > 1)
        raise ValueError(f"gene sets must have different names, found {twice!r} twice in {name!r}.")
    names = tuple(key for key, _, _ in kept)
    return Pathways(name, tuple(ids), names, tuple(map(phrase, names)), tuple(genes for _, _, genes in kept), licence)


@cache
def _bundled(name: str) -> Pathways:
    from sclm.knowledge.knowledge_graph import KnowledgeGraph

    graph = KnowledgeGraph.default()
    genes, nodes = graph.edges["gene-in-pathway"]
    order = np.argsort(nodes, kind="stable")
    symbols = graph.nodes["name"].to_numpy(dtype=object)[genes[order]]
    starts = np.searchsorted(nodes[order], np.arange(len(graph) + 1))
    ids, names = graph.nodes["id"].to_numpy(dtype=object), graph.nodes["name"].to_numpy(dtype=object)
    rows = graph.rows("pathway")
    chosen: list[int]
    words: dict[str, str] = {}
    if name == "default":
        text = (Path(__file__).with_name("data") / "pathways_default.tsv").read_text(encoding="utf-8")
        words = dict(line.split("\t") for line in text.splitlines() if line and not line.startswith("#"))
        place = {str(ids[row]): int(row) for row in rows}
        chosen = [place[i] for i in words]
    else:
        reactome = name == "reactome"
        chosen = [int(row) for row in rows if str(ids[row]).startswith("R-") == reactome]
    return Pathways(
        name,
        tuple(str(ids[row]) for row in chosen),
        tuple(str(names[row]) for row in chosen),
        tuple(words.get(str(ids[row]), str(names[row])) for row in chosen),
        tuple(tuple(map(str, symbols[starts[row] : starts[row + 1]])) for row in chosen),
        "CC0",
    )
