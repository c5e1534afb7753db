"""Whether a reference covers a section, judged without the truth."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import sparse, stats

from sclm.evidence import judge_coverage, marker_scores, residual_genes, signature_markers

TYPES = ("A", "B", "T/NK")
N_GENES = 60
GENES = [f"G{i}" for i in range(N_GENES)]


def profiles() -> np.ndarray:
    """Three types with ten genes each that they have four times of; the last 30 genes are shared."""
    profile = np.ones((3, N_GENES))
    for k in range(3):
        profile[k, 10 * k : 10 * (k + 1)] = 4
    return profile / profile.sum(axis=1, keepdims=True)


def spots(n: int = 200, seed: int = 0) -> tuple[np.ndarray, sparse.csr_matrix]:
    rng = np.random.default_rng(seed)
    fraction = rng.dirichlet([0.5] * 3, size=n)
    counts = rng.poisson(2000 * fraction @ profiles())
    return fraction, sparse.csr_matrix(counts.astype(np.float32))


def judge(fraction: np.ndarray, counts: sparse.csr_matrix, **changes: np.ndarray):
    markers = signature_markers(profiles())
    n = len(fraction)
    observed = np.asarray(counts.sum(axis=0)).ravel()
    parts = {
        "scores": marker_scores(counts, markers),
        "explained": np.full(n, 0.4),
        "unexplained": np.zeros(n),
        "totals": (observed, np.nan_to_num(fraction).sum(axis=0) @ profiles()),
        "residuals": residual_genes(observed, observed, GENES),
    } | changes
    return judge_coverage(
        fraction, parts["scores"], parts["explained"], parts["unexplained"], parts["totals"], parts["residuals"],
        categories=TYPES, markers=markers, genes=GENES,
    )  # fmt: skip


def test_markers_are_the_genes_of_the_type() -> None:
    found = signature_markers(profiles(), n_markers=15)
    assert found.shape == (3, 15)
    for k in range(3):
        assert set(found[k, :10].tolist()) == set(range(10 * k, 10 * (k + 1)))
        assert (found[k, 10:] == -1).all()


def test_markers_by_the_formula() -> None:
    rng = np.random.default_rng(1)
    profile = rng.gamma(0.5, size=(4, 80))
    profile /= profile.sum(axis=1, keepdims=True)
    found = signature_markers(profile)
    for k in range(4):
        score = {}
        for g in range(80):
            others = max(profile[j, g] for j in range(4) if j != k) + 0.01 / 80
            ratio = (profile[k, g] + 0.01 / 80) / others
            if ratio >= 1.5:
                score[g] = profile[k, g] * np.log(ratio)
        expected = sorted(score, key=lambda g: -score[g])[:20]
        assert found[k, found[k] >= 0].tolist() == expected


def test_types_without_markers_have_none() -> None:
    profile = profiles()
    profile[1] = profile[0]
    found = signature_markers(profile)
    assert (found[:2] == -1).all()
    assert (found[2] >= 0).sum() == 10
    with pytest.raises(ValueError, match=r"n_types >= 2.*\(1, 60\)"):
        signature_markers(profile[:1])


def test_marker_scores_by_hand() -> None:
    _, counts = spots(5)
    markers = signature_markers(profiles())
    x = counts.toarray()
    log = np.log1p(x / x.sum(1, keepdims=True) * 1e4)
    expected = np.stack([log[:, row[row >= 0]].sum(axis=1) for row in markers], axis=1)
    np.testing.assert_allclose(marker_scores(counts, markers), expected, rtol=1e-5)
    markers[1] = -1
    assert (marker_scores(counts, markers)[:, 1] == 0).all()


def test_residual_genes_by_the_formula() -> None:
    observed, expected = np.array([5.0, 900.0, 10.0, 40.0]), np.array([5.0, 300.0, 20.0, 0.0])
    table = residual_genes(observed, expected, ["a", "b", "c", "d"])
    assert table["gene"].tolist() == ["d", "b"]  # a is as expected, c below it
    np.testing.assert_allclose(table["z"], [40, 600 / np.sqrt(300 + 150**2 + 1)])
    np.testing.assert_allclose(table["log2_ratio"], np.log2([41, 901 / 301]))
    assert len(residual_genes(observed, expected, ["a", "b", "c", "d"], n_genes=1)) == 1
    with pytest.raises(ValueError, match=r"one total a gene \(3\)"):
        residual_genes(observed, expected, ["a", "b", "c"])


def test_a_right_map_passes() -> None:
    fraction, counts = spots()
    found = judge(fraction, counts)
    assert found.summary["passed"].all()
    assert found.markers["passed"].all()
    assert found.warnings == ()
    assert (found.markers["agreement"] > 0.9).all()
    assert found.markers["n_markers"].tolist() == [10, 10, 10]
    assert found.markers["markers"][0].split(", ")[0].startswith("G")


def test_agreement_is_spearmans_where_fractions_have_no_ties() -> None:
    fraction, counts = spots()
    rounded = np.round(fraction, 12)
    found = judge(rounded, counts).markers["agreement"]
    scores = marker_scores(counts, signature_markers(profiles()))
    for k in range(3):
        tied = np.round(rounded[:, k] / 0.02)
        largest = stats.spearmanr(np.sort(tied), np.sort(scores[:, k]))[0]
        expected = stats.spearmanr(tied, scores[:, k])[0] / largest
        np.testing.assert_allclose(found[k], expected)


def test_one_cell_a_spot_is_judged_in_spite_of_its_ties() -> None:
    """Posteriors of single cells are zeros with noise below 1e-9; plain ranks would order the noise."""
    rng = np.random.default_rng(3)
    own = rng.choice(3, p=[0.9, 0.07, 0.03], size=400)
    counts = sparse.csr_matrix(rng.poisson(300 * profiles()[own]).astype(np.float32))
    fraction = np.eye(3)[own]
    noisy = fraction + rng.random(fraction.shape) * 1e-9 * (fraction == 0)
    found = judge(noisy, counts)
    assert (found.markers["agreement"] > 0.9).all()
    assert found.summary["passed"].all()


def test_a_type_that_does_not_follow_its_markers_is_named() -> None:
    fraction, counts = spots()
    found = judge(fraction[:, [2, 1, 0]], counts)
    assert found.markers["passed"].tolist() == [False, True, False]
    assert found.summary.set_index("gate").loc["markers", "value"] < 0
    assert len(found.warnings) == 1
    assert "'A' (" in found.warnings[0]
    assert "'T/NK' (" in found.warnings[0]
    # One that is hardly there is not asked.
    rare = np.column_stack([fraction[::-1, 0] * 1e-3, fraction[:, 1], 1 - fraction[:, 1] - fraction[::-1, 0] * 1e-3])
    assert judge(rare, counts).markers["passed"][0]


def test_other_gene_totals_are_told() -> None:
    fraction, counts = spots()
    observed = np.asarray(counts.sum(axis=0)).ravel()
    found = judge(fraction, counts, totals=(observed, np.random.default_rng(0).permutation(observed)))
    assert found.summary["passed"].tolist() == [False, True, True, True]
    assert "another tissue" in found.warnings[0]
    gate = judge(fraction, counts, totals=(observed, observed**2)).summary
    np.testing.assert_allclose(gate["value"][0], 1)


def test_deviance_and_missing_types() -> None:
    fraction, counts = spots()
    n = len(fraction)
    assert "does not fit this section" in judge(fraction, counts, explained=np.full(n, 0.01)).warnings[0]
    high = np.where(np.arange(n) < n // 5, 0.5, 0.0)
    expected = np.full(N_GENES, 100.0)
    observed = expected.copy()
    observed[[50, 51]] = 900
    residuals = residual_genes(observed, expected, GENES)
    found = judge(fraction, counts, unexplained=high, residuals=residuals)
    assert found.summary["passed"].tolist() == [True, True, True, False]
    assert "20% of the spots" in found.warnings[0]
    assert "G50, G51" in found.warnings[0]
    # Without genes that stand out it is a poor fit and no type.
    flat = residual_genes(expected * 1.2, expected, GENES)
    assert judge(fraction, counts, unexplained=high, residuals=flat).warnings == ()


def test_spots_without_counts_and_nothing_to_judge() -> None:
    fraction, counts = spots()
    holes = fraction.copy()
    holes[::3] = np.nan
    kept = np.flatnonzero(np.isfinite(holes[:, 0]))
    found = judge(holes, counts)
    alone = judge(fraction[kept], counts[kept])
    pd.testing.assert_series_equal(found.markers["agreement"], alone.markers["agreement"])
    for nothing in (judge(np.full_like(fraction, np.nan), counts), judge(fraction[:1], counts[:1])):
        assert nothing.warnings == ()
        assert nothing.summary["passed"].all()
