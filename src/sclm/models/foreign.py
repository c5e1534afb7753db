"""Checkpoints in the layout of their original authors: recognised, read strictly, converted once, kept.

Each family that reads foreign checkpoints has a module ``checkpoint.py`` with ``LAYOUT`` (what the files are, in a line),
``recognise(path)``, ``sources(path)`` (the files that decide the model) and ``convert(path)`` (the model, every tensor accounted for).
With ``KEPT = False`` there, models are used where they lie, and no copy is kept.
"""

from __future__ import annotations

import hashlib
import importlib
import logging
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sclm.knowledge.downloads import data_dir
from sclm.models.family import CONFIG, naming

if TYPE_CHECKING:
    import torch

    from sclm.models.family import Family

logger = logging.getLogger(__name__)

# Family → module that reads its original checkpoints. Strings, so that naming them imports none.
# Each family adds its own line, as soon as its module is there.
FOREIGN: dict[str, str] = {
    "sctranslator": "sclm.models.sctranslator.checkpoint",
    "geneformer": "sclm.models.geneformer.checkpoint",
    "scgpt": "sclm.models.scgpt.checkpoint",
    "cell2sentence": "sclm.models.cell2sentence.checkpoint",
}
_CONVERSION = 1  # a cached conversion of another number is not used again


def recognise(path: str | Path) -> str | None:
    """Family whose original layout a folder or file has.

    Parameters
    ----------
    path
        Folder or file.

    Returns
    -------
    A key of :data:`FOREIGN`, or None.
    """
    path = Path(path)
    for family, module in FOREIGN.items():
        if importlib.import_module(module).recognise(path):
            return family
    return None


def explain(path: str | Path) -> str:
    """What was found where no layout was recognised, and what each would be: the end of an error message."""
    path = Path(path)
    if path.is_dir():
        names = sorted(p.name + ("/" if p.is_dir() else "") for p in path.iterdir())
        found = ", ".join(names[:8]) + (f", … ({len(names)} in all)" if len(names) > 8 else "") if names else "nothing"
    else:
        found = f"a file of {path.stat().st_size:,} bytes"
    known = "; ".join(f"{family}: {importlib.import_module(module).LAYOUT}" for family, module in FOREIGN.items())
    return f"Found {found}. Known are folders written by model.save() ({CONFIG} with 'format'), and the original layouts {known}."


def load_foreign(path: str | Path, family: str) -> Family:
    """A model from its original files; converted to checkpoint format 1 the first time, from that copy afterwards.

    The copy lies in ``converted/<family>-<sha256>`` of the data folder (``$SCLM_DATA_DIR``, else the user's cache) and belongs to the
    bytes of the original: changed files are read anew.

    Parameters
    ----------
    path
        Folder or file in the layout of the family.
    family
        A key of :data:`FOREIGN`.

    Returns
    -------
    The model.

    Raises
    ------
    FileNotFoundError
        If a file that the layout needs is absent; says what to download and where to put it.
    ValueError
        If a tensor is missing, unknown or of another shape, by name; or a file is not what its hash says.
    """
    from sclm import __version__
    from sclm.models import family_class

    path = Path(path)
    module = importlib.import_module(FOREIGN[family])
    if not getattr(module, "KEPT", True):
        with naming(path):
            model = module.convert(path)
        model.path = path
        return model
    digest = hashlib.sha256(f"{_CONVERSION} {__version__}".encode())
    for file in module.sources(path):
        digest.update(f"{file.name} {sha256(file)}".encode())
    kept = data_dir() / "converted" / f"{family}-{digest.hexdigest()[:16]}"
    if (kept / CONFIG).is_file():
        logger.info("%s was converted before: reading %s", path, kept)
        return family_class(family).load(kept)
    logger.info("%s is an original checkpoint of %s: converting it once", path, family)
    model = _converted(module, path)
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        # Written beside its place and moved there whole, so that two processes may convert at once.
        part = Path(tempfile.mkdtemp(prefix=f".{kept.name}-", dir=kept.parent))
        try:
            model.save(part)
            part.rename(kept)
        except OSError:
            shutil.rmtree(part, ignore_errors=True)
            if not (kept / CONFIG).is_file():
                raise
    except OSError as error:
        logger.warning(
            "The converted checkpoint could not be kept in %s (%s): it is converted again next time.", kept, error
        )
        model.path = path
        return model
    return family_class(family).load(kept)


def _converted(module: Any, path: Path) -> Family:
    """The model of original files; what is no number in them, or asks for more than they hold, is refused."""
    from sclm.models.neural import SizeLimit

    with naming(path), SizeLimit(sum(file.stat().st_size for file in module.sources(path)), path):
        model = module.convert(path)
    weights = model.network.state_dict() if hasattr(model, "network") else {}
    broken = sorted(name for name, tensor in weights.items() if tensor.is_floating_point() and tensor.isnan().any())
    if broken:
        raise ValueError(
            f"{path} holds values that are no numbers in {_some(broken)}: it was damaged. Get it again from its authors."
        )
    return model


def read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    """Name → tensor of a safetensors file; ValueError with its name where it is none."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, KeyError, ValueError, TypeError) as error:
        raise ValueError(f"{path} is no whole safetensors file: {error}. Get it again from its authors.") from error


def sha256(path: Path) -> str:
    """Hash of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def refuse_unmatched(
    expected: dict[str, tuple[int, ...]],
    found: dict[str, Any],
    where: str,
    *,
    ignored: set[str] | frozenset[str] = frozenset(),
) -> None:
    """Account for every tensor of a file.

    Parameters
    ----------
    expected
        Name → shape, of the model.
    found
        Name → tensor or array, of the file.
    where
        The file, for the message.
    ignored
        Names in the file that the model leaves out on purpose.

    Raises
    ------
    ValueError
        If tensors are missing, unknown, or of another shape; all are named, a transposed one as such.
    """
    missing = sorted(expected.keys() - found.keys())
    extra = sorted(found.keys() - expected.keys() - ignored)
    shapes = []
    for name in sorted(expected.keys() & found.keys()):
        has, wants = tuple(found[name].shape), tuple(expected[name])
        if has != wants:
            turned = " (transposed)" if has == wants[::-1] else ""
            shapes.append(f"{name}: expected {wants}, found {has}{turned}")
    problems = [f"missing {_some(missing)}"] if missing else []
    problems += [f"unknown {_some(extra)}"] if extra else []
    problems += [f"of another shape {_some(shapes)}"] if shapes else []
    if problems:
        raise ValueError(
            f"{where} does not fit its settings: expected {len(expected)} tensors, found {len(found)}; {'; '.join(problems)}. "
            "Nothing was loaded: the file belongs to another version or model, or was damaged. Get it again from its authors."
        )


def _some(names: list[str]) -> str:
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
