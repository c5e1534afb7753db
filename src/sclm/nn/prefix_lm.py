"""A language model that reads vectors before text: prompts, answers and their probabilities, and prompts read once.

B sequences · K prefix positions · L tokens · D width · V vocabulary · S start tokens (0 or 1)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch

from sclm.nn.causal_lm import CausalLM
from sclm.nn.next_token import masked_log_probs
from sclm.nn.packing import Packed
from sclm.nn.pretrained import load_tokenizer, same_base
from sclm.nn.prompt_cache import PromptCache
from sclm.nn.tokenizers import HubTokenizer, WordVocabulary, encode_after

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from sclm.nn.tokenizers import TextTokenizer


class PrefixLM(torch.nn.Module):
    """A causal language model with its tokenizer, behind a prefix of vectors ("virtual tokens").

    A sequence is ``[start token, where the model has one][prefix (B, K, D)][tokens (B, L)]``, padded on the right.

    Made by :meth:`from_scratch` or :meth:`pretrained`.

    Attributes
    ----------
    lm
        The network.
    tokenizer
        Its text: ``encode``, ``decode``, ``start``, ``eos``.
    """

    PRESETS: ClassVar[dict[str, dict[str, Any]]] = {
        "tiny": {"width": 64, "layers": 2, "heads": 4},
        "small": {"width": 128, "layers": 4, "heads": 4},
        "medium": {"width": 384, "layers": 8, "heads": 6},
    }

    def __init__(self, lm: CausalLM, tokenizer: TextTokenizer) -> None:
        super().__init__()
        if len(tokenizer) > lm.vocab_size:
            raise ValueError(
                f"The tokenizer has {len(tokenizer):,} tokens and the network embeds {lm.vocab_size:,}: they do not belong together."
            )
        self.lm = lm
        self.tokenizer = tokenizer

    @classmethod
    def from_scratch(
        cls,
        *,
        texts: Iterable[str] = (),
        words: Iterable[str] = (),
        vocabulary: WordVocabulary | None = None,
        preset: str = "tiny",
        max_length: int = 2048,
        seed: int = 0,
        **sizes: Any,
    ) -> Self:
        """A small model with random weights and a vocabulary of whole words.

        Parameters
        ----------
        texts, words
            What the vocabulary is made of: see :meth:`~sclm.nn.WordVocabulary.from_texts`.
        vocabulary
            One that is there, instead of these; keep ``vocabulary.tokens`` in the checkpoint.
        preset
            ``"tiny"``, ``"small"`` or ``"medium"``.
        max_length
            Longest sequence.
        seed
            Of the weights.
        **sizes
            ``width``, ``layers``, ``heads``, ``dropout`` as in :meth:`CausalLM.from_scratch`, over the preset.

        Returns
        -------
        The model, float32 on the CPU, all of it trainable.
        """
        if preset not in cls.PRESETS:
            raise ValueError(f"preset must be one of {', '.join(map(repr, cls.PRESETS))}, found {preset!r}.")
        vocabulary = vocabulary or WordVocabulary.from_texts(texts, words=words)
        settings = {**cls.PRESETS[preset], **sizes}
        return cls(
            CausalLM.from_scratch(max_length=max_length, vocab_size=len(vocabulary), seed=seed, **settings), vocabulary
        )

    @classmethod
    def pretrained(
        cls,
        name: str | Path,
        *,
        lora_rank: int = 16,
        lora_dropout: float = 0.0,
        dtype: str | torch.dtype | None = None,
        device_map: str | dict[str, Any] | None = None,
        revision: str | None = None,
        fingerprint: str = "",
        seed: int = 0,
    ) -> Self:
        """A language model of a hub or a folder with its tokenizer, frozen, with LoRA: see :meth:`CausalLM.pretrained`.

        Parameters
        ----------
        name
            ``"hf:organisation/name"`` or a folder in the layout of transformers.
        lora_rank
            Rank of the adapters; 0 for none.
        lora_dropout, dtype, device_map, revision, seed
            As in :meth:`CausalLM.pretrained`.
        fingerprint
            What :attr:`fingerprint` must be; empty for any.

        Returns
        -------
        The model.

        Raises
        ------
        FileNotFoundError
            If model or tokenizer are not to be had.
        ValueError
            If the model is not the one of the fingerprint, or a parameter is out of range.
        """
        lm = CausalLM.pretrained(
            name,
            lora_rank=lora_rank,
            lora_dropout=lora_dropout,
            revision=revision,
            dtype=dtype,
            device_map=device_map,
            seed=seed,
        )
        same_base(fingerprint, lm.fingerprint, str(name))
        tokenizer = HubTokenizer(load_tokenizer(str(name), revision))
        if tokenizer.eos is None:
            ends = getattr(lm.body.config.get_text_config(decoder=True), "eos_token_id", None)
            tokenizer.eos = ends[0] if isinstance(ends, list) else ends
        return cls(lm, tokenizer)

    # ------------------------------------------------------------------ facts

    @property
    def width(self) -> int:
        """D."""
        return self.lm.width

    @property
    def n_layers(self) -> int:
        """Layers of the network."""
        return int(self.lm.body.config.get_text_config(decoder=True).num_hidden_layers)

    @property
    def vocab_size(self) -> int:
        """V."""
        return self.lm.vocab_size

    @property
    def eos(self) -> int | None:
        """Token that ends an answer; None where the tokenizer has none."""
        return self.tokenizer.eos

    @property
    def fingerprint(self) -> str:
        """What tells a pretrained base from another, empty where made from scratch: belongs into the checkpoint."""
        return self.lm.fingerprint

    @property
    def rms(self) -> float:
        """Root mean square of the text embeddings at the input: the scale that a prefix should have."""
        ids = torch.arange(min(self.vocab_size, 4096), device=self.device)
        with torch.no_grad():
            return float(self.lm.embed(ids[None]).float().square().mean().sqrt())

    @property
    def device(self) -> torch.device:
        """Where the embeddings are."""
        return self.lm.body.get_input_embeddings().weight.device

    # ------------------------------------------------------------------ text

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of texts, without special tokens."""
        return [self.tokenizer.encode(text) for text in texts]

    def encode_after(self, context: str, texts: Iterable[str]) -> list[list[int]]:
        """Token ids of texts as they are written after the end of a prompt: see :func:`sclm.nn.tokenizers.encode_after`."""
        return encode_after(self.tokenizer, context, texts)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of token ids; special tokens are left out."""
        return self.tokenizer.decode(ids)

    def pack(self, sequences: Sequence[Sequence[int]]) -> Packed:
        """Token sequences as one array on the device of the model."""
        return Packed.of(sequences, self.device)

    # ------------------------------------------------------------------ reading

    def embed_ids(self, ids: torch.Tensor) -> torch.Tensor:
        """Embeddings (B, L, D) of token ids (B, L) int64, as the model wants them at its input."""
        return self.lm.embed(ids)

    def _inputs(self, prefix: torch.Tensor | None, ids: torch.Tensor) -> torch.Tensor:
        """(B, S + K + L, D) at the input."""
        start = torch.tensor(self.tokenizer.start, dtype=torch.int64, device=ids.device)
        if prefix is None:
            return self.embed_ids(torch.cat([start.expand(len(ids), -1), ids], dim=1))
        if prefix.ndim != 3 or prefix.shape[0] != len(ids) or prefix.shape[2] != self.width:
            raise ValueError(f"prefix must have shape ({len(ids)}, K, {self.width}), found {tuple(prefix.shape)}.")
        tokens = self.embed_ids(ids)
        first = self.embed_ids(start.expand(len(ids), -1))
        return torch.cat([first, prefix.to(tokens.dtype), tokens], dim=1)

    def before(self, prefix: torch.Tensor | None) -> int:
        """S + K, positions before the first token."""
        return len(self.tokenizer.start) + (0 if prefix is None else prefix.shape[1])

    def states(self, prefix: torch.Tensor | None, ids: torch.Tensor, layer: int = -1) -> torch.Tensor:
        """Hidden states of start, prefix and tokens.

        Parameters
        ----------
        prefix
            (B, K, D), or None.
        ids
            (B, L) int64; a row may be padded on the right.
        layer
            0 the input of the first layer, -1 after the last layer and the last norm.

        Returns
        -------
        (B, S + K + L, D).
        """
        inputs = self._inputs(prefix, ids)
        if layer == -1:
            return self.lm(inputs)
        states = self.lm.body(inputs_embeds=inputs, use_cache=False, output_hidden_states=True).hidden_states
        return states[layer]

    def logits(self, prefix: torch.Tensor | None, ids: torch.Tensor, real: torch.Tensor | None = None) -> torch.Tensor:
        """Scores of the next token at each token.

        Parameters
        ----------
        prefix
            (B, K, D), or None.
        ids
            (B, L) int64, padded on the right.
        real
            (B, L) bool, True where a token stands: only checked for padding on the right, where no mask is needed.

        Returns
        -------
        (B, L, V): position i gives the scores of token i + 1.
        """
        if real is not None and bool((real[:, 1:] & ~real[:, :-1]).any()):
            raise ValueError("tokens must be padded on the right, found a token behind padding.")
        return self.lm.logits(self.states(prefix, ids)[:, self.before(prefix) :])

    def answer_log_probs(
        self,
        prefix: torch.Tensor | None,
        prompts: Packed,
        answers: Packed,
        *,
        mask: torch.Tensor | None = None,
        temperature: float = 1.0,
    ) -> torch.Tensor:
        """Log-probability of each token of an answer after its prompt, as :func:`sclm.nn.masked_log_probs` defines it.

        Gradients flow. An answer is written to its end: add the token :attr:`eos` where the end belongs to it.

        Parameters
        ----------
        prefix
            (B, K, D), or None.
        prompts, answers
            B of each.
        mask
            (B, La, V) bool, True for the tokens that were allowed at each position of the answer; None: all.
        temperature
            At which the answers were drawn.

        Returns
        -------
        (B, La) float32, 0 where an answer is padded; its sum over La is that of the answer.
        """
        logits = self.answer_logits(prefix, prompts, answers)
        spread = masked_log_probs(
            logits, mask, temperature
        )  # on the device of the head, where a model is spread over several
        found = spread.gather(-1, answers.ids[..., None].to(spread.device))[..., 0]
        return torch.where(answers.real, found.to(answers.ids.device), 0.0)

    def answer_logits(self, prefix: torch.Tensor | None, prompts: Packed, answers: Packed) -> torch.Tensor:
        """Scores (B, La, V) from which each token of an answer is drawn; without meaning where an answer is padded."""
        both = prompts.then(answers)
        states = self.states(prefix, both.ids)  # (B, S + K + L, D)
        ahead = self.before(prefix) + prompts.lengths - 1  # (B,) position from which the first token is drawn
        if bool((ahead < 0).any()):
            raise ValueError("a prompt must hold at least one token, or have a prefix, found an empty one.")
        at = ahead.to(states.device)[:, None] + torch.arange(answers.ids.shape[1], device=states.device)  # (B, La)
        at = at.clamp(max=states.shape[1] - 1)
        return self.lm.logits(states.gather(1, at[..., None].expand(-1, -1, states.shape[2])))

    # ------------------------------------------------------------------ prompts read once

    def prompt_cache(self, prefix: torch.Tensor | None, prompts: Packed) -> PromptCache:
        """Read prompts once: what follows them can then be read without them.

        Parameters
        ----------
        prefix
            (B, K, D), or None.
        prompts
            B prompts; may be of different lengths.

        Returns
        -------
        Keys, values and last states of the prompts.
        """
        from transformers import DynamicCache

        lengths = self.before(prefix) + prompts.lengths
        if bool((lengths < 1).any()):
            raise ValueError("a prompt must hold at least one token, or have a prefix, found an empty one.")
        inputs = self._inputs(prefix, prompts.ids)
        self._refuse_window(inputs.shape[1])
        # A plain cache keeps every position, also of layers that look at a window of them.
        states, cache = self.lm(inputs, past_key_values=DynamicCache(), use_cache=True)
        last = states[torch.arange(len(states), device=states.device), lengths.to(states.device) - 1]  # (B, D)
        return PromptCache(cache, lengths, last, inputs.shape[1])

    def extend(self, cache: PromptCache, tokens: torch.Tensor, depth: torch.Tensor, sees: torch.Tensor) -> torch.Tensor:
        """Read N more tokens behind each prompt, in place; each sees the prompt and the added tokens that it is told to.

        Parameters
        ----------
        cache
            Changed: see :meth:`PromptCache.share` for keeping it.
        tokens
            (B, N) int64.
        depth
            (B or 1, N) int64: how many added tokens stand before each on its own path, 0 directly behind the prompt.
        sees
            (B or 1, N, E + N) bool: which of the E tokens added before and of these N each sees, itself among them.

        Returns
        -------
        Hidden states (B, N, D).
        """
        dtype = self.lm.body.dtype
        if torch.is_autocast_enabled(tokens.device.type):
            dtype = torch.get_autocast_dtype(tokens.device.type)
        positions = cache.lengths[:, None] + depth.to(cache.lengths.device)  # (B, N)
        self._refuse_window(int(positions.max()) + 1)
        mask = cache.visible(sees, dtype)
        states, cache.cache = self.lm(
            self.embed_ids(tokens),
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache.cache,
            use_cache=True,
        )
        cache.added += tokens.shape[1]
        return states

    def next_log_probs(
        self, hidden: torch.Tensor, mask: torch.Tensor | None = None, temperature: float = 1.0
    ) -> torch.Tensor:
        """Log-probabilities (…, V) of the next token from hidden states (…, D): see :func:`sclm.nn.masked_log_probs`."""
        return masked_log_probs(self.lm.logits(hidden), mask, temperature)

    def _refuse_window(self, length: int) -> None:
        """Trees of answers are read without sliding windows: refuse what would be longer than one."""
        config = self.lm.body.config.get_text_config(decoder=True)
        kinds = getattr(config, "layer_types", None)
        window = getattr(config, "sliding_window", None)
        sliding = getattr(config, "use_sliding_window", True) if kinds is None else "sliding_attention" in kinds
        if sliding and window is not None and length > window:
            raise ValueError(
                f"the model attends to windows of {window} positions, found {length}. Write shorter prompts: fewer genes a cell."
            )
