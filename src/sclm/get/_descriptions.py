"""Pathways and descriptions, as tidy DataFrames."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from sclm import results

if TYPE_CHECKING:
    import anndata
    import pandas as pd


def pathways(
    adata: anndata.AnnData, *, key: str = "sclm_pathways", value: str = "score", groups: bool = False
) -> pd.DataFrame:
    """Activity of pathways, cell by cell or group by group.

    Parameters
    ----------
    adata
        Scored by :func:`sclm.tl.pathways`.
    key
        ``key_added`` of that call.
    value
        Of the cells: ``"score"`` (0-1), ``"p"`` or ``"q"``.
    groups
        The table of the groups instead, where ``groupby=`` was given.

    Returns
    -------
    Cells x sets, float32, columns are the names of the sets. With ``groups`` one row a group and set: ``group``, ``id``, ``name``,
    ``score`` (mean over the group's cells), ``other`` (over all other cells), ``z``, ``p``, ``q``, ``n_genes`` (in the data).

    Raises
    ------
    KeyError
        If there is no such result, or no groups were tested.
    ValueError
        If ``value`` is none of the three.
    """
    import pandas as pd

    entry = results.read(adata, key, "pathways")
    if groups:
        if "groups" not in entry:
            raise KeyError(f"adata.uns[{key!r}] has no groups. Run sclm.tl.pathways with groupby= first.")
        return entry["groups"].copy()
    if value not in ("score", "p", "q"):
        raise ValueError(f"value must be 'score', 'p' or 'q', found {value!r}.")
    array = adata.obsm[key if value == "score" else f"{key}_{value}"]
    return pd.DataFrame(np.asarray(array), index=adata.obs_names, columns=list(entry["names"]))
