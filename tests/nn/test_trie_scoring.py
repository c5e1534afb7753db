"""Names scored over the tree against each name scored by itself, and against the sum rule."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from scipy.special import logsumexp

from sclm.nn import PrefixLM, PromptCache, Trie, beam_names, score_names

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from sclm.knowledge import Ontology

PROMPTS = ["CD3E IL7R CCR7 are the genes. Type:", "MS4A1 CD79A. Type:", "LYZ"]


@pytest.fixture
def names(ontology: Ontology) -> list[str]:
    return [ontology.names[i] for i in range(0, len(ontology), 67)]


def scratch(names: list[str], **options: Any) -> PrefixLM:
    lm = PrefixLM.from_scratch(texts=[*PROMPTS, *names], **{"width": 32, "seed": 3, **options}).eval()
    with torch.no_grad():
        for parameter in lm.parameters():
            if parameter.ndim == 2:
                parameter *= 6  # from nearly uniform to decided answers
    return lm


def score_names_slow(lm: PrefixLM, prompt: str, trie: Trie, answers: list[list[int]], among: str, t: float) -> Any:
    """One name at a time, the prompt read again, masks of the trie."""
    found = []
    for answer in answers:
        masks = None
        if among == "names":
            masks = torch.as_tensor(trie.masks(np.array(trie.paths([answer])), lm.vocab_size))
        with torch.no_grad():
            prompts = lm.pack(lm.encode([prompt]))
            steps = lm.answer_log_probs(None, prompts, lm.pack([answer]), mask=masks, temperature=t)
        found.append(float(steps.sum()))
    return np.array(found)


def cached(lm: PrefixLM, prompts: list[str]) -> PromptCache:
    with torch.no_grad():
        return lm.prompt_cache(None, lm.pack(lm.encode(prompts)))


@pytest.mark.parametrize("among", ["vocabulary", "names"])
@pytest.mark.parametrize("temperature", [1.0, 1.7])
def test_every_name_has_the_probability_that_it_has_alone(names: list[str], among: str, temperature: float) -> None:
    lm = scratch(names)
    answers = [[*ids, lm.eos] for ids in lm.encode(names)]
    trie = Trie.build(lm.encode(names), eos=lm.eos)
    prompts = cached(lm, PROMPTS)
    options = {"among": among, "temperature": temperature}
    found = score_names(lm, prompts, trie, **options)
    assert found.shape == (3, len(names))
    assert found.dtype == np.float32
    for row, prompt in enumerate(PROMPTS):
        expected = score_names_slow(lm, prompt, trie, answers, among, temperature)
        np.testing.assert_allclose(found[row], expected, atol=5e-4)
    for max_rows in (1, 7, 100):  # parts of the trie, parts of the prompts
        np.testing.assert_allclose(score_names(lm, prompts, trie, max_rows=max_rows, **options), found, atol=5e-4)
    alone = score_names(lm, cached(lm, PROMPTS[1:2]), trie, **options)
    np.testing.assert_allclose(alone[0], found[1], atol=5e-4)
    assert prompts.added == 0


def test_names_among_names_sum_to_one(names: list[str]) -> None:
    lm = scratch(names)
    trie = Trie.build(lm.encode(names), eos=lm.eos)
    found = score_names(lm, cached(lm, PROMPTS), trie, among="names")
    np.testing.assert_allclose(logsumexp(found.astype(np.float64), axis=1), 0, atol=1e-5)


def test_a_complete_tree_of_the_whole_vocabulary_sums_to_one() -> None:
    """All texts of up to three tokens, each ended, and all of four: nothing else can be written."""
    lm = PrefixLM.from_scratch(texts=["a"], width=16, heads=2, layers=1, seed=0).eval()
    lm.lm.body.resize_token_embeddings(6, mean_resizing=False)
    tokens = [t for t in range(6) if t != lm.eos]
    ended = [s for n in (1, 2, 3) for s in itertools.product(tokens, repeat=n)]
    sequences = [[*s, lm.eos] for s in ended] + [list(s) for s in itertools.product(tokens, repeat=4)]
    trie = Trie.build([*sequences, [lm.eos]])
    with torch.no_grad():
        for parameter in lm.parameters():
            if parameter.ndim == 2:
                parameter *= 20
        prompts = lm.prompt_cache(None, lm.pack([[4, 5], [0]]))
    for among in ("vocabulary", "names"):
        found = score_names(lm, prompts, trie, among=among).astype(np.float64)
        np.testing.assert_allclose(logsumexp(found, axis=1), 0, atol=1e-5)


@pytest.mark.parametrize("among", ["vocabulary", "names"])
def test_the_best_names_are_those_of_the_full_scores(names: list[str], among: str) -> None:
    lm = scratch(names)
    trie = Trie.build(lm.encode(names), eos=lm.eos)
    prompts = cached(lm, PROMPTS)
    full = score_names(lm, prompts, trie, among=among)
    for k, width in ((1, 1), (3, 4), (5, 64)):
        best = beam_names(lm, prompts, trie, k=k, width=width, among=among, max_nodes=10_000)
        assert best.exact.all()
        order = np.argsort(-full, axis=1)[:, :k]
        np.testing.assert_array_equal(best.names, order)
        np.testing.assert_allclose(best.log_probs, np.take_along_axis(full, order, axis=1), atol=5e-4)
        alone = beam_names(lm, cached(lm, PROMPTS[2:]), trie, k=k, width=width, among=among, max_nodes=10_000)
        np.testing.assert_array_equal(alone.names[0], best.names[2])
    assert (best.read < len(trie.inner)).all()


def test_a_search_that_was_cut_short_says_so(names: list[str]) -> None:
    lm = scratch(names)
    trie = Trie.build(lm.encode(names), eos=lm.eos)
    best = beam_names(lm, cached(lm, PROMPTS), trie, k=len(names), width=4, max_nodes=9)
    assert not best.exact.any()
    assert (best.read == 9).all()
    there = best.names >= 0
    assert ((best.log_probs > -np.inf) == there).all()
    everything = beam_names(lm, cached(lm, PROMPTS), trie, k=len(names) + 2, width=64, max_nodes=10_000)
    assert everything.exact.all()
    assert (everything.names[:, -2:] == -1).all()  # there are no more


@pytest.mark.parametrize("kind", ["GPTNeoX", "Gemma2", "Qwen2"])
def test_pretrained_models_score_alike(
    kind: str, names: list[str], tmp_path: Path, write_lm: Callable[..., Any]
) -> None:
    write_lm(tmp_path, kind, [*PROMPTS, *names])
    lm = PrefixLM.pretrained(tmp_path, lora_rank=0).eval()
    answers = lm.encode_after("Type:", [f" {name}" for name in names[:30]])
    trie = Trie.build(answers, eos=lm.eos)
    for among in ("vocabulary", "names"):
        found = score_names(lm, cached(lm, PROMPTS[:2]), trie, among=among, max_rows=50)
        ended = [[*a, lm.eos] for a in answers]
        for row in (0, 1):
            expected = score_names_slow(lm, PROMPTS[row], trie, ended, among, 1.0)
            np.testing.assert_allclose(found[row], expected, atol=2e-3, rtol=1e-4)
        best = beam_names(lm, cached(lm, PROMPTS[:2]), trie, k=2, among=among, max_nodes=10_000)
        np.testing.assert_array_equal(best.names[:, 0], found.argmax(axis=1))


def test_wrong_settings_are_refused(names: list[str]) -> None:
    lm = scratch(names)
    trie, prompts = Trie.build(lm.encode(names), eos=lm.eos), cached(lm, PROMPTS)
    with pytest.raises(ValueError, match="among must be"):
        score_names(lm, prompts, trie, among="words")
    with pytest.raises(ValueError, match="max_rows"):
        score_names(lm, prompts, trie, max_rows=0)
    with pytest.raises(ValueError, match="at least 1, found 0, 8 and 256"):
        beam_names(lm, prompts, trie, k=0)
