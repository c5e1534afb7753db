"""The network's distribution, sampling from it with a cache, and scores, against slow versions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from sclm.models.pgl.conditions import Conditions
from sclm.models.pgl.counts import write_counts
from sclm.models.pgl.fitting import build_network, hold_out
from sclm.models.pgl.levels import Levels, slot_values, to_bins
from sclm.models.pgl.module import LevelData, LevelTable, left_open
from sclm.models.pgl.network import Batch, PGLConfig, PGLNetwork
from sclm.models.pgl.objectives import negative_log_likelihood
from sclm.models.pgl.programmes import Programmes
from sclm.models.pgl.sampling import fill_fields, training_memberships, uniforms, write_levels
from sclm.models.pgl.scoring import level_log_density, marginal_log_likelihood

if TYPE_CHECKING:
    from collections.abc import Callable

TYPES = ["B cell", "CD4-positive, alpha-beta T cell", "CD8-positive, alpha-beta T cell"]


@pytest.fixture(scope="module")
def conditions() -> Conditions:
    rng = np.random.default_rng(0)
    obs = pd.DataFrame({"cell_type": np.array(TYPES)[rng.choice(3, 400, p=[0.6, 0.3, 0.1])], "batch": "ab"})
    obs["batch"] = np.array(["a", "b"])[rng.integers(0, 2, 400)]
    return Conditions.fit(obs, ["cell_type", "batch"])


@pytest.fixture(scope="module")
def make(conditions: Conditions) -> Callable[..., tuple[PGLNetwork, Levels]]:
    def network(n_slots: int = 3, *, trained: bool = True, seed: int = 0) -> tuple[PGLNetwork, Levels]:
        rng = np.random.default_rng(seed)
        config = PGLConfig.preset("tiny", n_levels=12)
        n_columns = 1 + sum(f.n_nodes for f in conditions.fields) + len(conditions.fields)
        fine = np.sort(rng.standard_normal((n_slots, 8 * 12 + 1)), axis=1)
        weights = [
            0.3 * rng.standard_normal(shape)
            for shape in [(n_columns, n_slots), (n_slots, n_slots), (n_columns, n_slots)]
        ]
        weights[1] = np.tril(weights[1], -1)
        levels = Levels(np.float32(8), np.float32(0.5), *(a.astype(np.float32) for a in (fine[:, ::8], fine, *weights)))
        net = build_network(config, conditions, levels, seed=seed, n_genes=30).eval()
        if trained:
            generator = torch.Generator().manual_seed(seed)
            for head in (net.level_head, *net.field_heads):
                head.data += 0.2 * torch.randn(head.shape, generator=generator)
        return net, levels

    return network


def as_batch(levels: Levels, codes: np.ndarray, values: np.ndarray) -> Batch:
    arrays = (codes.astype(np.int64), np.full(codes.shape, -1, np.int64), values, to_bins(levels, values))
    return Batch(*(torch.from_numpy(np.ascontiguousarray(a)) for a in arrays))


def test_probabilities_sum_to_one_and_start_at_the_gaussian_guess(make: Callable, conditions: Conditions) -> None:
    codes = np.array([[0, 1], [2, -1], [-1, -1]])
    values = np.random.default_rng(1).standard_normal((3, 3)).astype(np.float32)
    for trained in (True, False):
        net, levels = make(trained=trained)
        log_p, fields = net(as_batch(levels, codes, values), training_memberships(conditions))
        np.testing.assert_allclose(log_p.exp().sum(-1).detach(), 1, atol=1e-5)
        assert [f.shape for f in fields] == [(3, 3), (3, 2)]
        for f in fields:
            np.testing.assert_allclose(f.exp().sum(-1).detach(), 1, atol=1e-5)
    # By hand, for the first cell: sums over its nodes, the normal distribution between the edges.
    nodes = conditions.fields[0].value_nodes[0]
    columns = [0, *(1 + n for n in nodes), 1 + conditions.fields[0].n_nodes + conditions.fields[1].value_nodes[1][0]]
    mean = levels.mean_weight[columns].sum(0) + levels.previous_weight @ values[0]
    spread = np.exp(levels.spread_weight[columns].sum(0)).clip(0.05, 20)
    below = stats.norm.cdf((levels.edges - mean[:, None]) / spread[:, None])
    below[:, 0], below[:, -1] = 0, 1
    np.testing.assert_allclose(log_p[0].exp().detach(), np.diff(below, axis=1), atol=0.02)
    # Frequencies of the training values.
    counts = np.array(conditions.fields[0].n_cells) + 0.5
    np.testing.assert_allclose(fields[0][0].exp().detach(), counts / counts.sum(), rtol=1e-5)


def test_sampling_with_a_cache_is_sampling_from_the_full_pass(make: Callable, conditions: Conditions) -> None:
    """Slot by slot, by hand: the whole sequence is read again for every slot."""
    net, levels = make(n_slots=4)
    rng = np.random.default_rng(2)
    codes = np.column_stack([rng.integers(-1, 3, 40), rng.integers(-1, 2, 40)]).astype(np.int32)
    cells = np.arange(100, 140)
    written = write_levels(net, conditions, codes, np.full(40, np.nan), seed=7, cells=cells)
    u = uniforms(7, cells, 1 << 40, 8)
    values = np.zeros((40, 4), np.float32)
    for slot in range(4):
        with torch.no_grad():
            log_p, _ = net(as_batch(levels, codes, values), training_memberships(conditions))
        reached = np.cumsum(log_p[:, slot].exp().numpy(), axis=1)
        level = np.minimum((u[:, 2 * slot, None] * reached[:, -1:] >= reached).sum(1), 11)
        place = (level + u[:, 2 * slot + 1]) * 8
        values[:, slot] = np.interp(place, np.arange(97), levels.fine[slot])
    np.testing.assert_allclose(written, values, atol=1e-3)


def test_given_depths_are_kept_and_guidance_sharpens(make: Callable, conditions: Conditions) -> None:
    net, levels = make()
    codes = np.zeros((200, 2), np.int32)
    depth = np.linspace(500, 5000, 200)
    first = slot_values(levels, depth, np.zeros((200, 0)))[:, 0]
    plain = write_levels(net, conditions, codes, first, seed=0, cells=np.arange(200))
    np.testing.assert_allclose(plain[:, 0], first)
    guided = write_levels(net, conditions, codes, first, seed=0, cells=np.arange(200), guidance=2.0)
    log_p = [level_log_density(net, conditions, levels, codes, v).mean() for v in (plain, guided)]
    everything = np.full_like(codes, -1)
    base = [level_log_density(net, conditions, levels, everything, v).mean() for v in (plain, guided)]
    assert log_p[1] - base[1] > log_p[0] - base[0]


def test_open_fields_are_filled_with_allowed_values(make: Callable, conditions: Conditions) -> None:
    net, _ = make(trained=False)
    n = 3000
    codes = np.full((n, 2), -1, np.int32)
    codes[:10, 0] = 2
    allowed = np.ones((n, 3), bool)
    allowed[1000:] = [False, True, True]
    filled = fill_fields(net, conditions, codes, [allowed, None], seed=1, cells=np.arange(n))
    assert (filled[:10, 0] == 2).all()
    assert (filled[:, 1] == -1).all()
    assert set(filled[1000:, 0]) == {1, 2}
    share = np.array(conditions.fields[0].n_cells) / 400
    np.testing.assert_allclose(np.bincount(filled[10:1000, 0]) / 990, share, atol=0.06)
    np.testing.assert_allclose((filled[1000:, 0] == 1).mean(), share[1] / share[1:].sum(), atol=0.04)


def test_level_density_integrates_to_one(make: Callable, conditions: Conditions) -> None:
    net, levels = make(n_slots=1)
    grid = np.linspace(-8, 8, 4001).astype(np.float32)
    density = np.exp(level_log_density(net, conditions, levels, np.tile([1, 0], (4001, 1)), grid[:, None]))
    inside = (grid > levels.edges[0, 0]) & (grid < levels.edges[0, -1])
    assert abs(density[inside].sum() * (grid[1] - grid[0]) - 1) < 0.02


def test_marginal_likelihood_is_the_integral(make: Callable, conditions: Conditions) -> None:
    """One programme: Laplace at the mode against a sum over a grid of its level."""
    rng = np.random.default_rng(4)
    net, levels = make(n_slots=2, trained=False)
    # One level of the programme is a narrow piece of a normal density; make levels fine enough to be smooth.
    fine = np.vstack([np.linspace(-3, 3, 97), np.linspace(-4, 4, 97)]).astype(np.float32)
    weight, spread = np.zeros_like(levels.mean_weight), np.zeros_like(levels.spread_weight)
    levels = levels._replace(
        edges=fine[:, ::8],
        fine=fine,
        mean_weight=weight,
        spread_weight=spread,
        previous_weight=np.zeros((2, 2), np.float32),
    )
    net = build_network(PGLConfig.preset("tiny", n_levels=12), conditions, levels, seed=0, n_genes=30).eval()
    n_genes = 150
    profiles = np.log(rng.dirichlet(np.ones(n_genes), 2)).astype(np.float32)
    loadings = (0.3 * rng.standard_normal((n_genes, 1))).astype(np.float32)
    dispersion = np.full(n_genes, 0.1, np.float32)
    programmes = Programmes(np.arange(n_genes), loadings, np.zeros((n_genes, 1, 1), np.float32), dispersion, np.ones(1))
    condition, depth = np.array([0, 1, 0]), np.full(3, 3000.0, np.float32)
    counts = write_counts(
        profiles,
        condition,
        depth,
        np.array([[0.3], [-0.5], [1.0]], np.float32),
        loadings,
        dispersion,
        seed=0,
        cells=np.arange(3),
    )
    codes = np.array([[0, 0], [1, 1]], np.int32)
    found, modes = marginal_log_likelihood(
        net, conditions, levels, programmes, profiles, loadings, dispersion, counts, codes, condition
    )
    total = np.asarray(counts.sum(1)).ravel()
    grid = np.linspace(-3.9, 3.9, 3001)
    for i in range(3):
        scores = profiles[condition[i]] + grid[:, None] * loadings[:, 0]
        mean = total[i] * np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
        log_p = stats.nbinom.logpmf(counts[i].toarray(), 10, 10 / (10 + mean)).sum(1)
        values = np.column_stack([np.full(3001, (np.log(total[i]) - 8) / 0.5), grid]).astype(np.float32)
        log_p += level_log_density(net, conditions, levels, np.tile(codes[condition[i]], (3001, 1)), values)
        slow = np.log(np.exp(log_p - log_p.max()).sum() * (grid[1] - grid[0])) + log_p.max() - np.log(0.5 * total[i])
        assert abs(found[i] - slow) < 0.35  # the level's density is a staircase, the Laplace formula takes one step
        assert abs(modes[i, 0] - grid[log_p.argmax()]) < 0.3


def test_objective_is_the_sum_of_the_asked_log_probabilities() -> None:
    generator = torch.Generator().manual_seed(0)
    levels = torch.log_softmax(torch.randn(4, 3, 5, generator=generator), -1)
    field = torch.log_softmax(torch.randn(4, 6, generator=generator), -1)
    bins, asked = torch.randint(5, (4, 3), generator=generator), torch.tensor([[2], [-1], [0], [-1]])
    slots, fields = negative_log_likelihood(levels, bins, [field], asked)
    by_hand = -sum(levels[i, s, bins[i, s]] for i in range(4) for s in range(3)) / 4
    assert torch.isclose(slots, by_hand)
    assert torch.isclose(fields, -(field[0, 2] + field[2, 0]) / 4)


def level_data(seed: int = 0) -> LevelData:
    rng = np.random.default_rng(0)
    n, k = 300, 2
    table = LevelTable(
        rng.integers(0, 3, (n, 2)).astype(np.int32), rng.standard_normal(n).astype(np.float32),
        rng.standard_normal((n, k)).astype(np.float32), np.tile(0.3 * np.eye(k, dtype=np.float32), (n, 1, 1)),
    )  # fmt: skip
    edges = np.sort(rng.standard_normal((3, 13)), axis=1).astype(np.float32)
    levels = Levels(np.float32(0), np.float32(1), edges, edges, *[np.zeros((1, 3), np.float32)] * 3)
    config = PGLConfig.preset("tiny", batch_size=50)
    return LevelData(table, levels, np.arange(0, 300, 10), np.array([True, False]), config, seed)


def test_batches_cover_the_cells_once_and_resume_in_the_middle() -> None:
    data = level_data()
    whole = list(data.train_dataloader())
    assert data.n_batches == len(whole)
    first = torch.cat([b.values[:, 0] for b in whole]).numpy()
    np.testing.assert_array_equal(np.sort(first), np.sort(data.table.first[data.training_rows]))
    data.resume_at(0, 3)
    for late, batch in zip(data.train_dataloader(), whole[3:], strict=True):
        assert all(torch.equal(a, b) for a, b in zip(late, batch, strict=True))
    assert not torch.equal(next(iter(level_data(seed=1).train_dataloader())).values, whole[0].values)
    validation = torch.cat([b.values[:, 0] for b in data.val_dataloader()]).numpy()
    assert not set(validation) & set(first)


def test_levels_are_drawn_anew_and_dropped_fields_are_asked() -> None:
    data = level_data()
    a, b = (data.encode(np.arange(200), np.random.default_rng(s), dropped=True) for s in (0, 1))
    noise = (a.values - b.values)[:, 1:]
    assert abs(float(noise.std()) - 0.3 * 2**0.5) < 0.05
    assert torch.equal(a.values[:, 0], b.values[:, 0])
    open_ = a.fields < 0
    assert torch.equal(open_, a.asked >= 0)
    known = torch.from_numpy(data.table.fields[:200].astype(np.int64))
    assert torch.equal(a.asked[open_], known[open_])


def test_dropout_of_fields_has_the_stated_rates() -> None:
    config = PGLConfig(field_dropout=0.2, only_context=0.1)
    left = left_open((40_000, 3), np.random.default_rng(0), np.array([True, False, False]), config)
    np.testing.assert_allclose(left.mean(0), [0.9 * 0.2, 0.1 + 0.9 * 0.2, 0.1 + 0.9 * 0.2], atol=0.01)


def test_held_out_cells_are_of_every_condition_or_whole_donors() -> None:
    condition = np.repeat(np.arange(5), [400, 200, 100, 50, 50])
    rows = hold_out(condition, None, 0.1, 0)
    np.testing.assert_allclose(np.bincount(condition[rows]), [40, 20, 10, 5, 5], atol=1)
    donors = np.random.default_rng(0).integers(0, 8, 800)
    held = np.isin(np.arange(800), hold_out(condition, donors, 0.1, 0))
    assert 0.05 < held.mean() < 0.2
    assert not set(donors[held]) & set(donors[~held])
