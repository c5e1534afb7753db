"""Sampled groups: legal answers, the same masks in sampling and scoring, groups that teach nothing dropped."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from sclm.models.celltosg.rollouts import CollapseGuard, Sampled, log_probs, sample, sample_groups
from sclm.nn import Packed, PrefixLM, Trie

NAMES = ["T cell", "T cell of gut", "B cell", "naive T cell"]  # one name is the beginning of another
SETTINGS: dict[str, Any] = {"group_size": 4, "temperature": 1.3}


@pytest.fixture(scope="module")
def lm() -> PrefixLM:
    made = PrefixLM.from_scratch(
        texts=[*NAMES, "Cell type:"], words=["CD3E", "MS4A1"], width=16, layers=1, heads=2, seed=0
    )
    return made.eval()


@pytest.fixture(scope="module")
def trie(lm: PrefixLM) -> Trie:
    return Trie.build(lm.encode_after("Cell type:", [f" {n}" for n in NAMES]), eos=lm.eos)


@pytest.fixture(scope="module")
def prompts(lm: PrefixLM) -> Packed:
    return lm.pack(lm.encode(["CD3E . Cell type:", "MS4A1 MS4A1 CD3E . Cell type:", "Cell type:"]))


@pytest.fixture(scope="module")
def prefix() -> torch.Tensor:
    return torch.randn(3, 2, 16, generator=torch.Generator().manual_seed(3))


def seeded(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def draw(lm: PrefixLM, prefix: Any, prompts: Packed, trie: Trie | None, **options: Any) -> Sampled:
    return sample(lm, prefix, prompts, trie, generator=seeded(), **SETTINGS | options)


def test_every_answer_is_a_name(lm: PrefixLM, prefix: torch.Tensor, prompts: Packed, trie: Trie) -> None:
    drawn = draw(lm, prefix, prompts, trie, group_size=100)
    texts = {lm.decode(row[:n].tolist()) for row, n in zip(drawn.answers.ids, drawn.answers.lengths, strict=True)}
    assert texts == set(NAMES)
    assert [NAMES[i] for i in drawn.names] == [
        lm.decode(row[:n].tolist()) for row, n in zip(drawn.answers.ids, drawn.answers.lengths, strict=True)
    ]


def test_the_masked_policy_is_a_distribution_over_names(
    lm: PrefixLM, prefix: torch.Tensor, prompts: Packed, trie: Trie
) -> None:
    drawn = draw(lm, prefix, prompts, trie, group_size=400)
    found, entropy = log_probs(lm, prefix, prompts, drawn, trie, group_size=400, temperature=1.3)
    chance = found.sum(dim=1).exp().detach().numpy().reshape(3, 400)
    names = drawn.names.reshape(3, 400)
    for prompt in range(3):
        by_name = {int(n): float(chance[prompt][names[prompt] == n][0]) for n in np.unique(names[prompt])}
        assert sum(by_name.values()) == pytest.approx(1, abs=1e-5)
        for n, p in by_name.items():
            share = (names[prompt] == n).mean()
            assert share == pytest.approx(p, abs=4 * (p * (1 - p) / 400) ** 0.5 + 0.01)
    assert (entropy[drawn.answers.real] >= 0).all()
    assert not found[~drawn.answers.real].any()


def test_sampling_and_scoring_use_the_same_mask(
    lm: PrefixLM, prefix: torch.Tensor, prompts: Packed, trie: Trie
) -> None:
    drawn = draw(lm, prefix, prompts, trie)
    masked, _ = log_probs(lm, prefix, prompts, drawn, trie, **SETTINGS)
    free, _ = log_probs(lm, prefix, prompts, drawn._replace(nodes=None), None, **SETTINGS)
    assert (masked.sum(dim=1) - free.sum(dim=1)).min() > 0.1  # without the mask the names would be improbable
    masked.sum().backward()
    assert any(p.grad is not None and p.grad.any() for p in lm.parameters())
    lm.zero_grad()


def test_free_answers_end_or_are_cut(lm: PrefixLM, prefix: torch.Tensor, prompts: Packed) -> None:
    drawn = draw(lm, prefix, prompts, None, max_tokens=5)
    assert drawn.nodes is None
    assert (drawn.names == -1).all()
    assert len(drawn.answers.ids) == 12
    for row, n in zip(drawn.answers.ids, drawn.answers.lengths.tolist(), strict=True):
        assert n <= 6
        assert lm.eos not in row[: n - 1].tolist()
    found, _ = log_probs(lm, prefix, prompts, drawn, None, **SETTINGS)
    assert torch.isfinite(found).all()


def test_seeds(lm: PrefixLM, prefix: torch.Tensor, prompts: Packed, trie: Trie) -> None:
    a, b, c = (
        sample(lm, prefix, prompts, trie, generator=seeded(s), group_size=50, temperature=1.3) for s in (1, 1, 2)
    )
    assert torch.equal(a.answers.ids, b.answers.ids)
    assert not np.array_equal(a.names, c.names)


def test_groups_without_a_difference_are_sampled_again_and_dropped(
    lm: PrefixLM, prefix: torch.Tensor, prompts: Packed, trie: Trie
) -> None:
    asked: list[list[int]] = []
    generator = seeded()

    def once(rows: np.ndarray) -> Sampled:
        asked.append(rows.tolist())
        at = torch.from_numpy(rows)
        return sample(lm, prefix[at], prompts.rows(at), trie, generator=generator, **SETTINGS)

    def judge(drawn: Sampled, rows: np.ndarray) -> tuple[np.ndarray, dict[str, float]]:
        rewards = np.arange(4 * len(rows), dtype=float)
        flat = (rows != 0) & ((rows != 2) | (len(asked) == 1))  # prompt 0 differs at once, prompt 2 at the second try
        return np.where(np.repeat(flat, 4), 0.5, rewards), {"resolvable": 1.0}

    groups = sample_groups(once, judge, 3, 4)
    assert asked == [[0, 1, 2], [1, 2]]
    assert groups.prompts.tolist() == [0, 2]
    assert groups.rewards.tolist() == [0, 1, 2, 3, 4, 5, 6, 7]
    assert groups.statistics["zero_sd"] == pytest.approx(2 / 3)
    assert groups.statistics["resolvable"] == 1
    kept = torch.from_numpy(groups.prompts)
    found, _ = log_probs(lm, prefix[kept], prompts.rows(kept), groups.sampled, trie, **SETTINGS)
    assert torch.isfinite(found).all()  # the nodes fit the tokens after both samples were put together
    texts = [
        lm.decode(row[:n].tolist())
        for row, n in zip(groups.sampled.answers.ids, groups.sampled.answers.lengths, strict=True)
    ]
    assert texts == [NAMES[i] for i in groups.sampled.names]


def test_the_guard_sees_divergence_and_collapse() -> None:
    guard = CollapseGuard()
    assert guard.reason(0.0, 1.0) is None
    assert guard.reason(0.51, 1.0) == "kl"
    assert guard.reason(0.1, 0.04) == "entropy"
    assert guard.reason(0.1, 0.06) is None
