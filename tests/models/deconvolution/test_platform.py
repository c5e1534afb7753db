"""Platform factors against those that the section was drawn with."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from scipy import sparse

import sclm
from sclm.cells import read_cells
from sclm.models.deconvolution.platform import platform_factors

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Drawn


def of_section(drawn: Drawn, *, sd: float = 0.5, passes: int = 5, reference: float = 1e6) -> np.ndarray:
    return platform_factors(
        drawn.section.X[::2], drawn.profile, np.full(400, reference), np.full(400, 0.1), sd=sd, passes=passes
    )


def test_finds_the_factors(draw: Callable[..., Drawn]) -> None:
    drawn = draw(platform=0.5, dispersion=0.1)
    log = np.log(of_section(drawn))
    true = np.log(drawn.factor[0])
    weight = np.asarray(drawn.section.X[::2].sum(axis=0)).ravel()
    np.testing.assert_allclose(np.average(log, weights=weight), 0, atol=1e-9)
    assert np.corrcoef(log, true)[0, 1] > 0.95
    assert (log - true).std() < 0.3 * true.std()


def test_without_a_shift_factors_are_near_one(draw: Callable[..., Drawn]) -> None:
    drawn = draw(spots=600, depth=10_000)
    assert np.log(of_section(drawn)).std() < 0.05


def test_nothing_expected_nothing_found(draw: Callable[..., Drawn]) -> None:
    drawn = draw(platform=0.5)
    np.testing.assert_allclose(of_section(drawn, sd=1e-9), 1, atol=1e-6)
    np.testing.assert_allclose(
        of_section(drawn, reference=0.0, sd=0.01), 1, atol=0.01
    )  # a reference that counted nothing


def test_shrinkage_of_one_pass_is_the_formula(draw: Callable[..., Drawn]) -> None:
    """One type, one pass: what was counted over what is expected, drawn to 1 by both sides' counts."""
    drawn = draw(types=2, platform=0.5)
    y = drawn.section.X[::2]
    profile, reference = drawn.profile[:1], np.linspace(1, 2000, 400)
    found = platform_factors(y, profile, reference, np.zeros(400), sd=0.4, passes=1)
    observed = np.asarray(y.sum(axis=0), dtype=float).ravel()
    r = np.log((observed + 0.5) / (observed.sum() * profile[0] + 0.5))
    r -= np.average(r, weights=observed)
    r *= 0.16 / (0.16 + 1 / (observed + 0.5) + 1 / (reference + 0.5))
    r -= np.average(r, weights=observed)
    np.testing.assert_allclose(found, np.exp(r), rtol=1e-3)


def test_no_spots_no_factors() -> None:
    found = platform_factors(sparse.csr_matrix((0, 5)), np.full((2, 5), 0.2), np.ones(5), np.zeros(5), sd=0.5, passes=2)
    np.testing.assert_array_equal(found, np.ones(5))


def test_each_library_has_its_own(draw: Callable[..., Drawn]) -> None:
    drawn = draw(platform=0.5, dispersion=0.1, contrast=1.2)
    model = sclm.train("deconvolution", drawn.reference, label_key="cell_type")
    source = read_cells(drawn.section, obs_keys=["library"])
    apart = model.adapt(source, library_key="library", resolution="spot")
    assert apart.libraries == ["a", "b"]
    assert apart.platform.shape == (2, len(apart.genes))
    columns = [int(name.removeprefix("gene")) for name in apart.genes]
    for found, true in zip(apart.platform, drawn.factor[:, columns], strict=True):
        used = found != 1
        assert np.corrcoef(np.log(found[used]), np.log(true[used]))[0, 1] > 0.9
    together = model.adapt(source, resolution="spot")
    error = [np.abs(m.map(source.read()).fraction - drawn.fraction).mean() for m in (apart, together)]
    assert error[0] < error[1]


def test_larger_expected_shift_gives_larger_factors(draw: Callable[..., Drawn]) -> None:
    drawn = draw(platform=0.5)
    model = sclm.train("deconvolution", drawn.reference, label_key="cell_type")
    source = read_cells(drawn.section)
    spread = [np.log(model.adapt(source, resolution="spot", shift=s).platform).std() for s in (0.05, 0.2, 1.0)]
    assert spread == sorted(spread)
    with pytest.raises(ValueError, match="shift must be above 0, found 0"):
        model.adapt(source, shift=0)
