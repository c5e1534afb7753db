"""The network by itself: features, padding, gradients."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from sclm.models.sctranslator.attention import key_features, orthogonal_features, query_features
from sclm.models.sctranslator.module import ScTranslatorModule, masked_mse
from sclm.models.sctranslator.network import ScTranslatorConfig, ScTranslatorNetwork, cells_at_once, translator_width
from sclm.models.sctranslator.tokens import Batch, batch_of, frame, min_max
from sclm.nn import seeded

# Every size differs from the others, so that none is taken for another.
MASKED = ScTranslatorConfig(
    gene_ids=90, protein_ids=90, gene_frame=30, protein_frame=7, translator_width=15, width=6, heads=2, head_width=4,
    features=5, feed_forward=24, padding="masked",
)  # fmt: skip


def network(config: ScTranslatorConfig) -> ScTranslatorNetwork:
    with seeded(3):
        made = ScTranslatorNetwork(config).eval()
        for parameter in made.parameters():
            parameter.data += 0.2 * torch.randn_like(parameter)
    return made


def batch(n_genes: int, n_proteins: int, *, genes: int, proteins: int, n: int = 4) -> Batch:
    """Random cells of n_genes and n_proteins, padded to frames."""
    rng = np.random.default_rng(0)
    table = frame(rng.gamma(1.0, size=(n, n_genes)), np.arange(1, n_genes + 1), genes)
    ids = np.zeros(proteins, dtype=np.int64)
    ids[:n_proteins] = np.arange(20, 20 + n_proteins)
    return batch_of(table, ids, np.arange(proteins) < n_proteins, rng.normal(size=(n, n_proteins)))


def test_random_features_approximate_softmax_attention() -> None:
    generator = torch.Generator().manual_seed(0)
    q, k, v = (0.7 * torch.randn(1, 1, 12, 8, generator=generator) for _ in range(3))
    exact = torch.softmax(q @ k.transpose(-1, -2) * 8**-0.5, dim=-1) @ v
    projection = orthogonal_features(16_384, 8, seed=1)
    a, b = query_features(q, projection), key_features(k, projection)
    found = (a @ (b.transpose(-1, -2) @ v)) / (a @ b.sum(dim=-2)[..., None])
    assert (found - exact).abs().max() < 0.08
    assert (v.mean(dim=-2, keepdim=True) - exact).abs().max() > 0.2  # which a flat average does not reach


def test_features_are_orthogonal_in_blocks_and_of_gaussian_length() -> None:
    features = orthogonal_features(200, 64, seed=0)
    block = features[:64] / features[:64].norm(dim=1, keepdim=True)
    np.testing.assert_allclose((block @ block.T).numpy(), np.eye(64), atol=1e-5)
    assert abs(features.norm(dim=1).mean().item() - 8.0) < 0.2  # √64
    assert torch.equal(features, orthogonal_features(200, 64, seed=0))


def test_masked_padding_changes_nothing_and_original_padding_does() -> None:
    short, long = batch(11, 5, genes=11, proteins=5), batch(11, 5, genes=30, proteins=7)
    made = network(MASKED)
    torch.testing.assert_close(made(short), made(long)[:, :5], atol=1e-5, rtol=1e-5)
    original = network(dataclasses.replace(MASKED, padding="original"))
    assert (original(short) - original(long)[:, :5]).abs().max() > 1e-3
    values = long._replace(values=long.values.clone())
    values.values[:, 11:] = 9.0  # what stands at padded positions
    torch.testing.assert_close(made(values), made(long), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("padding", ["original", "masked"])
def test_a_cell_does_not_depend_on_the_others(padding: str) -> None:
    made = network(dataclasses.replace(MASKED, padding=padding))
    whole = batch(11, 5, genes=30, proteins=7)
    alone = made(Batch(*(t[2:3] for t in whole)))
    assert alone.shape == (1, 7)
    torch.testing.assert_close(alone[0], made(whole)[2], atol=1e-5, rtol=1e-5)


def test_the_translator_knows_genes_by_their_position() -> None:
    made = network(MASKED)
    one = batch(30, 7, genes=30, proteins=7)
    order = torch.randperm(30, generator=torch.Generator().manual_seed(0))
    turned = one._replace(values=one.values[:, order], gene_ids=one.gene_ids[:, order])
    torch.testing.assert_close(made.encode(one)[:, order], made.encode(turned), atol=1e-5, rtol=1e-5)
    assert (made(one) - made(turned)).abs().max() > 1e-3


def test_every_weight_learns_and_the_loss_falls() -> None:
    made = network(dataclasses.replace(MASKED, dropout=0.0)).train()
    module = ScTranslatorModule(made, MASKED)
    cells = batch(30, 7, genes=30, proteins=7, n=16)
    optimiser = torch.optim.Adam(made.parameters(), lr=1e-2)
    losses = []
    for step in range(30):
        optimiser.zero_grad()
        loss = module.training_step(cells, step)
        loss.backward()
        if step == 0:
            still = [n for n, p in made.named_parameters() if p.grad is None or not p.grad.any()]
            assert not still
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


def test_the_loss_passes_over_what_was_not_measured() -> None:
    predicted = torch.tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)
    loss = masked_mse(predicted, torch.tensor([[0.0, torch.nan], [torch.nan, 2.0]]))
    assert loss.item() == pytest.approx(2.5)  # (1 + 4) / 2
    loss.backward()
    assert predicted.grad.tolist() == [[1.0, 0.0], [0.0, 2.0]]
    assert masked_mse(predicted, torch.full((2, 2), torch.nan)).item() == 0.0


def test_min_max_by_cell() -> None:
    found = min_max(np.array([[0.0, 2.0, 4.0, np.nan], [3.0, 3.0, 3.0, 3.0]]))
    np.testing.assert_allclose(found[0], [1e-8, 0.5, 1.0, np.nan], atol=1e-7)
    assert np.isnan(found[1]).all()  # the original divides by zero here


def test_sizes() -> None:
    assert translator_width(20_000, 1_000) == 4_473
    assert translator_width(300, 40) == 110
    published = ScTranslatorConfig()
    assert cells_at_once(published, 20_000) == 1
    with torch.device("meta"):
        whole = ScTranslatorNetwork(published)
    n = sum(p.numel() for p in whole.parameters())
    assert n == 2 * 10_944_000 + 93_938_473 + 4 * 396_032 + 256 + 129
    with pytest.raises(ValueError, match="'original' or 'masked'"):
        ScTranslatorConfig(padding="none")
    with pytest.raises(ValueError, match="'tiny', 'small'"):
        ScTranslatorConfig.preset("large")
