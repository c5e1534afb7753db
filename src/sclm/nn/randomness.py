"""Random numbers of torch under a local seed: what needs torch's global generator borrows it and gives it back."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def seeded(seed: int, *devices: str | torch.device) -> Iterator[None]:
    """Draw torch's random numbers from `seed` inside a ``with`` block, and leave the global generators untouched after it.

    Initialisation of layers and dropout know only torch's global generators. Inside the block these start at `seed`;
    afterwards they are in the state they had before, also when the block raises.

    Parameters
    ----------
    seed
        From 0 to 2⁶⁴ - 1.
    *devices
        Devices whose generators are seeded besides that of the CPU, for example ``"cuda:0"`` or ``model.device``.

    Yields
    ------
    Nothing.

    Raises
    ------
    ValueError
        If the seed is out of range.

    Examples
    --------
    >>> import torch
    >>> with seeded(0):
    ...     a = torch.nn.Linear(2, 2)
    >>> with seeded(0):
    ...     b = torch.nn.Linear(2, 2)
    >>> torch.equal(a.weight, b.weight)
    True
    """
    if not 0 <= seed < 2**64:
        raise ValueError(f"seed must lie between 0 and 2**64 - 1, found {seed}.")
    accelerators = list(dict.fromkeys(torch.device(d) for d in devices if torch.device(d).type != "cpu"))
    before = torch.get_rng_state()
    before_there = [_state(device) for device in accelerators]
    try:
        torch.set_rng_state(torch.Generator().manual_seed(seed).get_state())
        for device in accelerators:
            _set_state(torch.Generator(device).manual_seed(seed).get_state(), device)
        yield
    finally:
        torch.set_rng_state(before)
        for device, state in zip(accelerators, before_there, strict=True):
            _set_state(state, device)


def _where(device: torch.device) -> tuple[Any, ...]:
    """What the functions of a device's module take: CUDA has one generator a device, MPS one in all."""
    return (device,) if device.type == "cuda" else ()


def _state(device: torch.device) -> torch.Tensor:
    return torch.get_device_module(device).get_rng_state(*_where(device))


def _set_state(state: torch.Tensor, device: torch.device) -> None:
    torch.get_device_module(device).set_rng_state(state, *_where(device))
