"""The count model in torch: the same Fisher scoring for GPUs, and platform factors learnt by gradient from many spots."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import lightning.pytorch as pl
import numpy as np
import torch

from sclm.models.deconvolution.count_model import HALVED_AFTER, STEPS, TOL, Fit, prior_terms
from sclm.models.deconvolution.least_squares import triangle

if TYPE_CHECKING:
    from scipy import sparse

    from sclm.cells import Cells

_ROUNDS = 4  # of each solution: sweeps of coordinate descent, then the equations of the types that are left
_SWEEPS = 3
_ROUND_TOL = 1e-5


class Spots(NamedTuple):
    """A batch. Legend: B spots · G genes · K types · T = K(K+1)/2 pairs of types."""

    counts: torch.Tensor  # (B, G) float32


def encode(cells: Cells, generator: np.random.Generator) -> Spots:
    """Counts of a block as a batch: what :class:`~sclm.training.CellDataModule` asks for."""
    return Spots(torch.from_numpy(cells.counts.toarray().astype(np.float32, copy=False)))


class CountModule(pl.LightningModule):
    r"""Negative-binomial regression of spots on types: :func:`~sclm.models.deconvolution.count_model.fit_counts` in torch.

    Abundances are solved for, not learnt: at their optimum the gradient of the likelihood with respect to the platform
    factors is that of the likelihood with abundances held (the envelope theorem), so that a training step needs no memory of
    the spots it has seen, and any number of spots can be learnt from in batches.

    A map takes its factors from :func:`~sclm.models.deconvolution.platform.platform_factors` with either engine: on
    development sections factors learnt by gradient, from 400 or 6,000 spots, were correlated .98 with those and mapped no
    better. Training is for sections of which no sample speaks for the whole.

    Parameters
    ----------
    profile
        (K, G) expected share of each gene in counts of each type.
    dispersion
        (G,) φ ≥ 0.
    platform_sd
        Standard deviation of the normal prior of the log of platform factors.
    n_spots
        Spots that are learnt from: weighs the prior against a batch.
    learning_rate
        Of Adam, for log factors.
    """

    signature: torch.Tensor
    pairs: torch.Tensor
    phi: torch.Tensor
    place: torch.Tensor

    def __init__(
        self,
        profile: np.ndarray,
        dispersion: np.ndarray,
        *,
        platform_sd: float = 0.5,
        n_spots: int = 1,
        learning_rate: float = 0.02,
    ) -> None:
        super().__init__()
        k = len(profile)
        rows, columns = triangle(k)
        place = np.zeros((k, k), dtype=np.int64)
        place[rows, columns] = place[columns, rows] = np.arange(len(rows))
        self.register_buffer("signature", torch.tensor(profile.T, dtype=torch.float32).contiguous())  # (G, K)
        self.register_buffer("pairs", self.signature[:, rows] * self.signature[:, columns])  # (G, T)
        self.register_buffer("phi", torch.tensor(dispersion, dtype=torch.float32))  # (G,)
        self.register_buffer("place", torch.from_numpy(place))  # (K, K) where a pair is in T
        self.log_factors = torch.nn.Parameter(torch.zeros(self.signature.shape[0]))  # (G,)
        self.platform_sd, self.n_spots, self.learning_rate = platform_sd, n_spots, learning_rate

    # Abundances at fixed factors --------------------------------------------------------------------------------------

    @torch.no_grad()
    def abundance(
        self, counts: torch.Tensor, weight_of_prior: torch.Tensor | None = None, mean: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Maximum likelihood of x ≥ 0 by Fisher scoring.

        Parameters
        ----------
        counts
            (B, G) float32.
        weight_of_prior, mean
            (B,) and (B, K) float64 of :func:`~sclm.models.deconvolution.count_model.prior_terms`.

        Returns
        -------
        (B, K) float64 expected counts of each type, and (B, T) float64 packed Fisher information.
        """
        factors = self.log_factors.exp()
        signature, pairs = self.signature * factors[:, None], self.pairs * (factors**2)[:, None]
        k = signature.shape[1]
        x = (counts.sum(dim=1, dtype=torch.float64) / k)[:, None].repeat(1, k)
        information = x.new_empty(len(x), pairs.shape[1])
        active = torch.arange(len(x), device=x.device)
        for step in range(STEPS):
            y, now = counts[active], x[active]
            mu = (now.float() @ signature.T).clamp_min(1e-9)  # (a, G)
            weight = 1 / (mu + self.phi * mu * mu)
            packed = (weight @ pairs).double()  # (a, T)
            information[active] = packed  # of the spot's own counts: a prior is no observation
            linear = ((weight * y) @ signature).double()  # (a, K)
            if weight_of_prior is not None and mean is not None:
                share = weight_of_prior[active, None]  # (a, 1)
                linear += share * torch.einsum("bij,bj->bi", packed[:, self.place], mean[active])
                packed *= 1 + share
            new = _descend(packed[:, self.place], linear, now)
            if step >= HALVED_AFTER:
                new = (new + now) / 2
            moved = (new - now).abs().amax(dim=1) / new.amax(dim=1).clamp_min(1e-12)
            x[active] = new
            active = active[moved > TOL]
            if not len(active):
                break
        return x, information

    def fit(self, counts: sparse.csr_matrix, prior: np.ndarray | None = None) -> Fit:
        """:meth:`abundance` of a block of spots, numpy in and out."""
        device = self.log_factors.device
        dense = torch.from_numpy(counts.toarray().astype(np.float32, copy=False)).to(device)
        if prior is None:
            found = self.abundance(dense)
        else:
            totals = np.asarray(counts.sum(axis=1), dtype=np.float64).ravel()
            terms = prior_terms(prior.astype(np.float64), totals, prior.shape[1])
            found = self.abundance(dense, *(torch.from_numpy(t).to(device) for t in terms))
        return Fit(*(t.cpu().numpy() for t in found))

    # Platform factors by gradient ---------------------------------------------------------------------------------------

    def training_step(self, batch: Spots, index: int) -> torch.Tensor:
        """Nats a spot: negative-binomial likelihood at the best abundances, and the prior's share of a spot."""
        x = self.abundance(batch.counts)[0].float()
        mu = ((x @ self.signature.T) * self.log_factors.exp()).clamp_min(1e-9)  # (B, G)
        phi = self.phi.clamp_min(1e-6)
        nats = (batch.counts + 1 / phi) * torch.log1p(phi * mu) - batch.counts * mu.log()
        prior = 0.5 * (self.log_factors / self.platform_sd).square().sum() / self.n_spots
        return nats.sum(dim=1).mean() + prior

    def validation_step(self, batch: Spots, index: int) -> None:
        """The same on held-out spots, logged as ``validation_loss``."""
        self.log("validation_loss", self.training_step(batch, index), batch_size=len(batch.counts))

    def configure_optimizers(self) -> Any:
        """Adam: genes differ much in how many counts they have."""
        return torch.optim.Adam([self.log_factors], lr=self.learning_rate)


def on_best_device(profile: np.ndarray, dispersion: np.ndarray) -> CountModule:
    """A module on the first CUDA GPU, or on the CPU where there is none; solving needs float64, which other GPUs lack."""
    return CountModule(profile, dispersion).to("cuda" if torch.cuda.is_available() else "cpu")


def _descend(h: torch.Tensor, b: torch.Tensor, start: torch.Tensor) -> torch.Tensor:
    """Minimise ½ xᵀHx - bᵀx over x ≥ 0 for all spots in step: H (B, K, K), b and start (B, K).

    Coordinate descent finds which types are there; then their equations are solved at once, for the spots where that leaves
    nothing negative. Descent alone needs hundreds of sweeps where types are alike, and each sweep is many small kernels.
    """
    by_row = h.permute(1, 2, 0).contiguous()  # (K, K, B): a coordinate of all spots lies together
    x = start.T.contiguous()  # (K, B)
    diagonal = by_row.diagonal().T  # (K, B)
    inverse = torch.where(diagonal > 0, 1 / diagonal, 0.0)
    for _ in range(_ROUNDS):
        before = x.clone()
        g = torch.einsum("ijb,jb->ib", by_row, x) - b.T
        for _ in range(_SWEEPS):
            for i in range(len(x)):
                step = torch.addcmul(x[i], g[i], inverse[i], value=-1).clamp_min_(0).sub_(x[i])
                x[i] += step
                g.addcmul_(by_row[i], step)
        there = x.T > 0  # (B, K)
        system = torch.where(there[:, :, None] & there[:, None, :], h, 0.0)
        # A type that is not there gets the equation x = 0; the ridge keeps types of equal profiles apart from 0/0.
        ridge = 1e-9 * diagonal.T.mean(dim=1, keepdim=True).clamp_min(1e-30)
        system.diagonal(dim1=1, dim2=2).add_(torch.where(there, ridge, 1.0))
        exact = torch.linalg.solve(system, torch.where(there, b, 0.0))  # (B, K)
        x = torch.where((exact >= 0).all(dim=1), exact.T, x)
        if bool(((x - before).abs().amax(dim=0) <= _ROUND_TOL * x.amax(dim=0)).all()):
            break
    return x.T
