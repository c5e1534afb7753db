"""The ways of the originals that ``embed.py`` compares with: networks that pad to a fixed length, loops over cells."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

BATCH = 32

# Networks -------------------------------------------------------------------------------------------------------


def batches(model: Any, tokens: Any, length: int | None, size: int = BATCH) -> Any:
    """Padded batches in the order of the data: to `length`, or None: to the longest of the batch."""
    import torch

    for start in range(0, len(tokens.ids), size):
        part = tokens.take(np.arange(start, min(start + size, len(tokens.ids))))
        ids = part.ids.pad(length, model.pad_id).astype(np.int64)
        real = np.arange(ids.shape[1])[None, :] < part.ids.lengths[:, None]
        values = None if part.values is None else torch.from_numpy(part.values.pad(length, model.pad_value)).float()
        yield torch.from_numpy(ids), values, torch.from_numpy(real)


def torch_encoder(model: Any) -> Any:
    """The layers of our scGPT as torch's own TransformerEncoder."""
    import torch

    config = model.config
    layer = torch.nn.TransformerEncoderLayer(
        config.width, config.n_heads, config.feed_forward, batch_first=True, activation="relu"
    )
    encoder = torch.nn.TransformerEncoder(layer, config.n_layers, enable_nested_tensor=False).eval()
    for theirs, ours in zip(encoder.layers, model.network.layers, strict=True):
        state = {
            "self_attn.in_proj_weight": ours.attention.qkv.weight,
            "self_attn.in_proj_bias": ours.attention.qkv.bias,
        }
        for name, part in {
            "self_attn.out_proj": ours.attention.out, "linear1": ours.linear1, "linear2": ours.linear2, "norm1": ours.norm1,
            "norm2": ours.norm2,
        }.items():  # fmt: skip
            state |= {f"{name}.weight": part.weight, f"{name}.bias": part.bias}
        theirs.load_state_dict(state)
    return encoder


def scgpt_peer(model: Any, length: int | None, *, fast_path: bool) -> Callable[[Any], np.ndarray]:
    """scGPT as the original runs it on a CPU; `fast_path`: torch's fused inference kernel of a layer, its default."""
    import torch

    encoder = torch_encoder(model)

    def run(tokens: Any) -> np.ndarray:
        found = []
        before = torch.backends.mha.get_fastpath_enabled()
        torch.backends.mha.set_fastpath_enabled(fast_path)
        try:
            with model.inference() as network:
                for ids, values, real in batches(model, tokens, length):
                    hidden = torch.relu(network.values.linear1(values.clamp(max=512.0)[..., None]))
                    x = network.genes(ids) + network.values.norm(network.values.linear2(hidden))
                    states = encoder(x, src_key_padding_mask=~real)
                    found.append(torch.nn.functional.normalize(states[:, 0], dim=1).numpy())
        finally:
            torch.backends.mha.set_fastpath_enabled(before)
        return np.concatenate(found)

    return run


def geneformer_peer(model: Any, length: int | None, *, head: bool = False) -> Callable[[Any], np.ndarray]:
    """Geneformer as the original runs it: all hidden states of the whole network, of which one is used; `head`: and all logits."""

    def run(tokens: Any) -> np.ndarray:
        found = []
        with model.inference() as network:
            forward = network.bert_model if head else network.bert_model.bert
            for ids, _, real in batches(model, tokens, length, 4 if head else BATCH):
                output = forward(ids, attention_mask=real.long(), output_hidden_states=True)
                states = output.hidden_states[-2]
                if model.version == "V2":
                    found.append(states[:, 0].numpy())
                else:
                    found.append(((states * real[..., None]).sum(1) / real.sum(1, keepdim=True)).numpy())
        return np.concatenate(found)

    return run


def scgpt_loop(counts: Any, ids: np.ndarray, cls: int, max_length: int, n_bins: int) -> list[Any]:
    """One cell at a time: non-zero genes, bins by two look-ups spread at random, a random subset where there are too many."""
    rng = np.random.default_rng(0)
    found = []
    for i in range(counts.shape[0]):
        row = counts[i].toarray().ravel()
        (nonzero,) = np.nonzero(row)
        values, genes = row[nonzero], ids[nonzero]
        edges = np.quantile(values, np.linspace(0, 1, n_bins - 1))
        left, right = np.digitize(values, edges), np.digitize(values, edges, right=True)
        bins = np.ceil(rng.random(values.size) * (right - left) + left)
        if genes.size > max_length - 1:
            kept = rng.permutation(genes.size)[: max_length - 1]
            genes, bins = genes[kept], bins[kept]
        found.append((np.insert(genes, 0, cls), np.insert(bins, 0, -2)))
    return found


def geneformer_loop(
    counts: Any, known: np.ndarray, medians: np.ndarray, tokens: np.ndarray, max_length: int, *, lists: bool
) -> list[Any]:
    """Chunks of 512 cells are scaled, then one cell at a time: an argsort of its non-zero values, cut, between two special tokens.

    With `lists` the last step works on lists of numbers, as a data set on disk hands them over: so does the original.
    """
    import scipy.sparse as sp

    found = []
    totals = np.asarray(counts.sum(axis=1)).ravel().astype(np.float64)
    for start in range(0, counts.shape[0], 512):
        part = counts[start : start + 512][:, known]
        scaled = sp.csr_matrix(sp.diags(1e4 / totals[start : start + 512]) @ part @ sp.diags(1.0 / medians))
        for i in range(scaled.shape[0]):
            ranked = tokens[scaled[i].indices][np.argsort(-scaled[i].data)]
            cut: Any = (ranked.tolist() if lists else ranked)[: max_length - 2]
            framed = np.insert(cut, 0, 2)
            found.append(np.insert(framed, len(framed), 3))
    return found
