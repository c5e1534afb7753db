"""What every predictor of perturbed cells has to beat: no change, means, sums of single effects, ridge on gene embeddings."""

from __future__ import annotations

import abc
import dataclasses
import logging
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import pandas as pd

from sclm.cells import GeneVocabulary, align, log_normalise, require_overlap
from sclm.models.family import Family
from sclm.models.perturbations import Perturbed, name_of, parts_of, read_perturbations

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sclm.cells import Cells, CellSource, GeneMatch

logger = logging.getLogger(__name__)

TARGET_SUM = 1e4  # counts a cell before the logarithm


@dataclasses.dataclass(frozen=True, kw_only=True)
class ResponseConfig:
    """What a baseline of responses was trained on."""

    perturbations: tuple[str, ...] = ()  # names, the order of the effects' rows
    n_cells: tuple[int, ...] = ()  # behind each effect
    control: str = ""  # label of the unperturbed cells
    perturbation_key: str = ""
    batch_key: str = ""  # column of .obs within whose batches effects were taken


class BaselineResponse(Family, abc.ABC):
    r"""A method that moves the mean profile of control cells by an effect learnt from other perturbed cells.

    Profiles are means of :math:`y = \log(1 + 10^4 c_g / \sum c)`. The effect of a training perturbation is
    :math:`\delta_p = \mu_p - \mu_{\text{control}}`, with ``batch_key`` within batches and averaged over the perturbation's
    cells. A prediction is the mean profile of the cells that are handed in plus the method's effect, at least 0; with the
    training controls it is the textbook form of each method. A subclass says what the effect is (:meth:`_effect`).
    """

    Config = ResponseConfig
    options: ClassVar[tuple[str, ...]] = ()  # settings that a user may choose

    def __init__(
        self,
        config: ResponseConfig,
        vocabulary: GeneVocabulary,
        arrays: dict[str, np.ndarray],
        card: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(config, vocabulary, card)
        self._arrays = arrays
        self._place = {name: i for i, name in enumerate(config.perturbations)}

    @property
    def trained_perturbations(self) -> tuple[str, ...]:
        """Names of the perturbations that the model was trained on."""
        return self.config.perturbations

    @property
    def responds(self) -> bool:
        """Whether it was trained on perturbed cells: always."""
        return True

    @property
    def paired_within(self) -> str | None:
        """Column of ``.obs`` within whose batches effects were taken."""
        return self.config.batch_key or None

    # Training -------------------------------------------------------------------------------------------------------

    @classmethod
    def fit(
        cls,
        source: CellSource,
        *,
        perturbation_key: str | None = None,
        control: str | None = None,
        batch_key: str | None = None,
        genes: Any = None,
        seed: int = 0,
        **options: Any,
    ) -> Self:
        """Learn from control and perturbed cells: see :func:`sclm.train`."""
        if extra := sorted(set(options) - set(cls.options)):
            raise TypeError(
                f"{cls.family!r} has no option {', '.join(map(repr, extra))}; it has: {', '.join(cls.options) or 'none'}."
            )
        if perturbation_key is None:
            raise TypeError(f"{cls.family!r} needs perturbation_key=, the column of .obs with the perturbed genes.")
        perturbed = read_perturbations(source.obs[perturbation_key], control, perturbation_key)
        batches = None if batch_key is None else source.obs[batch_key].astype(str).to_numpy()
        vocabulary = GeneVocabulary(tuple(map(str, source.genes)))
        config = cls.Config(
            perturbations=perturbed.names,
            n_cells=tuple(int(n) for n in np.bincount(perturbed.codes[perturbed.codes >= 0])),
            control=str(control),
            perturbation_key=perturbation_key,
            batch_key=batch_key or "",
            **options,
        )
        arrays = _effects(source, vocabulary, perturbed, batches)
        card = {
            "data": f"{int((perturbed.codes >= 0).sum()):,} perturbed and {int((perturbed.codes == -1).sum()):,} control cells, "
            f"{len(perturbed.names)} perturbations, {len(vocabulary):,} genes",
            "split": "none: means of all training cells, nothing is held out",
            "limits": "Knows nothing of genes that were not perturbed in training, beyond the training mean; a baseline to be beaten.",
        }  # fmt: skip
        return cls(config, vocabulary, arrays, card)

    def arrays(self) -> dict[str, np.ndarray]:
        """Mean control profile, effects, shares of the genes in the counts."""
        return dict(self._arrays)

    @classmethod
    def from_arrays(
        cls, config: Any, vocabulary: GeneVocabulary, arrays: dict[str, np.ndarray], card: dict[str, Any]
    ) -> Self:
        """The inverse of :meth:`arrays`."""
        return cls(config, vocabulary, arrays, card)

    # Use ------------------------------------------------------------------------------------------------------------

    def match(self, genes: pd.Index) -> GeneMatch:
        """Overlap of the data's genes with the model's; raises ValueError where it is too small to answer."""
        match = self.vocabulary.match(genes)
        require_overlap(genes, self.vocabulary, match)
        return match

    def respond(self, cells: Cells, perturbations: Sequence[Sequence[str]], *, seed: int = 0) -> pd.DataFrame:
        """Mean profile of control cells after each perturbation.

        Parameters
        ----------
        cells
            Control cells, raw counts. Genes of the model that they lack are taken at their mean in the training controls.
        perturbations
            Genes that are perturbed together, one sequence a perturbation; none: the control.
        seed
            Nothing here is random.

        Returns
        -------
        Perturbations (genes joined by ``"+"``) x genes of the model, float32, at least 0.
        """
        counts, match = align(cells, self.vocabulary, match=self.match(cells.genes))
        absent = np.ones(len(self.vocabulary), dtype=bool)
        absent[match.ids[match.ids >= 0]] = False
        filled = np.diff(counts.indptr) > 0
        if not filled.any():
            raise ValueError("The control cells have no counts in the model's genes.")
        share = float(self._arrays["gene_share"][~absent].sum())
        profile = log_normalise(counts[filled], TARGET_SUM * max(share, 1e-6))
        start = np.asarray(profile.mean(axis=0), dtype=np.float64).ravel()
        start[absent] = self._arrays["control"][absent]
        rows = [np.maximum(start + (self._effect(parts_of(p)) if p else 0.0), 0.0) for p in map(tuple, perturbations)]
        values = np.array(rows, dtype=np.float32).reshape(len(rows), len(self.vocabulary))  # (P, G)
        return pd.DataFrame(values, index=[name_of(p) for p in perturbations], columns=list(self.vocabulary.tokens))

    @abc.abstractmethod
    def _effect(self, parts: tuple[str, ...]) -> np.ndarray:
        """(G,) change of the mean profile."""

    def _trained(self, parts: Sequence[str]) -> np.ndarray | None:
        """Effect of a perturbation that was trained on, else None."""
        row = self._place.get(name_of(parts))
        return None if row is None else self._arrays["effects"][row].astype(np.float64)

    def _mean_effect(self) -> np.ndarray:
        """Of all perturbed training cells."""
        weights = np.array(self.config.n_cells, dtype=np.float64)
        return weights @ self._arrays["effects"] / weights.sum()


class NoChange(BaselineResponse):
    """Perturbed cells look like control cells: the floor of every prediction."""

    family = "no-change"

    def _effect(self, parts: tuple[str, ...]) -> np.ndarray:
        return np.zeros(len(self.vocabulary))


class MeanResponse(BaselineResponse):
    """Every perturbation does what perturbations do on average: the mean effect over all perturbed training cells."""

    family = "mean-response"

    def _effect(self, parts: tuple[str, ...]) -> np.ndarray:
        return self._mean_effect()


class MatchingResponse(BaselineResponse):
    """The effect of the perturbation where it was trained on; of a combination, the mean of its genes' effects.

    The "matching mean" of Systema (Viñas Torné et al. 2025). A gene that was not perturbed alone counts with the mean effect of all
    perturbed training cells.
    """

    family = "matching-response"

    def _effect(self, parts: tuple[str, ...]) -> np.ndarray:
        own = self._trained(parts)
        if own is not None:
            return own
        single = [self._trained([part]) for part in parts]
        return np.mean([self._mean_effect() if effect is None else effect for effect in single], axis=0)


class AdditiveResponse(BaselineResponse):
    r"""Effects of the single genes add up: :math:`\mu_A + \mu_B - \mu_{\text{control}}`.

    The additive baseline of Ahlmann-Eltze, Huber and Anders (2025), which no deep model had beaten on combinations. A gene that was
    not perturbed alone counts with the mean effect of all perturbed training cells.
    """

    family = "additive-response"

    def _effect(self, parts: tuple[str, ...]) -> np.ndarray:
        single = [self._trained([part]) for part in parts]
        return np.sum([self._mean_effect() if effect is None else effect for effect in single], axis=0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RidgeConfig(ResponseConfig):
    """Settings of the linear model of responses."""

    n_components: int = 10  # K, of the read-out genes
    ridge: float = 0.1  # as in the paper
    embedded_genes: tuple[str, ...] = ()  # names of the rows of the embedding that perturbed genes are looked up in

    def __post_init__(self) -> None:
        if not isinstance(self.n_components, int) or self.n_components < 1:
            raise ValueError(f"n_components must be a whole number of at least 1, found {self.n_components!r}.")
        if not self.ridge > 0:
            raise ValueError(f"ridge must be greater than 0, found {self.ridge!r}.")


class RidgeResponse(BaselineResponse):
    r"""Linear in embeddings of the read-out genes and of the perturbed genes, by ridge regression.

    :math:`Y \approx G W P^\top + b` (Ahlmann-Eltze, Huber and Anders 2025): :math:`Y` (genes x perturbations) the effects,
    :math:`b` their mean over perturbations, :math:`G` (genes x K) the first K principal components of :math:`Y - b`, :math:`P` the
    sum of the embeddings of each perturbation's genes, and
    :math:`W = (G^\top G + \lambda)^{-1} G^\top (Y - b) P (P^\top P + \lambda)^{-1}`. A perturbed gene is embedded by its row of
    :math:`G`, or of ``gene_embeddings=`` (a DataFrame genes x d, such as an encoder's ``gene_embeddings()``), centred and scaled to rows
    of unit mean square. Genes without a row have no place in the model: they get :math:`b`.
    """

    family = "ridge-response"
    Config = RidgeConfig
    options = ("n_components", "ridge", "gene_embeddings")

    @classmethod
    def fit(cls, source: CellSource, *, gene_embeddings: pd.DataFrame | None = None, **options: Any) -> Self:  # type: ignore[override]
        """Learn from control and perturbed cells: see :func:`sclm.train`."""
        if gene_embeddings is not None and not isinstance(gene_embeddings, pd.DataFrame):
            raise TypeError(f"gene_embeddings must be a DataFrame, genes x d, found {type(gene_embeddings).__name__}.")
        model = super().fit(source, **options)
        config, effects = model.config, model._arrays["effects"].astype(np.float64)  # (P, G)
        centre = effects.mean(axis=0)
        u, s, _ = np.linalg.svd((effects - centre).T, full_matrices=False)  # u (G, P)
        k = max(1, min(config.n_components, int((s > 1e-9 * max(s[0], 1e-300)).sum())))
        readout = u[:, :k] * s[:k]  # (G, K)
        names, embedding = model.vocabulary.tokens, readout
        if gene_embeddings is not None:
            names = tuple(map(str, gene_embeddings.index))
            embedding = gene_embeddings.to_numpy(dtype=np.float64)
            embedding = embedding - embedding.mean(axis=0)
            embedding = embedding / np.sqrt(max(float((embedding**2).sum(axis=1).mean()), 1e-300))
        place = {name: i for i, name in enumerate(names)}
        used = [i for i, name in enumerate(config.perturbations) if all(g in place for g in parts_of(name))]
        weights = np.zeros((k, embedding.shape[1]))
        if used:
            p = np.array([sum(embedding[place[g]] for g in parts_of(config.perturbations[i])) for i in used])  # (n, d)
            y = (effects[used] - centre).T  # (G, n)
            left = np.linalg.solve(readout.T @ readout + config.ridge * np.eye(k), readout.T @ y)  # (K, n)
            # P (PᵀP + λ)⁻¹ = (PPᵀ + λ)⁻¹ P, the smaller system where d is large
            weights = left @ np.linalg.solve(p @ p.T + config.ridge * np.eye(len(used)), p)  # (K, d)
        else:
            logger.warning(
                "none of the %d perturbations has all its genes among the embedded ones: the linear model is their mean.",
                len(config.perturbations),
            )
        learnt = {"centre": centre, "readout": readout, "embedding": embedding, "weights": weights}
        arrays = model._arrays | {name: value.astype(np.float32) for name, value in learnt.items()}
        return cls(dataclasses.replace(config, embedded_genes=names), model.vocabulary, arrays, model.card)

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._embedded = {name: i for i, name in enumerate(self.config.embedded_genes)}

    def has_embedding(self, gene: str) -> bool:
        """Whether the linear model has a place for a perturbed gene."""
        return gene in self._embedded

    def _effect(self, parts: tuple[str, ...]) -> np.ndarray:
        centre = self._arrays["centre"].astype(np.float64)
        if not all(part in self._embedded for part in parts):
            return centre
        place = np.sum([self._arrays["embedding"][self._embedded[part]].astype(np.float64) for part in parts], axis=0)
        return centre + self._arrays["readout"] @ (self._arrays["weights"] @ place)


def _effects(
    source: CellSource, vocabulary: GeneVocabulary, perturbed: Perturbed, batches: np.ndarray | None
) -> dict[str, np.ndarray]:
    """Mean control profile (G,), effect of each perturbation (P, G), share of each gene in the counts (G,): one pass."""
    n_perturbations, n_genes = len(perturbed.names), len(vocabulary)
    strata = np.zeros(source.n_cells, dtype=np.int64)
    if batches is not None:
        strata = np.unique(batches, return_inverse=True)[1].astype(np.int64)
    n_strata = int(strata.max()) + 1
    # group of a cell: its batch, and control (0) or its perturbation (1 …)
    group = np.where(perturbed.codes >= -1, strata * (n_perturbations + 1) + perturbed.codes + 1, -1)
    sums = np.zeros((n_strata * (n_perturbations + 1), n_genes))
    counted = np.zeros(len(sums))
    total = np.zeros(n_genes)
    match, start = vocabulary.match(source.genes), 0
    for cells in source.blocks():
        counts, _ = align(cells, vocabulary, match=match)
        of = group[start : start + cells.n_cells]
        start += cells.n_cells
        used = np.flatnonzero((of >= 0) & (np.diff(counts.indptr) > 0))  # cells without counts have no profile
        total += np.asarray(counts[used].sum(axis=0), dtype=np.float64).ravel()
        profile = log_normalise(counts[used], TARGET_SUM).astype(np.float64)
        for g in np.unique(of[used]):
            sums[g] += np.asarray(profile[of[used] == g].sum(axis=0)).ravel()
        counted += np.bincount(of[used], minlength=len(counted))
    of_group = sums.reshape(n_strata, n_perturbations + 1, n_genes)  # (B, 1 + P, G)
    cells_of = counted.reshape(n_strata, n_perturbations + 1)
    if not cells_of[:, 0].sum():
        raise ValueError("The control cells have no counts.")
    able = cells_of[:, 0] > 0
    if (cells_of[~able, 1:] > 0).any():
        logger.warning(
            "%d perturbed cells lie in %d batches without control cells and are left out.",
            int(cells_of[~able].sum()), int((cells_of[~able].sum(axis=1) > 0).sum()),
        )  # fmt: skip
    n = cells_of[able, 1:].sum(axis=0)  # (P,)
    if (n == 0).any():
        names = [perturbed.names[i] for i in np.flatnonzero(n == 0)]
        raise ValueError(
            f"{len(names)} perturbations have no cells with counts in a batch that holds control cells: {', '.join(names[:5])}."
        )
    control = of_group[able, 0] / cells_of[able, :1]  # (B, G)
    effects = (of_group[able, 1:].sum(axis=0) - cells_of[able, 1:].T @ control) / n[:, None]
    return {
        "control": (of_group[:, 0].sum(axis=0) / cells_of[:, 0].sum()).astype(np.float32),
        "effects": effects.astype(np.float32),
        "gene_share": (total / total.sum()).astype(np.float32),
    }
