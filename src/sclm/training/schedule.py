"""AdamW with its parameter groups, and a learning rate that warms up and then follows a cosine."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lightning.pytorch import Trainer


def parameter_groups(
    module: torch.nn.Module, weight_decay: float, *, undecayed: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """Trainable parameters in two groups: weight matrices decay, norms, biases and embeddings do not.

    Parameters
    ----------
    module
        The network. Frozen parameters are left out.
    weight_decay
        Of the first group.
    undecayed
        Parts of names that put a parameter into the second group too, for tables of embeddings that are no
        :class:`torch.nn.Embedding`.

    Returns
    -------
    Two groups as the optimizers of torch take them; the second is everything with at most one dimension, every weight of a
    :class:`torch.nn.Embedding`, and what `undecayed` names. An empty group is left out.

    Raises
    ------
    ValueError
        If nothing can be trained.
    """
    tables = {id(p) for part in module.modules() if isinstance(part, torch.nn.Embedding) for p in part.parameters()}
    decayed: list[torch.nn.Parameter] = []
    others: list[torch.nn.Parameter] = []
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue
        spared = parameter.ndim <= 1 or id(parameter) in tables or any(part in name for part in undecayed)
        (others if spared else decayed).append(parameter)
    if not decayed and not others:
        raise ValueError("The network has no parameter to train: every one has requires_grad=False.")
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def warmup_cosine(
    optimizer: torch.optim.Optimizer, *, total_steps: int, warmup_steps: int = 0, floor: float = 0.1
) -> torch.optim.lr_scheduler.LambdaLR:
    r"""Learning rate that rises linearly and falls along half a cosine, one value a step.

    At step :math:`t`, from 0, the optimizer's rate is multiplied by :math:`(t + 1) / (w + 1)` while :math:`t < w`, and by
    :math:`f + (1 - f)\,(1 + \cos \pi u) / 2` after, with :math:`u = (t - w) / (T - w)`, at most 1.

    Parameters
    ----------
    optimizer
        With the highest learning rate of each group.
    total_steps
        T, after which the rate stays at the floor.
    warmup_steps
        w, less than T.
    floor
        f, the last rate as a share of the highest, 0 to 1.

    Returns
    -------
    The scheduler; call ``step()`` after each step of the optimizer.

    Raises
    ------
    ValueError
        If a number is out of range.

    Examples
    --------
    >>> import torch
    >>> optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    >>> schedule = warmup_cosine(optimizer, total_steps=5, warmup_steps=1, floor=0.0)
    >>> rates = []
    >>> for _ in range(6):
    ...     rates.append(round(schedule.get_last_lr()[0], 2))
    ...     optimizer.step()
    ...     schedule.step()
    >>> rates
    [0.5, 1.0, 0.85, 0.5, 0.15, 0.0]
    """
    if total_steps < 1:
        raise ValueError(f"total_steps must be at least 1, found {total_steps}.")
    if not 0 <= warmup_steps < total_steps:
        raise ValueError(f"warmup_steps must lie in 0 to total_steps - 1 = {total_steps - 1}, found {warmup_steps}.")
    if not 0 <= floor <= 1:
        raise ValueError(f"floor must lie between 0 and 1, found {floor}.")

    def factor(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / (warmup_steps + 1)
        progress = min(1.0, (step - warmup_steps) / (total_steps - warmup_steps))
        return floor + (1 - floor) * (1 + math.cos(math.pi * progress)) / 2

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


def adamw(
    module: torch.nn.Module,
    *,
    learning_rate: float,
    total_steps: int,
    warmup: float = 0.05,
    weight_decay: float = 0.01,
    betas: tuple[float, float] = (0.9, 0.95),
    floor: float = 0.1,
    undecayed: Sequence[str] = (),
) -> dict[str, Any]:
    """AdamW (Loshchilov and Hutter, 2019) with :func:`parameter_groups` and :func:`warmup_cosine`.

    Parameters
    ----------
    module
        The network.
    learning_rate
        The highest.
    total_steps
        Steps of the whole training: :func:`planned_steps`.
    warmup
        Share of the steps in which the rate rises, 0 to less than 1.
    weight_decay
        Of weight matrices, per step and unit of learning rate.
    betas
        Decay of the running means of the gradient and of its square. The second is lower than torch's 0.999: transformers
        meet sudden changes of the gradient's scale, which a long memory answers too late.
    floor
        The last learning rate as a share of the highest.
    undecayed
        As in :func:`parameter_groups`.

    Returns
    -------
    What ``configure_optimizers`` of a Lightning module returns.
    """
    if not 0 <= warmup < 1:
        raise ValueError(f"warmup must lie in [0, 1), found {warmup}.")
    groups = parameter_groups(module, weight_decay, undecayed=undecayed)
    optimizer = torch.optim.AdamW(groups, lr=learning_rate, betas=betas)
    warmup_steps = min(round(warmup * total_steps), total_steps - 1)
    schedule = warmup_cosine(optimizer, total_steps=total_steps, warmup_steps=warmup_steps, floor=floor)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def planned_steps(trainer: Trainer) -> int:
    """Optimizer steps until ``max_epochs``, for use in ``configure_optimizers``: the same in a resumed run.

    Lightning's own ``estimated_stepping_batches`` counts the first epoch by what is left of it, which would bend the
    schedule of a run that is resumed in the middle of that epoch.

    Parameters
    ----------
    trainer
        ``self.trainer`` of the module.

    Returns
    -------
    Steps, at least 1.
    """
    data: Any = getattr(trainer, "datamodule", None)
    if hasattr(data, "n_batches") and trainer.max_epochs is not None and trainer.max_epochs > 0:
        return max(1, int(data.n_batches) * trainer.max_epochs)
    return max(1, int(trainer.estimated_stepping_batches))
