"""Sections of single cells: the posterior against its formula, and known types."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

import sclm
from sclm.cells import read_cells
from sclm.models.deconvolution.signatures import reliable_profile

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Drawn


@pytest.fixture(scope="module")
def panel(draw: Callable[..., Drawn]) -> Drawn:
    """One cell a spot, 150 genes, 60 counts."""
    return draw(types=6, genes=150, spots=400, depth=60, contrast=0.7, single=True, seed=3)


def test_finds_types_and_their_frequencies(panel: Drawn) -> None:
    model = sclm.train("deconvolution", panel.reference, label_key="cell_type")
    source = read_cells(panel.section)
    look = model.adapt(source)
    assert look.resolution == "cell"
    assert "fewer than 500" in look.reason
    found = look.map(source.read())
    truth = panel.fraction.argmax(axis=1)
    assert (found.fraction.argmax(axis=1) == truth).mean() > 0.95
    np.testing.assert_allclose(look.frequency, panel.fraction.mean(axis=0), atol=0.03)
    np.testing.assert_allclose(found.fraction.sum(axis=1), 1, atol=1e-5)
    sure = found.fraction.max(axis=1)
    right = found.fraction.argmax(axis=1) == truth
    assert sure[right].mean() > sure[~right].mean() + 0.1
    np.testing.assert_allclose(found.standard_error**2, found.fraction * (1 - found.fraction), atol=1e-5)


def test_agrees_with_the_formula(panel: Drawn) -> None:
    model = sclm.train("deconvolution", panel.reference, label_key="cell_type", temperature=3.0)
    source = read_cells(panel.section)
    look = model.adapt(source, resolution="cell")
    assert look.reason == "asked for"
    found = look.map(source.read()).fraction
    profile = reliable_profile(model.signatures, look.gene_rows, 0.05).profile
    for y, row in zip(panel.section.X.toarray()[:, look.gene_rows][:20], found, strict=False):
        weight = (y @ np.log(profile.T)) / 3.0
        posterior = np.exp(weight - weight.max()) * look.frequency
        np.testing.assert_allclose(row, posterior / posterior.sum(), atol=1e-4)


def test_a_neighbours_prior_draws_unsure_cells_and_weight_zero_does_nothing(panel: Drawn) -> None:
    model = sclm.train("deconvolution", panel.reference, label_key="cell_type")
    source = read_cells(panel.section)
    look, cells = model.adapt(source, resolution="cell"), source.read()
    plain = look.map(cells).fraction
    np.testing.assert_allclose(look.map(cells, prior=np.zeros((400, 6))).fraction, plain, atol=1e-6)
    prior = np.zeros((400, 6))
    prior[:, 0] = 500
    drawn_to = look.map(cells, prior=prior).fraction
    assert (drawn_to[:, 0] >= plain[:, 0] - 1e-6).all()
    assert drawn_to[:, 0].mean() > plain[:, 0].mean()


def test_a_missing_type_raises_what_is_unexplained(panel: Drawn) -> None:
    keep = panel.reference.obs["cell_type"] != "type 5/x"
    model = sclm.train("deconvolution", panel.reference[keep].copy(), label_key="cell_type")
    source = read_cells(panel.section)
    found = model.adapt(source, resolution="cell").map(source.read())
    missing = panel.fraction[:, 5] == 1
    assert found.unexplained[missing].mean() > 1.5 * found.unexplained[~missing].mean()


def test_depth_decides_the_resolution(draw: Callable[..., Drawn]) -> None:
    deep = draw(depth=3000)
    model = sclm.train("deconvolution", deep.reference, label_key="cell_type")
    look = model.adapt(read_cells(deep.section))
    assert look.resolution == "spot"
    assert "not fewer than 500" in look.reason
