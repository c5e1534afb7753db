"""All names of the Cell Ontology scored for a cell: over the tree of names, against every name by itself.

    python benchmarks/trie_scoring.py [--preset tiny small] [--genes 64 200] [--threads 1]

A small causal language model with random weights (times do not depend on them) reads a cell sentence and scores every term under "cell".

- each name by itself: a batch of one, the prompt read again for each name, the scores of every position computed, as a loop over names
  around a model of transformers does; timed on a sample of names, and multiplied
- each name, scores of the answer only: the same without the scores that are not needed
- names in batches behind the cached prompt: the prompt is read once, its cache repeated for 256 names at a time, names padded
- the tree: ``score_names``, the probability of every name, each shared beginning read once
- the tree, among names: the same with probabilities shared among names only (no scores of the rest of the vocabulary)
- the best 5: ``beam_names``, exact where it says so

Memory is the peak of the process above what it held before, each way in a process of its own.
"""

from __future__ import annotations

import argparse
import multiprocessing
import platform
import resource
import time
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

WAYS = (
    "each name by itself",
    "each name, scores of the answer only",
    "batches behind the cached prompt",
    "the tree",
    "the tree, among names",
    "the best 5",
)
SAMPLE = 200  # names of the slowest way
CELLS = 8  # at a time, of the fast ways


def model(preset: str) -> Any:
    """Language model, names and their tokens."""
    import torch

    from sclm.knowledge import Ontology
    from sclm.nn import PrefixLM

    cl = Ontology.load("cl")
    names = [cl.name_of(term) for term in sorted(cl.descendants("CL:0000000"))]
    symbols = [f"GENE{i}" for i in range(5000)]
    lm = PrefixLM.from_scratch(
        texts=["Genes by decreasing expression: . Cell type:", *names], words=symbols, preset=preset, seed=0
    ).eval()
    with torch.no_grad():  # decided enough for a search to have something to find
        for parameter in lm.parameters():
            if parameter.ndim == 2:
                parameter *= 4
    rng = np.random.default_rng(0)
    return (
        lm,
        names,
        lambda n, genes: [
            f"Genes by decreasing expression: {' '.join(rng.choice(symbols, genes, replace=False))}. Cell type:"
            for _ in range(n)
        ],
    )


def plain(lm: Any, names: list[str], prompts: list[str]) -> int:
    import torch

    ids = [[*of, lm.eos] for of in lm.encode(names)]
    (prompt,) = lm.encode(prompts[:1])
    with torch.inference_mode():
        for i in np.random.default_rng(1).choice(len(ids), SAMPLE, replace=False):
            spread = lm.logits(None, torch.tensor([prompt + ids[i]]))[0].log_softmax(-1)
            spread[torch.arange(len(prompt) - 1, len(prompt) + len(ids[i]) - 1), torch.tensor(ids[i])].sum()
    return SAMPLE


def alone(lm: Any, names: list[str], prompts: list[str]) -> int:
    import torch

    ids = [[*of, lm.eos] for of in lm.encode(names)]
    chosen = np.random.default_rng(1).choice(len(ids), SAMPLE, replace=False)
    prompt = lm.pack(lm.encode(prompts[:1]))
    with torch.inference_mode():
        for i in chosen:
            lm.answer_log_probs(None, prompt, lm.pack([ids[i]])).sum()
    return SAMPLE


def batched(lm: Any, names: list[str], prompts: list[str]) -> int:
    import torch

    from sclm.nn import masked_log_probs

    answers = lm.pack([[*of, lm.eos] for of in lm.encode(names)])
    order = torch.argsort(answers.lengths)  # little padding
    with torch.inference_mode():
        cache = lm.prompt_cache(None, lm.pack(lm.encode(prompts[:1])))
        for part in order.split(256):
            some = answers.rows(part)
            width = int(some.lengths.max())
            ids = some.ids[:, :width]
            sees = torch.ones(width, width).tril().bool()[None]
            hidden = lm.extend(cache.repeat(len(part)), ids, torch.arange(width)[None], sees)
            hidden = torch.cat([cache.hidden[None].expand(len(part), 1, -1), hidden[:, :-1]], dim=1)
            found = masked_log_probs(lm.lm.logits(hidden), None).gather(-1, ids[..., None])[..., 0]
            (found * some.real[:, :width]).sum(-1)
    return len(names)


def tree(lm: Any, names: list[str], prompts: list[str], among: str = "vocabulary") -> int:
    from sclm.nn import Trie, score_names

    trie = Trie.build(lm.encode(names), eos=lm.eos)
    cache = lm.prompt_cache(None, lm.pack(lm.encode(prompts)))
    score_names(lm, cache, trie, among=among)
    return len(prompts) * len(names)


def best(lm: Any, names: list[str], prompts: list[str]) -> tuple[int, str]:
    from sclm.nn import Trie, beam_names

    trie = Trie.build(lm.encode(names), eos=lm.eos)
    cache = lm.prompt_cache(None, lm.pack(lm.encode(prompts)))
    found = beam_names(lm, cache, trie, k=5, among="names")
    return len(prompts) * len(names), f"{found.exact.mean():.0%} exact, {found.read.mean():.0f} nodes read"


def measure(way: str, preset: str, genes: int, threads: int) -> dict[str, Any]:
    """Seconds a cell and MB, in a process of its own."""
    import torch

    torch.set_num_threads(threads)
    lm, names, sentences = model(preset)
    ways: list[Callable[..., Any]] = [plain, alone, batched, tree, lambda *a: tree(*a, among="names"), best]
    run = dict(zip(WAYS, ways, strict=True))[way]
    prompts = sentences(CELLS, genes)
    run(lm, names, prompts[:1])  # warm
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    clock = time.process_time if threads == 1 else time.perf_counter  # of this process: others may run beside it
    started = clock()
    found = run(lm, names, prompts)
    seconds = clock() - started
    scored, note = found if isinstance(found, tuple) else (found, "")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "way": way, "seconds": seconds * len(names) / scored, "names": len(names), "peak": peak / 1024,
        "more": (peak - before) / 1024, "note": note,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", nargs="+", default=["tiny", "small"])
    parser.add_argument("--genes", nargs="+", type=int, default=[64, 200])
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    print(f"{platform.processor() or platform.machine()}, {arguments.threads} thread(s)")
    spawn = multiprocessing.get_context("spawn")
    for preset in arguments.preset:
        for genes in arguments.genes:
            rows = []
            for way in WAYS:
                with spawn.Pool(1) as pool:
                    rows.append(pool.apply(measure, (way, preset, genes, arguments.threads)))
            slow, cached = rows[0]["seconds"], rows[2]["seconds"]
            print(f"\n{preset} model, prompts of {genes} genes, {rows[0]['names']:,} names")
            print(f"{'':38s}{'s/cell':>9s}{'cells/s':>9s}{'x alone':>9s}{'x cached':>9s}{'peak MB':>9s}")
            for row in rows:
                s = row["seconds"]
                print(
                    f"{row['way']:38s}{s:9.3f}{1 / s:9.2f}{slow / s:9.1f}{cached / s:9.1f}{row['peak']:9.0f}  {row['note']}"
                )


if __name__ == "__main__":
    main()
