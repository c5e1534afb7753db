"""`Ontology`: terms with their names, ancestors and similarities; the Cell Ontology comes with the package."""

from __future__ import annotations

from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from sclm.knowledge import similarity as _similarity
from sclm.knowledge import sources as _sources
from sclm.knowledge.graph import TermGraph
from sclm.knowledge.resolve import Match, Resolver, canonical_id

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import pandas as pd
    from scipy import sparse

    from sclm.knowledge.pagerank import ExactPageRank
    from sclm.knowledge.terms import TermTable

# Above this many terms a full PageRank matrix (800 MB at 10,000 terms) is not made: the largest entries are.
DENSE_LIMIT = 10_000


class Ontology:
    """An ontology: terms, names, synonyms and superclasses, and how alike two terms are.

    Made by `Ontology.load`. Immutable, and equal only to itself.

    Attributes
    ----------
    name, version, source, licence
        `"cl"`, `"2026-03-26"`, the file or address that it was read from, and its licence where known.
    ids, names
        The active terms, sorted by id, and their names in the same order.

    Examples
    --------
    >>> from sclm.knowledge import Ontology
    >>> cl = Ontology.load("cl")
    >>> cl.resolve("CD4+ T").name
    'CD4-positive, alpha-beta T cell'
    >>> cl.name_of(cl.lowest_common_ancestor("CL:0000624", "CL:0000625"))
    'mature alpha-beta T cell'
    """

    name: str
    version: str
    source: str
    licence: str
    ids: tuple[str, ...]
    names: tuple[str, ...]
    graph: TermGraph
    _table: TermTable
    _index: dict[str, int]
    _content: dict[str, np.ndarray]
    _walks: dict[float, ExactPageRank | None]

    SIMILARITIES: ClassVar[tuple[str, ...]] = ("lin", "resnik", "wu-palmer", "pagerank")

    def __init__(self, source: _sources.Source, prefixes: Sequence[str] | None = None) -> None:
        table = source.table
        ids = tuple(sorted(_sources.with_prefixes(table, prefixes)))
        index = {term: i for i, term in enumerate(ids)}
        parents = [[index[parent] for parent in table.parents[term] if parent in index] for term in ids]
        # written into __dict__, because __setattr__ refuses
        self.__dict__.update(
            name=source.name,
            version=table.version,
            source=source.source,
            licence=source.licence,
            ids=ids,
            names=tuple(table.names[term] for term in ids),
            graph=TermGraph(parents, ids),
            _table=table,
            _index=index,
            _content={},
            _walks={},
        )

    def __setattr__(self, key: str, value: Any) -> None:
        raise AttributeError(f"an Ontology does not change; cannot set {key!r}. Load another one instead.")

    @classmethod
    def load(cls, source: str | Path = "cl", *, prefixes: Sequence[str] | None = None) -> Ontology:
        """Load an ontology by name or from a file.

        Parameters
        ----------
        source
            `"cl"` or `"cell ontology"`: the Cell Ontology bundled with sclm, no network needed. `"uberon"`, `"mondo"`,
            `"efo"`, `"hsapdv"`: a pinned release, taken from an installed `cellxgene-ontology-guide`, from the folder
            `$SCLM_DATA_DIR`, or downloaded once. Otherwise the path of an `.obo`, `.obo.gz`, `.owl`, `.json` or
            `.json.zst` file.
        prefixes
            Keep only terms whose ids begin with one of these, such as `["CL"]`. By default those of the ontology that
            the file says it is (`ontology: cl`), or all terms where none matches.

        Returns
        -------
        Ontology
            The same object for the same name throughout a process; a new one for a path.

        Raises
        ------
        ValueError
            If the name is unknown, the file's ending is, or the file holds no terms of these prefixes.
        FileNotFoundError
            If there is no such file.
        ImportError
            If a `.zst` file has to be read and `zstandard` is missing.
        ConnectionError
            If a download is needed and fails; the message says what to put where.
        """
        if isinstance(source, str) and (name := _sources.NAMES.get(source.strip().lower())) is not None:
            return _load_named(name, None if prefixes is None else tuple(prefixes))
        return cls(_sources.from_file(Path(source).expanduser()), prefixes)

    # -- terms ---------------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self.ids)

    def __contains__(self, term: object) -> bool:
        return term in self._index

    def __repr__(self) -> str:
        return f"Ontology({self.name!r}, version={self.version!r}, {len(self):,} terms)"

    def index(self, term: str) -> int:
        """Position of a term in `ids`; KeyError for an id that is not an active term."""
        try:
            return self._index[term]
        except (KeyError, TypeError):
            pass
        successor = self.current_id(term) if isinstance(term, str) else None
        hint = f"It is now {successor} ({self.name_of(successor)})." if successor else "resolve() turns names into ids."
        raise KeyError(f"{term!r} is not an active term of {self.name} {self.version}. {hint}")

    def current_id(self, term: str) -> str | None:
        """The active id that an id stands for today: itself, the successor of a retired one, or None."""
        term = canonical_id(term)
        for _ in range(10):  # replacements of replacements; the bound is against circular ones
            if term in self._index:
                return term
            term = self._table.replaced.get(term, "")
        return None

    def name_of(self, term: str) -> str:
        """The name of a term, `"T cell"` for `"CL:0000084"`."""
        return self.names[self.index(term)]

    def definition(self, term: str) -> str:
        """The text that defines a term, empty where the ontology has none."""
        return self._table.definitions[self.ids[self.index(term)]]

    def synonyms(self, term: str) -> tuple[str, ...]:
        """The exact synonyms of a term, without its name."""
        return self._table.synonyms[self.ids[self.index(term)]]

    @cached_property
    def _resolver(self) -> Resolver:
        return Resolver(
            {term: self._table.names[term] for term in self.ids},
            {term: self._table.synonyms[term] for term in self.ids},
            self.current_id,
        )

    def resolve(self, text: str, *, min_score: float = 0.8) -> Match:
        """Find the term that a label means: by id, name, synonym, spelling or the field's abbreviations.

        Tried in this order: an id (`CL:0000084`, `CL_0000084`, its web address; retired ids lead to their successors),
        the exact name, an exact synonym, both again without regard to case, plural, hyphens, Greek letters, `+` and a
        missing "cell", then abbreviations and compositions as single-cell studies write them ("CD4+ T", "FCGR3A+ Mono",
        "Naive CD8 T"). What means two things resolves to nothing. Only then the most similar name: such a match says
        `kind="fuzzy"` and has a score below 1, and it is the caller's to accept.

        Parameters
        ----------
        text
            A label. What is no text, or empty, gives no match.
        min_score
            Least score of a fuzzy match, in (0, 1]; 1 allows none.

        Returns
        -------
        Match
            `(text, term_id, name, kind, score)`; `term_id` and `name` None, kind `"none"` and score 0 without a match.
        """
        return self._resolver.resolve(text, min_score)

    def resolve_many(self, texts: Iterable[str], *, min_score: float = 0.8) -> pd.DataFrame:
        """Resolve labels, one row each: columns text, term_id, name, kind, score (see `resolve`)."""
        import pandas as pd

        seen: dict[Any, Match] = {}
        rows = [seen[t] if t in seen else seen.setdefault(t, self.resolve(t, min_score=min_score)) for t in texts]
        return pd.DataFrame(rows, columns=list(Match._fields))

    # -- graph ---------------------------------------------------------------------------------------------------------

    def _ids(self, positions: Iterable[int]) -> tuple[str, ...]:
        return tuple(self.ids[i] for i in positions)

    def parents(self, term: str) -> tuple[str, ...]:
        """The terms directly above."""
        return self._ids(self.graph.parents[self.index(term)])

    def children(self, term: str) -> tuple[str, ...]:
        """The terms directly below."""
        return self._ids(self.graph.children[self.index(term)])

    def ancestors(self, term: str, include_self: bool = False) -> frozenset[str]:
        """All terms above, on any path."""
        found = self._ids(self.graph.row(self.graph.ancestors, self.index(term)))
        return frozenset(found) if include_self else frozenset(found) - {term}

    def descendants(self, term: str, include_self: bool = False) -> frozenset[str]:
        """All terms below, on any path."""
        found = self._ids(self.graph.row(self.graph.descendants, self.index(term)))
        return frozenset(found) if include_self else frozenset(found) - {term}

    @cached_property
    def roots(self) -> tuple[str, ...]:
        """The terms without parents."""
        return self._ids(i for i, above in enumerate(self.graph.parents) if not above)

    @cached_property
    def leaves(self) -> tuple[str, ...]:
        """The terms without children."""
        return self._ids(i for i, below in enumerate(self.graph.children) if not below)

    def depth(self, term: str) -> int:
        """Number of terms on the longest path from a root down to the term; 1 for a root."""
        return int(self.graph.depth[self.index(term)])

    def ancestor_matrix(self, ids: Iterable[str] | None = None) -> sparse.csr_matrix:
        """Which terms stand above each of these (all, by default), themselves included: (len(ids), n) bool CSR."""
        return self.graph.ancestors if ids is None else self.graph.ancestors[self._positions(ids)]

    def _positions(self, ids: Iterable[str] | None) -> np.ndarray:
        if ids is None:
            return np.arange(len(self))
        if isinstance(ids, str):
            raise TypeError(f"expected a list of ids, found the text {ids!r}. Write [{ids!r}].")
        return np.array([self.index(term) for term in ids], dtype=np.int64)

    def distance(self, a: str, b: str) -> int:
        """Fewest parent edges on a path from `a` up to a common ancestor and down to `b`; 0 for equal terms.

        Raises ValueError where they have no common ancestor.
        """
        up_a, up_b = self.graph.steps_up(self.index(a)), self.graph.steps_up(self.index(b))
        shared = [steps + up_b[term] for term, steps in up_a.items() if term in up_b]
        if not shared:
            raise ValueError(f"{a} and {b} have no common ancestor in {self.name}.")
        return min(shared)

    def lowest_common_ancestor(self, a: str, b: str) -> str:
        """The most informative common ancestor (Sánchez information content); ties by depth, then the smaller id.

        Raises ValueError where there is none.
        """
        graph = self.graph
        rows = graph.row(graph.ancestors, self.index(a)), graph.row(graph.ancestors, self.index(b))
        shared = np.intersect1d(*rows, assume_unique=True)
        if not len(shared):
            raise ValueError(f"{a} and {b} have no common ancestor in {self.name}.")
        best = np.lexsort((shared, -graph.depth[shared], -self.information_content()[shared]))[0]
        return self.ids[shared[best]]

    # -- similarity ----------------------------------------------------------------------------------------------------

    def information_content(self, kind: str = "sanchez") -> np.ndarray:
        """How specific each term is, (n,) float64 in nats, 0 at the root, in the order of `ids`.

        `"sanchez"` (Sánchez, Batet and Isern 2011): `-ln((leaves / subsumers + 1) / (all leaves + 1))` with the leaves
        strictly below the term and its ancestors including itself. `"descendants"`: `ln n - ln(descendants + 1)`.
        """
        if kind not in self._content:
            content = _similarity.information_content(self.graph, kind)
            content.flags.writeable = False
            self._content[kind] = content
        return self._content[kind]

    def similarity(self, a: str, b: str, kind: str = "lin", *, direction: str = "row") -> float:
        """Similarity of two terms; see `similarity_matrix`. `a` is the row, for PageRank the prediction."""
        return float(self.similarity_matrix([a], [b], kind, direction=direction)[0, 0])

    def similarity_matrix(
        self,
        rows: Iterable[str] | None = None,
        columns: Iterable[str] | None = None,
        kind: str = "lin",
        *,
        direction: str = "row",
    ) -> np.ndarray:
        """Similarity of each row term to each column term.

        Parameters
        ----------
        rows, columns
            Ids; all terms by default.
        kind
            `"lin"` (Lin 1998): `2 IC(c) / (IC(a) + IC(b))` with the most informative common ancestor c and Sánchez
            content; in [0, 1]. `"resnik"` (Resnik 1995): `IC(c)`, nats. `"wu-palmer"` (Wu and Palmer 1994):
            `2 depth(c) / (depth(a) + depth(b))`, longest depths, root 1; in [0, 1]. `"pagerank"`, as Cell2Text and
            scCello define it: personalised PageRank s over the undirected parent edges (alpha 0.9, row = source),
            `t = ln(1 + s / 1e-4 + 1e-12)`, scaled over all pairs of the ontology to [0, 1], diagonal 1.
        direction
            PageRank is not symmetric. `"row"`: walks start at the row term (Cell2Text: row = prediction). `"column"`:
            they start at the column term, which is kinder to a true but vague row term. `"mean"` of the two.

        Returns
        -------
        numpy.ndarray
            (n_rows, n_columns) float64.
        """
        r, c = self._positions(rows), self._positions(columns)
        if kind == "pagerank":
            from sclm.knowledge import pagerank

            return pagerank.similarity(self.graph, self._walk(0.9), self._pagerank_scale, r, c, direction)
        if kind == "wu-palmer":
            return _similarity.wu_palmer(self.graph, r, c)
        if kind in ("lin", "resnik"):
            return getattr(_similarity, kind)(self.graph, self.information_content(), r, c)
        raise ValueError(f"expected similarity {', '.join(map(repr, self.SIMILARITIES))}, found {kind!r}.")

    def pagerank(
        self, rows: Iterable[str] | None = None, *, alpha: float = 0.9, top: int | None = None
    ) -> np.ndarray | sparse.csr_matrix:
        """Personalised PageRank of each row term over the undirected parent edges, unscaled; rows sum to 1.

        Parameters
        ----------
        rows
            Ids to start from; all terms by default.
        alpha
            Probability of following an edge rather than returning to the start, in (0, 1).
        top
            Keep only this many largest entries of each row. Ontologies of more than 10,000 terms always keep so few
            (256 by default), since the full matrix would not fit. In the very largest, entries come from forward push
            instead of an exact solution and are too small by at most 1e-7 per edge of the column's term.

        Returns
        -------
        numpy.ndarray or scipy.sparse.csr_matrix
            (n_rows, n) float64, exact; with `top` (n_rows, n) float32 CSR.
        """
        if not 0.0 < alpha < 1.0:
            raise ValueError(f"expected alpha between 0 and 1, found {alpha}.")
        if top is not None and top < 1:
            raise ValueError(f"expected top of at least 1, found {top}.")
        from sclm.knowledge import pagerank

        positions, walk = self._positions(rows), self._walk(alpha)
        if top is not None or len(self) > DENSE_LIMIT:
            return pagerank.top_rows(self.graph, walk, positions, alpha, 256 if top is None else top)
        # the solver is None only for graphs far denser than an ontology's
        return pagerank.pushed_rows(self.graph, positions, alpha) if walk is None else walk.rows(positions)

    def _walk(self, alpha: float) -> ExactPageRank | None:
        if alpha not in self._walks:
            from sclm.knowledge import pagerank

            self._walks[alpha] = pagerank.solver(self.graph, alpha)
        return self._walks[alpha]

    @cached_property
    def _pagerank_scale(self) -> tuple[float, float]:
        from sclm.knowledge import pagerank

        return pagerank.scale(self.graph, self._walk(0.9))


@cache
def _load_named(name: str, prefixes: tuple[str, ...] | None) -> Ontology:
    return Ontology(_sources.named(name), prefixes)
