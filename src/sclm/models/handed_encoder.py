"""Another family's encoder as a part of a model: states of a cell's highest genes, and its place in a checkpoint.

n cells · K genes · L tokens · E width of the encoder
"""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from sclm.cells import GeneVocabulary
from sclm.models.encoder import EncoderFamily

if TYPE_CHECKING:
    from sclm.cells import Cells
    from sclm.models.family import Family

_KEPT_BYTES = 64 << 20  # encoders up to this size are kept inside the checkpoint; larger ones are named
_FACTS = "encoder_facts"


class GeneStates(NamedTuple):
    """What an encoder makes of cells.

    Attributes
    ----------
    states
        (n, K, E) float32: states of each cell's K highest genes, highest first; 0 where a cell has fewer.
    real
        (n, K) bool: where there is a gene.
    vectors
        (n, E) float32: one vector a cell, as the encoder takes it from its states; 0 for cells without genes.
    """

    states: np.ndarray
    real: np.ndarray
    vectors: np.ndarray


def gene_states(
    encoder: EncoderFamily, cells: Cells, top_k: int, *, hidden_layer: int | None = None, seed: int = 0
) -> GeneStates:
    """States of the genes that stand highest in each cell.

    Parameters
    ----------
    encoder
        Geneformer: highest by rank value, the order of its tokens. scGPT: by value bin, then by the order of its vocabulary.
    cells
        Raw counts.
    top_k
        K.
    hidden_layer
        As in :meth:`~sclm.models.encoder.EncoderFamily.embed`.
    seed
        Of what the encoder draws.

    Returns
    -------
    The states; special tokens are no genes.
    """
    layer, pooling = encoder.chosen(hidden_layer, None)
    tokens = encoder.tokenise(cells, seed=seed)
    n = len(tokens.ids)
    out = GeneStates(
        np.zeros((n, top_k, encoder.width), dtype=np.float32), np.zeros((n, top_k), dtype=bool),
        np.zeros((n, encoder.width), dtype=np.float32),
    )  # fmt: skip
    is_gene = np.asarray(encoder.vocabulary.is_gene)

    def keep(rows: np.ndarray, ids: torch.Tensor, values: torch.Tensor | None, real: torch.Tensor) -> None:
        states = encoder.states(ids, values, real, layer)  # (B, L, E)
        names = ids.cpu().numpy()
        there = real.cpu().numpy() & is_gene[names]
        if values is None:
            place = np.broadcast_to(np.arange(names.shape[1]), names.shape)
            order = np.lexsort((place, ~there))
        else:
            order = np.lexsort((names, -values.cpu().numpy(), ~there))
        k = min(top_k, names.shape[1])
        order = np.ascontiguousarray(order[:, :k])  # (B, k)
        found = np.take_along_axis(there, order, axis=1)
        index = torch.from_numpy(order).to(states.device)[..., None].expand(-1, -1, states.shape[2])
        picked = states.gather(1, index).float().cpu().numpy()
        out.states[rows, :k] = picked * found[..., None]
        out.real[rows, :k] = found
        out.vectors[rows] = encoder.pool(states, ids, values, real, pooling).float().cpu().numpy()

    encoder.over_batches(tokens, keep)
    return out


def require_encoder(encoder: Any, what: str) -> EncoderFamily:
    """The encoder itself; TypeError where it is none.

    Parameters
    ----------
    encoder
        What was handed over.
    what
        The family that asks.
    """
    if isinstance(encoder, EncoderFamily):
        return encoder
    found = "none" if encoder is None else type(encoder).__name__
    raise TypeError(
        f"{what!r} reads cells through an encoder, found {found}. Train or load it with sclm.train or sclm.load, and pass "
        "encoder=, a model, its folder or its name, for example encoder='geneformer'."
    )


def pack_encoder(encoder: EncoderFamily) -> dict[str, np.ndarray]:
    """An encoder as arrays of a checkpoint: all of it where it is small, else where it is and what it must be.

    Parameters
    ----------
    encoder
        To be kept.

    Returns
    -------
    Name → array; :func:`unpack_encoder` is the inverse.

    Raises
    ------
    ValueError
        If a large encoder has not been saved: there is nothing to name.
    """
    arrays = encoder.arrays()
    inside = sum(a.nbytes for a in arrays.values()) <= _KEPT_BYTES
    facts = {"family": encoder.family, "sha256": encoder.provenance()["sha256"], "path": ""}
    if inside:
        facts |= {"config": dataclasses.asdict(encoder.config), "vocabulary": encoder.vocabulary.to_json()}
    elif encoder.path is None:
        raise ValueError(
            f"the {encoder.family!r} encoder is too large to be kept in this checkpoint and is not on disk. Save it first, and train "
            "with its folder as encoder=."
        )
    else:
        facts["path"] = str(encoder.path)
    packed = {f"encoder.{name}": array for name, array in arrays.items()} if inside else {}
    return packed | {_FACTS: np.frombuffer(json.dumps(facts).encode(), np.uint8)}


def unpack_encoder(arrays: dict[str, np.ndarray]) -> Family:
    """The encoder of a checkpoint.

    Parameters
    ----------
    arrays
        Of the checkpoint; others are passed over.

    Returns
    -------
    The encoder, on the CPU.

    Raises
    ------
    FileNotFoundError
        If a large encoder is no longer where it was.
    ValueError
        If it is another one now.
    """
    from sclm.models import family_class, load

    facts = json.loads(arrays[_FACTS].tobytes())
    if facts["path"]:
        encoder = load(facts["path"])
        if (found := encoder.provenance()["sha256"]) != facts["sha256"]:
            raise ValueError(
                f"{facts['path']} is not the encoder that this checkpoint was trained with: expected sha256 {facts['sha256'][:16]}, found "
                f"{found[:16]}."
            )
        return encoder
    cls = family_class(facts["family"])
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in facts["config"].items()}
    own = {k.removeprefix("encoder."): v for k, v in arrays.items() if k.startswith("encoder.")}
    return cls.from_arrays(cls.Config(**values), GeneVocabulary.from_json(facts["vocabulary"]), own, {})
