"""Groups of spots as shares between 0 and 1: from labels, from fractions of a map, or from one column of numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
import scipy.sparse as sp

if TYPE_CHECKING:
    import anndata


class Shares(NamedTuple):
    """How much of each group each spot holds."""

    share: np.ndarray  # (n, k) float64, rows sum to 1; of a column of numbers k is 1; NaN where nothing is known
    names: list[str]  # k
    kind: str  # "labels", "fractions" or "number"

    def of(self, names: str | Sequence[str], argument: str) -> np.ndarray:
        """(n,) the sum over some groups; ValueError where one is not there."""
        return self.share[:, self.columns(names, argument)].sum(axis=1)

    def columns(self, names: str | Sequence[str], argument: str) -> list[int]:
        """Positions of some groups; ValueError where one is not there."""
        asked = names_of(names)
        unknown = [name for name in asked if name not in self.names]
        if unknown or not asked:
            listed = ", ".join(map(repr, self.names[:20])) + (", …" if len(self.names) > 20 else "")
            raise ValueError(f"{argument} must name groups of {listed}; found {unknown or 'none'}.")
        return [self.names.index(name) for name in dict.fromkeys(asked)]


def names_of(names: Any) -> list[str]:
    """Names of groups as text; one name, which may be a truth value or a whole number as labels may, is a list of one."""
    one = isinstance(names, (str, bool, np.bool_, int, np.integer))
    return [str(name) for name in ([names] if one else names)]


def read_shares(adata: anndata.AnnData, key: str, argument: str = "groups") -> Shares:
    """Shares of the groups under a key of ``.obs`` or ``.obsm``.

    A column of text, categories, truth values or whole numbers is read as labels, a column of other numbers as the share of one
    group, a matrix as fractions, whose rows are divided by their sum.

    Raises
    ------
    KeyError
        If there is neither such a column nor such a matrix.
    ValueError
        If numbers are no shares, or the columns of a matrix have no names.
    """
    if key in adata.obs:
        return _of_column(adata.obs[key], f".obs[{key!r}]")
    if key in adata.obsm:
        return _of_matrix(adata, key)
    there = [*map(repr, adata.obsm), *map(repr, adata.obs.columns)]
    raise KeyError(
        f"{argument}={key!r} is neither a matrix of .obsm nor a column of .obs, which hold {', '.join(there[:20]) or 'nothing'}. "
        "sclm.tl.map_spatial writes fractions of cell types."
    )


def _of_column(column: pd.Series, place: str) -> Shares:
    if isinstance(column.dtype, pd.CategoricalDtype) or column.dtype.kind not in "f":
        labels = pd.Categorical(column).remove_unused_categories()
        names = [str(name) for name in labels.categories]
        codes = np.asarray(labels.codes)
        values = (codes[:, None] == np.arange(len(names))).astype(np.float64)  # (n, k)
        values[codes < 0] = np.nan
        if not names:
            raise ValueError(f"{place} must name the group of each spot, found no label at all.")
        return Shares(values, names, "labels")
    values = column.to_numpy(dtype=np.float64)
    known = values[np.isfinite(values)]
    if not len(known) or known.min() < 0 or known.max() > 1:
        found = f"{known.min():g} to {known.max():g}" if len(known) else "missing values only"
        raise ValueError(
            f"{place} must hold shares between 0 and 1, found {found}. Labels must be text or categories; other numbers are to "
            "be scaled first."
        )
    return Shares(np.where(np.isfinite(values), values, np.nan)[:, None], [str(column.name)], "number")


def _of_matrix(adata: anndata.AnnData, key: str) -> Shares:
    place, stored = f".obsm[{key!r}]", adata.obsm[key]
    if isinstance(stored, pd.DataFrame):
        names = [str(name) for name in stored.columns]
        found = stored.to_numpy(dtype=np.float64)
    else:
        entry: Any = adata.uns.get(key)
        listed = entry.get("categories") if isinstance(entry, Mapping) else None
        found = np.array(stored.toarray() if sp.issparse(stored) else stored, dtype=np.float64)
        if found.ndim != 2 or listed is None or len(listed) != found.shape[1]:
            raise ValueError(
                f"{place} must be a DataFrame whose columns are groups, or have their names in .uns[{key!r}]['categories'], "
                f"found an array of shape {found.shape} and {'no' if listed is None else len(listed)} names."
            )
        names = [str(name) for name in listed]
    known = np.isfinite(found).all(axis=1)
    if (found[known] < 0).any():
        raise ValueError(f"{place} must hold fractions of 0 or more, found {found[known].min():g}.")
    total = found.sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        values = np.where((known & (total > 0))[:, None], found / total[:, None], np.nan)
    if not np.isfinite(values).any():
        raise ValueError(f"{place} must hold fractions of groups, found none: all rows are missing or zero.")
    return Shares(values, names, "fractions")
