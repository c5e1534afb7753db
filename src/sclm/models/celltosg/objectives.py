"""The three losses, one a stage: anchor, align, reinforce. Pure functions of tensors; each can be called alone.

B cells · L tokens · V vocabulary · D width of the contrast · C candidate terms · N answers · T answer tokens · G group size
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch.nn import functional

IGNORED = -100  # a target that no loss is asked of
_COLDEST = 0.01  # least temperature of the contrast: colder ones make single negatives decide
_SPREAD = 1e-4  # added to a group's standard deviation, as in the published formula


def token_loss(logits: torch.Tensor, targets: torch.Tensor, *, label_smoothing: float = 0.0) -> torch.Tensor:
    """Cross-entropy of the next token, mean over the targets that are asked, nats.

    Parameters
    ----------
    logits
        (B, L, V): position i speaks of token i + 1.
    targets
        (B, L) int64: the token at each position itself; :data:`IGNORED` where nothing is asked. The first is never asked.
    label_smoothing
        Share of the target's probability that is spread over the vocabulary, 0 to 1.

    Returns
    -------
    A scalar; 0 where nothing is asked.
    """
    asked = targets[:, 1:]
    scores = logits[:, :-1]
    # (B, L - 1, V) → (B (L - 1), V)
    total = functional.cross_entropy(
        scores.reshape(-1, scores.shape[-1]).float(),
        asked.reshape(-1),
        ignore_index=IGNORED,
        reduction="sum",
        label_smoothing=label_smoothing,
    )
    return total / (asked != IGNORED).sum().clamp_min(1)


def anchor_loss(logits: torch.Tensor, sentences: torch.Tensor) -> torch.Tensor:
    """Stage I: nats a token of the cell sentence, read behind the virtual tokens of the graph.

    Parameters
    ----------
    logits
        (B, L, V), of the language model behind its prefix.
    sentences
        (B, L) int64 tokens of the sentence; :data:`IGNORED` at prompt words and padding.

    Returns
    -------
    A scalar.
    """
    return token_loss(logits, sentences)


def contrastive_loss(
    cells: torch.Tensor,
    terms: torch.Tensor,
    truth: torch.Tensor,
    allowed: torch.Tensor,
    temperature: torch.Tensor | float,
) -> torch.Tensor:
    r"""Graph-anchored InfoNCE with terms related to the truth left out of the negatives.

    .. math:: -\log \frac{\exp(z_i \cdot k_{y_i} / \tau)}{\sum_{c \in A_i} \exp(z_i \cdot k_c / \tau)}

    with :math:`A_i` the truth and all candidates that are neither its ancestors nor its descendants: "T cell" is no wrong
    answer for a CD4-positive T cell. Vectors are scaled to length 1, :math:`\tau \ge 0.01`.

    Parameters
    ----------
    cells, terms
        (B, D) vectors z of cells and (C, D) vectors k of candidate terms.
    truth
        (B,) int64 column of each cell's term.
    allowed
        (B, C) bool: which candidates count; the truth must be among them. See :func:`~sclm.models.celltosg.negatives.allowed`.
    temperature
        τ.

    Returns
    -------
    A scalar: the mean over cells. Equal vectors give the logarithm of the number of candidates.
    """
    tau = torch.as_tensor(temperature, dtype=cells.dtype, device=cells.device).clamp_min(_COLDEST)
    scores = functional.normalize(cells, dim=-1) @ functional.normalize(terms, dim=-1).T / tau  # (B, C)
    return functional.cross_entropy(scores.float().masked_fill(~allowed, -torch.inf), truth)


class AlignLoss(NamedTuple):
    """Loss of stage II and its two parts, scalars."""

    total: torch.Tensor
    answer: torch.Tensor
    contrast: torch.Tensor


def align_loss(
    logits: torch.Tensor,
    answers: torch.Tensor,
    cells: torch.Tensor,
    terms: torch.Tensor,
    truth: torch.Tensor,
    allowed: torch.Tensor,
    *,
    temperature: torch.Tensor | float = 0.07,
    contrast_weight: float = 0.5,
    label_smoothing: float = 0.0,
) -> AlignLoss:
    """Stage II: supervised answers, and cells drawn to the graph node of their type.

    Parameters
    ----------
    logits
        (B, L, V) of prompt and answer behind the prefix.
    answers
        (B, L) int64; :data:`IGNORED` at all but the answer.
    cells, terms, truth, allowed, temperature
        As :func:`contrastive_loss` takes them. Cells whose answer is no cell type have ``truth`` -1 and are left out of it.
    contrast_weight
        λ of the second part, 0 or more.
    label_smoothing
        Of the first part: a policy that is sure of itself has nothing left to explore in stage III.

    Returns
    -------
    Total, answer and contrast.
    """
    answer = token_loss(logits, answers, label_smoothing=label_smoothing)
    named = truth >= 0
    if contrast_weight and bool(named.any()):
        contrast = contrastive_loss(cells[named], terms, truth[named], allowed[named], temperature)
    else:
        contrast = answer.new_zeros(())
    return AlignLoss(answer + contrast_weight * contrast, answer, contrast)


def group_advantages(rewards: torch.Tensor, group_size: int) -> torch.Tensor:
    r"""Rewards relative to their group: :math:`(r - \bar r) / (s + 10^{-4})`, s the sample standard deviation.

    Parameters
    ----------
    rewards
        (N,) with the answers of a group side by side.
    group_size
        G, at least 2; divides N.

    Returns
    -------
    (N,) advantages; 0 in a group whose rewards are all equal.
    """
    if group_size < 2 or rewards.numel() % group_size:
        raise ValueError(f"group_size must be at least 2 and divide {rewards.numel()} rewards, found {group_size}.")
    groups = rewards.reshape(-1, group_size)  # (N / G, G)
    centred = groups - groups.mean(dim=1, keepdim=True)
    return (centred / (groups.std(dim=1, keepdim=True) + _SPREAD)).reshape(-1)


class GRPOLoss(NamedTuple):
    """Loss of stage III, with its mean divergence from the reference (nats a token) and the share of clipped tokens."""

    total: torch.Tensor
    kl: torch.Tensor
    clipped: torch.Tensor


def grpo_loss(
    log_probs: torch.Tensor,
    old_log_probs: torch.Tensor,
    advantages: torch.Tensor,
    real: torch.Tensor,
    *,
    reference_log_probs: torch.Tensor | None = None,
    kl_weight: float = 0.0,
    weigh_kl: bool = False,
    clip: tuple[float, float] = (0.2, 0.28),
    aggregation: str = "dapo",
) -> GRPOLoss:
    r"""Stage III: group-relative policy optimisation (Shao et al. 2024; upper clip and token mean of Yu et al. 2025, DAPO).

    With the ratio :math:`\rho = \pi / \pi_{old}` of each token,
    :math:`\ell = -\min(\rho A,\ \mathrm{clip}(\rho, 1 - \epsilon_{low}, 1 + \epsilon_{high}) A) + \beta\,\mathrm{KL}`, and
    :math:`\mathrm{KL} = e^{r - p} - (r - p) - 1` of the log probabilities p of the policy and r of the reference.

    Parameters
    ----------
    log_probs, old_log_probs, reference_log_probs
        (N, T) log probabilities of the sampled tokens: now, when they were sampled, and under the policy of stage II; all of
        them after the same mask of legal tokens and the same temperature.
    advantages
        (N,), from :func:`group_advantages`.
    real
        (N, T) bool, False for padding.
    kl_weight
        β, 0 or more; above 0 needs ``reference_log_probs``.
    weigh_kl
        Multiply the divergence by the ratio ρ, which makes its gradient that of the reverse divergence without bias: trl's
        default since DeepSeek-V3.2. False is the published formula of GRPO.
    clip
        ε low and high.
    aggregation
        ``"dapo"``: mean over all tokens. ``"grpo"``: mean over each answer's tokens, then over answers.

    Returns
    -------
    Total, kl and clipped.
    """
    if aggregation not in ("dapo", "grpo"):
        raise ValueError(f"aggregation must be 'dapo' or 'grpo', found {aggregation!r}.")
    if kl_weight and reference_log_probs is None:
        raise ValueError(f"kl_weight={kl_weight} needs reference_log_probs, found None.")
    weight = real.to(log_probs.dtype)
    a = advantages[:, None]  # (N, 1)
    ratio = torch.exp(torch.where(real, log_probs - old_log_probs, 0.0))
    low, high = 1 - clip[0], 1 + clip[1]
    loss = -torch.minimum(ratio * a, ratio.clamp(low, high) * a)  # (N, T)
    tokens = weight.sum().clamp_min(1)
    kl = loss.new_zeros(())
    if reference_log_probs is not None:
        gap = torch.where(real, reference_log_probs - log_probs, 0.0)
        divergence = (torch.exp(gap) - gap - 1) * (ratio if weigh_kl else 1.0)
        loss = loss + kl_weight * divergence
        kl = (divergence * weight).sum().detach() / tokens
    if aggregation == "dapo":
        total = (loss * weight).sum() / tokens
    else:
        total = ((loss * weight).sum(dim=1) / weight.sum(dim=1).clamp_min(1)).mean()
    clipped = ((ratio < low) & (a < 0)) | ((ratio > high) & (a > 0))
    return GRPOLoss(total, kl, (clipped * weight).sum() / tokens)
