"""The genes that a model knows, and how the genes of a data set are found among them."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_ENSEMBL = re.compile(r"^(ENS[A-Z]*G\d{11})(?:\.\d+)?(_PAR_Y)?$")
_COMPOSITE = re.compile(
    r"^(?:(?P<symbol>.+)[_|:](?P<id>ENS[A-Z]*G\d{11})|(?P<id2>ENS[A-Z]*G\d{11})[_|:](?P<symbol2>.+))(?:\.\d+)?$"
)
_TITLE_CASE = re.compile(
    r"^(?:[A-Z][a-z0-9.-]*[a-z][a-zA-Z0-9.-]*|[A-Z0-9]+Rik\d?|H2-[A-Z0-9]*[a-z]\w*|mt-[A-Z][a-z]\w*)$"
)
_ZEBRAFISH = re.compile(r"^(?:si:|zgc:|im:7|wu:f)")
_MISSING_SHOWN = 10


class GeneMatch(NamedTuple):
    """Which genes of the data a model knows.

    Attributes
    ----------
    ids
        (n_data,) int64: token id of each data gene, -1 where the model does not know it.
    matched
        Number of model genes found in the data.
    in_model, in_data
        Number of genes in the model (special tokens such as ``<pad>`` not counted) and in the data.
    kind
        Names of the data: ``"symbol"`` or ``"ensembl"``.
    duplicates
        Model gene → the data genes that meet in it, where there are several; their counts are summed.
    missing
        The first model genes that the data lack.
    routes
        How many data genes were found how: ``"exact"``, ``"version"``, ``"composite"``, ``"case"``, ``"identifiers"``.
    """

    ids: np.ndarray
    matched: int
    in_model: int
    in_data: int
    kind: str
    duplicates: dict[str, tuple[str, ...]]
    missing: tuple[str, ...]
    routes: dict[str, int]

    def summary(self) -> str:
        """One line: ``1,234 matched / 2,000 in model / 13,714 in data``."""
        text = f"{self.matched:,} matched / {self.in_model:,} in model / {self.in_data:,} in data"
        if self.duplicates:
            text += f" ({len(self.duplicates):,} model genes summed over several data genes)"
        return text


@dataclass(frozen=True)
class GeneVocabulary:
    """The genes of a model in a fixed order: a gene's place is its token id.

    Parameters
    ----------
    tokens
        Gene symbols or Ensembl gene ids, each once; special tokens are written in angle brackets (``<pad>``).

    Examples
    --------
    >>> vocabulary = GeneVocabulary(("CD3E", "MS4A1", "NKG7"))
    >>> vocabulary.lookup(["NKG7", "ACTB"])
    array([ 2, -1])
    >>> GeneVocabulary.from_json(vocabulary.to_json()) == vocabulary
    True
    """

    tokens: tuple[str, ...]

    def __post_init__(self) -> None:
        tokens = tuple(self.tokens)
        for token in tokens:
            if not isinstance(token, str) or not token:
                msg = f"tokens must be non-empty strings, found {token!r}."
                raise TypeError(msg)
        tokens = tuple(map(str, tokens))  # numpy's strings too
        object.__setattr__(self, "tokens", tokens)
        if len(set(tokens)) != len(tokens):
            twice = [token for token, n in Counter(tokens).items() if n > 1]
            shown = ", ".join(twice[:10]) + (", …" if len(twice) > 10 else "")
            msg = f"tokens must each stand once, found {len(twice)} that repeat: {shown}. Leave the repeats out."
            raise ValueError(msg)

    def __len__(self) -> int:
        return len(self.tokens)

    def __contains__(self, token: object) -> bool:
        return token in self._index

    def __repr__(self) -> str:
        shown = ", ".join(self.tokens[:3]) + (", …" if len(self.tokens) > 3 else "")
        return f"GeneVocabulary({len(self.tokens):,} tokens: {shown})"

    # ------------------------------------------------------------------ storage

    def to_json(self) -> str:
        """JSON text that :meth:`from_json` reads."""
        return json.dumps({"format": 1, "tokens": list(self.tokens)}, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> GeneVocabulary:
        """Vocabulary from the text of :meth:`to_json`."""
        content = json.loads(text)
        if not isinstance(content, dict) or content.get("format") != 1 or not isinstance(content.get("tokens"), list):
            found = sorted(content) if isinstance(content, dict) else type(content).__name__
            msg = f"a gene vocabulary must be JSON with 'format': 1 and 'tokens': […], found {found}."
            raise ValueError(msg)
        return cls(tuple(content["tokens"]))

    # ------------------------------------------------------------------ look-ups

    @cached_property
    def _index(self) -> pd.Index:
        return pd.Index(np.asarray(self.tokens, dtype=object), dtype=object)

    @cached_property
    def is_gene(self) -> np.ndarray:
        """(n_tokens,) bool: False for special tokens, which are written in angle brackets."""
        return np.array([not (t.startswith("<") and t.endswith(">")) for t in self.tokens], dtype=bool)

    @cached_property
    def kind(self) -> str:
        """``"ensembl"`` where most genes are Ensembl gene ids, else ``"symbol"``."""
        return gene_kind([t for t, gene in zip(self.tokens, self.is_gene, strict=True) if gene])

    def lookup(self, names: Iterable[str]) -> np.ndarray:
        """Token ids of exactly these names, (n,) int64, -1 where absent."""
        asked = pd.Index(np.asarray(list(names), dtype=object), dtype=object)
        return self._index.get_indexer(asked).astype(np.int64)

    def match(self, names: Iterable[str]) -> GeneMatch:
        """Find the genes of a data set among the tokens.

        A name is looked up exactly; then without its Ensembl version suffix; then as ``SYMBOL_ENSG…`` composite; then
        in another case, never from the title case of mouse symbols to human ones; then through human gene identifiers
        (symbol ↔ Ensembl id, previous symbols that are unambiguous).

        Parameters
        ----------
        names
            Gene names of the data, (n_data,).

        Returns
        -------
        A :class:`GeneMatch`.
        """
        names = [str(name) for name in names]
        ids = self.lookup(names)
        ids[ids >= 0] = np.where(self.is_gene[ids[ids >= 0]], ids[ids >= 0], -1)  # a gene is no special token
        routes = {"exact": int((ids >= 0).sum())}
        for route, find in (
            ("version", self._by_version),
            ("composite", self._by_parts),
            ("case", self._by_case),
            ("identifiers", self._by_identifiers),
        ):
            left = np.flatnonzero(ids < 0)
            if left.size == 0:
                break
            found = find([names[i] for i in left], names, ids)
            routes[route] = int((found >= 0).sum())
            ids[left] = found
        return self._report(names, ids, {route: n for route, n in routes.items() if n})

    def _report(self, names: Sequence[str], ids: np.ndarray, routes: dict[str, int]) -> GeneMatch:
        hits = np.bincount(ids[ids >= 0], minlength=len(self))
        meeting: dict[str, list[str]] = {}
        several = hits > 1
        for i in np.flatnonzero((ids >= 0) & several[ids]) if several.any() else ():
            meeting.setdefault(self.tokens[ids[i]], []).append(names[int(i)])
        missing = np.flatnonzero((hits == 0) & self.is_gene)[:_MISSING_SHOWN]
        return GeneMatch(
            ids=ids,
            matched=int((hits > 0).sum()),
            in_model=int(self.is_gene.sum()),
            in_data=len(names),
            kind=gene_kind(names),
            duplicates={token: tuple(found) for token, found in meeting.items()},
            missing=tuple(self.tokens[i] for i in missing),
            routes=routes,
        )

    @cached_property
    def _without_version(self) -> dict[str, int]:
        return _unambiguous((strip_version(t), i) for i, t in enumerate(self.tokens))

    @cached_property
    def _folded(self) -> dict[str, int]:
        return _unambiguous((t.upper(), i) for i, t in enumerate(self.tokens) if self.is_gene[i])

    def _by_version(self, left: list[str], names: list[str], ids: np.ndarray) -> np.ndarray:
        found = [self._without_version.get(strip_version(name), -1) if is_ensembl(name) else -1 for name in left]
        return np.array(found, dtype=np.int64)

    def _by_parts(self, left: list[str], names: list[str], ids: np.ndarray) -> np.ndarray:
        found = np.full(len(left), -1, np.int64)
        for i, name in enumerate(left):
            parts = composite_parts(name)
            for part in parts if self.kind == "symbol" else parts[::-1]:
                token = self._without_version.get(part, -1)
                if token >= 0 and self.is_gene[token]:
                    found[i] = token
                    break
        return found

    def _by_case(self, left: list[str], names: list[str], ids: np.ndarray) -> np.ndarray:
        found = np.full(len(left), -1, np.int64)
        if mouse_share(names) > 0.5 or mouse_share(self.tokens) > 0.5 or zebrafish_share(names) > 0.005:
            return found  # case is what tells the species' symbols apart
        taken = set(ids[ids >= 0].tolist())  # cd4 beside CD4 is another feature, such as a protein
        for i, name in enumerate(left):
            token = self._folded.get(name.upper(), -1)
            if token >= 0 and token not in taken and not (_TITLE_CASE.match(name) and "orf" not in name):
                found[i] = token
        return found

    def _by_identifiers(self, left: list[str], names: list[str], ids: np.ndarray) -> np.ndarray:
        found = np.full(len(left), -1, np.int64)
        if mouse_share(self.tokens) > 0.5:
            return found  # the bundled identifiers are human
        from sclm.knowledge import GeneIdentifiers

        identifiers = GeneIdentifiers.load("human")
        asked = [composite_parts(name)[-1] if composite_parts(name) else strip_version(name) for name in left]
        if self.kind == "ensembl":
            tokens = [self._without_version.get(e, -1) if e else -1 for e in identifiers.to_ensembl(asked)]
            sure = [not identifiers.is_previous(name) for name in asked]
        else:
            current = self._approved
            tokens = [
                self._without_version.get(s, current.get(s, -1)) if s else -1 for s in identifiers.to_symbol(asked)
            ]
            sure = [is_ensembl(name) for name in asked]
        # Ids and approved symbols first. A previous symbol or alias beside the gene that it would lead to was another gene
        # in the annotation that the data come from, or another feature (the antibody CD45 beside PTPRC).
        taken = set(ids[ids >= 0].tolist())
        for certain in (True, False):
            for i in np.flatnonzero(np.array(sure, dtype=bool) == certain):
                if tokens[i] >= 0 and (certain or tokens[i] not in taken):
                    found[i] = tokens[i]
            taken.update(found[found >= 0].tolist())
        return found

    @cached_property
    def _approved(self) -> dict[str, int]:
        """Approved symbol → token that is a previous symbol of it."""
        from sclm.knowledge import GeneIdentifiers

        symbols = GeneIdentifiers.load("human").to_symbol(list(self.tokens))
        return _unambiguous((s, i) for i, s in enumerate(symbols) if s and s != self.tokens[i])


def _unambiguous(pairs: Iterable[tuple[str, int]]) -> dict[str, int]:
    found: dict[str, int] = {}
    for name, i in pairs:
        found[name] = -1 if name in found else i
    return found


# ---------------------------------------------------------------------- what a name looks like


def is_ensembl(name: str) -> bool:
    """Whether `name` is an Ensembl gene id, with or without version."""
    return _ENSEMBL.match(name) is not None


def strip_version(name: str) -> str:
    """``ENSG00000141510.18`` → ``ENSG00000141510``; other names unchanged, ``_PAR_Y`` copies keep their suffix."""
    found = _ENSEMBL.match(name)
    return found[1] + (found[2] or "") if found else name


def composite_parts(name: str) -> tuple[str, ...]:
    """Symbol and Ensembl id of ``TP53_ENSG00000141510`` (either order; ``_``, ``|`` or ``:``), else nothing."""
    found = _COMPOSITE.match(name)
    if not found:
        return ()
    return (found["symbol"] or found["symbol2"], found["id"] or found["id2"])


def gene_kind(names: Iterable[str]) -> str:
    """``"ensembl"`` where most names are Ensembl gene ids, else ``"symbol"``."""
    names = list(names)
    return "ensembl" if sum(map(is_ensembl, names)) > 0.5 * len(names) else "symbol"


def mouse_share(names: Iterable[str]) -> float:
    """Share of names written as mouse genes: title case (``Cd3e``), ``…Rik`` or ``ENSMUSG…``."""
    names = [n for n in names if not (n.startswith("<") and n.endswith(">"))]
    like = sum(1 for n in names if n.startswith("ENSMUSG") or (_TITLE_CASE.match(n) and "orf" not in n))
    return like / max(1, len(names))


def zebrafish_share(names: Iterable[str]) -> float:
    """Share of names that only zebrafish genes have (``si:…``, ``zgc:…``)."""
    names = list(names)
    return sum(1 for n in names if _ZEBRAFISH.match(n)) / max(1, len(names))
