"""Writes trl_golden.npz beside it: advantages and losses of trl's own GRPO trainer. Needs `pip install trl` (made with 1.16.0).

Nothing of trl is needed to run the tests; they read the numbers.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

PROMPTS, GROUP, LENGTH = 3, 4, 6


def trainer(folder: str, loss: str, beta: float, weigh: bool) -> Any:
    from datasets import Dataset
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
    from trl import GRPOConfig, GRPOTrainer

    words = {word: i for i, word in enumerate(["<pad>", "<eos>", *"abcdefgh"])}
    backend = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", eos_token="<eos>")
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = LlamaForCausalLM(
        LlamaConfig(vocab_size=len(words), pad_token_id=0, eos_token_id=1, bos_token_id=None, **shape)
    )
    model.save_pretrained(folder)
    model = LlamaForCausalLM.from_pretrained(folder)
    arguments = GRPOConfig(
        output_dir=folder, per_device_train_batch_size=PROMPTS * GROUP, num_generations=GROUP, loss_type=loss, beta=beta,
        epsilon=0.2, epsilon_high=0.28, max_completion_length=LENGTH, use_bias_correction_kl=weigh, report_to=[], use_cpu=True, bf16=False,
    )  # fmt: skip
    data = Dataset.from_dict({"prompt": ["a b", "c d", "e f"]})
    return GRPOTrainer(model, reward_funcs=lambda completions, **_: [0.0] * len(completions), args=arguments, train_dataset=data, processing_class=tokenizer)  # fmt: skip


def main() -> None:
    torch.manual_seed(0)
    n = PROMPTS * GROUP
    generator = np.random.default_rng(3)
    old = np.log(generator.uniform(0.05, 0.9, (n, LENGTH)))
    new = old + generator.normal(0, 0.3, (n, LENGTH))
    reference = old + generator.normal(0, 0.2, (n, LENGTH))
    length = generator.integers(1, LENGTH + 1, n)
    real = np.arange(LENGTH)[None, :] < length[:, None]
    rewards = generator.normal(0.4, 0.5, n).round(2)
    rewards[:GROUP] = 0.5  # a group without a difference
    golden: dict[str, Any] = {
        "old": old,
        "new": new,
        "reference": reference,
        "real": real,
        "rewards": rewards,
        "group_size": GROUP,
    }
    with tempfile.TemporaryDirectory() as folder:
        for loss in ("dapo", "grpo"):
            for beta, weigh in ((0.0, False), (0.05, False), (0.05, True)):
                made = trainer(folder, loss, beta, weigh)
                made._calculate_rewards = lambda *_: torch.tensor(rewards)[:, None]
                batch = [{"prompt": p} for p in ("a b", "c d", "e f") for _ in range(GROUP)]
                made.model.train()
                made.current_gradient_accumulation_steps = 1
                golden["advantages"] = made._generate_and_score_completions(batch)["advantages"].numpy()
                policy = torch.tensor(new, requires_grad=True)
                made._get_per_token_logps_and_entropies = lambda *_, p=policy, **__: (p, torch.zeros_like(p), None)
                ids = torch.ones(n, LENGTH, dtype=torch.int64)
                inputs = {
                    "prompt_ids": ids, "prompt_mask": ids, "completion_ids": ids, "completion_mask": torch.tensor(real).long(),
                    "advantages": torch.tensor(golden["advantages"]), "old_per_token_logps": torch.tensor(old),
                    "ref_per_token_logps": torch.tensor(reference), "num_items_in_batch": torch.tensor(float(real.sum())),
                }  # fmt: skip
                value = made._compute_loss(made.model, inputs)
                value.backward()
                name = f"{loss}_{beta}_{weigh}"
                golden[f"{name}_loss"], golden[f"{name}_gradient"] = value.item(), policy.grad.numpy()
                if beta:
                    golden[f"{weigh}_kl"] = made._metrics["train"]["kl"][-1]
    np.savez(Path(__file__).with_name("trl_golden.npz"), **golden)


if __name__ == "__main__":
    main()
