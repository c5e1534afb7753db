"""Linear layers on a CPU by oneDNN, which uses the wide instructions of every maker's processors."""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING, Any

import torch
from torch.overrides import TorchFunctionMode

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_FEWEST_ROWS = 16  # below, the call costs more than it saves


class CPULinear(TorchFunctionMode):
    """A ``with`` block in which float32 linear layers on the CPU are computed by oneDNN instead of the BLAS that torch is built with.

    That BLAS (MKL) keeps to narrow instructions on processors that are not Intel's: oneDNN's products are about twice as fast there
    and differ by rounding only. Whatever is not a float32 linear layer on an x86 CPU, or wants gradients, goes its usual way.

    Weights are copied into oneDNN's tensors when first met and kept until the block ends, so the block must not change them.

    Examples
    --------
    >>> import torch
    >>> from sclm.nn import CPULinear
    >>> layer, x = torch.nn.Linear(8, 4), torch.ones(32, 8)
    >>> with torch.inference_mode(), CPULinear():
    ...     fast = layer(x)
    >>> bool(torch.allclose(fast, layer(x), atol=1e-5))
    True
    """

    def __init__(self) -> None:
        super().__init__()
        operators = getattr(torch.ops, "mkldnn", None)
        there = platform.machine().lower() in {"x86_64", "amd64"} and torch.backends.mkldnn.is_available()
        self._product: Any = getattr(operators, "_linear_pointwise", None) if there else None
        self._weights: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}  # with the weight itself: its id stays taken

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """`func` of its arguments, a linear layer by oneDNN."""
        if func is torch.nn.functional.linear and self._product is not None:
            found = self._linear(*args, **(kwargs or {}))
            if found is not None:
                return found
        return func(*args, **(kwargs or {}))

    def _linear(self, input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> Any:
        """(…, O) of input (…, I), weight (O, I) and bias (O,); None where it is not for oneDNN."""
        tensors = [input, weight] if bias is None else [input, weight, bias]
        if torch.is_grad_enabled() or torch.is_autocast_enabled("cpu") or weight.dim() != 2:
            return None
        if type(weight) is not torch.nn.Parameter or type(input) is not torch.Tensor:
            return None
        if any(t.dtype != torch.float32 or t.device.type != "cpu" for t in tensors):
            return None
        if input.numel() < _FEWEST_ROWS * weight.shape[1] or not weight.is_contiguous():
            return None
        if id(weight) not in self._weights:
            self._weights[id(weight)] = weight, weight.detach().to_mkldnn()
        return self._product(input, self._weights[id(weight)][1], bias, "none", [], "")
