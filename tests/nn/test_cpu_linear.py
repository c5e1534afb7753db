"""Linear layers by oneDNN equal torch's own, and step aside where they must."""

from __future__ import annotations

from unittest.mock import Mock

import pytest
import torch

from sclm.nn import CPULinear


def counted(mode: CPULinear) -> Mock:
    """The product of a mode, counting its calls; skips where this machine has none."""
    if mode._product is None:
        pytest.skip("no oneDNN product on this machine")
    mode._product = Mock(wraps=mode._product)
    return mode._product


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(40, 24), (3, 17, 24), (2, 2, 9, 24)])
def test_products_are_those_of_float64(shape: tuple[int, ...], bias: bool) -> None:
    layer = torch.nn.Linear(24, 10, bias=bias)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    mode = CPULinear()
    calls = counted(mode)
    with torch.inference_mode(), mode:
        found = layer(x)
        assert torch.equal(found, layer(x))  # the second time from the kept weight
    assert calls.call_count == 2
    exact = x.double() @ layer.weight.double().T + (layer.bias.double() if bias else 0)
    assert found.shape == exact.shape
    assert torch.allclose(found.double(), exact, atol=1e-5)


def test_views_and_transposed_input() -> None:
    layer = torch.nn.Linear(6, 5)
    x = torch.randn(6, 50, generator=torch.Generator().manual_seed(0)).T  # not contiguous
    with torch.inference_mode(), CPULinear():
        found = layer(x)
    assert torch.allclose(found, x @ layer.weight.T + layer.bias, atol=1e-5)


def test_weights_are_read_anew_in_each_block() -> None:
    layer, x = torch.nn.Linear(6, 5, bias=False), torch.ones(20, 6)
    with torch.inference_mode(), CPULinear():
        before = layer(x)
    with torch.no_grad():
        layer.weight.mul_(2)
    with torch.inference_mode(), CPULinear():
        assert torch.allclose(layer(x), 2 * before)


@pytest.mark.parametrize("case", ["gradients", "double", "few rows", "weight is no parameter"])
def test_steps_aside(case: str) -> None:
    layer, x = torch.nn.Linear(6, 5), torch.ones(4 if case == "few rows" else 20, 6)
    if case == "double":
        layer, x = layer.double(), x.double()
    mode = CPULinear()
    calls = counted(mode)
    with mode:
        if case == "gradients":
            layer(x).sum().backward()
            assert layer.weight.grad is not None
        elif case == "weight is no parameter":
            with torch.inference_mode():
                torch.nn.functional.linear(x, layer.weight * 1)
        else:
            with torch.inference_mode():
                layer(x)
    calls.assert_not_called()


def test_autocast_keeps_its_precision() -> None:
    layer, x = torch.nn.Linear(6, 5), torch.ones(20, 6)
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16), CPULinear():
        assert layer(x).dtype == torch.bfloat16
