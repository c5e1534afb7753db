"""The distribution of the next token: one definition for drawing and scoring."""

from __future__ import annotations

import torch

# Scores of the vocabulary that are held at a time: what stays in the cache of a CPU (2 MB), and 128 MB elsewhere.
_MANY = {"cpu": 2**19}
_MANY_ELSEWHERE = 2**25


def masked_log_probs(logits: torch.Tensor, mask: torch.Tensor | None, temperature: float = 1.0) -> torch.Tensor:
    r"""Log-probabilities of the next token among those that are allowed; the one definition for drawing and scoring.

    .. math:: \log p(t) = z_t / T - \log \sum_{u \in \mathrm{allowed}} e^{z_u / T}

    Parameters
    ----------
    logits
        (…, V) scores z.
    mask
        (…, V) bool, True for allowed; None: all. Where nothing is allowed all are.
    temperature
        T > 0.

    Returns
    -------
    (…, V) float32, minus infinity where not allowed.
    """
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, found {temperature}.")
    scores = logits.float()
    if temperature != 1:
        scores = scores / temperature
    if mask is not None:
        mask = mask.to(scores.device)
        scores = scores.masked_fill(~(mask | ~mask.any(-1, keepdim=True)), -torch.inf)
    return torch.log_softmax(scores, dim=-1)


def rows_at_a_time(vocab_size: int, device: torch.device) -> int:
    """Hidden states whose scores of the vocabulary are held at once, so that memory stays bounded."""
    return max(64, _MANY.get(device.type, _MANY_ELSEWHERE) // vocab_size)
