"""Cells a second of PGL's two decoders and of Hugging Face ``generate``, one run, the same weights and threads.

A ``small`` model is fitted to a few simulated cells of 14,000 genes, about 2,000 of them expressed in a cell. Then
cells are written

- by the set decoder: depth and programmes one after the other, then the counts of all genes at once;
- by the token decoder: the same, then one gene after the other, until each cell ends by itself;
- by ``transformers``' ``generate`` on the same transformer, embeddings and tied output, without the base of independent
  genes and so without its masks: the metadata, depth and programmes as ``inputs_embeds``, sampling, key-value cache, as many
  tokens as the token decoder's cells have on average, at the batch size that is fastest half-way through.

The first two rows include everything that ``PGL.write`` does: drawing levels, sparse counts, the log-likelihood of each cell.
Numba's OpenMP layer changes torch's number of threads to its own: set both to the same, and no more than there are idle cores.
Peak memory is that of the process after it wrote so many cells block by block, each dropped once counted.

    OMP_NUM_THREADS=2 NUMBA_NUM_THREADS=2 python benchmarks/generate_speed.py [--cells 24] [--memory 1000 10000 50000]
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from typing import Any

import anndata
import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch
from transformers import GenerationConfig, GenerationMixin, LlamaPreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from sclm.cells import read_cells
from sclm.models.pgl.gene_base import level_hazards
from sclm.models.pgl.model import PGL
from sclm.models.pgl.sampling import training_memberships

TYPES = ("B cell", "T cell", "monocyte")


def fitted(n_genes: int, n_cells: int, expressed: int, seed: int) -> PGL:
    """A model of simulated cells: log-normal abundances, as many counts as give so many expressed genes."""
    rng = np.random.default_rng(seed)
    share = np.exp(rng.normal(0, 1.8, n_genes))
    share /= share.sum()
    depth = 100.0
    while -np.expm1(-depth * share).sum() < expressed:
        depth *= 1.02
    code = np.arange(n_cells) % len(TYPES)
    factors = np.exp(0.3 * rng.standard_normal((len(TYPES), n_genes)))[code]
    means = factors * share * depth * rng.gamma(10, 0.1, size=(n_cells, 1))
    obs = pd.DataFrame({"cell_type": np.array(TYPES)[code]}, index=[f"cell{i}" for i in range(n_cells)])
    var = pd.DataFrame(index=[f"g{i}" for i in range(n_genes)])
    adata = anndata.AnnData(sp.csr_matrix(rng.poisson(means).astype(np.float32)), obs=obs, var=var)
    return PGL.fit(
        read_cells(adata, obs_keys=["cell_type"]), obs_keys=["cell_type"], preset="small", max_epochs=1,
        programme_iterations=3, n_programme_genes=1000, gene_tokens=True, accelerator="cpu", progress_bar=False, seed=seed,
    )  # fmt: skip


def request(n: int) -> pd.DataFrame:
    return pd.DataFrame({"cell_type": np.array(TYPES)[np.arange(n) % len(TYPES)]})


def write(model: PGL, n: int, decoder: str) -> tuple[float, int, np.ndarray]:
    """Seconds, tokens and expressed genes of cells written and dropped block by block."""
    tokens, expressed = 0, []
    start = time.perf_counter()
    for block in model.write(request(n), seed=1, decoder=decoder):
        expressed.append(np.diff(block.cells.counts.indptr))
        tokens += int(model.network.genes.vocabulary.lengths(block.cells.counts).sum()) if decoder == "tokens" else 0
    return time.perf_counter() - start, tokens, np.concatenate(expressed)


class Plain(LlamaPreTrainedModel, GenerationMixin):
    """The same transformer, embeddings and tied output, as ``generate`` wants them."""

    def __init__(self, model: PGL) -> None:
        network = model.network
        config = network.body.body.config
        config.vocab_size = network.genes.vocabulary.size
        super().__init__(config)
        self.body, self.genes = network.body.body, network.genes

    def get_input_embeddings(self) -> Any:
        return self.genes.embed

    def forward(
        self, input_ids: Any = None, inputs_embeds: Any = None, attention_mask: Any = None, position_ids: Any = None,
        past_key_values: Any = None, use_cache: bool = True, **_: Any,
    ) -> CausalLMOutputWithPast:  # fmt: skip
        if inputs_embeds is None:
            inputs_embeds = self.genes.embed(input_ids)
        found = self.body(
            inputs_embeds=inputs_embeds, attention_mask=attention_mask, position_ids=position_ids,
            past_key_values=past_key_values, use_cache=use_cache,
        )  # fmt: skip
        last = found.last_hidden_state[:, -1:]  # only the last position is sampled from
        logits = last @ self.genes.output @ self.genes.embeddings.T
        return CausalLMOutputWithPast(logits=logits, past_key_values=found.past_key_values)


@torch.inference_mode()
def generate(plain: Plain, model: PGL, batch: int, prefix: int, n_tokens: int) -> float:
    """Seconds that ``generate`` takes for so many new tokens a cell, after `prefix` other tokens."""
    network = model.network
    codes = torch.zeros(batch, 1, dtype=torch.int64)
    start, _, _ = network.condition(codes, training_memberships(model.conditions))
    slots = network.embed_levels(torch.zeros(batch, network.n_slots))
    genes = network.genes.embed(torch.arange(prefix).expand(batch, -1))
    settings = GenerationConfig(
        do_sample=True, top_k=0, max_new_tokens=n_tokens, min_new_tokens=n_tokens, use_cache=True, pad_token_id=0
    )
    inputs = torch.cat([start, slots, genes], dim=1)
    begin = time.perf_counter()
    found = plain.generate(
        inputs_embeds=inputs, attention_mask=torch.ones(inputs.shape[:2], dtype=torch.int64), generation_config=settings
    )
    if found.shape != (batch, n_tokens):
        raise RuntimeError(f"generate must give {(batch, n_tokens)} tokens, found {tuple(found.shape)}.")
    return time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--genes", type=int, default=14_000)
    parser.add_argument("--expressed", type=int, default=2000)
    parser.add_argument("--cells", type=int, default=24, help="cells of the token decoder")
    parser.add_argument("--set-cells", type=int, default=1024)
    parser.add_argument("--batches", type=int, nargs="+", default=[4, 12, 32], help="batch sizes tried for generate")
    parser.add_argument("--memory", type=int, nargs="*", default=[1000, 10_000, 50_000])
    options = parser.parse_args()
    begin = time.perf_counter()
    model = fitted(options.genes, 150, options.expressed, seed=0)
    generator = torch.Generator().manual_seed(0)
    output = model.network.genes.output
    output.data += 1e-3 * torch.randn(output.shape, generator=generator)  # as after a little training: no zeros to skip
    say(f"fitted in {time.perf_counter() - begin:.0f} s")

    write(model, 256, "set")  # compiles the kernels
    seconds_set, _, expressed_set = write(model, options.set_cells, "set")
    rate_set = options.set_cells / seconds_set
    say(f"set decoder {rate_set:.1f} cells/s, {expressed_set.mean():.0f} expressed genes a cell")
    memory = []
    for n in options.memory:
        seconds, _, _ = write(model, n, "set")
        memory.append((n, seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024))
        say(f"{n:,} cells in {seconds:.0f} s, peak {memory[-1][2]:.0f} MiB")

    level_hazards(np.ones((1, 2)), np.ones(2), model.network.genes.vocabulary.edges)  # compiles
    model.network.genes.vocabulary.decode(model.network.genes.vocabulary.encode(sp.csr_matrix((1, options.genes))))
    seconds_tokens, tokens, expressed = write(model, options.cells, "tokens")
    per_cell = round(tokens / options.cells)
    say(f"token decoder {options.cells / seconds_tokens:.3f} cells/s, {expressed.mean():.0f} expressed genes a cell")

    plain = Plain(model).eval()
    speed = {}
    for batch in options.batches:
        whole, start = (
            generate(plain, model, batch, per_cell // 2, n) for n in (34, 2)
        )  # without the time of the prefix
        speed[batch] = batch * 32 / max(whole - start, 1e-9)
        say(f"generate, batches of {batch}: {speed[batch]:.0f} tokens/s half-way")
    best = max(speed, key=speed.__getitem__)
    seconds_plain = generate(plain, model, best, 0, per_cell)
    rate_plain, rate_tokens = best / seconds_plain, options.cells / seconds_tokens

    rows = [
        (f"`generate`, batches of {best}", rate_plain, rate_plain * per_cell),
        ("token decoder", rate_tokens, tokens / seconds_tokens),
        ("set decoder", rate_set, None),
    ]
    out = [
        f"{options.genes:,} genes, {per_cell:,} tokens a cell, preset small (4 layers, width 128), "
        f"{torch.get_num_threads()} thread(s) of torch, {torch.__version__}",
        "",
        "| road | cells/s | tokens/s | ratio to generate |",
        "|---|---|---|---|",
        *(
            f"| {name} | {rate:.3f} | {'–' if speed_ is None else f'{speed_:,.0f}'} | {rate / rate_plain:.1f} |"
            for name, rate, speed_ in rows
        ),
    ]
    if torch.cuda.is_available():
        model.to("cuda")
        write(model, 16, "tokens")
        seconds, tokens, _ = write(model, 256, "tokens")
        out.append(
            f"| token decoder on {torch.cuda.get_device_name()} | {256 / seconds:.2f} | {tokens / seconds:,.0f} | |"
        )
    if memory:
        out += ["", "| cells by the set decoder | seconds | peak memory, MiB |", "|---|---|---|"]
        out += [f"| {n:,} | {seconds:.0f} | {peak:,.0f} |" for n, seconds, peak in memory]
    sys.stdout.write("\n".join(out) + "\n")
    say(f"{time.perf_counter() - begin:.0f} s in all")


def say(text: str) -> None:
    sys.stderr.write(f"{text}\n")


if __name__ == "__main__":
    main()
