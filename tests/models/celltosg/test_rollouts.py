"""Sampled groups: legal answers, the same masks in sampling and scoring, groups that teach nothing dropped."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from sclm.models.celltosg.rollouts import (
    CollapseGuard,
    answer_log_probs,
    legal_tokens,
    sample_answers,
    sample_groups,
)

END, V = 0, 6
NAMES = {(1, 2): 0, (1, 3): 1, (1, 3, 4): 2, (5,): 3}  # one name is the beginning of another


class Paths(NamedTuple):
    """Children of each node in CSR; ends are nodes without children."""

    child_ptr: np.ndarray
    child_token: np.ndarray
    child_node: np.ndarray


@pytest.fixture(scope="module")
def trie() -> Paths:
    # 0 root: 1 → 1, 5 → 2; 1: 2 → 3, 3 → 4; 2: end; 3: end; 4: end, 4 → 5; 5: end. All ends lead to node 6
    children = {0: {1: 1, 5: 2}, 1: {2: 3, 3: 4}, 2: {0: 6}, 3: {0: 6}, 4: {0: 6, 4: 5}, 5: {0: 6}, 6: {}}
    pointers = np.cumsum([0] + [len(c) for c in children.values()])
    return Paths(
        pointers, np.array([t for c in children.values() for t in c]), np.array([n for c in children.values() for n in c.values()])
    )  # fmt: skip


class Table:
    """A policy whose next token depends on the last one: weights (V + 1, V), the last row for the start."""

    def __init__(self, weights: torch.Tensor, n: int) -> None:
        self.weights, self.last = weights, torch.full((n,), V)

    def logits(self) -> torch.Tensor:
        return self.weights[self.last]

    def append(self, tokens: torch.Tensor) -> None:
        self.last = tokens


def scored(weights: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """Logits (N, T, V) by teacher forcing."""
    before = torch.cat([torch.full((len(ids), 1), V), ids[:, :-1]], dim=1)
    return weights[before]


@pytest.fixture(scope="module")
def weights() -> torch.Tensor:
    return torch.randn(V + 1, V, generator=torch.Generator().manual_seed(0))


def sample(weights: torch.Tensor, n: int, trie: Any, **options: Any) -> Any:
    settings = {"end": END, "temperature": 1.3, "max_length": 5, "generator": torch.Generator().manual_seed(1)}
    return sample_answers(Table(weights, n), n, trie=trie, **settings | options)


def test_every_answer_is_a_name(weights: torch.Tensor, trie: Paths) -> None:
    drawn = sample(weights, 1000, trie)
    assert drawn.finished.all()
    answers = {tuple(row[real][:-1].tolist()) for row, real in zip(drawn.ids, drawn.real, strict=True)}
    assert answers == set(NAMES)
    assert all(row[real][-1] == END for row, real in zip(drawn.ids, drawn.real, strict=True))
    assert not drawn.log_probs[~drawn.real].any()


def test_sampling_and_scoring_agree(weights: torch.Tensor, trie: Paths) -> None:
    for tree in (trie, None):
        drawn = sample(weights, 200, tree)
        again = answer_log_probs(scored(weights, drawn.ids), drawn.ids, drawn.real, drawn.legal, 1.3)
        torch.testing.assert_close(again, drawn.log_probs)
        if tree is None:
            assert drawn.legal is None
            continue
        # without the mask they would not
        free = answer_log_probs(scored(weights, drawn.ids), drawn.ids, drawn.real, None, 1.3)
        assert (free - drawn.log_probs).abs().max() > 0.1


def test_frequencies_are_the_probabilities_over_legal_names(weights: torch.Tensor, trie: Paths) -> None:
    drawn = sample(weights, 20_000, trie)
    found = [tuple(row[real][:-1].tolist()) for row, real in zip(drawn.ids, drawn.real, strict=True)]
    by_name = {}
    for row, name in enumerate(found):
        by_name[name] = drawn.log_probs[row].sum().exp().item()
    assert sum(by_name.values()) == pytest.approx(1, abs=1e-5)  # the masked policy is a distribution over names
    for name, p in by_name.items():
        assert found.count(name) / len(found) == pytest.approx(p, abs=4 * (p * (1 - p) / len(found)) ** 0.5 + 1e-3)


def test_seeds_and_lengths(weights: torch.Tensor, trie: Paths) -> None:
    a, b = (sample(weights, 50, trie, generator=torch.Generator().manual_seed(s)) for s in (1, 1))
    assert torch.equal(a.ids, b.ids)
    assert not torch.equal(
        a.ids[:, :2], sample(weights, 50, trie, generator=torch.Generator().manual_seed(2)).ids[:, :2]
    )
    short = sample(weights, 50, trie, max_length=2)
    assert short.ids.shape[1] == 2
    assert not short.finished.all()  # the long names did not come to their end
    assert legal_tokens(trie, np.array([0, 4, -1]), V).tolist()[1] == [True, False, False, False, True, False]
    with pytest.raises(ValueError, match="temperature"):
        sample(weights, 5, trie, temperature=0.0)


def test_groups_without_a_difference_are_sampled_again_and_dropped(weights: torch.Tensor, trie: Paths) -> None:
    asked: list[list[int]] = []

    def draw(prompts: np.ndarray, attempt: int) -> Any:
        asked.append(prompts.tolist())
        generator = torch.Generator().manual_seed(attempt)
        return sample(weights, 4 * len(prompts), trie, generator=generator, max_length=4 if attempt else 5)

    def judge(drawn: Any, prompts: np.ndarray) -> tuple[np.ndarray, dict[str, float]]:
        rewards = np.arange(4 * len(prompts), dtype=float)
        flat = (prompts != 2) & (
            (prompts != 5) | (len(asked) == 1)
        )  # prompt 2 lives at once, prompt 5 at the second try
        return np.where(np.repeat(flat, 4), 0.5, rewards), {"resolvable": 1.0}

    groups = sample_groups(draw, judge, 6, 4)
    assert asked == [[0, 1, 2, 3, 4, 5], [0, 1, 3, 4, 5]]
    assert groups.prompts.tolist() == [2, 5]
    assert groups.sampled.ids.shape[0] == 8
    assert groups.rewards.tolist() == [8, 9, 10, 11, 16, 17, 18, 19]
    assert groups.statistics["zero_sd"] == pytest.approx(5 / 6)
    assert groups.statistics["resolvable"] == 1
    assert groups.statistics["entropy"] > 0
    again = answer_log_probs(
        scored(weights, groups.sampled.ids), groups.sampled.ids, groups.sampled.real, groups.sampled.legal, 1.3
    )
    torch.testing.assert_close(again, groups.sampled.log_probs)  # also after padding to the same length


def test_the_guard_sees_divergence_and_collapse() -> None:
    guard = CollapseGuard()
    assert guard.reason(0.0, 1.0) is None
    assert guard.reason(0.51, 1.0) == "kl"
    assert guard.reason(0.1, 0.04) == "entropy"
    assert guard.reason(0.1, 0.06) is None
