"""The unexplained share: seen where a type is missing, near 0 where none is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from sklearn.metrics import roc_auc_score

import sclm
from sclm.cells import read_cells
from sclm.models.deconvolution.rest import learn_rest, rest_share

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Drawn


def unexplained(reference: ad.AnnData, section: ad.AnnData, library_key: str | None = None) -> np.ndarray:
    model = sclm.train("deconvolution", reference, label_key="cell_type")
    source = read_cells(section, obs_keys=["library"])
    return model.adapt(source, library_key=library_key, resolution="spot").map(source.read()).unexplained


@pytest.mark.parametrize("platform", [0.0, 0.3])
def test_a_missing_type_is_noticed(draw: Callable[..., Drawn], platform: float) -> None:
    """A type of its own genes that some spots hold."""
    drawn = draw(types=6, contrast=1.5, seed=1)
    rng = np.random.default_rng(0)
    truth = np.where(rng.uniform(size=200) < 0.3, rng.uniform(0.1, 0.6, 200), 0)
    fraction = rng.dirichlet(np.full(6, 0.5), 200) * [1, 1, 0, 1, 1, 1]
    fraction *= ((1 - truth) / fraction.sum(axis=1))[:, None]
    fraction[:, 2] = truth
    section = ad.AnnData(
        sparse.csr_matrix(
            rng.poisson(3000 * fraction @ drawn.profile * np.exp(rng.normal(0, platform, 400))).astype(np.float32)
        ),
        obs=pd.DataFrame({"library": "a"}, index=[f"s{i}" for i in range(200)]),
        var=drawn.section.var,
    )
    found = unexplained(drawn.reference[drawn.reference.obs["cell_type"] != "type 2/x"].copy(), section)
    assert roc_auc_score(truth > 0.05, found) > 0.95
    assert np.corrcoef(found, truth)[0, 1] > 0.9


def test_little_is_unexplained_where_nothing_is_missing(drawn: Drawn) -> None:
    found = unexplained(drawn.reference, drawn.section)
    assert ((found >= 0) & (found <= 1)).all()
    assert np.median(found) < 0.05
    assert np.quantile(found, 0.9) < 0.15


def test_libraries_of_other_platforms_are_no_missing_type(draw: Callable[..., Drawn]) -> None:
    drawn = draw(spots=200, platform=0.4, dispersion=0.1, seed=3)
    found = unexplained(drawn.reference, drawn.section, "library")
    assert np.median(found[::2]) < 0.1
    assert np.median(found[1::2]) < 0.1


def test_the_further_profile_is_that_of_the_missing_type(draw: Callable[..., Drawn]) -> None:
    drawn = draw(spots=300, seed=4)
    known = drawn.profile[:4]
    there = drawn.fraction[:, :4] + 1e-3
    rest = learn_rest([drawn.section.X], [there / there.sum(axis=1, keepdims=True)], known, 0.1)
    assert rest is not None
    assert np.corrcoef(rest.other, drawn.profile[4, rest.columns])[0, 1] > 0.9
    share = rest_share(drawn.section.X, rest, 0, 0.1, there / there.sum(axis=1, keepdims=True))
    assert np.corrcoef(share, drawn.fraction[:, 4])[0, 1] > 0.95


def test_few_spots_teach_nothing(drawn: Drawn) -> None:
    assert learn_rest([drawn.section.X[:5]], [drawn.fraction[:5]], drawn.profile, 0.1) is None
    assert np.isnan(unexplained(drawn.reference, drawn.section[:6].copy())).all()  # and say so
