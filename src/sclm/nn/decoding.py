"""Draw answers token by token: names of a trie for reinforcement learning, and free text.

B prompts · n answers of each · T tokens · V vocabulary
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from sclm.nn.packing import Packed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sclm.nn.prefix_lm import PrefixLM
    from sclm.nn.prompt_cache import PromptCache
    from sclm.nn.trie import Trie

_TOGETHER = 64


@torch.no_grad()
def read_on(lm: PrefixLM, prompts: PromptCache, tokens: Packed) -> PromptCache:
    """Prompts that were read once, continued: only the new tokens are read.

    Parameters
    ----------
    lm
        The language model.
    prompts
        From :meth:`~sclm.nn.PrefixLM.prompt_cache`, or from here; unchanged.
    tokens
        What follows each prompt; may be of different lengths, and empty.

    Returns
    -------
    The longer prompts, as :meth:`~sclm.nn.PrefixLM.prompt_cache` gives them when it reads them from the beginning.

    Raises
    ------
    ValueError
        If there is not one sequence for each prompt, or the prompts have something added.
    """
    if len(tokens.ids) != len(prompts):
        raise ValueError(f"expected one sequence for each of {len(prompts)} prompts, found {len(tokens.ids)}.")
    if prompts.added:
        raise ValueError(f"expected prompts that nothing was added to, found {prompts.added} added positions.")
    n, device = tokens.ids.shape[1], prompts.lengths.device
    longer = prompts.share()
    before = torch.ones(1, n, n, dtype=torch.bool, device=device).tril()
    states = lm.extend(longer, tokens.ids.to(device), torch.arange(n, device=device)[None], before)  # (B, N, D)
    last = (tokens.lengths - 1).clamp(min=0).to(states.device)
    hidden = states[torch.arange(len(states), device=states.device), last]
    hidden = torch.where((tokens.lengths > 0).to(hidden.device)[:, None], hidden, prompts.hidden.to(hidden.device))
    return longer.settled(tokens.lengths, hidden)


class SampledNames(NamedTuple):
    """Names that were drawn.

    Attributes
    ----------
    tokens
        (B * n,) answers, padded on the right; those of a prompt stand together.
    nodes
        (B * n, T) int64: node of the trie from which each token was drawn, -1 where padded. ``trie.masks(nodes, V)`` is the mask under
        which :meth:`~sclm.nn.PrefixLM.answer_log_probs` gives the same log-probabilities again.
    log_probs
        (B * n, T) float32 at the temperature of the draw, 0 where padded.
    names
        (B * n,) int64: place of the name in the trie; the first where several end at one node.
    """

    tokens: Packed
    nodes: np.ndarray
    log_probs: torch.Tensor
    names: np.ndarray


@torch.no_grad()
def sample_names(
    lm: PrefixLM,
    prompts: PromptCache,
    trie: Trie,
    *,
    n: int = 1,
    temperature: float = 1.0,
    seed: int | torch.Generator = 0,
) -> SampledNames:
    """Draw names: at each step among the tokens that the trie allows.

    Parameters
    ----------
    lm
        The language model.
    prompts
        From :meth:`~sclm.nn.PrefixLM.prompt_cache`; unchanged. All answers of a prompt are read behind its one copy.
    trie
        The names.
    n
        Answers a prompt.
    temperature
        Above 1 flatter.
    seed
        Of the draws, or a generator on the CPU to go on with.

    Returns
    -------
    Tokens, nodes, log-probabilities and names.
    """
    if n < 1:
        raise ValueError(f"n must be at least 1, found {n}.")
    if n > _TOGETHER:  # answers that stand behind one prompt cost the square of their number
        return sample_names(lm, prompts.repeat(n), trie, temperature=temperature, seed=seed)
    generator = seed if isinstance(seed, torch.Generator) else torch.Generator().manual_seed(seed)
    batch, device = len(prompts), prompts.lengths.device
    goes_on = np.diff(trie.child_ptr) > 0
    name_at = np.full(len(trie), -1, dtype=np.int64)
    name_at[trie.name_node[::-1]] = np.arange(trie.n_names)[::-1]
    tree = prompts.share()
    at = np.zeros((batch, n), dtype=np.int64)  # node of each answer
    hidden = prompts.hidden[:, None].expand(-1, n, -1)  # (B, D) → (B, n, D)
    tokens, nodes, found = [], [], []
    while (open_ := goes_on[at]).any():
        mask = torch.as_tensor(trie.masks(np.where(open_, at, -1), lm.vocab_size), device=device)  # (B, n, V)
        spread = lm.next_log_probs(hidden, mask, temperature).cpu()
        drawn = torch.multinomial(spread.exp().reshape(batch * n, -1), 1, generator=generator).reshape(batch, n)
        picked = spread.gather(-1, drawn[..., None])[..., 0]  # (B, n)
        tokens.append(np.where(open_, drawn.numpy(), 0))
        nodes.append(np.where(open_, at, -1))
        found.append(torch.where(torch.as_tensor(open_), picked, 0.0))
        stepped = trie.step(np.where(open_, at, -1).reshape(-1), tokens[-1].reshape(-1)).reshape(batch, n)
        at = np.where(open_, stepped, at)
        if not goes_on[at].any():
            break
        step = len(tokens)  # each answer sees its own tokens: one in every n positions
        own = torch.eye(n, dtype=torch.bool, device=device).repeat(1, step)[None]  # (1, n, n * step)
        depth = torch.full((1, n), step - 1, dtype=torch.int64, device=device)
        hidden = lm.extend(tree, torch.as_tensor(tokens[-1], device=device), depth, own)
    nodes_ = np.stack(nodes, axis=-1).reshape(batch * n, -1)  # (B, n, T) → (B * n, T)
    ids = torch.as_tensor(np.stack(tokens, axis=-1).reshape(batch * n, -1), device=device)
    lengths = torch.as_tensor((nodes_ >= 0).sum(axis=1), device=device)
    log_probs = torch.stack(found, dim=-1).reshape(batch * n, -1).to(device)
    return SampledNames(Packed(ids, lengths), nodes_, log_probs, name_at[at.reshape(-1)])


@torch.no_grad()
def write_text(
    lm: PrefixLM,
    prompts: PromptCache,
    *,
    max_tokens: int,
    stop: Sequence[int] = (),
    temperature: float = 0.0,
    seeds: Sequence[int] | None = None,
) -> list[list[int]]:
    """Write on after each prompt, until a token of the end or `max_tokens`.

    Parameters
    ----------
    lm
        The language model.
    prompts
        From :meth:`~sclm.nn.PrefixLM.prompt_cache`; unchanged.
    max_tokens
        Most tokens a prompt.
    stop
        Tokens that end a text besides ``lm.eos``.
    temperature
        0: always the most probable token.
    seeds
        With a temperature: a seed a prompt, so that a text does not depend on the prompts beside it.

    Returns
    -------
    Tokens of each text, without the prompt and without the token of the end.
    """
    if temperature < 0:
        raise ValueError(f"temperature must be 0 or more, found {temperature}.")
    if temperature and (seeds is None or len(seeds) != len(prompts)):
        raise ValueError(f"drawing needs a seed for each of {len(prompts)} prompts, found {seeds!r}.")
    ends = {int(i) for i in stop} | ({lm.eos} if lm.eos is not None else set())
    generators = [np.random.default_rng(seed) for seed in seeds or ()]
    texts: list[list[int]] = [[] for _ in range(len(prompts))]
    rows = np.arange(len(prompts))  # that are still written
    tree = prompts.share()
    hidden = prompts.hidden
    for step in range(max_tokens):
        scores = lm.lm.logits(hidden).float()  # (B, V)
        if temperature:
            chances = torch.softmax(scores.double() / temperature, dim=-1).cumsum(-1).cpu()
            points = torch.tensor([[generators[row].random()] for row in rows], dtype=torch.float64)
            tokens = torch.searchsorted(chances, points * chances[:, -1:], right=True)[:, 0]
            tokens = tokens.clamp(max=lm.vocab_size - 1)
        else:
            tokens = scores.argmax(dim=-1).cpu()
        going = np.array([int(t) not in ends for t in tokens], dtype=bool)
        for row, token in zip(rows[going], tokens[torch.as_tensor(going)], strict=True):
            texts[row].append(int(token))
        if not going.any() or step + 1 == max_tokens:
            break
        if not going.all():
            keep = torch.as_tensor(np.flatnonzero(going))
            tree, tokens, rows = tree.rows(keep), tokens[keep], rows[going]
        sees = torch.ones(1, 1, step + 1, dtype=torch.bool, device=tree.lengths.device)
        depth = torch.full((1, 1), step, dtype=torch.int64)
        hidden = lm.extend(tree, tokens[:, None].to(tree.lengths.device), depth, sees)[:, 0]
    return texts
