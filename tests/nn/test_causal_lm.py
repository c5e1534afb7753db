"""The body against transformers used directly, and cached steps against the full pass."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

from sclm.nn import CausalLM, load_own_state, own_state, seeded

if TYPE_CHECKING:
    from pathlib import Path

KINDS = ("Llama", "Qwen2", "GPTNeoX", "Gemma", "Gemma2")


@pytest.fixture(autouse=True)
def _seed() -> Any:
    with seeded(0):
        yield


def scratch(**options: Any) -> CausalLM:
    return CausalLM.from_scratch(**{"width": 32, "layers": 2, "heads": 4, "max_length": 64, "seed": 0, **options})


def save(kind: str, folder: Path) -> Any:
    """A language model with random weights, saved as transformers saves it."""
    import transformers
    from transformers.utils import logging

    settings = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "vocab_size": 50}
    settings |= {"num_attention_heads": 4, "bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
    if kind != "GPTNeoX":
        settings["num_key_value_heads"] = 2
    if kind.startswith("Gemma"):
        settings["head_dim"] = 8
    model = getattr(transformers, f"{kind}ForCausalLM")(getattr(transformers, f"{kind}Config")(**settings)).eval()
    logging.disable_progress_bar()
    model.save_pretrained(folder)
    logging.enable_progress_bar()
    return model


@pytest.fixture(params=KINDS)
def original(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Any, Path]:
    return request.param, save(request.param, tmp_path), tmp_path


# -- from scratch --------------------------------------------------------------------------------------------------


def test_weights_follow_the_seed_and_not_the_global_state() -> None:
    before = torch.get_rng_state()
    a, b, c = scratch(), scratch(), scratch(seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))
    assert not torch.equal(next(a.parameters()), next(c.parameters()))


def test_it_is_a_llama(tmp_path: Path) -> None:
    """The same weights in transformers' own class give the same logits."""
    from transformers import LlamaForCausalLM

    ours = scratch(vocab_size=50).eval()
    theirs = LlamaForCausalLM(ours.body.config).eval()
    theirs.model.load_state_dict(ours.body.state_dict())
    ids = torch.randint(0, 50, (2, 7))
    torch.testing.assert_close(ours.logits(ours(ours.embed(ids))), theirs(ids).logits)
    assert ours.body.config._attn_implementation == "sdpa"


def test_padding_on_the_right_needs_no_mask() -> None:
    network = scratch().eval()
    x = torch.randn(2, 9, 32)
    padded = torch.cat([x, torch.full((2, 5, 32), 7.0)], dim=1)
    torch.testing.assert_close(network(padded)[:, :9], network(x), atol=1e-6, rtol=0)


def test_a_mask_hides_padding_on_the_left() -> None:
    network = scratch().eval()
    x = torch.randn(2, 9, 32)
    padded = torch.cat([torch.full((2, 5, 32), 7.0), x], dim=1)
    mask = torch.cat([torch.zeros(2, 5), torch.ones(2, 9)], dim=1).long()
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    hidden = network(padded, attention_mask=mask, position_ids=positions)[:, 5:]
    torch.testing.assert_close(hidden, network(x), atol=1e-6, rtol=0)


def test_every_parameter_gets_a_gradient() -> None:
    network = scratch(vocab_size=11)
    network.logits(network(network.embed(torch.arange(11)[None]))).square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())
    network = scratch()
    network(torch.randn(2, 5, 32)).square().mean().backward()
    assert all(p.grad is not None for p in network.parameters())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 36}, "multiple of 2 \\* heads = 8, found 36"),
        ({"layers": 0}, "layers must be at least 1"),
        ({"dropout": 1.0}, "found 1.0"),
        ({"vocab_size": 0}, "vocab_size"),
    ],
)
def test_bad_sizes(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        scratch(**options)


def test_wrong_inputs_are_refused() -> None:
    network = scratch()
    with pytest.raises(ValueError, match=r"shape \(B, L, 32\), found \(2, 5, 16\)"):
        network(torch.randn(2, 5, 16))
    with pytest.raises(ValueError, match="no text vocabulary"):
        network.embed(torch.zeros(1, 1, dtype=torch.int64))


# -- caches --------------------------------------------------------------------------------------------------------


def test_cached_steps_equal_the_full_pass() -> None:
    network = scratch().eval()
    x = torch.randn(3, 12, 32)
    with torch.inference_mode():
        cache = network.static_cache(3, 16)
        where = [(layer.keys.data_ptr(), layer.values.data_ptr()) for layer in cache.layers]
        seen: list[int] = []
        handle = network.body.layers[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape[1]))
        steps = [network(x[:, :5], past_key_values=cache)]
        steps += [network(x[:, i : i + 1], past_key_values=cache) for i in range(5, 12)]
        handle.remove()
        torch.testing.assert_close(torch.cat(steps, dim=1), network(x), atol=1e-5, rtol=0)
    assert seen == [5] + [1] * 7  # nothing is computed twice
    assert where == [(layer.keys.data_ptr(), layer.values.data_ptr()) for layer in cache.layers]  # nothing moves


@pytest.mark.parametrize("repeats", [3, [2, 0, 3]])
def test_a_prefix_is_read_once_and_expanded(repeats: Any) -> None:
    network = scratch().eval()
    counts = repeats if isinstance(repeats, int) else torch.tensor(repeats)
    prefix = torch.randn(3, 4, 32)
    with torch.inference_mode():
        small = network.static_cache(3, 4)
        network(prefix, past_key_values=small)
        kept = small.layers[0].keys.clone()
        whole = prefix.repeat_interleave(counts, dim=0)
        rest = torch.randn(len(whole), 6, 32)
        cache = network.expand_cache(small, counts, max_length=12)
        steps = [network(rest[:, i : i + 1], past_key_values=cache) for i in range(6)]
        full = network(torch.cat([whole, rest], dim=1))[:, 4:]
    torch.testing.assert_close(torch.cat(steps, dim=1), full, atol=1e-5, rtol=0)
    assert torch.equal(small.layers[0].keys, kept)
    with pytest.raises(ValueError, match="at least that of the cache, 12, found 5"):
        network.expand_cache(cache, 1, max_length=5)


def test_a_cache_can_be_returned() -> None:
    network = scratch().eval()
    x = torch.randn(1, 6, 32)
    _, cache = network(x[:, :5], use_cache=True)
    hidden, _ = network(x[:, 5:], past_key_values=cache, use_cache=True)
    torch.testing.assert_close(hidden, network(x)[:, 5:], atol=1e-5, rtol=0)


# -- pretrained ----------------------------------------------------------------------------------------------------


def test_before_training_it_is_the_pretrained_model(original: tuple[str, Any, Path]) -> None:
    _, theirs, folder = original
    before = torch.get_rng_state()
    ours = CausalLM.pretrained(str(folder), lora_rank=2).eval()
    assert torch.equal(torch.get_rng_state(), before)
    assert ours.base_model == {"name": str(folder), "revision": None}
    assert ours.width == 32
    ids = torch.randint(0, 50, (2, 9))
    torch.testing.assert_close(ours.logits(ours(ours.embed(ids))), theirs(ids).logits)
    with torch.inference_mode():
        x, cache = ours.embed(ids), ours.static_cache(2, 12)
        steps = [ours(x[:, :4], past_key_values=cache)]
        steps += [ours(x[:, i : i + 1], past_key_values=cache) for i in range(4, 9)]
        torch.testing.assert_close(torch.cat(steps, dim=1), ours(x), atol=1e-5, rtol=0)


def test_only_lora_learns_and_gradients_reach_the_inputs(original: tuple[str, Any, Path]) -> None:
    kind, _, folder = original
    network = CausalLM.pretrained(folder, lora_rank=2)
    # 2 blocks, A and B of each linear map
    maps = 4 if kind == "GPTNeoX" else 7
    assert len(network.own_state()) == 2 * 2 * maps
    trainable = {name for name, p in network.named_parameters() if p.requires_grad}
    assert trainable == set(network.own_state())
    frozen = {n: p.clone() for n, p in network.named_parameters() if not p.requires_grad}
    x = torch.randn(2, 5, 32, requires_grad=True)
    optimizer = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], lr=0.1)
    network.logits(network(x)).square().mean().backward()
    optimizer.step()
    assert x.grad is not None
    assert x.grad.abs().sum() > 0
    assert all(torch.equal(p, frozen[n]) for n, p in network.named_parameters() if n in frozen)


def test_lora_alone_restores_the_answers(original: tuple[str, Any, Path]) -> None:
    _, _, folder = original
    network = CausalLM.pretrained(folder, lora_rank=2).eval()
    with torch.no_grad():
        for tensor in network.own_state().values():
            tensor.normal_()
    again = CausalLM.pretrained(folder, lora_rank=2, seed=5).eval()
    x = torch.randn(1, 4, 32)
    assert not torch.allclose(again(x), network(x), atol=1e-3)
    again.load_own_state({name: tensor.clone() for name, tensor in network.own_state().items()})
    torch.testing.assert_close(again(x), network(x), rtol=0, atol=0)


def test_bfloat16_weights_take_float32_inputs(tmp_path: Path) -> None:
    save("Llama", tmp_path)
    network = CausalLM.pretrained(tmp_path, dtype="bfloat16")
    assert network.body.dtype == torch.bfloat16
    assert {t.dtype for t in network.own_state().values()} == {torch.float32}
    assert network(torch.randn(1, 3, 32)).dtype == torch.bfloat16
    assert CausalLM.pretrained(tmp_path, lora_rank=0).own_state() == {}


def test_weights_that_could_run_code_are_refused(tmp_path: Path) -> None:
    save("Llama", tmp_path)
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(ValueError, match=r"safetensors, found pytorch_model.bin"):
        CausalLM.pretrained(tmp_path)


def test_incomplete_weights_are_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    from safetensors.torch import load_file, save_file

    save("Llama", tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    weights.pop("model.norm.weight")
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"lacks 1 weights .*model\.norm\.weight"):
        CausalLM.pretrained(tmp_path)


def test_missing_models_say_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FileNotFoundError, match=r"config\.json"):
        CausalLM.pretrained(tmp_path / "nothing")
    with pytest.raises(ValueError, match="Expected 'hf:organisation/name'"):
        CausalLM.pretrained("hf:nothing")
    with pytest.raises(ValueError, match="found -1"):
        CausalLM.pretrained(tmp_path, lora_rank=-1)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(FileNotFoundError, match=r"hf download organisation/no-such-model"):
        CausalLM.pretrained("hf:organisation/no-such-model")


# -- state ---------------------------------------------------------------------------------------------------------


def test_own_state_looks_inside_larger_networks(tmp_path: Path) -> None:
    save("Llama", tmp_path)

    class Wide(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.adapter = torch.nn.Linear(8, 32)
            self.language = CausalLM.pretrained(tmp_path, lora_rank=1)
            self.cells = scratch()

    network = Wide()
    names = set(own_state(network))
    assert {"adapter.weight", "adapter.bias"} < names
    assert all("lora_" in n for n in names if n.startswith("language."))
    assert {n for n in names if n.startswith("cells.")} == {f"cells.{n}" for n in network.cells.state_dict()}


def test_loading_is_strict() -> None:
    network = scratch()
    state = {name: torch.zeros_like(tensor) for name, tensor in network.own_state().items()}
    name = "body.norm.weight"
    with pytest.raises(ValueError, match=rf"Expected 19 tensors, found 18 \(1 missing: {name}\)"):
        load_own_state(network, {n: t for n, t in state.items() if n != name})
    with pytest.raises(ValueError, match="1 unknown: other"):
        load_own_state(network, state | {"other": torch.zeros(1)})
    with pytest.raises(ValueError, match=rf"{name} must have shape \(32,\), found \(3,\)"):
        load_own_state(network, state | {name: torch.zeros(3)})
    assert all(not torch.equal(t, state[n]) for n, t in network.own_state().items())
    load_own_state(network, state)
    assert all(torch.equal(t, state[n]) for n, t in network.own_state().items())
