"""Raw counts told from everything else, and the exact inversion of log1p."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp

from sclm.cells import inspect_counts, invert_log1p, log_normalise, require_counts

DATA = Path(os.environ.get("SCLM_REAL_DATA", Path(__file__).parents[2] / ".." / "shared" / "data"))


def poisson(seed: int = 0, n: int = 80, g: int = 50, mean: float = 1.0) -> np.ndarray:
    return np.random.default_rng(seed).poisson(mean, (n, g)).astype(np.float32)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, np.int8, np.int32, np.int64, np.uint16, bool])
@pytest.mark.parametrize(
    "form", [np.asarray, np.asfortranarray, sp.csr_matrix, sp.csc_matrix, sp.csr_array, sp.coo_matrix]
)
def test_counts_of_any_kind(dtype: type, form: type) -> None:
    if dtype is np.float16 and form not in (np.asarray, np.asfortranarray):
        pytest.skip("scipy has no float16")
    assert inspect_counts(form(poisson().astype(dtype))).kind == "counts"


def test_rounding_noise_is_counts() -> None:
    x = poisson().astype(np.float64)
    assert inspect_counts(x * (1 + 1e-8)).kind == "counts"
    noisy = inspect_counts(x + 0.004 * (x > 0))
    assert noisy.kind == "non-integer"
    assert "np.rint repairs them" in noisy.detail


@pytest.mark.parametrize("form", [np.asarray, np.asfortranarray, sp.csr_matrix, sp.csc_matrix])
@pytest.mark.parametrize(
    ("value", "kind"), [(-1, "negative"), (np.nan, "nan"), (np.inf, "nan"), (-np.inf, "nan"), (0.5, "non-integer")]
)
def test_place_of_the_first_offender(form: type, value: float, kind: str) -> None:
    rng = np.random.default_rng(3)
    for _ in range(10):
        x = poisson(seed=int(rng.integers(100)))
        row, column = int(rng.integers(80)), int(rng.integers(50))
        x[row, column] = value
        report = inspect_counts(form(x))
        assert (report.kind, report.row, report.column) == (kind, row, column)
        assert report.value == value or np.isnan(value)
    negative = poisson().astype(np.int64)
    negative[7, 4] = -3
    assert inspect_counts(sp.csr_matrix(negative))[:4] == ("negative", -3.0, 7, 4)


def decontaminated(counts: sp.csr_matrix) -> np.ndarray:
    return counts.toarray() * np.random.default_rng(0).uniform(0.5, 1, counts.shape) * 30


def test_kinds_of_transformed_values() -> None:
    counts = sp.csr_matrix(poisson(g=200))
    log = log_normalise(counts)
    dense = log.toarray()
    assert inspect_counts(log).kind == "log1p"
    assert "sums to 10,000" in inspect_counts(log).detail
    assert inspect_counts(log[:, :30].copy()).kind == "log1p"  # a selection of genes: rows no longer sum to the target
    assert "multiple of one unit" in inspect_counts(log[:, :30].copy()).detail
    assert inspect_counts(np.log1p(counts.toarray() / 3)).kind == "log1p"
    assert inspect_counts((dense - dense.mean(axis=0)) / dense.std(axis=0)).kind == "scaled"
    assert inspect_counts(np.random.default_rng(0).normal(5, 2.5, (80, 50))).kind == "negative"
    tpm = counts.multiply(1e6 / counts.sum(axis=1)).tocsr()
    assert inspect_counts(tpm).kind == "non-integer"
    assert "1e+06" in inspect_counts(tpm).detail or "1,000,000" in inspect_counts(tpm).detail
    mixed = np.concatenate([counts.toarray(), decontaminated(counts)])
    assert "mixed: 50% of the rows" in inspect_counts(mixed).detail
    assert inspect_counts(decontaminated(counts)).kind == "non-integer"


def test_message() -> None:
    x = np.zeros((3, 2))
    x[1, 1] = 2.5
    with pytest.raises(
        ValueError, match=r'^adata\.layers\["a"\] must hold raw integer counts, found 2\.5 in row 11 \(gene B\): '
    ):
        require_counts(x, 'adata.layers["a"]', genes=["A", "B"], rows=[10, 11, 12])
    require_counts(np.zeros((0, 4)))
    require_counts(sp.csr_matrix((3, 4)))
    with pytest.raises(TypeError, match="counts must be numbers, found dtype complex128"):
        require_counts(np.ones((2, 2), complex))


@pytest.mark.parametrize("mean", [0.05, 1.0, 30.0, 3000.0])
@pytest.mark.parametrize("target", [1e4, 1e6, 1.0])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_inversion_is_exact(mean: float, target: float, dtype: type) -> None:
    counts = poisson(seed=1, n=40, g=300, mean=mean)
    counts[:, 0] = np.maximum(counts[:, 0], 1)
    counts[:, 1] = np.where(mean > 100, np.random.default_rng(0).integers(1, 12, 40), 1)  # a small count in each cell
    counts[5] = 0
    log = log_normalise(sp.csr_matrix(counts), target).astype(dtype)
    if target == 1.0 and dtype is np.float32 and mean > 100:
        pytest.skip("a target below the number of counts loses digits in float32")
    divisor = np.array([max(1, np.gcd.reduce(row.astype(int))) for row in counts])
    np.testing.assert_array_equal(invert_log1p(log).toarray(), counts // divisor[:, None])


def test_inversion_refuses() -> None:
    log = log_normalise(sp.csr_matrix(poisson()))
    before = log.copy()
    smooth = log.copy()
    smooth.data = smooth.data * np.random.default_rng(0).uniform(0.98, 1.02, log.nnz).astype(np.float32)
    with pytest.raises(ValueError, match="cannot be inverted to raw counts exactly"):
        invert_log1p(smooth)
    base2 = log.copy()
    base2.data = base2.data / np.float32(np.log(2))
    with pytest.raises(ValueError, match="another logarithm"):
        invert_log1p(base2)
    with pytest.raises(ValueError, match=r"found -1 in row 0"):
        invert_log1p(sp.csr_matrix([[-1.0, 1.0]]))
    with pytest.raises(ValueError, match=r"found nan in row 0"):
        invert_log1p(sp.csr_matrix([[np.nan, 1.0]]))
    assert (log != before).nnz == 0


@pytest.mark.real
@pytest.mark.filterwarnings("ignore:The '.*' option is deprecated")
def test_inversion_of_real_cells() -> None:
    anndata = pytest.importorskip("anndata")
    path = DATA / "scrna" / "pbmc3k.h5ad"
    if not path.exists():
        pytest.skip("SCLM_REAL_DATA holds no scrna/pbmc3k.h5ad")
    counts = sp.csr_matrix(anndata.read_h5ad(path).X)
    assert inspect_counts(counts).kind == "counts"
    log = log_normalise(counts)
    assert inspect_counts(log).kind == "log1p"
    assert (invert_log1p(log) != counts).nnz == 0
