"""Names of perturbations, read from a column: genes joined by "+", and which of them a model has seen."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

SEEN, COMBINATION, PARTLY, UNSEEN, CONTROL = "seen", "combination of seen", "partly seen", "unseen", "control"


class Perturbed(NamedTuple):
    """Cells of a perturbation experiment.

    Attributes
    ----------
    names
        Name of each perturbation, genes sorted and joined by ``"+"``, ascending; the control is not among them.
    codes
        (n_cells,) int64 place in ``names``; -1 control, -2 without a label.
    """

    names: tuple[str, ...]
    codes: np.ndarray


def parts_of(label: str | Iterable[str], control: str | None = None) -> tuple[str, ...]:
    """Genes of a perturbation: sorted, each once, the control's name left out.

    Examples
    --------
    >>> parts_of("KLF1+CEBPE")
    ('CEBPE', 'KLF1')
    >>> parts_of("KLF1+ctrl", control="ctrl")
    ('KLF1',)
    """
    parts = label.split("+") if isinstance(label, str) else [str(part) for part in label]
    stripped = {part.strip() for part in parts}
    return tuple(sorted(part for part in stripped if part and part != control))


def name_of(parts: Iterable[str]) -> str:
    """Name of a perturbation from its genes: the inverse of :func:`parts_of`."""
    return "+".join(sorted(parts))


def read_perturbations(column: pd.Series, control: str | None, name: str) -> Perturbed:
    """Perturbation of every cell from a column of ``.obs``.

    Parameters
    ----------
    column
        One label a cell: ``"JAK2"``, ``"JAK2+STAT1"``, ``"JAK2+ctrl"``, the control's name; missing: left out.
    control
        Label of the control cells.
    name
        Of the column, for messages.

    Returns
    -------
    The perturbations.

    Raises
    ------
    TypeError
        If the control is not named.
    ValueError
        If there are no control cells, or no others.
    """
    labels = column.astype(object).to_numpy()
    there = pd.notna(labels)
    values = sorted({str(label) for label in labels[there]})
    if control is None:
        raise TypeError(
            f"control= must name the label of the unperturbed cells in {name!r}; there are {', '.join(map(repr, values[:10]))}."
        )
    parts = {value: parts_of(value, control) for value in values}
    names = tuple(sorted({name_of(p) for p in parts.values() if p}))
    place = {n: i for i, n in enumerate(names)}
    code = {value: place[name_of(p)] if p else -1 for value, p in parts.items()}
    codes = np.array([code[str(v)] if ok else -2 for v, ok in zip(labels, there, strict=True)], dtype=np.int64)
    if not (codes == -1).any():
        raise ValueError(
            f"control={control!r} must be a label of {name!r}, found {', '.join(map(repr, values[:10]))}"
            f"{', …' if len(values) > 10 else ''}."
        )
    if not names:
        raise ValueError(f"{name!r} must hold perturbed cells beside the control, found {control!r} only.")
    return Perturbed(names, codes)


def standing(perturbations: Sequence[Iterable[str]], trained: Iterable[str]) -> list[str]:
    """What a model knows of each perturbation from its training.

    Parameters
    ----------
    perturbations
        Genes of each.
    trained
        Names of the perturbations that it was trained on.

    Returns
    -------
    ``"seen"``; ``"combination of seen"`` (each gene alone was); ``"partly seen"`` (some gene was, alone or in a combination);
    ``"unseen"``; ``"control"`` for no gene at all.
    """
    known = {parts_of(name) for name in trained}
    genes = {gene for parts in known for gene in parts}
    out = []
    for perturbation in perturbations:
        parts = tuple(sorted(set(perturbation)))
        if not parts:
            out.append(CONTROL)
        elif parts in known:
            out.append(SEEN)
        elif all((part,) in known for part in parts):
            out.append(COMBINATION)
        else:
            out.append(PARTLY if genes & set(parts) else UNSEEN)
    return out
