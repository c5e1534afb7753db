"""The one objective: nats a cell needed to say its depth, its programmes and the fields that were left open."""

from __future__ import annotations

import torch


def negative_log_likelihood(
    levels: torch.Tensor, bins: torch.Tensor, fields: list[torch.Tensor], asked: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cross-entropy in nats, summed over a cell's tokens and averaged over cells.

    Parameters
    ----------
    levels
        (B, S, Q) log probabilities of the levels of each slot.
    bins
        (B, S) int64 true levels.
    fields
        For each field (B, n_values) log probabilities.
    asked
        (B, F) int64 true values of fields that were left open, -1: not asked.

    Returns
    -------
    Nats a cell of the slots, and of the fields.
    """
    of_slots = -levels.gather(-1, bins[..., None])[..., 0].sum(dim=1).mean()
    of_fields = levels.new_zeros(())
    for f, log_p in enumerate(fields):
        known = asked[:, f] >= 0
        picked = log_p.gather(-1, asked[:, f].clamp_min(0)[:, None])[:, 0]
        of_fields = of_fields - torch.where(known, picked, 0.0).sum() / len(asked)
    return of_slots, of_fields
