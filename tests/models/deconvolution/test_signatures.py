"""Profiles of a reference against slow loops, and what their shrinkage must do at both ends."""

from __future__ import annotations

import logging
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from sclm.cells import read_cells
from sclm.models.deconvolution.signatures import Signatures, label_table, learn_signatures, reliable_profile


def cells(counts: np.ndarray, labels: Any) -> Any:
    adata = ad.AnnData(
        sparse.csr_matrix(counts.astype(np.float32)),
        obs=pd.DataFrame({"cell_type": labels}, index=[f"c{i}" for i in range(len(counts))]),
        var=pd.DataFrame(index=[f"gene{i}" for i in range(counts.shape[1])]),
    )
    return read_cells(adata, obs_keys=["cell_type"])


@pytest.fixture
def counts() -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.poisson(rng.gamma(0.5, 6, (60, 30)))


def test_profiles_agree_with_a_slow_loop(counts: np.ndarray) -> None:
    labels = np.array(["b", "a", "c/d"], dtype=object)[np.arange(60) % 3]
    found, vocabulary = learn_signatures(cells(counts, labels), "cell_type")
    assert found.categories == ("a", "b", "c/d")
    assert list(vocabulary.tokens) == [f"gene{i}" for i in range(30)]
    for i, name in enumerate(found.categories):
        shares = np.array([counts[j] / counts[j].sum() for j in range(60) if labels[j] == name])
        np.testing.assert_allclose(found.profile[i], shares.mean(axis=0), rtol=1e-12)
        np.testing.assert_allclose(found.variance[i], shares.var(axis=0, ddof=1), rtol=1e-8, atol=1e-15)
        assert found.n_cells[i] == 20
        np.testing.assert_allclose(found.depth[i], counts[labels == name].sum(axis=1).mean())
    np.testing.assert_array_equal(found.total, counts.sum(axis=0))
    np.testing.assert_allclose(found.profile.sum(axis=1), 1)
    assert list(label_table(found).columns) == ["label", "n_cells", "counts_per_cell"]


def test_cells_without_label_or_counts_are_left_out(counts: np.ndarray, caplog: pytest.LogCaptureFixture) -> None:
    labels = np.array(["a", "b", "a ", None, "unknown", " "], dtype=object)[np.arange(60) % 6]
    counts[0] = 0  # an "a"
    with caplog.at_level(logging.WARNING, "sclm"):
        found, _ = learn_signatures(cells(counts, labels), "cell_type")
    assert found.categories == ("a", "b")
    assert found.n_cells.tolist() == [19, 10]
    assert "30 of 60 reference cells have no label" in caplog.text


def test_categorical_labels_read_as_text(counts: np.ndarray) -> None:
    labels = np.array(["a", "b"], dtype=object)[np.arange(60) % 2]
    wide = pd.Categorical(labels, categories=["never", "b", "a"])
    a, b = (learn_signatures(cells(counts, values), "cell_type")[0] for values in (labels, wide))
    assert a.categories == b.categories
    np.testing.assert_array_equal(a.profile, b.profile)


def test_one_type_says_nothing(counts: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"at least two cell types, found 1 \('a'\)"):
        learn_signatures(cells(counts, ["a"] * 60), "cell_type")
    with pytest.raises(ValueError, match=r"found 0 \(none\)"):
        learn_signatures(cells(counts, ["unknown"] * 60), "cell_type")


def test_a_type_without_counts_is_refused_and_few_cells_are_told(
    counts: np.ndarray, caplog: pytest.LogCaptureFixture
) -> None:
    labels = np.array(["a", "b"], dtype=object)[np.arange(60) % 2]
    labels[:2] = "rare"
    with caplog.at_level(logging.WARNING, "sclm"):
        found, _ = learn_signatures(cells(counts, labels), "cell_type")
    assert "'rare' (2)" in caplog.text
    assert np.isfinite(found.variance).all()
    counts[:2] = 0
    with pytest.raises(ValueError, match="found none for 'rare'"):
        learn_signatures(cells(counts, labels), "cell_type")


# Shrinkage ----------------------------------------------------------------------------------------------------------


def signatures(profile: np.ndarray, variance: np.ndarray, n_cells: int, depth: float = 2000.0) -> Signatures:
    k, g = profile.shape
    return Signatures(
        tuple(f"type {i}" for i in range(k)), profile, variance, np.full(k, n_cells), np.full(k, depth), np.full(g, 1e4)
    )


@pytest.fixture
def profile() -> np.ndarray:
    found = np.random.default_rng(1).gamma(0.7, 1, (4, 25))
    return found / found.sum(axis=1, keepdims=True)


def test_shrinkage_agrees_with_a_slow_loop(profile: np.ndarray) -> None:
    rng = np.random.default_rng(2)
    variance = profile * rng.gamma(1, 0.01, profile.shape)
    given, genes, background, pooled = signatures(profile, variance, 12), np.arange(3, 20), 0.2, 5
    found = reliable_profile(given, genes, background)
    share = np.array([[profile[k, g] / profile[k, genes].sum() for g in genes] for k in range(4)])
    error, kept, left = np.zeros_like(share), np.zeros_like(share), np.zeros_like(share)
    for j in range(len(genes)):
        var = [variance[k, genes[j]] / profile[k, genes].sum() ** 2 for k in range(4)]
        relative = np.mean([var[k] / share[k, j] ** 2 for k in range(4)])
        for k in range(4):
            own = (12 * var[k] + pooled * relative * max(share[k, j], share[:, j].mean()) ** 2) / (12 + pooled)
            seen = 12 * 2000 * profile[k, genes].sum()
            error[k, j] = max(own / 12, max(share[k, j], share[:, j].mean()) / seen)
        between = share[:, j].var(ddof=1)
        real = max(between - error[:, j].mean(), 0)
        for k in range(4):
            kept[k, j] = share[:, j].mean() + (share[k, j] - share[:, j].mean()) * real / (real + error[k, j])
            left[k, j] = real * error[k, j] / (real + error[k, j]) / 1.2**2  # of normal prior and normal mean
    kept = np.maximum(kept, 1e-12)
    kept /= kept.sum(axis=1, keepdims=True)
    kept = (kept + background * kept.mean(axis=0)) / (1 + background)
    np.testing.assert_allclose(found.profile, kept / kept.sum(axis=1, keepdims=True), rtol=1e-9)
    np.testing.assert_allclose(found.error, left, rtol=1e-9)
    np.testing.assert_allclose(found.reliability, share.var(axis=0, ddof=1) / error.mean(axis=0), rtol=1e-9)


def test_endless_cells_keep_their_profiles(profile: np.ndarray) -> None:
    given = signatures(profile, profile * 1e-3, 10**12)
    found = reliable_profile(given, np.arange(25), 0.0)
    np.testing.assert_allclose(found.profile, profile, rtol=1e-6)
    assert found.reliability.min() > 1e6


def test_noise_gives_all_types_one_profile() -> None:
    rng = np.random.default_rng(3)
    counts = rng.multinomial(40, np.full(100, 1 / 100), size=120)
    labels = np.array(["a", "b", "c", "d"], dtype=object)[np.arange(120) % 4]
    found = reliable_profile(learn_signatures(cells(counts, labels), "cell_type")[0], np.arange(100), 0.0)
    raw = np.stack([counts[labels == t].sum(axis=0) / counts[labels == t].sum() for t in "abcd"])
    # Half of the genes seem to differ more than expected by chance, but not by much.
    assert found.profile.std(axis=0).mean() < 0.3 * raw.std(axis=0).mean()
    assert np.median(found.profile.std(axis=0)) < 0.1 * np.median(raw.std(axis=0))
    assert np.median(found.reliability) < 1.5


def test_background_draws_types_together(profile: np.ndarray) -> None:
    given = signatures(profile, profile * 1e-3, 1000)
    near, far = (reliable_profile(given, np.arange(25), b).profile for b in (0.0, 1e9))
    np.testing.assert_allclose(far, np.tile(near.mean(axis=0), (4, 1)), rtol=1e-6)
    np.testing.assert_allclose(far.sum(axis=1), 1)


def test_a_gene_unseen_in_a_type_is_not_known_to_be_absent() -> None:
    profile = np.array([[0.5, 0.5, 0.0], [0.4, 0.4, 0.2]])
    found = reliable_profile(signatures(profile, np.zeros((2, 3)), 1, depth=50.0), np.arange(3), 0.0)
    assert (found.error[:, 2] > 0).all()
    assert (found.profile > 0).all()
