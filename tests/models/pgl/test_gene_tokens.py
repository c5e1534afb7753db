"""The token decoder: its base against independent genes, its sampler against teacher forcing, its training, its checkpoint."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from scipy.special import logsumexp
from scipy.stats import nbinom

from sclm.cells import Ragged, read_cells
from sclm.models.pgl.conditions import Conditions
from sclm.models.pgl.counts import write_counts
from sclm.models.pgl.fitting import build_network
from sclm.models.pgl.gene_base import level_hazards, log_hazard, next_tokens, sequence_states
from sclm.models.pgl.gene_sampling import (
    _STEPS,
    _TOKEN_STREAM,
    require_decoder,
    token_log_likelihood,
    write_token_counts,
    write_tokens,
)
from sclm.models.pgl.gene_tokens import TokenBatch, forward, gene_nats
from sclm.models.pgl.gene_training import Base, TokenData, TokenModule
from sclm.models.pgl.levels import Levels
from sclm.models.pgl.model import PGL
from sclm.models.pgl.module import LevelData, LevelTable
from sclm.models.pgl.network import PGLConfig, PGLNetwork
from sclm.models.pgl.sampling import training_memberships, uniforms
from sclm.models.pgl.tokens import EDGES, GeneTokens

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import anndata

    from sclm.cells import CellSource

N_GENES, N_SLOTS = 50, 3


# ---------------------------------------------------------------------- the base


def log_below(means: np.ndarray, dispersion: np.ndarray, edges: tuple[int, ...]) -> np.ndarray:
    """log P(count < edge) for each edge, and 0 at last: (B, Q + 1, G), from scipy."""
    size = 1 / dispersion
    parts = [nbinom.logcdf(edge - 1, size, size / (size + means)) for edge in edges]
    return np.stack([*parts, np.zeros_like(means)], axis=1)


def log_probability_of_levels(
    levels: np.ndarray, means: np.ndarray, dispersion: np.ndarray, edges: tuple[int, ...]
) -> np.ndarray:
    """Of independent genes, (B,)."""
    below = np.exp(log_below(means, dispersion, edges))
    share = np.diff(below, axis=1, prepend=0.0)  # (B, Q + 1, G): level 0, 1, …
    return np.log(np.take_along_axis(share, levels[:, None], axis=1)[:, 0]).sum(axis=1)


def test_hazards_are_those_of_negative_binomials() -> None:
    rng = np.random.default_rng(0)
    means = np.exp(rng.normal(-0.5, 2.5, (6, 80)))
    dispersion = np.exp(rng.normal(-1, 1.5, 80))
    means[0, :3], dispersion[1] = [1e-13, 6000, 800], 1e-3  # never seen; underflow of the zero; abundant
    found = level_hazards(means, dispersion, EDGES)
    assert found.dtype == np.float32
    assert np.isfinite(found).all()
    assert (found < 0).all()
    below = log_below(means, dispersion, EDGES)
    with np.errstate(invalid="ignore"):
        expected = below[:, :-1] - below[:, 1:]
    some = np.isfinite(expected)
    assert some.mean() > 0.99  # scipy underflows where the zero of an abundant gene does
    np.testing.assert_allclose(found[some], expected[some], rtol=1e-5, atol=2e-10)


def base_log_probabilities(tokens: GeneTokens, sequences: Ragged, hazards: torch.Tensor) -> list[torch.Tensor]:
    """Per cell the log probabilities (L, V) of the next token under the base."""
    levels = torch.from_numpy(tokens.decode_levels(sequences).toarray())
    padded = torch.from_numpy(sequences.pad(value=tokens.end).astype(np.int64))
    states = sequence_states(padded, hazards)
    found = []
    for b, n in enumerate(sequences.lengths):
        level, last, left = (state[b, :n] for state in states)
        here = hazards[b, (level - 1).clamp(0, tokens.n_levels - 1)]
        logits = next_tokens(here, log_hazard(here), levels[b] <= level[:, None], level, last, left)
        whole = logits.logsumexp(1)
        inside = (level > tokens.n_levels) | (last >= 0)
        assert whole[inside].abs().max() < 1e-9, "without a first gene to come, the probabilities add up to one"
        found.append(logits.log_softmax(1))
    return found


def test_the_chain_of_tokens_is_as_probable_as_its_independent_levels() -> None:
    rng = np.random.default_rng(1)
    means, dispersion = np.exp(rng.normal(0, 2, (8, 40))), np.exp(rng.normal(-1, 1, 40))
    counts = sp.csr_matrix(rng.negative_binomial(1 / dispersion, 1 / (1 + means * dispersion)).astype(np.float32))
    tokens = GeneTokens(40)
    sequences = tokens.encode(counts)
    hazards = torch.from_numpy(level_hazards(means, dispersion, EDGES)).double()
    log_p = base_log_probabilities(tokens, sequences, hazards)
    total = [float(p[range(len(s)), s].sum()) for p, s in zip(log_p, sequences, strict=True)]
    levels = tokens.decode_levels(sequences).toarray()
    np.testing.assert_allclose(total, log_probability_of_levels(levels, means, dispersion, EDGES), rtol=1e-6)


def test_all_cells_of_a_tiny_vocabulary_add_up_to_one() -> None:
    edges, means, dispersion = (1, 3), np.array([[0.7, 2.0, 0.1]]), np.array([0.5, 2.0, 0.1])
    tokens = GeneTokens(3, edges)
    counts = np.array(list(itertools.product([0, 1, 3], repeat=3)), np.float32)  # one count of each level
    sequences = tokens.encode(sp.csr_matrix(counts))
    hazards = torch.from_numpy(level_hazards(means, dispersion, edges)).double().expand(len(counts), -1, -1)
    log_p = base_log_probabilities(tokens, sequences, hazards)
    total = [float(p[range(len(s)), s].sum()) for p, s in zip(log_p, sequences, strict=True)]
    np.testing.assert_allclose(logsumexp(total), 0, atol=1e-7)
    # What the rules forbid has probability zero: all 27 prefixes allow only tokens that some other cell continues with.
    allowed = {tuple(s[: i + 1]) for s in sequences for i in range(len(s))}
    for p, s in zip(log_p, sequences, strict=True):
        for i in range(len(s)):
            for token in range(tokens.size):
                assert (float(p[i, token]) > -np.inf) == ((*s[:i], token) in allowed)


# ---------------------------------------------------------------------- a network with random heads


class Made(NamedTuple):
    """A network, and cells to write with it."""

    conditions: Conditions
    levels: Levels
    config: PGLConfig
    network: PGLNetwork
    codes: np.ndarray
    slots: np.ndarray
    means: np.ndarray
    dispersion: np.ndarray


def make(*, correction: float, n: int = 30, seed: int = 0) -> Made:
    rng = np.random.default_rng(seed)
    obs = pd.DataFrame({"cell_type": np.array(["B cell", "T cell", "monocyte"])[rng.integers(0, 3, 200)]})
    conditions = Conditions.fit(obs, ["cell_type"])
    config = PGLConfig.preset("tiny", n_levels=8, gene_tokens=True, token_positions=16)
    fine = np.sort(rng.standard_normal((N_SLOTS, 8 * 8 + 1)), axis=1).astype(np.float32)
    n_columns = 2 + conditions.fields[0].n_nodes
    zeros = [np.zeros(s, np.float32) for s in ((n_columns, N_SLOTS), (N_SLOTS, N_SLOTS), (n_columns, N_SLOTS))]
    levels = Levels(np.float32(5), np.float32(0.5), fine[:, ::8], fine, *zeros)
    network = build_network(config, conditions, levels, seed, N_GENES).eval()
    generator = torch.Generator().manual_seed(seed)
    network.genes.output.data += correction * torch.randn(network.genes.output.shape, generator=generator)
    codes = conditions.codes(obs.iloc[:n])
    means = np.exp(rng.normal(-0.5, 1.5, (n, N_GENES))).astype(np.float32)
    values = rng.standard_normal((n, N_SLOTS)).astype(np.float32)
    return Made(
        conditions, levels, config, network, codes, values, means, rng.gamma(2, 0.3, N_GENES).astype(np.float32)
    )


def written(made: Made, rows: slice = slice(None), seed: int = 4, **options: int) -> Ragged:
    cells = np.arange(100, 100 + len(made.codes))[rows]
    return write_tokens(
        made.network, made.conditions, made.codes[rows], made.slots[rows], made.means[rows], made.dispersion,
        seed=seed, cells=cells, **options,
    )  # fmt: skip


def as_batch(made: Made, sequences: Ragged, positions: np.ndarray) -> TokenBatch:
    tokens = made.network.genes.vocabulary
    arrays = (
        made.codes.astype(np.int64), np.full(made.codes.shape, -1), made.slots, np.zeros(made.slots.shape, np.int64),
        sequences.pad(value=tokens.end).astype(np.int64), sequences.lengths,
        level_hazards(made.means, made.dispersion, tokens.edges),
        tokens.decode_levels(sequences).toarray().astype(np.uint8), positions,
    )  # fmt: skip
    return TokenBatch(*(torch.from_numpy(np.ascontiguousarray(a)) for a in arrays))


def test_an_untrained_decoder_is_its_base() -> None:
    made = make(correction=0.0)
    counts = write_counts(
        np.log(made.means / made.means.sum(1, keepdims=True)), np.arange(30), made.means.sum(1),
        np.zeros((30, 1), np.float32), np.zeros((N_GENES, 1), np.float32), made.dispersion, seed=1, cells=np.arange(30),
    )  # fmt: skip
    arguments = (made.network, made.conditions, made.codes, made.slots, counts, made.means, made.dispersion)
    full, base = (token_log_likelihood(*arguments, base_only=only) for only in (False, True))
    np.testing.assert_allclose(full, base, rtol=1e-5)
    tokens = made.network.genes.vocabulary
    levels = tokens.decode_levels(tokens.encode(counts)).toarray()
    np.testing.assert_allclose(
        base,
        log_probability_of_levels(levels, made.means.astype(float), made.dispersion.astype(float), EDGES),
        rtol=1e-4,
    )
    changed = make(correction=0.2)
    other = token_log_likelihood(changed.network, *arguments[1:])
    assert np.abs(other - base).min() > 1e-3


def test_the_sampler_draws_what_teacher_forcing_says() -> None:
    """From the same random numbers the whole pass over a sequence chooses the tokens that the cached steps chose."""
    made = make(correction=0.15)
    sequences = written(made)
    longest = int(sequences.lengths.max())
    assert longest > 2 * _STEPS, "several rounds of the sampler"
    batch = as_batch(made, sequences, np.zeros((30, 0), np.int64))
    u = uniforms(4, np.arange(100, 130), _TOKEN_STREAM, longest)
    states = sequence_states(batch.tokens, batch.hazards)
    with torch.inference_mode():
        hidden = forward(made.network, batch, training_memberships(made.conditions))[2]
        agree = n = 0
        for b, sequence in enumerate(sequences):
            level, last, left = (state[b, : len(sequence)] for state in states)
            here = batch.hazards[b, (level - 1).clamp(0, len(EDGES) - 1)]
            base = next_tokens(here, log_hazard(here), batch.gene_levels[b] <= level[:, None], level, last, left)
            share = made.network.genes.logits(hidden[b, : len(sequence)], base).softmax(1).double()
            assert (share[range(len(sequence)), sequence] > 0).all()
            reached = share.cumsum(1).numpy()
            chosen = (reached <= u[b, : len(sequence), None] * reached[:, -1:]).sum(1)
            agree, n = agree + (chosen == sequence).sum(), n + len(sequence)
    assert n > 500
    assert agree >= n - 2  # rounding at the border of two tokens


def test_cells_do_not_depend_on_their_company() -> None:
    made = make(correction=0.15)
    whole = written(made)
    np.testing.assert_array_equal(whole.values, written(made).values)
    few = written(made, max_positions=1200)  # a few cells at a time
    assert sum(not np.array_equal(a, b) for a, b in zip(whole, few, strict=True)) <= 1
    part = written(made, slice(7, 19))
    assert sum(not np.array_equal(whole[7 + i], s) for i, s in enumerate(part)) <= 1
    assert any(not np.array_equal(a, b) for a, b in zip(whole, written(made, seed=5), strict=True))


def test_written_cells_follow_the_base() -> None:
    """Means and zeros of many cells of one condition, against the negative binomials."""
    made = make(correction=0.0, n=1)
    n = 600
    means = np.repeat(made.means, n, axis=0)
    counts = write_token_counts(
        made.network, made.conditions, np.repeat(made.codes, n, 0), np.repeat(made.slots, n, 0), means,
        made.dispersion, seed=0, cells=np.arange(n),
    ).toarray()  # fmt: skip
    size = 1 / made.dispersion.astype(float)
    p = size / (size + made.means[0])
    found = []
    for edge in (1, 2, 4, 13):
        expected = nbinom.sf(edge - 1, size, p)
        some = n * expected * (1 - expected) > 10
        found.append((((counts >= edge).mean(0) - expected) / np.sqrt(expected * (1 - expected) / n))[some])
    z = np.concatenate(found)
    assert z.size > 60
    assert np.abs(z).max() < 4.5
    assert 0.6 < z.std() < 1.4


def test_some_positions_estimate_the_loss_of_all() -> None:
    made = make(correction=0.15)
    sequences = written(made)
    empty = as_batch(made, sequences, np.zeros((30, 0), np.int64))
    with torch.inference_mode():
        hidden = forward(made.network, empty, training_memberships(made.conditions))[2]
        whole = gene_nats(made.network.genes, hidden, empty, chunk=37)
        np.testing.assert_allclose(whole, gene_nats(made.network.genes, hidden, empty), rtol=1e-5)
        shortest = int(sequences.lengths.min())
        total = torch.zeros(30)
        for t in range(shortest):
            one = as_batch(made, sequences, np.full((30, 1), t))
            total += gene_nats(made.network.genes, hidden, one) / torch.from_numpy(sequences.lengths)
        of_shortest = int(sequences.lengths.argmin())
        np.testing.assert_allclose(total[of_shortest], whole[of_shortest], rtol=1e-5)


# ---------------------------------------------------------------------- training


def training_data(made: Made, n: int = 90, max_tokens: int = 250, seed: int = 0) -> tuple[TokenData, LevelData]:
    """Cells in which the second half of the genes copies the first half: what independent genes cannot know."""
    import anndata

    rng = np.random.default_rng(seed)
    half = rng.poisson(0.5, (n, N_GENES // 2))
    counts = np.concatenate([half, half], axis=1).astype(np.float32)
    obs = pd.DataFrame({"cell_type": "B cell"}, index=[f"cell{i}" for i in range(n)])
    adata = anndata.AnnData(sp.csr_matrix(counts), obs=obs, var=pd.DataFrame(index=[f"g{i}" for i in range(N_GENES)]))
    source = read_cells(adata, obs_keys=["cell_type"])
    from sclm.cells import GeneVocabulary

    k = N_SLOTS - 1
    codes = made.conditions.codes(obs)
    table = LevelTable(codes, np.zeros(n, np.float32), np.zeros((n, k), np.float32), np.zeros((n, k, k), np.float32))
    config = PGLConfig.preset("tiny", n_levels=8, gene_tokens=True, token_positions=16, max_tokens=max_tokens)
    levels = LevelData(table, made.levels, np.arange(0, n, 6), np.array([False]), config, seed)
    profile = np.full((1, N_GENES), -np.log(N_GENES), np.float32)
    base = Base(
        profile,
        np.zeros(n, np.int64),
        counts.sum(1),
        np.zeros((N_GENES, k), np.float32),
        np.full(N_GENES, 1e-2, np.float32),
    )
    vocabulary = GeneVocabulary(tuple(map(str, source.genes)))
    return TokenData(source, vocabulary, levels, base, made.network.genes.vocabulary, config, seed), levels


def test_batches_hold_whole_cells_of_similar_length() -> None:
    made = make(correction=0.0)
    data, levels = training_data(made)
    assert data.padding_share() < 0.1
    n = padded = real = 0
    for batch in data.train_dataloader():
        n += len(batch.lengths)
        padded, real = padded + batch.tokens.numel(), real + int(batch.lengths.sum())
        assert batch.positions.shape[1] == 16
        assert (batch.positions < batch.lengths[:, None]).all()
        assert batch.tokens.shape[1] == batch.lengths.max()
        assert ((batch.gene_levels > 0).sum(1) < batch.lengths).all()
    assert n == levels.training_rows.size
    assert 1 - real / padded < 0.1
    held_out = list(data.val_dataloader())
    assert sum(len(batch.lengths) for batch in held_out) == levels.validation_rows.size
    assert all(batch.positions.shape[1] == 0 and (batch.asked == -1).all() for batch in held_out)


def test_the_decoder_learns_what_independent_genes_cannot_know() -> None:
    made = make(correction=0.0)
    data, _ = training_data(made, n=600, max_tokens=900)
    network = made.network.requires_grad_(True)
    module = TokenModule(network, training_memberships(made.conditions), made.config)
    optimiser = torch.optim.AdamW(module.parameters(), lr=2e-3)

    def held_out() -> float:
        with torch.inference_mode():
            return float(np.mean([float(module.parts(batch)[2]) for batch in held_out_batches]))

    held_out_batches = list(data.val_dataloader())
    before = held_out()
    batches = list(data.train_dataloader())
    for step in range(80):
        loss = module.loss(batches[step % len(batches)])
        optimiser.zero_grad()
        loss.backward()
        if step == 1:
            assert all(p.grad is not None and p.grad.isfinite().all() for p in network.genes.parameters())
            assert all(float(p.grad.abs().sum()) > 0 for p in network.genes.parameters())
        torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimiser.step()
    assert held_out() < before - 1.0


# ---------------------------------------------------------------------- the family


@pytest.fixture(scope="module")
def source(simulate: Callable[..., anndata.AnnData]) -> CellSource:
    return read_cells(simulate(120, n_genes=60, seed=3), obs_keys=["cell_type"])


@pytest.fixture(scope="module")
def model(source: CellSource) -> PGL:
    options = {"max_epochs": 1, "gene_tokens": True, "token_epochs": 1, "n_programmes": 3, "programme_iterations": 3}
    return PGL.fit(
        source, obs_keys=["cell_type"], preset="tiny", accelerator="cpu", progress_bar=False, seed=0, **options
    )


REQUEST = pd.DataFrame({"cell_type": ["B cell", "monocyte"] * 130})


def test_both_decoders_write_the_same_cells_on_average(model: PGL) -> None:
    counts = {
        decoder: sp.vstack([block.cells.counts for block in model.write(REQUEST, seed=2, decoder=decoder)]).toarray()
        for decoder in ("set", "tokens")
    }
    for value in counts.values():
        assert value.shape == (260, 60)
    one, other = (np.log1p(counts[decoder][::2].mean(0)) for decoder in ("set", "tokens"))
    assert np.corrcoef(one, other)[0, 1] > 0.98
    assert abs(np.log(counts["set"].sum() / counts["tokens"].sum())) < 0.1


def test_the_checkpoint_holds_the_token_decoder(model: PGL, tmp_path: Path) -> None:
    model.network.genes.output.data += 0.05
    model.save(tmp_path / "model")
    loaded = PGL.load(tmp_path / "model")
    request = REQUEST.iloc[:20]
    one, other = (next(iter(m.write(request, seed=1, decoder="tokens"))).cells for m in (model, loaded))
    np.testing.assert_array_equal(one.counts.toarray(), other.counts.toarray())
    blocks = list(model.write(REQUEST.iloc[:260], seed=1, decoder="tokens", batch_size=256))
    assert len(blocks) == 2
    whole = next(iter(model.write(REQUEST.iloc[:260], seed=1, decoder="tokens")))
    np.testing.assert_array_equal(
        sp.vstack([block.cells.counts for block in blocks]).toarray(), whole.cells.counts.toarray()
    )


def test_a_model_without_token_decoder_says_so(model: PGL) -> None:
    plain = build_network(PGLConfig.preset("tiny"), model.conditions, model.levels, 0, 60)
    assert plain.genes is None
    with pytest.raises(ValueError, match="needs a model with a token decoder, found one without"):
        require_decoder(plain, "tokens")
    with pytest.raises(ValueError, match="decoder must be one of 'set', 'tokens', found 'genes'"):
        next(iter(model.write(REQUEST, decoder="genes")))
