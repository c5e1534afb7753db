"""What is compared: families to train, models as they are, columns that another method wrote."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from sclm import __version__, models

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

BASELINES = ("majority", "logistic", "knn")
TRAINED, AS_IT_IS, COLUMN = "trained", "as it is", "column"


class Contender(NamedTuple):
    """One row of the table."""

    name: str
    kind: str  # "trained" on each training part, "as it is", or a "column" of .obs
    model: Any  # family, model object, folder or published name, or name of the column
    options: dict[str, Any]  # of training
    confidence: str | None  # column with the confidences of another method
    key: (
        str | None
    )  # name of its files; another one where anything is changed that may change the answers; None: not kept


def contenders(
    asked: Sequence[Any] | Mapping[str, Any],
    predictions: Sequence[str] | Mapping[str, str | None],
    options: Mapping[str, Mapping[str, Any]],
) -> list[Contender]:
    """The baselines, which cannot be left out, and what is asked for.

    Parameters
    ----------
    asked
        Models: families to train by name, trained models, folders, published names; or name in the table → one of these.
    predictions
        Columns of ``.obs`` with the labels of other methods; or column → column of their confidences.
    options
        Name in the table → settings of training.

    Raises
    ------
    ValueError
        If a name stands twice, a family does not annotate, or options are given to what is not trained.
    FileNotFoundError
        If there is no such model.
    """
    listed = list(asked.items()) if hasattr(asked, "items") else [(_name(model), model) for model in _several(asked)]
    names = [str(name) for name, _ in listed]
    listed = [(name, name) for name in BASELINES if name not in names] + listed
    found = [_contender(str(name), model, dict(options.get(str(name), {}))) for name, model in listed]
    columns = predictions.items() if hasattr(predictions, "items") else [(c, None) for c in _several(predictions)]
    found += [Contender(c, COLUMN, c, {}, sure, None) for c, sure in columns]  # read anew: the column may have changed
    names = [contender.name for contender in found]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(
            f"models must have different names, found {', '.join(map(repr, twice))} more than once. "
            "Pass a dict of name → model to name them."
        )
    for name in BASELINES:
        contender = next(c for c in found if c.name == name)
        if contender.kind != TRAINED or contender.model != name:
            raise ValueError(f"{name!r} is the name of a baseline: call your model by another.")
    if extra := sorted(set(options) - {c.name for c in found if c.kind == TRAINED}):
        raise ValueError(
            f"options are given for {', '.join(map(repr, extra))}, which is not trained here; trained are "
            f"{', '.join(repr(c.name) for c in found if c.kind == TRAINED)}."
        )
    return found


def _several(given: Any) -> list[Any]:
    return list(given) if isinstance(given, list | tuple) else [given]


def _name(model: Any) -> str:
    if isinstance(model, str) and (model in models.FAMILIES or model in models.PUBLISHED):
        return model
    if isinstance(model, str | Path):
        return str(model) if str(model).startswith("hf:") else Path(model).name or str(model)
    return str(getattr(model, "family", type(model).__name__))


def _contender(name: str, model: Any, options: dict[str, Any]) -> Contender:
    if isinstance(model, str) and model in models.FAMILIES:
        family = models.family_class(model)
        if not hasattr(family, "annotate"):
            raise ValueError(f"{model!r} does not annotate cells, so it cannot be compared here.")
        kind = AS_IT_IS if hasattr(family, "ready") else TRAINED
        return Contender(name, kind, model, options, None, _key(name, [kind, model, options]))
    if isinstance(model, str | Path):
        text = str(model)
        if text not in models.PUBLISHED and not text.startswith("hf:") and not Path(text).exists():
            models.load(text)  # says what is missing, with near names
        return Contender(name, AS_IT_IS, model, options, None, _key(name, [AS_IT_IS, text, _state(Path(text))]))
    # Of an object that does not say where it comes from, nobody knows whether it is the one of the last call.
    key = _key(name, [AS_IT_IS, model.provenance()]) if hasattr(model, "provenance") else None
    return Contender(name, AS_IT_IS, model, options, None, key)


def _state(path: Path) -> list[Any]:
    """What changes when a folder is written anew."""
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path] if path.is_file() else []
    return [[str(p), p.stat().st_size, p.stat().st_mtime_ns] for p in files[:1000]]


def _key(name: str, facts: Any) -> str:
    digest = hashlib.sha256(json.dumps([__version__, name, facts], default=str, sort_keys=True).encode()).hexdigest()
    return f"{re.sub(r'[^A-Za-z0-9]+', '-', name).strip('-')[:40] or 'model'}-{digest[:12]}"
