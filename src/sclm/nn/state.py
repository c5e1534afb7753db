"""Which tensors of a network are its own: everything but the weights of a pretrained language model inside."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Mapping


def own_state(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Tensors of `module` that a checkpoint has to hold.

    Parameters
    ----------
    module
        Any network. A :class:`~sclm.nn.CausalLM` anywhere inside it counts with its LoRA weights only if it was pretrained,
        and with all its weights if it was made from scratch. More generally, a submodule with a method
        ``borrowed_names() -> set of str`` leaves those names of its ``state_dict`` out.

    Returns
    -------
    Name → tensor, a part of ``module.state_dict()``: the tensors are those of the module, not copies.
    """
    borrowed = _borrowed(module)
    return {name: tensor for name, tensor in module.state_dict().items() if name not in borrowed}


def load_own_state(module: torch.nn.Module, state: Mapping[str, torch.Tensor]) -> None:
    """Put the tensors of :func:`own_state` into a module built with the same settings.

    Parameters
    ----------
    module
        The network to fill, in place. Values take the dtype and the device of its tensors.
    state
        Name → tensor, exactly those names that ``own_state(module)`` has.

    Raises
    ------
    ValueError
        If a tensor is missing, unknown, or of another shape; the module is then unchanged.
    """
    expected = own_state(module)
    advice = "The network must be built with the configuration that it was saved with."
    missing, unknown = sorted(expected.keys() - state.keys()), sorted(state.keys() - expected.keys())
    if missing or unknown:
        found = "; ".join(
            f"{len(names)} {kind}: {', '.join(names[:3])}{', …' if len(names) > 3 else ''}"
            for kind, names in (("missing", missing), ("unknown", unknown))
            if names
        )
        raise ValueError(f"Expected {len(expected)} tensors, found {len(state)} ({found}). {advice}")
    for name, tensor in expected.items():
        if tensor.shape != state[name].shape:
            raise ValueError(
                f"{name} must have shape {tuple(tensor.shape)}, found {tuple(state[name].shape)}. {advice}"
            )
    with torch.no_grad():
        for name, tensor in expected.items():
            tensor.copy_(state[name])


def _borrowed(module: torch.nn.Module) -> set[str]:
    """Names in ``module.state_dict()`` that submodules declare as borrowed."""
    names: set[str] = set()
    for path, part in module.named_modules():
        declared = getattr(part, "borrowed_names", None)
        if declared is not None:
            names |= {f"{path}.{name}" if path else name for name in declared()}
    return names
