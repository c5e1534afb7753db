"""Groups of sampled answers for stage III: over the trie of names or free, with the same masks in sampling and in scoring.

P prompts · G answers a prompt · N = P G answers · T answer tokens · V vocabulary
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Callable

_ALIKE = 1e-6  # standard deviation of a group's rewards below which it teaches nothing


class Continuation(Protocol):
    """A policy that has read N prompts and writes N answers side by side."""

    def logits(self) -> torch.Tensor:
        """(N, V) scores of each answer's next token."""
        ...

    def append(self, tokens: torch.Tensor) -> None:
        """Extend each answer by a token, (N,) int64; answers that are over get any."""
        ...


class NameTrie(Protocol):
    """Names as paths of tokens; see :class:`sclm.nn.Trie`."""

    child_ptr: np.ndarray
    child_token: np.ndarray
    child_node: np.ndarray


class Sampled(NamedTuple):
    """Answers as they were sampled.

    Attributes
    ----------
    ids
        (N, T) int64 tokens, the end of the answer included; padding is the end token.
    real
        (N, T) bool.
    legal
        (N, T, V) bool tokens that could have been drawn at each place, None without a trie.
    log_probs
        (N, T) of the tokens after mask and temperature; 0 at padding.
    entropy
        (N, T) nats of the distributions that they were drawn from; 0 at padding.
    finished
        (N,) bool: whether the answer came to its end.
    """

    ids: torch.Tensor
    real: torch.Tensor
    legal: torch.Tensor | None
    log_probs: torch.Tensor
    entropy: torch.Tensor
    finished: torch.Tensor


def sample_answers(
    policy: Continuation,
    n: int,
    *,
    trie: NameTrie | None,
    end: int,
    temperature: float,
    max_length: int,
    generator: torch.Generator,
) -> Sampled:
    """Draw n answers, token by token.

    Parameters
    ----------
    policy
        Has read the prompts.
    n
        N.
    trie
        Legal names, each ending in ``end``; None: every token is legal.
    end
        Token that ends an answer.
    temperature
        Above 1 explores: a trained policy that is sampled at 1 gives groups of equal answers.
    max_length
        Most tokens, the end included.
    generator
        Of the random numbers, on the CPU.

    Returns
    -------
    The answers.
    """
    if not temperature > 0:
        raise ValueError(f"temperature must be above 0, found {temperature}.")
    nodes = np.zeros(n, dtype=np.int64)
    over = torch.zeros(n, dtype=torch.bool)
    columns: list[tuple[torch.Tensor, ...]] = []
    while not bool(over.all()) and len(columns) < max_length:
        scores = policy.logits().float() / temperature  # (N, V)
        legal = None if trie is None else legal_tokens(trie, nodes, scores.shape[1])
        log_p = masked_log_softmax(scores, None if legal is None else legal.to(scores.device))
        p = log_p.exp().cpu()
        token = torch.multinomial(p, 1, generator=generator)[:, 0]
        token = torch.where(over, end, token)
        entropy = -torch.special.xlogy(p, p).sum(dim=1)
        picked = log_p.gather(1, token.to(log_p.device)[:, None])[:, 0].cpu()
        columns.append((token, ~over, picked, entropy, legal if legal is not None else p[:, :0].bool()))
        if trie is not None:
            nodes = step(trie, nodes, token.numpy(), over.numpy())
        over = over | (token == end)
        if not bool(over.all()):
            policy.append(token.to(scores.device))
    ids, real, log_probs, entropies, legals = (torch.stack(parts, dim=1) for parts in zip(*columns, strict=True))
    return Sampled(
        ids, real, None if trie is None else legals, torch.where(real, log_probs, 0.0), torch.where(real, entropies, 0.0), over
    )  # fmt: skip


def legal_tokens(trie: NameTrie, nodes: np.ndarray, size: int) -> torch.Tensor:
    """(N, V) bool tokens that lead on from nodes (N,); all of them at -1, where an answer is over."""
    legal = np.zeros((len(nodes), size), dtype=bool)
    for i, node in enumerate(nodes):
        if node < 0:
            legal[i] = True
        else:
            legal[i, trie.child_token[trie.child_ptr[node] : trie.child_ptr[node + 1]]] = True
    return torch.from_numpy(legal)


def step(trie: NameTrie, nodes: np.ndarray, tokens: np.ndarray, over: np.ndarray) -> np.ndarray:
    """Nodes (N,) after tokens (N,); -1 where the answer was or is over (the end has no node, or one without children)."""
    after = np.full_like(nodes, -1)
    for i, (node, token) in enumerate(zip(nodes, tokens, strict=True)):
        if over[i] or node < 0:
            continue
        first, last = trie.child_ptr[node], trie.child_ptr[node + 1]
        at = np.flatnonzero(trie.child_token[first:last] == token)
        if at.size:
            child = int(trie.child_node[first + at[0]])
            after[i] = child if child >= 0 and trie.child_ptr[child] < trie.child_ptr[child + 1] else -1
    return after


def masked_log_softmax(scores: torch.Tensor, legal: torch.Tensor | None) -> torch.Tensor:
    """Log probabilities (…, V) over the legal tokens; ``-inf`` at the others."""
    if legal is not None:
        scores = scores.masked_fill(~legal, -torch.inf)
    return torch.log_softmax(scores, dim=-1)


def answer_log_probs(
    logits: torch.Tensor, ids: torch.Tensor, real: torch.Tensor, legal: torch.Tensor | None, temperature: float
) -> torch.Tensor:
    """Log probability of each token of sampled answers under a policy, after the mask and temperature of the sampling.

    Parameters
    ----------
    logits
        (N, T, V): at place t the scores of the answer's token t.
    ids, real, legal
        As in :class:`Sampled`.
    temperature
        The one of the sampling.

    Returns
    -------
    (N, T) with gradients; 0 at padding.
    """
    log_p = masked_log_softmax(logits.float() / temperature, None if legal is None else legal | ~real[..., None])
    return torch.where(real, log_p.gather(-1, ids[..., None])[..., 0], 0.0)


class Groups(NamedTuple):
    """Groups of answers that teach something, and what was seen on the way.

    Attributes
    ----------
    prompts
        (P',) int64 which prompts are left.
    sampled
        Their answers, N' = P' G rows, those of a prompt side by side.
    rewards
        (N',) float32.
    statistics
        ``reward``, ``reward_sd``, ``zero_sd`` (share of groups without a difference), ``entropy`` (nats a token), ``resolvable``,
        ``exact``, ``depth`` (mean depth of the terms answered), ``finished``: of all groups that were sampled first.
    """

    prompts: np.ndarray
    sampled: Sampled
    rewards: torch.Tensor
    statistics: dict[str, float]


def sample_groups(
    draw: Callable[[np.ndarray, int], Sampled],
    judge: Callable[[Sampled, np.ndarray], tuple[np.ndarray, dict[str, float]]],
    n_prompts: int,
    group_size: int,
) -> Groups:
    """Sample a group for each prompt, drop those whose rewards are all equal, and sample once more where few are left.

    Parameters
    ----------
    draw
        ``draw(prompts, attempt)`` samples ``group_size`` answers of each of these prompts, side by side.
    judge
        ``judge(sampled, prompts)`` gives the rewards, and statistics of the answers.
    n_prompts
        P.
    group_size
        G.

    Returns
    -------
    What is left, perhaps nothing.
    """
    prompts = np.arange(n_prompts)
    first = draw(prompts, 0)
    rewards, statistics = judge(first, prompts)
    groups = rewards.reshape(n_prompts, group_size)
    alive = groups.std(axis=1) > _ALIKE
    statistics = statistics | {
        "reward": float(rewards.mean()),
        "reward_sd": float(rewards.std()),
        "zero_sd": float(1 - alive.mean()),
        "entropy": float(first.entropy.sum() / first.real.sum().clamp_min(1)),
        "finished": float(first.finished.float().mean()),
    }
    kept, parts = prompts[alive], [(first, rewards, alive)]
    if alive.sum() < n_prompts / 2:
        again = prompts[~alive]
        second = draw(again, 1)
        more, _ = judge(second, again)
        alive_now = more.reshape(-1, group_size).std(axis=1) > _ALIKE
        kept = np.concatenate([kept, again[alive_now]])
        parts.append((second, more, alive_now))
    rows = [np.repeat(mask, group_size) for _, _, mask in parts]
    sampled = _joined([_rows(s, r) for (s, _, _), r in zip(parts, rows, strict=True)])
    left = np.concatenate([r[mask] for (_, r, _), mask in zip(parts, rows, strict=True)])
    return Groups(kept, sampled, torch.from_numpy(left.astype(np.float32)), statistics)


def _rows(sampled: Sampled, rows: np.ndarray) -> Sampled:
    at = torch.from_numpy(np.flatnonzero(rows))
    return Sampled(*(None if x is None else x[at] for x in sampled))  # type: ignore[arg-type]


def _joined(parts: list[Sampled]) -> Sampled:
    """Below each other, padded to the longest; padding of ids repeats the last token, the end."""
    length = max(p.ids.shape[1] for p in parts)

    def widened(x: Any, fill: Any) -> torch.Tensor:
        missing = length - x.shape[1]
        if not missing:
            return x
        pad = (
            x[:, -1:].expand(-1, missing, *x.shape[2:])
            if fill is None
            else x.new_full((x.shape[0], missing, *x.shape[2:]), fill)
        )
        return torch.cat([x, pad], dim=1)

    fills = {"ids": None, "real": False, "legal": True, "log_probs": 0.0, "entropy": 0.0}
    fields: dict[str, Any] = {"finished": torch.cat([p.finished for p in parts])}
    for name, fill in fills.items():
        values = [getattr(p, name) for p in parts]
        fields[name] = None if values[0] is None else torch.cat([widened(v, fill) for v in values])
    return Sampled(**fields)


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
