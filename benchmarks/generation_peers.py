"""Peers of generate.py: scVI's posterior predictive, and a plain cell-sentence language model.

The second is what the literature calls a cell sentence, made with nothing but transformers: genes of a cell as tokens, most
counts first (ties in the order of the genes), behind one token for its label; a Llama from scratch; ancestral sampling by
``generate`` with its cache; ranks back to counts by a line of log share on log rank, fitted on training cells, times the
depth of a training cell of the label.
"""

from __future__ import annotations

import time
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from generation_data import Clock, cells_of, depths, labels

CELLS_AT_ONCE = 64  # of generate: larger batches were no faster on two cores


def scvi_cells(train, seed: int, minutes: float):
    """A posterior predictive draw for each training cell, with its label; None where scvi-tools is not installed."""
    try:
        import scvi
    except ImportError:
        return None
    import logging

    import scipy.sparse as sp

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    scvi.settings.seed = seed
    scvi.settings.verbosity = logging.ERROR
    clock = Clock.start()
    cells = train.copy()
    scvi.model.SCVI.setup_anndata(cells)
    model = scvi.model.SCVI(cells)
    model.train(
        early_stopping=True, max_time={"minutes": minutes}, accelerator="cpu", enable_progress_bar=False,
        enable_model_summary=False,
    )  # fmt: skip
    trained, clock = clock.stop(), Clock.start()
    drawn = model.posterior_predictive_sample(cells, n_samples=1)
    drawn = drawn.to_scipy_sparse() if hasattr(drawn, "to_scipy_sparse") else drawn
    made = cells_of(sp.csr_matrix(drawn), train.var_names, train.obs)
    return made, trained, clock.stop(), f"{len(model.history['elbo_validation'])} epochs"


class Sentences(NamedTuple):
    """Training cells as tokens: 0 ends a sentence and pads it, then the labels, then the genes."""

    tokens: np.ndarray  # (n, 2 + length) int64
    label_names: np.ndarray  # (L,)
    genes: np.ndarray  # (V,) columns of the genes that occur in a sentence
    intercept: float  # of log share on log rank
    slope: float


def sentences(train, length: int) -> Sentences:
    """Cells as sentences of their `length` genes of most counts."""
    counts = train.X.tocsr()
    counts.sort_indices()
    names, code = np.unique(labels(train), return_inverse=True)
    columns = np.full((counts.shape[0], length), -1)
    ranks, shares = [], []
    for i in range(counts.shape[0]):
        row = slice(counts.indptr[i], counts.indptr[i + 1])
        order = np.argsort(-counts.data[row], kind="stable")[:length]
        columns[i, : len(order)] = counts.indices[row][order]
        ranks.append(np.log(1.0 + np.arange(len(order))))
        shares.append(np.log(counts.data[row][order] / counts.data[row].sum()))
    genes = np.unique(columns[columns >= 0])
    tokens = np.zeros((counts.shape[0], length + 2), dtype=np.int64)
    tokens[:, 0] = 1 + code
    tokens[:, 1:-1] = np.where(columns >= 0, 1 + len(names) + np.searchsorted(genes, columns), 0)
    slope, intercept = np.polyfit(np.concatenate(ranks), np.concatenate(shares), 1)
    return Sentences(tokens, names, genes, float(intercept), float(slope))


def rank_model(text: Sentences, seed: int, cpu_seconds: float, sizes: dict[str, int]):
    """A Llama trained on the sentences for at most so many processor seconds; the model and a text that says how far."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    vocabulary = 1 + len(text.label_names) + len(text.genes)
    config = LlamaConfig(
        vocab_size=vocabulary, hidden_size=sizes["width"], intermediate_size=4 * sizes["width"],
        num_hidden_layers=sizes["layers"], num_attention_heads=4, max_position_embeddings=text.tokens.shape[1],
        tie_word_embeddings=True, bos_token_id=None, eos_token_id=0, pad_token_id=0,
    )  # fmt: skip
    start = time.process_time()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01)
        draw = np.random.default_rng(seed)
        steps = seen = 0
        loss = float("nan")
        while time.process_time() - start < cpu_seconds:
            for rows in np.array_split(draw.permutation(len(text.tokens)), max(1, len(text.tokens) // 16)):
                tokens = torch.from_numpy(text.tokens[rows])
                targets = tokens.clone()
                ended = (tokens == 0).cumsum(1) > 1  # what follows the end is padding
                targets[ended] = -100
                for group in optimizer.param_groups:
                    group["lr"] = 1e-3 * min(1.0, (steps + 1) / 50)
                value = model(input_ids=tokens, labels=targets).loss
                optimizer.zero_grad()
                value.backward()
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                loss = 0.95 * loss + 0.05 * value.item() if steps else value.item()
                steps, seen = steps + 1, seen + len(rows)
                if time.process_time() - start > cpu_seconds:
                    break
    size = sum(p.numel() for p in model.parameters()) / 1e6
    said = (
        f"{size:.1f} M weights, {steps:,} steps of 16 cells = {seen / len(text.tokens):.1f} epochs of "
        f"{text.tokens.shape[1] - 2:,} genes a cell, {loss:.2f} nats a token"
    )
    return model.eval(), said


def rank_cells(train, seed: int, cpu_seconds: float, *, length: int = 512, width: int = 128, layers: int = 2):
    """As many cells as in training, with their labels, from a cell-sentence language model."""
    clock = Clock.start()
    text = sentences(train, length)
    model, said = rank_model(text, seed, cpu_seconds, {"width": width, "layers": layers})
    trained, clock = clock.stop(), Clock.start()
    written = sample(model, text, text.tokens[:, 0], seed)
    made = counts_of(written, text, train, np.random.default_rng([seed, 1]))
    return cells_of(made, train.var_names, train.obs), trained, clock.stop(), said


def sample(model: Any, text: Sentences, first: np.ndarray, seed: int) -> list[np.ndarray]:
    """Gene positions of each written sentence, in its order."""
    import torch

    written = []
    with torch.random.fork_rng(devices=[]), torch.inference_mode():
        torch.manual_seed(seed)
        for start in range(0, len(first), CELLS_AT_ONCE):
            prompt = torch.from_numpy(first[start : start + CELLS_AT_ONCE])[:, None]  # (n,) -> (n, 1)
            tokens = model.generate(
                prompt, attention_mask=torch.ones_like(prompt), do_sample=True, temperature=1.0, top_k=0, top_p=1.0,
                max_new_tokens=text.tokens.shape[1] - 2, use_cache=True,
            )  # fmt: skip
            for row in tokens[:, 1:].numpy():
                ends = np.flatnonzero(row == 0)
                genes = row[: ends[0] if len(ends) else None] - 1 - len(text.label_names)
                written.append(genes[genes >= 0])
    return written


def counts_of(written: list[np.ndarray], text: Sentences, train, rng: np.random.Generator):
    """Counts (n, G) of sentences: at least 1 for each gene that is named; a gene named twice has its mean rank."""
    import scipy.sparse as sp

    names, depth = labels(train), depths(train)
    rows = []
    for i, sentence in enumerate(written):
        like = rng.choice(np.flatnonzero(names == names[i]))
        rank = pd.Series(1.0 + np.arange(len(sentence))).groupby(sentence).mean()
        share = np.exp(text.intercept + text.slope * np.log(rank.to_numpy()))
        values = np.maximum(1, np.round(depth[like] * share))
        rows.append(sp.csr_matrix((values, (np.zeros(len(rank), int), text.genes[rank.index])), (1, train.n_vars)))
    return sp.vstack(rows, format="csr")
