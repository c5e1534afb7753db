"""Blocks of networks that at least two families use, named by what they compute. Names are loaded on first use."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sclm._lazy import lazy_names

if TYPE_CHECKING:
    from sclm.nn.bucketing import buckets
    from sclm.nn.causal_lm import CausalLM
    from sclm.nn.cpu_linear import CPULinear
    from sclm.nn.decoding import SampledNames, read_on, sample_names, write_text
    from sclm.nn.memory import MemoryLimit
    from sclm.nn.next_token import masked_log_probs
    from sclm.nn.packing import Packed
    from sclm.nn.prefix_lm import PrefixLM
    from sclm.nn.prompt_cache import PromptCache
    from sclm.nn.randomness import seeded
    from sclm.nn.state import load_own_state, own_state
    from sclm.nn.tokenizers import HubTokenizer, WordVocabulary
    from sclm.nn.trie import Trie
    from sclm.nn.trie_scoring import BestNames, beam_names, score_names

_HOME = {
    "BestNames": "trie_scoring",
    "CPULinear": "cpu_linear",
    "CausalLM": "causal_lm",
    "HubTokenizer": "tokenizers",
    "MemoryLimit": "memory",
    "Packed": "packing",
    "PrefixLM": "prefix_lm",
    "PromptCache": "prompt_cache",
    "SampledNames": "decoding",
    "Trie": "trie",
    "WordVocabulary": "tokenizers",
    "beam_names": "trie_scoring",
    "buckets": "bucketing",
    "load_own_state": "state",
    "masked_log_probs": "next_token",
    "own_state": "state",
    "read_on": "decoding",
    "sample_names": "decoding",
    "score_names": "trie_scoring",
    "seeded": "randomness",
    "write_text": "decoding",
}

__all__ = [
    "BestNames",
    "CPULinear",
    "CausalLM",
    "HubTokenizer",
    "MemoryLimit",
    "Packed",
    "PrefixLM",
    "PromptCache",
    "SampledNames",
    "Trie",
    "WordVocabulary",
    "beam_names",
    "buckets",
    "load_own_state",
    "masked_log_probs",
    "own_state",
    "read_on",
    "sample_names",
    "score_names",
    "seeded",
    "write_text",
]

__getattr__, __dir__ = lazy_names(__name__, _HOME)
