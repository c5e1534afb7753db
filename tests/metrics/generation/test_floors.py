"""Naive generators: labels, depths, profiles, and where each draws from."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse

from sclm.metrics import generation

NAMES = (
    "independent_poisson",
    "mean_of_five",
    "resampled",
    "multinomial_around_one",
    "multinomial_around_neighbours",
)


@pytest.fixture(scope="module")
def train() -> tuple[sparse.csr_matrix, np.ndarray]:
    """Two types that share no gene, 30 and 10 cells, depths from about 50 to 500."""
    rng = np.random.default_rng(0)
    labels = np.repeat(["x", "y"], [30, 10])
    rates = np.where((labels == "x")[:, None] == (np.arange(80) < 40), rng.gamma(1, 1, size=80), 0.0)
    return sparse.csr_matrix(rng.poisson(rates * rng.uniform(2, 12, size=(40, 1)))), labels


@pytest.mark.parametrize("name", NAMES)
def test_cells_are_counts_of_the_wanted_label(name: str, train: tuple[sparse.csr_matrix, np.ndarray]) -> None:
    counts, labels = train
    wanted = np.random.default_rng(1).permutation(np.repeat(["x", "y"], [25, 35]))
    make = getattr(generation, name)
    made = make(counts, labels, wanted, seed=3)
    assert made.shape == (60, 80)
    assert made.dtype == np.float32
    assert made.has_canonical_format
    assert (made.data > 0).all()
    assert (made.data == np.round(made.data)).all()
    dense = made.toarray()
    assert dense[wanted == "x", 40:].sum() == 0
    assert dense[wanted == "y", :40].sum() == 0
    assert (make(counts, labels, wanted, seed=3) != made).nnz == 0
    assert (make(counts, labels, wanted, seed=4) != made).nnz > 0
    assert (make(counts.toarray(), list(labels), list(wanted), seed=3) != made).nnz == 0


@pytest.mark.parametrize("name", NAMES)
def test_depths_are_those_of_real_cells(name: str, train: tuple[sparse.csr_matrix, np.ndarray]) -> None:
    counts, labels = train
    made = getattr(generation, name)(counts, labels, labels, seed=0)
    real, found = (np.sort(np.asarray(m.sum(axis=1)).ravel()) for m in (counts, made))
    if name == "independent_poisson":
        assert np.corrcoef(real, found)[0, 1] > 0.97
    elif name == "mean_of_five":
        assert set(found) <= set(real)
    else:
        np.testing.assert_array_equal(found, real)  # every training cell is used once


def test_profiles_are_those_of_the_label(train: tuple[sparse.csr_matrix, np.ndarray]) -> None:
    counts, labels = train
    expected = np.asarray(counts[labels == "x"].sum(axis=0)).ravel()
    for name in NAMES:
        made = getattr(generation, name)(counts, labels, ["x"] * 300, seed=0)
        assert np.corrcoef(np.asarray(made.sum(axis=0)).ravel(), expected)[0, 1] > 0.97, name


def test_resampled_cells_are_training_cells(train: tuple[sparse.csr_matrix, np.ndarray]) -> None:
    counts, labels = train
    known = {row.tobytes() for row in counts.toarray().astype(np.float32)}
    assert {row.tobytes() for row in generation.resampled(counts, labels, labels).toarray()} == known


def test_poisson_cells_have_the_variance_of_poisson() -> None:
    counts = sparse.csr_matrix(np.tile([4, 9, 0, 30], (20, 1)))
    made = generation.independent_poisson(counts, ["a"] * 20, ["a"] * 4000, seed=0).toarray()
    np.testing.assert_allclose(made.mean(axis=0), [4, 9, 0, 30], rtol=0.03)
    np.testing.assert_allclose(made.var(axis=0), [4, 9, 0, 30], rtol=0.08)


def test_what_each_multinomial_is_around() -> None:
    """Cells on different genes show which cells a draw comes from."""
    counts = sparse.csr_matrix(np.eye(8) * 400)
    labels = ["a"] * 8

    def sources(name: str, **options: int) -> np.ndarray:
        made = getattr(generation, name)(counts, labels, ["a"] * 50, seed=0, **options)
        assert (np.asarray(made.sum(axis=1)) == 400).all()
        return np.asarray((made > 0).sum(axis=1)).ravel()

    assert (sources("multinomial_around_one") == 1).all()
    assert (sources("mean_of_five") == 5).all()
    assert (sources("mean_of_five", n_cells=3) == 3).all()
    assert (sources("mean_of_five", n_cells=99) == 8).all()
    assert (sources("multinomial_around_neighbours", k=3) == 4).all()


def test_neighbours_are_near() -> None:
    """Two tight clouds with one label: no cell mixes them."""
    rng = np.random.default_rng(1)
    counts = np.zeros((40, 60))
    counts[:20, :30], counts[20:, 30:] = rng.poisson(5, (20, 30)), rng.poisson(5, (20, 30))
    made = generation.multinomial_around_neighbours(counts, ["a"] * 40, ["a"] * 80, seed=0).toarray()
    assert ((made[:, :30].sum(axis=1) == 0) | (made[:, 30:].sum(axis=1) == 0)).all()
    mixed = generation.mean_of_five(counts, ["a"] * 40, ["a"] * 80, seed=0).toarray()
    assert ((mixed[:, :30].sum(axis=1) > 0) & (mixed[:, 30:].sum(axis=1) > 0)).any()


def test_an_empty_cell_stays_empty() -> None:
    counts = np.array([[0, 0, 0], [0, 0, 0]])
    for name in NAMES[:4]:
        assert getattr(generation, name)(counts, ["a", "a"], ["a"]).nnz == 0, name


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda c, g: generation.resampled(c, g, ["x", "z"]), r"found 1 that have none \(first: 'z'\)"),
        (lambda c, g: generation.resampled(c, g, []), "at least one cell to write"),
        (lambda c, g: generation.resampled(c, g[:3], ["x"]), "one label for each of 40 cells"),
        (lambda c, g: generation.mean_of_five(c, g, ["x"], n_cells=0), "n_cells must be at least 1, found 0"),
        (lambda c, g: generation.multinomial_around_neighbours(c, g, ["x"], k=40), "between 1 and 39"),
    ],
)
def test_errors_say_what_was_found(call, message: str, train: tuple[sparse.csr_matrix, np.ndarray]) -> None:
    with pytest.raises(ValueError, match=message):
        call(*train)
