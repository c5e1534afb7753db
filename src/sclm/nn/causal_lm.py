"""A causal transformer behind one interface: made from scratch, or a pretrained language model with LoRA.

B sequences · L positions · D width · V text vocabulary · H heads
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import torch

from sclm.nn.pretrained import fingerprint, load_pretrained
from sclm.nn.randomness import seeded
from sclm.nn.state import load_own_state, own_state

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from transformers import Cache, PreTrainedConfig, StaticCache

_MULTIPLE = 64  # widths of the feed-forward layers are rounded up to this: matrix units of GPUs like it


class CausalLM(torch.nn.Module):
    """Causal transformer that reads embeddings: position i sees positions up to i.

    Made by :meth:`from_scratch` or :meth:`pretrained`. What stands at a position (a gene with its level, a word, a virtual
    token) is the caller's: the network takes ``inputs_embeds`` and gives hidden states.

    Sequences of different lengths are padded on the right and need no attention mask: a position never sees what comes
    after it, so padding changes no position before it. Leave the padded positions out of the loss. Without a mask the
    fastest attention kernel is used; pass one only for padding on the left.

    Attributes
    ----------
    width
        D, of the inputs and the hidden states.
    base_model
        ``{"name", "revision"}`` of the pretrained model underneath, None where made from scratch. ``revision`` is the commit
        on the hub, or None for a local folder.
    fingerprint
        Of its weights, empty where made from scratch: see :func:`sclm.nn.pretrained.fingerprint`.
    has_text
        Whether :meth:`embed` and :meth:`logits` work.
    owned
        Whether all weights are in :meth:`own_state`: made from scratch, or trained in full (:meth:`train_in_full`).
    """

    body: Any  # of transformers
    head: Any

    def __init__(
        self,
        body: torch.nn.Module,
        *,
        config: PreTrainedConfig,
        head: torch.nn.Module | None = None,
        base_model: dict[str, str | None] | None = None,
        has_text: bool,
    ) -> None:
        super().__init__()
        self.body = body
        self.head = head  # of a pretrained model; None: tied to the input embeddings
        self._config = config
        self.width = int(config.hidden_size)
        self.base_model = base_model
        self.fingerprint = ""
        self.has_text = has_text
        self.owned = base_model is None  # whether all weights belong to the checkpoint

    @classmethod
    def from_scratch(
        cls,
        *,
        width: int,
        layers: int,
        heads: int,
        max_length: int,
        dropout: float = 0.0,
        vocab_size: int | None = None,
        seed: int,
    ) -> Self:
        """A network of the Llama kind with random weights: RMSNorm, rotary positions, SwiGLU, no biases.

        Parameters
        ----------
        width
            D. The feed-forward layers are 8/3 of it wide, rounded up to a multiple of 64: with their three matrices they
            then hold as many weights as the usual two of 4 D.
        layers
            Number of blocks.
        heads
            H, of attention; must divide `width` into heads of an even width (rotary positions turn pairs).
        max_length
            Longest sequence that will be read. It allocates nothing.
        dropout
            Of attention weights, in training, 0 to 1.
        vocab_size
            V: with a text vocabulary, whose embeddings are tied to the output. None: embeddings only.
        seed
            Of the weights: normal with standard deviation 0.02. The global random state is left alone.

        Returns
        -------
        The network, float32 on the CPU, all of it trainable.

        Raises
        ------
        ValueError
            If a number is out of range.
        """
        for name, value in {"width": width, "layers": layers, "heads": heads, "max_length": max_length}.items():
            if value < 1:
                raise ValueError(f"{name} must be at least 1, found {value}.")
        if width % (2 * heads):
            raise ValueError(f"width must be a multiple of 2 * heads = {2 * heads}, found {width}.")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout must lie in [0, 1), found {dropout}.")
        if vocab_size is not None and vocab_size < 1:
            raise ValueError(f"vocab_size must be at least 1 or None, found {vocab_size}.")
        from transformers import LlamaConfig, LlamaModel

        config: Any = LlamaConfig(
            hidden_size=width,
            intermediate_size=-(-8 * width // (3 * _MULTIPLE)) * _MULTIPLE,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            num_key_value_heads=heads,
            max_position_embeddings=max_length,
            attention_dropout=dropout,
            vocab_size=vocab_size or 1,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=None,
        )
        with seeded(seed):
            body: Any = LlamaModel(config)
        if vocab_size is None:
            body.embed_tokens = None  # without text there is nothing to look up, and no parameter without a gradient
        return cls(body, config=config, has_text=vocab_size is not None)

    @classmethod
    def pretrained(
        cls,
        name: str | Path,
        *,
        lora_rank: int = 16,
        lora_dropout: float = 0.0,
        revision: str | None = None,
        dtype: str | torch.dtype | None = None,
        device_map: str | dict[str, Any] | None = None,
        seed: int = 0,
    ) -> Self:
        """A pretrained causal language model, frozen, with trainable low-rank adapters (LoRA, Hu et al., 2022).

        Every linear map inside the blocks (attention and feed-forward, whatever the architecture calls them) becomes
        :math:`W x + 2 B A x` with :math:`B` starting at zero: before training the answers are those of the pretrained model.

        Parameters
        ----------
        name
            ``"hf:organisation/name"`` on the Hugging Face hub, or a folder in its layout. Only safetensors are read, and no
            code from the repository is run.
        lora_rank
            Rank of :math:`A` and :math:`B`; 0 for none, which leaves nothing to train.
        lora_dropout
            Of what the adapters read, in training, 0 to 1.
        revision
            Commit, tag or branch on the hub.
        dtype
            Of the frozen weights, for example ``"bfloat16"``; by default as they are stored. The adapters are float32.
        device_map
            Where which part goes, as accelerate takes it: ``"auto"`` spreads a model that fits no single GPU over several.
        seed
            Of the adapters' first values.

        Returns
        -------
        The network, on the CPU without a ``device_map``.

        Raises
        ------
        FileNotFoundError
            If the model is neither in the folder, nor in the local cache, nor to be had from the hub.
        ValueError
            If there are no safetensors, the weights do not fit the architecture, or a parameter is out of range.
        """
        if lora_rank < 0:
            raise ValueError(f"lora_rank must be 0 or more, found {lora_rank}.")
        model = load_pretrained(str(name), revision, dtype, device_map)
        identity = fingerprint(model)  # before LoRA renames what it wraps
        body, head = model.base_model, model.get_output_embeddings()
        model.requires_grad_(False)
        if lora_rank:
            from peft import LoraConfig, inject_adapter_in_model

            targets = [path for path, part in body.named_modules() if isinstance(part, torch.nn.Linear)]
            if not targets:
                raise ValueError(f"{name} has no linear layers for LoRA, found {type(body).__name__}.")
            settings = LoraConfig(
                r=lora_rank, lora_alpha=2 * lora_rank, target_modules=targets, lora_dropout=lora_dropout
            )
            with seeded(seed):
                inject_adapter_in_model(settings, body)
            for path, parameter in body.named_parameters():
                if "lora_" in path:
                    parameter.data = parameter.data.float()  # steps of an optimizer vanish in bfloat16
                    parameter.requires_grad_(True)
        config = model.config.get_text_config(decoder=True)
        # What was asked for may be a branch; what was loaded is a commit. A local folder has none.
        base = {"name": str(name), "revision": getattr(model.config, "_commit_hash", None) or revision}
        network = cls(body, config=config, head=head, base_model=base, has_text=True)
        network.fingerprint = identity
        return network

    # ------------------------------------------------------------------ reading

    def forward(
        self,
        inputs_embeds: torch.Tensor,
        *,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        use_cache: bool = False,
    ) -> Any:
        """Hidden states after the last norm.

        Parameters
        ----------
        inputs_embeds
            (B, L, D) floating point. Cast to the dtype of the weights unless autocast is on. Gradients flow through it,
            also into a frozen model.
        attention_mask
            (B, L) with 1 for what may be seen, or a 4-dimensional mask that is used as it is; only needed for padding on the left.
        position_ids
            (B, L) or (1, L) int64; by default 0, 1, 2, … after what the cache holds.
        past_key_values
            Cache of earlier positions, which is extended in place: see :meth:`static_cache`.
        use_cache
            Return a cache besides.

        Returns
        -------
        (B, L, D) hidden states; with ``use_cache=True`` a tuple of them and the cache.
        """
        if inputs_embeds.ndim != 3 or inputs_embeds.shape[-1] != self.width:
            found = tuple(inputs_embeds.shape)
            raise ValueError(f"inputs_embeds must have shape (B, L, {self.width}), found {found}.")
        if not torch.is_autocast_enabled(inputs_embeds.device.type):
            inputs_embeds = inputs_embeds.to(self.body.dtype)
        output = self.body(
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            use_cache=use_cache,
        )
        if use_cache:
            return output.last_hidden_state, output.past_key_values
        return output.last_hidden_state

    def embed(self, ids: torch.Tensor) -> torch.Tensor:
        """Embeddings (B, L, D) of text tokens (B, L) int64, scaled as the model wants them at its input."""
        self._require_text()
        return self.body.get_input_embeddings()(ids)

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Scores (…, V) of the next text token from hidden states (…, D); their softmax is its distribution."""
        self._require_text()
        head = self.head
        if head is None:
            return torch.nn.functional.linear(hidden, self.body.get_input_embeddings().weight)
        return self._capped(head(hidden.to(head.weight.dtype)))

    def logits_of(self, hidden: torch.Tensor, at: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """Scores (B, E) float32 of one token each, ``tokens`` (E,), from the states at ``at`` (E,) of (B, N, D)."""
        self._require_text()
        head = self.head if self.head is not None else self.body.get_input_embeddings()
        if head.weight.is_meta:  # weights that stand elsewhere come with a call
            return self.logits(hidden)[:, at, tokens].float()
        place = head.weight.device
        scores = torch.einsum(
            "bed,ed->be", hidden[:, at].float(), head.weight[tokens.to(place)].to(hidden.device).float()
        )
        bias = getattr(head, "bias", None)
        return self._capped(scores if bias is None else scores + bias[tokens.to(place)].to(scores.device))

    def _capped(self, scores: torch.Tensor) -> torch.Tensor:
        cap = getattr(self._config, "final_logit_softcapping", None)  # Gemma 2
        return scores if cap is None else torch.tanh(scores / cap) * cap

    @property
    def vocab_size(self) -> int:
        """V, rows of the text embeddings."""
        self._require_text()
        return int(self.body.get_input_embeddings().weight.shape[0])

    def _require_text(self) -> None:
        if not self.has_text:
            raise ValueError(
                "This network has no text vocabulary. Build it with vocab_size= or from a pretrained model."
            )

    # ------------------------------------------------------------------ caches

    def static_cache(
        self, batch: int, max_length: int, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
    ) -> StaticCache:
        """Room for the keys and values of `max_length` positions, allocated once.

        Its tensors never move or grow, so that a sampling loop allocates nothing and can be compiled.

        Parameters
        ----------
        batch
            B.
        max_length
            Positions, prefix included. Writing more raises an error of torch.
        device, dtype
            Of the keys and values: those of the hidden states inside the model.

        Returns
        -------
        An empty cache for ``forward(past_key_values=…)``, which fills it in place.
        """
        from transformers import StaticCache

        config = self._config
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        head_width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        cache = StaticCache(config=config, max_cache_len=max_length)
        cache.early_initialization(batch, heads, head_width, dtype, torch.device(device))
        return cache

    def expand_cache(
        self, cache: StaticCache, repeats: int | torch.Tensor, *, max_length: int | None = None
    ) -> StaticCache:
        """Copy of a static cache in which sequence i stands ``repeats[i]`` times in a row, as ``repeat_interleave`` does.

        A prefix that many sequences share is read once in a small cache, then expanded to the batch.

        Parameters
        ----------
        cache
            From :meth:`static_cache`, filled with the prefix.
        repeats
            One number for all, or (B,) int64: 0 leaves a sequence out.
        max_length
            Positions of the new cache, by default as many as `cache` has.

        Returns
        -------
        A new cache; `cache` is unchanged and shares no memory with it.
        """
        old: list[Any] = cache.layers
        held = old[0].max_cache_len
        length = held if max_length is None else max_length
        if length < held:
            raise ValueError(f"max_length must be at least that of the cache, {held}, found {length}.")
        batch = old[0].keys.shape[0]
        batch = batch * repeats if isinstance(repeats, int) else int(repeats.sum())
        new = self.static_cache(batch, length, old[0].device, old[0].dtype)
        target: Any
        for source, target in zip(old, new.layers, strict=True):
            rows = source.keys.shape[2]  # of a sliding window: fewer than max_length
            target.keys[:, :, :rows].copy_(source.keys.repeat_interleave(repeats, dim=0))
            target.values[:, :, :rows].copy_(source.values.repeat_interleave(repeats, dim=0))
            target.cumulative_length.copy_(source.cumulative_length)
        return new

    # ------------------------------------------------------------------ training and checkpoints

    def train_in_full(self) -> None:
        """Let every weight learn, those of a pretrained model too; they then belong to the checkpoint."""
        self.owned = True
        self.requires_grad_(True)

    def borrowed_names(self) -> set[str]:
        """Names in ``state_dict()`` of the pretrained model's own weights; empty where made from scratch or trained in full."""
        if self.owned:
            return set()
        return {name for name in self.state_dict() if "lora_" not in name}

    def own_state(self) -> dict[str, torch.Tensor]:
        """Tensors that a checkpoint has to hold: all where made from scratch, LoRA only where pretrained."""
        return own_state(self)

    def load_own_state(self, state: Mapping[str, torch.Tensor]) -> None:
        """The inverse of :meth:`own_state`; ValueError where names or shapes differ."""
        load_own_state(self, state)
