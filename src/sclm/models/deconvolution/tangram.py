"""Types placed on the section by gradient descent on cosine similarity: a comparison for the count model."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from sclm.models.deconvolution.mapper import Look, MapperConfig, SignatureMapper

if TYPE_CHECKING:
    import pandas as pd
    from scipy import sparse

    from sclm.cells import Cells
    from sclm.models.contract import Mapping


@dataclasses.dataclass(frozen=True, kw_only=True)
class TangramConfig(MapperConfig):
    """Settings of the gradient descent."""

    max_genes: int = 1000  # the published pipeline takes markers; more genes were slower and no better
    n_epochs: int = 1000  # of Adam, each over all spots of the block
    learning_rate: float = 0.1
    lambda_spot: float = 0.0  # weight of the similarity of each spot's genes, beside that of each gene's spots
    free_totals: bool = True  # learn how much of the section each type is; False: all types alike, as published

    def __post_init__(self) -> None:
        if self.n_epochs < 1:
            raise ValueError(f"n_epochs must be at least 1, found {self.n_epochs}.")
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate must be above 0, found {self.learning_rate}.")
        if not self.lambda_spot >= 0:
            raise ValueError(f"lambda_spot must be at least 0, found {self.lambda_spot}.")


class Tangram(SignatureMapper):
    r"""Types spread over the section so that each gene's pattern is met (Biancalani et al., Nat Methods 2021, by cluster).

    With P_ks the share of type k that lies in spot s (softmax over spots), a_k the share of the section that is of type k
    (softmax over types) and S_k the type's mean profile, the prediction is :math:`\hat y_{sg} = \sum_k a_k P_{ks} S_{kg}` and

    .. math:: L = -\frac1G \sum_g \cos(\hat y_{\cdot g}, y_{\cdot g}) - \lambda \frac1N \sum_s \cos(\hat y_{s \cdot}, y_{s \cdot})
              + \sum_s d_s \log \frac{d_s}{\sum_k a_k P_{ks}}

    with d_s the spot's share of the section's counts. Counts of the section enter as they are and profiles as shares, since
    mixing is linear in counts. One change: the published method fixes a (equal for all types by cluster, the reference's
    frequencies by cell), which draws every section to the same composition; here it is learnt (``free_totals``).

    Each block of spots is mapped on its own, and a spot's result depends on the others in its block: pass whole sections.
    The method has no standard errors and knows no missing types: both are NaN.
    """

    family = "tangram"
    Config = TangramConfig

    def _look(
        self, genes: pd.Index, gene_rows: np.ndarray, libraries: list[str], library_key: str | None, seed: int
    ) -> TangramLook:
        return TangramLook(self, genes, gene_rows, libraries, library_key, seed=seed)


class TangramLook(Look):
    """Gradient descent on one section."""

    def __init__(self, model: Tangram, genes: pd.Index, gene_rows: np.ndarray, libraries: list[str], library_key: str | None, *, seed: int) -> None:  # fmt: skip
        super().__init__(model, genes, gene_rows, libraries, library_key)
        self._seed = seed

    def map(self, cells: Cells, *, prior: np.ndarray | None = None) -> Mapping:
        """Types of a block of spots, the libraries in it one by one; ``prior`` is not used."""
        counts, library = self.counts(cells), self.library_of(cells)
        n = counts.shape[0]
        filled = np.diff(counts.indptr) > 0
        fraction = np.zeros((n, len(self.categories)))
        for which in np.unique(library[filled]):
            rows = np.flatnonzero(filled & (library == which))
            fraction[rows] = place_types(counts[rows], self.profile, self.model.config, self._seed)
        total = np.asarray(counts.sum(axis=1), dtype=np.float64).ravel()
        unknown = np.full(fraction.shape, np.nan)
        return self.answer(
            counts, library, fraction * total[:, None], unknown, unknown[:, 0], self._explained(counts, fraction)
        )

    def _explained(self, counts: sparse.csr_matrix, fraction: np.ndarray) -> np.ndarray:
        """Share of the squared distance from the best multiple of the mean profile that the spot's own mixture takes away."""
        squares = np.asarray(counts.multiply(counts).sum(axis=1), dtype=np.float64).ravel()
        along = (np.asarray(counts @ self.profile.T) * fraction).sum(axis=1)
        norm = ((fraction @ (self.profile @ self.profile.T)) * fraction).sum(axis=1)
        flat = self.profile.mean(axis=0)
        base = squares - (counts @ flat) ** 2 / (flat @ flat)
        left = squares - along**2 / np.maximum(norm, 1e-30)
        return np.clip(1 - left / np.maximum(base, 1e-12), 0, 1)


def place_types(counts: sparse.csr_matrix, profile: np.ndarray, config: Any, seed: int) -> np.ndarray:
    """Minimise the loss of :class:`Tangram` with Adam, all spots at once.

    Parameters
    ----------
    counts
        (n, G) CSR, each spot with counts.
    profile
        (K, G) shares of the types' counts.
    config
        :class:`TangramConfig`.
    seed
        Of the start: logits of P from N(0, 1).

    Returns
    -------
    (n, K) float64 fractions, rows sum to 1. Memory is about 6 dense (n, G) float32 matrices.
    """
    import torch
    from torch.nn.functional import cosine_similarity

    device = "cuda" if torch.cuda.is_available() else "cpu"
    generator = torch.Generator().manual_seed(seed)
    y = torch.tensor(counts.toarray(), dtype=torch.float32, device=device)  # (n, G)
    signature = torch.tensor(profile, dtype=torch.float32, device=device)  # (K, G)
    density = y.sum(dim=1) / y.sum()
    logits = torch.randn(len(profile), len(y), generator=generator).to(device).requires_grad_()
    totals = torch.zeros(len(profile), device=device, requires_grad=config.free_totals)
    optimiser = torch.optim.Adam([logits, totals] if config.free_totals else [logits], lr=config.learning_rate)

    def mass() -> torch.Tensor:
        """(K, n): share of the section that is of this type and in this spot."""
        return totals.softmax(dim=0)[:, None] * logits.softmax(dim=1)

    for _ in range(config.n_epochs):
        placed = mass()
        predicted = placed.T @ signature  # (n, G)
        # Shares of a section are tiny: cosine_similarity would take them for zero vectors.
        predicted = predicted * len(y) * signature.shape[1]
        loss = -cosine_similarity(predicted, y, dim=0).mean()
        if config.lambda_spot:
            loss = loss - config.lambda_spot * cosine_similarity(predicted, y, dim=1).mean()
        loss = loss + (density * (density / placed.sum(dim=0).clamp_min(1e-30)).log()).sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    with torch.no_grad():
        placed = mass().T.double()  # (n, K)
        return (placed / placed.sum(dim=1, keepdim=True).clamp_min(1e-300)).cpu().numpy()
