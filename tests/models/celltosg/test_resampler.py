"""Virtual tokens: against attention written out cell by cell, their loudness, and that each cell is alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F  # noqa: N812

from sclm.models.celltosg.resampler import Resampler, type_means

WIDTH, LM, K = 16, 24, 5


@pytest.fixture
def resampler() -> Resampler:
    return Resampler(WIDTH, LM, rms=0.02, tokens=K, heads=4, dropout=0.0, seed=0)


@pytest.fixture
def inputs() -> dict[str, torch.Tensor]:
    """40 nodes of 4 types, six cells with 0 to 7 genes, some with context."""
    generator = torch.Generator().manual_seed(0)
    nodes = torch.randint(0, 20, (6, 7), generator=generator)
    nodes[1, 4:], nodes[3] = -1, -1
    context = torch.randint(20, 40, (6, 3), generator=generator)
    context[2, 1:], context[3] = -1, -1
    return {
        "states": torch.randn(40, WIDTH, generator=generator),
        "type_ids": torch.arange(40) // 10,
        "nodes": nodes,
        "weights": torch.rand(6, 7, generator=generator),
        "context": context,
        "context_weights": torch.rand(6, 3, generator=generator),
    }


def slowly(resampler: Resampler, cell: int, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """One cell, one key after the other, one head after the other."""
    keys = []
    for kind, (rows, weights) in enumerate((("nodes", "weights"), ("context", "context_weights"))):
        for row, weight in zip(inputs[rows][cell], inputs[weights][cell], strict=True):
            if row >= 0:
                keys.append(inputs["states"][row] + resampler.weigh(weight[None]) + resampler.kind.weight[kind])
    means = [inputs["states"][inputs["type_ids"] == kind].mean(0) for kind in range(4)]
    keys += [mean + resampler.kind.weight[2] for mean in means]
    queries = list(resampler.queries)
    for layer in resampler.layers:
        key_value = [layer.key_value(layer.norm_key(key)) for key in keys]
        new = []
        for query in queries:
            q = layer.query(layer.norm_query(query))
            heads = []
            for h in range(4):
                part = slice(4 * h, 4 * h + 4)
                scores = torch.stack([q[part] @ kv[:WIDTH][part] / 2.0 for kv in key_value])
                share = scores.softmax(0)
                heads.append(sum(s * kv[WIDTH:][part] for s, kv in zip(share, key_value, strict=True)))
            query = query + layer.out(torch.cat(heads))
            new.append(query + layer.feed(query))
        queries = new
    projected = torch.stack([resampler.project(query) for query in queries])
    centred = projected - projected.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt() * resampler.scale


def test_forward_is_the_formula(resampler, inputs):
    found = resampler(**inputs)
    assert found.shape == (6, K, LM)
    for cell in range(6):
        torch.testing.assert_close(found[cell], slowly(resampler, cell, inputs), rtol=1e-4, atol=1e-6)


def test_tokens_are_as_loud_as_words(resampler, inputs):
    rms = resampler(**inputs).square().mean(-1).sqrt()
    torch.testing.assert_close(rms, torch.full_like(rms, 0.02), rtol=1e-2, atol=0)


def test_each_cell_is_alone_and_padding_changes_nothing(resampler, inputs):
    resampler.eval()
    found = resampler(**inputs)
    for cell in range(6):
        one = {k: v if k in ("states", "type_ids") else v[cell : cell + 1] for k, v in inputs.items()}
        torch.testing.assert_close(resampler(**one)[0], found[cell], rtol=1e-5, atol=1e-7)
    longer = dict(
        inputs, nodes=F.pad(inputs["nodes"], (0, 4), value=-1), weights=F.pad(inputs["weights"], (0, 4), value=0.7)
    )
    torch.testing.assert_close(resampler(**longer), found, rtol=1e-5, atol=1e-7)


def test_order_of_the_genes_does_not_matter(resampler, inputs):
    order = torch.randperm(7, generator=torch.Generator().manual_seed(2))
    moved = dict(inputs, nodes=inputs["nodes"][:, order], weights=inputs["weights"][:, order])
    torch.testing.assert_close(resampler(**moved), resampler(**inputs), rtol=1e-4, atol=1e-6)


def test_genes_and_how_much_of_them_matter(resampler, inputs):
    found = resampler(**inputs)
    assert not torch.allclose(found[0], found[4], rtol=1e-3)
    louder = dict(inputs, weights=inputs["weights"].clone())
    louder["weights"][0, 0] += 0.5
    changed = resampler(**louder)
    assert not torch.allclose(changed[0], found[0], rtol=1e-4)
    assert torch.equal(changed[1:], found[1:])
    # a cell without any gene still has tokens: those of no gene
    assert torch.isfinite(found[3]).all()


def test_attention(resampler, inputs):
    found, attention = resampler(**inputs, return_attention=True)
    torch.testing.assert_close(found, resampler(**inputs), rtol=1e-4, atol=1e-6)
    assert attention.shape == (6, K, 7 + 3 + 4)
    torch.testing.assert_close(attention.sum(-1), torch.ones(6, K))
    none = torch.cat([inputs["nodes"] < 0, inputs["context"] < 0], dim=1)
    assert (attention[:, :, :10].transpose(1, 2)[none] == 0).all()
    assert (attention[3, :, :10] == 0).all()


def test_without_context(resampler, inputs):
    del inputs["context"], inputs["context_weights"]
    found, attention = resampler(**inputs, return_attention=True)
    assert found.shape == (6, K, LM)
    assert attention.shape == (6, K, 7 + 4)


def test_every_weight_gets_a_gradient(resampler, inputs):
    inputs["states"].requires_grad_(True)
    target = torch.randn(6, K, LM, generator=torch.Generator().manual_seed(3))
    (resampler(**inputs) * target).sum().backward()
    for name, parameter in resampler.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name
    # through the means of the types every node is reached
    assert (inputs["states"].grad.abs().sum(1) > 0).all()


def test_means_of_types():
    states = torch.randn(7, 3, generator=torch.Generator().manual_seed(0))
    ids = torch.tensor([0, 0, 1, 2, 2, 2, 1])
    expected = np.stack([states[ids == kind].numpy().mean(0) for kind in range(3)])
    assert np.allclose(type_means(states, ids).numpy(), expected, atol=1e-6)


def test_same_seed_same_weights_and_numbers_in_range():
    a, b = Resampler(WIDTH, LM, rms=1.0, seed=4), Resampler(WIDTH, LM, rms=1.0, seed=4)
    assert all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))
    with pytest.raises(ValueError, match="heads must divide width"):
        Resampler(WIDTH, LM, rms=1.0, heads=3)
    with pytest.raises(ValueError, match="rms must be above 0"):
        Resampler(WIDTH, LM, rms=0.0)
