"""Proteins measured beside RNA, read out of ``.obsm`` or of a modality of MuData, and the scales on which they are compared.

This is the second and last file that reads AnnData: what :mod:`sclm.cells.read` is for counts of RNA, it is for the table of
proteins, which has other columns, may hold other values than counts, and is small enough to be in memory as a whole.
"""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
import scipy.sparse as sp

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData

SCALES = ("clr", "minmax", "log1p", "given")
_RNA = ("rna", "gex", "gene expression", "expression", "gene", "genes", "transcriptome")


class Proteins(NamedTuple):
    """Proteins of each cell.

    Attributes
    ----------
    values
        (n_cells, n_proteins) float32 as stored: counts of antibody-derived tags, or what was made of them; NaN where a protein
        was not measured.
    names
        Of the columns, each once.
    slot
        Where they come from, for messages.
    """

    values: np.ndarray
    names: tuple[str, ...]
    slot: str


def read_proteins(data: Any, key: str) -> tuple[AnnData, Proteins]:
    """The cells with their RNA, and the proteins measured in them.

    Parameters
    ----------
    data
        AnnData, or MuData (anything with modalities in ``.mod``).
    key
        AnnData: key of ``.obsm`` with a DataFrame, or with an array or sparse matrix whose names are in ``.uns[key]["names"]``,
        ``.uns[f"{key}_names"]``, ``.uns[key]`` or ``.uns["protein_names"]``. MuData: name of the modality with the proteins in
        ``.X``; the RNA is the modality called ``rna`` (or ``gex`` …), or the only other one. Cells are matched by name there;
        those without proteins have NaN.

    Returns
    -------
    adata
        The AnnData that holds the RNA, unchanged.
    proteins
        One row for each of its cells.

    Raises
    ------
    KeyError
        If there is no such key or modality.
    ValueError
        If names are missing, repeat or are of another number, or a value is infinite.
    TypeError
        If the values are no numbers.
    """
    if hasattr(data, "mod"):
        return _from_modalities(data, key)
    if not hasattr(data, "obsm"):
        found = f"{type(data).__module__}.{type(data).__name__}"
        raise TypeError(f"adata must be an AnnData or MuData, found {found}.")
    if key not in data.obsm:
        raise KeyError(_missing("adata.obsm", key, list(data.obsm)))
    slot = f"adata.obsm[{key!r}]"
    stored = data.obsm[key]
    if hasattr(stored, "to_memory"):  # anndata's lazy tables and matrices on disk
        stored = stored.to_memory()
    if isinstance(stored, pd.DataFrame):
        return data, _checked(stored.to_numpy(), list(stored.columns), slot)
    names = _stored_names(data.uns, key)
    if names is None:
        raise ValueError(
            f"{slot} is a {type(stored).__name__} without names of its {stored.shape[1]} proteins. Store a DataFrame there, or put "
            f"the names into adata.uns[{key!r} + '_names']."
        )
    return data, _checked(stored, names, slot)


def scale_proteins(values: np.ndarray, scale: str) -> np.ndarray:
    r"""Proteins of each cell on a scale on which cells compare.

    Parameters
    ----------
    values
        (n_cells, n_proteins); NaN is passed over and stays.
    scale
        ``"clr"``: centred log ratio, :math:`\log(1 + x_{ij}) - \tfrac1P \sum_k \log(1 + x_{ik})` over the proteins measured in
        the cell. ``"minmax"``: :math:`[10^{-8}, 1]` within the cell, as scTranslator is trained; equal values become NaN.
        ``"log1p"``: :math:`\log(1 + x)`. ``"given"``: as they are.

    Returns
    -------
    (n_cells, n_proteins) float32, new.

    Raises
    ------
    ValueError
        If there is no such scale, or a logarithm is asked of negative values.

    Examples
    --------
    >>> scale_proteins(np.array([[0.0, 4.0, 8.0]]), "minmax").round(2)
    array([[0. , 0.5, 1. ]], dtype=float32)
    """
    if scale not in SCALES:
        raise ValueError(f"scale must be one of {', '.join(map(repr, SCALES))}, found {scale!r}.")
    values = np.asarray(values, dtype=np.float64)
    known = np.isfinite(values)
    if scale == "given":
        return values.astype(np.float32)
    if scale == "minmax":
        low = np.where(known, values, np.inf).min(axis=1, keepdims=True, initial=np.inf)
        width = np.where(known, values, -np.inf).max(axis=1, keepdims=True, initial=-np.inf) - low
        usable = np.isfinite(width) & (width > 0)
        share = (values - np.where(usable, low, 0)) / np.where(usable, width, np.nan)
        return (1e-8 + share * (1 - 1e-8)).astype(np.float32)
    lowest = float(np.where(known, values, 0).min(initial=0))
    if lowest < 0:
        raise ValueError(f"scale={scale!r} takes counts of 0 or more, found {lowest:g}. Pass scale='given'.")
    logs = np.log1p(np.where(known, values, 0))
    if scale == "clr":
        logs = logs - logs.sum(axis=1, keepdims=True) / np.maximum(known.sum(axis=1, keepdims=True), 1)
    return np.where(known, logs, np.nan).astype(np.float32)


def usual_scale(values: np.ndarray) -> str:
    """``"clr"`` for counts (whole numbers of 0 or more), else ``"given"``: what was scaled before stays as it is."""
    known = values[np.isfinite(values)]
    whole = bool(known.size) and float(known.min()) >= 0 and bool((known == np.round(known)).all())
    return "clr" if whole else "given"


def _from_modalities(data: Any, key: str) -> tuple[AnnData, Proteins]:
    names = list(data.mod)
    if key not in names:
        raise KeyError(_missing("the modalities", key, names))
    others = [name for name in names if name != key]
    called = [name for name in others if name.lower() in _RNA]
    if len(called) != 1 and len(others) != 1:
        raise ValueError(
            f"one modality besides {key!r} must hold the RNA, found {', '.join(map(repr, others)) or 'none'}. Call it 'rna'."
        )
    rna, part = data.mod[called[0] if len(called) == 1 else others[0]], data.mod[key]
    table = _checked(part.X, list(part.var_names), f"modality {key!r}")
    if not part.obs_names.is_unique:
        raise ValueError(f"modality {key!r} must name each cell once, found repeated names. Make them unique first.")
    rows = part.obs_names.get_indexer(rna.obs_names)
    if not (rows >= 0).any():
        raise ValueError(
            f"no cell of the RNA ({rna.n_obs:,}) is in modality {key!r} ({part.n_obs:,}): check their names."
        )
    measured, proteins, slot = table
    values = np.where((rows >= 0)[:, None], measured[rows], np.nan).astype(np.float32)
    return rna, Proteins(values, proteins, slot)


def _checked(stored: Any, names: Sequence[Any], slot: str) -> Proteins:
    if hasattr(stored, "to_memory"):
        stored = stored.to_memory()
    if hasattr(stored, "compute"):
        stored = stored.compute()
    values = stored.toarray() if sp.issparse(stored) else np.asarray(stored)
    if values.ndim != 2 or values.shape[1] == 0:
        raise ValueError(f"{slot} must have one column a protein, found shape {values.shape}.")
    try:
        values = values.astype(np.float32)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{slot} must hold numbers, found {values.dtype}.") from error
    names = [str(name) for name in names]
    if len(names) != values.shape[1]:
        raise ValueError(f"{slot} has {values.shape[1]} columns, found {len(names)} names for them.")
    if len(set(names)) < len(names):
        twice = next(name for i, name in enumerate(names) if name in names[:i])
        raise ValueError(f"{slot} must name each protein once, found {twice!r} again. Rename or sum the columns.")
    if np.isinf(values).any():
        row, column = np.argwhere(np.isinf(values))[0]
        raise ValueError(
            f"{slot} must hold finite values or NaN, found an infinite one in row {row}, {names[column]!r}."
        )
    return Proteins(values, tuple(names), slot)


def _stored_names(uns: Any, key: str) -> list[str] | None:
    entry = uns.get(key)
    if hasattr(entry, "get") and entry.get("names") is not None:
        return list(entry["names"])
    for name in (f"{key}_names", key, "protein_names"):
        found = uns.get(name)
        if isinstance(found, list | tuple | np.ndarray | pd.Index):
            return list(found)
    return None


def _missing(where: str, name: str, there: Sequence[str]) -> str:
    near = (
        difflib.get_close_matches(str(name), [str(t) for t in there], n=3, cutoff=0.5) or [str(t) for t in there][:10]
    )
    return f"protein_key={name!r} is not in {where}; there are: {', '.join(map(repr, near)) or 'none'}."
