"""Losses of the scGPT family: functions of tensors.

B cells · L tokens · D width
"""

from __future__ import annotations

import torch
from torch.nn import functional


def masked_mse(predicted: torch.Tensor, target: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Mean squared error over the positions of a mask, all (B, L); 0 where it is empty."""
    mask = mask.to(predicted.dtype)
    return ((predicted - target).square() * mask).sum() / mask.sum().clamp(min=1.0)


def expressed_nll(probability: torch.Tensor, target: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Mean negative log likelihood of being expressed (value above 0) or not over the positions of a mask, all (B, L)."""
    p = probability.float().clamp(1e-7, 1 - 1e-7)
    loss = -torch.where(target > 0, p, 1 - p).log()
    return (loss * mask).sum() / mask.sum().clamp(min=1.0)


def masked_relative_error(predicted: torch.Tensor, target: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    r"""Mean of :math:`|p - t| / (t + 10^{-6})` over the positions of a mask, all (B, L); zeros in it make it large."""
    return ((predicted - target).abs()[mask] / (target[mask] + 1e-6)).mean()


def elastic_similarity(cells: torch.Tensor, threshold: float) -> torch.Tensor:
    r"""Push cells that are alike together and others apart (elastic cell similarity).

    With :math:`s_{ij} = \max(0, \cos(c_i, c_j))`, zero on the diagonal, the loss is the mean over all pairs of
    :math:`1 - (s_{ij} - \beta)^2`. The diagonal adds the constant :math:`1 - \beta^2`.

    Parameters
    ----------
    cells
        (B, D).
    threshold
        β: similarities above are increased, those below decreased.

    Returns
    -------
    The loss.
    """
    unit = functional.normalize(cells, dim=1)
    similarity = (unit @ unit.T).fill_diagonal_(0.0).relu()  # (B, B)
    return (1 - (similarity - threshold).square()).mean()
