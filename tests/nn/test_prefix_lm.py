"""Prompts, answers and caches against transformers' own full pass."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from sclm.nn import Packed, PrefixLM, masked_log_probs, own_state

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

TEXTS = ["The cell type of GENE1 GENE2 is a T cell.", "alpha-beta B cell, monocyte"]
KINDS = [("Llama", True), ("Qwen2", False), ("GPTNeoX", False), ("Gemma", True), ("Gemma2", True), ("Mistral", True)]


@pytest.fixture(params=KINDS, ids=lambda p: p[0])
def pair(request: pytest.FixtureRequest, tmp_path: Path, write_lm: Callable[..., Any]) -> tuple[Any, PrefixLM]:
    """transformers' model and ours, of one folder."""
    theirs = write_lm(tmp_path, request.param[0], TEXTS, start=request.param[1])
    return theirs, PrefixLM.pretrained(tmp_path, lora_rank=0).eval()


def scratch(**options: Any) -> PrefixLM:
    return PrefixLM.from_scratch(texts=TEXTS, **{"width": 32, "seed": 1, **options}).eval()


def slow_log_probs(theirs: Any, lm: PrefixLM, prompt: list[int], answer: list[int]) -> torch.Tensor:
    """One row, no padding, no cache, transformers only."""
    whole = torch.tensor([[*lm.tokenizer.start, *prompt, *answer]])
    with torch.no_grad():
        spread = theirs(whole).logits[0].float().log_softmax(-1)
    first = len(lm.tokenizer.start) + len(prompt) - 1
    return torch.stack([spread[first + i, token] for i, token in enumerate(answer)])


PROMPTS = ["The cell type of GENE1", "is a", "The"]
ANSWERS = [" T cell.", " monocyte", " alpha-beta B cell, monocyte"]


def test_answers_of_a_padded_batch_are_those_of_transformers(pair: tuple[Any, PrefixLM]) -> None:
    theirs, lm = pair
    prompts, answers = lm.encode(PROMPTS), lm.encode(ANSWERS)
    with torch.no_grad():
        found = lm.answer_log_probs(None, lm.pack(prompts), lm.pack(answers))
    for row, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        torch.testing.assert_close(
            found[row, : len(answer)], slow_log_probs(theirs, lm, prompt, answer), atol=2e-5, rtol=0
        )
        assert (found[row, len(answer) :] == 0).all()


def test_a_cached_prompt_is_continued_as_if_it_were_read_again(pair: tuple[Any, PrefixLM]) -> None:
    """Rows of different lengths, two branches behind each prompt, token by token and together."""
    theirs, lm = pair
    prompts = lm.encode(PROMPTS)
    with torch.no_grad():
        cache = lm.prompt_cache(None, lm.pack(prompts))
        branches = lm.encode([" T cell", " monocyte"])
        a, b = (torch.tensor(x)[:3] for x in branches)
        tree = cache.share()
        n = len(a) + len(b)
        sees = torch.zeros(1, n, n, dtype=torch.bool)
        sees[:, : len(a), : len(a)] = torch.ones(len(a), len(a)).tril().bool()
        sees[:, len(a) :, len(a) :] = torch.ones(len(b), len(b)).tril().bool()
        depth = torch.cat([torch.arange(len(a)), torch.arange(len(b))])[None]
        together = lm.extend(tree, torch.cat([a, b]).expand(3, -1), depth, sees)
        one = cache.share()
        steps = [
            lm.extend(one, a[None, i : i + 1].expand(3, 1), torch.tensor([[i]]), torch.ones(1, 1, i + 1).bool())
            for i in range(len(a))
        ]
        for row, prompt in enumerate(prompts):
            for branch, at in ((a, 0), (b, len(a))):
                whole = torch.tensor([[*lm.tokenizer.start, *prompt, *branch.tolist()]])
                expected = theirs(whole).logits[0]
                first = whole.shape[1] - len(branch)
                found = lm.lm.logits(together[row, at : at + len(branch)])
                torch.testing.assert_close(found, expected[first:], atol=1e-4, rtol=1e-4)
                torch.testing.assert_close(lm.lm.logits(cache.hidden[row]), expected[first - 1], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(torch.cat(steps, dim=1), together[:, : len(a)], atol=1e-4, rtol=1e-4)
    assert cache.added == 0  # what was shared did not change
    assert tree.added == n


def test_rows_of_a_cache_can_be_taken_and_repeated() -> None:
    lm = scratch()
    cache = lm.prompt_cache(None, lm.pack(lm.encode(PROMPTS)))
    token, depth, sees = torch.tensor([[7]]), torch.tensor([[0]]), torch.ones(1, 1, 1).bool()
    whole = lm.extend(cache.share(), token.expand(3, 1), depth, sees)
    taken = lm.extend(cache.rows(torch.tensor([2, 0])), token.expand(2, 1), depth, sees)
    torch.testing.assert_close(taken, whole[[2, 0]], atol=1e-6, rtol=0)
    twice = cache.repeat(2)
    assert len(twice) == 6
    torch.testing.assert_close(
        lm.extend(twice, token.expand(6, 1), depth, sees), whole.repeat_interleave(2, 0), atol=1e-6, rtol=0
    )


def test_a_prefix_stands_between_the_start_and_the_text() -> None:
    """A prefix of the embeddings of words gives what these words give."""
    lm = scratch()
    ids = torch.tensor([lm.encode(["The cell type of"])[0]])
    words = lm.embed_ids(ids[:, :2])
    torch.testing.assert_close(lm.logits(words, ids[:, 2:]), lm.logits(None, ids)[:, 2:], atol=1e-6, rtol=0)
    torch.testing.assert_close(
        lm.prompt_cache(words, Packed(ids[:, 2:], torch.tensor([2]))).hidden,
        lm.prompt_cache(None, Packed(ids, torch.tensor([4]))).hidden,
        atol=1e-6,
        rtol=0,
    )
    answers = lm.pack(lm.encode(["T cell"]))
    torch.testing.assert_close(
        lm.answer_log_probs(words, Packed(ids[:, 2:], torch.tensor([2])), answers),
        lm.answer_log_probs(None, Packed(ids, torch.tensor([4])), answers),
        atol=1e-6,
        rtol=0,
    )
    with pytest.raises(ValueError, match=r"shape \(1, K, 32\), found \(1, 2, 8\)"):
        lm.logits(torch.zeros(1, 2, 8), ids)


def test_gradients_reach_a_prefix_before_a_frozen_model(tmp_path: Path, write_lm: Callable[..., Any]) -> None:
    write_lm(tmp_path, "Qwen2", TEXTS)
    lm = PrefixLM.pretrained(tmp_path, lora_rank=2)
    prefix = torch.zeros(2, 3, 32, requires_grad=True)
    prompts, answers = lm.pack(lm.encode(PROMPTS[:2])), lm.pack(lm.encode(ANSWERS[:2]))
    (-lm.answer_log_probs(prefix, prompts, answers).sum()).backward()
    assert prefix.grad is not None
    assert prefix.grad.abs().sum() > 0
    trained = [name for name, p in lm.named_parameters() if p.requires_grad]
    assert trained
    assert all("lora_" in name for name in trained)
    assert set(own_state(lm)) == set(trained)


def test_masks_and_temperature_renormalise() -> None:
    logits = torch.tensor([[1.0, 2.0, 3.0], [1.0, 2.0, 3.0]])
    mask = torch.tensor([[True, True, False], [False, False, False]])
    found = masked_log_probs(logits, mask, 0.5)
    expected = np.exp([2.0, 4.0]) / np.exp([2.0, 4.0]).sum()
    np.testing.assert_allclose(found[0, :2].exp().numpy(), expected, rtol=1e-6)
    assert found[0, 2] == -torch.inf
    assert torch.isfinite(found[1]).all()  # padding: nothing is allowed, nothing is refused
    with pytest.raises(ValueError, match="temperature"):
        masked_log_probs(logits, None, 0.0)


def test_the_scale_of_the_embeddings() -> None:
    lm = scratch(width=64)
    assert lm.rms == pytest.approx(0.02, rel=0.05)


def test_another_base_is_refused(tmp_path: Path, write_lm: Callable[..., Any]) -> None:
    folders = [tmp_path / name for name in ("a", "b", "c", "d")]
    for folder, options in zip(folders, ({}, {"seed": 1}, {"hidden_size": 64}, {"num_hidden_layers": 3}), strict=True):
        write_lm(folder, "Llama", TEXTS, **options)
    mark = PrefixLM.pretrained(folders[0], lora_rank=0).fingerprint
    assert PrefixLM.pretrained(folders[0], fingerprint=mark).fingerprint == mark  # LoRA is not part of it
    assert PrefixLM.pretrained(folders[0], dtype="bfloat16", fingerprint=mark).fingerprint == mark
    with pytest.raises(ValueError, match="same shape with other weights"):
        PrefixLM.pretrained(folders[1], fingerprint=mark)
    for folder in folders[2:]:
        with pytest.raises(ValueError, match="another architecture or size"):
            PrefixLM.pretrained(folder, fingerprint=mark)


def test_a_map_of_devices_and_half_precision(tmp_path: Path, write_lm: Callable[..., Any]) -> None:
    write_lm(tmp_path, "Qwen2", TEXTS)
    lm = PrefixLM.pretrained(tmp_path, device_map={"": "cpu"}, dtype="bfloat16", lora_rank=2)
    assert lm.lm.body.dtype == torch.bfloat16
    assert {p.dtype for n, p in lm.named_parameters() if "lora_" in n} == {torch.float32}
    prefix = torch.zeros(2, 3, 32)
    found = lm.answer_log_probs(prefix, lm.pack([[5, 6], [7]]), lm.pack([[8], [9, 10]]))
    assert found.dtype == torch.float32
    assert torch.isfinite(found).all()


def test_a_tokenizer_of_another_model_is_refused() -> None:
    from sclm.nn import CausalLM, WordVocabulary

    lm = CausalLM.from_scratch(width=32, layers=1, heads=2, max_length=8, vocab_size=10, seed=0)
    with pytest.raises(ValueError, match="do not belong together"):
        PrefixLM(lm, WordVocabulary.from_texts(TEXTS))


def test_prompts_longer_than_a_sliding_window_are_refused(tmp_path: Path, write_lm: Callable[..., Any]) -> None:
    write_lm(tmp_path, "Mistral", TEXTS, sliding_window=8)
    lm = PrefixLM.pretrained(tmp_path, lora_rank=0)
    with pytest.raises(ValueError, match="windows of 8 positions, found 9"):
        lm.prompt_cache(None, lm.pack([[3] * 9]))
    cache = lm.prompt_cache(None, lm.pack([[3] * 8]))
    with pytest.raises(ValueError, match="found 9"):
        lm.extend(cache, torch.tensor([[3]]), torch.tensor([[0]]), torch.ones(1, 1, 1).bool())


def test_wrong_packing_is_refused() -> None:
    lm = scratch()
    with pytest.raises(ValueError, match="padded on the right"):
        lm.logits(None, torch.zeros(1, 2, dtype=torch.int64), torch.tensor([[False, True]]))
    with pytest.raises(ValueError, match="as many answers as prompts, 2, found 1"):
        Packed.of([[1], [2]]).then(Packed.of([[1]]))


def test_packing_joins_prompts_and_answers() -> None:
    both = Packed.of([[1, 2, 3], [4]]).then(Packed.of([[5], [6, 7]]))
    assert both.lengths.tolist() == [4, 3]
    assert both.ids.tolist() == [[1, 2, 3, 5], [4, 6, 7, 0]]
    assert both.real.tolist() == [[True] * 4, [True, True, True, False]]
