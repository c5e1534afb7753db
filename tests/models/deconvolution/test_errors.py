"""Standard errors: the formula spot by spot, and how often intervals hold the truth."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from scipy import sparse

import sclm
from sclm.cells import read_cells
from sclm.models.deconvolution.count_model import fit_counts
from sclm.models.deconvolution.errors import fraction_errors

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Drawn


def test_agrees_with_the_sandwich_written_out(drawn: Drawn) -> None:
    counts, phi = drawn.section.X[:15], 0.1
    fit = fit_counts(counts, drawn.profile, np.full(400, phi))
    unsure = (0.1 * drawn.profile) ** 2  # of the profiles, squared
    found = fraction_errors(counts, drawn.profile, np.full(400, phi), fit, unsure)
    for y, x, packed, errors in zip(counts.toarray(), fit.abundance, fit.information, found, strict=True):
        h = np.zeros((5, 5))
        h[np.triu_indices(5)] = packed
        h = h + h.T - np.diag(np.diag(h))
        mu = np.maximum(x @ drawn.profile, 1e-9)
        residual = ((y - mu) ** 2 + sum(x[k] ** 2 * unsure[k] for k in range(5))) / (mu + phi * mu**2) ** 2
        v = np.linalg.inv(h) @ (drawn.profile * residual) @ drawn.profile.T @ np.linalg.inv(h)
        jacobian = (np.eye(5) - np.outer(x / x.sum(), np.ones(5))) / x.sum()
        np.testing.assert_allclose(errors, np.sqrt(np.diag(jacobian @ v @ jacobian.T)), rtol=1e-2)


@pytest.mark.parametrize(("seed", "dispersion"), [(0, 0.1), (1, 0.3)])
def test_intervals_hold_the_truth(draw: Callable[..., Drawn], seed: int, dispersion: float) -> None:
    """Sections drawn from the model with known profiles: 90 % intervals of types that are there."""
    drawn = draw(spots=300, dispersion=dispersion, depth=4000, seed=seed)
    counts, phi = drawn.section.X, np.full(400, dispersion)
    fit = fit_counts(counts, drawn.profile, phi)
    fraction = fit.abundance / fit.abundance.sum(axis=1, keepdims=True)
    error = fraction_errors(counts, drawn.profile, phi, fit, np.zeros_like(drawn.profile))
    there = drawn.fraction > 0.1  # at the border the error is not normal
    covered = np.abs(fraction - drawn.fraction)[there] <= 1.645 * error[there]
    assert 0.85 <= covered.mean() <= 0.95


def test_intervals_hold_the_truth_from_reference_to_map(draw: Callable[..., Drawn]) -> None:
    drawn = draw(spots=300, dispersion=0.2, depth=4000, contrast=1.2, seed=2)
    # No ambient RNA was drawn; with background=0.2 types are found too pure, by .07 where there is most of one.
    model = sclm.train("deconvolution", drawn.reference, label_key="cell_type", background=0.0)
    source = read_cells(drawn.section)
    found = model.adapt(source, resolution="spot").map(source.read())
    there = drawn.fraction > 0.1
    covered = np.abs(found.fraction - drawn.fraction)[there] <= 1.645 * found.standard_error[there]
    assert 0.85 <= covered.mean() <= 0.97


def test_more_counts_smaller_errors(draw: Callable[..., Drawn]) -> None:
    errors = []
    for depth in (500, 5000):
        drawn = draw(depth=depth)
        fit = fit_counts(drawn.section.X, drawn.profile, np.full(400, 0.01))
        sure = np.zeros_like(drawn.profile)
        errors.append(np.median(fraction_errors(drawn.section.X, drawn.profile, np.full(400, 0.01), fit, sure)))
    np.testing.assert_allclose(errors[0] / errors[1], np.sqrt(10), rtol=0.35)


def test_types_of_one_profile_have_finite_errors() -> None:
    profile = np.full((3, 50), 1 / 50)
    counts = sparse.csr_matrix(np.random.default_rng(0).poisson(10, (4, 50)).astype(np.float32))
    fit = fit_counts(counts, profile, np.full(50, 0.1))
    found = fraction_errors(counts, profile, np.full(50, 0.1), fit, 0.01 * profile**2)
    assert np.isfinite(found).all()
    assert (found >= 0).all()


def test_unsure_profiles_give_larger_errors(drawn: Drawn) -> None:
    phi = np.full(400, 0.1)
    fit = fit_counts(drawn.section.X, drawn.profile, phi)
    sure, unsure = (
        fraction_errors(drawn.section.X, drawn.profile, phi, fit, (share * drawn.profile) ** 2) for share in (0.0, 0.5)
    )
    assert (unsure >= sure).all()
    assert np.median(unsure / sure) > 1.1
