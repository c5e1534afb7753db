"""Cells annotated by a language model of half a billion weights: time and memory.

    python benchmarks/large_lm.py [--cells 32] [--genes 200] [--names 3315] [--dtype bfloat16] [--device cpu]

The model has the sizes of Qwen2.5-0.5B (24 layers, width 896, 14 heads of which 2 hold keys and values, 151,936 tokens) and random
weights: times and memory do not depend on them. Its tokenizer is made here from the names and symbols, so that prompts and names have
about as many tokens as with the real one (about 2.5 a gene). With random weights all names are nearly alike, and a search goes on
to the end of its budget of nodes: the times of ``best`` are those of its worst case.

The cells are simulated counts over approved human symbols.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import sparse

SIZES = {
    "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24, "num_attention_heads": 14, "num_key_value_heads": 2,
    "vocab_size": 151_936, "max_position_embeddings": 32_768, "tie_word_embeddings": True, "bos_token_id": None, "eos_token_id": 0,
}  # fmt: skip


def write_checkpoint(folder: Path, names: list[str], symbols: list[str], dtype: str) -> None:
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM
    from transformers.utils import logging

    inner: Any = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=4_000,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    inner.train_from_iterator([*names, *symbols], trainer)
    PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<|endoftext|>").save_pretrained(folder)
    with torch.device("meta"):
        model: Any = Qwen2ForCausalLM(Qwen2Config(**SIZES))
    model = model.to_empty(device="cpu").to(getattr(torch, dtype))
    model.tie_weights()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 2:
                parameter.normal_(0, 0.02, generator=generator)
            else:
                parameter.fill_(0.0 if name.endswith("bias") else 1.0)
    logging.disable_progress_bar()
    model.save_pretrained(folder)


def simulated(n: int, symbols: list[str]) -> Any:
    from sclm.cells import Cells

    rng = np.random.default_rng(0)
    mean = rng.lognormal(-1, 1.5, size=len(symbols))
    counts = sparse.csr_matrix(rng.poisson(mean * rng.gamma(4, 0.25, size=(n, 1))).astype(np.float32))
    return Cells(counts, pd.Index(symbols), pd.DataFrame(index=[f"cell{i}" for i in range(n)]))


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # GB


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=32)
    parser.add_argument("--genes", type=int, default=200)
    parser.add_argument("--names", type=int, default=10_000, help="candidates: the first of the Cell Ontology")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--verbs", nargs="+", default=["annotate"], choices=["annotate", "embed"])
    parser.add_argument("--decoding", default="best", choices=["best", "exhaustive"])
    arguments = parser.parse_args()

    import torch

    from sclm.knowledge import GeneIdentifiers, Ontology
    from sclm.models.cell2sentence.model import Cell2Sentence

    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    cl = Ontology.load("cl")
    names = [cl.name_of(term) for term in sorted(cl.descendants("CL:0000000"))][: arguments.names]
    symbols = [s for s in GeneIdentifiers.load("human").symbols if s.isalnum()][:4000]
    with tempfile.TemporaryDirectory() as folder:
        write_checkpoint(Path(folder), names, symbols, arguments.dtype)
        started = time.perf_counter()
        model = Cell2Sentence.open(folder, candidates=tuple(names), n_genes=arguments.genes)
    model.to(arguments.device)
    weights = sum(p.numel() for p in model.network.parameters())
    print(
        f"{weights / 1e6:.0f} M weights in {arguments.dtype} on {arguments.device}, {torch.get_num_threads()} thread(s); opened in "
        f"{time.perf_counter() - started:.1f} s; peak {peak():.2f} GB"
    )
    cells = simulated(arguments.cells, symbols)
    tokens = [len(ids) for ids in model._prompts(model.sentences(cells))]
    print(f"{arguments.cells} cells, prompts of {np.mean(tokens):.0f} tokens, {len(names):,} names")
    for verb in arguments.verbs:
        started, used = time.perf_counter(), time.process_time()
        found = model.embed(cells) if verb == "embed" else model.annotate(cells, decoding=arguments.decoding)
        wall, cpu = time.perf_counter() - started, time.process_time() - used
        print(
            f"{verb}{f' ({arguments.decoding})' if verb == 'annotate' else '':14s} {wall:8.1f} s, {cpu:8.1f} s of processor, "
            f"{arguments.cells / wall:.3f} cells/s, peak {peak():.2f} GB"
        )
        if verb == "annotate":
            valid = np.isin(found.table["label"].to_numpy(dtype=str), names)
            print(f"answers that are candidates: {valid.mean():.0%}")
    if arguments.device.startswith("cuda"):
        print(f"peak on the device {torch.cuda.max_memory_allocated() / 2**30:.2f} GB")


if __name__ == "__main__":
    main()
