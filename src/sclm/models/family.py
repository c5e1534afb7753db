"""The base of every model family: save, load, card. No torch here."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from sclm.cells import GeneVocabulary

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sclm.cells import CellSource

FORMAT = 1
CONFIG, WEIGHTS, VOCABULARY, CARD = "config.json", "model.safetensors", "vocabulary.json", "README.md"


class Family:
    """A model family: a configuration, a gene vocabulary and named arrays.

    Subclasses set ``family`` and ``Config`` (a frozen dataclass of JSON scalars and tuples), implement :meth:`fit`,
    :meth:`arrays` and :meth:`from_arrays`, and bring the verbs that they are for.

    Parameters
    ----------
    config
        The family's configuration.
    vocabulary
        Genes that the model reads, in the order of its columns.
    card
        What a reader of the checkpoint should know: data, split, metrics beside baselines, limits.
    """

    family: ClassVar[str]
    Config: ClassVar[type]

    def __init__(self, config: Any, vocabulary: GeneVocabulary, card: dict[str, Any] | None = None) -> None:
        self.config = config
        self.vocabulary = vocabulary
        self.card = dict(card or {})
        self.path: Path | None = None  # folder that the model was loaded from or saved to last

    @property
    def base_model(self) -> dict[str, str | None] | None:
        """``name`` and ``revision`` of the pretrained model underneath, whose weights no checkpoint of ours holds."""
        return None

    @classmethod
    def fit(cls, source: CellSource, *, genes: Any = None, seed: int = 0, **options: Any) -> Self:
        """Train on the cells of a source; ``genes`` restricts the vocabulary to those shared with other data."""
        raise TypeError(f"{cls.family!r} cannot be trained: it has no fit.")

    def arrays(self) -> dict[str, np.ndarray]:
        """Every number that the model owns, by name."""
        return {}

    @classmethod
    def from_arrays(
        cls, config: Any, vocabulary: GeneVocabulary, arrays: dict[str, np.ndarray], card: dict[str, Any]
    ) -> Self:
        """The inverse of :meth:`arrays`."""
        raise TypeError(f"{cls.family!r} cannot be built from arrays.")

    def save(self, folder: str | Path, *, overwrite: bool = False) -> Path:
        """Write checkpoint format 1: four files, no pickle.

        Parameters
        ----------
        folder
            Made where it does not exist.
        overwrite
            Replace a checkpoint that is there.

        Returns
        -------
        The folder.

        Raises
        ------
        FileExistsError
            If the folder holds a checkpoint and ``overwrite`` is False.
        """
        from safetensors.numpy import save_file

        from sclm import __version__

        folder = Path(folder)
        if (folder / CONFIG).exists() and not overwrite:
            raise FileExistsError(f"{folder} already holds a checkpoint. Choose another folder or pass overwrite=True.")
        folder.mkdir(parents=True, exist_ok=True)
        # order="C" and not ascontiguousarray, which gives scalars a dimension
        arrays = {k: np.asarray(v, order="C") for k, v in self.arrays().items()}
        config = {
            "format": FORMAT,
            "family": self.family,
            "sclm": __version__,
            "config": dataclasses.asdict(self.config),
            "base_model": self.base_model,
            "card": self.card,
            "tensors": {k: {"shape": list(v.shape), "finite": _is_finite(v)} for k, v in arrays.items()},
        }
        # config.json goes first and comes last: a folder without it is not a checkpoint, so an interrupted save is never loaded.
        (folder / CONFIG).unlink(missing_ok=True)
        save_file(arrays, folder / WEIGHTS)
        (folder / VOCABULARY).write_text(self.vocabulary.to_json(), encoding="utf-8")
        (folder / CARD).write_text(_card_text(self.family, self.card), encoding="utf-8")
        (folder / CONFIG).write_text(json.dumps(config, indent=2, ensure_ascii=False), encoding="utf-8")
        self.path = folder
        return folder

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Read a checkpoint of this family.

        Raises
        ------
        ValueError
            If the folder holds another family or a newer format, or a file is damaged; names the file.
        FileNotFoundError
            If a file is missing.
        """
        folder = Path(folder)
        config = read_config(folder)
        if config["family"] != cls.family:
            raise ValueError(f"{folder} holds a {config['family']!r} model, expected {cls.family!r}. Use sclm.load().")
        fields = {f.name for f in dataclasses.fields(cls.Config)}
        unknown = set(config["config"]) - fields
        if unknown:
            raise ValueError(f"{folder / CONFIG} has unknown settings {sorted(unknown)} for {cls.family!r}.")
        values = {k: tuple(v) if isinstance(v, list) else v for k, v in config["config"].items()}
        with naming(folder / VOCABULARY):
            vocabulary = GeneVocabulary.from_json((folder / VOCABULARY).read_text(encoding="utf-8"))
        arrays = _read_weights(folder / WEIGHTS, config.get("tensors"))
        with naming(folder):
            model = cls.from_arrays(cls.Config(**values), vocabulary, arrays, config.get("card") or {})
        model.path = folder
        return model

    def provenance(self) -> dict[str, Any]:
        """What made a result, for the record beside it.

        Returns
        -------
        ``family``, ``checkpoint`` (folder, where there is one), ``settings`` (the scalars of the configuration), and
        ``sha256`` of configuration, genes and arrays: the same for a model in memory and for its saved copy.
        """
        config = dataclasses.asdict(self.config)
        digest = hashlib.sha256(json.dumps([self.family, config, self.vocabulary.tokens]).encode())
        for name, array in sorted(self.arrays().items()):
            digest.update(f"{name} {array.dtype} {array.shape}".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
        return {
            "family": self.family,
            "checkpoint": str(self.path) if self.path else None,
            "settings": {k: v for k, v in config.items() if not isinstance(v, list | tuple)},
            "sha256": digest.hexdigest(),
        }


def is_checkpoint(folder: Path) -> bool:
    """Whether a folder is one that :meth:`Family.save` wrote; foreign folders may have a ``config.json`` of their own."""
    path = folder / CONFIG
    if not path.is_file():
        return False
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):  # no JSON, no text, or nested without end
        return False
    return isinstance(config, dict) and "format" in config and "family" in config


def read_config(folder: Path) -> dict[str, Any]:
    """``config.json`` of a checkpoint folder, checked for its format."""
    path = folder / CONFIG
    if not path.is_file():
        raise FileNotFoundError(
            f"{folder} is no checkpoint: it has no {CONFIG}. Pass a folder written by model.save()."
        )
    with naming(path):
        config = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(config, dict):
            raise ValueError(f"expected an object of settings, found {type(config).__name__}.")
    found = config.get("format")
    if not isinstance(found, int) or "family" not in config:
        raise ValueError(
            f"{path} is not an sclm checkpoint: expected the keys 'format' and 'family', found {sorted(config)[:6]}."
        )
    if found > FORMAT:
        raise ValueError(f"{path} has format {found}, this version of sclm reads up to {FORMAT}. Update sclm.")
    for key, kind in (("family", str), ("config", dict)):
        if not isinstance(config.get(key), kind):
            raise ValueError(f"{path} must hold {key!r} as {kind.__name__}, found {type(config.get(key)).__name__}.")
    return config


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Whatever a broken file makes a reader say, as a ValueError that names the file."""
    try:
        yield
    except (
        ValueError,
        KeyError,
        TypeError,
        IndexError,
        AttributeError,
        ArithmeticError,
        RecursionError,
        RuntimeError,
    ) as error:
        if isinstance(error, ValueError) and str(path) in str(error):
            raise
        text = f"no {error}" if isinstance(error, KeyError) else str(error) or type(error).__name__
        raise ValueError(f"{path} is damaged, or belongs to another version: {text}") from error


def _read_weights(path: Path, listed: dict[str, dict[str, Any]] | None) -> dict[str, np.ndarray]:
    """Arrays of a safetensors file, compared with their list in the configuration; older checkpoints have none.

    The header is checked against the size of the file before anything is allocated, by the reader.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    from sclm.models.foreign import refuse_unmatched

    if not path.is_file():
        raise FileNotFoundError(f"{path.parent} has no {WEIGHTS}: the checkpoint is not whole. Get it again.")
    try:
        arrays = load_file(path)
    except (
        SafetensorError,
        KeyError,
        ValueError,
        TypeError,
    ) as error:  # KeyError: a type of numbers that numpy has not
        raise ValueError(f"{path} is no whole safetensors file: {error}. Get it again.") from error
    if listed is None:
        return arrays
    with naming(path.parent / CONFIG):
        shapes = {name: tuple(facts["shape"]) for name, facts in listed.items()}
        finite = {name for name, facts in listed.items() if facts["finite"]}
    refuse_unmatched(shapes, arrays, str(path))
    if broken := sorted(name for name in finite if not _is_finite(arrays[name])):
        raise ValueError(
            f"{path} holds values that are no numbers in {', '.join(broken[:5])}: it was damaged. Get it again."
        )
    return arrays


def _is_finite(array: np.ndarray) -> bool:
    return array.dtype.kind != "f" or bool(np.isfinite(array).all())


def _card_text(family: str, card: dict[str, Any]) -> str:
    """The card as Markdown: one list item a fact."""
    lines = [f"# {family} (sclm)", ""]
    for key, value in card.items():
        lines.append(f"- **{key.replace('_', ' ')}**: {value}")
    if not card:
        lines.append("No facts were recorded at training.")
    return "\n".join(lines) + "\n"
