"""Classes of cells by the head of an annotation model that its authors fine-tuned."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    import torch

    from sclm.cells import Cells
    from sclm.models.scgpt.model import ScGPT


def class_probabilities(model: ScGPT, cells: Cells) -> pd.DataFrame:
    """Probabilities of each cell's class.

    Parameters
    ----------
    model
        With a head of classes.
    cells
        Raw counts.

    Returns
    -------
    Cells x classes, float32, rows sum to 1; NaN for cells without genes of the model. The head reads the state of ``<cls>`` as it is.

    Raises
    ------
    TypeError
        If the model has no such head.
    """
    if len(model.config.classes) < 2:  # every published file has a head; that of one class has learnt nothing
        raise TypeError("This model has no head of classes. Load an annotation checkpoint of scGPT.")
    tokens = model.tokenise(cells)
    out = np.full((len(tokens.ids), len(model.config.classes)), np.nan, dtype=np.float32)

    def keep(rows: np.ndarray, ids: torch.Tensor, values: torch.Tensor | None, real: torch.Tensor) -> None:
        states = model.encode_first(ids, values, real)  # (B, D)
        out[rows] = model.network.decoders["classes"](states).softmax(dim=-1).float().cpu().numpy()

    model.over_batches(tokens, keep)
    return pd.DataFrame(out, index=cells.obs.index, columns=list(model.config.classes))
