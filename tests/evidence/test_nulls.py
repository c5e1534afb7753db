"""Nulls of random genes against simulations in which nothing happens, and planted effects."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from sclm.evidence import GeneNull, benjamini_hochberg, matched_genes


def simulated(n: int, rng: np.random.Generator, *, heavy: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """Effects whose mean and spread depend on detection and expression, as shifts of an embedding do."""
    detection, expression = rng.beta(1, 3, size=n), rng.gamma(2, 1, size=n)
    noise = rng.standard_t(5, size=n) if heavy else rng.normal(size=n)
    mean, sd = 2 * np.sqrt(detection) + 0.3 * expression, 0.1 + 0.8 * detection
    return mean + sd * noise, np.column_stack([detection, expression])


@pytest.mark.parametrize("alternative", ["greater", "less", "two-sided"])
def test_p_of_genes_without_an_effect_is_uniform(alternative: str) -> None:
    """Ten new genes for each of 300 nulls of 200 genes, whose noise has heavy tails."""
    rng = np.random.default_rng(0)
    parts = []
    for _ in range(300):
        null = GeneNull(*simulated(200, rng))
        parts.append(null.test(*simulated(10, rng), alternative=alternative).p)
    p = np.concatenate(parts)
    assert stats.kstest(p, "uniform").statistic < 0.035
    for level in (0.01, 0.05, 0.1):
        assert np.mean(p < level) == pytest.approx(level, abs=0.2 * level + 0.003)


def test_no_more_discoveries_than_asked_for_among_genes_without_an_effect() -> None:
    """The extrapolated tail: the share of screens of 200 null genes with any q < 0.1 stays near 0.1."""
    rng = np.random.default_rng(1)
    false = 0
    for _ in range(200):
        null = GeneNull(*simulated(200, rng))
        false += bool((benjamini_hochberg(null.test(*simulated(200, rng), alternative="greater").p) < 0.1).any())
    assert false / 200 < 0.2


def test_p_does_not_depend_on_abundance() -> None:
    """Rare and common genes get p values of the same distribution, though their effects differ several-fold."""
    rng = np.random.default_rng(2)
    null = GeneNull(*simulated(600, rng))
    effect, features = simulated(4000, rng)
    p = null.test(effect, features, alternative="greater").p
    rare = features[:, 0] < np.median(features[:, 0])
    assert stats.ks_2samp(p[rare], p[~rare]).statistic < 0.08
    assert abs(stats.spearmanr(p, features[:, 0]).statistic) < 0.08


def test_planted_effects_are_found() -> None:
    rng = np.random.default_rng(3)
    effect, features = simulated(200, rng, heavy=False)
    effect[:10] += 8 * (0.1 + 0.8 * features[:10, 0])  # eight standard deviations
    answer = GeneNull(*simulated(300, rng, heavy=False)).test(effect, features, alternative="greater")
    q = benjamini_hochberg(answer.p)
    assert (q[:10] < 0.05).sum() >= 8
    assert (q[10:] < 0.05).sum() <= 2
    np.testing.assert_allclose(answer.z, (effect - answer.mean) / answer.sd)
    np.testing.assert_allclose(np.median(answer.z[:10]) / np.std(answer.z[10:]), 8, atol=2)


def test_a_few_strong_genes_in_the_null_cost_power_and_do_not_break_it() -> None:
    rng = np.random.default_rng(4)
    effect, features = simulated(300, rng, heavy=False)
    effect[:6] += 20
    answer = GeneNull(effect, features).test(*simulated(500, rng, heavy=False), alternative="greater")
    assert abs(np.median(answer.z)) < 0.2
    assert stats.kstest(answer.p, "uniform").statistic < 0.1
    assert 0.005 < answer.p.min() < 0.06  # two in a hundred random genes do reach far


def test_sides_belong_together() -> None:
    rng = np.random.default_rng(5)
    null = GeneNull(*simulated(300, rng))
    effect, features = simulated(50, rng)
    one, other, both = (null.test(effect, features, alternative=a).p for a in ("greater", "less", "two-sided"))
    np.testing.assert_allclose(both, np.minimum(1, 2 * np.minimum(one, other)))
    turned = GeneNull(-simulated(300, np.random.default_rng(5))[0], simulated(300, np.random.default_rng(5))[1])
    np.testing.assert_allclose(turned.test(-effect, features, alternative="less").p, one, atol=1e-9)


def test_effects_that_are_all_equal_have_no_extreme() -> None:
    features = np.random.default_rng(6).random((50, 2))
    null = GeneNull(np.zeros(50), features)
    assert null.test(np.zeros(5), features[:5]).p.min() > 0.5


def test_missing_effects_stay_missing_and_too_few_null_genes_are_refused() -> None:
    rng = np.random.default_rng(7)
    effect, features = simulated(40, rng)
    effect[:5] = np.nan
    assert np.isnan(GeneNull(effect, features).test(effect, features).p[:5]).all()
    with pytest.raises(ValueError, match="at least 20 null genes with an effect are needed, found 15"):
        GeneNull(effect[:20], features[:20])
    with pytest.raises(ValueError, match=r"\(40,\) and \(39, 2\)"):
        GeneNull(effect, features[:39])
    with pytest.raises(ValueError, match="'above'"):
        GeneNull(effect, features).test(effect, features, alternative="above")


def test_matched_genes_look_like_the_listed_ones() -> None:
    rng = np.random.default_rng(8)
    features = np.column_stack([rng.beta(1, 3, 3000), rng.gamma(2, 1, 3000)])
    listed = np.flatnonzero(features[:, 0] > 0.5)[:100]  # common genes
    taken = matched_genes(features, listed, np.arange(3000), 200, seed=0)
    assert len(set(taken)) == 200
    assert not set(taken) & set(listed)
    random = rng.choice(np.setdiff1d(np.arange(3000), listed), 200, replace=False)
    distance = [abs(features[g].mean(0) - features[listed].mean(0)) for g in (taken, random)]
    assert (distance[0] < 0.3 * distance[1])[0]
    np.testing.assert_array_equal(taken, matched_genes(features, listed, np.arange(3000), 200, seed=0))
    assert len(matched_genes(features, listed, np.arange(20), 200)) == 20 - np.isin(np.arange(20), listed).sum()
    with pytest.raises(ValueError, match="one listed"):
        matched_genes(features, [], np.arange(20), 5)


def test_benjamini_hochberg_by_the_definition() -> None:
    p = np.random.default_rng(13).random(40) ** 2
    p[[3, 7]] = np.nan
    q = benjamini_hochberg(p)
    made = np.flatnonzero(np.isfinite(p))
    order = made[np.argsort(p[made])]
    for rank, i in enumerate(order, start=1):
        assert q[i] == pytest.approx(min(1, *(p[j] * len(made) / r for r, j in enumerate(order, 1) if r >= rank)))
    assert np.isnan(q[[3, 7]]).all()
    assert np.isnan(benjamini_hochberg([np.nan])).all()
