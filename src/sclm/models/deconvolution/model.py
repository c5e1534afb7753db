"""The count model as a family: signatures in, a look at a section, fractions with their errors out."""

from __future__ import annotations

import dataclasses
import logging
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from sclm.models.deconvolution.count_model import block_size, fit_counts, fit_deviance
from sclm.models.deconvolution.errors import fraction_errors
from sclm.models.deconvolution.mapper import Look, MapperConfig, SignatureMapper, blocks_of, look_at
from sclm.models.deconvolution.platform import platform_factors
from sclm.models.deconvolution.posterior import CellLook
from sclm.models.deconvolution.rest import FEWEST_SPOTS, Rest, learn_rest, rest_share
from sclm.models.deconvolution.signatures import reliable_profile

if TYPE_CHECKING:
    from collections.abc import Callable

    import pandas as pd
    from scipy import sparse

    from sclm.cells import Cells, CellSource
    from sclm.models.contract import Mapping
    from sclm.models.deconvolution.count_model import Fit

logger = logging.getLogger(__name__)

_CELL_COUNTS = 500  # counts a spot below which several types cannot be told from one
_REST_SPOTS = 400  # a library, that teach what is left unexplained
_FEWEST = 200  # genes that are used whatever they say


@dataclasses.dataclass(frozen=True, kw_only=True)
class DeconvolutionConfig(MapperConfig):
    """Settings of the count model; chosen once on development sections, see the benchmarks."""

    dispersion: float = 0.3  # φ of counts around their expectation, the reference's mistakes included
    background: float = 0.2  # weight of the mean profile in every type's
    reliability: tuple[float, ...] = (6.0, 3.0)  # of the genes of each gene set: variance between types over its error
    contrast: tuple[float, ...] = (0.0, 0.5)  # of the genes of each set: log of the highest type over the others' mean
    platform_sd: float = 0.5  # expected sd of the log of platform factors
    platform_passes: int = 5
    error_scale: float = 1.25  # of standard errors, for what the shrinkage of the profiles hides from them
    temperature: float = 2.0  # single cells: divisor of the log-likelihood, for counts that vary more than by chance
    engine: Literal["numpy", "torch"] = "numpy"  # "torch" fits spots on a CUDA GPU where there is one; same results

    def __post_init__(self) -> None:
        if self.engine not in ("numpy", "torch"):
            raise ValueError(f"engine must be 'numpy' or 'torch', found {self.engine!r}.")


class View(NamedTuple):
    """A gene set and the types' profiles in it."""

    columns: np.ndarray  # (g,) int64 among the section's genes
    profile: np.ndarray  # (K, g) float64, rows sum to 1
    error: np.ndarray  # (K, g) float64 squared standard errors of the profiles
    platform: np.ndarray  # (L, g) float64


class Found(NamedTuple):
    """Fractions of a block of spots."""

    fraction: np.ndarray  # (n, K) float64
    error: np.ndarray  # (n, K) float64


class Deconvolution(SignatureMapper):
    r"""Negative-binomial regression of each spot's counts on the reference's types: the default of map_spatial.

    .. math:: y_{sg} \sim \mathrm{NB}(\mu_{sg}, \phi), \quad \mu_{sg} = \gamma_g \sum_k S_{kg} x_{sk}, \quad x_{sk} \ge 0

    with signatures S drawn together where the reference is unsure (:func:`reliable_profile`), platform factors γ drawn to 1,
    by Fisher scoring with non-negative least squares in each step. Fractions are the mean over two gene sets: all genes whose
    differences between types are reliable, and those that differ clearly. The count model with platform factors follows Cable
    et al., Nat Biotechnol 2022 (RCTD) in what it accounts for; distribution, shrinkage and solver are our own.

    Sections of single cells are read by a tempered multinomial posterior instead.
    """

    family = "deconvolution"
    abilities = frozenset({"neighbours", "cells", "platform", "blocks"})
    Config = DeconvolutionConfig

    def adapt(
        self,
        spots: CellSource,
        *,
        library_key: str | None = None,
        resolution: str = "auto",
        shift: float | None = None,
        seed: int = 0,
    ) -> CountLook | CellLook:
        """Look at at most 2,000 spots a library: genes, platform factors, whether spots hold one cell or several.

        Parameters
        ----------
        spots
            The section.
        library_key
            Column of ``spots.obs`` with the library; each gets platform factors of its own.
        resolution
            ``"spot"``, ``"cell"``, or ``"auto"``: single cells where the median spot has fewer than 500 counts in the shared
            genes.
        shift
            Expected standard deviation of log platform factors; the configuration's where None. Larger for a reference that
            is further from the section, such as a generated one.
        seed
            Of the spots looked at.

        Raises
        ------
        ValueError
            If the genes do not overlap, or an argument is out of range.
        """
        self.check(resolution, shift)
        gene_rows, libraries, samples = look_at(self, spots, library_key, seed)
        median = float(np.median(np.concatenate([np.asarray(s.sum(axis=1)).ravel() for s in samples])))
        if resolution == "auto":
            cell = median < _CELL_COUNTS
            reason = (
                f"the median spot has {median:,.0f} counts in {len(gene_rows):,} shared genes, "
                f"{'fewer' if cell else 'not fewer'} than {_CELL_COUNTS}"
            )
        else:
            cell, reason = resolution == "cell", "asked for"
        look = CellLook if cell else CountLook
        made = look(self, spots.genes, gene_rows, libraries, library_key)
        made.reason = reason
        made.learn(samples, self.config.platform_sd if shift is None else shift)
        return made


class CountLook(Look):
    """The count model on one section."""

    resolution = "spot"

    def __init__(self, model: Deconvolution, genes: pd.Index, gene_rows: np.ndarray, libraries: list[str], library_key: str | None) -> None:  # fmt: skip
        super().__init__(model, genes, gene_rows, libraries, library_key)
        reliable = reliable_profile(model.signatures, gene_rows, model.config.background)
        self.profile = reliable.profile
        self.views = [
            self._view(columns, reliable.error)
            for columns in gene_sets(self.profile, reliable.reliability, model.config)
        ]
        self.rest: Rest | None = None
        self._unseen = np.nan
        self._modules: dict[tuple[int, int], Any] = {}  # of the torch engine: by gene set and library

    def _view(self, columns: np.ndarray, error: np.ndarray) -> View:
        """A gene set; the profiles become shares of its counts."""
        covered = self.profile[:, columns].sum(axis=1, keepdims=True)
        platform = np.ones((len(self.libraries), len(columns)))
        return View(columns, self.profile[:, columns] / covered, error[:, columns] / covered**2, platform)

    def learn(self, samples: list[sparse.csr_matrix], shift: float) -> None:
        """Platform factors of each gene set and library, and the profile of what no type explains."""
        config = self.model.config
        total = self.model.signatures.total[self.gene_rows]
        factors = np.ones((len(samples), len(self.genes)))
        # The last gene set is written first: where two hold a gene, the platform factors of the larger set are kept.
        for v, view in reversed(list(enumerate(self.views))):
            learnt = []
            for counts in samples:
                part = counts[:, view.columns]
                learnt.append(
                    platform_factors(
                        part[np.diff(part.indptr) > 0], view.profile, total[view.columns], self._dispersion(view),
                        sd=shift, passes=config.platform_passes,
                    )
                )  # fmt: skip
            self.views[v] = view._replace(platform=np.stack(learnt))
            factors[:, view.columns] = self.views[v].platform
        self.platform = factors.astype(np.float32)
        few = [s[:: max(1, s.shape[0] // _REST_SPOTS)] for s in samples]
        fractions = [self._fit(c, np.full(c.shape[0], i), None).fraction for i, c in enumerate(few)]
        self.rest = learn_rest(few, fractions, self.profile, config.dispersion)
        # 0: a further profile explains no more than chance. NaN: too few spots to learn one from.
        self._unseen = 0.0 if sum(c.shape[0] for c in few) >= FEWEST_SPOTS else np.nan

    def map(self, cells: Cells, *, prior: np.ndarray | None = None) -> Mapping:
        """Types of a block of spots.

        Parameters
        ----------
        cells
            Raw counts.
        prior
            (n_spots, n_types) counts expected from each type beforehand, such as a share of the neighbours' mean; its sum is
            its weight in counts.
        """
        counts = self.counts(cells)
        library = self.library_of(cells)
        config = self.model.config
        found = self._fit(counts, library, prior)
        scale = np.asarray(counts.sum(axis=1), dtype=np.float64).ravel()
        n = counts.shape[0]
        unexplained, explained = np.full(n, self._unseen), np.full(n, np.nan)
        phi = np.full(len(self.genes), config.dispersion)
        mean = self.profile.mean(axis=0)
        for rows, which in blocks_of(counts, library, block_size(len(self.genes))):
            expected = (found.fraction[rows] @ self.profile) * self.platform[which]
            flat = mean * self.platform[which]
            # Both expectations have the spot's own total: only the shares of the genes are judged.
            expected *= (scale[rows] / np.maximum(expected.sum(axis=1), 1e-12))[:, None]
            base = fit_deviance(counts[rows], scale[rows, None] * (flat / flat.sum()), phi)
            left = fit_deviance(counts[rows], expected, phi)
            explained[rows] = np.clip(1 - left / np.maximum(base, 1e-12), 0, 1)
            if self.rest is not None:
                unexplained[rows] = rest_share(counts[rows], self.rest, which, config.dispersion, found.fraction[rows])
        return self.answer(
            counts, library, found.fraction * scale[:, None], config.error_scale * found.error, unexplained, explained
        )

    def _fit(self, counts: sparse.csr_matrix, library: np.ndarray, prior: np.ndarray | None) -> Found:
        """Fractions and standard errors, mean over the gene sets; zero rows for spots without counts in any."""
        n, k = counts.shape[0], len(self.categories)
        fraction, variance, used = np.zeros((n, k)), np.zeros((n, k)), np.zeros(n)
        whole = np.maximum(np.asarray(counts.sum(axis=1), dtype=np.float64).ravel(), 1e-12)
        for v, view in enumerate(self.views):
            part = counts[:, view.columns]
            phi = self._dispersion(view)
            before = None
            if prior is not None:  # counts of the whole spot: the gene set's share of them has the same weight
                before = prior * (np.asarray(part.sum(axis=1), dtype=np.float64).ravel() / whole)[:, None]
            for rows, which in blocks_of(part, library, block_size(len(view.columns))):
                profile = view.profile * view.platform[which]
                fit = self._solver(v, which, profile, phi)(part[rows], None if before is None else before[rows])
                total = fit.abundance.sum(axis=1)
                good = total > 0
                rows, fit = rows[good], type(fit)(*(values[good] for values in fit))
                fraction[rows] += fit.abundance / total[good, None]
                variance[rows] += (
                    fraction_errors(part[rows], profile, phi, fit, view.error * view.platform[which] ** 2) ** 2
                )
                used[rows] += 1
        used = np.maximum(used, 1)[:, None]
        return Found(fraction / used, np.sqrt(variance / used))

    def _solver(self, v: int, which: int, profile: np.ndarray, phi: np.ndarray) -> Callable[..., Fit]:
        """The fit of spots of one library to one gene set, with the configured engine."""
        if self.model.config.engine == "numpy":
            return lambda counts, prior: fit_counts(counts, profile, phi, prior=prior)
        from sclm.models.deconvolution.module import on_best_device

        if (v, which) not in self._modules:
            self._modules[v, which] = on_best_device(profile, phi)
        return self._modules[v, which].fit

    def _dispersion(self, view: View) -> np.ndarray:
        return np.full(len(view.columns), self.model.config.dispersion)


def gene_sets(profile: np.ndarray, reliability: np.ndarray, config: DeconvolutionConfig) -> list[np.ndarray]:
    """Columns of each gene set, (g,) ascending; at least 200 genes each, the most reliable, where there are as many."""
    highest = profile.max(axis=0)
    others = (profile.sum(axis=0) - highest) / max(len(profile) - 1, 1)
    contrast = np.log(highest / others)
    order = np.argsort(-reliability, kind="stable")
    sets = []
    for least, clear in zip(config.reliability, config.contrast, strict=True):
        chosen = (reliability >= least) & (contrast >= clear)
        if chosen.sum() < _FEWEST:
            chosen[order[:_FEWEST]] = True
        sets.append(np.flatnonzero(chosen))
    return sets
