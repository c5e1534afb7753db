"""Types placed by gradient descent: recovery, totals, repeatability, and the loss."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import sclm
from sclm.cells import read_cells
from sclm.models.deconvolution.tangram import TangramConfig, place_types

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Drawn


@pytest.fixture(scope="module")
def uneven(draw: Callable[..., Drawn]) -> Drawn:
    """Types of their own genes, one of them rare."""
    drawn = draw(types=4, genes=200, spots=100, contrast=2.0, depth=4000, seed=2)
    weight = drawn.fraction * [1.0, 1.0, 1.0, 0.1]
    fraction = weight / weight.sum(axis=1, keepdims=True)
    rng = np.random.default_rng(0)
    section = drawn.section.copy()
    section.X = type(section.X)(rng.poisson(4000 * fraction @ drawn.profile).astype(np.float32))
    return drawn._replace(section=section, fraction=fraction)


def mapped(drawn: Drawn, seed: int = 0, **options: Any) -> np.ndarray:
    model = sclm.train("tangram", drawn.reference, label_key="cell_type", **options)
    source = read_cells(drawn.section)
    return model.adapt(source, seed=seed).map(source.read()).fraction


def test_finds_separable_types_and_their_totals(uneven: Drawn) -> None:
    free, fixed = mapped(uneven, n_epochs=400), mapped(uneven, n_epochs=400, free_totals=False)
    for i in range(4):
        assert np.corrcoef(free[:, i], uneven.fraction[:, i])[0, 1] > 0.9
    np.testing.assert_allclose(free.mean(axis=0), uneven.fraction.mean(axis=0), atol=0.05)
    # As published, each type has a quarter of the section, the rare one too.
    assert fixed[:, 3].mean() > 3 * uneven.fraction[:, 3].mean()


def test_seeds_repeat_and_matter_little(uneven: Drawn) -> None:
    a, b, c = mapped(uneven, 1), mapped(uneven, 1), mapped(uneven, 2)
    np.testing.assert_array_equal(a, b)
    assert (a != c).any()
    assert np.abs(a - c).mean() < 0.02


def test_there_are_no_errors_and_no_missing_types(uneven: Drawn) -> None:
    model = sclm.train("tangram", uneven.reference, label_key="cell_type", n_epochs=5)
    source = read_cells(uneven.section)
    found = model.adapt(source).map(source.read())
    assert np.isnan(found.standard_error).all()
    assert np.isnan(found.unexplained).all()


def test_the_descent_lowers_the_loss_of_the_docstring(uneven: Drawn) -> None:
    y, s = uneven.section.X.toarray().astype(float), uneven.profile
    total = y.sum(axis=1)

    def loss(fraction: np.ndarray) -> float:
        """With the mass of each spot at its share of the counts, where the divergence is 0."""
        predicted = fraction * total[:, None] @ s
        cosine = (
            (predicted * y).sum(0) / np.linalg.norm(predicted, axis=0) / np.maximum(np.linalg.norm(y, axis=0), 1e-12)
        )
        return -cosine.mean()

    losses = [loss(place_types(uneven.section.X, s, TangramConfig(n_epochs=n), 0)) for n in (1, 20, 100, 400)]
    assert (np.diff(losses) < 0).all()
    assert losses[-1] < loss(np.full_like(uneven.fraction, 0.25)) - 0.1


def test_settings_out_of_range(uneven: Drawn) -> None:
    for name, value in {"n_epochs": 0, "learning_rate": 0.0, "lambda_spot": -1.0}.items():
        with pytest.raises(ValueError, match=f"{name} must be"):
            mapped(uneven, **{name: value})
    assert np.isfinite(mapped(uneven, n_epochs=5, lambda_spot=1.0)).all()
