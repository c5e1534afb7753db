"""Moments and gene-gene correlation against NumPy and pandas on dense counts."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from sclm.metrics import generation


@pytest.fixture
def counts() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    rates = rng.gamma(0.5, 1, size=40)
    rates[-5:] = 1e-9  # never seen
    return rng.poisson(rates, size=(70, 40)), rng.poisson(1.3 * rates * rng.gamma(5, 0.2, size=40), size=(60, 40))


def dense_log(counts: np.ndarray) -> pd.DataFrame:
    return pd.DataFrame(np.log1p(counts / counts.sum(axis=1, keepdims=True) * 1e4))


def test_moments_are_the_definitions(counts: tuple[np.ndarray, np.ndarray]) -> None:
    real, made = counts
    found = generation.moments(sparse.csr_matrix(real), made)
    x, y = dense_log(real), dense_log(made)
    keep = (real > 0).mean(axis=0) > 0.01
    assert not keep.all()
    zeros = [pd.Series((m == 0).mean(axis=0))[keep] for m in counts]
    assert found == pytest.approx(
        {
            "depth_ratio": made.sum(axis=1).mean() / real.sum(axis=1).mean(),
            "nnz_ratio": (made > 0).sum(axis=1).mean() / (real > 0).sum(axis=1).mean(),
            "mean_r": x.mean()[keep].corr(y.mean()[keep]),
            "mean_rho": x.mean()[keep].corr(y.mean()[keep], method="spearman"),
            "var_r": x.var()[keep].corr(y.var()[keep]),
            "var_rho": x.var()[keep].corr(y.var()[keep], method="spearman"),
            "zero_r": zeros[0].corr(zeros[1]),
            "zero_rho": zeros[0].corr(zeros[1], method="spearman"),
            "zero_rmse": np.sqrt(((zeros[0] - zeros[1]) ** 2).mean()),
        }
    )


def test_equal_cells_agree(counts: tuple[np.ndarray, np.ndarray]) -> None:
    found = generation.moments(counts[0], counts[0])
    assert found.pop("zero_rmse") == 0
    assert found == pytest.approx(dict.fromkeys(found, 1.0))
    assert generation.gene_correlation(counts[0], counts[0]) == pytest.approx(1.0)


def test_gene_correlation_is_the_definition(counts: tuple[np.ndarray, np.ndarray]) -> None:
    x, y = (dense_log(m) for m in counts)
    top = x.var().sort_values(ascending=False).index[:12]
    upper = np.triu_indices(12, 1)
    expected = np.corrcoef(x[top].corr().to_numpy()[upper], y[top].corr().to_numpy()[upper])[0, 1]
    assert generation.gene_correlation(*counts, n_genes=12) == pytest.approx(expected)


def test_genes_that_do_not_vary_are_left_out(counts: tuple[np.ndarray, np.ndarray]) -> None:
    real, made = counts[0].copy(), counts[1].copy()
    made[:, int(dense_log(real).var().argmax())] = 0
    assert np.isfinite(generation.gene_correlation(real, made, n_genes=12))


def test_a_programme_shows_in_gene_correlation() -> None:
    """A factor shared by twenty genes is kept by cells that have it and lost by independent draws."""
    rng = np.random.default_rng(1)
    rates = np.full((300, 60), 4.0)

    def cells() -> np.ndarray:
        rates[:, :20] = 4.0 * rng.gamma(2, 0.5, size=(300, 1))
        return rng.poisson(rates)

    real = cells()
    independent = np.stack([rng.permutation(column) for column in cells().T], axis=1)
    assert generation.gene_correlation(real, cells(), n_genes=60) > 0.8
    assert generation.gene_correlation(real, independent, n_genes=60) < 0.2


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: generation.moments(x, x[:, 1:]), "same genes as columns, found 40 and 39"),
        (lambda x: generation.moments(x, x[:0]), "generated must hold at least one cell"),
        (lambda x: generation.moments(-x, x), "real must hold raw counts, found -"),
        (lambda x: generation.gene_correlation(x, x, n_genes=2), "n_genes must be at least 3, found 2"),
    ],
)
def test_errors_say_what_was_found(call, message: str, counts: tuple[np.ndarray, np.ndarray]) -> None:
    with pytest.raises(ValueError, match=message):
        call(counts[0])
