"""Groups of sampled answers for stage III: over the trie of names or free, with the same masks in sampling and in scoring.

P prompts · G answers a prompt · N = P G answers · T answer tokens · V vocabulary · K virtual tokens · D width
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from sclm.nn import Packed, masked_log_probs, sample_names, write_text

if TYPE_CHECKING:
    from collections.abc import Callable

    from sclm.nn import PrefixLM, Trie

_ALIKE = 1e-6  # standard deviation of a group's rewards below which it teaches nothing


class Sampled(NamedTuple):
    """Answers as they were sampled, those of a prompt side by side.

    Attributes
    ----------
    answers
        N answers; over a trie each to its end, free ones perhaps cut off.
    nodes
        (N, T) int64 node of the trie from which each token was drawn, -1 at padding; None for free answers.
    names
        (N,) int64 place of the name in the trie, -1 for free answers.
    """

    answers: Packed
    nodes: np.ndarray | None
    names: np.ndarray

    def rows(self, at: np.ndarray) -> Sampled:
        """Some of the answers, (n,) int64."""
        nodes = None if self.nodes is None else self.nodes[at]
        return Sampled(self.answers.rows(torch.from_numpy(at)), nodes, self.names[at])


def sample(
    lm: PrefixLM,
    prefix: torch.Tensor | None,
    prompts: Packed,
    trie: Trie | None,
    *,
    group_size: int,
    temperature: float,
    generator: torch.Generator,
    max_tokens: int = 32,
) -> Sampled:
    """Draw answers.

    Parameters
    ----------
    lm, prefix, prompts
        The policy, P virtual tokens (P, K, D), P prompts.
    trie
        Legal names; None: free text.
    group_size
        G.
    temperature
        Above 1 explores: a trained policy that is sampled at 1 gives groups of equal answers.
    generator
        On the CPU.
    max_tokens
        Of free answers.

    Returns
    -------
    P G answers.
    """
    with torch.no_grad():
        cache = lm.prompt_cache(prefix, prompts)
        if trie is not None:
            drawn = sample_names(lm, cache, trie, n=group_size, temperature=temperature, seed=generator)
            return Sampled(drawn.tokens, drawn.nodes, drawn.names)
        seeds = torch.randint(2**62, (len(prompts.ids) * group_size,), generator=generator).tolist()
        texts = write_text(lm, cache.repeat(group_size), max_tokens=max_tokens, temperature=temperature, seeds=seeds)
    end = [] if lm.eos is None else [lm.eos]
    answers = [text if len(text) == max_tokens else [*text, *end] for text in texts]
    return Sampled(lm.pack(answers), None, np.full(len(answers), -1, dtype=np.int64))


def log_probs(
    lm: PrefixLM,
    prefix: torch.Tensor | None,
    prompts: Packed,
    sampled: Sampled,
    trie: Trie | None,
    *,
    group_size: int,
    temperature: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log probability of each token of sampled answers, under the masks and the temperature of the sampling.

    Parameters
    ----------
    lm, prefix, prompts, trie, group_size, temperature
        As in :func:`sample`; the policy may have other weights by now.
    sampled
        The answers.

    Returns
    -------
    (N, T) log probabilities with gradients, 0 at padding; (N, T) entropies of the distributions, nats, without.
    """
    answers = sampled.answers
    rows = torch.arange(len(prompts.ids), device=prompts.ids.device).repeat_interleave(group_size)
    logits = lm.answer_logits(None if prefix is None else prefix[rows], prompts.rows(rows), answers)
    mask = None
    if trie is not None and sampled.nodes is not None:
        mask = torch.from_numpy(trie.masks(sampled.nodes, lm.vocab_size)).to(logits.device)
    spread = masked_log_probs(logits, mask, temperature)  # (N, T, V)
    found = spread.gather(-1, answers.ids[..., None])[..., 0]
    p = spread.detach().exp()
    entropy = -(p * torch.where(p > 0, spread.detach(), 0.0)).sum(-1)
    return torch.where(answers.real, found, 0.0), torch.where(answers.real, entropy, 0.0)


class Groups(NamedTuple):
    """Groups of answers that teach something, and what was seen on the way.

    Attributes
    ----------
    prompts
        (P',) int64 which prompts are left.
    sampled
        Their answers, N' = P' G, those of a prompt side by side.
    rewards
        (N',) float32.
    statistics
        ``reward``, ``reward_sd``, ``zero_sd`` (share of groups without a difference), and what `judge` counts; of all groups that
        were sampled first.
    """

    prompts: np.ndarray
    sampled: Sampled
    rewards: torch.Tensor
    statistics: dict[str, float]


def sample_groups(
    draw: Callable[[np.ndarray], Sampled],
    judge: Callable[[Sampled, np.ndarray], tuple[np.ndarray, dict[str, float]]],
    n_prompts: int,
    group_size: int,
) -> Groups:
    """Sample a group for each prompt, drop those whose rewards are all equal, and sample once more where few are left.

    Parameters
    ----------
    draw
        ``draw(prompts)`` samples `group_size` answers of each of these prompts, side by side.
    judge
        ``judge(sampled, prompts)`` gives the rewards, (N,), and statistics of the answers.
    n_prompts
        P.
    group_size
        G.

    Returns
    -------
    What is left, perhaps nothing.
    """
    prompts = np.arange(n_prompts)
    first = draw(prompts)
    rewards, statistics = judge(first, prompts)
    alive = rewards.reshape(n_prompts, group_size).std(axis=1) > _ALIKE  # (N,) → (P, G)
    statistics = statistics | {
        "reward": float(rewards.mean()),
        "reward_sd": float(rewards.std()),
        "zero_sd": float(1 - alive.mean()),
    }
    parts = [(prompts[alive], first, rewards, alive)]
    if alive.sum() < n_prompts / 2:
        again = prompts[~alive]
        second = draw(again)
        more, _ = judge(second, again)
        alive = more.reshape(-1, group_size).std(axis=1) > _ALIKE
        parts.append((again[alive], second, more, alive))
    rows = [np.flatnonzero(np.repeat(mask, group_size)) for *_, mask in parts]
    kept = _joined([s.rows(r) for (_, s, _, _), r in zip(parts, rows, strict=True)])
    left = np.concatenate([values[r] for (_, _, values, _), r in zip(parts, rows, strict=True)])
    which = np.concatenate([p for p, *_ in parts])
    return Groups(which, kept, torch.from_numpy(left.astype(np.float32)), statistics)


def _joined(parts: list[Sampled]) -> Sampled:
    """Below each other, padded to the longest."""
    if len(parts) == 1:
        return parts[0]
    sequences = [
        row[:n].tolist()
        for part in parts
        for row, n in zip(part.answers.ids, part.answers.lengths.tolist(), strict=True)
    ]
    answers = Packed.of(sequences, parts[0].answers.ids.device)
    nodes = None
    if parts[0].nodes is not None:
        nodes = np.full(answers.ids.shape, -1, dtype=np.int64)
        start = 0
        for part in parts:
            mine = part.nodes
            if mine is not None:
                width = min(mine.shape[1], nodes.shape[1])  # a part may be padded beyond what is left of it
                nodes[start : start + len(mine), :width] = mine[:, :width]
                start += len(mine)
    return Sampled(answers, nodes, np.concatenate([part.names for part in parts]))


class CollapseGuard:
    """Says when a policy has left its reference, or has nothing left to explore.

    Parameters
    ----------
    max_kl
        Nats a token.
    min_entropy
        Share of the entropy of the first step.
    """

    def __init__(self, *, max_kl: float = 0.5, min_entropy: float = 0.05) -> None:
        self.max_kl, self.min_entropy = max_kl, min_entropy
        self.first: float | None = None

    def reason(self, kl: float, entropy: float) -> str | None:
        """``"kl"`` or ``"entropy"`` where training should stop, else None."""
        if self.first is None:
            self.first = entropy
        if kl > self.max_kl:
            return "kl"
        return "entropy" if entropy < self.min_entropy * self.first else None
