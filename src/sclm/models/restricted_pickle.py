"""Read published pickles without running them: an allow-list of harmless values, inert holders for everything else.

Geneformer publishes its dictionaries as pickles, scTranslator its weights as a pickled module. A pickle may name any function of
any installed package and have it called. Here a name is looked up in a fixed table of our own stand-ins, and nothing is imported.
"""

from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

_NUMBERS = "biuf"  # kinds of numpy scalars that become Python numbers


class _DType:
    """Stand-in for ``numpy.dtype``: remembers its code, makes a dtype only of plain numbers."""

    def __init__(self, code: str, align: bool = False, copy: bool = True) -> None:
        self.code, self.order = str(code), "="

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = state[1]

    @property
    def numpy(self) -> np.dtype[Any]:
        try:
            dtype = np.dtype(self.code)
        except TypeError as error:
            raise pickle.UnpicklingError(f"numpy dtype {self.code!r}") from error
        if dtype.kind not in _NUMBERS or dtype.subdtype is not None:
            raise pickle.UnpicklingError(f"numpy dtype {self.code!r}")
        order: Any = self.order if self.order in ("<", ">") else "="
        return dtype.newbyteorder(order)


def _scalar(dtype: _DType, data: bytes = b"") -> int | float | bool:
    """Stand-in for numpy's scalars: the Python number of the same value."""
    if not isinstance(dtype, _DType) or not isinstance(data, bytes) or len(data) != dtype.numpy.itemsize:
        raise pickle.UnpicklingError("a numpy scalar of unknown form")
    return np.frombuffer(data, dtype=dtype.numpy)[0].item()


def _encode(text: str, encoding: str = "latin1", errors: str = "strict") -> bytes:
    """Stand-in for ``_codecs.encode``, by which protocol 2 writes bytes."""
    if encoding not in ("latin1", "latin-1") or not isinstance(text, str):
        raise pickle.UnpicklingError(f"text encoded as {encoding!r}")
    return text.encode("latin1")


_PLAIN: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy", "dtype"): _DType,
    ("numpy.core.multiarray", "scalar"): _scalar,  # as numpy 1 wrote it
    ("numpy._core.multiarray", "scalar"): _scalar,
    ("_codecs", "encode"): _encode,
    ("collections", "OrderedDict"): dict,
    ("builtins", "set"): set,
    ("__builtin__", "set"): set,
    ("builtins", "frozenset"): frozenset,
    ("builtins", "dict"): dict,
    ("builtins", "list"): list,
    ("builtins", "int"): int,
    ("builtins", "float"): float,
    ("builtins", "str"): str,
}


class _Reader(pickle.Unpickler):
    """Names are looked up in `table`; a name that is not there goes to `other`, which may refuse it."""

    def __init__(
        self,
        file: Any,
        table: dict[tuple[str, str], Any],
        other: Callable[[str, str], Any],
        storage: Callable[[Any], Any] | None = None,
    ) -> None:
        super().__init__(file, fix_imports=False, encoding="utf-8")
        self._table, self._other, self._storage = table, other, storage

    def find_class(self, module: str, name: str) -> Any:
        found = self._table.get((module, name))
        return self._other(module, name) if found is None else found

    def persistent_load(self, pid: Any) -> Any:
        if self._storage is None:
            raise pickle.UnpicklingError("a reference to another file")
        return self._storage(pid)


def _run(reader: _Reader, where: str) -> Any:
    """What the pickle holds; every way in which one can be broken or hostile is one ValueError."""
    try:
        return reader.load()
    except Exception as error:  # a hostile stream may raise anything, and the remedy is always the same
        raise ValueError(
            f"{where} is no pickle of plain values: it holds or asks for {error}. Nothing of it was run. Only the published files "
            "of dictionaries and weights can be read; get the file again from where its authors published it."
        ) from error


def load_restricted(path: str | Path) -> Any:
    r"""A pickle of dictionaries, lists, text and numbers.

    Parameters
    ----------
    path
        The file.

    Returns
    -------
    What it holds; numpy scalars become Python numbers, ordered dictionaries plain ones.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the pickle names anything but plain values and numpy numbers, or is broken; the refused name is in the message, and
        nothing that it names was imported or called.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp(), "evil.pkl")
    >>> _ = path.write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    >>> load_restricted(path)
    Traceback (most recent call last):
    ...
    ValueError: ...os.system...
    """

    def refuse(module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"the name {module}.{name}, which is not on the list of plain values")

    with Path(path).open("rb") as file:
        return _run(_Reader(file, _PLAIN, refuse), str(path))


class _Held:
    """An object of a class that is not loaded: it keeps the state that the pickle gives it, and does nothing."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __call__(self, *arguments: Any, **named: Any) -> _Held:
        return _Held()

    # containers that pickle fills by calls
    def append(self, item: Any) -> None:
        """Drop it."""

    def extend(self, items: Any) -> None:
        """Drop them."""

    def __setitem__(self, key: Any, value: Any) -> None:
        """Drop it."""


def load_module_tensors(path: str | Path) -> dict[str, torch.Tensor]:
    """Tensors of a module that was saved whole with ``torch.save(module)``, without its classes.

    Every class but tensors becomes an inert holder of its state; parameters, buffers and submodules are then collected from these
    states. A ``module.`` level of data-parallel wrappers is removed.

    Parameters
    ----------
    path
        File of ``torch.save`` (a zip archive, torch 1.6 or newer).

    Returns
    -------
    Name → tensor, the names and values of the module's ``state_dict``.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is no such archive, holds no module, or holds storages of other than plain numbers. Nothing in it is run.
    """
    import torch

    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"No file {path}.")
    if not zipfile.is_zipfile(path):
        raise ValueError(
            f"{path} is no archive of torch.save as torch 1.6 and newer write it. Load it with the torch that wrote it, where you "
            "trust it, and save its state_dict()."
        )
    with zipfile.ZipFile(path) as archive:
        index = next((name for name in archive.namelist() if name.endswith("/data.pkl")), None)
        if index is None:
            raise ValueError(f"{path} holds no data.pkl, as an archive of torch.save does.")
        root = index.removesuffix("data.pkl")
        if root + "byteorder" in archive.namelist() and archive.read(root + "byteorder") != b"little":
            raise ValueError(f"{path} was written on a big-endian machine, which is not read here.")
        read: dict[str, torch.Tensor] = {}

        def storage(pid: Any) -> torch.Tensor:
            if not isinstance(pid, tuple) or len(pid) != 5 or pid[0] != "storage":
                raise pickle.UnpicklingError(f"the storage {pid!r}")
            _, dtype, key, _, n = pid
            if not isinstance(dtype, torch.dtype):
                raise pickle.UnpicklingError("a storage of unknown type")
            if key not in read:
                buffer = bytearray(archive.read(f"{root}data/{key}"))
                read[key] = torch.frombuffer(buffer, dtype=dtype) if buffer else torch.empty(0, dtype=dtype)
                if read[key].numel() != n:
                    raise pickle.UnpicklingError(f"a storage of {read[key].numel()} values where {n} are announced")
            return read[key]

        def hold(module: str, name: str) -> type[_Held]:
            return type(name.rpartition(".")[2] or "_Held", (_Held,), {"origin": f"{module}.{name}"})

        reader = _Reader(io.BytesIO(archive.read(index)), _PLAIN | _tensor_table(), hold, storage)
        module = _run(reader, str(path))
        found: dict[str, torch.Tensor] = {}
        _collect(module, "", found, set())
    if not found:
        raise ValueError(f"{path} holds no module with tensors, found {type(module).__name__}.")
    if all(name.startswith("module.") for name in found):
        found = {name.removeprefix("module."): tensor for name, tensor in found.items()}
    return found


def _tensor_table() -> dict[tuple[str, str], Any]:
    import torch

    def tensor(storage: torch.Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> Any:
        last = offset + sum((n - 1) * s for n, s in zip(size, stride, strict=True)) if all(size) else offset - 1
        if not isinstance(storage, torch.Tensor) or min((offset, *stride), default=0) < 0 or last >= storage.numel():
            raise pickle.UnpicklingError("a tensor that reaches beyond its storage")
        return storage.as_strided(size, stride, offset).clone()

    def parameter(data: Any, *_: Any) -> Any:
        return data

    kinds = {
        "Float": torch.float32, "Double": torch.float64, "Half": torch.float16, "BFloat16": torch.bfloat16,
        "Long": torch.int64, "Int": torch.int32, "Short": torch.int16, "Char": torch.int8, "Byte": torch.uint8, "Bool": torch.bool,
    }  # fmt: skip
    table: dict[tuple[str, str], Any] = {("torch", f"{name}Storage"): dtype for name, dtype in kinds.items()}
    table["torch._utils", "_rebuild_tensor_v2"] = tensor
    table["torch._utils", "_rebuild_parameter"] = parameter
    table["torch._utils", "_rebuild_parameter_with_state"] = parameter
    return table


def _collect(module: Any, prefix: str, found: dict[str, torch.Tensor], seen: set[int]) -> None:
    """Parameters, buffers and submodules of a held module, depth first."""
    import torch

    state = module.state if isinstance(module, _Held) else None
    if not isinstance(state, dict) or id(module) in seen:
        return
    seen = seen | {id(module)}
    transient = state.get("_non_persistent_buffers_set") or set()
    for slot in ("_parameters", "_buffers"):
        for name, tensor in (state.get(slot) or {}).items():
            if isinstance(tensor, torch.Tensor) and not (slot == "_buffers" and name in transient):
                found[prefix + name] = tensor
    for name, part in (state.get("_modules") or {}).items():
        _collect(part, f"{prefix}{name}.", found, seen)
