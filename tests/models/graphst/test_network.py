"""The graph network against the published method, written out with dense matrices and loops."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from sclm.models.graphst.blocks import halos, spread_matrix
from sclm.models.graphst.module import BlockData, GraphSTModule
from sclm.models.graphst.network import GraphSTConfig, GraphSTNetwork
from sclm.models.graphst.objectives import block_loss
from sclm.spatial import neighbour_graph, neighbour_means

if TYPE_CHECKING:
    from scipy import sparse

N, C, Z = 40, 6, 8
WEIGHTS = {"reconstruction": 10.0, "contrast": 1.0}


@pytest.fixture(scope="module")
def graph() -> sparse.csr_matrix:
    graph = neighbour_graph(np.random.default_rng(0).random((N, 2)), n_neighbours=3).tolil()
    graph[11, :] = 0
    graph[:, 11] = 0  # a spot without neighbours
    return graph.tocsr()


@pytest.fixture(scope="module")
def values() -> np.ndarray:
    return np.random.default_rng(1).normal(size=(N, C)).astype(np.float32)


def network(**settings: Any) -> GraphSTNetwork:
    config = GraphSTConfig(width=Z, heads=2, **settings)
    made = GraphSTNetwork(config, C, torch.Generator().manual_seed(3))
    with torch.no_grad():
        made.bias += 0.3
    return made


def data(values: np.ndarray, graph: sparse.csr_matrix, size: int) -> BlockData:
    return BlockData(values, graph, np.zeros(N, dtype=np.int64), size=size, passes=1, seed=5)


def published_loss(x: np.ndarray, drawn: np.ndarray, a: np.ndarray, net: GraphSTNetwork) -> tuple[float, np.ndarray]:
    """Dense, in float64, spot by spot: the loss and the vectors Z."""
    w, v, bilinear = (p.detach().numpy().astype(np.float64) for p in (net.encoder, net.decoder, net.bilinear))
    bias = net.bias.item()
    degree = a.sum(axis=1)
    inverse = np.array([d**-0.5 if d else 0.0 for d in degree])
    hat = np.diag(inverse) @ a @ np.diag(inverse) + np.eye(len(a))
    z, other = hat @ x @ w, hat @ x[drawn] @ w
    h = hat @ z @ v

    def context(active: np.ndarray) -> np.ndarray:
        rows = []
        for i in range(len(a)):
            mean = active[[i, *np.flatnonzero(a[i])]].mean(axis=0)
            rows.append(1 / (1 + np.exp(-mean / max(np.linalg.norm(mean), 1e-12))))
        return np.array(rows)

    on, off = np.maximum(z, 0), np.maximum(other, 0)
    g, g_other = context(on), context(off)

    def bce(logit: float, label: int) -> float:
        return float(np.log1p(np.exp(-logit)) if label else np.log1p(np.exp(logit)))

    total = 10 * ((x - h) ** 2).mean()
    for own, foreign, around in ((on, off, g), (off, on, g_other)):
        terms = []
        for i in range(len(a)):
            terms += [bce(own[i] @ bilinear @ around[i] + bias, 1), bce(foreign[i] @ bilinear @ around[i] + bias, 0)]
        total += np.mean(terms)
    return total, z


@pytest.mark.parametrize("size", [N, 7])
def test_the_loss_is_the_published_one(graph: sparse.csr_matrix, values: np.ndarray, size: int) -> None:
    net, blocks = network(), data(values, graph, size)
    drawn = blocks.corruption(0)
    expected, _ = published_loss(values.astype(np.float64), drawn.numpy(), graph.toarray(), net)
    shares = [block_loss(net, blocks.block(i, drawn), N, **WEIGHTS).item() for i in range(len(blocks.halos))]
    assert sum(shares) == pytest.approx(expected, rel=1e-5)


def test_vectors_are_the_published_ones(graph: sparse.csr_matrix, values: np.ndarray) -> None:
    net = network()
    _, expected = published_loss(values.astype(np.float64), np.arange(N), graph.toarray(), net)
    for halo in halos(graph, spread_matrix(graph), neighbour_means(graph), 9):
        around = torch.from_numpy(values[halo.around])
        found = net.encode(around, around[halo.near], halo.inner)[halo.itself]
        np.testing.assert_allclose(found.detach().numpy(), expected[halo.own], atol=1e-5)


@pytest.mark.parametrize("attention", [False, True])
def test_gradients_do_not_depend_on_the_partition(
    graph: sparse.csr_matrix, values: np.ndarray, attention: bool
) -> None:
    found = []
    for size in (N, 1, 13):
        net, blocks = network(attention=attention), data(values, graph, size)
        drawn = blocks.corruption(0)
        for i in range(len(blocks.halos)):
            block_loss(net, blocks.block(i, drawn), N, **WEIGHTS).backward()
        found.append({name: p.grad.clone() for name, p in net.named_parameters()})
    for other in found[1:]:
        for name, gradient in found[0].items():
            assert gradient.abs().max() > 0, name
            torch.testing.assert_close(other[name], gradient, rtol=1e-4, atol=1e-5)


def test_attention_is_a_softmax_over_neighbours(graph: sparse.csr_matrix, values: np.ndarray) -> None:
    net = network(attention=True)
    layer = net.attention
    assert layer is not None
    (halo,) = halos(graph, spread_matrix(graph), neighbour_means(graph), N)
    found = net.encode(torch.from_numpy(values), torch.from_numpy(values), halo.inner).detach().numpy()
    send, receive, score = (p.detach().numpy().astype(float) for p in (layer.sends, layer.receives, layer.score))
    dense = graph.toarray()
    for i in range(N):
        around = sorted([i, *np.flatnonzero(dense[i])])
        for head in range(2):
            part = slice(head * 4, head * 4 + 4)
            sent, wanted = values[around] @ send[:, part], values[i] @ receive[:, part]
            pairs = sent + wanted
            logits = np.where(pairs > 0, pairs, 0.2 * pairs) @ score[head]
            weight = np.exp(logits - logits.max())
            np.testing.assert_allclose(found[i, part], weight / weight.sum() @ sent, atol=1e-5)


@pytest.mark.parametrize("attention", [False, True])
def test_every_weight_learns_and_the_loss_falls(graph: sparse.csr_matrix, values: np.ndarray, attention: bool) -> None:
    net, blocks = network(attention=attention), data(values, graph, N)
    module = GraphSTModule(net, GraphSTConfig(width=Z, heads=2, attention=attention), N)
    optimiser = torch.optim.Adam(net.parameters(), lr=1e-2)
    losses = []
    for step in range(30):
        optimiser.zero_grad()
        loss = module.loss(blocks.block(0, blocks.corruption(step)))
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]
    assert all(p.grad is not None and p.grad.any() for p in net.parameters())


def test_corruption_stays_within_libraries_and_differs_from_pass_to_pass(
    graph: sparse.csr_matrix, values: np.ndarray
) -> None:
    library = np.arange(N) % 3
    blocks = BlockData(values, graph, library, size=8, passes=2, seed=0)
    first, second = blocks.corruption(0), blocks.corruption(1)
    for drawn in (first, second):
        assert sorted(drawn.tolist()) == list(range(N))
        np.testing.assert_array_equal(library[drawn.numpy()], library)
    assert (first != second).any()
    torch.testing.assert_close(blocks.corruption(0), first)
    passes = list(blocks)
    assert len(passes) == len(blocks) == 10
    assert [bool(block.last) for block in passes] == [False, False, False, False, True] * 2


def test_steps_are_those_of_full_batches(graph: sparse.csr_matrix, values: np.ndarray) -> None:
    """Through Lightning, in blocks of 9, as Adam on the whole section without it."""
    from sclm.training import fit

    config = GraphSTConfig(width=Z, heads=2, learning_rate=0.01)
    net, alone = network(), network()
    fit(
        GraphSTModule(net, config, N), data(values, graph, 9), max_epochs=5, accelerator="cpu", precision="32-true",
        gradient_clip=0.0, progress_bar=False,
    )  # fmt: skip
    blocks = data(values, graph, N)
    optimiser = torch.optim.Adam(alone.parameters(), lr=0.01)
    for step in range(5):
        optimiser.zero_grad()
        block_loss(alone, blocks.block(0, blocks.corruption(step)), N, **WEIGHTS).backward()
        optimiser.step()
    for (name, mine), other in zip(net.named_parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5, msg=name)


def test_settings_out_of_range_are_refused() -> None:
    for settings, text in (
        ({"width": 0}, "width must be at least 1"),
        ({"attention": True, "width": 10, "heads": 4}, "multiple of heads=4, found 10"),
        ({"n_genes": 1}, "n_genes must be at least 2, found 1"),
        ({"learning_rate": 0.0}, "learning_rate must be above 0"),
    ):
        with pytest.raises(ValueError, match=text):
            GraphSTConfig(**settings)
