"""The baseline against scipy, spot by spot."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import scipy.optimize

import sclm
from sclm.cells import read_cells

if TYPE_CHECKING:
    from conftest import Drawn


def test_agrees_with_scipy_spot_by_spot(drawn: Drawn) -> None:
    model = sclm.train("nnls", drawn.reference, label_key="cell_type")
    source = read_cells(drawn.section)
    found = model.adapt(source).map(source.read())
    labels = drawn.reference.obs["cell_type"].to_numpy()
    counts = drawn.reference.X.toarray().astype(float)
    mean = np.stack(
        [
            (counts[labels == t] / counts[labels == t].sum(1, keepdims=True)).mean(0)
            * counts[labels == t].sum(1).mean()
            for t in model.categories
        ]
    )
    y = drawn.section.X.toarray()
    cells = np.stack([scipy.optimize.nnls(mean.T, row)[0] for row in y])
    mrna = cells * mean.sum(axis=1)
    np.testing.assert_allclose(found.abundance, mrna, rtol=1e-3, atol=0.5)
    np.testing.assert_allclose(found.fraction, mrna / mrna.sum(1, keepdims=True), atol=1e-3)
    np.testing.assert_allclose(found.cell_fraction, cells / cells.sum(1, keepdims=True), atol=1e-3)
    left = ((y - cells @ mean) ** 2).sum(axis=1)
    flat = mean.mean(axis=0)
    base = ((y - np.outer(y @ flat / (flat @ flat), flat)) ** 2).sum(axis=1)
    np.testing.assert_allclose(found.explained, 1 - left / base, atol=1e-3)
    degrees = y.shape[1] - 5
    error = np.sqrt(left / degrees)[:, None] * np.sqrt(np.diag(np.linalg.inv(mean @ mean.T)))
    np.testing.assert_allclose(found.standard_error, error * mean.sum(axis=1) / mrna.sum(1, keepdims=True), rtol=1e-2)


def test_refuses_an_unknown_resolution(drawn: Drawn) -> None:
    model = sclm.train("nnls", drawn.reference, label_key="cell_type")
    with pytest.raises(ValueError, match="resolution must be one of"):
        model.adapt(read_cells(drawn.section), resolution="bin")
