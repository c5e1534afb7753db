"""What a tool needs of a model: small protocols, no inheritance."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import numpy as np
    import pandas as pd
    from scipy import sparse

    from sclm.cells import Cells, CellSource, GeneMatch
    from sclm.evidence import Checker, PlausibilityGuard

VERBS = (
    "annotate",
    "generate",
    "log_likelihood",
    "map",
    "embed",
    "embed_spots",
    "perturb",
    "respond",
    "translate",
    "describe",
)


class Annotation(NamedTuple):
    """Cell types of a block of cells.

    Attributes
    ----------
    table
        One row a cell, indexed as the cells: ``label`` (term name or label of the reference), ``ontology_term_id``
        (``"unknown"`` where the label is no term), ``confidence`` (float 0–1, calibrated), ``novelty`` (float 0–1).
    probabilities
        (n_cells, n_types) float32, rows sum to 1; None for models without a label set.
    categories
        One row a column of ``probabilities``: ``label``, ``ontology_term_id``.
    """

    table: pd.DataFrame
    probabilities: np.ndarray | None
    categories: pd.DataFrame


@runtime_checkable
class Annotator(Protocol):
    """A model that names cells."""

    def annotate(self, cells: Cells) -> Annotation:
        """Names for a block of raw counts."""
        ...

    def match(self, genes: pd.Index) -> GeneMatch:
        """Overlap of the data's genes with the model's, before any work; raises where it is too small."""
        ...


class Written(NamedTuple):
    """A block of cells that a model wrote.

    Attributes
    ----------
    cells
        Raw counts in the model's genes, and the metadata: the columns of the request as they are, a column a field that
        the request left out, and ``<field>_written`` where a value was written as another, more specific one.
    levels
        (n, K) float32 latent levels of the cells.
    depth
        (n,) float32 expected total counts.
    log_likelihood
        (n,) float64 nats of the counts under the metadata as which the cell was written.
    codes
        (n, n_fields) int32 training values as which the cells were written, -1 left open.
    """

    cells: Cells
    levels: np.ndarray
    depth: np.ndarray
    log_likelihood: np.ndarray
    codes: np.ndarray


@runtime_checkable
class Generator(Protocol):
    """A model that writes cells from metadata.

    Attributes
    ----------
    conditions
        What the model knows of metadata: ``fields``, ``names``, ``conditions[name]``, and ``resolve(request,
        max_novelty=)``, which says what each requested value means or refuses it.
    guard
        Judges written cells against the training cells of their group.
    groups
        (n_groups, n_fields) codes of the guard's groups, -1 where a field does not matter.
    """

    conditions: Any
    guard: PlausibilityGuard
    groups: np.ndarray

    def generate(self, request: pd.DataFrame, *, seed: int = 0) -> Cells:
        """All cells of a request, in its order."""
        ...

    def write(
        self,
        request: pd.DataFrame,
        *,
        seed: int = 0,
        batch_size: int | None = None,
        guidance: float = 0.0,
        max_novelty: float = 0.5,
        resolved: Any = None,
        start: int = 0,
    ) -> Iterator[Written]:
        """The same block by block, from the cell ``start`` on; cells do not depend on ``batch_size`` or ``start``."""
        ...

    def provenance(self) -> dict[str, Any]:
        """What made a result, with ``sha256`` of everything in the model."""
        ...


@runtime_checkable
class CellWriter(Protocol):
    """A model that writes cells, without training cells of its own to judge them by."""

    def generate(self, request: pd.DataFrame, *, seed: int = 0) -> Cells:
        """All cells of a request, in its order; a cell depends on its row, not on the others."""
        ...

    def writing(self) -> dict[str, Any]:
        """How cells are written, for the record."""
        ...

    def provenance(self) -> dict[str, Any]:
        """What made a result."""
        ...


class Mapping(NamedTuple):
    """Cell types of a block of spots.

    Attributes
    ----------
    fraction
        (n_spots, n_types) float32 share of the spot's mRNA that each type contributes, rows sum to 1; NaN for spots without
        counts in the genes that are used.
    cell_fraction
        (n_spots, n_types) float32 share of the spot's cells: mRNA divided by the type's counts a cell in the reference.
    standard_error
        (n_spots, n_types) float32 of ``fraction``.
    unexplained
        (n_spots,) float32, 0-1: share of the spot's counts that no type of the reference explains.
    explained
        (n_spots,) float32: share of the deviance from the mean of the types' profiles that the fractions explain.
    abundance
        (n_spots, n_types) float32 counts of the spot expected from each type.
    observed, expected
        (n_genes,) float64 totals of the block in the mapper's genes, as counted and as the types predict them.
    """

    fraction: np.ndarray
    cell_fraction: np.ndarray
    standard_error: np.ndarray
    unexplained: np.ndarray
    explained: np.ndarray
    abundance: np.ndarray
    observed: np.ndarray
    expected: np.ndarray


@runtime_checkable
class SectionMapper(Protocol):
    """A mapper that knows the section: its genes, and how its platform differs from the reference.

    Attributes
    ----------
    categories
        Names of the types, the order of all columns.
    genes
        Genes that are used, in the words of the reference.
    libraries
        Names of the sections that have platform factors of their own.
    profile
        (n_types, n_genes) float64 expected shares of a type's counts, rows sum to 1.
    platform
        (n_libraries, n_genes) float32 factors by which a gene is counted more (above 1) or less than in the reference.
    resolution
        ``"spot"`` (several cells each) or ``"cell"``.
    reason
        Why, in words.
    """

    categories: list[str]
    genes: list[str]
    libraries: list[str]
    profile: np.ndarray
    platform: np.ndarray
    resolution: str
    reason: str

    def counts(self, cells: Cells) -> sparse.csr_matrix:
        """Counts of a block in the genes in use, (n_spots, n_genes)."""
        ...

    def map(self, cells: Cells, *, prior: np.ndarray | None = None) -> Mapping:
        """Types of a block of spots; ``prior`` (n_spots, n_types) counts expected from each type beforehand."""
        ...


@runtime_checkable
class SpatialMapper(Protocol):
    """A model that finds the cell types of a reference in spots."""

    categories: list[str]

    def match(self, genes: pd.Index) -> GeneMatch:
        """Overlap of the section's genes with the reference's, before any work; raises where it is too small."""
        ...

    def adapt(
        self,
        spots: CellSource,
        *,
        library_key: str | None = None,
        resolution: str = "auto",
        shift: float | None = None,
        seed: int = 0,
    ) -> SectionMapper:
        """Look at the section: genes that are used, platform factors, resolution."""
        ...


@runtime_checkable
class Encoder(Protocol):
    """A model that gives each cell a vector."""

    def match(self, genes: pd.Index) -> GeneMatch:
        """Overlap of the data's genes with the model's, before any work; raises where it is too small."""
        ...

    def embed(
        self, cells: Cells, *, hidden_layer: int | None = None, pooling: str | None = None, seed: int = 0
    ) -> np.ndarray:
        """Vectors (n_cells, width) float32 in the order of the cells; NaN for cells without genes of the model."""
        ...


@runtime_checkable
class Perturber(Protocol):
    """A model that moves cells in silico."""

    def perturb(
        self,
        cells: Cells,
        perturbations: Sequence[Sequence[str]],
        *,
        kind: str = "delete",
        states: dict[str, np.ndarray] | None = None,
        hidden_layer: int | None = None,
        pooling: str | None = None,
        seed: int = 0,
        progress: Callable[[int], None] | None = None,
    ) -> pd.DataFrame:
        """One row for each cell and perturbation that applies to it: ``cell``, ``perturbation``, ``shift``, ``towards:<state>``."""
        ...


@runtime_checkable
class Responder(Protocol):
    """A model that predicts how cells respond to perturbed genes.

    Attributes
    ----------
    trained_perturbations
        Names of the perturbations that it was trained on, genes sorted and joined by ``"+"``.
    """

    @property
    def trained_perturbations(self) -> tuple[str, ...]:
        """Names of the perturbations that it was trained on; none where others trained it."""
        ...

    @property
    def responds(self) -> bool:
        """Whether it was trained on perturbed cells, by us or by others: not all models of its family need be."""
        ...

    @property
    def paired_within(self) -> str | None:
        """Column of ``.obs`` within whose batches it compared perturbed cells with control cells; None: with all of them."""
        ...

    def respond(self, cells: Cells, perturbations: Sequence[Sequence[str]], *, seed: int = 0) -> pd.DataFrame:
        """Mean log1p profile (of counts scaled to 10,000) of control cells after each perturbation: perturbations x genes."""
        ...


@runtime_checkable
class Translator(Protocol):
    """A model that predicts proteins from RNA.

    Attributes
    ----------
    proteins
        Names of its panel; empty for published weights, which are asked by name.
    scale
        Of the predictions, see :func:`sclm.cells.proteins.scale_proteins`.
    expectation
        One row a protein of the panel: how well held-out cells were predicted, beside the baselines; None where unknown.
    """

    proteins: tuple[str, ...]
    scale: str
    expectation: pd.DataFrame | None

    def match(self, genes: pd.Index) -> GeneMatch:
        """Overlap of the data's genes with the model's, before any work; raises where it is too small."""
        ...

    def resolve(self, proteins: Sequence[str] | None) -> tuple[list[str], np.ndarray]:
        """Names as they will be written, and where the model finds them; raises for one that it does not know."""
        ...

    def translate(self, cells: Cells, *, proteins: Sequence[str] | None = None) -> pd.DataFrame:
        """Proteins of each cell, cells x proteins, float32; NaN for cells without counts in the model's genes."""
        ...


class Description(NamedTuple):
    """Texts about a block of cells, and the statements in them.

    Attributes
    ----------
    table
        One row a cell, indexed as the cells: ``text`` (what the user reads: checked, statements without support taken out or said more
        carefully) and ``faithfulness`` (float64 0-1, share of the checkable statements that were kept as they were first made; NaN where
        none could be checked: :func:`sclm.evidence.faithfulness`).
    claims
        One row a statement as it was first made, with the columns of :data:`sclm.evidence.CLAIM_COLUMNS`; ``row`` is the place of its
        cell in the block.
    """

    table: pd.DataFrame
    claims: pd.DataFrame


@runtime_checkable
class Describer(Protocol):
    """A model that writes about cells."""

    def match(self, genes: pd.Index) -> GeneMatch:
        """Overlap of the data's genes with the model's, before any work; raises where it is too small."""
        ...

    def describe(self, cells: Cells, *, checker: Checker, seed: int = 0) -> Description:
        """One text a cell, each statement checked against the data that ``checker`` was fitted on.

        Groups come as one pseudobulk cell each (summed counts, the group's name as index), with a checker of groups. A cell's text does
        not depend on the cells beside it.
        """
        ...
