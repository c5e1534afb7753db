from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from sclm.training import adamw, parameter_groups, warmup_cosine


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words = torch.nn.Embedding(5, 4)
        self.table = torch.nn.Parameter(torch.zeros(6, 4))
        self.linear = torch.nn.Linear(4, 4)
        self.norm = torch.nn.LayerNorm(4)
        self.out = torch.nn.Linear(4, 5, bias=False)
        self.out.weight = self.words.weight  # tied
        self.frozen = torch.nn.Linear(4, 4).requires_grad_(False)


def test_only_weight_matrices_decay() -> None:
    net = Net()
    decayed, others = parameter_groups(net, 0.1, undecayed=["table"])
    assert [p is net.linear.weight for p in decayed["params"]] == [True]
    assert {id(p) for p in others["params"]} == {
        id(p) for p in (net.words.weight, net.table, net.linear.bias, net.norm.weight, net.norm.bias)
    }
    assert (decayed["weight_decay"], others["weight_decay"]) == (0.1, 0.0)
    assert any(p is net.table for p in parameter_groups(net, 0.1)[0]["params"])
    with pytest.raises(ValueError, match="no parameter to train"):
        parameter_groups(net.frozen, 0.1)


def test_warmup_meets_torchs_cosine() -> None:
    """After the warm-up the rates are those of CosineAnnealingLR, down to the floor and no further."""

    def rates(make: object, n: int) -> list[float]:
        optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=2.0)
        schedule = make(optimizer)  # type: ignore[operator]
        found = []
        for _ in range(n):
            found.append(schedule.get_last_lr()[0])
            optimizer.step()
            schedule.step()
        return found

    ours = rates(lambda o: warmup_cosine(o, total_steps=25, warmup_steps=4, floor=0.1), 30)
    theirs = rates(lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, T_max=21, eta_min=0.2), 21)
    np.testing.assert_allclose(ours[:4], [0.4, 0.8, 1.2, 1.6])
    np.testing.assert_allclose(ours[4:25], theirs, atol=1e-9)
    np.testing.assert_allclose(ours[25:], 0.2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"total_steps": 0}, "found 0"),
        ({"total_steps": 5, "warmup_steps": 5}, "0 to total_steps - 1 = 4, found 5"),
        ({"total_steps": 5, "floor": 2}, "found 2"),
    ],
)
def test_bad_schedules(options: dict[str, int], message: str) -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    with pytest.raises(ValueError, match=message):
        warmup_cosine(optimizer, **options)


def test_one_step_of_training_still_learns() -> None:
    net = Net()
    found = adamw(net, learning_rate=0.1, total_steps=1, warmup=0.5)
    assert found["lr_scheduler"]["interval"] == "step"
    assert found["optimizer"].param_groups[0]["lr"] == pytest.approx(0.1)
    assert math.isclose(found["optimizer"].param_groups[1]["weight_decay"], 0)
    with pytest.raises(ValueError, match=r"found 1\.0"):
        adamw(net, learning_rate=0.1, total_steps=1, warmup=1.0)
