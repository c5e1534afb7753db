"""The base of families that hold a network: weights as arrays, devices, presets, inference."""

from __future__ import annotations

import dataclasses
import difflib
import math
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from torch.overrides import TorchFunctionMode

from sclm.models.family import CONFIG, WEIGHTS, Family, read_config
from sclm.nn import CPULinear, MemoryLimit, load_own_state, own_state

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np

    from sclm.cells import GeneVocabulary

_MADE_FROM_A_SIZE = (torch.empty, torch.zeros, torch.ones, torch.full, torch.rand, torch.randn)
_SPARE_VALUES, _COPIES = 50_000_000, 8  # of a network while it is made: tables of positions, values to begin with


@dataclasses.dataclass(frozen=True, kw_only=True)
class NeuralConfig:
    """Base of the configurations of networks: adds named presets."""

    PRESETS: ClassVar[dict[str, dict[str, Any]]] = {}  # name → values of fields; the others keep their defaults

    @classmethod
    def preset(cls, name: str, **overrides: Any) -> Self:
        """The configuration of a preset, with some fields changed.

        Raises
        ------
        ValueError
            If there is no such preset.
        TypeError
            If there is no such field; names near ones.
        """
        if name not in cls.PRESETS:
            raise ValueError(f"preset must be one of {', '.join(map(repr, cls.PRESETS))}, found {name!r}.")
        fields = [field.name for field in dataclasses.fields(cls)]
        for field in overrides:
            if field not in fields:
                near = difflib.get_close_matches(field, fields, n=3)
                hint = f"did you mean {' or '.join(map(repr, near))}?" if near else f"there are {', '.join(fields)}."
                raise TypeError(f"{cls.__name__} has no setting {field!r}; {hint}")
        return cls(**(cls.PRESETS[name] | overrides))


class NeuralFamily(Family):
    """A family whose numbers are the weights of a network.

    Subclasses implement :meth:`build`, and ask the network inside ``with self.inference():``.

    Parameters
    ----------
    config, vocabulary, card
        As in :class:`~sclm.models.family.Family`.
    network
        What :meth:`build` made, with its weights.

    Attributes
    ----------
    memory
        Verbs go over their batches by it: what does not fit into the memory of a GPU is halved.
    """

    def __init__(
        self, config: Any, vocabulary: GeneVocabulary, network: torch.nn.Module, card: dict[str, Any] | None = None
    ) -> None:
        super().__init__(config, vocabulary, card)
        self.network = network.eval()
        self.memory = MemoryLimit()

    @classmethod
    def build(cls, config: Any, vocabulary: GeneVocabulary) -> torch.nn.Module:
        """A network of this configuration; the values of its weights do not matter, except those of a pretrained base."""
        raise TypeError(f"{cls.family!r} does not say how its network is built.")

    def arrays(self) -> dict[str, np.ndarray]:
        """Weights that are our own, by name: half precision as float32, which holds it exactly."""
        short = (torch.bfloat16, torch.float16)
        return {
            name: (tensor.float() if tensor.dtype in short else tensor).detach().cpu().numpy()
            for name, tensor in own_state(self.network).items()
        }

    @classmethod
    def from_arrays(
        cls, config: Any, vocabulary: GeneVocabulary, arrays: dict[str, np.ndarray], card: dict[str, Any]
    ) -> Self:
        """The inverse of :meth:`arrays`, on the CPU."""
        network = cls.build(config, vocabulary)
        load_own_state(network, {name: torch.tensor(array) for name, array in arrays.items()})
        return cls(config, vocabulary, network, card)

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Read a checkpoint of this family, and its pretrained base from where that is.

        Raises
        ------
        ValueError
            If the folder holds another family or a newer format, or the base is not of the revision that it was trained on.
        FileNotFoundError
            If the folder is no checkpoint, or the base is not to be had.
        """
        with SizeLimit.of(Path(folder)):
            model = super().load(folder)
        recorded, found = read_config(Path(folder)).get("base_model") or {}, model.base_model or {}
        revisions = recorded.get("revision"), found.get("revision")
        if None not in revisions and revisions[0] != revisions[1]:
            raise ValueError(
                f"{folder} was trained on revision {revisions[0]} of {recorded['name']}, found {revisions[1]}. "
                "Download that revision."
            )
        return model

    @property
    def base_model(self) -> dict[str, str | None] | None:
        """``name`` and ``revision`` of the pretrained model inside the network, None without one."""
        found = (getattr(part, "base_model", None) for part in self.network.modules())
        return next((base for base in found if isinstance(base, dict)), None)

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return next(self.network.parameters()).device

    def to(self, device: str | torch.device) -> Self:
        """Move the network; ``"auto"`` as in :func:`resolve_device`. Returns the model itself."""
        self.network.to(resolve_device(device))
        self.memory = MemoryLimit()
        return self

    @contextmanager
    def inference(self) -> Iterator[torch.nn.Module]:
        """The network without dropout and gradients for the time of a ``with`` block; its mode is put back after.

        Its linear layers go through :class:`sclm.nn.CPULinear`; weights must not change inside the block.
        """
        training = self.network.training
        self.network.eval()
        try:
            with torch.inference_mode(), CPULinear():
                yield self.network
        finally:
            self.network.train(training)


class SizeLimit(TorchFunctionMode):
    """Refuses to make a network that its file cannot hold the weights of: settings may ask for any size.

    Counts the values of all tensors that are made from a size inside the ``with`` block.

    Parameters
    ----------
    n_bytes
        Of the file of weights.
    settings
        Where the sizes are said, for the message.
    """

    def __init__(self, n_bytes: float, settings: Path) -> None:
        super().__init__()
        self.settings = settings
        self.left = _SPARE_VALUES + _COPIES * n_bytes / 2  # values of half precision at least

    @classmethod
    def of(cls, folder: Path) -> Self:
        """The limit of a checkpoint; a pretrained base is made of its own files, where ours hold an adapter only: no limit there."""
        config = read_config(folder)
        based = bool(config.get("base_model")) and any(k.startswith("base") and v for k, v in config["config"].items())
        weights = folder / WEIGHTS
        size = weights.stat().st_size if weights.is_file() else 0
        return cls(math.inf if based else size, folder / CONFIG)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Called for every function of torch inside the ``with`` block."""
        kwargs = kwargs or {}
        if func in _MADE_FROM_A_SIZE:
            size = kwargs.get("size", args[0] if args and isinstance(args[0], tuple | list) else args)
            self.left -= math.prod(int(n) for n in size) if all(isinstance(n, int) for n in size) else 0
            if self.left < 0:
                raise ValueError(
                    f"{self.settings} asks for a network whose weights the file beside it is far too small to hold. Nothing was made of it."
                )
        return func(*args, **kwargs)


def resolve_device(device: str | torch.device) -> torch.device:
    """A device that is there.

    Parameters
    ----------
    device
        ``"auto"`` (a CUDA GPU, else Apple's, else the CPU), ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"mps"``.

    Raises
    ------
    ValueError
        If torch does not know the name or cannot use the device.
    """
    if device == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        return torch.device(name)
    try:
        found = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"device must be 'auto', 'cpu', 'cuda', 'cuda:N' or 'mps', found {device!r}.") from error
    if found.type == "cuda" and (found.index or 0) >= torch.cuda.device_count():
        there = f"{torch.cuda.device_count()} CUDA devices"
        raise ValueError(
            f"device={str(device)!r} is not there: torch {torch.__version__} sees {there}. Pass device='auto'."
        )
    if found.type == "mps" and not torch.backends.mps.is_available():
        raise ValueError("device='mps' is not there: it needs a Mac with Apple's GPU. Pass device='auto'.")
    return found
