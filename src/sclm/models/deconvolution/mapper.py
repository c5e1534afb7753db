"""What all mappers of this folder share: the reference's signatures, the genes, the form of the answer."""

from __future__ import annotations

import abc
import dataclasses
import logging
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from sclm.cells import GeneVocabulary, align
from sclm.models.contract import Mapping
from sclm.models.deconvolution.signatures import Signatures, label_table, learn_signatures
from sclm.models.family import Family

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pandas as pd
    from scipy import sparse

    from sclm.cells import Cells, CellSource, GeneMatch

logger = logging.getLogger(__name__)

RESOLUTIONS = ("auto", "spot", "cell")
_MIN_GENES = 50
_SAMPLE = 2000  # spots a library from which the section is judged


@dataclasses.dataclass(frozen=True, kw_only=True)
class MapperConfig:
    """Settings of a mapper; the names of the types are found in training."""

    categories: tuple[str, ...] = ()
    max_genes: int = 20_000  # those that differ most between types
    min_reference_counts: int = 3  # of a gene in all reference cells
    min_section_counts: int = 10  # of a gene in all spots looked at


class SignatureMapper(Family, abc.ABC):
    """A method that explains spots by the mean profiles of a reference's types."""

    Config: ClassVar[Any] = MapperConfig
    reads_streams: ClassVar[bool] = True  # sclm.train may hand it several AnnData
    #: What the method can do, of ``"neighbours"`` (takes a prior), ``"cells"`` (knows sections of single cells), ``"platform"``
    #: (has platform factors, to which ``shift`` applies), ``"blocks"`` (maps a spot without the others of its section).
    abilities: ClassVar[frozenset[str]] = frozenset()

    def __init__(
        self, config: Any, vocabulary: GeneVocabulary, signatures: Signatures, card: dict[str, Any] | None = None
    ) -> None:
        super().__init__(config, vocabulary, card)
        self.signatures = signatures

    @property
    def categories(self) -> list[str]:
        """Names of the types, the order of all columns."""
        return list(self.signatures.categories)

    @property
    def reference_types(self) -> pd.DataFrame:
        """One row a type: ``label``, ``n_cells``, ``counts_per_cell``."""
        return label_table(self.signatures)

    # Training -------------------------------------------------------------------------------------------------------

    @classmethod
    def fit(
        cls, source: CellSource, *, label_key: str | None = None, genes: Any = None, seed: int = 0, **options: Any
    ) -> Self:
        """Learn the signatures of a labelled reference: see :func:`sclm.train`."""
        fields = {f.name for f in dataclasses.fields(cls.Config)} - {"categories"}
        if extra := sorted(set(options) - fields):
            raise TypeError(
                f"{cls.family!r} has no option {', '.join(map(repr, extra))}; it has: {', '.join(sorted(fields))}."
            )
        if label_key is None:
            raise TypeError(f"{cls.family!r} needs label_key=, the column of .obs with the cell types.")
        signatures, vocabulary = learn_signatures(source, label_key)
        card = {
            "data": f"{int(signatures.n_cells.sum()):,} labelled cells, {len(vocabulary):,} genes, {len(signatures.categories)} types",
            "split": "none: a map is judged on the section, by the gates in its record",
            "limits": "Finds only the types of its reference; a type that is missing shows as unexplained counts.",
        }  # fmt: skip
        return cls(cls.Config(categories=signatures.categories, **options), vocabulary, signatures, card)

    # Use ------------------------------------------------------------------------------------------------------------

    def match(self, genes: pd.Index) -> GeneMatch:
        """Overlap of the section's genes with the reference's.

        Raises
        ------
        ValueError
            If fewer than 50 genes, or a fifth of the smaller side, meet; says what the names look like.
        """
        from sclm.cells import require_overlap

        match = self.vocabulary.match(genes)
        smaller = min(len(self.vocabulary), len(genes))
        if match.matched < 0.2 * smaller:
            require_overlap(genes, self.vocabulary, match, min_share=0.2, owner="reference")
        if match.matched < min(_MIN_GENES, 0.5 * smaller):
            raise ValueError(
                f"At least {_MIN_GENES} genes must be in the section and in the reference, found {match.matched} "
                f"({match.summary()}). Use a reference with whole transcriptomes, or pass gene_key=."
            )
        return match

    def check(self, resolution: str, shift: float | None) -> None:
        """Refuse arguments of :meth:`adapt` that are out of range, or that this method cannot heed."""
        if resolution not in RESOLUTIONS:
            raise ValueError(f"resolution must be one of {RESOLUTIONS}, found {resolution!r}.")
        if resolution == "cell" and "cells" not in self.abilities:
            raise ValueError(f"{self.family!r} does not know sections of single cells. Use method='deconvolution'.")
        if shift is not None and not shift > 0:
            raise ValueError(f"shift must be above 0, found {shift}.")

    def adapt(
        self,
        spots: CellSource,
        *,
        library_key: str | None = None,
        resolution: str = "auto",
        shift: float | None = None,
        seed: int = 0,
    ) -> Any:
        """Look at the section: here, choose the genes that both have counted.

        ``shift`` and ``resolution`` change nothing for methods without the abilities that they belong to; ``seed`` draws the
        point from which a descent begins.
        """
        self.check(resolution, shift)
        gene_rows, libraries, _ = look_at(self, spots, library_key, seed)
        return self._look(spots.genes, gene_rows, libraries, library_key, seed)

    def _look(
        self, genes: pd.Index, gene_rows: np.ndarray, libraries: list[str], library_key: str | None, seed: int
    ) -> Any:
        """What a method keeps of a section; needed where :meth:`adapt` is not its own."""
        raise NotImplementedError(f"{type(self).__name__} needs a _look, or an adapt of its own.")

    # Checkpoint -----------------------------------------------------------------------------------------------------

    def arrays(self) -> dict[str, np.ndarray]:
        """Every number that the model owns, by name."""
        return {name: value for name, value in self.signatures._asdict().items() if name != "categories"}

    @classmethod
    def from_arrays(
        cls, config: Any, vocabulary: GeneVocabulary, arrays: dict[str, np.ndarray], card: dict[str, Any]
    ) -> Self:
        """The inverse of :meth:`arrays`."""
        expected = (len(config.categories), len(vocabulary))
        if arrays["profile"].shape != expected:
            raise ValueError(
                f"The profiles have shape {arrays['profile'].shape}, expected {expected}: the checkpoint is broken."
            )
        return cls(config, vocabulary, Signatures(categories=tuple(config.categories), **arrays), card)


class Look(abc.ABC):
    """What a mapper keeps of a section: the genes in use, its libraries, and the types' shares of those genes.

    Attributes
    ----------
    gene_rows
        (G,) int64 places of the genes in the reference's vocabulary.
    profile
        (K, G) float64 shares of the types' counts in these genes, rows sum to 1.
    depth
        (K,) float64 counts a cell of each type in these genes.
    """

    resolution: str = "spot"
    reason: str = "the method knows no other"

    def __init__(self, model: SignatureMapper, genes: pd.Index, gene_rows: np.ndarray, libraries: list[str], library_key: str | None) -> None:  # fmt: skip
        self.model = model
        self.categories = model.categories
        self.gene_rows = gene_rows
        self.vocabulary = GeneVocabulary(tuple(model.vocabulary.tokens[i] for i in gene_rows))
        self.genes = list(self.vocabulary.tokens)
        self.libraries, self.library_key = libraries, library_key
        self.platform = np.ones((len(libraries), len(gene_rows)), dtype=np.float32)
        share = model.signatures.profile[:, gene_rows]
        covered = share.sum(axis=1)
        self.profile = share / np.maximum(covered, 1e-12)[:, None]
        self.depth = np.maximum(model.signatures.depth * covered, 1e-9)
        self._names = genes
        self._match = _onto(model.vocabulary.match(genes), gene_rows)

    @abc.abstractmethod
    def map(self, cells: Cells, *, prior: np.ndarray | None = None) -> Mapping:
        """Types of a block of spots: see :class:`~sclm.models.contract.SectionMapper`."""

    def counts(self, cells: Cells) -> sparse.csr_matrix:
        """Counts of a block in the genes in use, CSR float32 (n, G)."""
        if cells.genes is not self._names:
            self._names, self._match = (
                cells.genes,
                _onto(self.model.vocabulary.match(cells.genes), self.gene_rows),
            )
        return align(cells, self.vocabulary, match=self._match, min_share=0.0)[0]

    def library_of(self, cells: Cells) -> np.ndarray:
        """(n,) int64 library of each spot."""
        if self.library_key is None:
            return np.zeros(cells.n_cells, dtype=np.int64)
        codes = np.array(
            [self.libraries.index(str(name)) for name in cells.obs[self.library_key].astype(str)], dtype=np.int64
        )
        return codes

    def answer(
        self,
        counts: sparse.csr_matrix,
        library: np.ndarray,
        abundance: np.ndarray,
        standard_error: np.ndarray,
        unexplained: np.ndarray,
        explained: np.ndarray,
    ) -> Mapping:
        """Fractions from abundances; spots without counts get NaN."""
        total = abundance.sum(axis=1)
        filled = (np.diff(counts.indptr) > 0) & (total > 0)
        per_cell = abundance / self.depth
        with np.errstate(invalid="ignore", divide="ignore"):
            fraction = np.where(filled[:, None], abundance / total[:, None], np.nan)
            cell_fraction = np.where(filled[:, None], per_cell / per_cell.sum(axis=1)[:, None], np.nan)
        expected = np.zeros(len(self.genes))
        for i in range(len(self.libraries)):
            expected += (np.nan_to_num(abundance[library == i]).sum(axis=0) @ self.profile) * self.platform[i]
        blank = lambda values: np.where(filled.reshape(-1, *[1] * (values.ndim - 1)), values, np.nan).astype(np.float32)
        return Mapping(
            fraction=fraction.astype(np.float32),
            cell_fraction=cell_fraction.astype(np.float32),
            standard_error=blank(standard_error),
            unexplained=blank(unexplained),
            explained=blank(explained),
            abundance=blank(abundance),
            observed=np.asarray(counts.sum(axis=0), dtype=np.float64).ravel(),
            expected=expected,
        )


def _onto(match: GeneMatch, gene_rows: np.ndarray) -> GeneMatch:
    """The same match in a vocabulary that keeps only these genes."""
    place = np.full(match.in_model + int(gene_rows.max(initial=0)) + 1, -1)
    place[gene_rows] = np.arange(len(gene_rows))
    return match._replace(ids=np.where(match.ids >= 0, place[match.ids], -1), in_model=len(gene_rows))


def look_at(
    model: SignatureMapper, spots: CellSource, library_key: str | None, seed: int
) -> tuple[np.ndarray, list[str], list[sparse.csr_matrix]]:
    """Genes to use, libraries, and a sample of each library's spots in these genes.

    Genes are used that both sides have counted; where there are more than ``max_genes``, those whose logarithm differs most
    between the types.

    Returns
    -------
    gene_rows
        (G,) int64 ascending places in the reference's vocabulary.
    libraries
        Names of the libraries.
    samples
        One (n, G) CSR a library, of at most 2,000 spots with counts.
    """
    config, signatures = model.config, model.signatures
    match = model.match(spots.genes)
    if library_key is None:
        libraries, code = ["section"], np.zeros(spots.n_cells, dtype=np.int64)
    else:
        names, code = np.unique(spots.obs[library_key].astype(str).to_numpy(dtype=str), return_inverse=True)
        libraries = list(map(str, names))
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(len(libraries)):
        members = np.flatnonzero(code == i)
        rows.append(members if len(members) <= _SAMPLE else np.sort(rng.choice(members, _SAMPLE, replace=False)))
    parts = [align(spots.read(r), model.vocabulary, match=match, min_share=0.0)[0] for r in rows]
    counted = sum(np.asarray(part.sum(axis=0)).ravel() for part in parts)
    # A gene counted ten times in the spots looked at says something; in a small section the bound falls with its counts.
    floor = min(config.min_section_counts, max(1.0, 0.01 * sum(part.shape[0] for part in parts)))
    usable = (signatures.total >= config.min_reference_counts) & (counted >= floor)
    if usable.sum() < 2:
        raise ValueError(
            f"The section and the reference must have counted the same genes, found {int(usable.sum())} with counts in both. "
            "Check layer= and gene_key=."
        )
    gene_rows = np.flatnonzero(usable)
    if len(gene_rows) > config.max_genes:
        share = signatures.profile[:, gene_rows]
        logs = np.log(share + 1e-6)
        gene_rows = np.sort(gene_rows[np.argsort(-logs.var(axis=0), kind="stable")[: config.max_genes]])
    samples = [part[:, gene_rows] for part in parts]
    return gene_rows, libraries, [s[np.diff(s.indptr) > 0] for s in samples]


def blocks_of(counts: sparse.csr_matrix, library: np.ndarray, size: int) -> Iterator[tuple[np.ndarray, int]]:
    """Rows with counts, a library and at most ``size`` at a time, so that a block fits when it is made dense."""
    filled = np.diff(counts.indptr) > 0
    for i in np.unique(library):
        rows = np.flatnonzero((library == i) & filled)
        for start in range(0, len(rows), size):
            yield rows[start : start + size], int(i)
