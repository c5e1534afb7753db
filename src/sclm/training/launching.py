"""Several devices: sharded weights, and what a run in processes of its own hands back."""

from __future__ import annotations

import copy
import json
import os
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import Callback
from lightning.pytorch.strategies import ModelParallelStrategy
from lightning.pytorch.strategies.launchers import _MultiProcessingLauncher

from sclm.training.resume import copies, write_weights

if TYPE_CHECKING:
    from pathlib import Path

    from lightning.pytorch import LightningDataModule, LightningModule, Trainer

    from sclm.training.recorder import Recorder

_OUTCOME = "outcome.json"


class Keeper:
    """Keeps the best weights: in a file that the first device writes, or in the memory of each.

    Parameters
    ----------
    path
        The file; None: memory.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.state: dict[str, torch.Tensor] = {}

    def __call__(self, state: dict[str, torch.Tensor], *, first: bool) -> None:
        """Keep these instead of what was kept; `first` on the first device."""
        if self.path is None:
            self.state = copies(state)
        elif first:
            write_weights(self.path, state)

    def read(self) -> dict[str, torch.Tensor]:
        """What was kept last, on the CPU."""
        if self.path is None:
            return self.state
        from safetensors.torch import load_file

        return load_file(self.path)


# -- weights in shards -------------------------------------------------------------------------------------------------


class Sharded(ModelParallelStrategy):
    """FSDP: each device holds a share of the weights, their gradients and the optimizer's state.

    Of torch's ``fully_shard``, which works on CPUs too; checkpoints hold whole tensors in one file, as those of one device.
    """

    def __init__(self) -> None:
        super().__init__(save_distributed_checkpoint=False)

    def setup_environment(self) -> None:
        """All devices share the data; none splits a layer."""
        self._data_parallel_size, self._tensor_parallel_size = self.num_nodes * self.num_processes, 1
        super().setup_environment()


def chosen(strategy: Any) -> Any:
    """What the Trainer is given: ``"fsdp"`` is :class:`Sharded`."""
    return Sharded() if strategy == "fsdp" else strategy


def to_shard(module: LightningModule) -> LightningModule:
    """A copy whose weights are sharded when the run begins; the module itself stays whole."""
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    if scalars := [name for name, parameter in module.named_parameters() if parameter.ndim == 0]:
        raise ValueError(
            f"strategy='fsdp' has to share each parameter among the devices, found {scalars[0]!r}, a single number. Use strategy='ddp'."
        )
    clone: Any = copy.deepcopy(module)
    done = False

    def configure_model() -> None:
        nonlocal done
        if done:
            return
        mesh = clone.device_mesh["data_parallel"]
        for part in list(clone.modules()):
            if isinstance(part, torch.nn.ModuleList):  # layers are gathered one after the other
                for layer in part:
                    fully_shard(layer, mesh=mesh)
        fully_shard(clone, mesh=mesh)
        for method in ("training_step", "validation_step"):
            register_fsdp_forward_method(clone, method)
        done = True

    clone.configure_model = configure_model
    return clone


# -- processes that are started by the Trainer and end with it -----------------------------------------------------------


def start_method(trainer: Trainer) -> str | None:
    """``"fork"`` or ``"spawn"`` where the Trainer runs in processes that it starts and ends, else None."""
    launcher = trainer.strategy.launcher
    return str(launcher._start_method) if isinstance(launcher, _MultiProcessingLauncher) else None


def unsendable(error: Exception, data: LightningDataModule) -> TypeError:
    """What to do where a spawned process cannot be handed open files or functions."""
    return TypeError(
        f"strategy='ddp_spawn' sends {type(data).__name__} to other processes by pickle, which fails: {error}. Use strategy='ddp' in "
        "a script or under torchrun, or 'ddp_fork' ('ddp_notebook') where a call must return."
    )


class Relay(Callback):
    """Writes down how a run in other processes went, for the one that started them.

    Parameters
    ----------
    recorder
        Knows it.
    folder
        That both can reach.
    """

    def __init__(self, recorder: Recorder, folder: Path) -> None:
        self.recorder = recorder
        self.path = folder / _OUTCOME
        self._started_by = os.getpid()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """A fork has none of the threads of its parent, and waits for them for ever where torch wants several."""
        if os.getpid() != self._started_by:
            torch.set_num_threads(1)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The first device tells."""
        if trainer.is_global_zero:
            found = self.recorder.state_dict() | {"stopped": self.recorder.stopped}
            self.path.write_text(json.dumps(found), encoding="utf-8")

    def read(self) -> None:
        """Put what was told into the recorder of this process."""
        found = json.loads(self.path.read_text(encoding="utf-8"))
        self.recorder.load_state_dict(found)
        self.recorder.stopped = found["stopped"]
