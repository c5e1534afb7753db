"""Draws against the probabilities that scoring gives."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from sclm.nn import Packed, PrefixLM, Trie, read_on, sample_names, score_names, write_text

NAMES = ["T cell", "B cell", "T helper cell", "monocyte", "T"]
PROMPTS = ["CD3E IL7R Type:", "MS4A1 Type:"]


@pytest.fixture
def lm() -> PrefixLM:
    made = PrefixLM.from_scratch(texts=[*NAMES, *PROMPTS], width=32, seed=2).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.ndim == 2:
                parameter *= 6
    return made


def cached(lm: PrefixLM, prompts: list[str]) -> Any:
    with torch.no_grad():
        return lm.prompt_cache(None, lm.pack(lm.encode(prompts)))


@pytest.mark.parametrize("temperature", [1.0, 1.5])
def test_names_are_drawn_as_often_as_they_are_probable(lm: PrefixLM, temperature: float) -> None:
    trie = Trie.build(lm.encode(NAMES), eos=lm.eos)
    prompts = cached(lm, PROMPTS)
    n = 3000
    drawn = sample_names(lm, prompts, trie, n=n, temperature=temperature, seed=1)
    chances = np.exp(score_names(lm, prompts, trie, among="names", temperature=temperature))
    for row in (0, 1):
        counts = np.bincount(drawn.names[row * n : (row + 1) * n], minlength=len(NAMES)) / n
        error = 4 * np.sqrt(chances[row] * (1 - chances[row]) / n) + 1e-9
        assert (np.abs(counts - chances[row]) < error).all()


@pytest.mark.parametrize("n", [1, 6, 70])
def test_the_masks_of_a_draw_give_its_log_probabilities_again(lm: PrefixLM, n: int) -> None:
    trie = Trie.build(lm.encode(NAMES), eos=lm.eos)
    drawn = sample_names(lm, cached(lm, PROMPTS), trie, n=n, temperature=1.3, seed=0)
    prompts = lm.pack([p for p in lm.encode(PROMPTS) for _ in range(n)])
    mask = torch.as_tensor(trie.masks(drawn.nodes, lm.vocab_size))
    again = lm.answer_log_probs(None, prompts, drawn.tokens, mask=mask, temperature=1.3)
    torch.testing.assert_close(again, drawn.log_probs, atol=1e-4, rtol=0)
    for i, name in enumerate(drawn.names):
        length = int(drawn.tokens.lengths[i])
        ids = drawn.tokens.ids[i, :length].tolist()
        assert ids == [*lm.encode([NAMES[name]])[0], lm.eos]
        assert (drawn.nodes[i, length:] == -1).all()
    assert again.requires_grad  # what was drawn can be learned from


def test_the_same_seed_draws_the_same(lm: PrefixLM) -> None:
    trie = Trie.build(lm.encode(NAMES), eos=lm.eos)
    prompts = cached(lm, PROMPTS)
    a, b, c = (sample_names(lm, prompts, trie, n=50, seed=s).names for s in (0, 0, 1))
    np.testing.assert_array_equal(a, b)
    assert (a != c).any()
    generator = torch.Generator().manual_seed(0)
    first = sample_names(lm, prompts, trie, n=50, seed=generator).names
    np.testing.assert_array_equal(first, a)
    assert (sample_names(lm, prompts, trie, n=50, seed=generator).names != a).any()  # goes on


def slow_text(lm: PrefixLM, prompt: str, n: int) -> list[int]:
    """The most probable token, the whole text read again each time."""
    ids = lm.encode([prompt])[0]
    written: list[int] = []
    while len(written) < n:
        token = int(lm.logits(None, torch.tensor([ids + written]))[0, -1].argmax())
        if token == lm.eos:
            break
        written.append(token)
    return written


def test_text_is_written_as_without_a_cache(lm: PrefixLM) -> None:
    with torch.no_grad():
        expected = [slow_text(lm, p, 12) for p in PROMPTS]
        assert write_text(lm, cached(lm, PROMPTS), max_tokens=12) == expected
        stop = expected[0][4]
        short = write_text(lm, cached(lm, PROMPTS), max_tokens=12, stop=[stop])
        assert short[0] == expected[0][: expected[0].index(stop)]


def test_drawn_text_does_not_depend_on_the_rows_beside_it(lm: PrefixLM) -> None:
    many = write_text(lm, cached(lm, PROMPTS * 3), max_tokens=9, temperature=1.2, seeds=range(6))
    for row in range(6):
        alone = write_text(lm, cached(lm, [PROMPTS[row % 2]]), max_tokens=9, temperature=1.2, seeds=[row])
        assert alone[0] == many[row]
    assert many[0] != many[2]
    with pytest.raises(ValueError, match="a seed for each of 2 prompts"):
        write_text(lm, cached(lm, PROMPTS), max_tokens=2, temperature=1.0)
    with pytest.raises(ValueError, match="temperature"):
        write_text(lm, cached(lm, PROMPTS), max_tokens=2, temperature=-1.0)
    with pytest.raises(ValueError, match="n must be"):
        sample_names(lm, cached(lm, PROMPTS), Trie.build([[1]]), n=0)


def test_prompts_that_are_read_on_are_those_that_are_read_at_once(lm: PrefixLM) -> None:
    prefix = torch.randn(3, 5, lm.width, generator=torch.Generator().manual_seed(0)) * lm.rms
    prompts = lm.pack(lm.encode(["CD3E IL7R Type:", "MS4A1 Type:", "Type:"]))
    more = [
        lm.pack(lm.encode(texts)) for texts in (["T", "B cell monocyte", "T helper"], ["cell", "", "cell T helper"])
    ]
    trie = Trie.build(lm.encode(NAMES), eos=lm.eos)
    with torch.no_grad():
        grown, whole = lm.prompt_cache(prefix, prompts), prompts
        for tokens in more:
            before = score_names(lm, grown, trie)
            longer = read_on(lm, grown, tokens)
            np.testing.assert_array_equal(score_names(lm, grown, trie), before)  # left as it was
            grown, whole = longer, whole.then(tokens)
            again = lm.prompt_cache(prefix, whole)
            torch.testing.assert_close(grown.hidden, again.hidden, atol=1e-4, rtol=1e-4)
            np.testing.assert_array_equal(grown.lengths, again.lengths)
            np.testing.assert_allclose(score_names(lm, grown, trie), score_names(lm, again, trie), atol=1e-4)
        assert write_text(lm, grown, max_tokens=6) == write_text(lm, again, max_tokens=6)
        with pytest.raises(ValueError, match="found 2"):
            read_on(lm, grown, Packed.of([[1], [2]]))
