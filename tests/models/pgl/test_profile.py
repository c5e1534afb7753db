"""Mean profiles: closed forms, and what they say of terms without cells of their own."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

from sclm.models.pgl.profile import fit_profile, log_shares, update_profile


def shares(totals: np.ndarray, design: np.ndarray, **options: float) -> np.ndarray:
    matrix = sp.csr_matrix(design.astype(np.float32))
    return np.exp(log_shares(matrix, *fit_profile(totals, matrix, **options)))


def test_many_cells_give_the_observed_frequencies() -> None:
    rng = np.random.default_rng(0)
    totals = rng.poisson(rng.gamma(1, 5000, (4, 30))).astype(float) + 50
    found = shares(totals, np.eye(4), sweeps=30)
    np.testing.assert_allclose(found, totals / totals.sum(1, keepdims=True), rtol=0.02)
    np.testing.assert_allclose(found.sum(1), 1, rtol=1e-5)


def test_a_single_node_is_the_gamma_posterior_mean() -> None:
    """By hand: one node with counts x and expected counts e has the factor (a + x) / (a + e)."""
    totals = np.array([[30.0, 10.0, 60.0], [500.0, 400.0, 100.0]])
    design = sp.csr_matrix(np.array([[1.0], [0.0]], np.float32))
    _, log_factors = fit_profile(totals, design, pseudocount=2.0, sweeps=1)
    expected = 100.0 * (totals.sum(0) + 0.5) / (totals.sum(0) + 0.5).sum()
    np.testing.assert_allclose(np.exp(log_factors[0]), (2.0 + totals[0]) / (2.0 + expected), rtol=1e-5)


def test_few_cells_stay_near_their_parent() -> None:
    """A subtype of ten counts below a type of ten thousand: the type's profile, not ten ones and zeros."""
    rng = np.random.default_rng(1)
    kind, other = rng.dirichlet(np.ones(50)), rng.dirichlet(np.ones(50))
    totals = np.vstack([rng.multinomial(10_000, kind), rng.multinomial(10, kind), rng.multinomial(10_000, other)])
    design = np.array([[1, 1, 0, 0], [1, 0, 1, 0], [0, 0, 0, 1]])  # type, first subtype, second, other
    found = shares(totals.astype(float), design)
    raw = totals[1] / 10
    assert np.abs(found[1] - kind).sum() < 0.35 * np.abs(raw - kind).sum()
    # A subtype without any cell is the type itself.
    matrix = sp.csr_matrix(design.astype(np.float32))
    base, factors = fit_profile(totals.astype(float), matrix)
    unseen = np.exp(log_shares(sp.csr_matrix(np.array([[1, 0, 0, 0]], np.float32)), base, factors))[0]
    assert np.corrcoef(unseen, kind)[0, 1] > 0.97


def test_a_combination_without_cells_is_the_product_of_its_parts() -> None:
    """Two types, two conditions, an effect that is the same in both types; one of four was not measured."""
    rng = np.random.default_rng(2)
    types, effect = rng.dirichlet(np.ones(40), 2), np.exp(rng.normal(0, 0.8, 40))
    truth = np.array([types[0], types[0] * effect, types[1], types[1] * effect])
    truth /= truth.sum(1, keepdims=True)
    totals = 200_000 * truth
    design = np.array([[1, 0, 1, 0], [1, 0, 0, 1], [0, 1, 1, 0], [0, 1, 0, 1]])  # type 0, type 1, rest, stimulated
    matrix = sp.csr_matrix(design[:3].astype(np.float32))
    base, factors = fit_profile(totals[:3], matrix, sweeps=30)
    guess = np.exp(log_shares(sp.csr_matrix(design[3:].astype(np.float32)), base, factors))[0]
    assert np.corrcoef(np.log(guess), np.log(truth[3]))[0, 1] > 0.99
    change = np.log(guess / truth[2])
    assert np.polyfit(np.log(truth[3] / truth[2]), change, 1)[0] > 0.9


def test_update_takes_what_a_richer_model_expects() -> None:
    totals = np.array([[100.0, 300.0]])
    base, factors = np.log(np.array([0.5, 0.5], np.float32)), np.zeros((2, 2), np.float32)
    design = sp.csr_matrix(np.array([[1, 0], [0, 1]], np.float32))
    both = np.vstack([totals, totals])
    update_profile(both, design, base, factors, np.array([[50.0, 600.0], [100.0, 300.0]]), 0.0)
    np.testing.assert_allclose(np.exp(factors), [[2.0, 0.5], [1.0, 1.0]], rtol=1e-6)


def test_more_sweeps_do_not_wash_the_prior_out() -> None:
    totals, design = np.array([[8.0, 2.0], [500.0, 500.0]]), np.eye(2)
    few, many = (shares(totals, design, pseudocount=20.0, sweeps=n)[0] for n in (3, 60))
    np.testing.assert_allclose(few, many, atol=5e-3)
    assert 0.5 < many[0] < 0.7  # observed 0.8, expected 0.5
