"""What a language model remembers of prompts, so that many answers can be read behind them.

B prompts · P positions of the longest · E positions added behind the prompts · N new positions · D width
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from transformers import Cache


class PromptCache:
    """Keys and values of prompts that were read once, with what continues them.

    Behind each prompt stands a tree: every position that was added sees the whole prompt and its own ancestors, nothing else. Many
    answers, or many branches of an ontology's names, are read behind one copy of the prompt, each as if it stood there alone.

    Made by :meth:`sclm.nn.PrefixLM.prompt_cache`, continued by :meth:`sclm.nn.PrefixLM.extend`.

    Attributes
    ----------
    lengths
        (B,) int64 positions of each prompt, prefix included; the prompts are padded on the right.
    hidden
        (B, D) hidden state at the last position of each prompt: what comes next is read from it.
    added
        E.
    """

    def __init__(self, cache: Cache, lengths: torch.Tensor, hidden: torch.Tensor, width: int, added: int = 0) -> None:
        self.cache: Any = cache
        self.lengths = lengths
        self.hidden = hidden
        self.added = added
        self._width = width  # P

    def __len__(self) -> int:
        """B, number of prompts."""
        return len(self.lengths)

    def share(self) -> PromptCache:
        """Another view of the same prompts: what is added to it does not show here. Copies no keys and values."""
        # Layers append by making new tensors, so that old ones can be shared.
        cache = copy.copy(self.cache)
        cache.layers = [copy.copy(layer) for layer in self.cache.layers]
        return PromptCache(cache, self.lengths, self.hidden, self._width, self.added)

    def rows(self, index: torch.Tensor) -> PromptCache:
        """A copy of some prompts, (n,) int64, in this order; a prompt may stand several times."""
        taken = self.share()
        index = index.to(self.lengths.device)
        for layer in taken.cache.layers:
            layer.keys = layer.keys[index.to(layer.keys.device)]
            layer.values = layer.values[index.to(layer.values.device)]
        taken.lengths, taken.hidden = self.lengths[index], self.hidden[index.to(self.hidden.device)]
        return taken

    def repeat(self, n: int) -> PromptCache:
        """A copy in which each prompt stands `n` times in a row."""
        return self.rows(torch.arange(len(self), device=self.lengths.device).repeat_interleave(n))

    def settled(self, lengths: torch.Tensor, hidden: torch.Tensor) -> PromptCache:
        """A copy in which added positions have become part of the prompts, as if the prompts had been read with them.

        Parameters
        ----------
        lengths
            (B,) int64: so many of the E added positions, the first ones, belong to each prompt; each has seen those before it. The
            others are dropped.
        hidden
            (B, D) hidden state at the last position of each longer prompt.

        Returns
        -------
        The same B prompts, padded on the right, with nothing added.
        """
        lengths = lengths.to(self.lengths.device)
        total = self.lengths + lengths
        width = max(1, int(total.max()))
        at = torch.arange(width, device=total.device)[None]  # (1, P')
        old = self.lengths[:, None]
        index = torch.where(at < old, at, self._width + at - old).clamp(max=self._width + self.added - 1)  # (B, P')
        longer = self.share()
        for layer in longer.cache.layers:
            here = index.to(layer.keys.device)[:, None, :, None]
            layer.keys = layer.keys.gather(2, here.expand(-1, layer.keys.shape[1], -1, layer.keys.shape[3]))
            layer.values = layer.values.gather(2, here.expand(-1, layer.values.shape[1], -1, layer.values.shape[3]))
        return PromptCache(longer.cache, total, hidden, width)

    def visible(self, sees: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """What N new positions see, as a number that is added to the attention: 0, or the lowest of `dtype`.

        Parameters
        ----------
        sees
            (B or 1, N, E + N) bool: which added positions, themselves among them, they see.
        dtype
            Of the attention scores.

        Returns
        -------
        (B, 1, N, P + E + N): one plane for all heads.
        """
        batch, n = len(self), sees.shape[1]
        prompt = torch.arange(self._width, device=self.lengths.device)[None] < self.lengths[:, None]  # (B, P)
        prompt = prompt[:, None].expand(batch, n, self._width)  # (B, P) → (B, N, P)
        whole = torch.cat([prompt, sees.to(prompt.device).expand(batch, n, -1)], dim=-1)  # (B, N, P + E + N)
        return torch.where(whole, 0.0, torch.finfo(dtype).min).to(dtype)[:, None]
