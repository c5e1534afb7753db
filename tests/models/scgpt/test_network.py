"""The network and its heads against the formulas, written out position by position."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import nn

from sclm.models.scgpt.attention import column_ranks, rank_scores
from sclm.models.scgpt.generative import generate
from sclm.models.scgpt.heads import MVCDecoder, reversed_gradient
from sclm.models.scgpt.network import FeatureNorm, average_pool, weighted_pool
from sclm.models.scgpt.objectives import elastic_similarity, expressed_nll, masked_mse, masked_relative_error
from sclm.nn import seeded

if TYPE_CHECKING:
    from collections.abc import Callable

HEADS: dict[str, Any] = {
    "batches": ("a", "b", "c"), "batch_labels": True, "adversary": True, "zero_probability": True, "classes": ("x", "y"),
    "input_norm": "domain", "n_modalities": 5,
}  # fmt: skip


def layer_norm(x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5) * weight + bias


class Slow:
    """The forward pass in numpy and float64, one cell and one head at a time."""

    def __init__(self, model: Any) -> None:
        self.t = {k: v.double().numpy() for k, v in model.network.state_dict().items()}
        self.config = model.config

    def norm(self, name: str, x: np.ndarray) -> np.ndarray:
        return layer_norm(x, self.t[f"{name}.weight"], self.t[f"{name}.bias"])

    def linear(self, name: str, x: np.ndarray) -> np.ndarray:
        bias = self.t.get(f"{name}.bias", 0.0)
        return x @ self.t[f"{name}.weight"].T + bias

    def genes(self, ids: np.ndarray) -> np.ndarray:
        return self.norm("genes.norm", self.t["genes.embedding.weight"][ids])

    def inputs(
        self, ids: np.ndarray, values: np.ndarray, batch: int | None = None, flags: np.ndarray | None = None
    ) -> np.ndarray:
        hidden = np.maximum(self.linear("values.linear1", np.minimum(values, 512.0)[:, None]), 0)
        x = self.genes(ids) + self.norm("values.norm", self.linear("values.linear2", hidden))
        if flags is not None:
            x = x + self.t["perturbed.weight"][flags]
        if batch is not None:
            x = (x - self.t["norm.mean"][batch]) / np.sqrt(self.t["norm.variance"][batch] + 6.1e-5)
        return x

    def encode(self, x: np.ndarray, n_layers: int | None = None) -> np.ndarray:
        n_heads, width = self.config.n_heads, self.config.width
        size = width // n_heads
        for k in range(self.config.n_layers if n_layers is None else n_layers):
            qkv = self.linear(f"layers.{k}.attention.qkv", x)
            context = np.zeros_like(x)
            for h in range(n_heads):
                q, key, v = (qkv[:, part * width + h * size : part * width + (h + 1) * size] for part in range(3))
                for i in range(len(x)):
                    scores = np.array([q[i] @ key[j] / np.sqrt(size) for j in range(len(x))])
                    weights = np.exp(scores - scores.max())
                    context[i, h * size : (h + 1) * size] = weights / weights.sum() @ v
            x = self.norm(f"layers.{k}.norm1", x + self.linear(f"layers.{k}.attention.out", context))
            inner = self.linear(f"layers.{k}.linear2", np.maximum(self.linear(f"layers.{k}.linear1", x), 0))
            x = self.norm(f"layers.{k}.norm2", x + inner)
        return x

    def three(self, name: str, x: np.ndarray) -> np.ndarray:
        for i in (0, 2):
            x = self.linear(f"{name}.{i}", x)
            x = np.where(x > 0, x, 0.01 * x)
        return self.linear(f"{name}.4", x)[..., 0]

    def classes(self, name: str, cell: np.ndarray, leak: float) -> np.ndarray:
        for i in (0, 3):
            cell = self.linear(f"{name}.body.{i}", cell)
            cell = self.norm(f"{name}.body.{i + 2}", np.where(cell > 0, cell, leak * cell))
        return self.linear(f"{name}.out", cell)


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


@pytest.fixture(scope="module")
def batch() -> tuple[torch.Tensor, ...]:
    rng = np.random.default_rng(0)
    ids = np.stack([rng.permutation(40)[:9] for _ in range(4)])
    ids[:, 0] = 41
    values = rng.integers(0, 51, (4, 9)).astype(np.float32)
    values[:, 0] = -2
    values[1, 3] = -1  # hidden
    values[2, 4] = 600  # above the bound
    real = np.ones((4, 9), bool)
    real[1, 6:] = real[3, 4:] = False
    ids[~real], values[~real] = 40, -2
    return tuple(torch.from_numpy(part) for part in (ids, values, real))


def rows(batch: tuple[torch.Tensor, ...]) -> list[tuple[np.ndarray, np.ndarray]]:
    ids, values, real = (part.numpy() for part in batch)
    return [(ids[i][real[i]], values[i][real[i]].astype(np.float64)) for i in range(len(ids))]


@torch.inference_mode()
def test_states_and_all_heads(random_model: Callable[..., Any], batch: tuple[torch.Tensor, ...]) -> None:
    model = random_model(5, **HEADS)
    slow = Slow(model)
    batches, modalities = torch.tensor([2, 0, 1, 2]), torch.from_numpy(np.random.default_rng(1).integers(0, 5, (4, 9)))
    found = model.network(*batch, batches=batches, modalities=modalities)
    for i, (ids, values) in enumerate(rows(batch)):
        n = len(ids)
        b = int(batches[i])
        states = slow.encode(slow.inputs(ids, values, b))
        close = {"rtol": 0, "atol": 2e-4}
        np.testing.assert_allclose(found.states[i, :n], states, atol=2e-5)
        labels = slow.norm("batches.norm", slow.t["batches.embedding.weight"][b])
        labels = labels + slow.norm("modalities.norm", slow.t["modalities.embedding.weight"][modalities[i, :n].numpy()])
        read = np.concatenate([states, labels], axis=1)
        np.testing.assert_allclose(found.expression[i, :n], slow.three("decoders.expression.fc", read), **close)
        np.testing.assert_allclose(
            found.expressed[i, :n], sigmoid(slow.three("decoders.expression.expressed", read)), **close
        )
        cell = np.concatenate([states[0], labels[0]])
        query = sigmoid(slow.linear("decoders.mvc.query", np.concatenate([slow.genes(ids), labels], axis=1)))
        np.testing.assert_allclose(found.mvc[i, :n], slow.linear("decoders.mvc.project", query) @ cell, **close)
        logit = slow.linear("decoders.mvc.project_expressed", query) @ cell
        np.testing.assert_allclose(found.mvc_expressed[i, :n], sigmoid(logit), **close)
        np.testing.assert_allclose(found.classes[i], slow.classes("decoders.classes", states[0], 0.0), **close)
        np.testing.assert_allclose(found.batches[i], slow.classes("decoders.adversary", states[0], 0.01), **close)


@torch.inference_mode()
def test_one_of_batch_and_modality_may_be_missing(
    random_model: Callable[..., Any], batch: tuple[torch.Tensor, ...]
) -> None:
    modalities = torch.from_numpy(np.random.default_rng(1).integers(0, 5, (4, 9)))
    model = random_model(6, n_modalities=5)
    slow = Slow(model)
    found = model.network(*batch, modalities=modalities)
    for i, (ids, values) in enumerate(rows(batch)):
        states = slow.encode(slow.inputs(ids, values))
        labels = slow.norm("modalities.norm", slow.t["modalities.embedding.weight"][modalities[i, : len(ids)].numpy()])
        query = sigmoid(slow.linear("decoders.mvc.query", np.concatenate([slow.genes(ids), labels], axis=1)))
        cell = np.concatenate([states[0], labels[0]])
        np.testing.assert_allclose(
            found.mvc[i, : len(ids)], slow.linear("decoders.mvc.project", query) @ cell, atol=2e-4
        )
    with pytest.raises(ValueError, match="pass modalities="):
        model.network(*batch)
    with pytest.raises(ValueError, match="pass batches="):
        random_model(batches=("a", "b"), batch_labels=True).network(*batch)


@torch.inference_mode()
@pytest.mark.parametrize("activation", ["none", "tanh", "sigmoid", "relu"])
@pytest.mark.parametrize("adaptive", [False, True])
def test_perturbation_decoder(
    activation: str, adaptive: bool, random_model: Callable[..., Any], batch: tuple[torch.Tensor, ...]
) -> None:
    model = random_model(
        7, perturbation_flags=3, expression="affine", values="log", affine_activation=activation, adaptive_bias=adaptive
    )
    slow = Slow(model)
    flags = torch.from_numpy(np.random.default_rng(2).integers(0, 2, (4, 9)))
    ids, values, real = batch
    found = model.network(ids, values, torch.ones_like(real), flags=flags)
    act = {"none": lambda x: x, "tanh": np.tanh, "sigmoid": sigmoid, "relu": lambda x: np.maximum(x, 0)}[activation]
    for i in range(4):
        v = values[i].double().numpy()
        states = slow.encode(slow.inputs(ids[i].numpy(), v, flags=flags[i].numpy()))
        a, b = (act(slow.three(f"decoders.expression.{part}", states)) for part in ("coefficient", "bias"))
        if adaptive:
            b = b * v.sum() / (v != 0).sum()
        np.testing.assert_allclose(found.expression[i], a * v + b, atol=2e-4 * max(1, np.abs(a * v + b).max()))


@torch.inference_mode()
def test_styles_of_value_prediction() -> None:
    with seeded(0):
        concat = MVCDecoder("concat query", 16, 16, detach=False, zero_probability=False)
        summed = MVCDecoder("sum query", 16, 16, detach=False, zero_probability=False)
        cell, genes = torch.randn(3, 16), torch.randn(3, 5, 16)
    for head in (concat, summed):
        nn.init.constant_(head.activation.weight, 0.4)
        for i in range(3):
            for j in range(5):
                query = torch.sigmoid(head.query(genes[i, j]))
                read = torch.cat([cell[i], query]) if head is concat else cell[i] + query
                hidden = head.fc1(read)
                expected = head.fc2(torch.where(hidden > 0, hidden, 0.4 * hidden))
                torch.testing.assert_close(head(cell, genes)[0][i, j], expected[0])
    assert concat.query.weight.shape == (64, 16)
    assert concat.fc1.weight.shape == (64, 80)


def test_detached_queries_send_no_gradient_to_the_genes() -> None:
    genes = torch.randn(2, 3, 8, requires_grad=True)
    cell = torch.randn(2, 8, requires_grad=True)
    for detach in (False, True):
        genes.grad = None
        head = MVCDecoder("inner product", 8, 8, detach=detach, zero_probability=True)
        values, probabilities = head(cell, genes)
        (values.sum() + probabilities.sum()).backward()
        assert (genes.grad is None) == detach
        assert head.query.weight.grad.any()


def test_reversed_gradient() -> None:
    x = torch.randn(5, requires_grad=True)
    y = reversed_gradient(x, 0.5)
    torch.testing.assert_close(y, x)
    (3 * y).sum().backward()
    torch.testing.assert_close(x.grad, torch.full((5,), -1.5))


@torch.inference_mode()
def test_padding_changes_nothing(random_model: Callable[..., Any], batch: tuple[torch.Tensor, ...]) -> None:
    model = random_model()
    found = model.network(*batch).cell
    longer = tuple(
        torch.cat([part, torch.full((4, 7), fill, dtype=part.dtype)], dim=1)
        for part, fill in zip(batch, (40, -2, False), strict=True)
    )
    torch.testing.assert_close(model.network(*longer).cell, found, rtol=0, atol=1e-5)


@torch.inference_mode()
def test_the_short_way_to_cls_is_the_long_way(
    random_model: Callable[..., Any], batch: tuple[torch.Tensor, ...]
) -> None:
    model = random_model()
    for layer in range(3):
        states = model.states(*batch, layer)
        whole = model.pool(states, *batch, "cls")
        torch.testing.assert_close(model.encode(*batch, layer, "cls"), whole, rtol=0, atol=1e-5)
        torch.testing.assert_close(whole.norm(dim=1), torch.ones(4))
        mean = model.encode(*batch, layer, "mean")
        for i in range(4):
            torch.testing.assert_close(mean[i], states[i][batch[2][i]].mean(dim=0), rtol=0, atol=1e-5)


@torch.inference_mode()
def test_whole_values_are_looked_up(random_model: Callable[..., Any]) -> None:
    encoder = random_model().network.values
    values = torch.randint(-2, 51, (40, 30)).float()
    torch.testing.assert_close(encoder(values), encoder._encode(values), rtol=0, atol=1e-5)
    values[3, 4] += 0.5
    torch.testing.assert_close(encoder(values), encoder._encode(values), rtol=0, atol=1e-6)
    wide = torch.arange(1200.0).view(40, 30)  # above the bound all are one
    torch.testing.assert_close(encoder(wide), encoder._encode(wide), rtol=0, atol=1e-5)


def test_statistics_of_batches_are_their_own() -> None:
    """In training, each batch as torch's BatchNorm1d on its real tokens alone; without a batch, all of them together."""
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(7, 5, 8, generator=rng) * 3 + 1
    real = torch.rand(7, 5, generator=rng) > 0.3
    sets = torch.tensor([0, 1, 0, 2, 1, 0, 2])
    norm = FeatureNorm(3, 8, affine=False).train()
    peers = [nn.BatchNorm1d(8, eps=6.1e-5, affine=False).train() for _ in range(3)]
    for _ in range(2):
        found = norm(x, real, sets)
        for k, peer in enumerate(peers):
            here = (sets == k)[:, None] & real
            torch.testing.assert_close(found[here], peer(x[here]))
    norm.eval()
    found = norm(x, real, sets)
    for k, peer in enumerate(peers):
        torch.testing.assert_close(norm.mean[k], peer.running_mean)
        torch.testing.assert_close(norm.variance[k], peer.running_var)
        torch.testing.assert_close(found[sets == k].flatten(0, 1), peer.eval()(x[sets == k].flatten(0, 1)))
    pooled = torch.cat(
        [peer.running_mean + s * peer.running_var.sqrt() for peer in peers for s in (torch.ones(8), -torch.ones(8))]
    )
    pooled = pooled.view(6, 8)  # two points a batch with its mean and variance
    expected = (x - pooled.mean(0)) / (pooled.var(0, unbiased=False) + 6.1e-5).sqrt()
    torch.testing.assert_close(norm(x, real, None), expected)


@torch.inference_mode()
def test_generated_genes_see_what_is_perceived_and_themselves(
    random_model: Callable[..., Any], batch: tuple[torch.Tensor, ...]
) -> None:
    model = random_model(8, flags=2)
    slow = Slow(model)
    asked = torch.tensor([[30, 31, 32], [5, 6, 7], [9, 8, 1], [2, 3, 4]])
    found = generate(model.network, *batch, asked)
    for i, (ids, values) in enumerate(rows(batch)):
        x = slow.inputs(ids, values)
        y = slow.genes(asked[i].numpy()) + slow.t["flags.weight"][1]
        for k in range(2):
            y_next = np.zeros_like(y)
            n_heads, width = 2, 16
            for g in range(len(y)):
                keys = np.vstack([x, y[g]])
                qkv, own = (
                    slow.linear(f"layers.{k}.attention.qkv", keys),
                    slow.linear(f"layers.{k}.attention.qkv", y[g]),
                )
                context = []
                for h in range(n_heads):
                    part = slice(h * 8, (h + 1) * 8)
                    q, key, v = own[part], qkv[:, width:][:, part], qkv[:, 2 * width :][:, part]
                    weights = np.exp(key @ q / np.sqrt(8))
                    context.append(weights / weights.sum() @ v)
                z = slow.norm(f"layers.{k}.norm1", y[g] + np.concatenate(context))  # no output projection
                y_next[g] = slow.norm(
                    f"layers.{k}.norm2",
                    z + slow.linear(f"layers.{k}.linear2", np.maximum(slow.linear(f"layers.{k}.linear1", z), 0)),
                )
            x = _one_layer(slow, x, k)
            y = y_next
        np.testing.assert_allclose(found.generated[i], y, atol=2e-5)
        np.testing.assert_allclose(found.perceived[i, : len(ids)], x, atol=2e-5)
        np.testing.assert_allclose(found.generated_values[i], slow.three("decoders.expression.fc", y), atol=2e-4)
    with pytest.raises(ValueError, match="has no flags"):
        generate(random_model().network, *batch, asked)


def _one_layer(slow: Slow, x: np.ndarray, k: int) -> np.ndarray:
    import copy

    one = copy.copy(slow)
    one.t = {
        name.replace(f"layers.{k}.", "layers.0."): t
        for name, t in slow.t.items()
        if not name.startswith(f"layers.{1 - k}.")
    }
    return one.encode(x, 1)


def test_losses() -> None:
    rng = np.random.default_rng(0)
    predicted, target = rng.normal(size=(3, 4)), rng.poisson(1.0, (3, 4)).astype(float)
    mask = rng.random((3, 4)) < 0.5
    p, t, m = torch.tensor(predicted), torch.tensor(target), torch.tensor(mask)
    assert float(masked_mse(p, t, m)) == pytest.approx(((predicted - target)[mask] ** 2).mean())
    probability = sigmoid(predicted)
    expected = -np.where(target > 0, np.log(probability), np.log1p(-probability))[mask].mean()
    assert float(expressed_nll(torch.tensor(probability), t, m)) == pytest.approx(expected, rel=1e-5)
    relative = (np.abs(predicted - target)[mask] / (target[mask] + 1e-6)).mean()
    assert float(masked_relative_error(p, t, m)) == pytest.approx(relative)
    assert float(masked_mse(p, t, torch.zeros_like(m))) == 0
    cells = rng.normal(size=(5, 3))
    total = 0.0
    for i in range(5):
        for j in range(5):
            s = 0.0
            if i != j:
                s = max(0.0, cells[i] @ cells[j] / np.linalg.norm(cells[i]) / np.linalg.norm(cells[j]))
            total += 1 - (s - 0.6) ** 2
    assert float(elastic_similarity(torch.tensor(cells), 0.6)) == pytest.approx(total / 25)


def test_ranks_of_attention() -> None:
    from scipy.stats import rankdata

    raw = torch.randn(2, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    ranks = np.stack([(rankdata(row) - 1) / 12 for row in raw.reshape(-1, 12).numpy()]).reshape(2, 3, 12, 12)
    expected = np.zeros_like(ranks)
    for a in range(2):
        for h in range(3):
            for column in range(12):
                expected[a, h, :, column] = (rankdata(ranks[a, h, :, column].round(9), method="average") - 1) / 12
    np.testing.assert_allclose(rank_scores(raw).numpy(), expected, atol=1e-6)
    ties = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 0.0]])
    np.testing.assert_allclose(column_ranks(ties).numpy(), np.array([[1.5, 1], [1.5, 1], [0, 1]]) / 3, atol=1e-6)


def test_original_pools() -> None:
    rng = np.random.default_rng(0)
    states, values = rng.normal(size=(3, 5, 4)), rng.normal(size=(3, 5))
    np.testing.assert_allclose(average_pool(torch.tensor(states)), states.mean(axis=1))
    summed = (states * values[:, :, None]).sum(axis=1)
    expected = summed / np.linalg.norm(summed, axis=1, keepdims=True)
    np.testing.assert_allclose(weighted_pool(torch.tensor(states), torch.tensor(values)), expected)
