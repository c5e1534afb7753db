"""Vectors of cells: hidden states of their prompts.

n prompts · B of a batch · S start tokens · L tokens · D width
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from sclm.models.cell2sentence.naming import batches

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sclm.nn import MemoryLimit, PrefixLM


POOLINGS = ("mean", "last")


def checked(n_layers: int, hidden_layer: int | None, pooling: str | None) -> tuple[int, str]:
    """Layer counted from the end, and pooling; None: the last layer, and the mean. ValueError for what there is not."""
    layer, pooling = -1 if hidden_layer is None else hidden_layer, pooling or "mean"
    n = n_layers + 1
    if not -n <= layer < n:
        raise ValueError(f"hidden_layer must lie between {-n} and {n - 1}, found {layer}.")
    if pooling not in POOLINGS:
        raise ValueError(f"pooling must be one of {', '.join(map(repr, POOLINGS))}, found {pooling!r}.")
    return layer if layer < 0 else layer - n, pooling


def prompt_vectors(
    lm: PrefixLM, ids: Sequence[Sequence[int]], layer: int, pooling: str, memory: MemoryLimit | None = None
) -> np.ndarray:
    """Hidden states of prompts, put together; padding is left out.

    Parameters
    ----------
    lm
        The language model.
    ids
        Tokens of n prompts.
    layer
        0 the embeddings of the tokens, -1 the last layer.
    pooling
        ``"mean"`` over the positions of the prompt, the start token among them, or ``"last"``.
    memory
        What fits into the memory of the device.

    Returns
    -------
    (n, D) float32.
    """
    vectors = np.empty((len(ids), lm.width), dtype=np.float32)
    for part in batches(lm, ids, memory):
        with part as rows:
            packed = lm.pack([ids[r] for r in rows])
            states = lm.states(None, packed.ids, layer).float()  # (B, S + L, D)
            lengths = packed.lengths.to(states.device) + lm.before(None)
            places = torch.arange(states.shape[1], device=states.device)[None]
            counted = places == lengths[:, None] - 1 if pooling == "last" else places < lengths[:, None]
            summed = torch.where(counted[..., None], states, 0.0).sum(dim=1)  # (B, D)
            vectors[rows] = (summed / counted.sum(dim=1, keepdim=True)).cpu().numpy()
    return vectors
