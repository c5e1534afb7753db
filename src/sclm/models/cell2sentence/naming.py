"""What a language model answers to the prompt of a cell: names of a tree scored, or text that it writes.

n prompts
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from sclm.evidence.backoff import UNKNOWN
from sclm.nn import MemoryLimit, beam_names, buckets, score_names, write_text

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sclm.knowledge import Ontology
    from sclm.nn import PrefixLM, Trie
    from sclm.nn.memory import Part

_TOKENS = {"cpu": 8_192}  # of a batch of prompts, padding included
_TOKENS_ELSEWHERE = 65_536
# Up to this much work a cell (weights of the layers x nodes of the tree of names) all names are scored.
_AFFORDABLE = 2e11
_BEST = 16  # names that a search looks for
_ANSWER_TOKENS = 32  # of a name that is written freely


def batches(
    lm: PrefixLM, sequences: Sequence[Sequence[int]], memory: MemoryLimit | None = None, more: int = 0
) -> Iterator[Part]:
    """Rows of prompts of similar length, as many as fit; `more` tokens will follow each.

    Each is a context manager that gives the rows: see :meth:`sclm.nn.MemoryLimit.fitting`.
    """
    lengths = np.array([len(s) + more for s in sequences])
    parts = buckets(lengths, _TOKENS.get(lm.device.type, _TOKENS_ELSEWHERE))
    yield from (memory or MemoryLimit()).fitting(parts, lambda rows: len(rows) * int(lengths[rows].max()))


def affordable(lm: PrefixLM, trie: Trie) -> bool:
    """Whether every name can be scored: the work of a cell is about that of a prompt of some hundred tokens for a large model."""
    layers = sum(p.numel() for p in lm.lm.body.parameters()) - lm.vocab_size * lm.width
    return layers * len(trie) <= _AFFORDABLE


def name_log_probs(
    lm: PrefixLM, ids: Sequence[Sequence[int]], trie: Trie, decoding: str, memory: MemoryLimit | None = None
) -> np.ndarray:
    """Log-probabilities of names after prompts.

    Parameters
    ----------
    lm
        The language model.
    ids
        Tokens of n prompts.
    trie
        The names.
    decoding
        ``"exhaustive"`` or ``"best"``.
    memory
        What fits into the memory of the device.

    Returns
    -------
    (n, n_names) float64, minus infinity where a search left a name out.
    """
    found = np.full((len(ids), trie.n_names), -np.inf)
    for part in batches(lm, ids, memory):
        with part as rows:
            cache = lm.prompt_cache(None, lm.pack([ids[r] for r in rows]))
            if decoding == "exhaustive":
                found[rows] = score_names(lm, cache, trie)
                continue
            best = beam_names(lm, cache, trie, k=min(_BEST, trie.n_names))
            at, place = np.nonzero(best.names >= 0)
            found[rows[at], best.names[at, place]] = best.log_probs[at, place]
    return found


class FreeAnswers(NamedTuple):
    """Names that a model wrote, resolved."""

    labels: np.ndarray  # (n,) object: the term's name, or what was written
    term_ids: np.ndarray  # (n,) object, "unknown" where it is no term
    confidence: np.ndarray  # (n,) float64: probability of what was written, times the score of the match


def free_answers(
    lm: PrefixLM, ids: Sequence[Sequence[int]], ontology: Ontology, memory: MemoryLimit | None = None
) -> FreeAnswers:
    """The most probable text after each prompt up to a full stop or the end of the line, and the term that it means.

    Only what comes after the prompt is read: the prompt is never part of an answer.
    """
    labels, terms = np.full(len(ids), UNKNOWN, dtype=object), np.full(len(ids), UNKNOWN, dtype=object)
    confidence = np.zeros(len(ids))
    for part in batches(lm, ids, memory, _ANSWER_TOKENS):
        with part as rows:
            packed = lm.pack([ids[r] for r in rows])
            written = write_text(lm, lm.prompt_cache(None, packed), max_tokens=_ANSWER_TOKENS)
            texts = [_first_sentence(lm.decode(w)) for w in written]
            kept = [w[: _tokens_of(lm, w)] for w in written]
            chances = lm.answer_log_probs(None, packed, lm.pack(kept)).sum(-1).exp().tolist()
            for row, text, chance in zip(rows, texts, chances, strict=True):
                match = ontology.resolve(text, min_score=1.0)  # a fuzzy match is a suggestion, not an answer
                labels[row] = match.name or text or UNKNOWN
                terms[row] = match.term_id or UNKNOWN
                confidence[row] = chance * match.score
    return FreeAnswers(labels, terms, confidence)


def _first_sentence(text: str) -> str:
    return text.split("\n")[0].partition(".")[0].strip()


def _tokens_of(lm: PrefixLM, written: Sequence[int]) -> int:
    """Tokens up to the end of the first sentence."""
    for n in range(1, len(written) + 1):
        if any(mark in lm.decode(written[:n]) for mark in ".\n"):
            return n
    return len(written)
