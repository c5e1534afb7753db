"""The three losses against closed forms, slow references and trl's own numbers."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from sclm.models.celltosg.negatives import allowed, related, relatives, sample_candidates
from sclm.models.celltosg.objectives import (
    IGNORED,
    align_loss,
    anchor_loss,
    contrastive_loss,
    group_advantages,
    grpo_loss,
)

if TYPE_CHECKING:
    from sclm.knowledge import Ontology

T_CELL, CD4, CD8, B_CELL, NK, MONOCYTE = (
    "CL:0000084", "CL:0000624", "CL:0000625", "CL:0000236", "CL:0000623", "CL:0000576",
)  # fmt: skip


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    with np.load(Path(__file__).with_name("trl_golden.npz")) as stored:
        return dict(stored)


def test_the_anchor_is_the_mean_over_the_sentence_alone() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 5, 7, generator=generator)
    sentences = torch.tensor([[IGNORED, 3, 4, IGNORED, IGNORED], [IGNORED, 1, 2, 6, 0]])
    slow = [
        -torch.log_softmax(logits[b, i - 1], dim=-1)[sentences[b, i]]
        for b in range(2)
        for i in range(1, 5)
        if sentences[b, i] >= 0
    ]
    assert len(slow) == 6
    torch.testing.assert_close(anchor_loss(logits, sentences), torch.stack(slow).mean())
    assert anchor_loss(logits, torch.full((2, 5), IGNORED)) == 0


def test_equal_vectors_cost_the_logarithm_of_the_candidates() -> None:
    cells, terms = torch.ones(3, 8), torch.ones(11, 8)
    truth = torch.tensor([0, 4, 10])
    full = torch.ones(3, 11, dtype=torch.bool)
    for temperature in (0.07, 1.0, 1e-9):
        assert contrastive_loss(cells, terms, truth, full, temperature).item() == pytest.approx(math.log(11), rel=1e-5)
    some = full.clone()
    some[:, 1:4] = False
    assert contrastive_loss(cells, terms, truth, some, 0.07).item() == pytest.approx(math.log(8), rel=1e-5)


def test_the_temperature_is_clamped() -> None:
    cells = torch.nn.functional.normalize(torch.randn(4, 6, generator=torch.Generator().manual_seed(1)), dim=1)
    terms = torch.nn.functional.normalize(torch.randn(5, 6, generator=torch.Generator().manual_seed(2)), dim=1)
    truth, full = torch.tensor([0, 1, 2, 3]), torch.ones(4, 5, dtype=torch.bool)
    torch.testing.assert_close(
        contrastive_loss(cells, terms, truth, full, 1e-6), contrastive_loss(cells, terms, truth, full, 0.01)
    )
    expected = torch.nn.functional.cross_entropy(cells @ terms.T / 0.5, truth)
    torch.testing.assert_close(contrastive_loss(3 * cells, 7 * terms, truth, full, 0.5), expected)


def test_relatives_of_the_truth_are_never_negatives(ontology: Ontology) -> None:
    truths = [CD4, T_CELL, B_CELL, NK]
    candidates = sample_candidates(ontology, truths, np.random.default_rng(0))
    mask = allowed(ontology, truths, candidates)
    for i, truth in enumerate(truths):
        for j, candidate in enumerate(candidates):
            kin = candidate in ontology.ancestors(truth) or candidate in ontology.descendants(truth)
            assert mask[i, j] == (candidate == truth or not kin)
    assert not mask[0, candidates.index(T_CELL)]
    assert not mask[1, candidates.index(CD4)]
    assert mask[0, candidates.index(B_CELL)]
    assert candidates[:4] == sorted(truths)
    assert len(candidates) <= 4 + 4 * 16
    assert len(set(candidates)) == len(candidates)
    assert candidates == sample_candidates(ontology, truths, np.random.default_rng(0))
    assert related(ontology, [T_CELL], [CD8, T_CELL, B_CELL]).tolist() == [[True, True, False]]
    near = relatives(ontology, CD4)
    assert near.index(CD8) < len(ontology.children(ontology.parents(CD4)[0]))
    assert MONOCYTE not in near


def test_align_adds_its_parts_and_leaves_other_answers_out_of_the_contrast() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, cells, terms = (torch.randn(*s, generator=generator) for s in ((3, 4, 9), (3, 5), (6, 5)))
    answers = torch.tensor([[IGNORED, IGNORED, 4, 1], [IGNORED, IGNORED, 5, 1], [IGNORED, IGNORED, 6, 1]])
    truth, mask = torch.tensor([2, -1, 0]), torch.ones(3, 6, dtype=torch.bool)
    both = align_loss(logits, answers, cells, terms, truth, mask, contrast_weight=0.3)
    torch.testing.assert_close(both.answer, anchor_loss(logits, answers))
    torch.testing.assert_close(both.contrast, contrastive_loss(cells[[0, 2]], terms, truth[[0, 2]], mask[:2], 0.07))
    torch.testing.assert_close(both.total, both.answer + 0.3 * both.contrast)
    assert align_loss(logits, answers, cells, terms, truth, mask, contrast_weight=0.0).contrast == 0
    smooth = align_loss(logits, answers, cells, terms, truth, mask, contrast_weight=0.0, label_smoothing=0.1)
    assert smooth.total != both.answer


@pytest.mark.parametrize("aggregation", ["dapo", "grpo"])
@pytest.mark.parametrize(("kl_weight", "weigh_kl"), [(0.0, False), (0.05, False), (0.05, True)])
def test_grpo_agrees_with_trl(
    golden: dict[str, np.ndarray], aggregation: str, kl_weight: float, weigh_kl: bool
) -> None:
    rewards = torch.tensor(golden["rewards"])
    advantages = group_advantages(rewards, int(golden["group_size"]))
    np.testing.assert_allclose(advantages, golden["advantages"], atol=1e-6)
    new = torch.tensor(golden["new"], requires_grad=True)
    loss = grpo_loss(
        new, torch.tensor(golden["old"]), torch.tensor(golden["advantages"]), torch.tensor(golden["real"]),
        reference_log_probs=torch.tensor(golden["reference"]), kl_weight=kl_weight, weigh_kl=weigh_kl, aggregation=aggregation,
    )  # fmt: skip
    loss.total.backward()
    name = f"{aggregation}_{kl_weight}_{weigh_kl}"
    assert loss.total.item() == pytest.approx(float(golden[f"{name}_loss"]), abs=1e-9)
    np.testing.assert_allclose(new.grad, golden[f"{name}_gradient"], atol=1e-9)
    assert loss.kl.item() == pytest.approx(float(golden[f"{weigh_kl}_kl"]), abs=1e-6)


def test_the_probability_of_a_rewarded_token_rises() -> None:
    """A bandit of one token: 20 steps, each with fresh answers, never a step back."""
    logits = torch.zeros(5, requires_grad=True)
    optimiser = torch.optim.SGD([logits], lr=0.5)
    generator = torch.Generator().manual_seed(0)
    chances = [0.2]
    for _ in range(20):
        log_p = torch.log_softmax(logits, dim=0)
        tokens = torch.multinomial(log_p.exp().detach(), 64, replacement=True, generator=generator)
        rewards = (tokens == 3).float()
        picked = log_p[tokens][:, None]
        loss = grpo_loss(picked, picked.detach(), group_advantages(rewards, 64), torch.ones(64, 1, dtype=torch.bool))
        optimiser.zero_grad()
        loss.total.backward()
        optimiser.step()
        chances.append(torch.softmax(logits, dim=0)[3].item())
    assert all(b > a for a, b in itertools.pairwise(chances))
    assert chances[-1] > 0.9


def test_groups_without_a_difference_teach_nothing() -> None:
    log_p = torch.randn(8, 3, requires_grad=True)
    advantages = group_advantages(torch.full((8,), 0.7), 4)
    assert not advantages.any()
    grpo_loss(log_p, log_p.detach(), advantages, torch.ones(8, 3, dtype=torch.bool)).total.backward()
    assert not log_p.grad.any()


def test_ratios_are_clipped_wider_above_than_below() -> None:
    old, real = torch.zeros(2, 1), torch.ones(2, 1, dtype=torch.bool)
    for log_ratio, advantage, flat in ((math.log(1.29), 1.0, True), (math.log(1.27), 1.0, False), (math.log(0.79), -1.0, True), (math.log(0.81), -1.0, False)):  # fmt: skip
        new = torch.full((2, 1), log_ratio, requires_grad=True)
        loss = grpo_loss(new, old, torch.full((2,), advantage), real)
        loss.total.backward()
        assert (not new.grad.any()) == flat
        assert loss.clipped == float(flat)


def test_refusals() -> None:
    x, real = torch.zeros(4, 2), torch.ones(4, 2, dtype=torch.bool)
    with pytest.raises(ValueError, match="found 3"):
        group_advantages(torch.zeros(4), 3)
    with pytest.raises(ValueError, match="'mean'"):
        grpo_loss(x, x, torch.zeros(4), real, aggregation="mean")
    with pytest.raises(ValueError, match="reference_log_probs"):
        grpo_loss(x, x, torch.zeros(4), real, kl_weight=0.1)
