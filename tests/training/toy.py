"""A network that learns in a second, used by the tests of training and as a script that is killed."""

from __future__ import annotations

import json
import os
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from lightning.pytorch import LightningModule

from sclm.cells import read_cells
from sclm.training import CellDataModule, adamw, fit, planned_steps

if TYPE_CHECKING:
    from sclm.cells import Cells, CellSource


class Batch(NamedTuple):
    counts: torch.Tensor  # (B, G)
    noise: torch.Tensor  # (B,)
    names: torch.Tensor  # (B,) the number in the cell's name


def encode(cells: Cells, generator: np.random.Generator) -> Batch:
    counts = torch.from_numpy(np.log1p(cells.counts.toarray()))
    names = torch.tensor([int(str(n).removeprefix("cell")) for n in cells.obs.index])
    return Batch(counts, torch.from_numpy(generator.normal(size=cells.n_cells).astype(np.float32)), names)


class Toy(LightningModule):
    """Writes counts through a narrow layer with dropout, from noisy counts."""

    def __init__(self, n_genes: int, *, learning_rate: float = 0.01, log: Path | None = None, die_at: int = -1) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=["log"])
        generator = torch.Generator().manual_seed(0)
        self.narrow, self.wide = torch.nn.Linear(n_genes, 4), torch.nn.Linear(4, n_genes)
        self.frozen = torch.nn.Linear(3, 3).requires_grad_(False)
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.2
        self.losses: list[float] = []
        self.learning_rate, self.log_file, self.die_at = learning_rate, log, die_at

    def loss(self, batch: Batch) -> torch.Tensor:
        noisy = torch.nn.functional.dropout(batch.counts + 0.1 * batch.noise[:, None], 0.2, self.training)
        return (self.wide(self.narrow(noisy)) - batch.counts).square().mean()

    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        loss = self.loss(batch)
        self.losses.append(loss.item())
        if self.log_file is not None:
            with self.log_file.open("a") as handle:
                handle.write(f"{json.dumps([self.trainer.global_step, loss.item()])}\n")
        if self.trainer.global_step == self.die_at:
            os.kill(os.getpid(), 9)
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.log("validation_loss", self.loss(batch), batch_size=len(batch.names))

    def configure_optimizers(self) -> Any:
        return adamw(self, learning_rate=self.learning_rate, total_steps=planned_steps(self.trainer))


class Plain(Toy):
    """The same without noise and dropout: what it learns depends on the cells of each step alone."""

    def loss(self, batch: Batch) -> torch.Tensor:
        if self.training and self.log_file is not None:
            path = self.log_file.with_suffix(f".{self.global_rank}.names")
            with path.open("a") as handle:
                handle.write(f"{json.dumps([self.current_epoch, batch.names.tolist()])}\n")
        return (self.wide(self.narrow(batch.counts)) - batch.counts).square().mean()


def as_torchrun(work: Any, folder: Path, world: int = 2) -> list[Any]:
    """What `work` returns in each of `world` processes that see what torchrun tells them; forked, so that nothing is imported."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.start_processes(
        _one_of, args=(work, folder, world, port), nprocs=world, start_method="fork", join=True
    )
    return [torch.load(folder / f"result.{rank}.pt", weights_only=False) for rank in range(world)]


def _one_of(rank: int, work: Any, folder: Path, world: int, port: int) -> None:
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world),
        "GROUP_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "TORCHELASTIC_RUN_ID": "test",
    }  # fmt: skip
    torch.set_num_threads(1)  # a fork has none of its parent's threads
    torch.save(work(), folder / f"result.{rank}.pt")


def source(n_cells: int = 200, n_genes: int = 30, seed: int = 0) -> CellSource:
    import anndata
    from scipy import sparse

    counts = np.random.default_rng(seed).poisson(np.random.default_rng(1).gamma(1, 1, (1, n_genes)), (n_cells, n_genes))
    counts[:, 0] = 1  # every cell has a count
    obs = pd.DataFrame(
        {"donor": pd.Categorical([f"d{i // 25}" for i in range(n_cells)])}, index=[f"cell{i}" for i in range(n_cells)]
    )
    var = pd.DataFrame(index=[f"GENE{i}" for i in range(n_genes)])
    return read_cells(
        anndata.AnnData(sparse.csr_matrix(counts.astype(np.float32)), obs=obs, var=var), obs_keys=["donor"]
    )


def data(**options: Any) -> CellDataModule:
    return CellDataModule(source(), encode, **{"batch_size": 16, "validation": 0.2, "seed": 3, **options})


if __name__ == "__main__":
    folder, die_at, devices = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    report = fit(
        Toy(30, log=folder.with_suffix(".log"), die_at=die_at),
        data(),
        max_epochs=4,
        folder=folder,
        save_minutes=0,
        accelerator="cpu",
        devices=devices,
        strategy="ddp" if devices > 1 else "auto",
        progress_bar=False,
    )
    report.history.to_csv(folder.with_suffix(f".{os.environ.get('LOCAL_RANK', '0')}.csv"), index=False)
