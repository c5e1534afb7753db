"""Tiny language models in the layout of transformers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def write_tokenizer(folder: Path, texts: list[str], *, start: bool) -> int:
    """A byte-level BPE tokenizer, with or without a token of the beginning; returns its size."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    inner: Any = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<bos>"] if start else ["<|endoftext|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    inner.train_from_iterator(texts, trainer)
    if start:
        inner.post_processor = processors.TemplateProcessing(
            single="<bos> $A", pair="<bos> $A $B", special_tokens=[("<bos>", 1)]
        )
    names = {"eos_token": "<|endoftext|>", **({"bos_token": "<bos>"} if start else {})}
    PreTrainedTokenizerFast(tokenizer_object=inner, **names).save_pretrained(folder)
    return inner.get_vocab_size()


@pytest.fixture
def write_lm() -> Callable[..., Any]:
    """Write a causal language model with random weights and its tokenizer into a folder; returns the model."""

    def write(folder: Path, kind: str, texts: list[str], *, start: bool = False, seed: int = 0, **settings: Any) -> Any:
        import transformers
        from transformers.utils import logging

        from sclm.nn import seeded

        size = write_tokenizer(folder, texts, start=start)
        chosen = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
        chosen |= {
            "bos_token_id": 1 if start else None,
            "eos_token_id": 0,
            "pad_token_id": None,
            "vocab_size": size + 5,
        }
        chosen |= {"tie_word_embeddings": kind.startswith("Gemma")}
        if kind != "GPTNeoX":
            chosen["num_key_value_heads"] = 2
        if kind.startswith("Gemma"):
            chosen["head_dim"] = 8
        config = getattr(transformers, f"{kind}Config")(**(chosen | settings))
        with seeded(seed):
            model = getattr(transformers, f"{kind}ForCausalLM")(config).eval()
            for parameter in model.parameters():  # larger than at the start of a training, so that answers differ
                if parameter.ndim == 2:
                    parameter.data *= 8
        shown = logging.is_progress_bar_enabled()
        logging.disable_progress_bar()
        model.save_pretrained(folder)
        if shown:
            logging.enable_progress_bar()
        return model

    return write
