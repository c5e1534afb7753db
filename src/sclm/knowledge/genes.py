"""Gene identifiers: Ensembl gene ids, approved symbols, and the symbols that genes had before."""

from __future__ import annotations

import gzip
import re
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_BUNDLED = {"human": ("genes_human.tsv.gz", "ENSG", "GENCODE v48, HGNC 2020-05-27")}

_ENSEMBL = re.compile(r"(ENS[A-Z]*G\d{11})(?:\.\d+)?(?:_PAR_Y)?", re.IGNORECASE)


class GeneIdentifiers:
    """Ensembl gene id ↔ approved symbol of one species, with the symbols that genes had before.

    Immutable; made by `GeneIdentifiers.load`. Names are matched exactly, case included: `Cd4` is a mouse symbol.

    Attributes
    ----------
    species, version
        `"human"`, and the releases that the map was made from.

    Examples
    --------
    >>> genes = GeneIdentifiers.load("human")
    >>> genes.to_symbol(["ENSG00000010610.10", "CD4", "MLL", "no such gene"])
    ['CD4', 'CD4', 'KMT2A', None]
    """

    def __init__(
        self, symbol_of: Mapping[str, str], ensembl_of: Mapping[str, str], previous: Mapping[str, str], **about: str
    ) -> None:
        self._symbol_of = dict(symbol_of)
        self._ensembl_of = dict(ensembl_of)
        self._symbols = frozenset(self._symbol_of.values())
        self._previous = dict(previous)
        self._prefix = about.get("prefix", "ENSG")
        self.species = about.get("species", "")
        self.version = about.get("version", "")

    @classmethod
    def load(cls, species: str = "human") -> GeneIdentifiers:
        """Load the bundled map of a species; the same object on every call.

        Raises ValueError for a species other than `"human"`.
        """
        if species not in _BUNDLED:
            raise ValueError(
                f"expected a species of {sorted(_BUNDLED)}, found {species!r}. Map to human orthologs first."
            )
        return _load(species)

    def __len__(self) -> int:
        return len(self._symbol_of)

    def __repr__(self) -> str:
        return f"GeneIdentifiers({self.species!r}, {len(self):,} genes, {self.version})"

    def _symbol(self, name: Any) -> str | None:
        if not isinstance(name, str):
            return None
        if (match := _ENSEMBL.fullmatch(name)) is not None:
            return self._symbol_of.get(match[1].upper())
        # an approved symbol is itself, even where it once was another gene's
        return name if name in self._symbols else self._previous.get(name)

    def to_symbol(self, names: Iterable[str]) -> list[str | None]:
        """The approved symbol of each gene, None where unknown.

        Parameters
        ----------
        names
            Ensembl gene ids (a version such as `.10` is passed over), approved symbols (which stay) or earlier symbols
            and aliases, where these lead to one gene only.
        """
        return [self._symbol(name) for name in names]

    def to_ensembl(self, names: Iterable[str]) -> list[str | None]:
        """The Ensembl gene id of each gene without version, None where unknown or where a symbol has several.

        Takes what `to_symbol` takes. An Ensembl id of the species stays what it is, also that of a gene without symbol.
        Of several ids of one symbol the one that HGNC names is taken, if it names one.
        """
        found: list[str | None] = []
        for name in names:
            match = _ENSEMBL.fullmatch(name) if isinstance(name, str) else None
            if match is not None:
                gene = match[1].upper()
                found.append(gene if gene.startswith(self._prefix) else None)
            else:
                symbol = self._symbol(name)
                found.append(None if symbol is None else self._ensembl_of.get(symbol))
        return found

    @property
    def symbols(self) -> tuple[str, ...]:
        """All approved symbols, sorted."""
        return tuple(sorted(self._symbols))

    def aliases(self, symbol: str) -> tuple[str, ...]:
        """The earlier symbols and aliases that lead to an approved symbol, sorted; empty where there are none."""
        return self._aliases.get(symbol, ())

    @cached_property
    def _aliases(self) -> dict[str, tuple[str, ...]]:
        found: dict[str, list[str]] = {}
        for name, symbol in sorted(self._previous.items()):
            found.setdefault(symbol, []).append(name)
        return {symbol: tuple(names) for symbol, names in found.items()}

    def is_previous(self, name: str) -> bool:
        """Whether a name is an earlier symbol or alias that leads to one gene, and no approved symbol."""
        return name not in self._symbols and name in self._previous


@cache
def _load(species: str) -> GeneIdentifiers:
    file, prefix, version = _BUNDLED[species]
    text = gzip.decompress((Path(__file__).with_name("data") / file).read_bytes()).decode()
    symbol_of: dict[str, str] = {}
    ensembl_of: dict[str, str] = {}
    previous: dict[str, str] = {}
    for line in text.splitlines():
        number, symbol, *rest = line.split("\t")
        gene = f"{prefix}{int(number):011d}"
        symbol_of[gene] = symbol
        if rest and rest[0]:
            previous.update(dict.fromkeys(rest[0].split("|"), symbol))
        if len(rest) < 2:  # the last cell is "-" where another id is the one that the symbol leads to
            ensembl_of[symbol] = gene
    return GeneIdentifiers(symbol_of, ensembl_of, previous, species=species, version=version, prefix=prefix)
