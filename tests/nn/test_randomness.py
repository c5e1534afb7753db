from __future__ import annotations

import pytest
import torch

from sclm.nn import seeded


def test_the_global_generator_is_left_untouched() -> None:
    before = torch.get_rng_state()
    with seeded(3):
        torch.rand(5)
    assert torch.equal(torch.get_rng_state(), before)
    with pytest.raises(ZeroDivisionError), seeded(3):
        _ = torch.rand(5) + 1 // 0
    assert torch.equal(torch.get_rng_state(), before)


def test_numbers_are_those_of_a_local_generator() -> None:
    with seeded(2**63 + 5, "cpu"):
        drawn = torch.rand(4)
    assert torch.equal(drawn, torch.rand(4, generator=torch.Generator().manual_seed(2**63 + 5)))


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_a_seed_out_of_range_is_refused(seed: int) -> None:
    with pytest.raises(ValueError, match=rf"found {seed}"), seeded(seed):
        pass


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_an_accelerator_is_seeded_and_left_untouched() -> None:
    before = torch.cuda.get_rng_state("cuda:0")
    with seeded(1, "cuda:0"):
        a = torch.rand(3, device="cuda:0")
    with seeded(1, "cuda:0"):
        b = torch.rand(3, device="cuda:0")
    assert torch.equal(a, b)
    assert torch.equal(torch.cuda.get_rng_state("cuda:0"), before)
