"""Sections drawn from the count model itself, so that the truth is known to the last count."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

if TYPE_CHECKING:
    from collections.abc import Callable


class Drawn(NamedTuple):
    """K types · G genes · n spots."""

    reference: ad.AnnData  # labelled cells
    section: ad.AnnData  # .obs["library"]: "a" or "b" in turn
    fraction: np.ndarray  # (n, K)
    profile: np.ndarray  # (K, G) rows sum to 1, types in the order of their names
    factor: np.ndarray  # (2, G) platform factors of the libraries, as drawn


@pytest.fixture(scope="session")
def draw() -> Callable[..., Drawn]:
    """Lognormal profiles, each type with its own deviation of every gene; Poisson cells, negative-binomial spots."""

    def make(
        *,
        types: int = 5,
        genes: int = 400,
        cells: int = 150,
        spots: int = 120,
        depth: float = 3000,
        contrast: float = 1.0,
        platform: float = 0.0,
        dispersion: float = 0.0,
        single: bool = False,
        seed: int = 0,
    ) -> Drawn:
        rng = np.random.default_rng(seed)
        profile = np.exp(rng.normal(0, 1.2, genes) + rng.normal(0, contrast, (types, genes)))
        profile /= profile.sum(axis=1, keepdims=True)
        code = np.arange(types * cells) % types
        size = rng.lognormal(np.log(2000), 0.3, len(code))
        names = np.array([f"type {i}/x" for i in range(types)], dtype=object)
        symbols = pd.Index([f"gene{i}" for i in range(genes)], dtype=object)
        reference = ad.AnnData(
            sparse.csr_matrix(rng.poisson(size[:, None] * profile[code]).astype(np.float32)),
            obs=pd.DataFrame({"cell_type": names[code]}, index=[f"c{i}" for i in range(len(code))]),
            var=pd.DataFrame(index=symbols),
        )
        if single:
            fraction = np.eye(types)[rng.choice(types, spots, p=(np.arange(types) + 1) / (np.arange(types) + 1).sum())]
        else:
            fraction = rng.dirichlet(np.full(types, 0.5), spots)
        factor = np.exp(rng.normal(0, platform, (2, genes))) if platform else np.ones((2, genes))
        library = np.arange(spots) % 2
        mean = rng.lognormal(np.log(depth), 0.3, spots)[:, None] * (fraction @ profile) * factor[library]
        if dispersion:
            mean = mean * rng.gamma(1 / dispersion, dispersion, mean.shape)
        section = ad.AnnData(
            sparse.csr_matrix(rng.poisson(mean).astype(np.float32)),
            obs=pd.DataFrame({"library": np.array(["a", "b"], dtype=object)[library]}, index=[f"s{i}" for i in range(spots)]),
            var=pd.DataFrame(index=symbols),
        )  # fmt: skip
        return Drawn(reference, section, fraction, profile, factor)

    return make


@pytest.fixture(scope="session")
def drawn(draw: Callable[..., Drawn]) -> Drawn:
    """A section without platform shift. Tests must not change it."""
    return draw(dispersion=0.1)
