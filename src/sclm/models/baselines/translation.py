"""Simple translations of RNA into proteins: the training mean, the own gene's RNA, ridge regression on components."""

from __future__ import annotations

import abc
import dataclasses
import logging
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pandas as pd

from sclm.cells import align, log_normalise, require_overlap
from sclm.evidence.protein_baselines import MeanFit, OwnGeneFit, RidgeFit
from sclm.models.family import Family
from sclm.models.reference_cells import TARGET_SUM, Reference
from sclm.models.translator import (
    Expectation,
    baseline_predictions,
    choose_proteins,
    own_columns,
    prepare_targets,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scipy import sparse

    from sclm.cells import Cells, CellSource, GeneMatch, GeneVocabulary
    from sclm.cells.proteins import Proteins

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TranslationConfig:
    """Settings that every simple translation has; the panel is found in training."""

    proteins: tuple[str, ...] = ()
    scale: str = (
        "auto"  # of the proteins, see sclm.cells.proteins.scale_proteins; "auto": "clr" for counts, else "given"
    )
    max_cells: int = 50_000  # cells learnt from; more are drawn down


class BaselineTranslator(Family, abc.ABC):
    """A method that predicts proteins from log-normalised cells.

    A subclass implements ``_learn`` (arrays from cells and proteins) and ``_predict`` (log-normalised cells to proteins).
    """

    Config = TranslationConfig

    def __init__(
        self,
        config: TranslationConfig,
        vocabulary: GeneVocabulary,
        arrays: dict[str, np.ndarray],
        card: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(config, vocabulary, card)
        self._arrays = arrays
        self._expectation = Expectation.from_arrays(arrays)
        self._last_match: tuple[pd.Index, GeneMatch] | None = None

    # Training -------------------------------------------------------------------------------------------------------

    @classmethod
    def fit(
        cls,
        source: CellSource,
        *,
        proteins: Proteins | None = None,
        batch_key: str | None = None,
        genes: pd.Index | None = None,
        seed: int = 0,
        **options: Any,
    ) -> Self:
        """Learn from cells with RNA and proteins: see :func:`sclm.train`, which reads them by ``protein_key=``.

        A fifth of the cells (whole batches with ``batch_key``, where there are at least three) is held out and says how well each
        protein is predicted; the method is then learnt again from all cells.
        """
        fields = {f.name for f in dataclasses.fields(cls.Config)} - {"proteins"}
        if extra := sorted(set(options) - fields):
            raise TypeError(
                f"{cls.family!r} has no option {', '.join(map(repr, extra))}; it has: {', '.join(sorted(fields))}."
            )
        config = cls.Config(**options)
        if config.max_cells < 1:
            raise ValueError(f"max_cells must be at least 1, found {config.max_cells}.")
        batches = None if batch_key is None else source.obs[batch_key].astype(str).to_numpy()
        targets = prepare_targets(proteins, source.n_cells, cls.family, scale=config.scale, batches=batches, seed=seed)
        config = dataclasses.replace(config, proteins=targets.names, scale=targets.scale)
        reference = Reference(source, np.flatnonzero(targets.use), genes)
        held = targets.held_out[targets.use] & reference.filled
        kept = ~targets.held_out[targets.use] & reference.filled
        everything = _at_most(held | kept, config.max_cells, seed)
        kept = _at_most(kept, config.max_cells, seed)
        values = targets.values[targets.use]

        training, test = reference.take(kept), reference.take(held)
        learnt = cls._learn(config, reference.vocabulary, training, values[kept], seed)
        others = baseline_predictions(reference.vocabulary, training, values[kept], test, targets.names, seed=seed)
        expectation = Expectation.measure(values[held], cls._predict(learnt, test, None), others)
        learnt = cls._learn(config, reference.vocabulary, reference.take(everything), values[everything], seed)
        card = {
            "data": f"{int(targets.use.sum()):,} cells, {len(reference.vocabulary):,} genes, {len(targets.names)} proteins",
            **expectation.card(targets, seed),
        }
        arrays = {f"fit.{name}": array for name, array in learnt.items()} | expectation.arrays()
        arrays |= {"gene_share": reference.gene_share.astype(np.float32), "gene_mean": reference.gene_mean}
        return cls(config, reference.vocabulary, arrays, card)

    @classmethod
    @abc.abstractmethod
    def _learn(
        cls, config: Any, vocabulary: GeneVocabulary, lognormal: sparse.csr_matrix, targets: np.ndarray, seed: int
    ) -> dict[str, np.ndarray]:
        """Arrays of the method from log-normalised cells (n, G) and their proteins (n, P)."""

    @classmethod
    @abc.abstractmethod
    def _predict(
        cls, learnt: dict[str, np.ndarray], lognormal: sparse.csr_matrix, fill: np.ndarray | None
    ) -> np.ndarray:
        """(n, P); ``fill`` (G,) holds the value of genes that the data lacks, 0 for those that it has."""

    # Use ------------------------------------------------------------------------------------------------------------

    @property
    def proteins(self) -> tuple[str, ...]:
        """Names of the panel."""
        return self.config.proteins

    @property
    def scale(self) -> str:
        """Of the predictions, see :func:`sclm.cells.proteins.scale_proteins`."""
        return self.config.scale

    @property
    def expectation(self) -> pd.DataFrame:
        """How well each protein was predicted in held-out cells, beside the baselines."""
        return self._expectation.table(self.config.proteins)

    def match(self, genes: pd.Index) -> GeneMatch:
        """Overlap of the data's genes with the model's; raises ValueError where it is too small to answer."""
        match = self.vocabulary.match(genes)
        require_overlap(
            genes, self.vocabulary, match, advice="With reference=, the tool trains on the genes that both share."
        )
        self._last_match = (genes, match)
        return match

    def resolve(self, proteins: Sequence[str] | None) -> tuple[list[str], np.ndarray]:
        """Names as they will be written, and their places in the panel; KeyError for one that is not in it."""
        return choose_proteins(proteins, self.config.proteins)

    def translate(self, cells: Cells, *, proteins: Sequence[str] | None = None) -> pd.DataFrame:
        """Proteins of a block of cells.

        Genes of the model that the data lacks are taken at their mean in training, and depth is corrected for the share of
        counts that they would have held.

        Parameters
        ----------
        cells
            Raw counts.
        proteins
            Names; the whole panel where None.

        Returns
        -------
        (n_cells, n_proteins) float32, indexed as the cells; NaN for cells without counts in the model's genes.
        """
        names, places = self.resolve(proteins)
        if self._last_match is None or self._last_match[0] is not cells.genes:
            self.match(cells.genes)
        match = self._last_match[1]  # type: ignore[index]
        counts, _ = align(cells, self.vocabulary, match=match)
        absent = np.ones(len(self.vocabulary), dtype=bool)
        absent[match.ids[match.ids >= 0]] = False
        share = float(self._arrays["gene_share"][~absent].sum())
        fill = np.where(absent, self._arrays["gene_mean"], 0).astype(np.float32) if absent.any() else None
        lognormal = log_normalise(counts, TARGET_SUM * max(share, 1e-6))
        found = self._predict(self._learnt, lognormal, fill).astype(np.float32)
        found[np.diff(counts.indptr) == 0] = np.nan
        return pd.DataFrame(found[:, places], index=cells.obs.index, columns=pd.Index(names, dtype=object))

    @property
    def _learnt(self) -> dict[str, np.ndarray]:
        return {k.removeprefix("fit."): v for k, v in self._arrays.items() if k.startswith("fit.")}

    # Checkpoint -----------------------------------------------------------------------------------------------------

    def arrays(self) -> dict[str, np.ndarray]:
        """Every number that the model owns, by name."""
        return dict(self._arrays)

    @classmethod
    def from_arrays(
        cls, config: TranslationConfig, vocabulary: GeneVocabulary, arrays: dict[str, np.ndarray], card: dict[str, Any]
    ) -> Self:
        """The inverse of :meth:`arrays`."""
        if len(arrays.get("gene_share", ())) != len(vocabulary):
            raise ValueError(
                f"The arrays are of {len(arrays.get('gene_share', ())):,} genes, the vocabulary of {len(vocabulary):,}: the checkpoint "
                "is broken."
            )
        return cls(config, vocabulary, arrays, card)


class MeanProtein(BaselineTranslator):
    """Each protein's mean over the training cells, for every cell: what any translation has to beat."""

    family = "mean-protein"

    @classmethod
    def _learn(
        cls, config: Any, vocabulary: GeneVocabulary, lognormal: sparse.csr_matrix, targets: np.ndarray, seed: int
    ) -> dict[str, np.ndarray]:
        return MeanFit.learn(targets)._asdict()

    @classmethod
    def _predict(
        cls, learnt: dict[str, np.ndarray], lognormal: sparse.csr_matrix, fill: np.ndarray | None
    ) -> np.ndarray:
        return MeanFit(**learnt).predict(lognormal.shape[0])


class OwnGene(BaselineTranslator):
    """A line through the RNA of the genes that encode the protein; its mean where the data have none of them."""

    family = "own-gene"

    @classmethod
    def _learn(
        cls, config: Any, vocabulary: GeneVocabulary, lognormal: sparse.csr_matrix, targets: np.ndarray, seed: int
    ) -> dict[str, np.ndarray]:
        return OwnGeneFit.learn(lognormal, targets, own_columns(config.proteins, vocabulary))._asdict()

    @classmethod
    def _predict(
        cls, learnt: dict[str, np.ndarray], lognormal: sparse.csr_matrix, fill: np.ndarray | None
    ) -> np.ndarray:
        return OwnGeneFit(**learnt).predict(lognormal, fill)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RidgeProteinConfig(TranslationConfig):
    """Settings of :class:`RidgeProtein`."""

    n_components: int = 50  # scanpy's default number of principal components


class RidgeProtein(BaselineTranslator):
    """Ridge regression on principal components of log-normalised counts, one penalty a protein: the default of translate."""

    family = "ridge-protein"
    Config = RidgeProteinConfig

    @classmethod
    def _learn(
        cls, config: Any, vocabulary: GeneVocabulary, lognormal: sparse.csr_matrix, targets: np.ndarray, seed: int
    ) -> dict[str, np.ndarray]:
        if config.n_components < 1:
            raise ValueError(f"n_components must be at least 1, found {config.n_components}.")
        return RidgeFit.learn(lognormal, targets, n_components=config.n_components, seed=seed)._asdict()

    @classmethod
    def _predict(
        cls, learnt: dict[str, np.ndarray], lognormal: sparse.csr_matrix, fill: np.ndarray | None
    ) -> np.ndarray:
        return RidgeFit(**learnt).predict(lognormal, fill)


def _at_most(mask: np.ndarray, n: int, seed: int) -> np.ndarray:
    """The mask, or `n` of its true entries."""
    if mask.sum() <= n:
        return mask
    out = np.zeros_like(mask)
    out[np.random.default_rng([seed, 13]).choice(np.flatnonzero(mask), n, replace=False)] = True
    return out
