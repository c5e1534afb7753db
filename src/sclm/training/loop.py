"""Fit a Lightning module: the only place that builds a Trainer."""

from __future__ import annotations

import logging
import math
import signal
import tempfile
import threading
import warnings
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pandas as pd
import torch
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.utilities.warnings import PossibleUserWarning

from sclm.training import launching
from sclm.training.progress import ProgressBar
from sclm.training.recorder import Recorder, owned
from sclm.training.resume import BEST, LAST, Interruptible, Resumable, check_settings, describe_module

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

logger = logging.getLogger(__name__)

_RUNNING = ("folder", "max_minutes", "accelerator", "devices", "num_nodes", "strategy", "precision", "progress_bar")
_COLUMNS = ["epoch", "step", "training_loss", "validation_loss", "seconds"]


class FitReport(NamedTuple):
    """How a training run went.

    Attributes
    ----------
    history
        One row an epoch, earlier calls with the same folder included: ``epoch`` (from 1), ``step`` (of the optimizer, so far),
        ``training_loss`` (mean over the batches), ``validation_loss`` (NaN without validation), ``seconds`` (so far).
    best_epoch
        The epoch, from 1, whose weights the module now holds; without a score the last one, 0 where none was finished.
    best_score
        The monitored score of that epoch, NaN without one.
    stopped
        ``"max_epochs"``, ``"patience"``, ``"max_minutes"``, ``"interrupted"`` or ``"diverged"``.
    seconds
        Of the run, earlier calls with the same folder included.
    """

    history: pd.DataFrame
    best_epoch: int
    best_score: float
    stopped: str
    seconds: float


def fit(
    module: LightningModule,
    data: LightningDataModule,
    *,
    max_epochs: int,
    patience: int | None = None,
    monitor: str = "validation_loss",
    max_minutes: float | None = None,
    folder: str | Path | None = None,
    save_minutes: float = 10.0,
    configuration: Mapping[str, Any] | None = None,
    seed: int = 0,
    accelerator: str = "auto",
    devices: Any = "auto",
    num_nodes: int = 1,
    strategy: Any = "auto",
    precision: Any = None,
    gradient_clip: float = 1.0,
    progress_bar: bool = True,
) -> FitReport:
    """Train until the score no longer improves, and leave the best weights in the module.

    The same call works in a notebook, under ``torchrun`` and under SLURM. With a `folder` it can be killed at any time and
    called again: it goes on where it was, with the same losses, step by step, as if it had never stopped. Torch's global
    random state is as before when it returns.

    Ctrl-C ends the run after the current batch (a second one at once): a warning is logged, and what was learnt is kept and
    returned, with ``stopped="interrupted"``; with a `folder` the next call goes on.

    Parameters
    ----------
    module
        ``training_step`` returns the loss or a dictionary with ``"loss"``; ``validation_step`` calls
        ``self.log("validation_loss", value, batch_size=n_cells)``. It learns in place and is on the CPU afterwards.
    data
        A :class:`~sclm.training.CellDataModule`. Another LightningDataModule works too, but is resumed at the start of an
        epoch, and exactly only if the order of its batches depends on nothing but the epoch.
    max_epochs
        Passes over the training cells at most.
    patience
        Stop after this many epochs without a better score; None: never.
    monitor
        Score to watch, lower is better: a name that the module logs in ``validation_step``, or ``"training_loss"``.
    max_minutes
        Stop this call after that time: the epoch is left, validated, and compared like a whole one. A later call with the
        same folder goes on inside that epoch.
    folder
        Where to keep the run: ``fit.json`` (settings), ``last.ckpt`` (all that is needed to go on), ``best.safetensors``. None:
        nothing is written, the best weights are kept in memory.
    save_minutes
        Write ``last.ckpt`` also this often within an epoch.
    configuration
        Further settings that decide the result, as JSON values: a folder made with others is refused. How long to train
        (`max_epochs`, `patience`, `max_minutes`) may differ from call to call; a learning-rate schedule that depends on
        `max_epochs` should then be in `configuration`.
    seed
        Of dropout and all else that draws from torch.
    accelerator, devices, num_nodes, strategy
        As :class:`lightning.pytorch.Trainer` takes them. ``"auto"``: a GPU where there is one. With several devices each step's
        cells are shared among them, so that two devices do what one does with the doubled batch. ``strategy="ddp"`` in a
        script, under ``torchrun`` or SLURM: every process runs the whole script and ends with the same weights.
        ``"ddp_fork"`` or ``"ddp_notebook"``: processes that end with this call. ``"fsdp"``: as ``"ddp"``, each device holds
        a share of the weights and of the optimizer's state.
    precision
        As Lightning names it; by default ``"bf16-mixed"`` on GPUs that compute in bfloat16, ``"32-true"`` elsewhere.
    gradient_clip
        Largest norm of the gradient, over all parameters; 0 for none.
    progress_bar
        Show epoch, loss and cells a second on stderr.

    Returns
    -------
    The :class:`FitReport`.

    Raises
    ------
    ValueError
        If a number is out of range, `patience` is given without validation cells, the folder holds another run, or the module has
        parameters that ``"fsdp"`` cannot share.
    KeyError
        If the module does not log `monitor`.
    FloatingPointError
        If the loss became NaN or infinite before any weights were scored. Later it only ends the run, with a warning.
    torch.OutOfMemoryError
        If a step does not fit into the memory of the device; it says which setting to lower.
    TypeError
        If `strategy` sends the data to other processes by pickle, which is not possible.
    """
    if max_epochs < 1:
        raise ValueError(f"max_epochs must be at least 1, found {max_epochs}.")
    if patience is not None and patience < 1:
        raise ValueError(f"patience must be at least 1 or None, found {patience}.")
    if seed < 0:
        raise ValueError(f"seed must be 0 or more, found {seed}.")
    accelerator = _accelerator(accelerator)
    if precision is None:
        bfloat = accelerator in ("gpu", "cuda") and torch.cuda.is_bf16_supported(including_emulation=False)
        precision = "bf16-mixed" if bfloat else "32-true"
    folder = None if folder is None else Path(folder)
    keeper = launching.Keeper(None if folder is None else folder / BEST)
    recorder = Recorder(seed=seed, monitor=monitor, patience=patience, max_minutes=max_minutes, keep=keeper)
    recorder.attach(data)
    callbacks: list[Any] = [recorder]
    if folder is not None:
        callbacks.append(Resumable(folder / LAST, recorder, save_minutes))
    if progress_bar:
        callbacks.append(ProgressBar(recorder))
    callbacks.append(Interruptible(recorder))
    strict, trains = module.strict_loading, [(part, part.training) for part in module.modules()]
    relay: launching.Relay | None = None
    with _quiet(), _borrowed_random_state(accelerator), _one_interrupt(recorder), ExitStack() as after:
        trainer = Trainer(
            max_epochs=max_epochs,
            callbacks=callbacks,
            accelerator=accelerator,
            devices=devices,
            num_nodes=num_nodes,
            strategy=launching.chosen(strategy),
            precision=precision,
            gradient_clip_val=gradient_clip or None,
            reload_dataloaders_every_n_epochs=1,
            num_sanity_val_steps=0,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        last = None
        if folder is not None:
            decides = data.fingerprint(trainer.world_size) if hasattr(data, "fingerprint") else {}
            settings = {"seed": seed, "precision": precision, "gradient_clip": gradient_clip}
            settings |= decides or {"devices": trainer.world_size}
            settings |= {"parameters": describe_module(module), "configuration": dict(configuration or {})}
            check_settings(folder, settings, write=trainer.is_global_zero)
            last = folder / LAST if (folder / LAST).is_file() else None
        method = launching.start_method(trainer)
        if method is not None:  # the run is in other processes: only files come back
            between = Path(after.enter_context(tempfile.TemporaryDirectory(prefix="sclm-fit-")))
            keeper.path = keeper.path or between / BEST
            relay = launching.Relay(recorder, between)
            trainer.callbacks.append(relay)  # type: ignore[attr-defined]
        module.strict_loading = False  # frozen parameters are not in the checkpoint; fit.json has checked the others
        module.train()
        sharded = isinstance(trainer.strategy, launching.Sharded)
        learner = launching.to_shard(module) if sharded else module
        try:
            trainer.fit(learner, datamodule=data, ckpt_path=last, weights_only=True if last else None)
        except SystemExit:  # Lightning's answer to Ctrl-C
            if recorder.stopped != "interrupted":
                raise
        except torch.OutOfMemoryError as error:
            raise torch.OutOfMemoryError(_too_large(data)) from error
        except Exception as error:
            if method == "spawn" and "pickle" in str(error):
                raise launching.unsendable(error, data) from error
            raise
        finally:
            data.trainer = None
            module.strict_loading = strict
            for part, training in trains:
                part.training = training
            module.zero_grad(set_to_none=True)
        if relay is not None:
            relay.read()
        if sharded:
            state = trainer.strategy.broadcast(owned(learner, trainer.strategy.lightning_module_state_dict()))
            module.load_state_dict(state, strict=False)
            if keeper.path is None:
                keeper.state = trainer.strategy.broadcast(keeper.state)
        trainer.strategy.barrier()  # the first device has written everything
        best = keeper.read() if recorder.best_epoch else {}
    return _finish(module, recorder, best, folder)


def running_options(options: dict[str, Any]) -> dict[str, Any]:
    """Take out of the options of a family what :func:`fit` is told of the run.

    Parameters
    ----------
    options
        Changed in place.

    Returns
    -------
    Those of ``folder``, ``max_minutes``, ``accelerator``, ``devices``, ``num_nodes``, ``strategy``, ``precision`` and ``progress_bar`` that
    were there.
    """
    return {name: options.pop(name) for name in _RUNNING if name in options}


def first_process() -> bool:
    """Whether this is the process that writes the model: of several that train together, under torchrun or SLURM, the first.

    Returns
    -------
    True where nothing was trained in several processes.
    """
    group = torch.distributed
    return not (group.is_available() and group.is_initialized()) or group.get_rank() == 0


def _too_large(data: Any) -> str:
    """What to lower when a step of training does not fit into the memory of a device."""
    decides = data.fingerprint() if hasattr(data, "fingerprint") else {}
    name = "max_tokens" if decides.get("max_tokens") else "batch_size"
    now = f", now {decides[name]:,}" if decides.get(name) else ""
    return (
        f"A training step does not fit into the memory of the device. Lower {name}{now}; the result will then differ a little. Or "
        "share the weights among several devices with strategy='fsdp', or pass precision='bf16-mixed'."
    )


def _finish(
    module: LightningModule, recorder: Recorder, best: dict[str, torch.Tensor], folder: Path | None
) -> FitReport:
    """Put the best weights into the module, and say how it went."""
    history = pd.DataFrame(recorder.history, columns=_COLUMNS).astype({"epoch": int, "step": int})
    if recorder.stopped == "diverged":
        where = f"The loss was not finite in epoch {len(history)}"
        advice = "Lower the learning rate, or use precision='32-true'."
        if not best:
            raise FloatingPointError(f"{where}, and no earlier weights were scored. {advice}")
        logger.warning("%s; the weights of epoch %d are kept. %s", where, recorder.best_epoch, advice)
    if best:
        module.load_state_dict(best, strict=False)
    epoch = recorder.best_epoch or len(history)
    if recorder.stopped == "interrupted":
        kept = f"of epoch {epoch}, the best so far," if best else "of the last step"
        again = "" if folder is None else f" Call fit again with folder={str(folder)!r} to go on."
        logger.warning("Training was interrupted; the weights %s are kept.%s", kept, again)
    score = recorder.best_score if recorder.best_epoch else math.nan
    return FitReport(history, epoch, score, recorder.stopped, recorder.seconds)


def _accelerator(name: str) -> str:
    if name != "auto":
        return name
    if torch.cuda.is_available():
        return "gpu"
    return "mps" if torch.backends.mps.is_available() else "cpu"


@contextmanager
def _quiet() -> Iterator[None]:
    """Lightning without its notes about the machine, for the time of the fit; warnings of substance pass."""
    names = [n for n in logging.root.manager.loggerDict if n.partition(".")[0] in ("lightning", "lightning_utilities")]
    chatty = [
        logging.getLogger(name) for name in names if logging.getLogger(name).level in (logging.DEBUG, logging.INFO)
    ]
    levels = [log.level for log in chatty]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=PossibleUserWarning)
        warnings.filterwarnings("ignore", message=r"Total length of `list` across ranks is zero")  # no validation cells
        # Lightning 2.6 with torch 2.13: about its own code
        warnings.filterwarnings("ignore", message=r".*LeafSpec.* is deprecated", category=FutureWarning)
        for log in chatty:
            log.setLevel(logging.WARNING)
        try:
            yield
        finally:
            for log, level in zip(chatty, levels, strict=True):
                log.setLevel(level)


@contextmanager
def _borrowed_random_state(accelerator: str) -> Iterator[None]:
    """Torch's global generators are seeded before each batch; afterwards they are as they were."""
    if accelerator == "mps":
        with torch.random.fork_rng(device_type="mps"):
            yield
        return
    devices = range(torch.cuda.device_count()) if accelerator in ("gpu", "cuda") else []
    with torch.random.fork_rng(devices=list(devices)):
        yield


@contextmanager
def _one_interrupt(recorder: Recorder) -> Iterator[None]:
    """The first Ctrl-C is noted and obeyed between two batches; a second one, or one with several devices, at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGINT)

    def note(number: int, frame: Any) -> None:
        if recorder.interrupt or not recorder.alone:
            raise KeyboardInterrupt
        recorder.interrupt = True

    signal.signal(signal.SIGINT, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler if before is None else before)
