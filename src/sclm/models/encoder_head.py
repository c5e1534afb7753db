"""What names cells from their vectors: layers, or the nearest reference cells.

n cells · D width of the vectors · K types · N reference cells
"""

from __future__ import annotations

import numpy as np

from sclm.models.encoder_novelty import CountSpace

_SMOOTHING = 0.1  # votes added to every type, so that a type without votes keeps a small probability
_BLOCK = 1024  # cells that are compared with all reference cells at once
_EPSILON = 1e-5  # of layer norms, torch's default


class LabelHead:
    """Scores of types for vectors of cells.

    Parameters
    ----------
    arrays
        ``linear<i>.weight`` (out, in) and ``linear<i>.bias``, ``norm<i>.weight`` and ``norm<i>.bias`` between them; or ``mean`` and ``scale``
        (D,), ``points`` (N, D) float16 of unit length and ``codes`` (N,) int32. And those of a
        :class:`~sclm.models.encoder_novelty.CountSpace`.
    n_types
        K.
    n_neighbors
        Reference cells that vote.
    space_scale
        Unit of novelty.
    """

    def __init__(self, arrays: dict[str, np.ndarray], n_types: int, n_neighbors: int, space_scale: float) -> None:
        self.arrays = arrays
        self.n_types, self.n_neighbors = n_types, n_neighbors
        self._points = arrays["points"].astype(np.float32) if "points" in arrays else None
        self.space = CountSpace(arrays, space_scale)

    @classmethod
    def linear(cls, weight: np.ndarray, bias: np.ndarray) -> dict[str, np.ndarray]:
        """Arrays of a single layer: weight (K, D), bias (K,)."""
        return {"linear0.weight": weight.astype(np.float32), "linear0.bias": bias.astype(np.float32)}

    @classmethod
    def neighbours(cls, vectors: np.ndarray, codes: np.ndarray) -> dict[str, np.ndarray]:
        """Arrays of a vote of reference cells: vectors (N, D), type of each (N,).

        Vectors of an encoder point the same way but for a little: they are standardised before the angle between two is measured, and
        half precision is then enough.
        """
        mean, scale = spread(vectors)
        return {
            "mean": mean.astype(np.float32),
            "scale": scale.astype(np.float32),
            "points": unit((vectors - mean) / scale).astype(np.float16),
            "codes": codes.astype(np.int32),
        }

    def scores(self, vectors: np.ndarray) -> np.ndarray:
        """(n, K) float64 scores of vectors (n, D) before the temperature: logits, or logarithms of votes."""
        if self._points is not None:
            standard = (vectors - self.arrays["mean"]) / self.arrays["scale"]
            return np.log(self._votes(unit(standard)) + _SMOOTHING)
        return run_layers(self.arrays, vectors)

    def _votes(self, vectors: np.ndarray) -> np.ndarray:
        """(n, K) number of the nearest reference cells by cosine that are of each type."""
        points: np.ndarray = self._points  # type: ignore[assignment]
        k = min(self.n_neighbors, len(points))
        votes = np.zeros((len(vectors), self.n_types))
        for start in range(0, len(vectors), _BLOCK):
            cosine = vectors[start : start + _BLOCK] @ points.T  # (n_block, N)
            nearest = np.argpartition(-cosine, k - 1, axis=1)[:, :k]  # (n_block, k)
            rows = np.arange(start, start + len(cosine))[:, None]
            np.add.at(votes, (rows, self.arrays["codes"][nearest]), 1.0)
        return votes


def run_layers(arrays: dict[str, np.ndarray], vectors: np.ndarray) -> np.ndarray:
    """(n, K) float64: linear layers, with ReLU and a layer norm between two."""
    x = vectors.astype(np.float64)
    n = sum(name.startswith("linear") and name.endswith(".weight") for name in arrays)
    for i in range(n):
        x = x @ arrays[f"linear{i}.weight"].T.astype(np.float64) + arrays[f"linear{i}.bias"]
        if i < n - 1:
            x = np.maximum(x, 0)
            x = (x - x.mean(axis=1, keepdims=True)) / np.sqrt(x.var(axis=1, keepdims=True) + _EPSILON)
            x = x * arrays[f"norm{i}.weight"] + arrays[f"norm{i}.bias"]
    return x


def unit(vectors: np.ndarray) -> np.ndarray:
    """(n, D) float32 of length 1; a zero vector stays."""
    length = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    return (vectors / np.where(length > 0, length, 1.0)).astype(np.float32)


def spread(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(D,) float64 mean and standard deviation; 1 for an entry that never changes."""
    wide = vectors.astype(np.float64)
    scale = wide.std(axis=0)
    return wide.mean(axis=0), np.where(scale > 1e-6 * max(scale.max(), 1e-12), scale, 1.0)
